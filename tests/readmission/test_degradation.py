"""When measures are at alarm: one training, and no other one before the cool-down is over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.test_utils import create_run_for_test

from medscore_assets import tables
from medscore_assets.readmission.scoring import MODEL
from medscore_assets.settings import Settings
from resources.registry import CHAMPION, ModelRegistry
from resources.warehouse import Warehouse
from sensors.degradation import degradation_sensor
from tests.readmission.test_sensors import Sensor

TRAINING = "readmission_training"


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as own:
        yield own


@pytest.fixture
def look_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[datetime], None]:
    """Sets the sensor's clock. Runs have the real one."""

    def at(moment: datetime) -> None:
        class Fixed(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> datetime:
                return moment.astimezone(tz)

        monkeypatch.setattr("sensors.degradation.datetime", Fixed)

    return at


@pytest.fixture
def degradation(
    warehouse: Warehouse, champion: ModelRegistry, instance: dg.DagsterInstance, settings: Settings
) -> Sensor:
    definition = degradation_sensor(settings, TRAINING, also_training=["readmission"])
    return Sensor(definition, instance, warehouse=warehouse, registry=champion)


@pytest.fixture
def version(champion: ModelRegistry) -> int:
    """The champion's."""
    found = champion.version_with(MODEL, CHAMPION)
    assert found is not None
    return found


def measure(version: int, state: str, day: date, **changes: Any) -> dict[str, Any]:
    row = {
        "model_name": MODEL,
        "model_version": version,
        "measure": "psi",
        "subject": "score",
        "period_start": day,
        "period_end": day,
        "n": 5000,
        "value": 0.3,
        "state": state,
        "measured_at": datetime(2026, 3, 1, tzinfo=UTC),
    }
    return row | changes


def measured(warehouse: Warehouse, *rows: dict[str, Any]) -> None:
    with warehouse.transaction() as connection:
        connection.execute(sa.insert(tables.monitoring_measures), list(rows))


def test_an_alarm_of_the_champion_asks_for_a_training_once_per_cool_down(
    warehouse: Warehouse,
    degradation: Sensor,
    version: int,
    instance: dg.DagsterInstance,
    settings: Settings,
    look_at: Callable[[datetime], None],
) -> None:
    began = datetime.now(UTC)
    cool_down = timedelta(days=settings.retraining_cooldown_days)
    first, last = date(2026, 2, 1), date(2026, 3, 1)
    # What was mended since, what another version did, and what only the feed can mend.
    measured(warehouse, measure(version, "alarm", first), measure(version, "good", last))
    measured(warehouse, measure(version + 1, "alarm", last))
    measured(warehouse, measure(version, "alarm", last, measure="missing_rate"))
    measured(warehouse, measure(version, "warning", last, subject="patient_age"))
    assert degradation.tick() == {}

    measured(warehouse, measure(version, "alarm", last, subject="num_chronic_conditions"))
    asked = degradation.tick()
    assert asked != {}
    assert degradation.tick() == asked
    # It fails: that is no reason to try again at once.
    create_run_for_test(instance, TRAINING, status=dg.DagsterRunStatus.FAILURE)
    assert degradation.tick() == {}
    assert "psi of num_chronic_conditions" in str(degradation.reason)
    look_at(began + cool_down - timedelta(minutes=1))
    assert degradation.tick() == {}
    look_at(began + cool_down + timedelta(minutes=1))
    assert degradation.tick() not in ({}, asked)


@pytest.mark.parametrize("way", ["readmission", "by hand"])
def test_a_training_by_any_other_way_counts_for_the_cool_down(
    warehouse: Warehouse, degradation: Sensor, version: int, instance: dg.DagsterInstance, way: str
) -> None:
    measured(warehouse, measure(version, "alarm", date(2026, 3, 1)))
    assert degradation.tick() != {}
    if way == "by hand":
        instance.report_runless_asset_event(dg.AssetMaterialization("readmission_model"))
    else:
        create_run_for_test(instance, way)
    assert degradation.tick() == {}
