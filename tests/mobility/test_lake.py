"""The lake: days replaced whole, raw files taken once, errors that name the file, S3 like a folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medscore_assets.mobility.daily import DAILY_STEPS, write_daily
from medscore_assets.mobility.raw import PATIENTS, RAW_STEPS
from resources.errors import PermanentError, TransientError
from resources.lake import Lake
from tests.mobility.raw_records import AS_OF, DAY, NOON, record, records

LATER = datetime(2026, 3, 9, tzinfo=UTC)


@pytest.fixture(scope="module")
def s3() -> Iterator[object]:
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    client.create_bucket(Bucket="lake")
    yield client
    server.stop()


def test_row_groups_are_as_long_as_the_data_set_says_and_know_whom_they_hold(tmp_path: Path) -> None:
    lake, total = Lake(tmp_path), 3 * DAILY_STEPS.row_group + 1
    numbers = pa.array(range(total))
    days = pa.array([DAY] * total)
    ids = pa.array([f"P{number:06d}" for number in range(total)])
    rows = pa.table([ids, days, *[numbers] * 2, *[pa.nulls(total, pa.int32())] * 3], DAILY_STEPS.schema.names)
    name = lake.write_day(DAILY_STEPS, DAY, rows)
    metadata = pq.read_metadata(tmp_path / name)
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    assert [group.num_rows for group in groups] == [*[DAILY_STEPS.row_group] * 3, 1]
    assert [group.column(0).statistics.min for group in groups] == [
        f"P{number:06d}" for number in range(0, total, DAILY_STEPS.row_group)
    ]
    assert lake.read_day(DAILY_STEPS, DAY)["steps"].to_pylist() == list(range(total))


def test_a_row_group_ends_with_the_value_by_which_rows_are_sorted_unless_it_would_be_small(
    lake: Lake,
) -> None:
    eighth = RAW_STEPS.row_group // 8

    def batch(zone: str, rows: int) -> pa.RecordBatch:
        texts = {"patient_id": "P1", "zone": zone, "device": "watch"}
        columns = {name: pa.array([text] * rows).dictionary_encode() for name, text in texts.items()}
        columns |= {"timestamp": pa.array([NOON] * rows), "count": pa.array([7] * rows, pa.int32())}
        return pa.RecordBatch.from_pydict(columns, RAW_STEPS.schema)

    zones = [("Africa/Lagos", eighth), ("Asia/Tokyo", eighth - 1), ("UTC", 1), ("UTC", 3)]
    name = lake.add_file(RAW_STEPS, DAY, [batch(*zone) for zone in zones], arrival=LATER)
    metadata = pq.read_metadata(lake.local([name])[0])
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    assert [group.num_rows for group in groups] == [eighth, eighth + 3]
    (column,) = (at for at in range(5) if groups[0].column(at).path_in_schema == "zone")
    said = [group.column(column).statistics for group in groups]
    assert [(one.min, one.max) for one in said] == [("Africa/Lagos", "Africa/Lagos"), ("Asia/Tokyo", "UTC")]


def steps_of(lake: Lake) -> list[int]:
    return lake.read_day(RAW_STEPS, DAY)["count"].to_pylist()


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_a_lake_is_the_same_in_a_folder_and_on_s3(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if kind == "s3":
        client = request.getfixturevalue("s3")
        lake = Lake("s3://lake/some/prefix", s3=client, cache=tmp_path / "cache")
    else:
        lake = Lake(tmp_path)
    assert lake.days(RAW_STEPS) == []
    first = lake.add_file(RAW_STEPS, DAY, records(record(NOON, 7)), arrival=LATER)
    again = lake.add_file(RAW_STEPS, DAY, records(record(NOON, 7)), arrival=AS_OF)
    assert again == first
    lake.add_file(RAW_STEPS, DAY, records(record(NOON, 8)), arrival=AS_OF)
    assert lake.days(RAW_STEPS) == [DAY]
    assert len(lake.dataset_paths(RAW_STEPS, DAY, DAY)) == 2
    assert sorted(steps_of(lake)) == [7, 8]
    for steps in (5, 6):
        # The second replaces the first, also where a copy of the first is kept.
        lake.write_day(RAW_STEPS, date(2026, 4, 1), records(record(NOON, steps)))
        assert lake.read_day(RAW_STEPS, date(2026, 4, 1))["count"].to_pylist() == [steps]
    lake.write(PATIENTS, pa.table({"patient_id": ["a"], "birth_date": [DAY], "sex": ["f"], "zone": ["UTC"]}))
    assert lake.read(PATIENTS).num_rows == 1
    assert all(Path(path).exists() for path in lake.local(lake.files(RAW_STEPS, DAY)))


def test_s3_that_refuses_says_so(s3: object, tmp_path: Path) -> None:
    lake = Lake("s3://nobodys-bucket", s3=s3, cache=tmp_path)
    with pytest.raises(PermanentError, match="NoSuchBucket"):
        lake.days(RAW_STEPS)
    with pytest.raises(PermanentError, match="S3 client"):
        Lake("s3://lake")


def test_the_cache_of_s3_keeps_to_its_size_and_what_is_in_use(s3: object, tmp_path: Path) -> None:
    from resources.lake_s3 import S3Store

    store = S3Store("s3://lake/cached", s3, tmp_path, cache_bytes=1)
    for name in ("a.parquet", "b.parquet", "c.parquet"):
        with store.aside("x") as file:
            file.write_bytes(b"12345")
            store.put(file, f"x/{name}")
    (first,) = store.local(["x/a.parquet"])
    os.utime(first, (0, 0))
    (second,) = store.local(["x/b.parquet"])
    assert not first.exists()
    store.local(["x/c.parquet"])
    assert second.exists()


def test_a_damaged_file_is_named_and_other_days_go_on(lake: Lake) -> None:
    for day in (10, 20):
        moment = datetime(2026, 3, day, 12, tzinfo=UTC)
        lake.add_file(RAW_STEPS, moment.date(), records(record(moment, 50)), arrival=LATER)
    (name,) = lake.files(RAW_STEPS, date(2026, 3, 10))
    path = Path(lake.local([name])[0])
    content = bytearray(path.read_bytes())
    # In the pages, behind a footer that is whole.
    content[20:60] = b"\0" * 40
    path.write_bytes(content)
    with pytest.raises(PermanentError, match=name):
        write_daily(lake, date(2026, 3, 10), as_of=AS_OF)
    path.write_bytes(content[:50])
    with pytest.raises(PermanentError, match=name):
        write_daily(lake, date(2026, 3, 10), as_of=AS_OF)
    write_daily(lake, date(2026, 3, 20), as_of=AS_OF)
    assert lake.days(DAILY_STEPS) == [date(2026, 3, 20)]


def test_a_position_outside_of_its_dictionary_names_the_file(lake: Lake) -> None:
    lake.add_file(RAW_STEPS, DAY, records(record(NOON, 50)), arrival=AS_OF)
    rows = records(*(record(NOON, 50, patient=patient) for patient in "abca"))
    name = lake.add_file(RAW_STEPS, DAY, rows, arrival=LATER)
    texts = pa.array(["a", "b", "c"])
    damaged = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), texts, safe=False)
    path = Path(lake.local([name])[0])
    # The schema is stored, by which Arrow reads dictionaries back. Statistics would look the texts up.
    pq.write_table(rows.set_column(0, "patient_id", damaged), path, write_statistics=False)
    with pytest.raises(PermanentError, match=name):
        write_daily(lake, DAY, as_of=AS_OF)


@pytest.mark.parametrize("column", RAW_STEPS.schema.names)
def test_a_missing_column_is_named(lake: Lake, column: str) -> None:
    table = records(record(NOON, 50)).drop_columns([column])
    with pytest.raises(PermanentError, match=f"the column {column} is missing"):
        lake.add_file(RAW_STEPS, DAY, table, arrival=LATER)
    assert lake.days(RAW_STEPS) == []
    # A foreign program's file, which nobody looked at when it came.
    folder = Path(lake.local([RAW_STEPS.folder(DAY)])[0])
    pq.write_table(table, folder / "foreign.parquet")
    with pytest.raises(PermanentError, match=rf"{column} is missing.*foreign\.parquet"):
        write_daily(lake, DAY, as_of=AS_OF)


def test_a_wrong_type_and_a_day_without_files_are_named(lake: Lake) -> None:
    table = records(record(NOON, 50))
    naive = table.set_column(1, "timestamp", table["timestamp"].cast(pa.timestamp("us")))
    with pytest.raises(PermanentError, match="timestamp"):
        lake.add_file(RAW_STEPS, DAY, naive, arrival=LATER)
    huge = table.set_column(3, "count", pa.array([2**40]))
    with pytest.raises(PermanentError, match="count") as refused:
        lake.add_file(RAW_STEPS, DAY, huge, arrival=LATER)
    assert str(2**40) not in str(refused.value)
    with pytest.raises(PermanentError, match="no files for 2026-03-10"):
        write_daily(lake, DAY, as_of=AS_OF)
    with pytest.raises(PermanentError, match="no files for 2026-03-10"):
        lake.read_day(DAILY_STEPS, DAY)
    assert lake.days(RAW_STEPS) == []


def test_an_engines_error_that_no_file_explains_quotes_nothing(lake: Lake) -> None:
    name = lake.add_file(RAW_STEPS, DAY, records(record(NOON, 50)), arrival=LATER)
    for error, kind in ((pa.ArrowInvalid("bad 4711"), PermanentError), (OSError("4711"), TransientError)):
        with pytest.raises(kind, match=type(error).__name__) as refused, lake.reading(RAW_STEPS, [name]):
            raise error
        assert "4711" not in str(refused.value)
        assert refused.value.__cause__ is None


HALF_WRITTEN = """
import sys, time
import pyarrow as pa
from datetime import date
from medscore_assets.mobility.daily import DAILY_STEPS
from resources.lake import Lake

