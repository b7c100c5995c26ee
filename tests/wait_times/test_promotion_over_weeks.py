"""A promotion as it comes about: five weeks of predictions, scored day by day, judged, and on the board."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pytest
import sqlalchemy as sa

from medscore_assets import tables
from medscore_assets.demo.emergency import simulate
from medscore_assets.wait_times import store
from medscore_assets.wait_times.assignment import Bootstrap, Pair, promote, rollback
from medscore_assets.wait_times.backtest import backtest
from medscore_assets.wait_times.columns import decoded
from medscore_assets.wait_times.evidence import evidence_for
from medscore_assets.wait_times.model import Model
from medscore_assets.wait_times.models.calibrated import Calibrated, calibrated
from medscore_assets.wait_times.models.moving_average import MovingAverage60
from medscore_assets.wait_times.models.queue_fluid import QueueFluid
from medscore_assets.wait_times.scoring_outcomes import days_to_score, measure_days, score_days
from medscore_assets.wait_times.showing import shown
from medscore_assets.wait_times.visits import Visits
from resources.errors import PermanentError
from resources.warehouse import Warehouse
from tests.conftest import copied_database
from tests.wait_times.stored import fill

SEED = 31
ED, BAND = "demo-ed-001", "all_posted"
FIRST = datetime(2026, 1, 19, 5, tzinfo=UTC)
"""Midnight at the department. Two weeks of visits are before it."""
EVERY = timedelta(minutes=30)
LAST = FIRST + timedelta(days=32)
CHAMPION = Pair(MovingAverage60.name, MovingAverage60.version)
CHALLENGER = Pair("queue_fluid_calibrated", Calibrated.version)
RAW = Pair(QueueFluid.name, QueueFluid.version)
DEFAULT = Bootstrap(CHAMPION.model)


@pytest.fixture(scope="module")
def weeks(postgres: str, migrated_template: str) -> Iterator[Warehouse]:
    """What a schedule would have left behind by `LAST`, scored then."""
    made = simulate(1, date(2026, 1, 5), 48, SEED)
    zones = {ED: made.facilities["zone"][0].as_py()}
    fluid = QueueFluid()
    models: list[Model] = [MovingAverage60(), fluid, calibrated(fluid)]
    visits = Visits.of(made.visits)
    said = backtest(visits, models, [ED], zones, FIRST, LAST + EVERY, EVERY, days=14).predictions
    with copied_database(postgres, migrated_template) as url:
        warehouse = Warehouse(url)
        fill(warehouse, made)
        _keep(warehouse, said, models)
        score_days(warehouse, days_to_score(warehouse, LAST), LAST)
        measure_days(warehouse, LAST)
        yield warehouse
        warehouse.close()


def _keep(warehouse: Warehouse, said: pa.Table, models: list[Model]) -> None:
    rows = {name: decoded(said[name]) for name in said.column_names}
    rest = {"message": "", "run_id": "test"}
    rows |= {name: pa.array([text] * len(said)) for name, text in rest.items()}
    rows |= {"latency_ms": pa.array([1.0] * len(said)), "raw_p80_seconds": pa.nulls(len(said), pa.float64())}
    moments = sorted(set(said["as_of"].to_pylist()))
    store.ensure_months(warehouse, tables.wait_time_predictions, moments)
    tick = {"visits": 1, "rows": 1, "with_value": 1, "problems": {}, "replay": False, "run_id": "test"}
    tick |= {"code_version": "0", "input_newest": None}
    with warehouse.transaction() as connection:
        warehouse.append(connection, tables.wait_time_predictions, pa.table(rows))
        for at in (moments[0], moments[-1]):
            store.put_tick(connection, tick | {"as_of": at, "started_at": at, "finished_at": at}, [])
        store.register_versions(
            connection,
            [
                {"model": m.name, "version": m.version, "fingerprint": m.fingerprint(), "kind": "built_in"}
                | {"parameters": m.parameters(), "baseline": m.baseline, "first_seen_at": FIRST}
                for m in models
            ],
        )


@pytest.mark.slow
def test_four_weeks_of_patients_promote_and_a_day_less_does_not(weeks: Warehouse) -> None:
    found = evidence_for(weeks, ED, BAND, CHAMPION, CHALLENGER, LAST)
    assert (found.verdict, found.reasons) == ("better", ())
    assert found.days in (32, 33)
    assert found.patients > 1000
    assert found.coverage == pytest.approx(0.8, abs=0.03)
    assert found.champion_coverage is not None
    assert found.champion_coverage < 0.7
    measured = sa.select(sa.func.count(sa.distinct(tables.wait_time_performance.c.day)).label("days"))
    assert weeks.read(measured)["days"][0].as_py() == found.days

    decided = {"by": "ann", "reason": "better over four weeks", "default": DEFAULT, "now": LAST}
    early = evidence_for(weeks, ED, BAND, CHAMPION, CHALLENGER, FIRST + timedelta(days=27))
    assert early.reasons == ("27 days are too few: 28 are needed",)
    with pytest.raises(PermanentError, match="27 days are too few"):
        promote(weeks, ED, BAND, CHALLENGER, evidence=early, **decided)
    raw = evidence_for(weeks, ED, BAND, CHAMPION, RAW, LAST)
    assert raw.difference.upper is not None
    assert raw.difference.upper < 0
    assert any("coverage" in reason for reason in raw.reasons)
    back = evidence_for(weeks, ED, BAND, CHALLENGER, CHAMPION, LAST)
    assert "its pinball loss is higher" in back.reasons

    def on_board() -> Pair | None:
        return shown(weeks, LAST, default=DEFAULT, facilities=[ED], bands=[BAND])[ED, BAND].pair

    assert on_board() == CHAMPION
    promote(weeks, ED, BAND, CHALLENGER, evidence=found, **decided)
    assert on_board() == CHALLENGER
    rollback(weeks, ED, BAND, **decided)
    assert on_board() == CHAMPION
