"""The application: the parts of the service, made from settings, and the routes that use them.

Belongs here: what is made, started and stopped in which order, and the order of middleware.
Does not belong here: any route, and the process that serves it (`run.py`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from medscore_assets.settings import Settings
from resources.registry import ModelRegistry
from resources.warehouse import Warehouse
from serving import (
    cds_hooks,
    cds_schema,
    errors,
    fhir_codes,
    fhir_routes,
    health,
    inference,
    mobility,
    outreach,
    population,
    portal,
    readmission,
    wait_times,
)
from serving.access import Access
from serving.cds_hooks import Rules
from serving.cds_schema import load_presentation
from serving.champion import Champions
from serving.cors import CdsCors
from serving.fhir_codes import load_codes
from serving.fhir_routes import ModelCards
from serving.journal import Journal
from serving.limits import Limits, Rates
from serving.logs import Observed
from serving.metrics import Metrics
from serving.mobility_forecasts import Mobility
from serving.openapi import document
from serving.policy_file import PolicyFile
from serving.service import Service

ROUTES = (
    readmission,
    inference,
    cds_hooks,
    fhir_routes,
    outreach,
    population,
    mobility,
    wait_times,
    portal,
    health,
)
"""Each has a `router`."""

DESCRIPTION = (
    "The 30-day readmission risk of one patient, with its reasons and the next steps: the same model, "
    "contract and policy as the morning list. Beside it the list itself, the population report, forecasts of "
    "steps and emergency-department waits. A decision-support tool: every score carries its disclaimer."
)


def create_app(settings: Settings, **parts: Any) -> FastAPI:
    """The application. `parts` replace fields of `Service` (and `registry`), as tests do.

    Nothing is opened before it starts. Raises `PermanentError` if a file that it reads is not valid.
    """
    metrics = parts.pop("metrics", None) or Metrics()
    registry = parts.pop("registry", None) or ModelRegistry(
        lambda: settings.databases().mlflow,
        artifacts=settings.mlflow_artifacts_url,
        cache=settings.home / "models",
    )
    service = _service(settings, registry, metrics, parts)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.champions.start()
        await service.journal.start()
        try:
            yield
        finally:
            await service.journal.stop()
            service.champions.stop()
            service.warehouse.close()

    app = FastAPI(
        title="MedScore",
        version="1",
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # Looked for anew at every request; `/metrics` and the log say what it would.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.openapi = lambda: document(app)  # type: ignore[method-assign]
    app.state.service = service
    app.state.metrics = metrics
    app.state.rates = Rates(settings.api_rate)
    app.state.model_cards = ModelCards(registry)
    app.state.mobility = Mobility(settings, service.warehouse, registry)
    app.state.cds_rules = Rules(
        load_presentation(settings.cds_file or cds_schema.DEFAULT_FILE),
        load_codes(settings.fhir_codes_file or fhir_codes.DEFAULT_FILE),
    )
    errors.install(app)
    for module in ROUTES:
        # Not include_router: a router within a router looks for the route twice at each request.
        app.router.routes.extend(module.router.routes)
    # The last one added is the first one to see a request.
    app.add_middleware(readmission.Straight)
    app.add_middleware(Limits, rates=app.state.rates)
    app.add_middleware(CdsCors, origins=service.access.rules.cors_origins)
    app.add_middleware(Observed, metrics=metrics)
    return app


def _service(settings: Settings, registry: ModelRegistry, metrics: Metrics, parts: dict[str, Any]) -> Service:
    warehouse = parts.pop("warehouse", None) or Warehouse(lambda: settings.databases().warehouse)
    return Service(
        settings=settings,
        warehouse=warehouse,
        champions=parts.get("champions")
        or Champions(registry, settings.home / "models", metrics=metrics, shadow=settings.shadow),
        journal=parts.get("journal") or Journal(settings),
        access=parts.get("access") or Access(settings, warehouse),
        policy=parts.get("policy") or PolicyFile(settings.policy_path),
    )
