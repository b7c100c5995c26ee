"""The loops over records and hours of `hours.py`, compiled to machine code.

Belongs here: loops over arrays without any text, each over memory once. Does not belong here: what the rules
are (`daily.py`), and in which order the loops run (`hours.py`).

Numba compiles them when this module is first imported (some seconds), and keeps the machine code beside it
for the next process, which still takes a second or two: import it where it is used. The loops check no
bounds: `day_records.py` has checked the positions that come from files.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from medscore_assets.mobility.day_records import MINUTE_US

types: Any = numba.types  # they have no annotations
RECORD_BITS = 36
"""A sum holds the steps in this many bits (those of 200 million records), and the records above them."""
RECORD = 1 << RECORD_BITS
WORN_BITS = 32
"""Minutes shifted by this, plus steps, sort by minutes and then by steps."""
NO_CELL = -1


def _given(number: Any, dimensions: int = 1) -> Any:
    """An array that a loop only reads."""
    return types.Array(number, dimensions, "C", readonly=True)


def _made(number: Any, dimensions: int = 1) -> Any:
    """An array that a loop fills."""
    return types.Array(number, dimensions, "C")


def _compiled(*signatures: Any) -> Callable[[Any], Any]:
    """Compile for these arguments, once for all processes if there is a folder to keep that in."""

    def compile_one(function: Any) -> Any:
        try:
            return numba.njit(list(signatures), cache=True, nogil=True)(function)
        except RuntimeError:  # neither this folder nor the user's cache can be written
            return numba.njit(list(signatures), nogil=True)(function)

    return compile_one


_ADD = [
    types.UniTuple(types.int64, 2)(
        *(_given(types.int32), _given(types.int32), types.int64, _given(counts), _given(types.int64)),
        *(_given(types.int32), _given(types.int64, 2), _given(types.int64)),
        *(_made(types.int32), types.int64, _made(types.int64, 2), _made(types.uint64, 2)),
        *(_made(types.int32), _made(types.int64), _made(types.int64), _made(types.int64)),
    )
    for counts in (types.int32, types.int64)
]


@_compiled(*_ADD)
def add_up(
    who: Any,
    device: Any,
    devices: int,
    count: Any,
    time: Any,
    zone: Any,
    days: Any,
    rules: Any,
    places: Any,
    first: int,
    sums: Any,
    minutes: Any,
    flags: Any,
    pairs: Any,
    cells: Any,
    again: Any,
) -> tuple[int, int]:
    """Add up the records of a row group that lie on the day.

    `who` to `days` are as in `day_records.Records`, `rules` (as_of, most, impossible, future) as in
    `hours.Rules`, `places` is -1 for each possible pair of a patient and a device. Each pair that comes takes
    the next row from `first` on of `flags` and, by hour of the day, of `sums` and of `minutes` (a bit for
    each); `pairs` is filled with them (who * devices + device). `cells` is filled with the position of each
    record's hour among all from row `first` on, NO_CELL if it does not count, and `again` with those of hours
    of which a minute came twice. Gives the number of rows taken, and the length of `again`.
    """
    as_of, most, impossible, future = rules[0] * MINUTE_US, rules[1], rules[2], rules[3]
    hours, taken, repeated, at, several = sums.shape[1], 0, 0, 0, len(zone) > 0
    for row in range(len(who)):
        cells[row] = NO_CELL
        if several:
            at = zone[row]
        moment, starts = time[row], days[at, 0] * MINUTE_US
        if moment < starts or moment >= days[at, 1] * MINUTE_US or who[row] < 0:
            continue
        possible = np.int64(who[row]) * devices + device[row]
        pair = int(places[possible])
        if pair < 0:
            pair, taken = taken, taken + 1
            places[possible] = pair
            pairs[pair] = possible
        to, steps = first + pair, np.int64(count[row])
        flags[to] |= days[at, 2]
        wrong = steps < 0 or steps > most
        if wrong:
            flags[to] |= impossible
        if moment >= as_of:
            flags[to] |= future
        if wrong or steps == 0 or moment >= as_of:
            continue
        # Unsigned, so that dividing by a constant is a multiplication.
        minute = np.uint64(moment - starts) // np.uint64(MINUTE_US)
        hour = np.int64(minute // np.uint64(60))
        bit = np.uint64(1) << (minute - np.uint64(hour) * np.uint64(60))
        cells[row] = pair * hours + hour
        if minutes[to, hour] & bit:
            again[repeated] = cells[row]
            repeated += 1
        minutes[to, hour] |= bit
        sums[to, hour] += steps + RECORD
    return taken, repeated


@_compiled(_made(types.int64)(_given(types.int64), _given(types.boolean)))
def rows_in(cells: Any, wanted: Any) -> Any:
    """The records whose cell is wanted."""
    total = 0
    for row in range(len(cells)):
        if cells[row] >= 0 and wanted[cells[row]]:
            total += 1
    rows = np.empty(total, np.int64)
    at = 0
    for row in range(len(cells)):
        if cells[row] >= 0 and wanted[cells[row]]:
            rows[at] = row
            at += 1
    return rows


@_compiled(
    types.boolean(
        *(_given(types.int64), _made(types.int64), _made(types.int64, 2), _made(types.uint64, 2)),
        *(_made(types.int32), _made(types.boolean, 2)),
    )
)
def put_together(number: Any, firsts: Any, sums: Any, minutes: Any, flags: Any, shared: Any) -> bool:
    """Add each row to the first one with the same number, and give whether any two have a minute in common.

    `firsts` (-1 before) is filled with these first rows, by number; `shared` says of a first row in which
    hours two of its rows have a minute in common.
    """
    any_shared = False
    for row in range(len(number)):
        to = firsts[number[row]]
        if to < 0:
            firsts[number[row]] = row
            continue
        flags[to] |= flags[row]
        for hour in range(minutes.shape[1]):
            bits = minutes[row, hour]
            if bits:
                if minutes[to, hour] & bits:
                    shared[to, hour] = any_shared = True
                minutes[to, hour] |= bits
                sums[to, hour] += sums[row, hour]
    return any_shared


@numba.njit(inline="always")
def _bit_count(bits: Any) -> Any:
    count = 0
    while bits:
        bits &= bits - np.uint64(1)
        count += 1
    return count


@_compiled(
    types.void(
        *(_given(types.int64), _given(types.int64), _given(types.int64, 2), _given(types.uint64, 2)),
        *(_given(types.int32), types.int64, _made(types.int64, 2)),
    )
)
def resolve(edges: Any, rows: Any, sums: Any, minutes: Any, flags: Any, overlapping: int, found: Any) -> None:
    """Of each hour the device with most minutes, then with most steps, by patient.

    The rows of patient k are `rows` from `edges[k]` to before `edges[k + 1]`. `found` is filled with steps,
    hours with steps, devices with steps, records and flags of each patient.
    """
    for patient in range(len(edges) - 1):
        steps = hours = devices = records = bits = 0
        own = rows[edges[patient] : edges[patient + 1]]
        for row in own:
            bits |= flags[row]
            counted = 0
            for hour in range(sums.shape[1]):
                counted += sums[row, hour] >> RECORD_BITS
            records += counted
            devices += counted > 0
        for hour in range(sums.shape[1]):
            counting = best = 0
            for row in own:
                if minutes[row, hour]:
                    counting += 1
                    worn = _bit_count(minutes[row, hour]) if len(own) > 1 else 1
                    best = max(best, (worn << WORN_BITS) + (sums[row, hour] & (RECORD - 1)))
            hours += counting > 0
            steps += best & ((1 << WORN_BITS) - 1)
            if counting > 1:
                bits |= overlapping
        found[0, patient], found[1, patient], found[2, patient] = steps, hours, devices
        found[3, patient], found[4, patient] = records, bits
