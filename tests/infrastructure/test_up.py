"""`medscore up`, really started after a weekend without it: it answers, makes the lists, and leaves nothing.

All tests here look at one start, in their order; the last one stops it.
"""

from __future__ import annotations

import signal
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from medscore_assets import tables
from medscore_assets.database import prepare
from medscore_assets.definitions import default_resources
from medscore_assets.partitions import closed_mornings
from medscore_assets.readmission.scoring import MODEL, ReadmissionModel
from medscore_assets.settings import Settings
from resources.embedded_postgres import release
from resources.registry import CHAMPION
from resources.warehouse import Warehouse
from tests.infrastructure.test_processes import Up, eventually, starting
from tests.readmission.records import clean_day
from tests.readmission.test_outreach import add, rows_of

MEDSCORE = Path(sys.executable).parent / "medscore"
ROWS = 20


@dataclass(frozen=True)
class Platform:
    """A running `medscore up`, and three days that have records and had no list when it began."""

    up: Up
    settings: Settings
    warehouse: Warehouse
    days: list[str]

    def made(self) -> dict[str, int]:
        """How many are on each list that is there, by day."""
        lists = rows_of(self.warehouse, tables.outreach_lists)
        return {str(row["score_date"]): row["scored"] for row in lists}

    def runs(self) -> Counter[tuple[str, str]]:
        """How many runs of the outreach job there were, by day and how they ended."""
        # Dagster's driver is another one.
        address = self.settings.databases().dagster.replace("+psycopg2", "")
        query = "SELECT partition, status FROM runs WHERE pipeline_name = 'readmission_outreach'"
        with psycopg.connect(address) as connection:
            return Counter(connection.execute(query).fetchall())


@pytest.fixture(scope="module")
def platform(
    homes: Path, model: ReadmissionModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Platform]:
    """Its home has a champion, and a PostgreSQL that is stopped. Its schedules are on."""
    days = closed_mornings(3, until=datetime.now(UTC) - timedelta(hours=1))
    settings = Settings(home=homes / "platform")
    prepare(settings.databases())
    resources = default_resources(settings)
    warehouse, registry = resources["warehouse"], resources["registry"]
    for number, day in enumerate(days):
        add(warehouse, clean_day(day, ROWS, first_number=1000 * number))
    files = tmp_path_factory.mktemp("champion")
    model.save(files)
    registry.set_alias(MODEL, registry.register(MODEL, files), CHAMPION)
    warehouse.close()
    assert release(settings.postgres_directory)
    with pytest.MonkeyPatch.context() as environment, starting(settings.home) as start:
        environment.setenv("MEDSCORE_SCHEDULES", "running")
        environment.setenv("MEDSCORE_FIRST_DAY", days[0])
        yield Platform(start(MEDSCORE, "up"), settings, warehouse, days)
    warehouse.close()
    release(settings.postgres_directory)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=30) as response:
            return bool(response.status == 200)
    except OSError:
        return False


@pytest.mark.slow
def test_everything_answers(platform: Platform) -> None:
    up = platform.up
    assert eventually(lambda: "MedScore is up" in up.said, 240), up.said
    dagster, mlflow, api = (f"http://127.0.0.1:{port}" for port in up.ports)
    assert dagster in up.said
    assert mlflow in up.said
    assert f"{api}/portal" in up.said
    assert answers(f"{api}/health/live")
    assert answers(f"{dagster}/server_info")
    assert answers(f"{mlflow}/health")
    assert "does not answer yet" not in up.said
    assert any(process.name() == "postgres" for process in up.family())


@pytest.mark.faults
@pytest.mark.slow
def test_after_a_weekend_without_the_daemon_all_lists_are_there(platform: Platform) -> None:
    expected = dict.fromkeys(platform.days, ROWS)
    assert eventually(lambda: platform.made().keys() >= expected.keys(), 240), platform.up.said
    assert eventually(lambda: {s for _, s in platform.runs()} == {"SUCCESS"}, 120), platform.runs()

    made, runs = platform.made(), platform.runs()
    assert {day: made[day] for day in expected} == expected
    assert {day: runs[day, "SUCCESS"] for day in expected} == dict.fromkeys(expected, 1)
    listed = Counter(
        (str(row["score_date"]), row["encounter_id"])
        for row in rows_of(platform.warehouse, tables.care_management_scores)
    )
    assert len(listed) == listed.total() == 3 * ROWS
    assert len({encounter for _, encounter in listed}) == 3 * ROWS


@pytest.mark.slow
def test_ctrl_c_leaves_nothing(platform: Platform) -> None:
    up = platform.up
    platform.warehouse.close()
    release(platform.settings.postgres_directory)
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(120) == 0
    assert eventually(lambda: not up.family(), 60), up.family()
    assert "PostgreSQL is stopped too" in up.said
    log = platform.settings.postgres_directory / "data" / "log"
    assert log.read_text().rstrip().endswith("database system is shut down")
