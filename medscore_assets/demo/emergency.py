"""Made-up emergency departments: their visits in all versions that were recorded, and the truth behind them.

Belongs here: what is recorded of each visit and when, with the delays, corrections and faults that real feeds
have, and the tables. Does not belong here: how the departments work (`emergency_physics.py`), and what makes
a wait valid (`medscore_assets/wait_times`).

Most things are recorded minutes after they happen, some hours later, some wrong at first. Now and then the
feed is silent for some hours, and then tells everything at once. Faults are put in on purpose, at the rates
of `DIRT`; the truth names the fault of each visit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from medscore_assets.demo.emergency_physics import (
    DAY,
    HOUR,
    RECORDING_DRAWS,
    WARM_UP_DAYS,
    Course,
    FacilityPlan,
    course,
)
from medscore_assets.wait_times.importers.versions import (
    MOMENT,
    VISITS_SCHEMA,
    Told,
    Versions,
    moments_array,
    versions,
    visits_table,
)

__all__ = ["DIRT", "SOURCE", "FacilityPlan", "SimulatedVisits", "default_plans", "known_at", "simulate"]

Array = npt.NDArray[Any]

SOURCE = "demo"
MINUTE = 60
DIRT = {
    "scheduled": 0.01,
    "duplicate": 0.004,
    "pia_after_left": 0.002,
    "unknown_ctas": 0.015,
    "absurd_wait": 0.002,
    "negative_wait": 0.002,
    "never_closed": 0.001,
    "no_arrival": 0.001,
}
"""Shares of visits. Scheduled visits and duplicates come beside the visits; the others spoil one."""
ADDED = ("scheduled", "duplicate")
LATE, LATE_HOURS = 0.02, (1.0, 8.0)
"""The share of PIA and of departures that are recorded hours late, and how late."""
CORRECTED, CORRECTION_MINUTES = 0.02, (-60.0, -10.0)
"""The share of PIA that is recorded too early at first, and by how much."""
REGISTERED_FIRST = 0.3
"""The share of visits of which the feed tells before triage."""
OUTAGES_PER_DAY, OUTAGE_HOURS = 0.02, (1.0, 4.0)
DELAY_MINUTES = {"registration": 2.0, "triage": 3.0, "pia": 5.0, "left": 30.0, "disposition": 10.0}
"""Mean minutes from when something happens to when it is recorded; of who left, the empty chair tells."""
TRIAGE_MINUTES, SCHEDULED_WAIT_MINUTES, CORRECTION_HOURS = 7.0, 15.0, 3.0

REGISTRATION, TRIAGE, CARE, DISPOSITION, CORRECTION = range(5)
"""Kinds of record, as columns of the times of records; care is PIA or leaving."""

VOLUMES = ((180, 1.02, 13.0, 2.3), (90, 1.02, 17.0, 2.0), (45, 1.00, 17.0, 1.6))
"""Visits a day, load, patience in hours and patients that a physician sees per hour; plans take turns."""
LOAD_STEPS = (0.0, 0.04)

FACILITIES_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("facility_id", "name", "name_fr", "zone", "region")]
)


@dataclass(frozen=True, slots=True)
class SimulatedVisits:
    """Tables: `visits` as `ed_visits`, `facilities` as `ed_facilities`, and what nobody in a hospital knows.

    `truth` has one row per visit, copies included: facility_id, visit_id, arrival, ctas, pia_at (null: left),
    left_at, disposition_at, and fault (null: none). `shocks` and `outages` are facility_id, start, end:
    when a department was short of hands, and when its feed was silent.
    """

    visits: pa.Table
    facilities: pa.Table
    truth: pa.Table
    shocks: pa.Table
    outages: pa.Table


def default_plans(count: int, zone: str = "America/Toronto") -> tuple[FacilityPlan, ...]:
    """Large, middle and small departments in turn. The first ones are the same, whatever the number."""
    plans = []
    for number in range(count):
        visits, load, patience, seen_per_hour = VOLUMES[number % len(VOLUMES)]
        plans.append(
            FacilityPlan(
                facility_id=f"demo-ed-{number + 1:03d}",
                visits_per_day=visits,
                load=load + LOAD_STEPS[number // len(VOLUMES) % len(LOAD_STEPS)],
                patience=patience,
                seen_per_hour=seen_per_hour,
                zone=zone,
                name=f"Demo Hospital {number + 1}",
                name_fr=f"Hôpital de démonstration {number + 1}",
            )
        )
    return tuple(plans)


def simulate(
    facilities: Sequence[FacilityPlan] | int,
    first: date,
    days: int,
    seed: int,
    zone: str = "America/Toronto",
) -> SimulatedVisits:
    """Visits that begin on the local days from `first` on, in all their versions.

    A number of facilities means `default_plans` in `zone`. The same seed and first day give the same visits
    of a facility, whatever others there are; more days add visits and change none. Versions are recorded
    beyond the last day until every visit is closed: `known_at` gives what was known at a moment.
    """
    plans = default_plans(facilities, zone) if isinstance(facilities, int) else tuple(facilities)
    if not plans or days < 1:
        raise ValueError("a simulation has at least one facility and one day")
    made = [_facility(plan, first, days, seed) for plan in plans]
    visits, truth, shocks, outages = (pa.concat_tables(part) for part in zip(*made, strict=True))
    rows = [
        {name: getattr(plan, name) or plan.facility_id for name in FACILITIES_SCHEMA.names} for plan in plans
    ]
    return SimulatedVisits(
        visits.combine_chunks(), pa.Table.from_pylist(rows, FACILITIES_SCHEMA), truth, shocks, outages
    )


def known_at(visits: pa.Table, moment: datetime) -> pa.Table:
    """The versions that were recorded until `moment` (with a zone), as they stood then."""
    cut = pa.scalar(moment.astimezone(UTC), MOMENT)
    kept = visits.filter(pc.less_equal(visits["recorded_at"], cut))
    superseded = pc.if_else(pc.less_equal(kept["superseded_at"], cut), kept["superseded_at"], None)
    position = VISITS_SCHEMA.get_field_index("superseded_at")
    return kept.set_column(position, VISITS_SCHEMA.field(position), superseded)


@dataclass(frozen=True, slots=True)
class _Visits:
    """Visits as they took place (n,), in seconds since `start`, NaN for what did not happen."""

    visit_id: pa.Array
    arrival: Array
    triage: Array
    seen: Array
    left: Array
    disposition: Array
    level: Array
    draws: Array
    fault: Array

    def take(self, rows: Array) -> _Visits:
        indices = pa.array(rows)
        others = {name: getattr(self, name)[rows] for name in _ARRAYS}
        return _Visits(visit_id=self.visit_id.take(indices), **others)

    def draw(self, number: int) -> Array:
        return np.asarray(self.draws[:, RECORDING_DRAWS + number])

    def exponential(self, number: int, mean: float) -> Array:
        return np.asarray(-np.log1p(-self.draw(number)) * mean)


_ARRAYS = ("arrival", "triage", "seen", "left", "disposition", "level", "draws", "fault")


def _facility(plan: FacilityPlan, first: date, days: int, seed: int) -> tuple[pa.Table, ...]:
    """Visits, truth, shocks and outages of one facility."""
    happened = course(plan, first, days, seed)
    silent = _outages(plan, happened.start, days, seed)
    took_place = _took_place(happened)
    spoiled = _spoiled(took_place)
    made = _recorded(spoiled, happened.start, silent)
    visits = visits_table(plan.facility_id, spoiled.visit_id, made, SOURCE)
    shocks = [(shock.start, shock.end) for shock in happened.shocks]
    gaps = [(happened.start + timedelta(seconds=a), happened.start + timedelta(seconds=b)) for a, b in silent]
    return (
        visits,
        _truth(plan, spoiled, took_place, happened.start),
        _spans(plan, shocks),
        _spans(plan, gaps),
    )


def _took_place(happened: Course) -> _Visits:
    """The visits of a course, with their ids, triage and which fault will be put into each."""
    days = {int(day): (date(1970, 1, 1) + timedelta(days=int(day))) for day in np.unique(happened.day)}
    named = zip(happened.day.tolist(), happened.number.tolist(), strict=True)
    visits = _Visits(
        visit_id=pa.array([f"{days[day]:%Y%m%d}-{number:04d}" for day, number in named], pa.string()),
        arrival=happened.arrival,
        triage=np.zeros(len(happened.arrival)),
        seen=happened.seen,
        left=happened.left,
        disposition=happened.disposition,
        level=happened.level,
        draws=happened.draws,
        fault=np.zeros(len(happened.arrival), np.int8),
    )
    triage = visits.arrival + visits.exponential(0, TRIAGE_MINUTES * MINUTE)
    kind = np.searchsorted(np.cumsum(list(DIRT.values())), visits.draw(1), side="right")
    fault = np.where(kind < len(DIRT), kind + 1, 0).astype(np.int8)
    # Of who left there is no PIA to be wrong about.
    about_pia = [list(DIRT).index(name) + 1 for name in ("pia_after_left", "negative_wait")]
    fault[np.isin(fault, about_pia) & np.isnan(visits.seen)] = 0
    return replace(visits, triage=np.fmin(np.fmin(triage, visits.seen), visits.left), fault=fault)


def _spoiled(visits: _Visits) -> _Visits:
    """The visits with the faults in them, and those that are added at the end."""
    size, whole_days = visits.draw(2), (1 + np.floor(visits.draw(2) * 2)) * DAY

    def of(kind: str) -> Array:
        return np.asarray(visits.fault == list(DIRT).index(kind) + 1)

    gone = of("never_closed")
    seen = np.where(of("negative_wait"), visits.arrival - (5 + 600 * size) * MINUTE, visits.seen)
    seen[gone] = np.nan
    left = np.where(of("pia_after_left"), visits.seen - (1 + 30 * size) * MINUTE, visits.left)
    left[gone] = np.nan
    arrival = np.where(of("absurd_wait"), visits.arrival - whole_days - HOUR, visits.arrival)
    arrival[of("no_arrival")] = np.nan
    spoiled = replace(
        visits,
        arrival=arrival,
        seen=seen,
        left=left,
        disposition=np.where(gone, np.nan, visits.disposition),
        level=np.where(of("unknown_ctas"), 0, visits.level),
    )
    added = spoiled.take(np.flatnonzero(of("scheduled") | of("duplicate")))
    scheduled = added.fault == list(DIRT).index("scheduled") + 1
    again = pc.binary_join_element_wise(
        added.visit_id, pc.if_else(pa.array(scheduled), "scheduled", "again"), "-"
    )
    wait = added.exponential(2, SCHEDULED_WAIT_MINUTES * MINUTE)
    added = replace(
        added,
        visit_id=again,
        seen=np.where(scheduled, added.arrival + wait, added.seen),
        left=np.where(scheduled, np.nan, added.left),
        triage=np.where(scheduled, added.arrival, added.triage),
        disposition=np.where(scheduled, added.arrival + wait + HOUR, added.disposition),
    )
    # What was added carries the name of the fault; the visit beside which it stands is as it should be.
    spoiled.fault[of("scheduled") | of("duplicate")] = 0
    both = {name: np.concatenate([getattr(spoiled, name), getattr(added, name)]) for name in _ARRAYS}
    return _Visits(visit_id=pa.concat_arrays([spoiled.visit_id, again]), **both)


def _recorded(visits: _Visits, start: datetime, silent: Sequence[tuple[float, float]]) -> Versions:
    """What is recorded of each visit, and when."""
    true_arrival = np.where(np.isnan(visits.arrival), visits.triage, visits.arrival)
    # A wrong date is entered at the right time.
    came = np.fmax(true_arrival, visits.triage - DAY / 4)
    triage = np.fmax(visits.triage, came)
    told = np.full((len(came), 5), np.nan)
    told[:, TRIAGE] = triage + visits.exponential(3, DELAY_MINUTES["triage"] * MINUTE)
    registered = came + visits.exponential(4, DELAY_MINUTES["registration"] * MINUTE)
    told[:, REGISTRATION] = np.where(visits.draw(5) < REGISTERED_FIRST, registered, told[:, TRIAGE])
    late = np.where(visits.draw(6) < LATE, np.interp(visits.draw(7), (0, 1), LATE_HOURS) * HOUR, 0)
    of_pia = np.fmax(visits.seen, came) + visits.exponential(8, DELAY_MINUTES["pia"] * MINUTE)
    of_left = np.fmax(visits.left, came) + visits.exponential(8, DELAY_MINUTES["left"] * MINUTE)
    told[:, CARE] = np.fmax(of_pia, of_left) + late
    told[:, CARE] = np.where(np.isnan(visits.seen), of_left + late, told[:, CARE])
    told[:, DISPOSITION] = visits.disposition + visits.exponential(9, DELAY_MINUTES["disposition"] * MINUTE)
    corrected = (visits.draw(10) < CORRECTED) & (visits.fault == 0) & ~np.isnan(visits.seen)
    told[corrected, CORRECTION] = (told[:, CARE] + MINUTE + visits.exponential(11, CORRECTION_HOURS * HOUR))[
        corrected
    ]
    early = visits.seen + np.interp(visits.draw(12), (0, 1), CORRECTION_MINUTES) * MINUTE
    wrong = np.where(corrected, np.fmax(early, visits.arrival), visits.seen)
    for begin, end in silent:
        told[(told >= begin) & (told < end)] = end
    # Whatever comes first tells that there is a visit.
    told[:, REGISTRATION] = np.nanmin(told, axis=1)

    def moments(seconds: Array) -> Array:
        return _moments(start, seconds)

    never = np.datetime64("NaT")
    fields = {
        "arrival": ([Told(REGISTRATION, moments(visits.arrival))], never),
        "triage_at": ([Told(TRIAGE, moments(visits.triage))], never),
        "ctas": ([Told(TRIAGE, visits.level)], 0),
        "pia_at": ([Told(CARE, moments(wrong)), Told(CORRECTION, moments(visits.seen))], never),
        "left_at": ([Told(CARE, moments(visits.left))], never),
        "disposition_at": ([Told(DISPOSITION, moments(visits.disposition))], never),
        "scheduled": ([Told(REGISTRATION, _is_scheduled(visits))], False),
    }
    return versions(moments(told), fields)


def _is_scheduled(visits: _Visits) -> Array:
    return np.asarray(visits.fault == list(DIRT).index("scheduled") + 1)


def _outages(plan: FacilityPlan, start: datetime, days: int, seed: int) -> list[tuple[float, float]]:
    """When the feed is silent, in seconds since `start`."""
    epoch_day = (start.date() - date(1970, 1, 1)).days
    spans = []
    for number in range(WARM_UP_DAYS, WARM_UP_DAYS + days):
        luck = np.random.default_rng([seed, crc32(plan.facility_id.encode()), epoch_day + number, 1])
        happens, begin, length = luck.random(3)
        if happens < OUTAGES_PER_DAY:
            first = float(np.floor((number + begin) * DAY))
            spans.append((first, first + float(np.floor(np.interp(length, (0, 1), OUTAGE_HOURS) * HOUR))))
    return spans


def _truth(plan: FacilityPlan, spoiled: _Visits, took_place: _Visits, start: datetime) -> pa.Table:
    """What happened, with the fault that was put into each visit; the added ones are scheduled or copies."""
    real, added = len(took_place.arrival), len(spoiled.arrival) - len(took_place.arrival)
    names = pa.array([None, *DIRT])

    def column(true: Array, recorded: Array) -> Array:
        return np.concatenate([true, recorded[real:]])

    times = {
        "arrival": column(took_place.arrival, spoiled.arrival),
        "pia_at": column(took_place.seen, spoiled.seen),
        "left_at": column(took_place.left, spoiled.left),
        "disposition_at": column(took_place.disposition, spoiled.disposition),
    }
    return pa.table(
        {
            "facility_id": pa.repeat(pa.scalar(plan.facility_id), real + added),
            "visit_id": spoiled.visit_id,
            "ctas": pa.array(column(took_place.level, spoiled.level), pa.int16()),
            **{name: moments_array(_moments(start, seconds)) for name, seconds in times.items()},
            "fault": names.take(pa.array(spoiled.fault)),
        }
    )


def _spans(plan: FacilityPlan, spans: Sequence[tuple[datetime, datetime]]) -> pa.Table:
    return pa.table(
        {
            "facility_id": pa.array([plan.facility_id] * len(spans), pa.string()),
            "start": pa.array([begin for begin, _ in spans], MOMENT),
            "end": pa.array([end for _, end in spans], MOMENT),
        }
    )


def _moments(start: datetime, seconds: Array) -> Array:
    """Whole seconds since `start` as datetime64[us]; NaN as NaT."""
    absent = np.isnan(seconds)
    whole = np.where(absent, 0, np.floor(np.where(absent, 0, seconds))).astype("timedelta64[s]")
    moments = np.datetime64(start.replace(tzinfo=None), "us") + whole
    moments[absent] = np.datetime64("NaT")
    return np.asarray(moments)
