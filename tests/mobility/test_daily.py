"""What a day of steps is: one device an hour, the patient's own day, and nothing that cannot be."""

from __future__ import annotations

import random
from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from medscore_assets.demo.steps import StepPlan, day_records, write
from medscore_assets.mobility import day_records as raw_day_records
from medscore_assets.mobility import hours
from medscore_assets.mobility.daily import (
    DAILY_STEPS,
    MOST_DEVICES,
    MOST_PER_RECORD,
    DayFlag,
    day_of,
    write_daily,
)
from medscore_assets.mobility.preparing import make_steps, raw_state
from medscore_assets.mobility.raw import PATIENTS, RAW_STEPS, touching
from resources.errors import PermanentError
from resources.lake import Lake
from tests.mobility.raw_records import AS_OF, DAY, NOON, daily, deliver, record, records

MINUTE = timedelta(minutes=1)
NEW_YORK = ZoneInfo("America/New_York")


def minutes(first: datetime, n: int, count: int, **more: str) -> list[dict[str, object]]:
    return [record(first + i * MINUTE, count, **more) for i in range(n)]


def test_the_device_worn_longer_in_an_hour_counts_and_nothing_is_added_up(lake: Lake) -> None:
    deliver(
        lake,
        *minutes(NOON, 30, 100, device="watch"),
        *minutes(NOON, 20, 200, device="phone"),
        *minutes(NOON + timedelta(hours=1), 10, 50, device="phone"),
        *minutes(NOON, 5, 10, patient="b"),
    )
    rows = daily(lake)
    assert rows["a"]["steps"] == 30 * 100 + 10 * 50
    assert rows["a"]["devices"] == 2
    assert rows["a"]["wear_minutes"] == 120
    assert rows["a"]["flags"] == DayFlag.OVERLAPPING_DEVICES | DayFlag.PARTIAL_DAY
    assert rows["b"]["flags"] == DayFlag.PARTIAL_DAY


def test_in_equally_many_minutes_the_device_with_more_steps_counts(lake: Lake) -> None:
    deliver(lake, *minutes(NOON, 3, 20, device="a"), *minutes(NOON, 3, 30, device="b"))
    assert daily(lake)["a"]["steps"] == 90


def test_devices_in_different_hours_do_not_overlap(lake: Lake) -> None:
    deliver(lake, record(NOON, 10, device="a"), record(NOON + timedelta(hours=2), 20, device="b"))
    row = daily(lake)["a"]
    assert (row["steps"], row["flags"] & DayFlag.OVERLAPPING_DEVICES) == (30, 0)


def test_the_day_is_the_records_then_the_homes_and_never_the_sessions(lake: Lake) -> None:
    evening = datetime(2026, 3, 10, 23, 30, tzinfo=NEW_YORK)
    deliver(
        lake,
        record(evening, 10, zone="America/New_York", patient="here"),
        record(evening, 20, zone=None, patient="unsaid"),
        record(evening, 30, zone="Mars/Olympus", patient="unknown"),
        record(evening, 40, zone="Asia/Tokyo", patient="abroad"),
        home="America/New_York",
    )
    assert {k: r["steps"] for k, r in daily(lake).items()} == {"here": 10, "unsaid": 20, "unknown": 30}
    assert {k: r["steps"] for k, r in daily(lake, date(2026, 3, 11)).items()} == {"abroad": 40}
    names = [name for day in (10, 11) for name in lake.files(RAW_STEPS, date(2026, 3, day))]
    session = ibis.duckdb.connect()
    session.con.execute("SET TimeZone = 'Pacific/Kiritimati'")
    rows = day_of(lake.local(names), DAY, lake.read(PATIENTS), as_of=AS_OF, connection=session)
    assert sorted(rows["steps"].to_pylist()) == [10, 20, 30]


@pytest.mark.parametrize(
    ("zone", "day", "length"),
    [
        ("America/New_York", date(2026, 3, 8), 23),
        ("America/New_York", date(2026, 11, 1), 25),
        # 24 and a half hours, and 23 and a half.
        ("Australia/Lord_Howe", date(2026, 4, 5), 25),
        ("Australia/Lord_Howe", date(2026, 10, 4), 24),
    ],
)
def test_a_day_on_which_the_clock_changes_has_every_hour_that_begins_on_it(
    lake: Lake, zone: str, day: date, length: int
) -> None:
    starts = datetime.combine(day, datetime.min.time(), ZoneInfo(zone)).astimezone(UTC)
    every = [record(starts + timedelta(hours=h - 3), 1, zone=zone) for h in range(31)]
    deliver(lake, *every)
    row = daily(lake, day)["a"]
    assert (row["steps"], row["wear_minutes"]) == (length, length * 60)
    assert row["flags"] == DayFlag.CLOCK_CHANGE


