"""Raw files to the steps of a local day in arrays: the rules of `daily.py`, on one machine at full speed.

Belongs here: reading row groups, which records lie on the day, steps and worn minutes by patient, device and
hour, duplicates, and the one device of each hour. Does not belong here: the rules themselves, their flags,
and when a day begins where (`daily.py`).

Parquet's dictionaries number the patients, devices and zones of a row group, so that no text is compared
for any record: sums go straight into a small array of the row group's hours. Grouping in a SQL engine
takes several times the CPU time. A day takes some 16 bytes of memory for each of its records and 400 for
each patient and device.
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

HOUR_MINUTES = 60
MINUTE_US = 60_000_000
TEXTS = ["patient_id", "device", "zone"]
NUMBERS = ("steps", "hours", "devices", "records", "flags")
MOST_MARKS = 2**24
"""With more possible pairs of patient and device in a row group, the pairs are sorted and not marked."""
WORN = 32
"""Minutes shifted by this, plus steps, sort by minutes and then by steps."""
COUNTED = ["patient_id", "device", "count"]
NEVER = (0, 0, 0)
"""A day without a moment."""
MISSING = np.iinfo(np.int64).min
BIT = np.uint64(1) << np.arange(HOUR_MINUTES, dtype=np.uint64)


@dataclass(frozen=True, slots=True)
class Flags:
    """The bits of what is found here."""

    overlapping: int
    duplicate: int
    impossible: int
    future: int


@dataclass(frozen=True, slots=True)
class LocalDay:
    """The local day that is looked for.

    `zone` and `home` give its (start, end, flag of a clock change), in minutes since 1970 UTC, in a zone,
    None for a name that is no zone, and at a patient's home. Records of the minute `as_of` and later ones
    are of the future. A record counts from 0 to `most` steps.
    """

    zone: Callable[[str], tuple[int, int, int] | None]
    home: Callable[[str], tuple[int, int, int]]
    as_of: int
    most: int
    flags: Flags


@dataclass(frozen=True, slots=True)
class _Group:
    """The records of a row group on the day.

    `patients`, `devices` and `flags` are those of its pairs of patient and device. The other arrays are of
    the records that count steps: position of the pair, microseconds and minutes of the day, steps.
    """

    patients: pa.Array
    devices: pa.Array
    flags: Array
    pair: Array
    time: Array
    minute: Array
    steps: Array


@dataclass(frozen=True, slots=True)
class _Hours:
    """The day by pair and hour: arrays of shape (pairs, hours), and of each pair its patient and flags."""

    steps: Array
    records: Array
    worn: Array
    flags: Array
    patient: Array


def by_patient(paths: Sequence[str], day: LocalDay) -> pa.Table:
    """A row for each patient with a record on the day: patient_id, by which they are sorted, and `NUMBERS`.

    `hours` are those with steps. `paths` are raw files; errors in reading them are Arrow's.
    """
    groups = [group for path in paths for group in _groups(path, day)]
    if not groups:
        columns = {name: pa.array([], pa.int64()) for name in NUMBERS}
        return pa.table({"patient_id": pa.array([], pa.string()), **columns})
    numbers, owner, patients = _pairs(groups)
    hours = 1 + max(int(group.minute.max(initial=0)) for group in groups) // HOUR_MINUTES
    summed = _summed(groups, numbers, owner, hours)
    _count_once(groups, numbers, summed, day.flags.duplicate)
    columns = _resolved(summed, day.flags.overlapping)
    return pa.table({"patient_id": patients, **columns}).sort_by("patient_id")


def _groups(path: str, day: LocalDay) -> Iterator[_Group]:
    with pq.ParquetFile(path, read_dictionary=TEXTS) as file:
        for number in range(file.num_row_groups):
            if (found := _on_the_day(file, number, day)) is not None:
                yield found


def _on_the_day(file: pq.ParquetFile, number: int, day: LocalDay) -> _Group | None:
    """The records of a row group on the day, or None if there are none."""
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
    starts, ends = edges[:, 0] * MINUTE_US, edges[:, 1] * MINUTE_US
    time = _micros(moments["timestamp"])
    if not len(time) or time.max() < starts.min() or time.min() >= ends.max():
        return None
    rows = np.flatnonzero((time >= starts.take(zone)) & (time < ends.take(zone)))
    if not len(rows):
        return None
    if rest is None:
        rest = file.read_row_group(number, COUNTED, use_threads=False)
    return _counted(rest, rows, time.take(rows), edges, zone.take(rows), day)


def _at_home(
    zone: Array, edges: Array, unnamed: Array, patients: pa.ChunkedArray, day: LocalDay
) -> tuple[Array, Array]:
    """`zone` and `edges` with, after the zones, the homes of patients whose records name no zone."""
    who, names = _codes(patients)
    asked = np.unique(who[unnamed])
    homes = np.array([NEVER if at < 0 else day.home(names[at].as_py()) for at in asked.tolist()], np.int64)
    place = np.searchsorted(asked, who) + len(edges)
    return np.where(unnamed, place, zone), np.concatenate([edges, homes])


def _counted(
    rest: pa.Table, rows: Array, time: Array, edges: Array, zone: Array, day: LocalDay
) -> _Group | None:
    """The records in `rows`, which are at `time` on a day with the bounds `edges[zone]`."""
    (who, patients), (device, devices) = _codes(rest["patient_id"]), _codes(rest["device"])
    who, device, count = who.take(rows), device.take(rows), _whole(rest["count"]).take(rows)
    if who.min() < 0:
        said = np.flatnonzero(who >= 0)
        who, device, count, time, zone = (values[said] for values in (who, device, count, time, zone))
        if not len(who):
            return None
    # A device without a name is the one with the empty name, after the others.
    width = len(devices) + 1
    local, pair = _numbered(who * np.int64(width) + device % width, len(patients) * width)
    named = pa.concat_arrays([devices, pa.array([""], devices.type)])
    flags = np.zeros(len(local), np.int32)
    changes = edges[:, 2]
    if changes.any():
        for place in np.flatnonzero(changes):
            flags[pair[zone == place]] |= changes[place]
    counts = (count > 0) & (count <= day.most)
    if not counts.all():
        flags[pair[(count < 0) | (count > day.most)]] |= day.flags.impossible
    if time.max() >= day.as_of * MINUTE_US:
        future = time >= day.as_of * MINUTE_US
        flags[pair[future]] |= day.flags.future
        counts &= ~future
    if not counts.all():
        taken = np.flatnonzero(counts)
        pair, time, zone, count = pair[taken], time[taken], zone[taken], count[taken]
    since = time - (edges[:, 0] * MINUTE_US).take(zone)
    return _Group(
        patients=patients.take(pa.array(local // width)),
        devices=named.take(pa.array(local % width)),
        flags=flags,
        pair=pair,
        time=since,
        minute=(since // MINUTE_US).astype(np.int16),
        steps=count.astype(np.int16),
    )


def _numbered(values: Array, size: int) -> tuple[Array, Array]:
    """The values that there are, all below `size`, in order, and the position of each value among them."""
    if size > MOST_MARKS:
        return np.unique(values, return_inverse=True)
    marks = np.zeros(size, bool)
    marks[values] = True
    there = np.flatnonzero(marks)
    position = np.empty(size, np.int32)
    position[there] = np.arange(len(there), dtype=np.int32)
    return there, position[values]


def _pairs(groups: Sequence[_Group]) -> tuple[list[Array], Array, pa.Array]:
    """The day's number of each pair of each group, each number's patient, and the patients."""
    patients = pa.concat_arrays([group.patients for group in groups]).dictionary_encode()
    devices = pa.concat_arrays([group.devices for group in groups]).dictionary_encode()
    width = len(devices.dictionary)
    key = np.asarray(patients.indices).astype(np.int64) * width + np.asarray(devices.indices)
    different, number = np.unique(key, return_inverse=True)
    edges = np.cumsum([len(group.patients) for group in groups])[:-1]
    # By patient, because a patient's numbers follow each other.
    return np.split(number, edges), different // width, patients.dictionary


def _summed(groups: Sequence[_Group], numbers: list[Array], owner: Array, hours: int) -> _Hours:
    shape = (len(owner), hours)
    steps, records = np.zeros(shape, np.int64), np.zeros(shape, np.int32)
    minutes, flags = np.zeros(shape, np.uint64), np.zeros(len(owner), np.int32)
    for group, pairs in zip(groups, numbers, strict=True):
        # Twice the same pair in a group is possible where a foreign program's dictionary repeats a text.
        pairs, place = _merged(pairs, group.pair)
        hour = group.minute // HOUR_MINUTES
        cells, part = place * hours + hour, (len(pairs), hours)
        size = part[0] * hours
        sums = np.bincount(cells, group.steps, minlength=size)
        steps[pairs] += sums.astype(np.int64).reshape(part)
        records[pairs] += np.bincount(cells, minlength=size).astype(np.int32).reshape(part)
        worn = np.zeros(size, np.uint64)
        np.bitwise_or.at(worn, cells, BIT.take(group.minute - hour * HOUR_MINUTES))
        minutes[pairs] |= worn.reshape(part)
    np.bitwise_or.at(flags, np.concatenate(numbers), np.concatenate([group.flags for group in groups]))
    return _Hours(steps, records, np.bitwise_count(minutes), flags, owner)


def _merged(pairs: Array, place: Array) -> tuple[Array, Array]:
    """A group's numbers of pairs, each once, and the positions among them."""
    if (np.diff(np.sort(pairs)) > 0).all():
        return pairs, place
    once, position = np.unique(pairs, return_inverse=True)
    return once, position.take(place)


