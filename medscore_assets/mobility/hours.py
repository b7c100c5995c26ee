"""Raw files to the steps of a local day in arrays: the rules of `daily.py`, on one machine at full speed.

Belongs here: steps and worn minutes by patient, device and hour, duplicates, and the one device of each hour.
Does not belong here: which records lie on the day (`day_records.py`), the rules themselves and when a day
begins where (`daily.py`).

Sums go straight into a small array of a row group's hours. Grouping in a SQL engine takes several times the
CPU time. Records are let go as soon as they are summed, so that the next ones find the processor's cache: a
day takes some 400 bytes of memory for each patient and device. The few row groups between which a record may
lie twice are read again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from medscore_assets.mobility.day_records import (
    MINUTE_US,
    LocalDay,
    Place,
    Records,
    on_the_day,
    read_again,
)

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
    each record that counts, once) and `minutes` (a bit for each).
    """

    place: Place
    patients: pa.Array
    devices: pa.Array
    pairs: Array
    seen: Array
    flags: Array
    span: range
    sums: Array
    minutes: Array


@dataclass(frozen=True, slots=True)
class _Placed:
    """The records of a row group.

    Of each: the pair and hour (`cell`, of as many as `pairs` by `span`), the `time` (microseconds of the
    day), the `minute` of the hour, and the `steps`, 0 if they do not count.
    """

    pairs: Array
    span: range
    cell: Array
    time: Array
    minute: Array
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
    groups = [_group(place, records, rules) for place, records in on_the_day(paths, day)]
    if not groups:
        columns = {name: pa.array([], pa.int64()) for name in NUMBERS}
        return pa.table({"patient_id": pa.array([], pa.string()), **columns})
    numbers, edges, patients = _pairs(groups)
    summed, shared = _summed(groups, numbers, edges)
    _count_once(groups, numbers, summed, shared, day, rules)
    columns = _resolved(summed, rules.overlapping)
    found = pa.table({"patient_id": patients, **columns})
    return found.filter(np.logical_or.reduceat(summed.seen, edges[:-1])).sort_by("patient_id")


