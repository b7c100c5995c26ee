"""The days on which clocks change, through Dagster into the tables: nothing lost, nothing doubled."""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from dagster._utils.schedules import schedule_execution_time_iterator

from medscore_assets import tables
from medscore_assets.partitions import MORNING_HOUR, morning_that_closes
from resources.registry import ModelRegistry
from resources.warehouse import Warehouse
from tests.conftest import address_of
from tests.faults import worker
from tests.readmission.records import discharge
from tests.readmission.test_outreach import add, rows_of

EVERY = timedelta(minutes=10)


@dataclass(frozen=True)
class Change:
    """Three lists around a change of clocks. The times are written out, and not taken from the platform."""

    zone: str
    first: str
    """The key of the first list; the second one holds the change."""

    start: datetime
    end: datetime

    @property
    def days(self) -> list[str]:
        return [(date.fromisoformat(self.first) + timedelta(days=n)).isoformat() for n in range(3)]

    def list_of(self, moment: datetime) -> str:
        """The list of a discharge by the clock on the wall: of the day, and before six of the day before."""
        wall = moment.astimezone(ZoneInfo(self.zone))
        return str(wall.date() - timedelta(days=wall.hour < MORNING_HOUR))

    def discharges(self) -> list[dict[str, Any]]:
        """One discharge every ten minutes; some of them excluded, some of them broken."""
        rows = []
        for n in range((self.end - self.start) // EVERY):
            row = discharge(n, self.start + n * EVERY)
            row |= {"discharge_status": "hospice"} if n % 47 == 0 else {}
            row |= {"patient_age": None} if n % 53 == 1 else {}
            rows.append(row)
        return rows


# Of a year that is over: Dagster materialises no window that has not closed.
FORWARD = Change(
    "America/New_York",
    "2025-03-07",
    datetime(2025, 3, 7, 11, tzinfo=UTC),
    datetime(2025, 3, 10, 10, tzinfo=UTC),
)
BACK = Change(
    "America/New_York",
    "2025-10-31",
    datetime(2025, 10, 31, 10, tzinfo=UTC),
    datetime(2025, 11, 3, 11, tzinfo=UTC),
)
HALF_BACK = Change(
    "Australia/Lord_Howe",
    "2025-04-04",
    datetime(2025, 4, 3, 19, tzinfo=UTC),
    datetime(2025, 4, 6, 19, 30, tzinfo=UTC),
)
HALF_FORWARD = Change(
    "Australia/Lord_Howe",
    "2025-10-03",
    datetime(2025, 10, 2, 19, 30, tzinfo=UTC),
    datetime(2025, 10, 5, 19, tzinfo=UTC),
)


def assert_each_is_on_its_list_once(warehouse: Warehouse, change: Change, rows: list[dict[str, Any]]) -> None:
    """Every discharge is scored, excluded or quarantined, once over all lists, and the lists abut."""
    found = [
        (str(row["score_date"]), row["encounter_id"], fate)
        for table, fate in (
            (tables.care_management_scores, "scored"),
            (tables.outreach_exclusions, "excluded"),
            (tables.encounter_quarantine, "quarantined"),
        )
        for row in rows_of(warehouse, table)
        if str(row["score_date"]) in change.days
    ]
    expected = [(change.list_of(row["discharged_at"]), row["encounter_id"], _fate(row)) for row in rows]
    assert sorted(found) == sorted(expected)
    lists = [
        row for row in rows_of(warehouse, tables.outreach_lists) if str(row["score_date"]) in change.days
    ]
    bounds = [(row["window_start"], row["window_end"]) for row in lists]
    assert [change.start, *(end for _, end in bounds)] == [*(start for start, _ in bounds), change.end]


def _fate(row: dict[str, Any]) -> str:
    if row["patient_age"] is None:
        return "quarantined"
    return "scored" if row["discharge_status"] == "routine" else "excluded"


@pytest.mark.parametrize(("change", "hours"), [(FORWARD, 23), (BACK, 25)], ids=["forward", "back"])
def test_every_discharge_around_a_change_of_clocks_is_on_one_list(
    warehouse: Warehouse, champion: ModelRegistry, change: Change, hours: int
) -> None:
    rows = change.discharges()
    add(warehouse, rows)
    assert [worker.run_job(warehouse, champion, day) for day in change.days] == ["", "", ""]
    assert_each_is_on_its_list_once(warehouse, change, rows)
    lists = rows_of(warehouse, tables.outreach_lists)
    assert [row["events"] for row in lists] == [24 * 6, hours * 6, 24 * 6]


def test_the_hour_that_comes_twice_has_two_discharges(warehouse: Warehouse, champion: ModelRegistry) -> None:
    zone = ZoneInfo(BACK.zone)
    twice = [datetime(2025, 11, 2, 1, 30, fold=fold, tzinfo=zone) for fold in (0, 1)]
    arrived = BACK.end
    add(warehouse, [discharge(n, moment, ingested_at=arrived) for n, moment in enumerate(twice)])
    assert [worker.run_job(warehouse, champion, day) for day in BACK.days] == ["", "", ""]
    listed = rows_of(warehouse, tables.care_management_scores)
    assert {(str(row["score_date"]), row["encounter_id"]) for row in listed} == {
        ("2025-11-01", "E-000000"),
        ("2025-11-01", "E-000001"),
    }
    first, second = sorted(row["discharged_at"] for row in listed)
    assert second - first == timedelta(hours=1)


@pytest.mark.slow
def test_it_holds_in_a_zone_whose_clocks_change_by_half_an_hour(
    warehouse: Warehouse,
    champion: ModelRegistry,
    postgres: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = {change: change.discharges() for change in (HALF_BACK, HALF_FORWARD)}
    for number, discharges in enumerate(rows.values()):
        for row in discharges:
            row["encounter_id"] = f"{number}-{row['encounter_id']}"
            row["patient_id"] = f"{number}-{row['patient_id']}"
        add(warehouse, discharges)
    # The zone is read when the platform is loaded, so it takes a process of its own.
    monkeypatch.setenv("MEDSCORE_TIMEZONE", HALF_BACK.zone)
    url = warehouse.engine.url.render_as_string(hide_password=False)
    places = worker.Places(url, address_of(postgres, "registry"), tmp_path)
    context = multiprocessing.get_context("spawn")
    answer, sender = context.Pipe(duplex=False)
    days = [day for change in rows for day in change.days]
    process = context.Process(target=worker.materialize_all, args=(places, days, sender))
    process.start()
    assert answer.poll(600)
    assert answer.recv() == [""] * 6
    process.join()
    for change, discharges in rows.items():
        assert_each_is_on_its_list_once(warehouse, change, discharges)


def test_every_morning_of_a_year_has_one_tick_that_closes_its_window() -> None:
    year = datetime(2025, 1, 1, 12, tzinfo=UTC)
    ticks = schedule_execution_time_iterator(year.timestamp(), f"0 {MORNING_HOUR} * * *", FORWARD.zone)
    closed = [morning_that_closes(next(ticks)) for _ in range(365)]
    assert closed == [str(date(2025, 1, 1) + timedelta(days=n)) for n in range(365)]
