"""Times of the hour that the clocks show twice in autumn: which of both a record means.

Belongs here: choosing, for the times of one record together. Does not belong here: reading a time
(`records.py`), and any source's format.

A record tells much of it by itself: the times of a visit have an order, nothing is recorded before it
happened, and nothing lies in the future. Where that leaves a choice, the start of a wait is taken as the
earlier and its end as the later: a wait may then be told an hour too long, and never too short. What is
chosen is counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import product

from medscore_assets.wait_times.importers.records import Readings, Report

STARTS = ("registered_at", "arrival", "triage_at")
RECORDED = "recorded_at"

BY_ORDER = "in the repeated hour, clear by the order of the times"
EARLIER = "in the repeated hour, taken as the earlier"
LATER = "in the repeated hour, taken as the later"


@dataclass(frozen=True, slots=True)
class Chosen:
    """`times` by name; `others` is what those that were chosen freely could mean as well."""

    times: Mapping[str, datetime]
    others: Mapping[str, datetime] = field(default_factory=dict)
    repairs: Mapping[str, str] = field(default_factory=dict)
    """By name, how a time that can mean two moments was read."""

    def count(self, report: Report) -> None:
        """Enter the repairs into the report of the import."""
        for name, how in self.repairs.items():
            report.repair(name, how)


def choose(times: Mapping[str, Readings], order: Mapping[str, int], latest: datetime) -> Chosen:
    """One moment for each of a record's times.

    `order` has each name's place: no time lies after one with a higher place. `latest` is the end of what can
    have been. Records that no choice brings into order get the choice with the fewest faults.
    """
    twofold = [name for name, readings in times.items() if len(readings) > 1]
    plain = {name: readings[0] for name, readings in times.items()}
    if not twofold:
        return Chosen(plain)
    choices = [
        plain | dict(zip(twofold, found, strict=True))
        for found in product(*(times[name] for name in twofold))
    ]
    faults = [_faults(choice, order, latest) for choice in choices]
    possible = [choice for choice, found in zip(choices, faults, strict=True) if found == min(faults)]
    best = max(possible, key=lambda choice: (_length(choice, twofold), -_recorded(choice)))
    others, repairs = {}, {}
    for name in twofold:
        if len({choice[name] for choice in possible}) == 1:
            repairs[name] = BY_ORDER
        else:
            first, second = times[name]
            others[name] = second if best[name] == first else first
            repairs[name] = EARLIER if best[name] == first else LATER
    return Chosen(best, others, repairs)


def _faults(choice: Mapping[str, datetime], order: Mapping[str, int], latest: datetime) -> int:
    placed = sorted((order[name], moment) for name, moment in choice.items())
    return sum(moment > latest for _, moment in placed) + sum(
        place < later_place and moment > later
        for n, (place, moment) in enumerate(placed)
        for later_place, later in placed[n + 1 :]
    )


def _length(choice: Mapping[str, datetime], names: list[str]) -> float:
    """How long the visit is, in seconds from any moment, as far as these names decide on it."""
    ends = [name for name in names if name not in (*STARTS, RECORDED)]
    starts = [name for name in names if name in STARTS]
    return sum(choice[name].timestamp() for name in ends) - sum(choice[name].timestamp() for name in starts)


def _recorded(choice: Mapping[str, datetime]) -> float:
    return choice[RECORDED].timestamp() if RECORDED in choice else 0.0
