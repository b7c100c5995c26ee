"""Raw files to the steps of a local day in arrays: the rules of `daily.py`, on one machine at full speed.

Belongs here: steps and worn minutes by patient, device and hour, duplicates, and the one device of each hour.
Does not belong here: which records lie on the day (`day_records.py`), the rules themselves and when a day
begins where (`daily.py`).

Sums go straight into a small array of a row group's hours. Grouping in a SQL engine takes several times the
CPU time. A day takes some 16 bytes of memory for each of its records and 400 for each patient and device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from medscore_assets.mobility.day_records import MINUTE_US, LocalDay, Records, on_the_day

Array = npt.NDArray[Any]

HOUR_MINUTES = 60
HOUR_US = HOUR_MINUTES * MINUTE_US
NUMBERS = ("steps", "hours", "devices", "records", "flags")
MOST_MARKS = 2**24
"""With more possible pairs of patient and device in a row group, the pairs are sorted and not marked."""
SPARSE = 8
"""With more possible hours than this for each record, only pairs that have records get a place."""
WORN = 32
"""Minutes shifted by this, plus steps, sort by minutes and then by steps."""
RECORD_BITS = 36
RECORD = np.int64(1) << RECORD_BITS
"""One record in a sum of steps and records: the steps of 200 million records fit below it."""
AT_ONCE = 2**15
"""Records whose sums are made together: their arrays stay in the processor's cache."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Which records count steps: those before the minute `as_of` since 1970 UTC with at most `most` steps.

    The others are the bits of the flags for what is found here.
    """

    as_of: int
    most: int
    overlapping: int
    duplicate: int
    impossible: int
    future: int


@dataclass(frozen=True, slots=True)
class _Group:
    """The records of a row group on the day, and what they come to by pair of patient and device and by hour.

    Of each of `pairs` (the position of the patient times the number of devices, plus that of the device):
    whether it has any record (`seen`), `flags`, and by the hours of `span` `sums` (steps, and `RECORD` for
    each record that counts) and `minutes` (the sum of a bit for the minute of each). Of each record: `cell`
    (pair and hour), `time` (microseconds of the day), and `steps`, 0 if they do not count.
    """

    patients: pa.Array
    devices: pa.Array
    pairs: Array
    seen: Array
    flags: Array
    span: range
    sums: Array
    minutes: Array
    cell: Array
    time: Array
    steps: Array


@dataclass(frozen=True, slots=True)
class _Day:
    """All groups' pairs, those of a patient after each other: as in `_Group`.

    Those of patient k are from `edges[k]` to before `edges[k + 1]`.
    """

    edges: Array
    seen: Array
    flags: Array
    span: range
    sums: Array
    minutes: Array


def by_patient(paths: Sequence[str], day: LocalDay, rules: Rules) -> pa.Table:
    """A row for each patient with a record on the day: patient_id, by which they are sorted, and `NUMBERS`.

    `hours` are those with steps. `paths` are raw files; errors in reading them are Arrow's.
    """
    groups = [_group(records, rules) for records in on_the_day(paths, day)]
    if not groups:
        columns = {name: pa.array([], pa.int64()) for name in NUMBERS}
        return pa.table({"patient_id": pa.array([], pa.string()), **columns})
    numbers, edges, patients = _pairs(groups)
    summed = _summed(groups, numbers, edges)
    _count_once(groups, numbers, summed, rules.duplicate)
    columns = _resolved(summed, rules.overlapping)
    found = pa.table({"patient_id": patients, **columns})
    return found.filter(np.logical_or.reduceat(summed.seen, edges[:-1])).sort_by("patient_id")


def _group(records: Records, rules: Rules) -> _Group:
    patients, devices, time = records.patients, records.devices, records.time
    # In whole words, which numpy takes at once as positions.
    pair = records.who * np.intp(len(devices)) + records.device
    size, span = len(patients) * len(devices), _span(time)
    pairs = np.arange(size)
    if size * len(span) > SPARSE * len(pair):
        pairs, pair = _numbered(pair, size)
        size = len(pairs)
    flags, seen = np.zeros(size, np.int32), np.zeros(size, bool)
    seen[pair] = True
    if records.changes.any():
        np.bitwise_or.at(flags, pair, records.changes.astype(np.int32))
    steps = _possible(records, pair, flags, rules)
    cell, sums, minutes = _by_hour(pair, time, steps, size, span)
    return _Group(patients, devices, pairs, seen, flags, span, sums, minutes, cell, time, steps)


def _span(time: Array) -> range:
    """The hours from the first moment to the last."""
    return range(int(time.min()) // HOUR_US, 1 + int(time.max()) // HOUR_US)


def _possible(records: Records, pair: Array, flags: Array, rules: Rules) -> Array:
    """The steps that count, else 0; why they do not goes into the flags of the pair."""
    steps = records.count.copy()
    wrong = np.flatnonzero((steps < 0) | (steps > rules.most))
    flags[pair[wrong]] |= rules.impossible
    steps[wrong] = 0
    known = (rules.as_of - records.starts) * MINUTE_US
    if records.time.max() >= known.min():
        future = np.flatnonzero(records.time >= known)
        flags[pair[future]] |= rules.future
        steps[future] = 0
    return steps


def _by_hour(pair: Array, time: Array, steps: Array, size: int, span: range) -> tuple[Array, Array, Array]:
    """The cells of records, and for so many pairs by hour the sums and the bits of minutes of a `_Group`."""
    sums, minutes = np.zeros((size, len(span)), np.int64), np.zeros((size, len(span)), np.uint64)
    cells = np.empty(len(pair), np.int32 if sums.size < 2**31 else np.int64)
    for first in range(0, len(pair), AT_ONCE):
        some = slice(first, first + AT_ONCE)
        minute = (time[some] // MINUTE_US).astype(np.int16)
        hour = minute // np.int16(HOUR_MINUTES)
        cell = pair[some] * np.intp(len(span)) + (hour - np.int16(span.start))
        counts = steps[some] > 0
        np.add.at(sums.reshape(-1), cell, steps[some] + counts * RECORD)
        # Added and not combined, which would take thrice the time. Different minutes give a bit for each
        # record; the same ones carry, so that there are fewer bits than records.
        bits = counts.astype(np.uint64) << (minute - hour * np.int16(HOUR_MINUTES)).astype(np.uint64)
        np.add.at(minutes.reshape(-1), cell, bits)
        cells[some] = cell
    return cells, sums, minutes


def _numbered(values: Array, size: int) -> tuple[Array, Array]:
    """The values that there are, all below `size`, in order, and the position of each value among them."""
    if size > MOST_MARKS:
        return np.unique(values, return_inverse=True)
    marks = np.zeros(size, bool)
    marks[values] = True
    there = np.flatnonzero(marks)
    position = np.empty(size, np.intp)
    position[there] = np.arange(len(there))
    return there, position.take(values)


def _pairs(groups: Sequence[_Group]) -> tuple[list[Array], Array, pa.Array]:
    """The day's number of each of each group's pairs, the edges between patients' numbers, and the patients.

    Where most patients have most of the devices, every pair has a number; else only those that were seen.
    """
    patients = pa.concat_arrays([group.patients for group in groups]).dictionary_encode()
    devices = pa.concat_arrays([group.devices for group in groups]).dictionary_encode()
    width = len(devices.dictionary)
    numbers, who, what = [], np.asarray(patients.indices).astype(np.int64), np.asarray(devices.indices)
    for group in groups:
        every = np.add.outer(who[: len(group.patients)] * width, what[: len(group.devices)]).reshape(-1)
        numbers.append(every if len(every) == len(group.pairs) else every.take(group.pairs))
        who, what = who[len(group.patients) :], what[len(group.devices) :]
    size = len(patients.dictionary) * width
    if size <= SPARSE * sum(np.count_nonzero(group.seen) for group in groups):
        return numbers, np.arange(0, size + 1, width), patients.dictionary
    seen = np.concatenate([found[group.seen] for found, group in zip(numbers, groups, strict=True)])
    there = np.unique(seen)
    owner, first = np.unique(there // width, return_index=True)
    numbers = [np.searchsorted(there, found) for found in numbers]
    return numbers, np.append(first, len(there)), patients.dictionary.take(pa.array(owner))


def _summed(groups: Sequence[_Group], numbers: list[Array], edges: Array) -> _Day:
    spans = [group.span for group in groups]
    span = range(min(one.start for one in spans), max(one.stop for one in spans))
    size = int(edges[-1])
    day = _Day(
        edges=edges,
        seen=np.zeros(size, bool),
        flags=np.zeros(size, np.int32),
        span=span,
        sums=np.zeros((size, len(span)), np.int64),
        minutes=np.zeros((size, len(span)), np.uint64),
    )
    for group, pairs in zip(groups, numbers, strict=True):
        hours = _within(group, span)
        for to, of in _places(pairs, group.seen, size):
            day.sums[to, hours] += group.sums[of]
            day.minutes[to, hours] |= group.minutes[of]
            day.flags[to] |= group.flags[of]
            day.seen[to] |= group.seen[of]
    return day


def _places(pairs: Array, seen: Array, size: int) -> Iterator[tuple[Array | slice, Array | slice]]:
    """Numbers of a group's pairs and their positions in the group, in parts without the same number twice.

    Mostly they follow each other, which numpy adds up without a look at each.
    """
    if pairs[-1] < size and (np.diff(pairs) == 1).all():
        yield slice(pairs[0], pairs[-1] + 1), slice(None)
        return
    at = np.flatnonzero(seen)
    # Twice the same is possible where a foreign program's dictionary repeats a text.
    while len(at):
        once, first = np.unique(pairs[at], return_index=True)
        yield once, at[first]
        at = np.delete(at, first)


def _within(group: _Group, span: range) -> slice:
    """Where a group's hours lie among those of the day."""
    return slice(group.span.start - span.start, group.span.stop - span.start)


