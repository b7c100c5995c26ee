"""What the importers of visits and of posted waits share: what was refused and why, clocks, opaque ids.

Belongs here: the report of an import, reading a time of a text, the id under which a visit is kept. Does not
belong here: any one source's format (a module each), and writing into the warehouse (`visit_loading.py`).

Importers take whatever can be a record, plausible or not: what makes a valid wait is decided when a visit is
used (`wait_times/visits.py`). They refuse what cannot be a record at all, and count it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any
from zoneinfo import ZoneInfo

from resources.errors import PermanentError

UNREADABLE = "the time cannot be read"
SKIPPED = "the zone's clocks skipped this time"
AHEAD = timedelta(minutes=5)
"""By so much clocks may differ: a record from further ahead lies in the future."""

Readings = tuple[datetime, ...]
"""What a time can mean, in UTC: one moment, or two in an hour that clocks repeat, the earlier first."""

TWICE = "the zone's clocks showed this time twice: give the offset"


class RefusedRow(Exception):
    """One row that is not taken. Names the field and the reason, never the value."""

    def __init__(self, field: str, reason: str) -> None:
        self.field, self.reason = field, reason
        super().__init__(f"{field}: {reason}")


@dataclass(frozen=True, slots=True)
class Refused:
    """Rows refused for one reason: how many, and where the first one stands (`file:line`)."""

    rows: int
    first: str


@dataclass
class Report:
    """What became of the rows of a source. Holds no value of any patient.

    `taken`: rows (messages) that were taken; `ignored`: by kind, those that are of no concern;
    `refused`: by field and reason; `repaired`: by field and how, times that could mean two moments.
    """

    taken: int = 0
    ignored: dict[str, int] = field(default_factory=dict)
    refused: dict[tuple[str, str], Refused] = field(default_factory=dict)
    repaired: dict[tuple[str, str], int] = field(default_factory=dict)

    @property
    def refused_rows(self) -> int:
        return sum(refused.rows for refused in self.refused.values())

    def ignore(self, kind: str) -> None:
        self.ignored[kind] = self.ignored.get(kind, 0) + 1

    def refuse(self, row: RefusedRow, place: str) -> None:
        key = (row.field, row.reason)
        earlier = self.refused.get(key)
        self.refused[key] = Refused((earlier.rows if earlier else 0) + 1, earlier.first if earlier else place)

    def repair(self, name: str, how: str) -> None:
        self.repaired[name, how] = self.repaired.get((name, how), 0) + 1

    def as_dict(self) -> dict[str, Any]:
        """Fit for JSON."""
        refused = [
            {"field": name, "reason": reason, "rows": found.rows, "first": found.first}
            for (name, reason), found in self.refused.items()
        ]
        repaired = [
            {"field": name, "how": how, "times": times} for (name, how), times in self.repaired.items()
        ]
        return {"taken": self.taken, "ignored": self.ignored, "refused": refused, "repaired": repaired}


def opaque_id(facility_id: str, visit_number: str) -> str:
    """The id under which a visit is kept: the same for the same visit in every feed of its facility.

    A hash, so that nobody who reads a table, a log or a board meets the number that is on a wristband or on
    a form. It is no protection from somebody who tries all numbers: whoever may read `ed_visits` is trusted
    as far as with visit numbers.
    """
    return blake2b(
        f"{facility_id}\x1f{visit_number}".encode(), digest_size=12, person=b"ed-visit"
    ).hexdigest()


def known_zone(name: str, where: str) -> ZoneInfo:
    """The zone of an IANA name; `PermanentError` for anything else."""
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError):
        raise PermanentError(
            "this is not the IANA name of a time zone",
            where=where,
            mend="Give the zone of the facility's clocks, such as America/Toronto.",
        ) from None


def facility_zone(facility_id: str, zones: Mapping[str, ZoneInfo]) -> ZoneInfo:
    """The zone of a facility that is known; `RefusedRow` for others."""
    if not facility_id:
        raise RefusedRow("facility_id", "missing")
    if facility_id not in zones:
        raise RefusedRow("facility_id", "no such facility: import it first, with its zone")
    return zones[facility_id]


def iso_moment(text: str, zone: ZoneInfo, name: str) -> datetime:
    """UTC of an ISO 8601 date and time; without an offset it is of the zone's wall clock."""
    return _one(iso_readings(text, zone, name), name)


def iso_readings(text: str, zone: ZoneInfo, name: str) -> Readings:
    """What an ISO 8601 date and time can mean; without an offset it is of the zone's wall clock."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise RefusedRow(name, UNREADABLE) from None
    if len(text) <= len("2026-01-01"):
        raise RefusedRow(name, "a date without a time")
    return readings_of(moment, zone, name)


def in_utc(moment: datetime, zone: ZoneInfo, name: str) -> datetime:
    """UTC of a time with an offset, or of the zone's wall clock; `RefusedRow` where that is not one."""
    return _one(readings_of(moment, zone, name), name)


def readings_of(moment: datetime, zone: ZoneInfo, name: str) -> Readings:
    """What a time with an offset, or of the zone's wall clock, can mean; `RefusedRow` if nothing."""
    try:
        if moment.tzinfo is not None:
            return (moment.astimezone(UTC),)
        first, second = (moment.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    except OverflowError:
        raise RefusedRow(name, UNREADABLE) from None
    if first == second:
        return (first,)
    # Of an hour that the clocks repeat, fold 0 is the earlier one; of one that they skip, the later.
    if second < first:
        raise RefusedRow(name, SKIPPED)
    return first, second


def _one(readings: Readings, name: str) -> datetime:
    if len(readings) > 1:
        raise RefusedRow(name, TWICE)
    return readings[0]


def refuse_future(moment: datetime, now: datetime) -> None:
    """`RefusedRow` for a record of the future: it would be known before it was written."""
    if moment > now + AHEAD:
        raise RefusedRow("recorded_at", "lies in the future")
