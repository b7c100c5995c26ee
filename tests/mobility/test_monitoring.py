"""Outcomes, error and coverage with their rule, drift, quality of records, and the request for a training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any, cast

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest
import sqlalchemy as sa
from dagster._core.test_utils import create_run_for_test

from medscore_assets import tables
from medscore_assets.contracts.mobility import MOBILITY
from medscore_assets.mobility import monitoring_queries as queries
from medscore_assets.mobility.baselines import EXPANDING
from medscore_assets.mobility.cohorts import Route
from medscore_assets.mobility.conformal import Conformal
from medscore_assets.mobility.daily import DAILY_STEPS
from medscore_assets.mobility.evaluation import measure as measure_by_draws
from medscore_assets.mobility.model import model_name
from medscore_assets.mobility.monitoring import asks_for_training, join_outcomes, kept, measure, served_today
from medscore_assets.mobility.monitoring_assets import forecast_errors_hold, mobility_monitoring
from medscore_assets.mobility.tracking import MAE, RISE, Moments
from medscore_assets.monitoring.drift import NumberBins
from medscore_assets.monitoring.measurement import Measurement
from medscore_assets.monitoring.thresholds import DEFAULT_FILE, load_thresholds
from medscore_assets.monthly import ensure_month
from medscore_assets.settings import Settings
from resources.lake import Lake
from resources.registry import ModelRegistry
from resources.warehouse import Warehouse
from sensors.alerts import alert_sensor
from sensors.mobility_degradation import mobility_degradation_sensor
from tests.readmission.test_sensors import Sensor

LAST = date(2026, 3, 20)
DAY = timedelta(days=1)
PROMOTED = 1000.0
SERVER = model_name("MS", 1)
TRAINING = "mobility_training"
THRESHOLDS = load_thresholds()


class Champions:
    """A registry in which version 3 of every model is champion and has no drift reference."""

    def __init__(self, version: int = 3) -> None:
        self.version = version

    def version_with(self, name: str, alias: str) -> int:
        return self.version

    def attached(self, *_: Any) -> None:
        from resources.errors import PermanentError

        raise PermanentError("no reference", where="test", mend="none")


def champions(version: int = 3) -> ModelRegistry:
    return cast(ModelRegistry, Champions(version))


def decide(warehouse: Warehouse, cohort: str = "MS", serves: str = "cohort") -> None:
    """The route of a cohort at horizon 1, decided on an error of 1,000 steps."""
    conformal = Conformal(coverage=0.9, quantile=1.0, typical_scale=1000.0, rows=1000, patients=100)
    route = Route(cohort=cohort, horizon_days=1, serves=serves, reason="of a test", conformal=conformal)
    by_model = serves in ("cohort", "global")
    row = {
        "cohort": cohort,
        "horizon_days": 1,
        "serves": serves,
        "model_name": model_name(cohort, 1) if by_model else None,
        "model_version": 3 if by_model else None,
        "reason": "of a test",
        "route": route.model_dump(mode="json"),
        "metrics": {f"{serves}.later_dates.mae": PROMOTED},
        "contract_hash": MOBILITY.hash,
        "decided_at": datetime(2026, 2, 1, tzinfo=UTC),
        "decided_by": "test",
    }
    with warehouse.transaction() as connection:
        connection.execute(sa.insert(tables.mobility_routes).values(row))


def outcomes(
    warehouse: Warehouse,
    errors: np.ndarray,
    *,
    version: int = 3,
    last: date = LAST,
    covered: float = 0.9,
    serves: str = "cohort",
    name: str = SERVER,
) -> None:
    """Outcomes of forecasts by the model of MS: errors in steps, shape (patients, days)."""
    patients, days = errors.shape
    random = np.random.default_rng(0)
    held = random.permutation(np.arange(errors.size) < covered * errors.size).reshape(errors.shape)
    rows = [
        {
            "forecast_day": last - (days - 1 - d) * DAY,
            "target_day": last - (days - 1 - d) * DAY,
            "patient_id": f"p{p:04d}",
            "horizon_days": 1,
            "cohort": "MS",
            "route": "MS",
            "serves": serves,
            "model_name": name,
            "model_version": version,
            "expected_steps": max(0.0, 5000.0 + float(errors[p, d])),
            "observed_steps": 5000,
            "error": float(errors[p, d]),
            "covered": bool(held[p, d]),
            "joined_at": datetime(2026, 3, 21, tzinfo=UTC),
        }
        for p in range(patients)
        for d in range(days)
    ]
    for day in {row["forecast_day"] for row in rows}:
        ensure_month(warehouse, tables.mobility_forecast_outcomes, cast(date, day))
    with warehouse.transaction() as connection:
        connection.execute(sa.delete(tables.mobility_forecast_outcomes))
        connection.execute(sa.insert(tables.mobility_forecast_outcomes), rows)


def errors_of(rise: float, patients: int = 80, days: int = 14, seed: int = 1) -> np.ndarray:
    """Errors whose mean absolute value is so much above that at promotion, to the last bit."""
    random = np.random.default_rng(seed)
    size = random.uniform(0.6, 1.4, (patients, 1)) * random.uniform(0.5, 1.5, (patients, days))
    return size / size.mean() * PROMOTED * (1 + rise) * random.choice([-1.0, 1.0], size.shape)


@pytest.fixture
def measured(lake: Lake, warehouse: Warehouse, tmp_path: Any) -> Callable[..., list[Measurement]]:
    def run(version: int = 3) -> list[Measurement]:
        return measure(lake, warehouse, champions(version), THRESHOLDS, tmp_path)

    return run


def the(found: list[Measurement], name: str, *, rolling: bool = True) -> Measurement:
    (one,) = [
        m for m in found if m.measure == name and m.period_end == LAST and (m.period_start != LAST) is rolling
    ]
    return one


def test_the_error_of_each_day_and_of_the_window_is_that_by_hand_and_kept_once(warehouse, measured):
    decide(warehouse)
    errors = errors_of(0.0)
    outcomes(warehouse, errors)
    found = measured()
    rolling, last = the(found, MAE), the(found, MAE, rolling=False)
    assert rolling.value == pytest.approx(np.abs(errors).mean())
    assert last.value == pytest.approx(np.abs(errors[:, -1]).mean())
    assert the(found, "rmse").value == pytest.approx(np.sqrt((errors**2).mean()))
    assert the(found, "coverage").value == pytest.approx(0.9)
    assert {m.subject for m in found} == {"MS"}
    assert (rolling.n, rolling.model_name, rolling.model_version) == (errors.size, SERVER, 3)
    # Patients are the clusters: the interval is that of patients drawn anew, within its own chance.
    patients = np.repeat(np.arange(len(errors)), errors.shape[1])
    drawn = measure_by_draws(np.zeros(errors.size), errors.ravel(), patients).measures["mae"]
    assert rolling.lower == pytest.approx(drawn.lower, rel=0.01)
    assert rolling.upper == pytest.approx(drawn.upper, rel=0.01)
    stamps = sa.select(sa.func.max(tables.monitoring_measures.c.measured_at))
    before = warehouse.read(stamps)
    assert measured() == found
    assert warehouse.read(stamps) == before


@pytest.mark.parametrize(
    ("errors", "state"),
    [
        (errors_of(0.02), "good"),
        (errors_of(0.09), "warning"),
        (errors_of(0.12, patients=400), "alarm"),
        # Twelve per cent by chance: as many patients as a good week has visitors.
        (errors_of(0.12, patients=15, days=40), "not_judged"),
        # Twelve per cent by one patient in forty, whose days are ten times as bad.
        (np.vstack([errors_of(-0.105, 78), errors_of(7.9, 2)]), "not_judged"),
    ],
)
def test_only_a_sure_rise_above_ten_per_cent_is_an_alarm(warehouse, measured, errors, state):
    decide(warehouse)
    outcomes(warehouse, errors)
    found = measured()
    rise = the(found, RISE)
    assert rise.state == state
    assert bool(asks_for_training(found, served_today(warehouse, champions()))) is (state == "alarm")


def test_a_rise_is_that_of_who_serves_today(warehouse, measured):
    decide(warehouse)
    outcomes(warehouse, errors_of(0.5, patients=400), version=2)
    found = measured()
    # The version that is gone is shown by its days, and judged no more.
    assert {m.measure for m in found} == {"mae", "rmse", "coverage"}
    # After a rollback nothing is known of the error at promotion.
    found = measured(version=2)
    assert the(found, RISE).state == "not_judged"
    assert asks_for_training(found, served_today(warehouse, champions(2))) == []


def test_intervals_that_hold_too_few_days_are_an_alarm(warehouse, measured):
    decide(warehouse)
    outcomes(warehouse, errors_of(0.0, patients=200), covered=0.8)
    assert the(measured(), "coverage").state == "alarm"


def forecasts(warehouse: Warehouse, day: date, horizon: int, patients: list[str]) -> None:
    for table in (tables.mobility_forecasts, tables.mobility_forecast_outcomes):
        ensure_month(warehouse, table, day)
    made = datetime.combine(day, datetime.min.time(), UTC)
    rows = [
        {
            "forecast_day": day,
            "patient_id": patient,
            "horizon_days": horizon,
            "expected_steps": 5000.0,
            "lower": 4000.0,
            "upper": 6000.0,
            "level": 0.9,
            "cohort": "MS",
            "route": "MS",
            "serves": EXPANDING,
            "contract_hash": MOBILITY.hash,
            "baseline_mean": 5000.0,
            "data_until": day - DAY,
            "reasons": [],
            "other_steps": 0,
            "raised_steps": 0,
            "flags": 0,
            "made_at": made,
        }
        for patient in patients
    ]
    header = {
        "forecast_day": day,
        "patients": len(patients),
        "rows": len(rows),
        "served": {},
        "contract_hash": MOBILITY.hash,
        "published_at": made,
    }
    with warehouse.transaction() as connection:
        connection.execute(sa.insert(tables.mobility_forecasts), rows)
        connection.execute(sa.insert(tables.mobility_forecast_days), [header])


def steps_of(lake: Lake, warehouse: Warehouse, day: date, steps: dict[str, int], made_at: datetime) -> None:
    rows = [
        {"patient_id": p, "day": day, "steps": s, "wear_minutes": 700, "devices": 1, "records": 9, "flags": 0}
        for p, s in steps.items()
    ]
    lake.write_day(DAILY_STEPS, day, pa.Table.from_pylist(rows, DAILY_STEPS.schema))
    row = {"day": day, "raw_files": 1, "raw_fingerprint": "x", "patients": len(steps), "made_at": made_at}
    with warehouse.transaction() as connection:
        connection.execute(sa.delete(tables.mobility_days).where(tables.mobility_days.c.day == day))
        connection.execute(sa.insert(tables.mobility_days), [row])


def test_outcomes_are_joined_as_steps_come_late_ones_too_and_the_same_steps_write_nothing(lake, warehouse):
    forecasts(warehouse, LAST, 1, ["a", "b", "c"])
    forecasts(warehouse, LAST - 6 * DAY, 7, ["a"])
    noon = datetime(2026, 3, 21, 12, tzinfo=UTC)
    steps_of(lake, warehouse, LAST, {"a": 5500, "b": 9000, "stranger": 1}, noon)
    assert join_outcomes(lake, warehouse, LAST + DAY) == {LAST: 3}
    o = tables.mobility_forecast_outcomes
    wanted = sa.select(o.c.patient_id, o.c.horizon_days, o.c.error, o.c.covered).order_by(
        o.c.patient_id, o.c.horizon_days
    )
    assert [tuple(row.values()) for row in warehouse.read(wanted).to_pylist()] == [
        ("a", 1, -500.0, True),
        ("a", 7, -500.0, True),
        ("b", 1, -4000.0, False),
    ]
    assert join_outcomes(lake, warehouse, LAST + DAY) == {}
    # Late files: the day's steps are made anew, and one patient is gone.
    later = datetime.now(UTC) + timedelta(hours=1)
    steps_of(lake, warehouse, LAST, {"a": 5500, "c": 5000}, later)
    assert join_outcomes(lake, warehouse, LAST + DAY) == {LAST: 2}
    found = {(r["patient_id"], r["horizon_days"]) for r in warehouse.read(wanted).to_pylist()}
    assert found == {("a", 1), ("a", 7), ("c", 1)}


def test_errors_fall_into_the_cells_of_the_reference_also_on_an_edge(warehouse):
    random = np.random.default_rng(2)
    before = np.round(random.normal(0, 800, 500), -2)
    bins = NumberBins.of(before)
    errors = np.round(random.normal(300, 900, (20, 10)), -2)
    outcomes(warehouse, errors)
    query = queries.error_cells(("MS", 1, "cohort", SERVER, 3), LAST - 9 * DAY, LAST, 7, bins.edges)
    cells = np.zeros(len(bins.counts), dtype=int)
    for row in warehouse.read(query).to_pylist():
        cells[row["cell"]] = row["rows"]
    assert cells.tolist() == bins.count(errors.ravel()).tolist()


def test_a_ratio_of_few_patients_has_no_interval():
    one = Moments(10.0, 100.0, 20.0, 2.0, 4.0).ratio(1)
    assert (one.estimate, one.lower) == (5.0, None)
    assert Moments(0.0, 0.0, 0.0, 0.0, 0.0).ratio(0).estimate is None


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as own:
        yield own


def test_an_alarm_asks_once_and_not_again_before_the_cool_down_is_over(
    warehouse, measured, settings: Settings, instance, monkeypatch
):
    moment = datetime.now(UTC)

    class Fixed(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return moment.astimezone(tz)

    monkeypatch.setattr("sensors.mobility_degradation.datetime", Fixed)
    monkeypatch.setattr("sensors.mobility_degradation.LOOKED_BACK_DAYS", 100_000)
    sensor = Sensor(
        mobility_degradation_sensor(settings, TRAINING), instance, warehouse=warehouse, registry=champions()
    )
    decide(warehouse)
    outcomes(warehouse, errors_of(0.09, patients=400))
    measured()
    assert sensor.tick() == {}
    outcomes(warehouse, errors_of(0.12, patients=400))
    measured()
    asked = sensor.tick()
    assert len(asked) == 1
    # The same request, which the daemon makes a run of once.
    assert sensor.tick() == asked
    create_run_for_test(instance, job_name=TRAINING)
    moment += timedelta(days=settings.mobility_cooldown_days) - timedelta(minutes=5)
    assert sensor.tick() == {}
    assert "less than 7 days ago" in sensor.reason
    moment += timedelta(minutes=10)
    again = sensor.tick()
    assert len(again) == 1
    assert again != asked


def test_an_alarm_fails_the_check_and_people_are_told_once(
    warehouse, lake, measured, settings: Settings, instance
):
    decide(warehouse)
    outcomes(warehouse, errors_of(0.12, patients=400))
    sensor = alert_sensor(settings)
    defs = dg.Definitions(
        assets=[mobility_monitoring],
        asset_checks=[forecast_errors_hold],
        jobs=[dg.define_asset_job("watch_mobility", selection=[mobility_monitoring])],
        sensors=[sensor],
        resources={
            "warehouse": warehouse,
            "registry": champions(),
            "lake": lake,
            "thresholds_file": DEFAULT_FILE,
        },
    )
    cursor = None
    for _ in range(2):
        result = defs.resolve_job_def("watch_mobility").execute_in_process(instance=instance)
        (check,) = result.get_asset_check_evaluations()
        assert not check.passed
        for _ in range(2):
            with dg.build_sensor_context(
                instance=instance,
                cursor=cursor,
                repository_def=defs.get_repository_def(),
                resources={"warehouse": warehouse},
            ) as context:
                cursor = sensor.evaluate_tick(context).cursor
    told = warehouse.read(sa.select(tables.alerts.c.alert_key, tables.alerts.c.channel)).to_pylist()
    assert len({row["alert_key"] for row in told}) == 1
    assert len(told) == len({row["channel"] for row in told})
    assert kept(warehouse)
