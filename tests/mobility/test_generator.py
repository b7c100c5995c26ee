"""Generated steps: the same whatever else is generated, and with every fault that was asked for."""

from __future__ import annotations

from datetime import date, timedelta
from itertools import groupby

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from medscore_assets.demo.step_patients import BLOCK, ZONES, clinical_tables
from medscore_assets.demo.steps import StepPlan, day_records, write
from medscore_assets.mobility.raw import DIAGNOSES, RAW_STEPS, THERAPIES
from resources.errors import PermanentError
from resources.lake import Lake

DAY = date(2026, 3, 10)


def of_patient(records: pa.Table, patient: str) -> list[dict[str, object]]:
    return records.filter(pc.equal(records["patient_id"].cast(pa.string()), patient)).to_pylist()


def test_a_patient_and_day_are_the_same_whatever_else_is_generated() -> None:
    few = day_records(StepPlan(5, DAY, DAY), DAY)
    many = day_records(StepPlan(BLOCK + 3, DAY - timedelta(days=40), DAY), DAY)
    for kind in ("in_time", "late", "truth"):
        one, other = getattr(few, kind), getattr(many, kind)
        for patient in ("demo-0000000", "demo-0000004"):
            assert of_patient(one, patient) == of_patient(other, patient)
    another = day_records(StepPlan(5, DAY, DAY, seed=1), DAY)
    assert another.in_time.to_pylist() != few.in_time.to_pylist()


def test_an_impossible_count_comes_also_where_no_later_patient_has_a_record() -> None:
    day = date(2032, 3, 31)
    one = of_patient(day_records(StepPlan(1, day, day), day).in_time, "demo-0000000")
    many = of_patient(day_records(StepPlan(BLOCK, day, day), day).in_time, "demo-0000000")
    assert [row["count"] for row in many] == [301]
    assert one == many


def test_threads_and_splits_change_no_byte(raw_lake: Lake, step_plan: StepPlan, lake: Lake) -> None:
    days = step_plan.days[:6]
    for first, last, threads in ((days[3], days[5], 2), (days[0], days[2], 1)):
        write(StepPlan(step_plan.patients, first, last, step_plan.seed), lake, threads=threads)
    # The first and the last UTC day also have records of days outside.
    for day in days[1:]:
        assert lake.files(RAW_STEPS, day) == raw_lake.files(RAW_STEPS, day)


def test_writing_again_adds_nothing_and_other_patients_are_refused(lake: Lake) -> None:
    plan = StepPlan(5, DAY, DAY + timedelta(days=1))
    write(plan, lake)
    before = lake.dataset_paths(RAW_STEPS, date.min, date.max)
    write(plan, lake)
    assert lake.dataset_paths(RAW_STEPS, date.min, date.max) == before
    with pytest.raises(PermanentError, match="other patients"):
        write(StepPlan(6, DAY, DAY), lake)


def test_every_record_lies_in_its_utc_day(raw_lake: Lake, step_plan: StepPlan) -> None:
    for day in (step_plan.days[0], step_plan.days[17], step_plan.days[-1] + timedelta(days=1)):
        rows = raw_lake.read_day(RAW_STEPS, day)
        assert set(rows["timestamp"].cast(pa.date32()).to_pylist()) == {day}


def test_files_come_by_zone_as_their_row_groups_say(raw_lake: Lake, step_plan: StepPlan) -> None:
    (path, *_) = raw_lake.local(raw_lake.files(RAW_STEPS, step_plan.days[17]))
    zones = pq.read_table(path)["zone"].cast(pa.string()).to_pylist()
    assert len(set(zones)) > 2
    assert [zone for zone, _ in groupby(zones)] == sorted(set(zones), key=ZONES.index)
    said = pq.read_metadata(path).row_group(0).column(RAW_STEPS.schema.get_field_index("zone")).statistics
    assert (said.min, said.max, said.null_count) == (min(zones), max(zones), 0)


def test_activity_has_weekdays_seasons_and_trends() -> None:
    plan = StepPlan(BLOCK, date(2024, 1, 1), date(2026, 12, 31))

    def mean(*days: date) -> float:
        return sum(pc.mean(day_records(plan, day).truth["steps"]).as_py() for day in days) / len(days)

    def same_weekdays(year: int, month: int) -> list[date]:
        first = date(year, month, 1)
        return [first + timedelta(days=(2 - first.weekday()) % 7 + 7 * i) for i in range(3)]

    summer, winter = mean(*same_weekdays(2025, 7)), mean(*same_weekdays(2025, 1))
    assert summer > 1.1 * winter
    assert mean(*same_weekdays(2025, 1)) < mean(*same_weekdays(2024, 1))
    wednesdays = same_weekdays(2025, 7)
    assert mean(*(day + timedelta(days=4) for day in wednesdays)) < 0.95 * summer


def test_clinical_tables_know_nothing_of_what_comes_later() -> None:
    tables = clinical_tables(1, 500, DAY)
    for dataset in (DIAGNOSES, THERAPIES):
        table = tables[dataset.path]
        assert pc.max(table["valid_from"]).as_py() <= DAY
        ends = pc.max(table["valid_to"]).as_py()
        assert ends is None or ends <= DAY
    with_history = set(tables[DIAGNOSES.path]["patient_id"].to_pylist())
    assert 400 < len(with_history) < 500
    assert tables[DIAGNOSES.path].num_rows > len(with_history)


def test_the_command_writes_a_lake(tmp_path_factory: pytest.TempPathFactory) -> None:
    from medscore_assets.cli.mobility import demo_steps  # noqa: F401
    from medscore_assets.cli.records import demo

    folder = tmp_path_factory.mktemp("lake")
    arguments = ["steps", "--patients", "3", "--days", "2", "--until", "2026-03-10", "--lake", str(folder)]
    said = CliRunner().invoke(demo, arguments)
    assert said.exit_code == 0, said.output
    assert Lake(folder).days(RAW_STEPS)[0] == date(2026, 3, 9)
