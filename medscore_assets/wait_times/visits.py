"""Visits to emergency departments with all their versions, and which of them make a valid wait.

Belongs here: versions of visits as columns, when each version was known, and the registry's rules for valid
waits. Does not belong here: reading them (`store.py`) and what was known at a moment (`snapshot.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from medscore_assets.wait_times.bands import UNKNOWN
from resources.errors import PermanentError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Times = npt.NDArray[np.datetime64]

TIMES = ("recorded_at", "superseded_at", "arrival", "triage_at", "pia_at", "left_at", "disposition_at")
COLUMNS = ("facility_id", "visit_id", *TIMES, "ctas", "scheduled")
"""The columns of `ed_visits` that are read; others may be there."""

LONGEST_WAIT = timedelta(hours=24)
"""A longer wait is a mistake of the record, and so is somebody who waits for longer."""

VALID = 0
RULES = (
    "scheduled_visit",
    "arrival_missing",
    "seen_before_arrival",
    "seen_after_leaving",
    "wait_above_cap",
    "never_closed",
    "duplicate",
)
"""Why a visit is left out, in the order in which they are weighed: a visit has the first that holds."""

NEVER = np.iinfo(np.int64).min
"""NaT as a whole number."""
FOREVER = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Visits:
    """Versions of visits, sorted by facility and arrival (by recording, where the arrival is missing).

    A version holds from `recorded_at` on until `superseded_at` (NaT: it is the current one). Times are
    datetime64[us] in UTC, NaT where nothing is known; `arrival` begins the wait (the earlier of registration
    and triage), `pia_at` ends it (physician initial assessment). All arrays have the shape (versions,).
    """

    facilities: tuple[str, ...]
    facility: Ints
    """Which of `facilities`."""
    visit_ids: pa.Array
    visit: Ints
    """The same number for all versions of one visit at one facility."""
    recorded_at: Times
    superseded_at: Times
    arrival: Times
    triage_at: Times
    pia_at: Times
    left_at: Times
    disposition_at: Times
    ctas: npt.NDArray[np.int8]
    scheduled: Mask
    starts: Ints
    """Facility f has the versions starts[f]:starts[f + 1]."""
    sorted_by: Ints
    """Microseconds since 1970 of the arrival, or of the recording where the arrival is missing."""
    overlapping: Ints
    """`visit` where two versions of the visit hold at once, else -1."""
    twins: Ints
    """A number shared by different visits with the same arrival, triage level and PIA, else -1."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if isinstance(value, np.ndarray):
                value.flags.writeable = False

    def __len__(self) -> int:
        return len(self.facility)

    @classmethod
    def of(cls, columns: pa.Table | Mapping[str, Any]) -> Self:
        """From rows of `ed_visits` in any order: a table, or arrays by column name.

        Times of a table carry a zone; datetime64 arrays are in UTC. Raises PermanentError where a column
        is missing or a time has no zone.
        """
        table = columns if isinstance(columns, pa.Table) else _table(columns)
        missing = [name for name in COLUMNS if name not in table.column_names]
        if missing:
            raise _unreadable(f"Visits have no column {', '.join(missing)}")
        times = {name: _times(table, name) for name in TIMES}
        names = _combined(table["facility_id"]).dictionary_encode()
        ids = _combined(table["visit_id"]).dictionary_encode()
        facility = names.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        facilities = tuple(names.dictionary.to_pylist())
        visit = facility * len(ids.dictionary) + ids.indices.to_numpy(zero_copy_only=False)
        whole = {name: values.view(np.int64) for name, values in times.items()}
        key = np.where(whole["arrival"] == NEVER, whole["recorded_at"], whole["arrival"])
        order = np.lexsort((whole["recorded_at"], key, facility))
        in_order = {name: values[order] for name, values in times.items()}
        levels = _numbers(table, "ctas", UNKNOWN)[order]
        ctas = np.where((levels >= 1) & (levels <= 5), levels, UNKNOWN).astype(np.int8)
        facility, visit = facility[order], visit[order]
        return cls(
            facilities=facilities,
            facility=facility,
            visit_ids=pc.take(_combined(table["visit_id"]), pa.array(order)),
            visit=visit,
            **in_order,
            ctas=ctas,
            scheduled=_numbers(table, "scheduled", 0)[order].astype(bool),
            starts=np.searchsorted(facility, np.arange(len(facilities) + 1)),
            sorted_by=key[order],
            overlapping=_overlapping(visit, in_order["recorded_at"], in_order["superseded_at"]),
            twins=_twins(facility, visit, in_order["arrival"], ctas, in_order["pia_at"]),
        )


