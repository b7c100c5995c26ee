"""A patient's mobility as a person reads it: figures, reasons as bars, what is to be known of the data.

Belongs here: words and lengths for the template. Does not belong here: HTTP, where forecasts and steps come
from (`serving/mobility_forecasts.py`), the chart's geometry (`mobility_chart.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from medscore_assets.mobility.baselines import NAIVE
from medscore_assets.mobility.cohorts import NEW
from medscore_assets.mobility.daily import DayFlag
from medscore_assets.mobility.stored import stored_reasons
from serving.mobility import notes_of
from serving.mobility_forecasts import Told
from serving.mobility_lake import History
from serving.portal.mobility_chart import HISTORY_DAYS, kind_of

_MINUS = "\u2212"
_HALF = 50.0
"""Bars begin in the middle of a drawing 100 wide."""

_LEAST_SCALE = 300
"""Steps of a full bar at least, so that small reasons have short bars."""

KINDS = {"worn": "Worn", "partial": "Worn under 10 hours", "none": "No data"}

_OF_DAYS = {
    DayFlag.OVERLAPPING_DEVICES: "had several devices at once: of each hour the one worn longest counts, and "
    "none are added up.",
    DayFlag.DUPLICATE_RECORDS: "had records that came twice; each counts once.",
    DayFlag.IMPOSSIBLE_COUNT_REMOVED: "had counts that nobody walks, which were left out.",
    DayFlag.FUTURE_REMOVED: "had records dated in the future, which were left out.",
    DayFlag.CLOCK_CHANGE: "had 23 or 25 hours.",
}


@dataclass(frozen=True, slots=True)
class Bar:
    """What adds or takes steps. `start` and `width` are percent of the drawing."""

    text: str
    direction: str
    steps: str
    start: float
    width: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """A forecast, ready for the template."""

    day: date
    when: str
    """The day from today: `tomorrow`."""
    steps: str
    interval: str | None
    level: str | None
    baseline: str
    change: str
    bars: list[Bar]
    serves: str
    route_reason: str
    computed: bool
    notes: list[str]

    @property
    def said(self) -> str:
        """The forecast in one sentence."""
        between = f", between {self.interval} on {self.level} of such days" if self.interval else ""
        return f"{self.steps} steps{between}"


def forecast_of(told: Told, today: date) -> Forecast:
    """The view of a forecast on a day."""
    row, why = told.row, stored_reasons(told.row)
    interval = None if row["lower"] is None else f"{row['lower']:,.0f} and {row['upper']:,.0f}"
    added = [(_reason(reason.text), reason.steps) for reason in why.reasons]
    added += [("All other features", why.other)] if why.other else []
    added += [("No day has fewer than 0 steps", why.raised)] if why.raised else []
    return Forecast(
        day=told.target_day,
        when=_from_today((told.target_day - today).days),
        steps=f"{why.forecast:,}",
        interval=interval,
        level=None if row["level"] is None else f"{row['level'] * 100:.0f} %",
        baseline=f"{why.baseline:,}",
        change=signed(why.forecast - why.baseline),
        bars=bars(added),
        serves=serves_of(row),
        route_reason=row["route_reason"],
        computed=told.computed,
        notes=notes_of(told),
    )


def bars(added: Sequence[tuple[str, int]]) -> list[Bar]:
    """A bar per reason, from the middle to the right if it adds steps, to the left if it takes some."""
    scale = max([_LEAST_SCALE, *(abs(steps) for _, steps in added)])
    found = []
    for text, steps in added:
        width = round(abs(steps) / scale * _HALF, 2)
        start = _HALF if steps > 0 else round(_HALF - width, 2)
        found.append(Bar(text, "adds" if steps > 0 else "takes", signed(steps), start, width))
    return found


def serves_of(row: Mapping[str, Any]) -> str:
    """Who made a forecast, in words."""
    if row["model_name"] is None:
        return NAIVE[row["serves"]]
    return f"Model {row['model_name']}, version {row['model_version']}"


def cohort_of(row: Mapping[str, Any]) -> str:
    """The patient's cohort, and whether the patient is new, as sentences."""
    new = " A new patient, with few days of data." if row["route"] == NEW else ""
    return f"Cohort {row['cohort']}.{new}"


def quality(found: History, day: date) -> list[str]:
    """What is to be known of the days that are shown, a sentence each."""
    history = found.rows
    days = [day - timedelta(days=n) for n in range(HISTORY_DAYS, 0, -1)]
    kinds = [kind_of(history.get(d)) for d in days]
    none, partial = kinds.count("none"), kinds.count("partial")
    said = [f"{HISTORY_DAYS - none} of the last {HISTORY_DAYS} days have data."]
    if none:
        said.append(
            f"{_days(none)} without data: whether the device was off or nobody walked cannot be told apart."
        )
    if partial:
        said.append(f"{_days(partial)} worn under 10 hours, so that steps may be missing.")
    if found.unread:
        listed = ", ".join(map(str, sorted(found.unread)))
        said.append(f"{_days(len(found.unread))} cannot be read at present, as if without data: {listed}.")
    flags = [DayFlag(history[d]["flags"]) for d in days if d in history]
    for flag, words in _OF_DAYS.items():
        if count := sum(flag in each for each in flags):
            said.append(f"{_days(count)} {words}")
    return said


def day_rows(history: Mapping[date, Mapping[str, Any]], day: date) -> list[tuple[date, str, str]]:
    """Every day that is shown, the newest first: the day, its steps, how it was worn."""
    found = []
    for n in range(1, HISTORY_DAYS + 1):
        row = history.get(day - timedelta(days=n))
        kind = kind_of(row)
        steps = f"{row['steps']:,}" if row is not None and kind != "none" else "–"
        found.append((day - timedelta(days=n), steps, KINDS[kind]))
    return found


def signed(steps: int) -> str:
    """A number of steps with its sign."""
    return f"{steps:+,}".replace("-", _MINUS) if steps else "0"


def _reason(text: str) -> str:
    """The clause of a reason: what stands behind "because"."""
    clause = text.partition(" because ")[2]
    return clause[:1].upper() + clause[1:]


def _from_today(days: int) -> str:
    near = {-1: "yesterday", 0: "today", 1: "tomorrow"}
    return near.get(days) or (f"in {days} days" if days > 0 else f"{-days} days ago")


def _days(count: int) -> str:
    return "1 day" if count == 1 else f"{count} days"
