"""How a made-up emergency department works: who comes, who is on duty, who is seen when, who leaves.

Belongs here: arrivals, triage, staffing, service and the queue, as they truly are. Does not belong here:
what is recorded of it, when, and with which faults (`emergency.py`).

Patients come at random, at a rate by hour and weekday and with good and bad days. Physicians on duty see the
one whose priority, which grows with the wait the faster the sicker, is highest. Physicians are faster or
slower from hour to hour, and now and then the department is short of hands for some hours. Who waits longer
than their patience leaves. Each UTC day of a department has random numbers of its own, so that departments
and days do not depend on which others are made.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from heapq import heappop, heappush
from typing import Any
from zlib import crc32
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

HOUR, DAY = 3600, 86_400
WARM_UP_DAYS, TAIL_DAYS = 3, 2
"""Simulated before the first day, so that nobody meets an empty department, and after the last."""

LEVELS = (1, 2, 3, 4, 5)
LEVEL_SHARES = np.array([0.01, 0.18, 0.45, 0.28, 0.08])
SERVICE_BY_LEVEL = np.array([1.9, 1.35, 1.05, 0.7, 0.5])
"""A physician's time with a patient, relative to the mean."""
SERVICE_SPREAD, DISPOSITION_SPREAD = 0.7, 0.6
"""Standard deviations of the logarithms of service, and of the time from PIA to disposition."""
DISPOSITION_HOURS = 2.6
PRIORITY_GROWTH = (1e9, 5.0, 1.6, 1.0, 0.7)
"""How fast priority grows with the wait; the resuscitations go before everybody."""
PATIENCE_BY_LEVEL = np.array([np.inf, 4.0, 1.0, 0.85, 0.7])
"""Mean patience relative to that of a CTAS 3."""

ARRIVALS_BY_HOUR = np.array(
    [11, 9, 8, 7, 7, 8, 11, 16, 24, 31, 35, 36, 35, 34, 33, 33, 33, 32, 31, 30, 28, 24, 19, 15], float
)
STAFF_BY_HOUR = np.array(
    [16, 13, 12, 11, 11, 11, 12, 17, 23, 29, 33, 34, 34, 34, 33, 33, 32, 32, 31, 30, 28, 25, 22, 19], float
)
BY_WEEKDAY = np.array([1.08, 1.03, 1.0, 0.99, 0.98, 0.96, 0.96])
DAILY_VARIATION = 0.10
"""Standard deviation of a day's factor, which is gamma."""
PRODUCTIVITY_MEMORY, PRODUCTIVITY_SPREAD = 0.85, 0.15
SHOCKS_PER_DAY, SHOCK_LOSS, SHOCK_HOURS = 0.25, 0.4, (3, 8)
NORMALS, UNIFORMS = 2, 20
SERVICE_DRAW, DISPOSITION_DRAW = 0, 1
ARRIVAL_DRAW, LEVEL_DRAW, PATIENCE_DRAW = 0, 1, 2
RECORDING_DRAWS = 3
"""The first of the uniform draws that decide what is recorded."""


@dataclass(frozen=True, slots=True)
class FacilityPlan:
    """A department: its volume, how much of it its physicians can see, and how patient its patients are.

    `load` is the physician time that all arrivals would take, as a share of the time on duty. `patience` is
    the mean in hours after which a CTAS 3 who waits leaves.
    """

    facility_id: str
    visits_per_day: float
    load: float
    patience: float = 13.0
    seen_per_hour: float = 2.0
    zone: str = "America/Toronto"
    name: str = ""
    name_fr: str = ""
    region: str = "Simulated"

    def __post_init__(self) -> None:
        if not (self.visits_per_day > 0 and self.load > 0 and self.patience > 0 and self.seen_per_hour > 0):
            raise ValueError("volume, load, patience and patients seen per hour are positive")
        ZoneInfo(self.zone)


