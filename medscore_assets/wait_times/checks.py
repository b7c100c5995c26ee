"""Checks on wait-time predictions, as Dagster shows them beside each tick.

Belongs here: what is asserted of a tick and of the board's record. Does not belong here: alerts of single
models and facilities, which have an end of their own (`troubles.py`).

The checks of a tick are part of its one step: a step of their own would cost more than the tick.
"""

from collections.abc import Iterator
from datetime import datetime

import dagster as dg
import sqlalchemy as sa

from medscore_assets import tables
from medscore_assets.failures import failures
from medscore_assets.tables.wait_times import WITH_VALUE
from medscore_assets.wait_times.bands import ALL_POSTED
from medscore_assets.wait_times.boards import BOARD
from medscore_assets.wait_times.tick import EVERY, Tick
from resources.warehouse import Warehouse

PREDICTIONS, PERFORMANCE = "wait_time_predictions", "wait_time_performance"

EVERY_MODEL, FEEDS, BOARDS = "every_model_answered", "visits_come_in", "every_board_has_a_value"
FLAT, JUMPS = "predictions_are_not_stuck", "predictions_do_not_jump"

TOLD_BY_TROUBLES = (EVERY_MODEL, FEEDS, BOARDS)
"""Checks whose failures are told model by model and facility by facility, and not once more."""

FLAT_TICKS = 12
"""The same number to the second for three hours, while patients come and go, is no estimate."""
JUMP_SECONDS = 2 * 3600.0
"""From one tick to the next no queue changes so much."""
NAMED = 20
"""So many series are named."""

COVERAGE_DAYS = 7
FEWEST_PATIENTS = 200
LOWEST_COVERAGE, HIGHEST_COVERAGE = 0.70, 0.92
"""Of what was displayed as "8 in 10 are seen within": rounding up raises it by some points."""

TICK_CHECKS = [
    dg.AssetCheckSpec(EVERY_MODEL, asset=PREDICTIONS, description="No model failed, hung or gave nonsense."),
    dg.AssetCheckSpec(
        FEEDS, asset=PREDICTIONS, description="No facility's feed of visits has fallen silent."
    ),
    dg.AssetCheckSpec(
        BOARDS, asset=PREDICTIONS, description="Every facility has a value of the headline by some model."
    ),
    dg.AssetCheckSpec(
        FLAT, asset=PREDICTIONS, description="No model gives a facility the same number for three hours."
    ),
    dg.AssetCheckSpec(
        JUMPS, asset=PREDICTIONS, description="No model's number changes by two hours between two ticks."
    ),
]


def tick_results(warehouse: Warehouse, tick: Tick) -> Iterator[dg.AssetCheckResult]:
    """The results of `TICK_CHECKS` for a tick that was just made."""
    yield _result(EVERY_MODEL, not tick.problems, {"problems": dict(tick.problems)})
    yield _result(FEEDS, not tick.silent, {"silent": list(tick.silent)})
    without = list(tick.without_value)
    yield _result(BOARDS, not without, {"without_value": without}, dg.AssetCheckSeverity.ERROR)
    flat, jumps = stuck_series(warehouse, tick.as_of), jumping_series(warehouse, tick.as_of)
    yield _result(FLAT, not flat, {"stuck": flat[:NAMED], "count": len(flat)})
    yield _result(JUMPS, not jumps, {"jumps": jumps[:NAMED], "count": len(jumps)})


def _result(
    name: str,
    passed: bool,
    metadata: dict[str, object],
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.WARN,
) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=passed, asset_key=PREDICTIONS, check_name=name, severity=severity, metadata=metadata
    )


def stuck_series(warehouse: Warehouse, at: datetime) -> list[str]:
    """Headline series (`facility: model version`) with one and the same value at the last `FLAT_TICKS` ticks.

    Declared substitutes are left out, such as a mean of the hour: they may stand still.
    """
    c = tables.wait_time_predictions.c
    query = (
        sa.select(c.facility_id, c.model, c.version)
        .where(c.as_of > at - FLAT_TICKS * EVERY, c.as_of <= at, c.band == ALL_POSTED, c.status == "ok")
        .group_by(c.facility_id, c.model, c.version)
        .having(sa.func.count() == FLAT_TICKS, sa.func.min(c.wait_seconds) == sa.func.max(c.wait_seconds))
        .order_by(c.facility_id, c.model, c.version)
    )
    return [f"{r['facility_id']}: {r['model']} {r['version']}" for r in warehouse.read(query).to_pylist()]


def jumping_series(warehouse: Warehouse, at: datetime) -> list[str]:
    """Headline series that changed by `JUMP_SECONDS` or more since the last tick, without baselines."""
    now, before = (tables.wait_time_predictions.alias(name) for name in ("now", "before"))
    known = tables.wait_time_model_versions.c
    key = ("facility_id", "band", "model", "version")
    query = (
        sa.select(now.c.facility_id, now.c.model, now.c.version)
        .join(before, sa.and_(*(now.c[name] == before.c[name] for name in key)))
        .join(
            tables.wait_time_model_versions,
            sa.and_(known.model == now.c.model, known.version == now.c.version),
        )
        .where(
            now.c.as_of == at,
            before.c.as_of == at - EVERY,
            now.c.band == ALL_POSTED,
            now.c.status.in_(WITH_VALUE),
            before.c.status.in_(WITH_VALUE),
            sa.not_(known.baseline),
            sa.func.abs(now.c.wait_seconds - before.c.wait_seconds) >= JUMP_SECONDS,
        )
        .order_by(now.c.facility_id, now.c.model, now.c.version)
    )
    return [f"{r['facility_id']}: {r['model']} {r['version']}" for r in warehouse.read(query).to_pylist()]


@dg.asset_check(asset=PERFORMANCE)
def displayed_waits_hold(warehouse: dg.ResourceParam[Warehouse]) -> dg.AssetCheckResult:
    """Over the last 7 days about 8 in 10 patients were seen within what each board displayed."""
    c = tables.wait_time_performance.c
    newest = sa.select(sa.func.max(c.day)).scalar_subquery()
    judged = c.n + c.known_misses
    query = (
        sa.select(
            c.facility_id,
            (sa.func.sum(c.coverage * judged) / sa.func.sum(judged)).label("coverage"),
        )
        .where(c.model == BOARD.model, c.band == ALL_POSTED, c.day > newest - COVERAGE_DAYS)
        .group_by(c.facility_id)
        .having(sa.func.sum(judged) >= FEWEST_PATIENTS)
        .order_by(c.facility_id)
    )
    with failures():
        found = {row["facility_id"]: row["coverage"] for row in warehouse.read(query).to_pylist()}
    off = [name for name, share in found.items() if not LOWEST_COVERAGE <= share <= HIGHEST_COVERAGE]
    return dg.AssetCheckResult(
        passed=not off,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "judged": len(found),
            "facilities_off": off[:NAMED],
            "coverage": {name: round(share, 3) for name, share in found.items()},
        },
    )


CHECKS = [displayed_waits_hold]
