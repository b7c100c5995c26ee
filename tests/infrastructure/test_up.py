"""`medscore up`, really started after a weekend without it: it answers, makes the lists, and leaves nothing.

All tests here look at one start, in their order; the last one stops it.
"""

from __future__ import annotations

import signal
import urllib.request
from collections import Counter

import pytest

from medscore_assets import tables
from resources.embedded_postgres import release
from tests.infrastructure.conftest import ROWS, Platform
from tests.infrastructure.services import eventually
from tests.readmission.test_outreach import rows_of


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
