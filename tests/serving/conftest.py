"""Fixtures of the API: the application with a real database, registry and model, and its requests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from medscore_assets.settings import Settings
from resources.registry import CHAMPION, ModelRegistry
from resources.warehouse import Warehouse
from serving.app import create_app
from serving.examples import FEATURES
from tests.conftest import copied_database

MODEL = "readmission"


def wait_until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """What the condition gives, once that is something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError("it did not come about in time")


def features(**changes: Any) -> dict[str, Any]:
    """A valid request with some values changed."""
    return {**FEATURES, **changes}


@contextmanager
def running(app: FastAPI, *, ready: bool = True) -> Iterator[httpx.Client]:
    """A client of the application, served on a free port; with `ready` from when on it has a champion."""
    config = uvicorn.Config(
        app, port=0, loop="uvloop", http="httptools", log_config=None, access_log=False, ws="none"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            if ready:
                wait_until(lambda: app.state.service.champions.state().confirmed)
            yield client
    finally:
        server.should_exit = True
        thread.join(timeout=30)


@pytest.fixture(scope="session")
def api_database(postgres: str, migrated_template: str) -> Iterator[str]:
    """The address of the database that `api` writes to."""
    with copied_database(postgres, migrated_template) as url:
        yield url


@pytest.fixture(scope="session")
def api_registry(
    postgres: str,
    three_versions: tuple[str, Path],
    api_settings: Settings,
) -> Iterator[ModelRegistry]:
    """A registry whose champion is version 1. Its aliases are not moved."""
    template, folder = three_versions
    with copied_database(postgres, template) as url:
        registry = ModelRegistry(
            url, artifacts=(folder / "artifacts").as_uri(), cache=api_settings.home / "models"
        )
        registry.set_alias(MODEL, 1, CHAMPION)
        yield registry


@pytest.fixture(scope="session")
def api_settings(api_database: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The settings of `api`."""
    return Settings(home=tmp_path_factory.mktemp("api"), database_url=api_database, api_rate=1_000_000)


@pytest.fixture(scope="session")
def app(api_settings: Settings, api_registry: ModelRegistry) -> FastAPI:
    """The application of `api`, open on loopback."""
    return create_app(api_settings, registry=api_registry)


@pytest.fixture(scope="session")
def api(app: FastAPI) -> Iterator[httpx.Client]:
    """A client of a running application, shared by tests that only ask."""
    with running(app) as client:
        yield client


@pytest.fixture(scope="session")
def api_warehouse(api_database: str) -> Iterator[Warehouse]:
    """The database behind `api`, to look into."""
    opened = Warehouse(api_database)
    yield opened
    opened.close()
