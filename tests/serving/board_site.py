"""A site with boards: departments with, without and with very long waits, and the record of three models.

Belongs here: the data and the applications of the tests of the board and of the model monitor.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
import sqlalchemy as sa
from fastapi import FastAPI

from medscore_assets.tables import wait_times as tables
from medscore_assets.wait_times import store
from medscore_assets.wait_times.assignment import Bootstrap, Pair
from medscore_assets.wait_times.bands import ALL_BANDS, ALL_POSTED
from medscore_assets.wait_times.boards import put_displays
from medscore_assets.wait_times.scoring_outcomes import measure_days
from medscore_assets.wait_times.tick import EVERY, latest_tick
from resources.warehouse import Warehouse
from tests.conftest import copied_database
from tests.serving.conftest import running
from tests.serving.wait_site import waits_app

BUSY, SILENT, EMPTY, LONG = "ed-busy", "ed-silent", "ed-empty", "ed-long"
FLUID, BOOST, LITERAL = Pair("fluid", "1.0.0"), Pair("boost", "1.0.0"), Pair("literal", "1.0.0")
DEFAULT = Bootstrap("fluid")
ZONE = "America/Toronto"
SECONDS = {FLUID: (4980.0, 7860.0), BOOST: (1500.0, 2400.0), LITERAL: (9000.0, None)}
SPREAD = {FLUID: 40.0, BOOST: 20.0, LITERAL: 60.0}
"""Minutes by which the models are off."""
DAYS, PATIENTS = 33, 40
WAITING = {"all_posted": 14, "ctas_2": 3, "ctas_3": 8, "ctas_4_5": 6}


@dataclass
class Boards:
    """The database behind the sites, and the newest tick in it."""

    url: str
    warehouse: Warehouse
    newest: datetime

    def app(self, **options: Any) -> FastAPI:
        """An application of its own; see `waits_app`."""
        return waits_app(self.url, **options)

    @contextmanager
    def closed(self, folder: Path, address: str | None = None, **options: Any) -> Iterator[httpx.Client]:
        """A client of a site that tells people apart, and that others reach at `address`."""
        file = folder / "access.toml"
        file.write_text("api_keys = true\n" + (f'public_url = "{address}"\n' if address else ""))
        with running(self.app(access_file=file, **options), ready=False) as client:
            yield client


@pytest.fixture(scope="session")
def boards(postgres: str, migrated_template: str) -> Iterator[Boards]:
    with copied_database(postgres, migrated_template) as url:
        warehouse = Warehouse(url)
        newest = latest_tick(datetime.now(UTC))
        _fill(warehouse, newest)
        yield Boards(url, warehouse, newest)
        warehouse.close()


@pytest.fixture(scope="session")
def site(boards: Boards) -> Iterator[httpx.Client]:
    """Open on this machine."""
    with running(boards.app(), ready=False) as client:
        yield client


def _fill(warehouse: Warehouse, newest: datetime) -> None:
    names = [(BUSY, "Hôpital Busy"), (SILENT, None), (EMPTY, None), (LONG, "Centre hospitalier " * 5)]
    facilities = [
        {"facility_id": name, "name": f"{name} General", "name_fr": french, "zone": ZONE}
        for name, french in names
    ]
    moments = [newest - EVERY, newest]
    days = [newest - timedelta(days=back) for back in range(1, DAYS)]
    outcomes = [row for day in days for row in _outcomes(day)]
    for table, times in (
        (tables.wait_time_predictions, [*moments, *days]),
        (tables.wait_time_outcomes, [row["arrival"] for row in outcomes]),
    ):
        store.ensure_months(warehouse, table, times)
    said = [
        _prediction(name, band, pair, moment)
        for moment in (*days, *moments)
        for name in (BUSY, SILENT, LONG)
        for band in ALL_BANDS
        for pair in SECONDS
    ]
    seen = [
        {"as_of": moment, "facility_id": name, "visits": 90, "in_treatment": 4}
        | {"waiting": dict.fromkeys(WAITING, 1) if name == LONG else WAITING}
        | {"stale_input": name == SILENT, "dropped": {}, "newest_record": moment}
        for moment in (*days, *moments)
        for name in (BUSY, SILENT, LONG)
    ]
    scored = [
        {"day": day, "facility_id": BUSY, "known_at": newest, "versions": 1}
        | {"open_patients": 0, "measured": False}
        for day in {row["arrival"].date() for row in outcomes}
    ]
    with warehouse.transaction() as connection:
        connection.execute(sa.insert(tables.ed_facilities), facilities)
        store.register_versions(connection, [_version(pair, newest) for pair in SECONDS])
        warehouse.append(connection, tables.wait_time_predictions, pa.Table.from_pylist(said))
        connection.execute(sa.insert(tables.wait_time_facility_ticks), seen)
        warehouse.append(connection, tables.wait_time_outcomes, pa.Table.from_pylist(outcomes))
        connection.execute(sa.insert(tables.wait_time_outcome_days), scored)
        for moment in moments:
            put_displays(warehouse, connection, moment, [BUSY, SILENT, EMPTY, LONG], DEFAULT)
    measure_days(warehouse, newest)


def _outcomes(day: datetime) -> Iterator[dict[str, Any]]:
    """Patients who arrive after 17:00 UTC, each with what the models had said: right on the whole."""
    random = np.random.default_rng(day.date().toordinal())
    begin = day.replace(hour=17, minute=0, second=0, microsecond=0)
    for number in range(PATIENTS):
        arrival = begin + timedelta(minutes=number)
        waited = random.uniform(60, 200)
        for pair, spread in SPREAD.items():
            typical = 60 * max(waited + random.normal(0, spread), 1)
            # 0.84 standard deviations hold four in five.
            most = None if pair == LITERAL else typical + 60 * 0.84 * spread
            yield {
                "arrival": arrival,
                "facility_id": BUSY,
                "visit_id": f"v{number}-{arrival:%j}",
                "band": ALL_POSTED,
                "model": pair.model,
                "version": pair.version,
                "as_of": begin,
                "p50_seconds": typical,
                "p80_seconds": most,
                "actual_seconds": 60 * waited,
                "censored_at_seconds": None,
                "left_unseen": False,
                "resolved_at": arrival + timedelta(hours=5),
            }


def _prediction(name: str, band: str, pair: Pair, as_of: datetime) -> dict[str, Any]:
    # The widest texts that the board has.
    typical, most = (20_000.0, 30_000.0) if name == LONG else SECONDS[pair]
    return {
        "facility_id": name,
        "band": band,
        "model": pair.model,
        "version": pair.version,
        "as_of": as_of,
        "wait_seconds": typical,
        "p80_seconds": most,
        "status": "ok",
        "message": "",
        "latency_ms": 1.0,
        "run_id": "test",
    }


def _version(pair: Pair, newest: datetime) -> dict[str, Any]:
    return {
        "model": pair.model,
        "version": pair.version,
        "fingerprint": "f",
        "parameters": {},
        "kind": "built_in",
        "baseline": pair == LITERAL,
        "first_seen_at": newest - timedelta(days=DAYS),
    }