def test_a_row_group_of_one_zone_may_have_records_without_one(lake: Lake) -> None:
    # It is the next day in Tokyo.
    evening = NOON + timedelta(hours=8)
    deliver(lake, record(evening, 10), record(evening, 20, zone=None, patient="unsaid"), home="Asia/Tokyo")
    assert {k: r["steps"] for k, r in daily(lake).items()} == {"a": 10}


def test_a_zone_that_no_record_names_changes_nothing(lake: Lake) -> None:
    rows = records(record(NOON, 10), record(NOON, 20, zone="Europe/Paris", patient="b"))
    at = rows.schema.get_field_index("zone")
    for names in (["UTC", "Europe/Paris"], ["UTC", "Europe/Paris", "unknown"]):
        zone = pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int32()), pa.array(names))
        paths = lake.local([lake.write_day(RAW_STEPS, DAY, rows.set_column(at, "zone", zone))])
        found = day_of(paths, DAY, lake.read(PATIENTS), as_of=AS_OF)
        assert (found["patient_id"].to_pylist(), found["steps"].to_pylist()) == (["a", "b"], [10, 20])


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_times_count_the_same_in_any_unit(lake: Lake, unit: str, tmp_path: Path) -> None:
    rows = records(record(NOON, 10), record(NOON - timedelta(days=1), 20, patient="b"))
    times = rows["timestamp"].cast(pa.timestamp(unit, "UTC"))
    pq.write_table(rows.set_column(1, "timestamp", times), tmp_path / "foreign.parquet", row_group_size=1)
    found = day_of([str(tmp_path / "foreign.parquet")], DAY, lake.read(PATIENTS), as_of=AS_OF)
    assert (found["patient_id"].to_pylist(), found["steps"].to_pylist()) == (["a"], [10])


def test_a_late_file_changes_its_day_when_the_day_is_run_again(lake: Lake) -> None:
    deliver(lake, record(NOON, 10))
    assert daily(lake)["a"]["steps"] == 10
    deliver(lake, record(NOON + MINUTE, 15), arrival=AS_OF + timedelta(days=3))
    assert daily(lake)["a"]["steps"] == 25


def test_impossible_counts_are_removed_and_flagged(lake: Lake) -> None:
    wrong = (10**9, MOST_PER_RECORD + 1, -1, None)
    for i, count in enumerate(wrong):
        deliver(lake, record(NOON, 5, patient=str(i)), record(NOON + MINUTE, count, patient=str(i)))
    deliver(lake, record(NOON, MOST_PER_RECORD, patient="most"), record(NOON, 10**9, patient="nothing else"))
    rows = daily(lake)
    assert [rows[str(i)]["steps"] for i in range(len(wrong))] == [5] * len(wrong)
    assert all(rows[str(i)]["flags"] & DayFlag.IMPOSSIBLE_COUNT_REMOVED for i in range(len(wrong)))
    assert (rows["most"]["steps"], rows["most"]["flags"]) == (MOST_PER_RECORD, DayFlag.PARTIAL_DAY)
    assert (rows["nothing else"]["steps"], rows["nothing else"]["records"]) == (0, 0)


def test_records_of_the_future_are_removed_and_flagged(lake: Lake) -> None:
    deliver(lake, record(NOON, 5), record(NOON + 2 * MINUTE, 7), record(NOON, 9, patient="b"))
    rows = daily(lake, as_of=NOON + MINUTE)
    assert rows["a"]["steps"] == 5
    assert rows["a"]["flags"] == DayFlag.FUTURE_REMOVED | DayFlag.PARTIAL_DAY
    assert rows["b"]["flags"] == DayFlag.PARTIAL_DAY


