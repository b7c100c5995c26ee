"""The population report as Dagster runs it: materializations, files, refusals, the command."""

from __future__ import annotations

import hashlib
import importlib
import json
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from typer.testing import CliRunner

from medscore_assets import definitions
from medscore_assets.definitions import build_defs
from medscore_assets.partitions import partition_of_quarter
from medscore_assets.readmission.population import files
from medscore_assets.readmission.population.dimensions import CUBES
from resources.errors import PermanentError
from resources.registry import ModelRegistry
from resources.warehouse import Warehouse
from tests.readmission.population.members import QUARTER, load, many_members

KEY = partition_of_quarter(QUARTER)
# Under that name the package has the group of commands.
commands = importlib.import_module("medscore_assets.cli.population")


@pytest.fixture
def run(warehouse: Warehouse, champion: ModelRegistry, tmp_path: Path) -> Any:
    """Runs the job of the report for one quarter, or for all from `first` to it in one run."""
    defs = build_defs(warehouse=warehouse, registry=champion, reports_folder=tmp_path)
    job = defs.resolve_job_def("population_report")

    def once(first: str = KEY) -> dg.ExecuteInProcessResult:
        ends = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": KEY}
        which: dict[str, Any] = {"partition_key": KEY} if first == KEY else {"tags": ends}
        with dg.DagsterInstance.ephemeral() as instance:
            return job.execute_in_process(**which, instance=instance, raise_on_error=False)

    return once


def failure(result: dg.ExecuteInProcessResult) -> Any:
    (event,) = [e for e in result.all_events if e.is_step_failure]
    return event.step_failure_data.user_failure_data


def shown_by_commands(warehouse: Warehouse, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What `population report` and `population show` print of a report that is there."""
    found = {"warehouse": warehouse, "registry": None, "reports_folder": folder}
    monkeypatch.setattr(definitions, "default_resources", lambda settings: found)
    for name in ("prepare", "run_job"):
        monkeypatch.setattr(commands, name, lambda *arguments, **options: None)
    said = ""
    for line in ("report --quarter 2026-Q3", "show", "show --cube age_group_sex --json"):
        answer = CliRunner().invoke(commands.population, line.split(), catch_exceptions=False)
        assert answer.exit_code == 0
        said += answer.stdout
    return said


@pytest.mark.slow
def test_a_quarter_is_reported_with_checks_and_files_that_are_never_overwritten(
    warehouse: Warehouse, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(warehouse, many_members(1_500, hospitals=3))
    result = run()
    assert result.success
    evaluations = result.get_asset_check_evaluations()
    assert {e.check_name for e in evaluations} == {"every_member_is_counted", "no_small_count_is_published"}
    assert all(e.passed for e in evaluations)
    (event,) = result.asset_materializations_for_node("population_risk_summary")
    told = event.metadata
    assert (event.partition, told["members"].value, told["version"].value) == (KEY, 1500, 1)

    folder = tmp_path / "population" / "2026-Q3" / "v1"
    manifest = json.loads((folder / "manifest.json").read_text())
    made = {f.name: f.read_bytes() for f in folder.iterdir()}
    assert {f"{cube}.csv" for cube in CUBES} < set(made)
    for name, entry in manifest["files"].items():
        assert hashlib.sha256(made[name]).hexdigest() == entry["sha256"]
    assert [f.name for f in folder.parent.iterdir()] == ["v1"]

    moved = folder.rename(tmp_path / "before")
    assert run().success
    assert (
        {f.name: f.read_bytes() for f in folder.iterdir()}
        == made
        == {f.name: f.read_bytes() for f in moved.iterdir()}
    )
    times = {f.name: f.stat().st_mtime_ns for f in folder.iterdir()}
    assert files.made_files(warehouse, QUARTER, tmp_path).files.keys() == made.keys() - {"manifest.json"}

    said = shown_by_commands(warehouse, tmp_path, monkeypatch)
    assert "Of 3 hospitals" in said or "No hospital" in said
    assert str(folder) in said
    assert "Pacific" in said

    (folder / "region.csv").write_text("other\n")
    refused = failure(run())
    assert "holds other files than this report's" in refused.description
    assert "move the folder away" in refused.description
    assert {f.name: f.stat().st_mtime_ns for f in folder.iterdir() if f.name != "region.csv"} == {
        name: at for name, at in times.items() if name != "region.csv"
    }


def test_earlier_quarters_are_backfilled_in_one_run_the_oldest_first(
    warehouse: Warehouse, run: Any, tmp_path: Path
) -> None:
    before = QUARTER.previous
    load(warehouse, many_members(600, hospitals=2))
    load(warehouse, many_members(500, hospitals=2), before)
    result = run(partition_of_quarter(before))
    assert result.success
    made = {e.partition: e.metadata for e in result.asset_materializations_for_node("population_risk_report")}
    assert [made[partition_of_quarter(q)]["members"].value for q in (before, QUARTER)] == [500, 600]
    # Each is compared with the one before it, which this run has just made.
    told = [str(made[partition_of_quarter(q)]["input_fingerprint"].value) for q in (before, QUARTER)]
    assert told[0].endswith("after none")
    assert told[1].endswith(f"after {before} v1")
    assert {folder.name for folder in (tmp_path / "population").iterdir()} == {before.key, QUARTER.key}


def test_a_quarter_without_members_fails_clearly_and_for_good(run: Any, tmp_path: Path) -> None:
    result = run()
    assert "no members are loaded for 2026-Q3" in failure(result).description
    assert not [e for e in result.all_events if e.is_step_up_for_retry]
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_another_contract_is_refused(
    warehouse: Warehouse, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medscore_assets.readmission import scoring

    load(warehouse, many_members(20))
    manifest = scoring.read_manifest
    monkeypatch.setattr(
        scoring, "read_manifest", lambda d: manifest(d).model_copy(update={"contract_hash": "0" * 64})
    )
    told = failure(run())
    assert "the model was trained under contract readmission 000000000000" in told.description
    assert "medscore train readmission" in told.description
    with pytest.raises(PermanentError, match="no summary of 2026-Q3"):
        files.require_header(warehouse, None, QUARTER)
