"""Checks on the mobility assets, as Dagster shows them beside each materialization.

Belongs here: what is asserted of published forecasts, in counts. Does not belong here: mending, and how good
forecasts turn out over time (`monitoring.py`).
"""

from collections.abc import Sequence
from datetime import date
from typing import Any

import dagster as dg
import pyarrow.compute as pc
import sqlalchemy as sa

from medscore_assets.contracts.mobility import MOBILITY
from medscore_assets.mobility.assets import mobility_forecasts
from medscore_assets.mobility.daily import DAILY_STEPS
from medscore_assets.mobility.forecasts import HORIZONS, PATIENT_FEATURES
from medscore_assets.partitions import morning_after
from medscore_assets.tables import mobility_forecast_days
from medscore_assets.tables import mobility_forecasts as table
from resources.lake import Lake
from resources.warehouse import Warehouse

FEWEST_OUTCOMES = 200
"""Forecasts with an interval and an outcome below which their coverage is not judged."""

LOWEST_COVERAGE, HIGHEST_COVERAGE = 0.8, 0.98
"""Of one day, on which all patients share weather and weekday: wider than what the gate allows."""

State = dict[str, int]


def states(warehouse: Warehouse, keys: Sequence[str]) -> dict[date, State]:
    """Per morning after a partition's day its header beside what the table holds; zeros where nothing is."""
    days = [morning_after(key) for key in keys]
    counts = sa.select(
        table.c.forecast_day,
        sa.func.count().label("rows"),
        sa.func.count(sa.distinct(table.c.patient_id)).label("patients"),
        sa.func.count()
        .filter(
            sa.or_(table.c.expected_steps < 0, ~table.c.expected_steps.between(table.c.lower, table.c.upper))
        )
        .label("impossible"),
        sa.func.count().filter(table.c.contract_hash != MOBILITY.hash).label("other_contract"),
    )
    inside = table.c.forecast_day.in_(days)
    found = warehouse.read(counts.where(inside).group_by(table.c.forecast_day)).to_pylist()
    of_day = {row.pop("forecast_day"): row for row in found}
    header = mobility_forecast_days.c
    stated = warehouse.read(
        sa.select(header.forecast_day, header.patients, header.rows).where(header.forecast_day.in_(days))
    ).to_pylist()
    told = {row["forecast_day"]: row for row in stated}
    nothing = {"rows": 0, "patients": 0, "impossible": 0, "other_contract": 0}
    return {
        day: {
            **of_day.get(day, nothing),
            "stated_rows": told[day]["rows"] if day in told else -1,
            "stated_patients": told[day]["patients"] if day in told else -1,
        }
        for day in days
    }


def _verdict(
    wrong: Sequence[date],
    days: int,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
    **told: Any,
) -> dg.AssetCheckResult:
    failing = [day.isoformat() for day in wrong]
    return dg.AssetCheckResult(
        passed=not failing, severity=severity, metadata={"days": days, "days_that_fail": failing, **told}
    )


@dg.asset_check(asset=mobility_forecasts, blocking=True)
def every_patient_with_data_is_forecast(
    context: dg.AssetCheckExecutionContext,
    lake: dg.ResourceParam[Lake],
    warehouse: dg.ResourceParam[Warehouse],
) -> dg.AssetCheckResult:
    """Every patient of the day's features has a forecast at every horizon, and the table holds what it says.

    Of a day whose forecasts stand, only the latter is asked: features may have come later.
    """
    from medscore_assets.mobility.preparing import rows_in

    found = states(warehouse, context.partition_keys)
    wrong = [
        day
        for day, state in found.items()
        if (state["rows"], state["patients"]) != (state["stated_rows"], state["stated_patients"])
        or state["rows"] != state["patients"] * len(HORIZONS)
    ]
    newest = max(found)
    features = rows_in(lake, lake.files(PATIENT_FEATURES, newest))
    missing = max(0, features - found[newest]["patients"])
    if missing and newest not in wrong:
        wrong.append(newest)
    return _verdict(wrong, len(found), patients_without_forecast=missing)


@dg.asset_check(asset=mobility_forecasts, blocking=True)
def no_forecast_is_impossible(
    context: dg.AssetCheckExecutionContext, warehouse: dg.ResourceParam[Warehouse]
) -> dg.AssetCheckResult:
    """No forecast is of fewer than 0 steps or outside of its interval."""
    found = states(warehouse, context.partition_keys)
    return _verdict([day for day, state in found.items() if state["impossible"]], len(found))


@dg.asset_check(asset=mobility_forecasts)
def forecasts_are_of_this_contract(
    context: dg.AssetCheckExecutionContext, warehouse: dg.ResourceParam[Warehouse]
) -> dg.AssetCheckResult:
    """All forecasts were made under the contract of this code. Those that stand may be older: a warning."""
    found = states(warehouse, context.partition_keys)
    wrong = [day for day, state in found.items() if state["other_contract"]]
    return _verdict(wrong, len(found), dg.AssetCheckSeverity.WARN)


@dg.asset_check(asset=mobility_forecasts)
def intervals_held_the_day(
    context: dg.AssetCheckExecutionContext,
    lake: dg.ResourceParam[Lake],
    warehouse: dg.ResourceParam[Warehouse],
) -> dg.AssetCheckResult:
    """The intervals of the partition's own day, made a day before, held about as many days as they promise.

    A single day: weather and holidays move everybody at once, so it warns. The trend is monitored.
    """
    keys = [date.fromisoformat(key) for key in context.partition_keys]
    shares = {day: found for day in keys if (found := coverage_of(lake, warehouse, day)) is not None}
    wrong = [day for day, share in shares.items() if not LOWEST_COVERAGE <= share <= HIGHEST_COVERAGE]
    told = {day.isoformat(): round(share, 3) for day, share in shares.items()}
    return _verdict(wrong, len(keys), dg.AssetCheckSeverity.WARN, coverage=told)


def coverage_of(lake: Lake, warehouse: Warehouse, day: date) -> float | None:
    """The share of next-day intervals that held the steps of a day; None where there are too few."""
    if not lake.files(DAILY_STEPS, day):
        return None
    stored = warehouse.read(
        sa.select(table.c.patient_id, table.c.lower, table.c.upper).where(
            table.c.forecast_day == day, table.c.horizon_days == 1, table.c.lower.is_not(None)
        )
    )
    steps = lake.read_day(DAILY_STEPS, day, ["patient_id", "steps"])
    both = stored.join(steps, "patient_id", join_type="inner")
    if both.num_rows < FEWEST_OUTCOMES:
        return None
    held = pc.and_(pc.less_equal(both["lower"], both["steps"]), pc.less_equal(both["steps"], both["upper"]))
    return float(pc.mean(held).as_py())


CHECKS = [
    every_patient_with_data_is_forecast,
    no_forecast_is_impossible,
    forecasts_are_of_this_contract,
    intervals_held_the_day,
]