def test_a_duplicate_counts_once_and_another_record_of_the_same_minute_too(lake: Lake) -> None:
    twice = record(NOON, 40)
    seconds = timedelta(seconds=20)
    deliver(
        lake,
        twice,
        record(NOON, 3, patient="b"),
        record(NOON + seconds, 3, patient="b"),
        record(NOON, 4, patient="b"),
    )
    deliver(lake, twice, arrival=AS_OF + timedelta(days=1))
    deliver(lake, twice, record(NOON + MINUTE, 1), arrival=AS_OF + timedelta(days=2))
    rows = daily(lake)
    assert (rows["a"]["steps"], rows["a"]["records"]) == (41, 2)
    assert rows["a"]["flags"] & DayFlag.DUPLICATE_RECORDS
    assert (rows["b"]["steps"], rows["b"]["flags"] & DayFlag.DUPLICATE_RECORDS) == (10, 0)


def test_all_zeros_is_a_row_of_no_steps_and_no_wear_and_no_record_is_no_row(lake: Lake) -> None:
    deliver(lake, *minutes(NOON, 60, 0), record(NOON + timedelta(days=2), 1, patient="b"))
    rows = daily(lake)
    assert list(rows) == ["a"]
    assert (rows["a"]["steps"], rows["a"]["wear_minutes"], rows["a"]["devices"]) == (0, 0, 0)
    assert rows["a"]["flags"] == DayFlag.PARTIAL_DAY


def by_hand(rows: list[dict[str, object]]) -> dict[str, tuple[int, int]]:
    """(steps, wear minutes) of UTC records of `DAY` by patient, one record after the other."""
    places: dict[tuple[str, int], dict[str, set[tuple[datetime, int]]]] = {}
    for row in rows:
        count, at, device = row["count"], row["timestamp"], str(row["device"])
        assert isinstance(at, datetime)
        if isinstance(count, int) and 0 < count <= MOST_PER_RECORD and at.date() == DAY:
            devices = places.setdefault((str(row["patient_id"]), at.hour), {})
            devices.setdefault(device, set()).add((at, count))
    sums: defaultdict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for (patient, _), devices in places.items():
        best = max((len({at.minute for at, _ in d}), sum(c for _, c in d)) for d in devices.values())
        sums[patient] = (sums[patient][0] + best[1], sums[patient][1] + 60)
    return dict(sums)