def _count_once(groups: Sequence[_Group], numbers: list[Array], summed: _Hours, duplicate: int) -> None:
    """Count each record once. Only an hour with more records than minutes can hold one twice."""
    crowded = summed.records > summed.worn
    if not crowded.any():
        return
    hours, found = crowded.shape[1], []
    for group, pairs in zip(groups, numbers, strict=True):
        cells = group.pair * hours + group.minute // HOUR_MINUTES
        rows = np.flatnonzero(crowded[pairs].ravel().take(cells))
        place = pairs[group.pair[rows]] * hours + group.minute[rows] // HOUR_MINUTES
        found.append((group.steps[rows], group.time[rows], place))
    steps, time, cells = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.lexsort((steps, time, cells))
    steps, time, cells = steps[order], time[order], cells[order]
    again = np.zeros(len(cells), bool)
    again[1:] = (np.diff(cells) == 0) & (np.diff(time) == 0) & (np.diff(steps) == 0)
    places, place = np.unique(cells, return_inverse=True)
    np.put(summed.steps, places, np.bincount(place[~again], steps[~again]).astype(np.int64))
    np.put(summed.records, places, np.bincount(place[~again]))
    summed.flags[np.unique(cells[again] // hours)] |= duplicate


def _resolved(summed: _Hours, overlapping: int) -> dict[str, Array]:
    """`NUMBERS` by patient: of each hour the device with most minutes, then with most steps."""
    first = np.flatnonzero(np.diff(summed.patient, prepend=-1))
    best = np.maximum.reduceat((summed.worn.astype(np.int64) << WORN) | summed.steps, first)
    counting = np.add.reduceat((summed.worn > 0).astype(np.int16), first)
    records = summed.records.sum(axis=1, dtype=np.int64)
    return {
        "steps": (best & (2**WORN - 1)).sum(axis=1),
        "hours": (best > 0).sum(axis=1),
        "devices": np.add.reduceat((records > 0).astype(np.int64), first),
        "records": np.add.reduceat(records, first),
        "flags": np.bitwise_or.reduceat(summed.flags, first)
        | np.where(counting.max(axis=1) > 1, overlapping, 0),
    }


def _micros(column: pa.ChunkedArray) -> Array:
    """Microseconds since 1970; missing ones before all days."""
    micros = column.combine_chunks().cast(pa.timestamp("us", "UTC"), safe=False).view(pa.int64())
    return np.asarray(micros.fill_null(MISSING) if micros.null_count else micros)


def _whole(column: pa.ChunkedArray) -> Array:
    """Whole numbers; missing ones, and those past 64 bits, are negative."""
    numbers = column.combine_chunks()
    if numbers.null_count or not pa.types.is_signed_integer(numbers.type):
        numbers = numbers.cast(pa.int64(), safe=False).fill_null(-1)
    return np.asarray(numbers)


def _codes(column: pa.ChunkedArray) -> tuple[Array, pa.Array]:
    """The position of each text among the texts, which are given too; -1 for a missing one."""
    texts = column.combine_chunks()
    if not pa.types.is_dictionary(texts.type) or texts.dictionary.null_count:
        plain = texts.dictionary_decode() if pa.types.is_dictionary(texts.type) else texts
        texts = plain.dictionary_encode()
    indices = texts.indices.fill_null(-1) if texts.indices.null_count else texts.indices
    return np.asarray(indices), texts.dictionary.cast(pa.string())
