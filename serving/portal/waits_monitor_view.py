"""The monitor of wait-time models in words: its tables, sentences and the values of its drawings.

Belongs here: names, order and form of figures of how models did. Does not belong here: what goes into them
and who is shown (`waits_monitor_state.py`), reading (`waits_monitor_reading.py`), geometry
(`waits_monitor_chart.py`), the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from medscore_assets.wait_times.assignment import Pair
from medscore_assets.wait_times.bands import ALL_BANDS, ALL_POSTED
from medscore_assets.wait_times.boards import BOARD
from medscore_assets.wait_times.comparison import FEWEST_DAYS, FEWEST_PATIENTS, MOST_OFF_NOMINAL, Evidence
from medscore_assets.wait_times.evaluation import NOMINAL, TYPICAL
from serving.portal.waits_monitor_chart import (
    Interval,
    LineChart,
    across,
    interval,
    line_chart,
    reach_of,
    share_scale,
)
from serving.portal.waits_monitor_reading import POSTED_LIMITS_MIN, Monitored, Row, pair_of
from serving.wait_times_words import BAND_NAMES

DAYS = (7, 14, 28, 41)
"""Choices of how far back the page looks; outcomes are kept up to date as long."""

LOWEST_SHARE = 0.3
"""Where the scales of shares begin."""

NONE = "–"
"""Where there is no figure."""


@dataclass(frozen=True, slots=True)
class View:
    """What the page was asked for."""

    facility: str
    band: str = ALL_POSTED
    days: int = 28

    @classmethod
    def of(cls, asked: Mapping[str, str], facilities: Sequence[str]) -> View | None:
        """What an address asks for; None if it names what does not exist. `facilities` has at least one."""
        facility, band = asked.get("facility") or facilities[0], asked.get("band") or ALL_POSTED
        days = asked.get("days") or str(cls.__dataclass_fields__["days"].default)
        if facility not in facilities or band not in ALL_BANDS or days not in map(str, DAYS):
            return None
        return cls(facility, band, int(days))

    def query(self, **changes: Any) -> str:
        """The address's query, with some of it changed."""
        said = {"facility": self.facility, "band": self.band, "days": self.days} | changes
        return f"?{urlencode(said)}"


@dataclass(frozen=True, slots=True)
class Standing:
    """A row of the leaderboard."""

    model: str
    marks: Sequence[str]
    cells: Mapping[str, str]
    coverage_at: float | None
    """Across the scale of coverage, in percent."""


@dataclass(frozen=True, slots=True)
class Calibrated:
    """How a model's two levels hold: share observed, in words and across a scale from 0 to 1."""

    model: str
    typical: str
    typical_at: float | None
    posted: str
    posted_at: float | None


@dataclass(frozen=True, slots=True)
class Compared:
    """A challenger beside the champion."""

    model: str
    difference: str
    drawn: Interval | None
    verdict: str
    sentence: str
    days: int
    patients: str


COLUMNS = {
    "pinball_80": "Pinball loss at 0.8",
    "coverage": "Seen within the posted wait",
    "mae": "Mean absolute error",
    "bias": "Bias",
    "mean_posted": "Mean posted wait",
    "availability": "Had a value",
    "mean_change": "Change per tick",
    "jumps": "Changes over 30 min",
    "n": "Patients",
    "unresolved": "Not known yet",
}
"""Columns of the leaderboard with their headings."""

_MINUTES = ("pinball_80", "mae", "bias", "mean_posted", "mean_change")
_SHARES = ("coverage", "availability", "jumps")


def band_name(band: str) -> str:
    """A band as people call it."""
    return BAND_NAMES[band]["en"]


def minutes(seconds: float | None, *, signed: bool = False) -> str:
    """Seconds as minutes with one decimal."""
    if seconds is None:
        return NONE
    return f"{seconds / 60:+.1f}".replace("-", "−") if signed else f"{seconds / 60:.1f}"


def share(value: float | None) -> str:
    """A share in percent with one decimal."""
    return NONE if value is None else f"{100 * value:.1f}{chr(0xA0)}%"


def standings(found: Monitored) -> list[Standing]:
    """The leaderboard, best first; the board's own record stands apart, as its last row."""
    order = sorted(found.leaderboard, key=lambda row: pair_of(row) == BOARD)
    return [_standing(row, found) for row in order]


def _standing(row: Row, found: Monitored) -> Standing:
    pair = pair_of(row)
    marks = [
        *(["assigned"] if pair == found.champion else []),
        *(["shown now"] if pair == found.answer.pair and found.answer.current else []),
        *(["baseline"] if pair in found.baselines else []),
    ]
    cells = {name: minutes(row[name], signed=name == "bias") for name in _MINUTES}
    cells |= {name: share(row[name]) for name in _SHARES}
    cells |= {"n": f"{row['n']:,}", "unresolved": f"{row['unresolved'] + row['known_misses']:,}"}
    if pair == BOARD:
        # It is no series of one model: what it changed by says nothing of one.
        cells |= dict.fromkeys(("availability", "mean_change", "jumps"), NONE)
    name = "What was displayed" if pair == BOARD else str(pair)
    at = None if row["coverage"] is None else across(row["coverage"], LOWEST_SHARE, 1)
    return Standing(name, marks, cells, at)


