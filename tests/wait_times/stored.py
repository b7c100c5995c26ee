"""Simulated visits in a warehouse, and models that misbehave.

Belongs here: fixtures and models that the tests of the store, the tick and its faults share.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from medscore_assets import tables
from medscore_assets.database import create_database, upgrade
from medscore_assets.demo.emergency import SimulatedVisits, simulate
from medscore_assets.wait_times import registry
from medscore_assets.wait_times.assignment import Bootstrap
from medscore_assets.wait_times.model import Model
from medscore_assets.wait_times.prediction import Prediction, Predictions, Status
from medscore_assets.wait_times.registry import Registry, load_models
from medscore_assets.wait_times.tick import Tick, make_tick
from resources.warehouse import Warehouse
from tests.conftest import address_of, copied_database

NOW = datetime(2026, 3, 12, 17, tzinfo=UTC)
"""A tick in the middle of the simulated period's afternoon."""
EVERY = timedelta(minutes=15)
DEFAULT = Bootstrap("moving_average_60")

BUILT_IN = """
enabled = ["moving_average_60", "moving_average_120", "document_moving_average", "life_table", "queue_fluid"]
"""


class Steady(Model):
    """Well-behaved: the mean of what it got, in its own way."""

    name = "steady"
    version = "1.0.0"

    def predict(self, data: pd.DataFrame, as_of: datetime) -> Prediction | None:
        waits = data["wait_seconds"].dropna()
        return Prediction(wait_seconds=float(waits.mean())) if len(waits) else None


class Raising(Steady):
    name = "raising"

    def predict(self, data: pd.DataFrame, as_of: datetime) -> Prediction | None:
        raise ValueError(f"Mrs Smith of {data['arrival'].iloc[0]}")


class NotANumber(Steady):
    name = "not_a_number"

    def predict_all(self, snapshot: Any, fitted: Any) -> Predictions:
        found = Predictions.empty(len(snapshot), self.bands)
        found.status[:] = Status.OK
        return found


class Huge(NotANumber):
    name = "huge"

    def predict_all(self, snapshot: Any, fitted: Any) -> Predictions:
        found = super().predict_all(snapshot, fitted)
        found.p50[:] = 1e9
        return found


class Hanging(Steady):
    name = "hanging"
    time_limit = timedelta(seconds=0.3)
    released = threading.Event()

    def predict(self, data: pd.DataFrame, as_of: datetime) -> Prediction | None:
        self.released.wait(60)
        return None


class Changing(Steady):
    name = "changing"

    def predict_all(self, snapshot: Any, fitted: Any) -> Predictions:
        self.version = "1.0.1"
        return super().predict_all(snapshot, fitted)


class Mutating(Steady):
    name = "mutating"

    def predict_all(self, snapshot: Any, fitted: Any) -> Predictions:
        snapshot.arrived[:] = 0.0
        return super().predict_all(snapshot, fitted)


class Exiting(Steady):
    name = "exiting"

    def predict(self, data: pd.DataFrame, as_of: datetime) -> Prediction | None:
        sys.exit("no more")


ODD = ("raising", "not_a_number", "huge", "hanging", "changing", "mutating", "exiting")


@pytest.fixture(scope="session")
def stored_visits() -> SimulatedVisits:
    """Three departments over twelve days. Seed and dates were chosen once."""
    return simulate(3, date(2026, 3, 2), 12, seed=7)


@pytest.fixture(scope="session")
def waits_template(postgres: str, stored_visits: SimulatedVisits) -> str:
    """The name of a database that holds them, to be copied."""
    name = "waits_template"
    create_database(address_of(postgres, name))
    upgrade(address_of(postgres, name))
    warehouse = Warehouse(address_of(postgres, name))
    fill(warehouse, stored_visits)
    warehouse.close()
    return name


def fill(warehouse: Warehouse, visits: SimulatedVisits) -> None:
    """Write simulated visits into an empty warehouse."""
    with warehouse.transaction() as connection:
        warehouse.append(connection, tables.ed_facilities, visits.facilities)
        warehouse.append(connection, tables.ed_visits, visits.visits)


@pytest.fixture
def waits(postgres: str, waits_template: str) -> Iterator[Warehouse]:
    """A warehouse with the simulated visits, of the test's own."""
    with copied_database(postgres, waits_template) as url:
        opened = Warehouse(url)
        yield opened
        opened.close()


@pytest.fixture
def enable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes a list of models with these names, those of this module among them."""
    kinds = (Steady, Raising, NotANumber, Huge, Hanging, Changing, Mutating, Exiting)
    places = tuple((kind.name, f"{__name__}:{kind.__name__}") for kind in kinds)
    monkeypatch.setattr(registry, "BUILT_IN", (*registry.BUILT_IN, *places))

    def enabled(*names: str) -> Path:
        file = tmp_path / "models.toml"
        file.write_text(f"enabled = {list(names)!r}".replace("'", '"'))
        return file

    return enabled


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Five models of the library that need no fit."""
    file = tmp_path_factory.mktemp("models") / "models.toml"
    file.write_text(BUILT_IN)
    return load_models(file)


def tick(warehouse: Warehouse, as_of: datetime, models: Registry, **options: Any) -> Tick:
    """Make a tick on time."""
    options = {"default": DEFAULT, "run_id": "test", "now": as_of} | options
    return make_tick(warehouse, as_of, models, **options)


def ticks(warehouse: Warehouse, count: int, models: Registry, last: datetime = NOW) -> Sequence[datetime]:
    """Make so many ticks on time, up to the last; their moments."""
    moments = [last - EVERY * place for place in reversed(range(count))]
    for moment in moments:
        tick(warehouse, moment, models)
    return moments
