"""`medscore models` in this process, on a real registry, journal, warehouse and Dagster instance."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from typer.testing import CliRunner

from medscore_assets import definitions, tables
from medscore_assets.cli import app
from medscore_assets.model_decisions import journal
from medscore_assets.readmission.scoring import MODEL
from medscore_assets.report.files import PAGE
from medscore_assets.runs import instance
from medscore_assets.settings import PROJECT_ROOT, Settings
from resources.errors import PermanentError
from resources.registry import CHAMPION, ModelRegistry
from resources.warehouse import Warehouse
from tests.readmission.records import clean_day
from tests.readmission.test_outreach import DAY, add, rows_of

WHY = ("--reason", "Agreed in the meeting of the committee")
ASSET = dg.AssetKey("readmission_champion")


class CommandLine:
    """`medscore` with settings of its own, called in this process."""

    def __call__(self, *arguments: str) -> str:
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    def document(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json").splitlines()[0])


@pytest.fixture
def medscore(
    database: str,
    versions: ModelRegistry,
    tmp_path: Path,
    clean_environment: pytest.MonkeyPatch,
) -> CommandLine:
    for name, value in {
        "MEDSCORE_HOME": str(tmp_path / "home"),
        "MEDSCORE_DATABASE_URL": database,
        "MEDSCORE_MLFLOW_DATABASE_URL": str(versions._tracking_uri),
        "MEDSCORE_MLFLOW_ARTIFACTS": versions._artifacts,
        "COLUMNS": "200",
    }.items():
        clean_environment.setenv(name, value)
    # Jobs are run from the definitions of this process, which were made under other settings.
    clean_environment.setattr(definitions, "defs", definitions.build_defs(Settings()))
    return CommandLine()


def decisions_told() -> list[Any]:
    with instance() as shared:
        records = shared.fetch_materializations(ASSET, limit=50, ascending=True).records
    return [r.asset_materialization.metadata["decision_id"].value for r in records if r.asset_materialization]


@pytest.mark.slow
def test_a_promotion_scores_the_newest_list_again_and_one_command_undoes_it_within_a_minute(
    medscore: CommandLine, warehouse: Warehouse, versions: ModelRegistry
) -> None:
    add(warehouse, clean_day(DAY, 6))
    medscore("models", "promote", "1", *WHY, "--override-gate", "--by", "A. Person")
    medscore("outreach", "make", "--date", DAY)
    made = medscore.document("models", "promote", "2", *WHY, "--override-gate")
    assert (made["champion_after"], list_is_by(warehouse)) == (2, 2)

    command = [sys.executable, "-m", "medscore_assets.cli", "models", "rollback", *WHY, "--json"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Its own time, which others that keep the machine busy do not add to.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 60
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["champion_after"] == 1
    assert (versions.version_with(MODEL, CHAMPION), list_is_by(warehouse)) == (1, 1)

    entered = journal(warehouse, MODEL)
    assert decisions_told()[-3:] == [d.decision_id for d in entered]
    shown = " ".join(medscore("models", "history").split())
    assert all(text in shown for text in ("1 → 2", "2 → 1", "rolled back", "A. Person", WHY[1]))
    newest_first = [d.decision_id for d in entered[::-1]]
    assert [d["decision_id"] for d in medscore.document("models", "history")] == newest_first


def list_is_by(warehouse: Warehouse) -> int:
    """The one version by which the one list and all its scores are."""
    rows = rows_of(warehouse, tables.outreach_lists) + rows_of(warehouse, tables.care_management_scores)
    (version,) = {row["model_version"] for row in rows}
    return int(version)


def test_without_rescoring_the_list_waits_for_the_sensor(medscore: CommandLine, warehouse: Warehouse) -> None:
    add(warehouse, clean_day(DAY, 6))
    medscore("models", "promote", "1", *WHY, "--override-gate")
    medscore("outreach", "make", "--date", DAY)
    medscore("models", "promote", "2", *WHY, "--override-gate", "--no-rescore")
    assert list_is_by(warehouse) == 1


def test_a_decision_that_is_refused_says_what_to_do(medscore: CommandLine) -> None:
    for arguments, said in (
        (("promote", "1", "--reason", "because"), "reason of at least 10 characters"),
        (("promote", "1", *WHY), "--override-gate"),
        (("promote", "9", *WHY), "no version 9"),
        (("rollback", *WHY), "no champion before"),
        (("promote", "1", *WHY, "--name", "wait_times"), "no model family wait_times"),
    ):
        with pytest.raises(PermanentError, match=said):
            CliRunner().invoke(app, ("models", *arguments), catch_exceptions=False)


def test_a_report_is_fetched_from_the_registry(
    medscore: CommandLine,
    versions: ModelRegistry,
    tmp_path: Path,
) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / PAGE).write_text("<p>the report</p>")
    versions.attach(MODEL, 2, tmp_path / "made", "evaluation")
    found = Path(medscore("models", "report", "--version", "2").strip())
    assert found.read_text() == "<p>the report</p>"
    assert found.is_relative_to(Settings().home)
    assert medscore.document("models", "report", "--version", "2")["report"] == str(found)
    with pytest.raises(PermanentError, match="version 3 has no evaluation"):
        medscore("models", "report", "--version", "3")