def _each_once(pairs: Array, place: Array) -> Iterator[tuple[Array, Array]]:
    """Numbers of pairs and their places, in parts without the same number twice."""
    while len(pairs):
        once, first = np.unique(pairs, return_index=True)
        if len(once) == len(pairs):
            yield pairs, place
            return
        yield once, place[first]
        pairs, place = np.delete(pairs, first), np.delete(place, first)


def _count_once(groups: Sequence[_Group], numbers: list[Array], day: _Day, duplicate: int) -> None:
    """Count each record once, and each minute. Only hours with more records than bits hold any twice."""
    crowded = (day.sums >> RECORD_BITS) > np.bitwise_count(day.minutes)
    if not crowded.any():
        return
    hours, found = len(day.span), []
    for group, pairs in zip(groups, numbers, strict=True):
        within, here = _within(group, day.span), np.zeros(group.sums.shape, bool)
        here[group.seen] = crowded[pairs[group.seen], within]
        rows = np.flatnonzero(here.reshape(-1).take(group.cell.astype(np.intp)) & (group.steps > 0))
        pair, hour = np.divmod(group.cell[rows], len(group.span))
        cells = pairs[pair] * hours + hour + within.start
        found.append((group.steps[rows], group.time[rows], cells))
    steps, time, cells = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.lexsort((steps, time, cells))
    steps, time, cells = steps[order], time[order], cells[order]
    same = np.diff(cells, prepend=-1) == 0
    minute = np.diff(time // MINUTE_US, prepend=-1) != 0
    again = same & (np.diff(time, prepend=-1) == 0) & (np.diff(steps, prepend=-1) == 0)
    places, place = np.unique(cells, return_inverse=True)
    once = np.bincount(place[~again], steps[~again]).astype(np.int64)
    np.put(day.sums, places, once + np.bincount(place[~again]) * RECORD)
    worn = np.bincount(place[~same | minute]).astype(np.uint64)
    np.put(day.minutes, places, (np.uint64(1) << worn) - np.uint64(1))
    day.flags[np.unique(cells[again] // hours)] |= duplicate


def _resolved(day: _Day, overlapping: int) -> dict[str, Array]:
    """`NUMBERS` by patient: of each hour the device with most minutes, then with most steps."""
    patients, at_once = len(day.edges) - 1, 1 + AT_ONCE // len(day.span)
    parts = [_one_device(day, slice(first, first + at_once)) for first in range(0, patients, at_once)]
    steps, hours, records, devices, overlaps = (np.concatenate(part) for part in zip(*parts, strict=True))
    flags = np.bitwise_or.reduceat(day.flags, day.edges[:-1]) | np.where(overlaps, overlapping, 0)
    return {"steps": steps, "hours": hours, "devices": devices, "records": records, "flags": flags}


def _one_device(day: _Day, patients: slice) -> tuple[Array, ...]:
    """Of some patients: steps, worn hours, records, devices with records, and whether any overlap."""
    edges = day.edges[patients.start : patients.stop + 1]
    pairs, first = slice(edges[0], edges[-1]), edges[:-1] - edges[0]
    worn, sums = np.bitwise_count(day.minutes[pairs]).astype(np.int64), day.sums[pairs]
    packed = (worn << WORN) | (sums & (RECORD - 1))
    best, counting = packed.take(first, axis=0), (worn.take(first, axis=0) > 0).astype(np.int8)
    devices = np.diff(edges)
    for nth in range(1, devices.max()):
        has = np.flatnonzero(devices > nth)
        other = packed.take(first[has] + nth, axis=0)
        best[has] = np.maximum(best[has], other)
        counting[has] += other > 0
    records = sums.sum(axis=1) >> RECORD_BITS
    return (
        (best & (2**WORN - 1)).sum(axis=1),
        np.count_nonzero(best, axis=1),
        np.add.reduceat(records, first),
        np.add.reduceat((records > 0).astype(np.int64), first),
        counting.max(axis=1) > 1,
    )
