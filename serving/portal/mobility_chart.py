"""A patient's steps and forecasts as a drawing: where each bar, line, band and label is.

Belongs here: geometry of the chart, in numbers. Does not belong here: the drawing's elements and colours
(template and style sheet), words beside it (`mobility_view.py`).

Across, positions are percent of the width, so that the drawing fits any page with its text unscaled; down,
they are pixels of a fixed height.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Literal

from medscore_assets.mobility.daily import DayFlag
from serving.mobility_forecasts import Told

HISTORY_DAYS = 90
TOP, BASE, HEIGHT = 14.0, 232.0, 268.0
"""The highest step count, no steps, and the whole drawing, with its labels."""

_FEWEST_STEPS = 1_000
"""The top of the scale at least."""

_WEEKS_BETWEEN_LABELS = 2
_NARROW_EVERY = 3
"""On a narrow page, of so many labels one is shown."""

Kind = Literal["worn", "partial", "none"]


@dataclass(frozen=True, slots=True)
class Bar:
    """A day of the history. `none` has no steps: no device recorded anything."""

    day: date
    kind: Kind
    steps: int | None
    x: float
    width: float
    y: float
    height: float


@dataclass(frozen=True, slots=True)
class Band:
    """A forecast with its interval, if it has one: `top` and `bottom` are its ends."""

    day: date
    x: float
    width: float
    y: float
    top: float | None
    bottom: float | None


@dataclass(frozen=True, slots=True)
class Tick:
    """A label at a place, and whether it is shown on a narrow page too."""

    at: float
    text: str
    always: bool = True


@dataclass(frozen=True, slots=True)
class Chart:
    """All that is drawn."""

    bars: list[Bar]
    bands: list[Band]
    rows: list[Tick]
    """Lines across, by steps; `at` is down."""
    days: list[Tick]
    """Labels of days; `at` is across."""
    baseline: float | None
    """Down: the mean of the days to date."""
    begun: float
    """Across: where what is known ends and what is forecast begins."""
    top: float = TOP
    base: float = BASE
    height: float = HEIGHT


def chart_of(history: Mapping[date, Mapping[str, Any]], forecasts: Sequence[Told], day: date) -> Chart:
    """The `HISTORY_DAYS` days before `day`, and the days that were forecast.

    `history` has rows of `daily_steps` by day.
    """
    first = day - timedelta(days=HISTORY_DAYS)
    last = max([day, *(told.target_day for told in forecasts)])
    days = (last - first).days + 1
    step = 100.0 / days
    known = {d: row for d, row in history.items() if first <= d < day}
    limits = [told.row["upper"] or told.row["expected_steps"] for told in forecasts]
    most = _round_up(max([_FEWEST_STEPS, *limits, *(row["steps"] for row in known.values())]))

    def down(steps: float) -> float:
        return round(BASE - (BASE - TOP) * steps / most, 1)

    def across(of: date) -> float:
        return round((of - first).days * step, 3)

    past = [first + timedelta(days=n) for n in range(HISTORY_DAYS)]
    width = round(step * 0.76, 3)
    return Chart(
        bars=[_bar(d, known.get(d), across(d), width, down) for d in past],
        bands=[_band(told, across(told.target_day), width, down) for told in forecasts],
        rows=[Tick(down(steps), f"{steps:,}") for steps in _rows(most)],
        days=_labels(first, days, step),
        baseline=down(min(forecasts[0].row["baseline_mean"], most)) if forecasts else None,
        begun=across(day),
    )


def kind_of(row: Mapping[str, Any] | None) -> Kind:
    """What is known of a day: worn long enough, worn in part, or nothing."""
    if row is None or not row["wear_minutes"]:
        return "none"
    return "partial" if DayFlag.PARTIAL_DAY in DayFlag(row["flags"]) else "worn"


def _bar(day: date, row: Mapping[str, Any] | None, x: float, width: float, down: Any) -> Bar:
    kind = kind_of(row)
    if row is None or kind == "none":
        return Bar(day, "none", None, x, width, TOP, BASE - TOP)
    y = min(down(row["steps"]), BASE - 1)
    return Bar(day, kind, row["steps"], x, width, y, round(BASE - y, 1))


def _band(told: Told, x: float, width: float, down: Any) -> Band:
    row = told.row
    ends = (None, None) if row["lower"] is None else (down(row["upper"]), down(row["lower"]))
    return Band(told.target_day, x, width, down(row["expected_steps"]), *ends)


def _round_up(steps: float) -> int:
    """The next number of the kind 1, 2, 2.5, 4, 5 or 8 times a power of ten."""
    power = 10 ** math.floor(math.log10(steps))
    return int(next(m * power for m in (1, 2, 2.5, 4, 5, 8, 10) if m * power >= steps))


def _rows(most: int) -> list[int]:
    return [most * n // 4 for n in range(5)]


def _labels(first: date, days: int, step: float) -> list[Tick]:
    """Mondays, every other one; of these some on a narrow page."""
    to_monday = -first.weekday() % 7
    places = range(to_monday, days, 7 * _WEEKS_BETWEEN_LABELS)
    found = []
    for number, place in enumerate(places):
        day = first + timedelta(days=place)
        at = round((place + 0.38) * step, 3)
        # What stands at the edges would be cut off.
        if 3 <= at <= 97:
            found.append(Tick(at, f"{day.day} {day:%b}", always=number % _NARROW_EVERY == 1))
    return found
