"""Features of ranges of days: the same in however many passes and blocks, and each day whole or as it was."""

from __future__ import annotations

import shutil
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medscore_assets.contracts.measures import FeatureTable
from medscore_assets.demo.steps import StepPlan
from medscore_assets.mobility import preparing
from medscore_assets.mobility.engines import EngineOptions, connect
from medscore_assets.mobility.forecasts import PATIENT_FEATURES
from medscore_assets.mobility.preparing import make_features, make_rollups
from resources.errors import ContractViolation
from resources.lake import Lake

GAP = date(2026, 3, 4)
DAYS = [GAP + n * timedelta(days=1) for n in (-3, -2, -1, 1)]


@pytest.fixture
def lake(daily_lake: Lake, step_plan: StepPlan, tmp_path: Path) -> Lake:
    """Days of steps and their monthly sums, to be written to."""
    shutil.copytree(daily_lake.url, tmp_path / "lake")
    own = Lake(tmp_path / "lake")
    with connect(EngineOptions(threads=1)) as engine:
        make_rollups(own, engine, step_plan.days)
    return own


def made(lake: Lake) -> dict[date, pa.Table]:
    """The features of all days, made and read back."""
    with connect(EngineOptions(threads=1)) as engine:
        rows = make_features(lake, engine, DAYS)
    found = {day: lake.read_day(PATIENT_FEATURES, day) for day in DAYS}
    assert rows == {day: table.num_rows for day, table in found.items()}
    return found


def test_blocks_and_passes_change_no_cell(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = made(lake)
    monkeypatch.setattr(preparing, "ROWS_AT_ONCE", 30)
    monkeypatch.setattr(preparing, "MOST_DAYS_AT_ONCE", 2)
    in_parts = made(lake)

    for day, table in at_once.items():
        assert in_parts[day].equals(table)
        patients = table["patient_id"].to_pylist()
        assert len(patients) > 20
        assert patients == sorted(set(patients))
    assert GAP not in lake.days(PATIENT_FEATURES)
    files = lake.local([name for day in DAYS for name in lake.files(PATIENT_FEATURES, day)])
    # Two blocks in the pass of two days, and one for a day by itself.
    assert [pq.read_metadata(file).num_row_groups for file in files] == [2, 2, 1, 1]


def test_a_block_that_breaks_the_contract_leaves_all_days_of_the_pass_as_they_were(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = made(lake)
    monkeypatch.setattr(preparing, "ROWS_AT_ONCE", 60)
    asked: list[int] = []

    def refuses_the_second_block(self: FeatureTable, table: pa.Table, *, where: str) -> None:
        asked.append(table.num_rows)
        if len(asked) == 2:
            raise ContractViolation("broken", where=where, mend="mend")

    monkeypatch.setattr(FeatureTable, "require", refuses_the_second_block)
    with connect(EngineOptions(threads=1)) as engine, pytest.raises(ContractViolation):
        make_features(lake, engine, DAYS)
    assert len(asked) == 2
    assert all(lake.read_day(PATIENT_FEATURES, day).equals(table) for day, table in before.items())
    assert not [*Path(lake.url).rglob(".aside-*")]
