"""Which prediction a patient could read on arriving, and how long the patient then waited.

Belongs here: outcomes of visits as known at a moment, the prediction that each patient of a band is held
against, local days of arrivals. Does not belong here: measures of it (`evaluation.py`).

A patient is held against the latest prediction made at or before the arrival, and not one older than two
ticks, since none is shown then. A tick without a value leaves the one before in place. Whoever could read
none is in no row of that model.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from medscore_assets.wait_times.bands import BANDS
from medscore_assets.wait_times.clock import DAY_US, HOUR_US, as_datetime, local_times, moment
from medscore_assets.wait_times.columns import Integers, Mask, Numbers, codes, decoded, moments, times
from medscore_assets.wait_times.evaluation import SERIES
from medscore_assets.wait_times.snapshot import build_snapshot
from medscore_assets.wait_times.visits import NEVER, Visits

OLDEST = timedelta(minutes=30)
"""An older prediction is not shown: two ticks."""

BLOCK_HOURS = 4

_NOBODY = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """How visits went as known at a moment, by facility and in order of arrival; arrays of shape (visits,).

    Times are microseconds since 1970 in UTC. `actual` is the wait in seconds of those who were seen, NaN for
    the others; `censored_at` the seconds waited without being seen, until leaving or until the moment, NaN
    for those who were. `resolved_at` is when the outcome was first on record, `NEVER` while somebody waits.
    """

    facilities: tuple[str, ...]
    starts: Integers
    """Facility f has the visits starts[f]:starts[f + 1]."""
    visit_ids: pa.Array
    arrival: Integers
    ctas: npt.NDArray[np.int8]
    actual: Numbers
    censored_at: Numbers
    left_unseen: Mask
    resolved_at: Integers

    @classmethod
    def known(cls, visits: Visits, until: datetime, since: datetime) -> Outcomes:
        """Of visits that began from `since` to `until`, by what was on record at `until`.

        What was recorded or happened later is unknown. Visits that break a rule of the registry are left out
        (`visits.RULES`). Nobody waits who is on record as gone: without the mark of leaving unseen, a
        disposition without a physician is taken for it.
        """
        scenes = [(facility, until) for facility in visits.facilities]
        history = max(until - since, timedelta(0)) + timedelta(microseconds=1)
        # An outcome is the same in every zone.
        there = build_snapshot(visits, scenes, dict.fromkeys(visits.facilities, "UTC"), history)
        begin, now = (int(moment(when).view(np.int64)) for when in (since, until))
        gone = np.fmin(there.left, there.departed)
        left_unseen = np.isnan(there.seen) & ~np.isnan(gone)
        waited = np.where(left_unseen, gone, 0.0) - there.arrived
        return cls(
            facilities=visits.facilities,
            starts=there.offsets,
            visit_ids=visits.visit_ids.take(pa.array(there.rows)),
            arrival=visits.arrival.view(np.int64)[there.rows],
            ctas=there.ctas,
            actual=60 * there.waits(),
            censored_at=np.where(np.isnan(there.seen), 60 * waited, np.nan),
            left_unseen=left_unseen,
            resolved_at=np.where(there.waiting(), NEVER, _first_on_record(visits, there.rows, begin, now)),
        )

    def of_band(self, facility: str, band: str) -> Integers:
        """Which visits belong to a band of a facility, in order of arrival."""
        if facility not in self.facilities:
            return _NOBODY
        number = self.facilities.index(facility)
        start, stop = self.starts[number : number + 2]
        found: Integers = np.flatnonzero(BANDS[band].holds(self.ctas[start:stop])) + start
        return found


def attribute(
    visits: Visits, predictions: pa.Table, until: datetime, since: datetime | None = None
) -> pa.Table:
    """Each patient against each series of predictions that was on show on arriving, as known at `until`.

    `predictions` has the columns facility_id, band, model, version, as_of, wait_seconds (null: no value) and
    p80_seconds, one row per key. Patients count who arrived from `since` on (or from the first prediction).
    One row per visit, band, model and version, with the columns `facility_id`, `visit_id`, `band`, `model`,
    `version`, `as_of`, `arrival`, `p50_seconds`, `p80_seconds` (null where the model has none),
    `actual_seconds` (null unless seen), `censored_at_seconds` (waited so far, or until leaving; null if
    seen), `left_unseen`, and `resolved_at` (null while waiting). Raises KeyError for an unknown band.
    """
    shown = predictions.filter(pc.is_valid(predictions["wait_seconds"]))
    as_of = times(shown["as_of"])
    begin = since or (as_datetime(as_of.min().view("datetime64[us]")) if len(shown) else until)
    outcomes = Outcomes.known(visits, until, begin)
    series = codes(shown, SERIES)
    order = _in_time(series, as_of)
    bounds = np.append(np.flatnonzero(np.diff(series[order], prepend=-1)), len(order))
    heads = shown.select(["facility_id", "band"]).take(pa.array(order[bounds[:-1]])).to_pylist()
    here = functools.cache(outcomes.of_band)
    patients, found = [_NOBODY], [_NOBODY]
    for head, start, stop in zip(heads, bounds[:-1], bounds[1:], strict=True):
        rows, who = order[start:stop], here(head["facility_id"], head["band"])
        place = _latest(as_of[rows], outcomes.arrival[who])
        patients.append(who[place >= 0])
        found.append(rows[place[place >= 0]])
    return _rows(shown, outcomes, np.concatenate(patients), np.concatenate(found))


def localised(attributed: pa.Table, zones: Mapping[str, str]) -> pa.Table:
    """The same with the local `day` of arrival (date) and its 4-hour `block` (0: from midnight, to 5).

    `zones` is facility -> IANA zone. Raises KeyError for a facility that has none.
    """
    arrival = times(attributed["arrival"]).view("datetime64[us]")
    facility = np.asarray(decoded(attributed["facility_id"]).to_numpy(), dtype=object)
    local = np.empty(len(arrival), dtype="datetime64[us]")
    for name in pc.unique(attributed["facility_id"]).to_pylist():
        here = facility == name
        local[here] = local_times(arrival[here], zones[name])
    clock = local.view(np.int64)
    block = (clock % DAY_US // (BLOCK_HOURS * HOUR_US)).astype(np.int8)
    return attributed.append_column("day", pa.array(local.astype("datetime64[D]"))).append_column(
        "block", pa.array(block)
    )


def _in_time(series: Integers, as_of: Integers) -> Integers:
    """The order by series, then by time. Most tables are in order of time: then a sort by series does."""
    narrow = series.max(initial=0) <= np.iinfo(np.int16).max
    order = np.argsort(series.astype(np.int16) if narrow else series, kind="stable")
    back = (np.diff(as_of[order]) < 0) & (np.diff(series[order]) == 0)
    return np.lexsort((as_of, series)) if back.any() else order


def _latest(as_of: Integers, arrival: Integers) -> Integers:
    """Per arrival the place of the latest moment at or before it, -1 where that is none or too old."""
    if not len(as_of):
        return np.full(len(arrival), -1)
    place = np.searchsorted(as_of, arrival, "right") - 1
    old = arrival - as_of[np.maximum(place, 0)] > OLDEST // timedelta(microseconds=1)
    return np.where(old, -1, place)


def _first_on_record(visits: Visits, rows: Integers, since: int, until: int) -> Integers:
    """When the end of each visit was first on record: by the first of its versions with that very end.

    A later version may add what is no news of the wait. Only versions are searched that tell of an arrival
    from `since` to `until`.
    """
    among = np.flatnonzero((visits.sorted_by >= since) & (visits.sorted_by <= until))
    end = visits.disposition_at.view(np.int64)[among]
    for earlier in (visits.left_at, visits.pia_at):
        known = earlier.view(np.int64)[among]
        end = np.where(known == NEVER, end, known)
    recorded = visits.recorded_at.view(np.int64)[among]
    order = np.lexsort((recorded, end, visits.visit[among]))
    same_visit = np.diff(visits.visit[among][order], prepend=-1) == 0
    same_end = np.diff(end[order], prepend=0) == 0
    begins = np.flatnonzero(~(same_visit & same_end))
    of_first = np.repeat(begins, np.diff(np.append(begins, len(order))))
    first = np.full(len(visits), NEVER)
    first[among[order]] = np.maximum(recorded[order][of_first], end[order])
    return first[rows]


def _rows(shown: pa.Table, outcomes: Outcomes, patients: Integers, found: Integers) -> pa.Table:
    """The table of pairs of a visit and a prediction."""
    said = shown.select([*SERIES, "as_of", "wait_seconds", "p80_seconds"]).take(pa.array(found))
    resolved = outcomes.resolved_at[patients]
    return pa.table(
        {
            "facility_id": said["facility_id"],
            "visit_id": outcomes.visit_ids.take(pa.array(patients)),
            "band": said["band"],
            "model": said["model"],
            "version": said["version"],
            "as_of": said["as_of"],
            "arrival": moments(outcomes.arrival[patients]),
            "p50_seconds": said["wait_seconds"],
            "p80_seconds": said["p80_seconds"],
            "actual_seconds": pa.array(outcomes.actual[patients], from_pandas=True),
            "censored_at_seconds": pa.array(outcomes.censored_at[patients], from_pandas=True),
            "left_unseen": outcomes.left_unseen[patients],
            "resolved_at": moments(resolved, resolved != NEVER),
        }
    )
