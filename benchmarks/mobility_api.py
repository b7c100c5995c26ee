"""One patient's forecast over HTTP: stored, and computed on demand from the newest features.

Belongs here: a site on what the parts before left, the requests, and their latencies. Does not belong here:
servers and clients (`loopback.py`), goals (`mobility.py`), the forecasts of everybody (`mobility_parts.py`).

`medscore serve`, one worker, checks a token and answers after the audit entry is committed. One connection
that stays open asks for patients drawn from all; the server is warm.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.loopback import HOST, Driven, Server, ask, drive
from benchmarks.site import Site
from medscore_assets.contracts.mobility import MOBILITY
from medscore_assets.mobility.cohorts import COHORT_MODEL, GLOBAL_MODEL, Route
from medscore_assets.mobility.forecasts import HORIZONS, PATIENT_FEATURES, Serving
from medscore_assets.mobility.model import MobilityModel, model_name
from resources.lake import Lake
from resources.mlflow_store import files_flavor
from resources.registry import CHAMPION

PATIENTS = 2_000
SECONDS = 6.0
WARM_UP_S = 1.0
LIVE = "/health/live"


def measured(home: Path, lake: Lake, models: Path, serving: Serving, published: date) -> dict[str, Any]:
    """Latencies of stored and of computed forecasts; `published` is the day whose forecasts are stored.

    The day after has the same features, so that forecasts as of it are computed.
    """
    site = Site.prepare(home)
    _register(site, models, serving)
    day_after = published + timedelta(days=1)
    features = lake.read_day(PATIENT_FEATURES, published)
    place = features.column_names.index("day")
    days = pa.array(np.full(features.num_rows, day_after), pa.date32())
    later = features.set_column(place, "day", days).replace_schema_metadata(MOBILITY.schema.metadata)
    lake.write_day(PATIENT_FEATURES, day_after, later)
    drawn = random.Random(0).sample(features["patient_id"].to_pylist(), PATIENTS)
    server = site.start_api(MEDSCORE_LAKE=lake.url)
    try:
        server.wait_ready(LIVE)
        stored = _driven(server, site.token(), drawn, published, computed=False)
        on_demand = _driven(server, site.token(), drawn, day_after, computed=True)
        return _figures("stored", stored) | _figures("on_demand", on_demand) | _memory(server)
    finally:
        server.stop()
        site.warehouse.close()


def _register(site: Site, models: Path, serving: Serving) -> None:
    """The models as champions, and the routes that name them."""
    from medscore_assets.mobility.publish import append_routes

    versions = {}
    for horizon in HORIZONS:
        for folder in (path for path in (models / str(horizon)).iterdir() if path.is_dir()):
            name = MobilityModel.load(folder, MOBILITY).name
            versions[name] = site.registry.register(name, folder, flavor=files_flavor)
            site.registry.set_alias(name, versions[name], CHAMPION)
    routes = [route for horizon in HORIZONS for route in serving.routes[horizon].values()]
    append_routes(site.warehouse, [_decision(route, versions) for route in routes])


def _decision(route: Route, versions: Mapping[str, int]) -> dict[str, Any]:
    """A route as a row of `mobility_routes`."""
    of = {COHORT_MODEL: route.cohort, GLOBAL_MODEL: GLOBAL_MODEL}.get(route.serves)
    name = model_name(of, route.horizon_days) if of else None
    return {
        "cohort": route.cohort,
        "horizon_days": route.horizon_days,
        "serves": route.serves,
        "model_name": name,
        "model_version": versions[name] if name else None,
        "reason": route.reason,
        "route": json.loads(route.model_dump_json()),
        "metrics": {},
        "contract_hash": MOBILITY.hash,
        "decided_at": datetime.now(UTC),
        "decided_by": "the benchmark",
    }


def _driven(server: Server, token: str, patients: Sequence[str], day: date, *, computed: bool) -> Driven:
    requests = [
        f"GET /v1/mobility/forecast/{patient}?day={day}&horizon={HORIZONS[number % 2]} HTTP/1.1\r\n"
        f"Host: {HOST}\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
        for number, patient in enumerate(patients)
    ]
    status, body = ask(server.port, requests[0])
    if status != 200 or json.loads(body)["computed"] is not computed:
        raise RuntimeError(f"another answer than was asked for: {status} {body[:300]!r}")
    drive(server.port, requests, 1, WARM_UP_S)
    driven = drive(server.port, requests, 1, SECONDS)
    if set(driven.statuses) != {200}:
        raise RuntimeError(f"answers other than 200: {driven.statuses}")
    return driven


def _figures(name: str, driven: Driven) -> dict[str, Any]:
    p50, p99 = np.quantile(driven.latencies, [0.5, 0.99])
    return {
        f"{name}_p50_ms": round(1e3 * p50, 2),
        f"{name}_p99_ms": round(1e3 * p99, 2),
        f"{name}_answers": len(driven.latencies),
    }


def _memory(server: Server) -> dict[str, int]:
    return {"server_peak_mb": round(server.peak_memory_mb())}