@dataclass(frozen=True, slots=True)
class Shock:
    """From when until when a department had `SHOCK_LOSS` less of its capacity, in UTC."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Course:
    """What truly happened to those who came on the asked days, in order of arrival, in seconds since `start`.

    (n,): arrival; seen (NaN: left unseen); left (NaN: seen); disposition (NaN: left); level 1..5; day, the
    UTC day of arrival in days since 1970; number within that day; draws (n, UNIFORMS) in [0, 1).
    """

    start: datetime
    arrival: Array
    seen: Array
    left: Array
    disposition: Array
    level: Array
    day: Array
    number: Array
    draws: Array
    shocks: tuple[Shock, ...]


def course(plan: FacilityPlan, first: date, days: int, seed: int) -> Course:
    """What happens in a department to the patients who arrive on the local days from `first` on."""
    clock = _clock(plan.zone, first, days)
    draws = _Draws.of(plan, clock, seed)
    staff = _staffing(plan)
    seconds = plan.load * staff.sum() * HOUR / plan.visits_per_day
    level = np.searchsorted(np.cumsum(LEVEL_SHARES)[:-1], draws.uniform[:, LEVEL_DRAW], side="right")
    mean_by_level = SERVICE_BY_LEVEL / (SERVICE_BY_LEVEL @ LEVEL_SHARES) * seconds
    service = _log_normal(draws.normal[:, SERVICE_DRAW], SERVICE_SPREAD) * mean_by_level[level]
    patience = -np.log1p(-draws.uniform[:, PATIENCE_DRAW]) * plan.patience * HOUR * PATIENCE_BY_LEVEL[level]
    seen = _queue(
        draws.arrival.tolist(),
        level.tolist(),
        (draws.arrival + patience).tolist(),
        service.tolist(),
        staff[clock.hour].tolist(),
        draws.productivity.tolist(),
    )
    left = np.where(np.isnan(seen), draws.arrival + patience, np.nan)
    stay = _log_normal(draws.normal[:, DISPOSITION_DRAW], DISPOSITION_SPREAD) * DISPOSITION_HOURS * HOUR
    asked = (draws.arrival >= clock.first) & (draws.arrival < clock.last)
    return Course(
        start=clock.start,
        arrival=draws.arrival[asked],
        seen=seen[asked],
        left=left[asked],
        disposition=(seen + stay)[asked],
        level=(level + 1)[asked],
        day=draws.day[asked],
        number=draws.number[asked],
        draws=draws.uniform[asked],
        shocks=draws.shocks,
    )


@dataclass(frozen=True, slots=True)
class _Clock:
    """UTC hours from `start` on: local hour and weekday of each; the asked days in seconds since `start`."""

    start: datetime
    hour: Array
    weekday: Array
    first: float
    last: float


@lru_cache(maxsize=32)
def _clock(zone: str, first: date, days: int) -> _Clock:
    place = ZoneInfo(zone)
    start = datetime.combine(first - timedelta(days=WARM_UP_DAYS), time(), UTC)
    hours = (WARM_UP_DAYS + days + TAIL_DAYS) * 24
    local = [(start + timedelta(hours=h)).astimezone(place) for h in range(hours)]
    first_s, last_s = (
        (datetime.combine(day, time(), place).astimezone(UTC) - start).total_seconds()
        for day in (first, first + timedelta(days=days))
    )
    hour = np.array([moment.hour for moment in local])
    return _Clock(start, hour, np.array([moment.weekday() for moment in local]), first_s, last_s)


def _staffing(plan: FacilityPlan) -> Array:
    """Physicians on duty in each local hour (24,): whole numbers, at least one."""
    wanted = STAFF_BY_HOUR / STAFF_BY_HOUR.sum() * plan.visits_per_day / plan.seen_per_hour
    return np.asarray(np.maximum(np.rint(wanted), 1).astype(int))


def _log_normal(normal: Array, spread: float) -> Array:
    """Of mean 1."""
    return np.asarray(np.exp(spread * normal - spread**2 / 2))


@dataclass(frozen=True, slots=True)
class _Draws:
    """Everything random: per patient in order of arrival, and productivity per UTC hour."""

    arrival: Array
    day: Array
    number: Array
    normal: Array
    uniform: Array
    productivity: Array
    shocks: tuple[Shock, ...]

    @classmethod
    def of(cls, plan: FacilityPlan, clock: _Clock, seed: int) -> _Draws:
        rates = ARRIVALS_BY_HOUR / ARRIVALS_BY_HOUR.sum() * plan.visits_per_day
        rates = (rates[clock.hour] * BY_WEEKDAY[clock.weekday]).reshape(-1, 24)
        epoch_day = (clock.start.date() - date(1970, 1, 1)).days
        parts, noise, shocked = [], [], np.ones(len(clock.hour))
        shocks = []
        for later, rate in enumerate(rates):
            luck = np.random.default_rng([seed, crc32(plan.facility_id.encode()), epoch_day + later])
            noise.append(luck.standard_normal(24))
            shock = _shock(luck)
            factor = luck.gamma(1 / DAILY_VARIATION**2) * DAILY_VARIATION**2
            hours = np.repeat(np.arange(24), luck.poisson(rate * factor))
            normal = luck.standard_normal((len(hours), NORMALS))
            uniform = luck.random((len(hours), UNIFORMS))
            arrival = later * DAY + np.floor((hours + uniform[:, ARRIVAL_DRAW]) * HOUR)
            order = np.argsort(arrival, kind="stable")
            parts.append(
                (arrival[order], np.full(len(hours), epoch_day + later), normal[order], uniform[order])
            )
            if shock:
                begin, end = later * 24 + shock[0], later * 24 + shock[1]
                shocked[begin:end] = 1 - SHOCK_LOSS
                shocks.append(Shock(*(clock.start + timedelta(hours=h) for h in (begin, end))))
        arrival, day, normal, uniform = (np.concatenate(column) for column in zip(*parts, strict=True))
        number = np.concatenate([np.arange(len(part[0])) for part in parts])
        productivity = _productivity(np.concatenate(noise)) * shocked
        return cls(arrival, day, number, normal, uniform, productivity, tuple(shocks))


def _shock(luck: np.random.Generator) -> tuple[int, int] | None:
    """The first hour of a shock that begins on a day and the one after its last, or None."""
    happens, begin = luck.random(2)
    length = int(luck.integers(SHOCK_HOURS[0], SHOCK_HOURS[1] + 1))
    first = int(begin * 24)
    return (first, first + length) if happens < SHOCKS_PER_DAY else None


def _productivity(noise: Array) -> Array:
    """How fast physicians are in each hour: the exponential of an autoregression, of median 1."""
    level, levels = 0.0, []
    fresh = PRODUCTIVITY_SPREAD * (1 - PRODUCTIVITY_MEMORY**2) ** 0.5
    for shift in (fresh * noise).tolist():
        level = PRODUCTIVITY_MEMORY * level + shift
        levels.append(level)
    return np.asarray(np.exp(levels))


def _queue(
    arrival: list[float],
    level: list[int],
    leaves: list[float],
    service: list[float],
    staff: list[int],
    productivity: list[float],
) -> Array:
    """When each patient (n,) is first seen, in seconds; NaN for those who left before.

    All times are seconds since the first hour of `staff` and `productivity`; `arrival` ascends. A physician
    who goes off duty ends with the patient; whoever comes on duty begins at once.
    """
    seen = np.full(len(arrival), np.nan)
    queues: tuple[deque[int], ...] = tuple(deque() for _ in LEVELS)
    busy: list[float] = []
    coming, hour, last = 0, 0, len(staff) - 1
    now = 0.0
    while True:
        on_duty = staff[hour]
        while len(busy) < on_duty:
            chosen, highest = -1, -1.0
            for growth, queue in zip(PRIORITY_GROWTH, queues, strict=True):
                while queue and leaves[queue[0]] <= now:
                    queue.popleft()
                if queue and (priority := growth * (now - arrival[queue[0]])) > highest:
                    chosen, highest = queue[0], priority
            if chosen < 0:
                break
            queues[level[chosen]].popleft()
            seen[chosen] = now
            heappush(busy, now + service[chosen] / productivity[hour])
        if coming == len(arrival) and not any(queues):
            return seen
        change = (hour + 1) * float(HOUR) if hour < last else np.inf
        arrives = arrival[coming] if coming < len(arrival) else np.inf
        now = min(change, arrives, busy[0] if busy else np.inf)
        if now == change:
            hour += 1
        if now == arrives:
            queues[level[coming]].append(coming)
            coming += 1
        while busy and busy[0] <= now:
            heappop(busy)
