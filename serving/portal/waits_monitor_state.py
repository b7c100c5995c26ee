"""What goes into wait-time models, and who is shown, in words: the lower half of the monitor.

Belongs here: levels, feeds, values that do not move, assignments. Does not belong here: how models did
(`waits_monitor_view.py`), reading (`waits_monitor_reading.py`), the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta

from medscore_assets.wait_times.assignment import Assignment
from medscore_assets.wait_times.showing import Shown
from serving.portal.waits_monitor_chart import LineChart, even_scale, line_chart
from serving.portal.waits_monitor_reading import Level, Monitored, Still, pair_of
from serving.portal.waits_monitor_view import NONE, View, band_name, day_name, moment
from serving.wait_times_reading import Facility

STUCK_TICKS = 12
"""One value for three hours, as the check on predictions has it."""

_RECENT_DAYS = 7


def level_chart(found: Monitored, view: View, today: date) -> tuple[LineChart, list[list[str]]]:
    """Mean wait of the day's patients beside the mean posted wait; drawing and table with the inputs."""
    days = [today - timedelta(days=n) for n in range(view.days - 1, -1, -1)]
    waits = {row["day"]: row for row in found.waits_by_day}
    said = {row["day"]: row for row in found.by_day if pair_of(row) == found.champion}
    levels = {level.day: level for level in found.levels}
    wait = [_in_minutes(waits.get(d, {}).get("wait")) for d in days]
    mean_posted = [_in_minutes(said.get(d, {}).get("mean_posted")) for d in days]
    names = [day_name(d) for d in days]
    series = [
        (title, values, [f"{n}: {v or 0:.0f} min, {title}" for n, v in zip(names, values, strict=True)])
        for title, values in (("mean wait", wait), ("mean posted wait", mean_posted))
    ]
    known = [value for value in (*wait, *mean_posted) if value is not None]
    table = [
        [
            name,
            f"{waits[d]['n']:,}" if d in waits else NONE,
            *(NONE if v is None else f"{v:.0f}" for v in (w, p)),
            *_level_cells(levels.get(d)),
        ]
        for d, name, w, p in zip(days, names, wait, mean_posted, strict=True)
    ]
    return line_chart(names, series, even_scale(known, " min", 30.0)), table


def _level_cells(level: Level | None) -> list[str]:
    if level is None:
        return [NONE, NONE, NONE]
    means = (NONE if mean is None else f"{mean:.1f}" for mean in (level.waiting, level.in_treatment))
    return [*means, f"{level.silent} of {level.ticks}"]


def drift_sentences(found: Monitored, at: datetime) -> list[str]:
    """What changed lately, and whether visits come in."""
    sentences = [_feed(found, at)]
    silent = sum(level.silent for level in found.levels)
    if silent:
        ticks = sum(level.ticks for level in found.levels)
        sentences.append(f"The feed had fallen silent at {silent:,} of {ticks:,} ticks.")
    # The last day is not over, the first may have begun before the ticks did.
    days = list(found.waits_by_day)[1:-1]
    recent, before = days[-_RECENT_DAYS:], days[:-_RECENT_DAYS]
    if len(recent) == _RECENT_DAYS and before:
        for name, title, unit, per in (("n", "Patients a day", "", 1), ("wait", "The mean wait", " min", 60)):
            last, earlier = (_mean([row[name] / per for row in part]) for part in (recent, before))
            sentences.append(
                f"{title} over the last {_RECENT_DAYS} full days: {last:.0f}{unit}, {_change(last, earlier)} "
                f"the {len(before)} days before ({earlier:.0f}{unit})."
            )
    return sentences


def _feed(found: Monitored, at: datetime) -> str:
    if found.newest_record is None:
        return "No visit has come in."
    age = (at - found.newest_record.astimezone(UTC)) // timedelta(minutes=1)
    state = (
        "The feed has fallen silent: the board is blank."
        if found.answer.silent_feed
        else "The feed is alive."
    )
    return f"{state} The newest record that a tick knew is {age:,} minutes old."


def stuck(still: Sequence[Still]) -> list[tuple[str, str, str, bool]]:
    """Per model: ticks without a value, the longest run of one value, and whether that is too long."""
    return [
        (
            str(each.pair),
            f"{each.missing} of {each.ticks}",
            f"{each.longest}",
            each.longest >= STUCK_TICKS,
        )
        for each in still
    ]


def places(
    found: Mapping[tuple[str, str], Shown], facilities: Mapping[str, Facility]
) -> list[tuple[str, str, str, str, str, str]]:
    """Who is shown where: facility, band, assigned, shown, since when, and in words what to know of it."""
    return [
        (
            facilities[name].name,
            band_name(band),
            str(answer.assigned).strip() or NONE,
            str(answer.pair) if answer.current else NONE,
            moment(answer.as_of, facilities[name].zone) if answer.as_of else NONE,
            _state(answer),
        )
        for (name, band), answer in found.items()
        if name in facilities
    ]


def _state(answer: Shown) -> str:
    if answer.closed is not None:
        return f"Closed by hand ({answer.closed.replace('_', ' ')})"
    if answer.silent_feed:
        return "Blank: the feed has fallen silent"
    if not answer.current:
        return "Blank: no fresh value"
    if answer.replaced:
        return "Stands in for the assigned model"
    return "By a fall-back of the model" if answer.status == "fallback" else "As assigned"


def changes(made: Sequence[Assignment], zone: str) -> list[tuple[str, str, str, str, str]]:
    """Assignments: when, what, by whom, why, and on which evidence."""
    return [
        (
            moment(each.assigned_at, zone),
            f"{each.pair} {each.action.replace('_', ' ')}",
            each.assigned_by,
            each.reason,
            "Forced" if each.forced else ((each.as_dict()["evidence"] or {}).get("sentence") or NONE),
        )
        for each in made
    ]


def _in_minutes(seconds: float | None) -> float | None:
    return None if seconds is None else seconds / 60


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _change(last: float, earlier: float) -> str:
    change = last / earlier - 1 if earlier else 0.0
    if abs(change) < 0.005:
        return "as in"
    return f"{100 * abs(change):.0f}{chr(0xA0)}% {'more' if change > 0 else 'less'} than in"
