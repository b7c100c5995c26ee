"""A site with two published lists, for the tests of the portal and of the outreach API.

Belongs here: the data and the applications of those tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pyarrow.compute as pc
import pytest
import sqlalchemy as sa
from fastapi import FastAPI

from medscore_assets import access_keys, tables
from medscore_assets.audit import Occurrence
from medscore_assets.demo.discharges import DemoData
from medscore_assets.partitions import window
from medscore_assets.readmission.policy import load_policy
from medscore_assets.readmission.publish import Champion, publish_list
from medscore_assets.readmission.scoring import ReadmissionModel
from medscore_assets.settings import Settings
from resources.registry import ModelRegistry
from resources.warehouse import Warehouse
from serving.app import create_app
from tests.conftest import copied_database
from tests.readmission.records import discharge, events_table, local
from tests.serving.conftest import running

BEFORE, DAY = "2025-12-08", "2025-12-09"
"""The days of the two lists."""

LIST = f"/portal/lists/{DAY}"

SCRIPT = "<script>alert('E')</script>"
QUOTED = 'E-"o\'dd" & <b>'
ODD = (SCRIPT, QUOTED)
"""Encounters whose ids are odd texts."""

_CLOSED = """
api_keys = true
"""


TYPED = {
    "patient_age": "78",
    "length_of_stay_days": "6",
    "num_prior_admissions_12m": "3",
    "num_chronic_conditions": "5",
    "primary_diagnosis_group": "cardiac",
    "discharge_disposition": "home",
    "insurance_type": "medicare",
    "emergency_admission": "yes",
    "num_medications_at_discharge": "11",
    "has_follow_up_scheduled": "no",
}


class Read(HTMLParser):
    """Every element of a page with its attributes, and its text."""

    def __init__(self, page: httpx.Response) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str, **said: str) -> list[dict[str, str | None]]:
        return [a for t, a in self.elements if t == tag and all(a.get(k) == v for k, v in said.items())]

    @property
    def csrf(self) -> str:
        return self.all("input", name="csrf")[0]["value"] or ""

    def rows(self) -> list[dict[str, str | None]]:
        return [a for a in self.all("tr") if "data-rank" in a]


@dataclass(frozen=True)
class Site:
    """A running application and its database."""

    client: httpx.Client
    app: FastAPI
    warehouse: Warehouse
    keys: dict[str, str]
    """API keys by role; empty where the site is open."""

    @property
    def url(self) -> str:
        return str(self.client.base_url).rstrip("/")

    def audited(self) -> list[str]:
        """The events of the audit so far, in order."""
        table = tables.serving.audit_events
        return self.warehouse.read(sa.select(table.c.event).order_by(table.c.sequence))["event"].to_pylist()

    def calls(self) -> list[tuple[str, str, str]]:
        """Encounter, outcome and source of every call."""
        table = tables.outreach_calls
        rows = self.warehouse.read(sa.select(table).order_by(table.c.called_at, table.c.encounter_id))
        return [(r["encounter_id"], r["outcome"], r["source"]) for r in rows.to_pylist()]

    def forget_calls(self) -> None:
        with self.warehouse.transaction() as connection:
            connection.execute(sa.delete(tables.outreach_calls))

    def patients(self, day: str = DAY) -> list[dict[str, Any]]:
        """The rows of a list, by rank."""
        table = tables.care_management_scores
        query = sa.select(table).where(table.c.score_date == date.fromisoformat(day)).order_by(table.c.rank)
        return self.warehouse.read(query).to_pylist()


def publish_two_days(warehouse: Warehouse, year: DemoData, model: ReadmissionModel) -> None:
    """Two days of the demo hospital, with two odd encounters and one broken row on the later one."""
    first, last = window(BEFORE), window(DAY)
    discharged = year.events["discharged_at"]
    mine = pc.and_(pc.greater_equal(discharged, first.start), pc.less(discharged, last.end))
    events = year.events.filter(mine)
    odd = [
        discharge(n, local(DAY, 11), encounter_id=name, patient_id=f"P<{n}>", num_prior_admissions_12m=6)
        for n, name in enumerate(ODD)
    ]
    broken = discharge(90, local(DAY, 12), num_chronic_conditions=2.5)
    with warehouse.transaction() as connection:
        warehouse.append(connection, tables.discharge_events, events)
        warehouse.append(connection, tables.discharge_events, events_table([*odd, broken]))
        warehouse.append(connection, tables.inpatient_admissions, year.admissions)
    for day in (BEFORE, DAY):
        publish_list(warehouse, window(day), lambda: Champion(model, 1), load_policy())


@pytest.fixture(scope="session")
def lists_database(
    postgres: str, migrated_template: str, demo_year: DemoData, model: ReadmissionModel
) -> Iterator[str]:
    """The name of a database with the two lists, to be copied."""
    with copied_database(postgres, migrated_template) as url:
        warehouse = Warehouse(url)
        publish_two_days(warehouse, demo_year, model)
        warehouse.close()
        yield str(sa.make_url(url).database)


def _site(url: str, registry: ModelRegistry, settings: Settings, roles: tuple[str, ...]) -> Iterator[Site]:
    app = create_app(settings, registry=registry)
    warehouse = Warehouse(url)
    now = datetime.now(UTC)
    keys = {role: make_key(warehouse, role, now) for role in roles}
    with running(app) as client:
        yield Site(client, app, warehouse, keys)
    warehouse.close()


def make_key(warehouse: Warehouse, role: str, now: datetime) -> str:
    """An API key with one role."""
    by = Occurrence("login", "success", now)
    return access_keys.create(warehouse, f"desk {role}", [role], 1, by, now).key


@pytest.fixture(scope="session")
def open_site(
    postgres: str, lists_database: str, api_registry: ModelRegistry, api_settings: Settings
) -> Iterator[Site]:
    """Open on this machine."""
    with copied_database(postgres, lists_database) as url:
        settings = Settings(home=api_settings.home, database_url=url, api_rate=1_000_000)
        yield from _site(url, api_registry, settings, ())


@pytest.fixture(scope="session")
def closed_site(
    postgres: str,
    lists_database: str,
    api_registry: ModelRegistry,
    api_settings: Settings,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """With API keys, one per role."""
    file: Path = tmp_path_factory.mktemp("access") / "access.toml"
    file.write_text(_CLOSED)
    with copied_database(postgres, lists_database) as url:
        settings = Settings(home=api_settings.home, database_url=url, api_rate=1_000_000, access_file=file)
        yield from _site(url, api_registry, settings, access_keys.ROLES)


def minutes_ago(minutes: int) -> str:
    """A time for a call, with its offset."""
    return (datetime.now(UTC) - timedelta(minutes=minutes)).replace(microsecond=0).isoformat()
