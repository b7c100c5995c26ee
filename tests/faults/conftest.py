"""What the fault tests share: processes that are quick to start, a model, and undisturbed results."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from medscore_assets.readmission.scoring import ReadmissionModel
from resources.warehouse import Warehouse
from tests.conftest import copied_database

IMPORTED_WHEN_USED = (
    "dagster._core.launcher.sync_in_memory_run_launcher",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
    "xgboost",
)
"""What takes seconds in every process that comes to use it."""


@pytest.fixture(scope="session")
def processes() -> ForkServerContext:
    """Starts processes by forking one that has imported everything and opened nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "tests.faults.worker", *IMPORTED_WHEN_USED])
    return context


@pytest.fixture(scope="session")
def model_files(model: ReadmissionModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the model, for other processes."""
    folder = tmp_path_factory.mktemp("model")
    model.save(folder)
    return folder


@pytest.fixture
def open_warehouse(postgres: str, migrated_template: str) -> Iterator[Callable[[], Warehouse]]:
    """Gives a warehouse on a fresh database, each time another one."""
    with ExitStack() as stack:

        def fresh() -> Warehouse:
            warehouse = Warehouse(stack.enter_context(copied_database(postgres, migrated_template)))
            stack.callback(warehouse.close)
            return warehouse

        yield fresh
