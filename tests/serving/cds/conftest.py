"""Fixtures of CDS Hooks: one application for all tests here, closed as in a hospital, and its client."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI

from medscore_assets.settings import Settings
from resources.registry import ModelRegistry
from resources.warehouse import Warehouse
from serving.app import create_app
from tests.serving.audit_trail import Trail
from tests.serving.cds.site import write_files
from tests.serving.conftest import running


@pytest.fixture(scope="package")
def closed_app(
    api_settings: Settings, api_registry: ModelRegistry, tmp_path_factory: pytest.TempPathFactory
) -> FastAPI:
    """The application as a hospital runs it: tokens only, a public address, one page of another origin."""
    settings = Settings(
        home=api_settings.home,
        database_url=api_settings.database_url,
        api_rate=1_000_000,
        access_file=write_files(tmp_path_factory.mktemp("cds")),
    )
    return create_app(settings, registry=api_registry)


@pytest.fixture(scope="package")
def ehr(closed_app: FastAPI) -> Iterator[httpx.Client]:
    """A client of the running application. Its calls are audited as the test goes on: see `trail`."""
    with running(closed_app) as client:
        yield client


@pytest.fixture
def trail(ehr: httpx.Client, api_warehouse: Warehouse) -> Trail:
    """The audit's events since the test began."""
    return Trail(api_warehouse)