def batches():
    n = 130_000
    columns = [["new"] * n, [date(2026, 3, 10)] * n, *([i] * n for i in range(5))]
    arrays = [pa.array(c, f.type) for c, f in zip(columns, DAILY_STEPS.schema)]
    yield pa.record_batch(arrays, schema=DAILY_STEPS.schema)
    yield pa.record_batch(arrays, schema=DAILY_STEPS.schema)
    print("half", flush=True)
    time.sleep(60)

Lake(sys.argv[1]).write_day(DAILY_STEPS, date(2026, 3, 10), batches())
"""


@pytest.mark.faults
def test_a_killed_writer_leaves_the_day_as_it_was(lake: Lake) -> None:
    old = pa.table([["old"], [DAY], [1], [2], [3], [4], [5]], names=DAILY_STEPS.schema.names)
    lake.write_day(DAILY_STEPS, DAY, old)
    writer = subprocess.Popen([sys.executable, "-c", HALF_WRITTEN, lake.url], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"half\n"
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    folder = Path(lake.local([DAILY_STEPS.folder(DAY)])[0])
    (left,) = folder.glob(".aside-*")
    assert left.stat().st_size > 0
    assert lake.read_day(DAILY_STEPS, DAY)["patient_id"].to_pylist() == ["old"]
    assert lake.files(DAILY_STEPS, DAY) == [f"{DAILY_STEPS.folder(DAY)}/part.parquet"]
    # The next writer takes away what is older than a day.
    os.utime(left, (0, 0))
    lake.write_day(DAILY_STEPS, DAY, old)
    assert not left.exists()