def nominal_at() -> tuple[float, float]:
    """Start and width, in percent, of what is near enough to the nominal level on the scale of coverage."""
    start, end = (across(NOMINAL + off, LOWEST_SHARE, 1) for off in (-MOST_OFF_NOMINAL, MOST_OFF_NOMINAL))
    return start, round(end - start, 2)


def calibration(found: Monitored) -> list[Calibrated]:
    """Both levels of each model, in the order of the leaderboard."""
    rows = []
    for row in found.leaderboard:
        pair = pair_of(row)
        levels = found.calibration.get(pair, {})
        typical, most = levels.get(TYPICAL), levels.get(NOMINAL)
        rows.append(
            Calibrated(
                "What was displayed" if pair == BOARD else str(pair),
                share(typical),
                None if typical is None else across(typical, 0, 1),
                share(most),
                None if most is None else across(most, 0, 1),
            )
        )
    return rows


def comparisons(found: Monitored) -> tuple[list[Compared], float]:
    """Every challenger, the lowest loss first, and the reach of the drawings' scale in minutes."""
    with_bounds = [made for _, made in found.evidence if made.difference.lower is not None]
    bounds = [b / 60 for made in with_bounds for b in (made.difference.lower, made.difference.upper) if b]
    reach = reach_of(bounds)
    order = sorted(found.evidence, key=lambda each: each[1].difference.estimate or float("inf"))
    return [_compared(pair, made, reach) for pair, made in order], reach


def _compared(pair: Pair, made: Evidence, reach: float) -> Compared:
    d = made.difference
    text, drawn = minutes(d.estimate, signed=True), None
    if d.estimate is not None and d.lower is not None and d.upper is not None:
        text += f" ({minutes(d.lower, signed=True)} to {minutes(d.upper, signed=True)})"
        drawn = interval(d.estimate / 60, d.lower / 60, d.upper / 60, reach)
    verdict = "Better" if made.verdict == "better" else "Not shown to be better"
    because = "May be promoted." if made.verdict == "better" else f"{'; '.join(made.reasons)}.".capitalize()
    return Compared(str(pair), text, drawn, verdict, because, made.days, f"{made.patients:,}")


def coverage_chart(found: Monitored, view: View, today: date) -> tuple[LineChart, list[list[str]]]:
    """Coverage by local day, of the assigned model and of what was displayed; drawing and table."""
    days = [today - timedelta(days=n) for n in range(view.days - 1, -1, -1)]
    return _coverage(found, found.by_day, "day", days, [day_name(d) for d in days])


def block_chart(found: Monitored) -> tuple[LineChart, list[list[str]]]:
    """The same by four hours of the local day."""
    names = [f"{4 * block}–{4 * block + 4} h" for block in range(6)]
    return _coverage(found, found.by_block, "block", list(range(6)), names)


def _coverage(
    found: Monitored, rows: Sequence[Row], key: str, places: Sequence[Any], names: Sequence[str]
) -> tuple[LineChart, list[list[str]]]:
    by_pair: dict[Pair, dict[Any, Row]] = {found.champion: {}, BOARD: {}}
    for row in rows:
        by_pair[pair_of(row)][row[key]] = row
    series, columns, patients = [], [], list[str]()
    for pair, title in ((found.champion, str(found.champion)), (BOARD, "what was displayed")):
        of_pair = [by_pair[pair].get(place, {}) for place in places]
        values = [row.get("coverage") for row in of_pair]
        words = [f"{name}: {share(value)}, {title}" for name, value in zip(names, values, strict=True)]
        series.append((title, values, words))
        columns.append([share(value) for value in values])
        if pair == found.champion:
            patients = [f"{row['n'] + row['known_misses']:,}" if row else NONE for row in of_pair]
    good = (NOMINAL - MOST_OFF_NOMINAL, NOMINAL, NOMINAL + MOST_OFF_NOMINAL)
    table = [list(row) for row in zip(names, *columns, patients, strict=True)]
    return line_chart(names, series, share_scale(LOWEST_SHARE), good), table


def posted_groups(found: Monitored) -> list[tuple[str, str, str, float | None]]:
    """How posted waits of each size hold: name, patients, coverage, and its place on the scale."""
    limits = [0, *POSTED_LIMITS_MIN]
    rows = []
    for row in found.by_posted:
        start = limits[row["group"]]
        end = limits[row["group"] + 1] if row["group"] + 1 < len(limits) else None
        name = f"{start} to {end} min" if end else f"over {start} min"
        at = None if row["coverage"] is None else across(row["coverage"], LOWEST_SHARE, 1)
        rows.append((name, f"{row['n'] + row['known_misses']:,}", share(row["coverage"]), at))
    return rows


def rule() -> str:
    """When a challenger may be promoted."""
    return (
        f"A challenger may be promoted with at least {FEWEST_DAYS} days and {FEWEST_PATIENTS:,} patients "
        "that both models predicted, if its pinball loss is lower with the upper end of the interval below "
        f"0, its coverage lies within {100 * MOST_OFF_NOMINAL:g} points of {NOMINAL:.0%}, and it had a value "
        "as often as the champion. Otherwise it counts as no better."
    )


def moment(at: datetime, zone: str) -> str:
    """A time on the facility's clock: `Mon 2 Mar 2026, 14:15 EST`."""
    local = at.astimezone(ZoneInfo(zone))
    return f"{local:%a} {local.day} {local:%b %Y, %H:%M %Z}"


def day_name(day: date) -> str:
    """`2 Mar`."""
    return f"{day.day} {day:%b}"
