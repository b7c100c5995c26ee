"""Features of ranges of days: the expression's, in however many parts, and each day whole or as it was."""

from __future__ import annotations

import shutil
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from medscore_assets.contracts.measures import FeatureTable
from medscore_assets.contracts.mobility import MOBILITY
from medscore_assets.demo.steps import StepPlan
from medscore_assets.mobility import preparing
from medscore_assets.mobility.daily import DAILY_STEPS
from medscore_assets.mobility.day_arrays import features_by_day
from medscore_assets.mobility.engines import EngineOptions, connect
from medscore_assets.mobility.features import feature_frame
from medscore_assets.mobility.forecasts import PATIENT_FEATURES
from medscore_assets.mobility.preparing import make_features, make_rollups
from medscore_assets.mobility.raw import CLINICAL
from resources.errors import ContractViolation
from resources.lake import Lake
from tests.mobility.histories import odd_histories, tables

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


def test_parts_and_passes_change_no_cell(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_features_from_arrays_are_those_of_the_expression_to_the_last_bit(lake: Lake) -> None:
    first, last = date(2026, 1, 28), date(2026, 3, 4)
    begin = first - timedelta(days=45)
    odd = tables(odd_histories(begin, (last - begin).days))
    daily = odd.pop("daily")
    ones = {name: pa.array([1] * len(daily)) for name in ("devices", "records", "flags")}
    daily = pa.table({name: ones[name] if name in ones else daily[name] for name in DAILY_STEPS.schema.names})
    for name, table in odd.items():
        lake.write(next(d for d in CLINICAL if d.path.endswith(name)), table)
    shutil.rmtree(Path(lake.url) / "processed")
    for day in sorted(set(daily["day"].to_pylist())):
        lake.write_day(DAILY_STEPS, day, daily.filter(pc.equal(daily["day"], day)))
    with connect(EngineOptions(threads=2)) as engine:
        make_rollups(lake, engine, lake.days(DAILY_STEPS))
        frame = feature_frame(engine.feature_inputs(lake, first, last), first, last)
        wanted = MOBILITY.conform(frame.to_pyarrow(), where="").sort_by(
            [("day", "ascending"), ("patient_id", "ascending")]
        )
        for rows in (100, 10**6):
            found = pa.concat_tables(features_by_day(lake, engine, first, last, rows_at_once=rows))
            assert found.equals(wanted)
    assert len(wanted) > 200


def test_a_part_that_breaks_the_contract_leaves_all_days_of_the_pass_as_they_were(
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


def test_a_patient_with_two_rows_on_a_day_stops_the_pass_and_leaves_its_days_as_they_were(lake: Lake) -> None:
    before = made(lake)
    steps = lake.read_day(DAILY_STEPS, GAP)
    lake.write_day(DAILY_STEPS, GAP, pa.concat_tables([steps, steps.slice(0, 1)]))
    with connect(EngineOptions(threads=1)) as engine, pytest.raises(ContractViolation, match="several rows"):
        make_features(lake, engine, [GAP - timedelta(days=1), GAP, GAP + timedelta(days=1)])
    assert lake.read_day(PATIENT_FEATURES, GAP + timedelta(days=1)).equals(before[GAP + timedelta(days=1)])
    assert GAP not in lake.days(PATIENT_FEATURES)
