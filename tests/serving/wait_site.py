"""Wait times of four emergency departments by three models in a database, and the site that tells them.

One department is busy, one has a silent feed, one was last predicted hours ago, one has no predictions.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import sqlalchemy as sa
from fastapi import FastAPI

from medscore_assets.settings import Settings
from medscore_assets.tables import wait_times as tables
from medscore_assets.wait_times import store
from medscore_assets.wait_times.assignment import Bootstrap, Pair
from medscore_assets.wait_times.bands import ALL_BANDS
from medscore_assets.wait_times.boards import put_displays
from resources.warehouse import Warehouse
from serving.app import create_app

BUSY, SILENT, OLD, EMPTY = "ed-busy", "ed-silent", "ed-old", "ed-empty"
FLUID, EARLIER, MEAN = Pair("fluid", "0.0.10"), Pair("fluid", "0.0.9"), Pair("mean", "1.0.0")
DEFAULT = Bootstrap("fluid")
EVERY, TICKS = timedelta(minutes=15), 5
WAITING = {"all_posted": 14, "ctas_2": 3, "ctas_3": 8, "ctas_4_5": 6}
P50, P80 = 4980.0, 7860.0


def waits_app(url: str, **options: Any) -> FastAPI:
    """An application over a database; what it scores readmissions with is left out."""
    settings = Settings(database_url=url, wait_model="fluid", api_rate=1_000_000, **options)
    return create_app(settings, champions=SimpleNamespace(start=lambda: None, stop=lambda: None))


@dataclass
class Stored:
    """The database behind the sites, and the newest tick in it."""

    url: str
    warehouse: Warehouse
    newest: datetime

    def site(self, **options: Any) -> FastAPI:
        """An application of its own; see `waits_app`."""
        return waits_app(self.url, **options)


def fill(warehouse: Warehouse, newest: datetime) -> None:
    """Five ticks up to the newest; of one department the last values are three hours old."""
    zone = "America/Toronto"
    names = [
        {"facility_id": name, "name": f"{name} General", "name_fr": None, "zone": zone}
        for name in (BUSY, SILENT, OLD, EMPTY)
    ]
    registered = [
        {
            "model": model,
            "version": version,
            "fingerprint": "f",
            "parameters": {"hours": 4},
            "kind": "built_in",
        }
        | {"baseline": False, "first_seen_at": newest - timedelta(days=9)}
        for model, version in (EARLIER, FLUID, MEAN)
    ]
    moments = [newest - EVERY * back for back in reversed(range(TICKS))]
    store.ensure_months(warehouse, tables.wait_time_predictions, [*moments, newest - timedelta(hours=3)])
    said = [
        prediction(name, band, pair, moment)
        for moment in moments
        for name in (BUSY, SILENT)
        for band in ALL_BANDS
        for pair in (FLUID, MEAN, EARLIER)
    ] + [prediction(OLD, band, FLUID, newest - timedelta(hours=3)) for band in ALL_BANDS]
    seen = [
        {"as_of": moment, "facility_id": name, "visits": 90, "waiting": WAITING, "in_treatment": 4}
        | {"stale_input": name == SILENT, "dropped": {}}
        for moment in moments
        for name in (BUSY, SILENT, OLD)
    ]
    with warehouse.transaction() as connection:
        connection.execute(sa.insert(tables.ed_facilities), names)
        store.register_versions(connection, registered)
        connection.execute(sa.insert(tables.wait_time_predictions), said)
        connection.execute(sa.insert(tables.wait_time_facility_ticks), seen)
        for moment in moments:
            put_displays(warehouse, connection, moment, [BUSY, SILENT, OLD, EMPTY], DEFAULT)


def prediction(name: str, band: str, pair: Pair, as_of: datetime) -> dict[str, Any]:
    failed = pair == EARLIER
    return {
        "facility_id": name,
        "band": band,
        "model": pair.model,
        "version": pair.version,
        "as_of": as_of,
        "wait_seconds": None if failed else P50 + (600 if pair == MEAN else 0),
        "p80_seconds": P80 if pair == FLUID else None,
        "status": "error" if failed else "ok",
        "message": "it raised" if failed else "",
        "latency_ms": 1.0,
        "run_id": "test",
    }
