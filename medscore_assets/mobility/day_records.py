"""Raw files to the records of a local day, as arrays, by row group.

Belongs here: reading row groups, and which records lie on the day. Does not belong here: which of them count,
and sums (`hours.py`), when a day begins where (`daily.py`).

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
MICROS = {"s": 1_000_000, "ms": 1_000, "us": 1}
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
    """The records of a row group on a local day; at least one.

    Of each: the positions of its patient and its device among `patients` and `devices`, its count (negative
    for a missing one), and `time`, the microseconds of the day. `starts` (the day's first minute since 1970
    UTC) and `changes` (the flag of a clock change) are of each record, or one for all.
    """

    patients: pa.Array
    devices: pa.Array
    who: Array
    device: Array
    count: Array
    time: Array
    starts: Array
    changes: Array


def on_the_day(paths: Sequence[str], day: LocalDay) -> Iterator[tuple[Place, Records]]:
    """The records of raw files on a local day, and where they are. Errors in reading are Arrow's."""
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
    """The records of a row group on the day, or None if there are none."""
    name, span = _said(file, number)
    bounds = None if name is None else day.zone(name)
    if bounds is None:
        return _of_zones(file, number, day)
    starts, ends, _ = bounds
    if span is not None and (span[1] < starts * MINUTE_US or span[0] >= ends * MINUTE_US):
        return None
    edges = np.array([bounds], np.int64)
    if span is not None and starts * MINUTE_US <= span[0] and span[1] < ends * MINUTE_US:
        rows = file.read_row_group(number, ["timestamp", *COUNTED], use_threads=False)
        return _records(rows, None, _micros(rows["timestamp"]), edges, None)
    time = _micros(file.read_row_group(number, ["timestamp"], use_threads=False)["timestamp"])
    return _inside(file, number, None, time, edges, None)


def _of_zones(file: pq.ParquetFile, number: int, day: LocalDay) -> Records | None:
    """The same for a row group of which nothing is known beforehand."""
    # Most row groups of the days around have no such record, which these two columns say.
    moments = file.read_row_group(number, ["timestamp", "zone"], use_threads=False)
    zone, names = _codes(moments["zone"])
    bounds = [day.zone(name) for name in names.to_pylist()]
    edges = np.array([found or NEVER for found in bounds] or [NEVER], np.int64)
    rest = None
    if None in bounds or zone.min(initial=0) < 0:
        rest = file.read_row_group(number, COUNTED, use_threads=False)
        unnamed = np.array([found is None for found in bounds] + [True])[zone]
        zone, edges = _at_home(zone, edges, unnamed, rest["patient_id"], day)
    time = _micros(moments["timestamp"])
    return _inside(file, number, rest, time, edges, None if len(edges) == 1 else zone)


def _inside(
    file: pq.ParquetFile,
    number: int,
    rest: pa.Table | None,
    time: Array,
    edges: Array,
    zone: Array | None,
) -> Records | None:
    """The records of a row group within the bounds `edges[zone]`, or None; `rest` is read if need be."""
    zone = None if zone is None else zone.astype(np.intp)
    starts, ends = edges[:, 0] * MINUTE_US, edges[:, 1] * MINUTE_US
    if not len(time) or time.max() < starts.min() or time.min() >= ends.max():
        return None
    first, last = (starts, ends) if zone is None else (starts.take(zone), ends.take(zone))
    mask = (time >= first) & (time < last)
    rows = None if mask.all() else np.flatnonzero(mask)
    if rows is not None:
        if not len(rows):
            return None
        time, zone = time.take(rows), None if zone is None else zone.take(rows)
    if rest is None:
        rest = file.read_row_group(number, COUNTED, use_threads=False)
    return _records(rest, rows, time, edges, zone)


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
    zone: Array, edges: Array, unnamed: Array, patients: pa.ChunkedArray, day: LocalDay
) -> tuple[Array, Array]:
    """`zone` and `edges` with, after the zones, the homes of patients whose records name no zone."""
    who, names = _codes(patients)
    asked = np.unique(who[unnamed])
    homes = np.array([NEVER if at < 0 else day.home(names[at].as_py()) for at in asked.tolist()], np.int64)
    place = np.searchsorted(asked, who) + len(edges)
    return np.where(unnamed, place, zone), np.concatenate([edges, homes])


def _records(
    rest: pa.Table, rows: Array | None, time: Array, edges: Array, zone: Array | None
) -> Records | None:
    """The records in `rows` (all), which are at `time` on a day with the bounds `edges[zone]` (the only)."""
    (who, patients), (device, devices) = _codes(rest["patient_id"]), _codes(rest["device"])
    count = _whole(rest["count"])
    if rows is not None:
        who, device, count = who.take(rows), device.take(rows), count.take(rows)
    if who.min() < 0:
        said = np.flatnonzero(who >= 0)
        who, device, count, time = (values.take(said) for values in (who, device, count, time))
        zone = None if zone is None else zone.take(said)
        if not len(who):
            return None
    if device.min() < 0:
        # A device without a name is the one with the empty name, after the others.
        device = np.where(device < 0, len(devices), device)
        devices = pa.concat_arrays([devices, pa.array([""], devices.type)])
    bounds = edges[0] if zone is None else edges.take(zone, axis=0).T
    time = time - bounds[0] * MINUTE_US
    return Records(patients, devices, who, device, count, time, bounds[0], bounds[2])


def _micros(column: pa.ChunkedArray) -> Array:
    """Microseconds since 1970; missing ones before all days."""
    micros = _one_array(column).cast(pa.timestamp("us", "UTC"), safe=False).view(pa.int64())
    return np.asarray(micros.fill_null(MISSING) if micros.null_count else micros)


def _whole(column: pa.ChunkedArray) -> Array:
    """Whole numbers; missing ones, and those past 64 bits, are negative."""
    numbers = _one_array(column)
    if not pa.types.is_signed_integer(numbers.type):
        numbers = numbers.cast(pa.int64(), safe=False)
    return np.asarray(numbers.fill_null(-1) if numbers.null_count else numbers)


def _codes(column: pa.ChunkedArray) -> tuple[Array, pa.Array]:
    """The position of each text among the texts, which are given too; -1 for a missing one."""
    texts = _one_array(column)
    if not pa.types.is_dictionary(texts.type) or texts.dictionary.null_count:
        plain = texts.dictionary_decode() if pa.types.is_dictionary(texts.type) else texts
        texts = plain.dictionary_encode()
    indices = texts.indices.fill_null(-1) if texts.indices.null_count else texts.indices
    return np.asarray(indices), texts.dictionary.cast(pa.string())


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