def _group(place: Place, records: Records, rules: Rules) -> _Group:
    placed, seen, flags = _placed(records, rules)
    shape = (len(placed.pairs), len(placed.span))
    sums, minutes = _by_hour(placed, shape)
    crowded = _crowded(sums, minutes)
    if crowded.any():
        rows = np.flatnonzero(crowded.reshape(-1).take(placed.cell) & (placed.steps > 0))
        once = _once(placed.cell[rows], placed.time[rows], placed.minute[rows], placed.steps[rows])
        np.put(sums, once.cells, once.sums)
        np.put(minutes, once.cells, once.minutes)
        flags[once.repeated // shape[1]] |= rules.duplicate
    return _Group(
        place, records.patients, records.devices, placed.pairs, seen, flags, placed.span, sums, minutes
    )


def _placed(records: Records, rules: Rules) -> tuple[_Placed, Array, Array]:
    """The records by pair and hour, and of the pairs whether they have any, and their flags."""
    # In whole words, which numpy takes at once as positions.
    pair = records.who * np.intp(len(records.devices)) + records.device
    size, span = len(records.patients) * len(records.devices), _span(records.time)
    pairs = np.arange(size)
    if size * len(span) > SPARSE * len(pair):
        pairs, pair = _numbered(pair, size)
        size = len(pairs)
    flags, seen = np.zeros(size, np.int32), np.zeros(size, bool)
    seen[pair] = True
    if records.changes.any():
        np.bitwise_or.at(flags, pair, records.changes.astype(np.int32))
    steps = _possible(records, pair, flags, rules)
    minute = (records.time // MINUTE_US).astype(np.int16)
    hour = minute // np.int16(HOUR_MINUTES)
    cell = pair * np.intp(len(span)) + (hour - np.int16(span.start))
    minute -= hour * np.int16(HOUR_MINUTES)
    return _Placed(pairs, span, cell, records.time, minute, steps), seen, flags


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


def _by_hour(placed: _Placed, shape: tuple[int, int]) -> tuple[Array, Array]:
    """The sums and the bits of minutes of a `_Group`, each record counted as often as it is there."""
    sums, minutes = np.zeros(shape, np.int64), np.zeros(shape, np.uint64)
    for first in range(0, len(placed.cell), AT_ONCE):
        some = slice(first, first + AT_ONCE)
        cell, steps = placed.cell[some], placed.steps[some]
        counts = steps > 0
        np.add.at(sums.reshape(-1), cell, steps + counts * RECORD)
        # Added and not combined, which would take thrice the time. Different minutes give a bit for each
        # record; the same ones carry, so that there are fewer bits than records.
        bits = counts.astype(np.uint64) << placed.minute[some].astype(np.uint64)
        np.add.at(minutes.reshape(-1), cell, bits)
    return sums, minutes


def _crowded(sums: Array, minutes: Array) -> Array:
    """The hours with more records than bits: only these can hold a record or a minute twice."""
    return (sums >> RECORD_BITS) > np.bitwise_count(minutes)


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


def _summed(groups: Sequence[_Group], numbers: list[Array], edges: Array) -> tuple[_Day, Array]:
    """The day, and in which hours of which pairs several row groups have records of one minute."""
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
    shared = np.zeros(day.sums.shape, bool)
    for group, pairs in zip(groups, numbers, strict=True):
        hours = _within(group, span)
        for to, of in _places(pairs, group.seen, size):
            if day.seen[to].any():
                shared[to, hours] |= (day.minutes[to, hours] & group.minutes[of]) != 0
            day.sums[to, hours] += group.sums[of]
            day.minutes[to, hours] |= group.minutes[of]
            day.flags[to] |= group.flags[of]
            day.seen[to] |= group.seen[of]
    return day, shared


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


@dataclass(frozen=True, slots=True)
class _Once:
    """Hours in which each record counts once.

    Their cells, in order, `sums` and `minutes` as in `_Group`, and the cells that held a record `repeated`ly.
    """

    cells: Array
    sums: Array
    minutes: Array
    repeated: Array


def _once(cells: Array, time: Array, minute: Array, steps: Array) -> _Once:
    """The hours of some records, which all count: the arguments are of each record."""
    order = np.lexsort((steps, time, cells))
    time, minute, steps, cells = time[order], minute[order], steps[order], cells[order]
    same = np.diff(cells, prepend=-1) == 0
    again = same & (np.diff(time, prepend=-1) == 0) & (np.diff(steps, prepend=-1) == 0)
    places, place = np.unique(cells, return_inverse=True)
    sums, minutes = np.zeros(len(places), np.int64), np.zeros(len(places), np.uint64)
    np.add.at(sums, place[~again], steps[~again] + RECORD)
    np.bitwise_or.at(minutes, place, np.uint64(1) << minute.astype(np.uint64))
    return _Once(places, sums, minutes, np.unique(cells[again]))


def _count_once(
    groups: Sequence[_Group], numbers: list[Array], summed: _Day, shared: Array, day: LocalDay, rules: Rules
) -> None:
    """Count records once that lie in several row groups: those of the same minute. They are read again."""
    if not shared.any():
        return
    hours, found, concerned = len(summed.span), [], np.append(shared.any(axis=1), False)
    for group, pairs in zip(groups, numbers, strict=True):
        own = np.flatnonzero(concerned[pairs] & group.seen)
        if not len(own):
            continue
        within, here = _within(group, summed.span), np.zeros(group.sums.shape, bool)
        here[own] = shared[pairs[own], within]
        placed, _, _ = _placed(read_again(group.place, day), rules)
        rows = np.flatnonzero(here.reshape(-1).take(placed.cell) & (placed.steps > 0))
        pair, hour = np.divmod(placed.cell[rows], len(group.span))
        cells = pairs[pair] * hours + hour + within.start
        found.append((cells, placed.time[rows], placed.minute[rows], placed.steps[rows]))
    once = _once(*(np.concatenate(column) for column in zip(*found, strict=True)))
    np.put(summed.sums, once.cells, once.sums)
    np.put(summed.minutes, once.cells, once.minutes)
    summed.flags[once.repeated // hours] |= rules.duplicate


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
