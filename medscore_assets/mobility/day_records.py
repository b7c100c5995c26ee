"""Raw files to the records that may lie on a local day, as arrays, by row group.

Belongs here: reading row groups, and which of them can be passed over. Does not belong here: which records
lie on the day and count, and sums (`hours.py`), when a day begins where (`daily.py`).

Reading is most of the work of a day. A row group of one zone, as its statistics say, is passed over, or taken
whole, without a look at its times; of others the times and zones are read first. Parquet's dictionaries
number the patients, devices and zones of a row group, so that no text is compared for any record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

Array = npt.NDArray[Any]

MINUTE_US = 60_000_000
TEXTS = ["patient_id", "device", "zone"]
COUNTED = ["patient_id", "device", "count"]
NEVER = (0, 0, 0)
"""A day without a moment."""
MISSING = np.iinfo(np.int64).min
Place = tuple[str, int]
"""A file's path and the number of a row group in it."""
MICROS = {"ms": 1_000, "us": 1}
"""Microseconds in the units of times whose statistics are looked at."""


@dataclass(frozen=True, slots=True)
class LocalDay:
    """The local day that is looked for.

    `zone` and `home` give its (start, end, flag of a clock change), in minutes since 1970 UTC, in a zone,
    None for a name that is no zone, and at a patient's home.
    """

    zone: Callable[[str], tuple[int, int, int] | None]
    home: Callable[[str], tuple[int, int, int]]


@dataclass(frozen=True, slots=True)
class Records:
    """The records of a row group, of which some may lie on a local day.

    Of each: the positions of its patient (-1 for a missing one) and its device among `patients` and
    `devices`, its count (negative for a missing one), `time`, the microseconds since 1970 UTC, and `zone`,
    the row of `days` that holds its local day: start, end, and flag of a clock change, the moments in minutes
    since 1970 UTC. `zone` is empty where `days` has one row, which is that of all records.
    """

    patients: pa.Array
    devices: pa.Array
    who: Array
    device: Array
    count: Array
    time: Array
    zone: Array
    days: Array


def on_the_day(paths: Sequence[str], day: LocalDay) -> Iterator[tuple[Place, Records]]:
    """The records of raw files, by row group, and where they are; row groups without any of the day are not.

    Errors in reading are Arrow's.
    """
    for path in paths:
        with pq.ParquetFile(path, read_dictionary=TEXTS) as file:
            for number in range(file.num_row_groups):
                if (found := _of_row_group(file, number, day)) is not None:
                    yield (path, number), found


def read_again(place: Place, day: LocalDay) -> Records:
    """The records of one place that `on_the_day` named."""
    path, number = place
    with pq.ParquetFile(path, read_dictionary=TEXTS) as file:
        found = _of_row_group(file, number, day)
    if found is None:
        raise pa.ArrowInvalid("the file has changed while it was read")
    return found


def _of_row_group(file: pq.ParquetFile, number: int, day: LocalDay) -> Records | None:
    """The records of a row group, or None if none is on the day."""
    name, span = _said(file, number)
    bounds = None if name is None else day.zone(name)
    if bounds is None:
        return _of_zones(file, number, day)
    starts, ends, _ = bounds
    if span is not None and (span[1] < starts * MINUTE_US or span[0] >= ends * MINUTE_US):
        return None
    days, everyone = np.array([bounds], np.int64), np.zeros(0, np.int32)
    if span is not None and starts * MINUTE_US <= span[0] and span[1] < ends * MINUTE_US:
        rows = file.read_row_group(number, ["timestamp", *COUNTED], use_threads=False)
        return _records(rows, _micros(rows["timestamp"]), everyone, days)
    time = _micros(file.read_row_group(number, ["timestamp"], use_threads=False)["timestamp"])
    if not _any_inside(time, everyone, days):
        return None
    return _records(file.read_row_group(number, COUNTED, use_threads=False), time, everyone, days)


def _of_zones(file: pq.ParquetFile, number: int, day: LocalDay) -> Records | None:
    """The same for a row group of which nothing is known beforehand."""
    # Most row groups of the days around have no such record, which these two columns say.
    moments = file.read_row_group(number, ["timestamp", "zone"], use_threads=False)
    time = _micros(moments["timestamp"])
    zone, names = _codes(moments["zone"])
    bounds = [day.zone(name) for name in names.to_pylist()]
    days = np.array([found or NEVER for found in bounds] or [NEVER], np.int64)
    rest = None
    if None in bounds or zone.min(initial=0) < 0:
        rest = file.read_row_group(number, COUNTED, use_threads=False)
        unnamed = np.array([found is None for found in bounds] + [True])[zone]
        zone, days = _at_home(zone, days, unnamed, rest["patient_id"], day)
    if not _any_inside(time, zone, days):
        return None
    if rest is None:
        rest = file.read_row_group(number, COUNTED, use_threads=False)
    return _records(rest, time, zone, days)


