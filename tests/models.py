"""Fixtures with readmission models: demo records, a trained model, registries with and without it.

Belongs here: what takes seconds to make and is shared by all areas. pytest loads it from `tests/conftest.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pytest
import sqlalchemy as sa

from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.database import create_database
from medscore_assets.demo.discharges import DemoData, DemoPlan, generate
from medscore_assets.readmission.cohort import training_cohort
from medscore_assets.readmission.policy import load_policy
from medscore_assets.readmission.scoring import MODEL, ReadmissionModel
from medscore_assets.readmission.training import Trained, train
from resources.registry import CHAMPION, ModelRegistry
from tests.conftest import address_of, copied_database

NO_OUTCOMES = pa.table(
    {
        "encounter_id": pa.array([], pa.string()),
        "readmitted_within_30_days": pa.array([], pa.bool_()),
        "source": pa.array([], pa.string()),
        "recorded_at": pa.array([], pa.timestamp("us", "UTC")),
    }
)


@pytest.fixture(scope="session")
def demo_year() -> DemoData:
    """A small hospital's year: enough to train on in seconds."""
    plan = DemoPlan(first_day=date(2025, 1, 1), last_day=date(2025, 12, 31), discharges_per_day=60, seed=7)
    return generate(plan)


def cohort_of(year: DemoData) -> pa.Table:
    """The training set of that year."""
    as_of = datetime(2026, 3, 1, tzinfo=UTC)
    return training_cohort(year.events, year.admissions, NO_OUTCOMES, as_of=as_of).table


@pytest.fixture(scope="session")
def trained(demo_year: DemoData) -> Trained:
    """A model of that year, trained once."""
    return train(cohort_of(demo_year), READMISSION, policy_hash=load_policy().hash)


@pytest.fixture(scope="session")
def model(trained: Trained) -> ReadmissionModel:
    """The model of `trained`, as the scorer takes it."""
    return trained.model


@pytest.fixture(scope="session")
def empty_store(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a database with MLflow's tables and no model, to be copied."""
    url = address_of(postgres, "empty_store")
    create_database(url)
    folder = tmp_path_factory.mktemp("empty-store")
    ModelRegistry(url, artifacts=folder.as_uri(), cache=folder).prepare()
    return "empty_store"


@pytest.fixture
def empty_registry(postgres: str, empty_store: str, tmp_path: Path) -> Iterator[ModelRegistry]:
    """A registry of its own without a model."""
    with copied_database(postgres, empty_store) as url:
        yield ModelRegistry(url, artifacts=(tmp_path / "artifacts").as_uri(), cache=tmp_path / "cache")


@pytest.fixture(scope="session")
def champion(
    registry: ModelRegistry, model: ReadmissionModel, tmp_path_factory: pytest.TempPathFactory
) -> ModelRegistry:
    """The session's registry with that model as champion."""
    folder = tmp_path_factory.mktemp("champion")
    model.save(folder)
    registry.set_alias(MODEL, registry.register(MODEL, folder), CHAMPION)
    return registry


@pytest.fixture(scope="session")
def three_versions(
    postgres: str, empty_store: str, model: ReadmissionModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    """The name of a registry's database with three versions and no alias, to be copied; and its files."""
    folder = tmp_path_factory.mktemp("three-versions")
    with copied_database(postgres, empty_store) as url:
        registry = ModelRegistry(url, artifacts=(folder / "artifacts").as_uri(), cache=folder / "cache")
        model.save(folder / "model")
        for _ in range(3):
            registry.register(MODEL, folder / "model")
        yield str(sa.make_url(url).database), folder


@pytest.fixture
def versions(postgres: str, three_versions: tuple[str, Path], tmp_path: Path) -> Iterator[ModelRegistry]:
    """A registry of its own with versions 1, 2 and 3 of `model`, of which none has an alias."""
    template, folder = three_versions
    with copied_database(postgres, template) as url:
        yield ModelRegistry(url, artifacts=(folder / "artifacts").as_uri(), cache=tmp_path / "versions")
