"""Raw files to the steps of a local day in arrays: the rules of `daily.py`, on one machine at full speed.

Belongs here: steps and worn minutes by patient, device and hour, duplicates, and the one device of each hour.
Does not belong here: the loops over them (`hour_loops.py`), reading (`day_records.py`), the rules themselves
and when a day begins where (`daily.py`).

Sums go straight into an array of hours; grouping in a SQL engine takes several times the CPU time. Records
are let go as soon as they are summed: a day takes some 400 bytes of memory for each patient, device and row
group in which the two are. The few row groups between which a record may lie twice are read again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from medscore_assets.mobility.day_records import LocalDay, Place, Records, on_the_day, read_again

Array = npt.NDArray[Any]

HOUR_MINUTES = 60
NUMBERS = ("steps", "hours", "devices", "records", "flags")
MOST_PLACES = 2**24
"""With more possible pairs of patient and device, those that are there are sorted, not marked."""
ROWS_AT_FIRST = 2**17
"""Arrays from four megabytes on get large pages of memory, which come many times as fast."""


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


class _Hours:
    """Rows of hours: `sums` and `minutes` as in `hour_loops.py`, and `flags`; the first `used` are taken.

    A row is of the records that one row group has of a patient and a device. `scratch` is room for two
    numbers for each record, which is used again for the next row group: new memory takes longer than sums.
    """

    def __init__(self) -> None:
        self.used = 0
        self.scratch = np.empty((2, ROWS_AT_FIRST), np.int64)
        self._make(ROWS_AT_FIRST, 24)

    def _make(self, rows: int, hours: int) -> None:
        # Pages of memory that nothing is written to are not taken.
        self.sums, self.minutes = np.zeros((rows, hours), np.int64), np.zeros((rows, hours), np.uint64)
        self.flags = np.zeros(rows, np.int32)

    @property
    def width(self) -> int:
        """The hours of a row. A cell is a row times the width, plus the hour."""
        return int(self.sums.shape[1])

    def make_room(self, rows: int, hours: int, records: int) -> None:
        """Have at least as many rows free, and as many hours in each, and scratch for as many records."""
        if records > self.scratch.shape[1]:
            self.scratch = np.empty((2, records + records // 4), np.int64)
        used, sums, minutes, flags = self.used, self.sums, self.minutes, self.flags
        there, width = sums.shape
        if used + rows <= there and hours <= width:
            return
        self._make(max(2 * there, used + rows), max(hours, width))
        self.sums[:used, :width], self.minutes[:used, :width] = sums[:used], minutes[:used]
        self.flags[:used] = flags[:used]


@dataclass(frozen=True, slots=True)
class _Group:
    """The rows of hours of a row group, from `first` on, and whose they are.

    Of each in `pairs`: the position of the patient times the number of devices, plus that of the device.
    """

    place: Place
    patients: pa.Array
    devices: pa.Array
    first: int
    pairs: Array

    @property
    def rows(self) -> slice:
        """Its rows of hours."""
        return slice(self.first, self.first + len(self.pairs))


def by_patient(paths: Sequence[str], day: LocalDay, rules: Rules) -> pa.Table:
    """A row for each patient with a record on the day: patient_id, by which they are sorted, and `NUMBERS`.

    `hours` are those with steps. `paths` are raw files; errors in reading them are Arrow's.
    """
    from medscore_assets.mobility.hour_loops import resolve

    hours, groups = _Hours(), []
    for place, records in on_the_day(paths, day):
        first, (pairs, _) = hours.used, _added_up(records, hours, rules)
        if len(pairs):
            groups.append(_Group(place, records.patients, records.devices, first, pairs))
    if not groups:
        columns = {name: pa.array([], pa.int64()) for name in NUMBERS}
        return pa.table({"patient_id": pa.array([], pa.string()), **columns})
    keys, width, names = _keys(groups)
    there, number = _numbered(keys, len(names) * width)
    firsts = _put_together(hours, groups, number, len(there), day, rules)
    owner = there // width
    edges = np.append(np.flatnonzero(np.diff(owner, prepend=-1)), len(there))
    found = np.empty((len(NUMBERS), len(edges) - 1), np.int64)
    resolve(edges, firsts, hours.sums, hours.minutes, hours.flags, rules.overlapping, found)
    patients = names.take(pa.array(owner[edges[:-1]]))
    return pa.table({"patient_id": patients, **dict(zip(NUMBERS, found, strict=True))}).sort_by("patient_id")


def _added_up(records: Records, hours: _Hours, rules: Rules) -> tuple[Array, Array]:
    """Take rows of hours for the records of a row group, in which each counts once.

    Gives the rows' pairs, as in `_Group`, and in scratch the cell of each record, counted from the first of
    these rows, negative for none.
    """
    from medscore_assets.mobility.hour_loops import add_up, rows_in

    who, device, devices, size, named = _places(records)
    most, first = min(size, len(who)), hours.used
    hours.make_room(most, _longest(records), len(who))
    cells, again = hours.scratch[:, : len(who)]
    order = np.empty(most, np.int64)
    taken, repeated = add_up(
        *(who, device, devices, records.count, records.time, records.zone, records.days),
        np.array([rules.as_of, rules.most, rules.impossible, rules.future], np.int64),
        *(np.full(size, -1, np.int32), first, hours.sums, hours.minutes, hours.flags),
        *(order, cells, again),
    )
    hours.used += taken
    if repeated:
        wanted = np.zeros(taken * hours.width, bool)
        wanted[again[:repeated]] = True
        rows = rows_in(cells, wanted)
        at = cells.take(rows) + first * hours.width
        _once(hours, at, records.time.take(rows), records.count.take(rows), rules)
    return order[:taken] if named is None else named.take(order[:taken]), cells


def _longest(records: Records) -> int:
    """The hours of the longest of these days, of which the last may be a part."""
    return max(1, -(-int((records.days[:, 1] - records.days[:, 0]).max()) // HOUR_MINUTES))


def _places(records: Records) -> tuple[Array, Array, int, int, Array | None]:
    """The records' `who` and `device`, the number of devices, that of possible pairs, and the pairs.

    Where more are possible than can have a place each, the pairs that are there stand for patients, all of
    one device; else None is given for the pairs, which are who * devices + device.
    """
    who, device, devices = records.who, records.device, len(records.devices)
    if len(records.patients) * devices <= MOST_PLACES:
        return who, device, devices, len(records.patients) * devices, None
    known = who >= 0
    named, place = np.unique(who[known].astype(np.int64) * devices + device[known], return_inverse=True)
    numbered = np.full(len(who), -1, np.int32)
    numbered[known] = place
    return numbered, np.zeros(len(who), np.int32), 1, len(named), named


def _once(hours: _Hours, cells: Array, time: Array, steps: Array, rules: Rules) -> None:
    """Count each of these records once. They are all that count in their cells of `hours`."""
    from medscore_assets.mobility.hour_loops import RECORD

    order = np.lexsort((steps, time, cells))
    time, steps, cells = time[order], steps[order].astype(np.int64), cells[order]
    same = np.diff(cells, prepend=-1) == 0
    again = same & (np.diff(time, prepend=-1) == 0) & (np.diff(steps, prepend=-1) == 0)
    places, place = np.unique(cells, return_inverse=True)
    sums = np.zeros(len(places), np.int64)
    np.add.at(sums, place[~again], steps[~again] + RECORD)
    np.put(hours.sums, places, sums)
    hours.flags[np.unique(cells[again]) // hours.width] |= rules.duplicate


def _keys(groups: Sequence[_Group]) -> tuple[Array, int, pa.Array]:
    """Of each row of hours the position of its patient times all devices, plus that of its device.

    Also the number of all devices, and the patients.
    """
    patients = pa.concat_arrays([group.patients for group in groups]).dictionary_encode()
    devices = pa.concat_arrays([group.devices for group in groups]).dictionary_encode()
    width = len(devices.dictionary)
    keys, who, what = [], np.asarray(patients.indices).astype(np.int64), np.asarray(devices.indices)
    for group in groups:
        patient, device = np.divmod(group.pairs, len(group.devices))
        keys.append(who.take(patient) * width + what.take(device))
        who, what = who[len(group.patients) :], what[len(group.devices) :]
    return np.concatenate(keys), width, patients.dictionary


def _numbered(values: Array, size: int) -> tuple[Array, Array]:
    """The values that there are, all below `size`, in order, and the position of each value among them."""
    if size > MOST_PLACES:
        return np.unique(values, return_inverse=True)
    marks = np.zeros(size, bool)
    marks[values] = True
    there = np.flatnonzero(marks)
    position = np.empty(size, np.int64)
    position[there] = np.arange(len(there))
    return there, position.take(values)


def _put_together(
    hours: _Hours, groups: Sequence[_Group], number: Array, size: int, day: LocalDay, rules: Rules
) -> Array:
    """Add rows of the same of `size` numbers to the first of them, each record once. Gives the first ones."""
    from medscore_assets.mobility.hour_loops import put_together

    firsts, shared = np.full(size, -1, np.int64), np.zeros((len(number), hours.width), bool)
    if put_together(number, firsts, hours.sums, hours.minutes, hours.flags, shared):
        _count_once(hours, groups, firsts[number], shared, day, rules)
    return firsts


def _count_once(
    hours: _Hours, groups: Sequence[_Group], first: Array, shared: Array, day: LocalDay, rules: Rules
) -> None:
    """Count records once that lie in several row groups: those of the same minute. They are read again.

    `first` is the row to which each row was added, `shared` says in which hours two of its had one minute.
    """
    from medscore_assets.mobility.hour_loops import rows_in

    found = []
    for group in groups:
        to = first[group.rows]
        wanted = shared[to]
        if not wanted.any():
            continue
        records = read_again(group.place, day)
        # The rows that this takes are looked at no more.
        _, cells = _added_up(records, hours, rules)
        rows = rows_in(cells, wanted.reshape(-1))
        pair, hour = np.divmod(cells.take(rows), hours.width)
        found.append((to[pair] * hours.width + hour, records.time.take(rows), records.count.take(rows)))
    cells, time, steps = (np.concatenate(column) for column in zip(*found, strict=True))
    _once(hours, cells, time, steps, rules)
