"""Drift against cells that are fixed with a registered model, and the quality of the newest day's records."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from medscore_assets import tables
from medscore_assets.contracts.mobility import MOBILITY
from medscore_assets.mobility.cohorts import ROUTED, Route
from medscore_assets.mobility.daily import DAILY_STEPS, DayFlag
from medscore_assets.mobility.data_quality import quality_of_newest_day
from medscore_assets.mobility.drift_reference import DriftReference
from medscore_assets.mobility.drift_store import store_reference, stored_reference
from medscore_assets.mobility.forecasts import PATIENT_FEATURES
from medscore_assets.mobility.model import MobilityModel
from medscore_assets.mobility.monitoring import measure
from medscore_assets.mobility.raw import RAW_STEPS
from medscore_assets.mobility.training import Settings as Boosting
from medscore_assets.mobility.training import fit_global
from medscore_assets.mobility.training_set import LATER_DATES, TARGET, Split, TrainingSet
from medscore_assets.monitoring.measurement import Measurement
from medscore_assets.monitoring.thresholds import load_thresholds
from resources.lake import Lake
from resources.mlflow_store import files_flavor
from resources.registry import CHAMPION, ModelRegistry
from resources.warehouse import Warehouse
from tests.mobility.simulated import BEGUN, feature_table, last_day, simulated_steps
from tests.mobility.test_monitoring import outcomes

LAST = date(2026, 3, 20)
DAY = timedelta(days=1)
DAYS = 50
THRESHOLDS = load_thresholds()


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return feature_table(simulated_steps(90, DAYS, seed=1), 1, seed=1)


@pytest.fixture(scope="module")
def data(table: pa.Table) -> TrainingSet:
    return TrainingSet.of(table, MOBILITY, 1, Split.of(BEGUN, last_day(DAYS)))


@pytest.fixture(scope="module")
def model(data: TrainingSet) -> MobilityModel:
    return fit_global(data, Boosting(max_rounds=3, max_bins=32, early_stopping_rounds=0))


def test_drift_is_measured_against_cells_that_are_fixed_with_the_model(
    model: MobilityModel, data: TrainingSet
) -> None:
    made = DriftReference.of(model, data)
    assert made is not None
    reference = DriftReference.from_json(made.to_json(), "test")
    assert set(reference.errors) <= set(ROUTED)
    assert not {"weekday", "baseline_days"} & set(reference.features)
    later = data.matrix[(data.parts == LATER_DATES) & (data.routes != "new")]
    same = reference.stability(reference.count(model.encoding, later))
    assert all(value is not None and value < 0.02 for value in same.values())
    changed = later.copy()
    names = model.encoding.names
    changed[:, names.index("steps_mean_7")] *= 1.6
    changed[:, names.index("sex")] = -1.0
    gone = changed[:, names.index("steps_lag_1")]
    gone[: len(gone) // 2] = np.nan
    found = reference.stability(reference.count(model.encoding, changed))
    moved = {name for name, value in found.items() if value is not None and value > 0.25}
    assert moved == {"steps_mean_7", "sex", "steps_lag_1"}


def test_a_registered_model_is_measured_by_the_cells_that_were_stored_with_it(
    model: MobilityModel,
    data: TrainingSet,
    table: pa.Table,
    lake: Lake,
    warehouse: Warehouse,
    registry: ModelRegistry,
    tmp_path: Path,
) -> None:
    model.save(tmp_path / "files")
    version = registry.register(model.name, tmp_path / "files", flavor=files_flavor)
    assert stored_reference(registry, model.name, version, tmp_path / "none") is None
    assert store_reference(registry, version, model, data)
    registry.set_alias(model.name, version, CHAMPION)
    route = Route(cohort="MS", horizon_days=1, serves="global", reason="of a test", conformal=None)
    row = {
        "cohort": "MS",
        "horizon_days": 1,
        "serves": "global",
        "model_name": model.name,
        "model_version": version,
        "reason": "of a test",
        "route": route.model_dump(mode="json"),
        "metrics": {},
        "contract_hash": MOBILITY.hash,
        "decided_at": datetime(2024, 2, 1, tzinfo=UTC),
        "decided_by": "test",
    }
    with warehouse.transaction() as connection:
        connection.execute(sa.insert(tables.mobility_routes).values(row))
    last = last_day(DAYS)
    reference = stored_reference(registry, model.name, version, tmp_path / "there")
    assert reference is not None
    edges = reference.errors["MS"].edges
    wrong = np.full((60, 7), edges[-2])
    outcomes(warehouse, wrong, version=version, last=last, serves="global", name=model.name)
    columns = [name for name in table.column_names if name != TARGET]
    for n in range(7):
        of_day = table.filter(pa.compute.equal(table["day"], pa.scalar(last - n * DAY))).select(columns)
        if n < 6:
            lake.write_day(PATIENT_FEATURES, last - n * DAY, MOBILITY.conform(of_day, where="test"))
    found = [m for m in measure(lake, warehouse, registry, THRESHOLDS, tmp_path) if m.measure == "psi"]
    assert {(m.model_name, m.model_version, m.period_end) for m in found} == {(model.name, version, last)}
    by_subject = {m.subject: m for m in found}
    assert set(by_subject) == {*reference.features, "error of MS"}
    # Days of the later dates are like the later dates; errors that are all one are like nothing before.
    assert by_subject["steps_mean_28"].state == "good"
    assert by_subject["sex"].state == "good"
    assert (by_subject["error of MS"].n, by_subject["error of MS"].state) == (420, "alarm")


def test_missing_patients_faults_and_other_columns_are_measured_on_the_newest_day(lake: Lake) -> None:
    thresholds = THRESHOLDS.model_copy(
        update={"minimum": THRESHOLDS.minimum.model_copy(update={"scores": 10})}
    )
    days = [{"day": LAST - n * DAY, "patients": 100} for n in range(9, 0, -1)]
    flags = [int(DayFlag.IMPOSSIBLE_COUNT_REMOVED)] * 6 + [int(DayFlag.PARTIAL_DAY)] * 54
    rows = [
        {
            "patient_id": f"{n}",
            "day": LAST,
            "steps": 1,
            "wear_minutes": 0,
            "devices": 1,
            "records": 1,
            "flags": f,
        }
        for n, f in enumerate(flags)
    ]
    lake.write_day(DAILY_STEPS, LAST, pa.Table.from_pylist(rows, DAILY_STEPS.schema))
    raw = RAW_STEPS.schema.empty_table()
    name = lake.add_file(RAW_STEPS, LAST, raw, arrival=datetime(2026, 3, 21, tzinfo=UTC))
    past = [
        Measurement(
            "mobility-steps", 0, "faulty_days", "daily_steps", day, day, 100, None, 0.02, None, None, "good"
        )
        for day in (LAST - n * DAY for n in range(9, 0, -1))
    ]
    newest = [*days, {"day": LAST, "patients": 60}]

    def states() -> dict[str, tuple[float | None, str]]:
        found = quality_of_newest_day(lake, newest, past, thresholds)
        return {m.measure: (m.value, m.state) for m in found}

    assert states() == {
        "missing_patients": (pytest.approx(0.4), "alarm"),
        "faulty_days": (pytest.approx(0.1), "alarm"),
        "other_schema": (0.0, "good"),
    }
    (path,) = lake.local([name])
    pq.write_table(raw.append_column("heart_rate", pa.array([], pa.int32())), path)
    assert states()["other_schema"] == (1.0, "warning")
    pq.write_table(raw.drop_columns(["count"]), path)
    assert states()["other_schema"] == (1.0, "alarm")
