"""The monitor's drawings as numbers: where each line, dot, interval and label is.

Belongs here: geometry. Does not belong here: elements and colours (template and style sheet), words beside
the drawings (`waits_monitor_view.py`).

Across, positions are percent of the width, so that text keeps its size; down, pixels of a fixed height.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

TOP, BASE, HEIGHT = 12.0, 172.0, 200.0
"""The upper and the lower end of the scale, and the whole drawing with its labels, in pixels."""

LEFT, RIGHT = 1.5, 98.5
"""The first and the last place across: dots at the edge are not cut off."""

_MOST_LABELS = 8
_NARROW_EVERY = 3
"""On a narrow page, of so many labels one is shown."""


@dataclass(frozen=True, slots=True)
class Dot:
    """A value at its place, with its words."""

    x: float
    y: float
    text: str


@dataclass(frozen=True, slots=True)
class Stroke:
    """From one dot to the next."""

    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True, slots=True)
class Drawn:
    """One series; where a value is missing its line is broken."""

    name: str
    dots: Sequence[Dot]
    strokes: Sequence[Stroke]


@dataclass(frozen=True, slots=True)
class Tick:
    """A label at a place, and whether it is shown on a narrow page too."""

    at: float
    text: str
    always: bool = True


@dataclass(frozen=True, slots=True)
class Zone:
    """What lies between two values, such as what is good enough."""

    y: float
    height: float
    middle: float


@dataclass(frozen=True, slots=True)
class LineChart:
    """Series over the same labels."""

    series: Sequence[Drawn]
    rows: Sequence[Tick]
    columns: Sequence[Tick]
    zone: Zone | None
    base: float = BASE
    height: float = HEIGHT


@dataclass(frozen=True, slots=True)
class Interval:
    """A value between its bounds, and where zero is; percent across."""

    at: float
    start: float
    width: float
    zero: float


Values = Sequence[float | None]


def line_chart(
    labels: Sequence[str],
    series: Sequence[tuple[str, Values, Sequence[str]]],
    scale: Sequence[tuple[float, str]],
    good: tuple[float, float, float] | None = None,
) -> LineChart:
    """Series of a name, values and words, all as long as `labels`; at most two can be told apart.

    `scale` has the lines across by value, lowest first: its ends are those of the drawing, and what lies
    beyond is drawn at the end. `good` is the lower, middle and upper value of what is shaded.
    """
    low, high = scale[0][0], scale[-1][0]

    def down(value: float) -> float:
        share = (min(max(value, low), high) - low) / (high - low)
        return round(BASE - (BASE - TOP) * share, 1)

    places = _places(len(labels))
    zone = None
    if good is not None:
        zone = Zone(down(good[2]), round(down(good[0]) - down(good[2]), 1), down(good[1]))
    return LineChart(
        series=[_drawn(name, values, words, places, down) for name, values, words in series],
        rows=[Tick(down(value), text) for value, text in scale],
        columns=_columns(labels, places),
        zone=zone,
    )


def even_scale(values: Sequence[float], unit: str, fewest: float = 1.0) -> list[tuple[float, str]]:
    """Five lines from 0 to the next round number above all values."""
    most = max([fewest, *values])
    power = 10 ** math.floor(math.log10(most))
    most = next(m * power for m in (1, 2, 4, 6, 8, 10) if m * power >= most)
    return [(most * n / 4, f"{most * n / 4:g}{unit}") for n in range(5)]


def share_scale(low: float = 0.5) -> list[tuple[float, str]]:
    """Lines every 10 % from `low` to 100 %."""
    steps = round((1 - low) * 10)
    return [(low + n / 10, f"{low + n / 10:.0%}") for n in range(steps + 1)]


def across(value: float, low: float, high: float) -> float:
    """Where a value of a scale is, in percent; what lies beyond is at the end."""
    return round(100 * (min(max(value, low), high) - low) / (high - low), 2)


def interval(value: float, lower: float, upper: float, reach: float) -> Interval:
    """A value with its bounds on a scale from -`reach` to `reach`."""
    at, start, end = (across(v, -reach, reach) for v in (value, lower, upper))
    return Interval(at, start, round(max(end - start, 0.4), 2), 50.0)


def reach_of(bounds: Sequence[float]) -> float:
    """The half width of a scale around 0 on which all bounds lie, in round numbers."""
    most = max([1.0, *(abs(bound) for bound in bounds)])
    power: float = 10 ** math.floor(math.log10(most))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= most)


def _places(count: int) -> list[float]:
    if count == 1:
        return [50.0]
    return [round(LEFT + (RIGHT - LEFT) * n / (count - 1), 3) for n in range(count)]


def _drawn(
    name: str, values: Values, words: Sequence[str], places: Sequence[float], down: Callable[[float], float]
) -> Drawn:
    there = [
        None if value is None else Dot(x, down(value), text)
        for x, value, text in zip(places, values, words, strict=True)
    ]
    pairs = pairwise(there)
    strokes = [Stroke(a.x, a.y, b.x, b.y) for a, b in pairs if a is not None and b is not None]
    return Drawn(name, [dot for dot in there if dot is not None], strokes)


def _columns(labels: Sequence[str], places: Sequence[float]) -> list[Tick]:
    every = max(1, math.ceil(len(labels) / _MOST_LABELS))
    chosen = range((len(labels) - 1) % every, len(labels), every)
    few = len(chosen) <= _NARROW_EVERY
    found = []
    for number, place in enumerate(chosen):
        # What stands at the edges would be cut off.
        if len(labels) <= _MOST_LABELS or 3 <= places[place] <= 97:
            found.append(Tick(places[place], labels[place], few or number % _NARROW_EVERY == 1))
    return found