@pytest.mark.parametrize("own", [False, True], ids=["devices of all", "devices of one's own"])
@pytest.mark.parametrize("limit", [None, "MOST_PLACES", "ROWS_AT_FIRST"])
def test_any_disorder_gives_what_counting_by_hand_gives(
    lake: Lake, own: bool, limit: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if limit is not None:
        monkeypatch.setattr(hours, limit, 5)
    luck = random.Random(20260310)
    every = [
        record(
            NOON + timedelta(seconds=20 * luck.randrange(-2000, 2300)),
            luck.choice([None, -1, 0, 1, 2, 50, 300, 301]),
            device=luck.choice(["phone", "watch", "ring"]),
            patient=str(luck.randrange(60)),
        )
        for _ in range(6000)
    ]
    for row in every if own else []:
        row["device"] += row["patient_id"]
    rows = every + luck.choices(every, k=600)
    luck.shuffle(rows)
    # Of two files: a record may lie in both, and a minute of a patient too.
    deliver(lake, *rows[:4000])
    deliver(lake, *rows[4000:], arrival=AS_OF + timedelta(days=1))
    found = {p: (row["steps"], row["wear_minutes"]) for p, row in daily(lake).items() if row["steps"]}
    assert found == by_hand(rows)


def test_a_position_outside_of_its_dictionary_is_a_damaged_file_and_no_other_patient() -> None:
    texts = pa.array(["a", "b"])
    others = pa.DictionaryArray.from_arrays(pa.array([0], pa.int32()), pa.array(["c"]))
    for positions in ([0, 2], [0, -2], [0, 5]):
        damaged = pa.DictionaryArray.from_arrays(pa.array(positions, pa.int32()), texts, safe=False)
        # A second chunk with other texts: its positions are then those in the texts of both.
        for chunks in ([damaged], [others, damaged]):
            with pytest.raises(pa.ArrowInvalid, match="outside of its dictionary"):
                raw_day_records._codes(pa.chunked_array(chunks))


def test_a_text_that_is_missing_in_the_dictionary_itself_is_missing() -> None:
    named = pa.DictionaryArray.from_arrays(pa.array([1, 0, None], pa.int32()), pa.array(["a", None]))
    rows = pa.table({"patient_id": named, "device": named, "count": pa.array([1, 2, 3], pa.int32())})
    found = raw_day_records._records(
        rows, np.zeros(3, np.int64), np.zeros(0, np.int32), np.zeros((1, 3), np.int64)
    )
    assert (found.who.tolist(), found.patients.to_pylist()) == ([-1, 0, -1], ["a"])
    assert (found.device.tolist(), found.devices.to_pylist()) == ([1, 0, 1], ["a", ""])


def test_the_generated_truth_comes_out_of_the_generated_faults(daily_lake: Lake, step_plan: StepPlan) -> None:
    flags = DayFlag(0)
    for day in step_plan.days:
        truth = day_records(step_plan, day).truth
        true = dict(zip(truth["patient_id"].to_pylist(), truth["steps"].to_pylist(), strict=True))
        rows = daily_lake.read_day(DAILY_STEPS, day).to_pylist()
        assert {row["patient_id"]: row["steps"] for row in rows if row["records"]} == true
        for row in rows:
            flags |= DayFlag(row["flags"])
    faults = DayFlag.OVERLAPPING_DEVICES | DayFlag.DUPLICATE_RECORDS | DayFlag.IMPOSSIBLE_COUNT_REMOVED
    assert flags == faults | DayFlag.PARTIAL_DAY | DayFlag.CLOCK_CHANGE


def test_arrays_and_the_expression_give_the_same_cells(lake: Lake) -> None:
    plan = StepPlan(300, DAY - timedelta(days=1), DAY + timedelta(days=1), seed=3)
    write(plan, lake)
    luck = random.Random(20260311)
    odd = [
        record(
            NOON + timedelta(seconds=20 * luck.randrange(-6000, 6000)),
            luck.choice([None, -1, 0, 1, 50, 300, 301]),
            zone=luck.choice([None, "Mars/Olympus", "Asia/Tokyo", "America/New_York"]),
            device=luck.choice(["", "phone", "watch"]),
            patient=luck.choice(["demo-0000001", "demo-0000002", "nobody"]),
        )
        for _ in range(4000)
    ]
    for row in odd[::50]:
        row["device"] = None
    table = pa.Table.from_pylist(odd + odd[::3], schema=RAW_STEPS.schema)
    days = table["timestamp"].cast(pa.date32())
    for day in touching(DAY):
        lake.add_file(RAW_STEPS, day, table.filter(pc.equal(days, day)), arrival=AS_OF)
    paths = lake.local([name for day in touching(DAY) for name in lake.files(RAW_STEPS, day)])
    homes, session = lake.read(PATIENTS), ibis.duckdb.connect()
    for as_of in (AS_OF, NOON + timedelta(hours=3)):
        arrays = day_of(paths, DAY, homes, as_of=as_of)
        assert arrays.equals(day_of(paths, DAY, homes, as_of=as_of, connection=session))
        assert arrays.num_rows > 250


def test_more_devices_than_the_column_holds_are_as_many_as_it_holds(lake: Lake) -> None:
    deliver(lake, *(record(NOON, 1, device=str(n)) for n in range(130)), record(NOON, 2, patient="b"))
    paths, homes = lake.local(lake.files(RAW_STEPS, DAY)), lake.read(PATIENTS)
    arrays = day_of(paths, DAY, homes, as_of=AS_OF)
    assert arrays["devices"].to_pylist() == [MOST_DEVICES, 1]
    assert arrays.equals(day_of(paths, DAY, homes, as_of=AS_OF, connection=ibis.duckdb.connect()))


def test_the_day_before_alone_makes_a_day_where_clocks_are_ahead_and_no_empty_one_elsewhere(
    lake: Lake,
) -> None:
    evening, after = datetime(2026, 3, 9, 20, tzinfo=UTC), DAY + timedelta(days=1)
    deliver(lake, record(evening, 10, zone="Asia/Tokyo"), record(evening, 20, patient="b"))
    assert [raw_state(lake, day).files for day in (DAY, after)] == [1, 0]
    assert make_steps(lake, DAY, as_of=AS_OF) == 1
    assert lake.read_day(DAILY_STEPS, DAY)["steps"].to_pylist() == [10]
    deliver(lake, record(NOON, 30))
    assert [make_steps(lake, day, as_of=AS_OF) for day in (DAY, after)] == [1, 0]
    assert lake.days(DAILY_STEPS) == [DAY]
    with pytest.raises(PermanentError, match="no files for 2026-03-12"):
        write_daily(lake, after + timedelta(days=1), as_of=AS_OF)
