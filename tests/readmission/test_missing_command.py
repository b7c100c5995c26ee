"""`medscore missing`: what it says, what it makes, and its exit code."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pytest
from typer.testing import CliRunner, Result

from medscore_assets import cli, tables
from medscore_assets.definitions import build_defs
from medscore_assets.partitions import closed_mornings, window
from medscore_assets.readmission.policy import load_policy
from medscore_assets.readmission.publish import Champion, publish_list
from medscore_assets.readmission.scoring import ReadmissionModel
from medscore_assets.runs import _failure, _of_partitions
from resources.errors import MedscoreError
from resources.registry import ModelRegistry
from resources.warehouse import Warehouse
from tests.readmission.records import clean_day, discharge, local
from tests.readmission.test_outreach import add, rows_of


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, warehouse: Warehouse, champion: ModelRegistry) -> list[Any]:
    """The stretches that are run: here with the test's resources, else as `runs.execute` does."""
    url = warehouse.engine.url.render_as_string(hide_password=False)
    monkeypatch.setenv("MEDSCORE_DATABASE_URL", url)
    made: list[Any] = []

    def run_job(job: str, doing: str, done: str, *, partition: str, until: str) -> None:
        made.append((partition, until))
        definition = build_defs(warehouse=warehouse, registry=champion).resolve_job_def(job)
        with dg.DagsterInstance.ephemeral() as instance:
            result = definition.execute_in_process(
                instance=instance, raise_on_error=False, **_of_partitions(partition, until)
            )
            if not result.success:
                raise _failure(result, job)

    # By its name the package has the group of commands.
    command = importlib.import_module("medscore_assets.cli.outreach")
    monkeypatch.setattr(command, "run_job", run_job)
    monkeypatch.setattr(command, "prepare", lambda settings: None)
    return made


@pytest.fixture
def missing(runs: list[Any]) -> Callable[..., Result]:
    return lambda *arguments: CliRunner().invoke(cli.app, ["missing", *arguments])


@pytest.mark.slow
def test_missing_and_stale_lists_are_named_and_made_a_stretch_at_a_time(
    warehouse: Warehouse, model: ReadmissionModel, runs: list[Any], missing: Callable[..., Result]
) -> None:
    nothing = missing()
    assert (nothing.exit_code, "up to date" in nothing.output) == (0, True)

    days = closed_mornings(6, until=datetime.now(UTC))
    add(warehouse, clean_day(days[0], 5))
    for day in (days[0], days[1], days[3]):
        publish_list(warehouse, window(day), lambda: Champion(model, 1), load_policy())
    add(warehouse, [discharge(99, local(days[1]))])
    looked = missing("--json")
    assert looked.exit_code == 1
    found = {row["day"]: row for row in json.loads(looked.output)["lists"]}
    assert {day: row["state"] for day, row in found.items()} == {
        days[1]: "out of date",
        days[2]: "missing",
        days[4]: "missing",
        days[5]: "missing",
    }
    assert (found[days[1]]["now"]["events"], found[days[1]]["listed"]["events"]) == (1, 0)
    assert runs == []

    done = missing("--make")
    assert (done.exit_code, done.exception) == (0, None)
    assert runs == [(days[1], days[2]), (days[4], days[5])]
    assert [str(r["score_date"]) for r in rows_of(warehouse, tables.outreach_lists)] == days
    assert missing("--make").exit_code == 0
    assert len(runs) == 2


def test_a_day_that_is_refused_does_not_stop_the_others_and_is_told(
    warehouse: Warehouse, model: ReadmissionModel, runs: list[Any], missing: Callable[..., Result]
) -> None:
    days = closed_mornings(3, until=datetime.now(UTC))
    add(warehouse, [row | {"insurance_type": "unheard of"} for row in clean_day(days[0], 5)])
    publish_list(warehouse, window(days[1]), lambda: Champion(model, 1), load_policy())
    done = missing("--make")
    assert isinstance(done.exception, MedscoreError)
    assert "5 of 5 discharges break the contract" in str(done.exception)
    assert runs == [(days[0], days[0]), (days[2], days[2])]
    assert [str(r["score_date"]) for r in rows_of(warehouse, tables.outreach_lists)] == days[1:]