def broken_rule(
    scheduled: Mask, arrived: Floats, seen: Floats, left: Floats, departed: Floats
) -> npt.NDArray[np.int8]:
    """The first rule that each visit breaks: its place in RULES plus 1, or VALID. Duplicates are not sought.

    Minutes relative to the moment of judging, NaN where nothing is known at it. A missing PIA is no fault:
    the patient waits, or has left without being seen.
    """
    cap = LONGEST_WAIT / timedelta(minutes=1)
    nothing = np.isnan(seen) & np.isnan(left) & np.isnan(departed)
    broken = (
        scheduled,
        np.isnan(arrived),
        seen < arrived,
        (seen > left) | (seen > departed),
        seen - arrived > cap,
        nothing & (arrived < -cap),
    )
    found = np.zeros(len(arrived), dtype=np.int8)
    for number in reversed(range(len(broken))):
        found[broken[number]] = number + 1
    return found


def _overlapping(visit: Ints, recorded: Times, superseded: Times) -> Ints:
    """`visit` of those with two versions that hold at once, else -1."""
    found = np.full(len(visit), -1, dtype=np.int64)
    order = np.lexsort((recorded.view(np.int64), visit))
    until = superseded.view(np.int64)[order]
    until = np.where(until == NEVER, FOREVER, until)
    begins = recorded.view(np.int64)[order]
    sorted_visit = visit[order]
    clash = (sorted_visit[1:] == sorted_visit[:-1]) & (begins[1:] < until[:-1])
    if clash.any():
        among = np.isin(visit, sorted_visit[1:][clash])
        found[among] = visit[among]
    return found


def _twins(facility: Ints, visit: Ints, arrival: Times, ctas: npt.NDArray[np.int8], pia: Times) -> Ints:
    """A number for each set of different visits that share arrival, triage level and PIA, else -1."""
    found = np.full(len(visit), -1, dtype=np.int64)
    if not len(visit):
        return found
    came = arrival.view(np.int64)
    begins = np.concatenate([[True], (came[1:] != came[:-1]) | (facility[1:] != facility[:-1])])
    at = np.flatnonzero(begins)
    several = np.minimum.reduceat(visit, at) != np.maximum.reduceat(visit, at)
    run = np.cumsum(begins) - 1
    rows = np.flatnonzero(several[run] & (came != NEVER) & ~np.isnat(pia))
    if len(rows):
        alike = np.stack([run[rows], ctas[rows].astype(np.int64), pia.view(np.int64)[rows]])
        _, number = np.unique(alike, axis=1, return_inverse=True)
        low, high = np.full(number.max() + 1, FOREVER), np.full(number.max() + 1, NEVER)
        np.minimum.at(low, number, visit[rows])
        np.maximum.at(high, number, visit[rows])
        twin = low[number] != high[number]
        found[rows[twin]] = number[twin]
    return found


def _table(columns: Mapping[str, Any]) -> pa.Table:
    """A table of arrays; datetime64 is in UTC."""
    arrays = {}
    for name, values in columns.items():
        array = pa.chunked_array([pa.array(values)]) if not isinstance(values, pa.ChunkedArray) else values
        if isinstance(values, np.ndarray) and pa.types.is_timestamp(array.type):
            array = array.cast(pa.timestamp("us", "UTC"))
        arrays[name] = array
    return pa.table(arrays)


def _combined(column: pa.ChunkedArray) -> pa.Array:
    found = column.combine_chunks()
    if isinstance(found, pa.ChunkedArray):
        found = pa.concat_arrays(found.chunks) if found.num_chunks else pa.array([], found.type)
    return found.cast(pa.string()) if pa.types.is_dictionary(found.type) else found


def _times(table: pa.Table, name: str) -> Times:
    column = table[name]
    if pa.types.is_null(column.type):
        return np.full(len(column), "NaT", dtype="datetime64[us]")
    if not pa.types.is_timestamp(column.type) or column.type.tz is None:
        raise _unreadable(f"The column {name} of the visits has no times with a zone")
    whole = column.cast(pa.timestamp("us", "UTC"), safe=False).cast(pa.int64())
    filled: npt.NDArray[np.int64] = pc.fill_null(whole, NEVER).to_numpy()
    return np.ascontiguousarray(filled, dtype=np.int64).view("datetime64[us]")


def _numbers(table: pa.Table, name: str, missing: int) -> Ints:
    column = table[name].cast(pa.int64())
    filled: npt.NDArray[np.int64] = pc.fill_null(column, missing).to_numpy()
    return filled.astype(np.int64)


def _unreadable(what: str) -> PermanentError:
    return PermanentError(what, where="visits", mend="Give the columns of the table ed_visits.")