def _any_inside(time: Array, zone: Array, days: Array) -> bool:
    """Whether any of these times is within its day."""
    starts, ends = days[:, 0] * MINUTE_US, days[:, 1] * MINUTE_US
    if not len(time) or time.max() < starts.min() or time.min() >= ends.max():
        return False
    first, last = (starts.take(zone), ends.take(zone)) if len(zone) else (starts, ends)
    return bool(((time >= first) & (time < last)).any())


def _said(file: pq.ParquetFile, number: int) -> tuple[str | None, tuple[int, int] | None]:
    """The one zone of a row group, and its first and last microsecond, as far as statistics say so."""
    group = file.metadata.row_group(number)
    columns = [group.column(at) for at in range(group.num_columns)]
    said = {column.path_in_schema: column.statistics for column in columns}
    of_zone, of_time = said["zone"], said["timestamp"]
    zone = span = None
    if _whole_range(of_zone) and of_zone.min == of_zone.max:
        zone = of_zone.min
    factor = MICROS.get(getattr(file.schema_arrow.field("timestamp").type, "unit", ""))
    if _whole_range(of_time) and factor is not None and of_time.physical_type == "INT64":
        span = of_time.min_raw * factor, of_time.max_raw * factor
    return zone, span


def _whole_range(statistics: Any) -> bool:
    """Whether statistics hold for every row."""
    if statistics is None or not statistics.has_min_max:
        return False
    return bool(statistics.has_null_count and statistics.null_count == 0)


def _at_home(
    zone: Array, days: Array, unnamed: Array, patients: pa.ChunkedArray, day: LocalDay
) -> tuple[Array, Array]:
    """`zone` and `days` with, after the zones, the homes of patients whose records name no zone."""
    who, names = _codes(patients)
    asked = np.unique(who[unnamed])
    found = [NEVER if at < 0 else day.home(names[at].as_py()) for at in asked.tolist()]
    # With a shape also where no record is without a zone: a dictionary may have names that none uses.
    homes = np.array(found, np.int64).reshape(-1, 3)
    place = np.searchsorted(asked, who) + len(days)
    return np.where(unnamed, place, zone).astype(np.int32), np.concatenate([days, homes])


def _records(rest: pa.Table, time: Array, zone: Array, days: Array) -> Records:
    """The records of a row group, of which `rest` has the columns `COUNTED`."""
    (who, patients), (device, devices) = _codes(rest["patient_id"]), _codes(rest["device"])
    if device.min(initial=0) < 0:
        # A device without a name is the one with the empty name, after the others.
        device = np.where(device < 0, len(devices), device).astype(np.int32)
        devices = pa.concat_arrays([devices, pa.array([""], devices.type)])
    return Records(patients, devices, who, device, _whole(rest["count"]), time, zone, days)


def _micros(column: pa.ChunkedArray) -> Array:
    """Microseconds since 1970; missing ones before all days."""
    micros = _one_array(column).cast(pa.timestamp("us", "UTC"), safe=False).view(pa.int64())
    return np.asarray(micros.fill_null(MISSING) if micros.null_count else micros)


def _whole(column: pa.ChunkedArray) -> Array:
    """Whole numbers of 32 or 64 bits; missing ones, and those past 64 bits, are negative."""
    numbers = _one_array(column)
    if numbers.type != pa.int32():
        numbers = numbers.cast(pa.int64(), safe=False)
    return np.asarray(numbers.fill_null(-1) if numbers.null_count else numbers)


def _codes(column: pa.ChunkedArray) -> tuple[Array, pa.Array]:
    """The position of each text among the texts, which are given too; -1 for a missing one.

    Arrow takes positions from a file as they are: one past the texts is a damaged file, and `ArrowInvalid`.
    """
    if pa.types.is_dictionary(column.type):
        _check_positions(column)
    texts = _one_array(column)
    if not pa.types.is_dictionary(texts.type):
        texts = texts.dictionary_encode()
    codes = np.asarray(texts.indices.fill_null(-1) if texts.indices.null_count else texts.indices, np.int32)
    names = texts.dictionary.cast(pa.string())
    if names.null_count:
        there = np.asarray(names.is_valid())
        # The last one is that of what has no position.
        codes = np.append(np.where(there, np.cumsum(there) - 1, -1), -1).astype(np.int32)[codes]
        names = names.drop_null()
    return codes, names


def _check_positions(column: pa.ChunkedArray) -> None:
    """By chunk: Arrow brings chunks to one dictionary by their positions, and does not check them then."""
    for chunk in column.chunks:
        least, greatest = pc.min_max(chunk.indices).values()
        if least.is_valid and (least.as_py() < 0 or greatest.as_py() >= len(chunk.dictionary)):
            raise pa.ArrowInvalid("a position lies outside of its dictionary")


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
