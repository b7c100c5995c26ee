"""A weekend without the daemon: when it is up again, it makes every list that nobody made."""

from __future__ import annotations

import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from medscore_assets import tables
from medscore_assets.partitions import closed_mornings
from medscore_assets.settings import PROJECT_ROOT
from resources.registry import ModelRegistry
from resources.warehouse import Warehouse
from tests.conftest import address_of
from tests.infrastructure.test_processes import Up, eventually, start
from tests.readmission.records import clean_day
from tests.readmission.test_outreach import add, rows_of

__all__ = ["start"]

DAEMON = (
    Path(sys.executable).parent / "dagster-daemon",
    "run",
    "--workspace",
    PROJECT_ROOT / "workspace.yaml",
)
ROWS = 20


@pytest.fixture
def instance(postgres: str, database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The environment of an installation with schedules on. Gives the address of Dagster's database."""
    name = f"{database.partition('?')[0].rpartition('/')[2]}_dagster"
    for variable, value in {
        "MEDSCORE_DATABASE_URL": database,
        "MEDSCORE_MLFLOW_DATABASE_URL": address_of(postgres, "registry"),
        "MEDSCORE_SCHEDULES": "running",
        "DAGSTER_HOME": str(PROJECT_ROOT),
    }.items():
        monkeypatch.setenv(variable, value)
    yield address_of(postgres, name, "postgresql")
    with psycopg.connect(postgres, autocommit=True) as server:
        server.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def runs_of(instance: str) -> Counter[tuple[str, str]]:
    """How many runs of the outreach job there were, by day and how they ended."""
    query = "SELECT partition, status FROM runs WHERE pipeline_name = 'readmission_outreach'"
    with psycopg.connect(instance) as connection:
        return Counter(connection.execute(query).fetchall())


@pytest.mark.faults
@pytest.mark.slow
def test_after_a_weekend_without_the_daemon_all_lists_are_there(
    instance: str,
    warehouse: Warehouse,
    champion: ModelRegistry,
    start: Callable[..., Up],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    friday, saturday, sunday = closed_mornings(3, until=datetime.now(UTC) - timedelta(hours=1))
    monkeypatch.setenv("MEDSCORE_FIRST_DAY", friday)
    for number, day in enumerate((friday, saturday, sunday)):
        add(warehouse, clean_day(day, ROWS, first_number=1000 * number))

    daemon = start(*DAEMON)
    expected = {friday: ROWS, saturday: ROWS, sunday: ROWS}

    def made() -> dict[str, int]:
        return {str(row["score_date"]): row["scored"] for row in rows_of(warehouse, tables.outreach_lists)}

    assert eventually(lambda: made().keys() >= expected.keys(), 240), daemon.said
    assert eventually(lambda: {s for _, s in runs_of(instance)} == {"SUCCESS"}, 60), runs_of(instance)
    daemon.process.send_signal(signal.SIGTERM)
    daemon.process.wait(60)

    assert {day: made()[day] for day in expected} == expected
    listed = Counter(
        (str(row["score_date"]), row["encounter_id"])
        for row in rows_of(warehouse, tables.care_management_scores)
    )
    assert len(listed) == listed.total() == 3 * ROWS
    assert len({encounter for _, encounter in listed}) == 3 * ROWS
    runs = runs_of(instance)
    assert {day: runs[day, "SUCCESS"] for day in expected} == dict.fromkeys(expected, 1)
