"""Reading FHIR R4 resources as a client sent them: what is there, whose it is, and when it was.

Belongs here: prefetch values, bundles, references, codings, dates of any precision; whatever is absent or
does not fit is a `Gap` that names the element, never its value. Does not belong here: what the contract
makes of it (`fhir_mapping.py`).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Any
from urllib.parse import parse_qs

from serving.fhir_codes import Coding

Resource = Mapping[str, Any]

_DAY = re.compile(r"\d{4}(-\d\d(-\d\d)?)?")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)")
_REFERENCE = re.compile(
    r"(?:(https?://[^?#\s]+)/)?([A-Z][A-Za-z]+)/([A-Za-z0-9.-]{1,64})(?:/_history/[^/\s]+)?"
)


class Gap(Exception):
    """Something is not known: which element is needed, and what is wrong with it. Holds no value."""

    def __init__(self, needs: str, why: str) -> None:
        self.needs, self.why = needs, why
        super().__init__(f"{needs}: {why}")


def only(found: set[str], needs: str, why: str) -> str:
    """The one meaning of some codes; none or several are a gap."""
    if len(found) == 1:
        return next(iter(found))
    raise Gap(needs, why if not found else "has codes that contradict each other")


class Foreign(Exception):
    """A resource is of somebody else, or does not say whose it is; names the prefetch key only."""

    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__(key)


@dataclass(frozen=True, slots=True)
class Span:
    """A FHIR date or time: the moments, in UTC, between which it lies; both the same if it is exact."""

    earliest: datetime
    latest: datetime

    def day(self, zone: tzinfo) -> date | None:
        """Its calendar day, if it lies within one."""
        first, last = self.earliest.astimezone(zone).date(), self.latest.astimezone(zone).date()
        return first if first == last else None


_EVER = (datetime(1900, 1, 1, tzinfo=UTC), datetime(2199, 12, 31, tzinfo=UTC))
"""Records say 0001 and 9999 for "ever": what lies outside of these stands for the nearer one."""


def span(text: object, zone: tzinfo) -> Span | None:
    """A FHIR date, dateTime or instant; a date is one of `zone`. None if it is not well-formed."""
    if not isinstance(text, str):
        return None
    try:
        if (_MOMENT.fullmatch(text) or full_date(text)) and not 1900 <= int(text[:4]) < 2199:
            ever = _EVER[int(text[:4]) >= 1900]
            return Span(ever, ever)
        if _MOMENT.fullmatch(text):
            moment = datetime.fromisoformat(text).astimezone(UTC)
            return Span(moment, moment)
        if _DAY.fullmatch(text):
            first, after = _days(text)
            opens, closes = (datetime.combine(day, time(), zone).astimezone(UTC) for day in (first, after))
            return Span(opens, closes - timedelta(microseconds=1))
    except (ValueError, OverflowError):
        pass
    return None


def full_date(text: object) -> date | None:
    """A date with year, month and day; None for anything else."""
    if not isinstance(text, str) or not re.fullmatch(r"\d{4}-\d\d-\d\d", text):
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def _days(text: str) -> tuple[date, date]:
    """The first day of a year, month or day, and the day after its last."""
    year, month, day = (*map(int, text.split("-")), 0, 0)[:3]
    if day:
        first = date(year, month, day)
        return first, first + timedelta(days=1)
    first = date(year, month or 1, 1)
    months = year * 12 + first.month - 1 + (1 if month else 12)
    return first, date(months // 12, months % 12 + 1, 1)


def codings(concept: object) -> list[Coding]:
    """The codings of a CodeableConcept, or of one Coding, that have system and code."""
    if not isinstance(concept, dict):
        return []
    listed = concept.get("coding", [concept])
    return [
        (c["system"], c["code"])
        for c in (listed if isinstance(listed, list) else [])
        if isinstance(c, dict) and isinstance(c.get("system"), str) and isinstance(c.get("code"), str)
    ]


def all_codings(concepts: object) -> list[Coding]:
    """The codings of a list of CodeableConcepts."""
    return [coding for concept in elements(concepts) for coding in codings(concept)]


def element(parent: object, *path: str) -> Any:
    """A member of a member; None if something on the way is absent or no object."""
    for name in path:
        if not isinstance(parent, dict):
            return None
        parent = parent.get(name)
    return parent


def elements(listed: object) -> list[Mapping[str, Any]]:
    """The objects of a list; a single object counts as a list of one."""
    if isinstance(listed, dict):
        return [listed]
    return [e for e in listed if isinstance(e, dict)] if isinstance(listed, list) else []


def referenced(reference: object, server: str | None = None) -> tuple[str, str] | None:
    """Type and id of what a Reference points to; None if it points to no resource by id.

    An id means something within one server: an address must begin with that of `server`, the FHIR server of
    the client; without one, only relative references point to anything.
    """
    text = element(reference, "reference")
    found = _REFERENCE.fullmatch(text) if isinstance(text, str) else None
    if found is None or (found[1] and (server is None or _base(found[1]) != _base(server))):
        return None
    return found[2], found[3]


def _base(address: str) -> str:
    """The address of a server, alike however the parts that know no case are written."""
    scheme, _, rest = address.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme.lower()}://{host.lower()}{slash}{path}".rstrip("/")


@dataclass(frozen=True, slots=True)
class Page:
    """The first page of a search: its resources of one type in their order, each id once."""

    resources: tuple[Resource, ...]
    more: bool
    """Whether other pages follow."""
    unsorted: bool
    """Whether the server says that it sorted by something else than `-date`."""


@dataclass(slots=True)
class Prefetch:
    """What a client sent along, by the names of the templates, for one patient.

    An absent key, a failed fetch and half a search are gaps; `null` is "no data". Each resource must be
    of the patient, or `Foreign` is raised. `server` is the address of the client's FHIR server, where known.
    """

    values: Mapping[str, Any]
    patient_id: str
    server: str | None = None
    _read: dict[str, Page] = field(default_factory=dict)

    def one(self, key: str, kind: str) -> Resource:
        """The resource that was read by its id."""
        found = self._value(key)
        if found is None:
            raise Gap(f"prefetch {key}", "the client has no such resource")
        if not isinstance(found, Mapping) or found.get("resourceType") != kind:
            raise Gap(f"prefetch {key}", f"is not a resource of type {kind}")
        self._require_own(key, kind, found)
        _require_plain(key, found)
        return found

    def found(self, key: str, kind: str) -> Sequence[Resource]:
        """The resources of a type that a search found, each id once. `null` is a search without a match."""
        page = self.first_page(key, kind)
        if page.more:
            raise Gap(f"prefetch {key}", "is the first page of several; all of them are needed at once")
        return page.resources

    def first_page(self, key: str, kind: str) -> Page:
        """What `found` gives, or the first page of it if it has several."""
        if key not in self._read:
            self._read[key] = self._search(key, kind)
        return self._read[key]

    def told_at(self, now: datetime) -> datetime:
        """From when the data are: the oldest search that carries its time, else `now`; never later."""
        bundles = [v for v in self.values.values() if element(v, "resourceType") == "Bundle"]
        said = [t for b in bundles for t in (b.get("timestamp"), element(b, "meta", "lastUpdated"))]
        return min([now, *(known.earliest for text in said if (known := span(text, UTC)))])

    def require_own(self, searches: Mapping[str, str]) -> None:
        """Raises `Foreign` if any search that can be read holds a resource of somebody else."""
        for key, kind in searches.items():
            with contextlib.suppress(Gap):
                self.first_page(key, kind)

    def declined(self, appointment: Resource) -> bool:
        """Whether the patient has declined an appointment."""
        return any(
            p.get("status") == "declined"
            and referenced(p.get("actor"), self.server) == ("Patient", self.patient_id)
            for p in elements(appointment.get("participant"))
        )

    def _value(self, key: str) -> Any:
        if key not in self.values:
            raise Gap(f"prefetch {key}", "was not sent, and this service fetches nothing itself")
        value = self.values[key]
        if element(value, "resourceType") == "OperationOutcome":
            raise Gap(f"prefetch {key}", "is an OperationOutcome: the client could not fetch it")
        return value

    def _search(self, key: str, kind: str) -> Page:
        bundle = self._value(key)
        if bundle is None:
            return Page((), more=False, unsorted=False)
        if element(bundle, "resourceType") != "Bundle":
            raise Gap(f"prefetch {key}", "is not a Bundle")
        matches = list(self._matches(key, kind, bundle))
        links = elements(bundle.get("link"))
        if any(link.get("relation") in ("prev", "previous") for link in links):
            raise Gap(f"prefetch {key}", "is not the first page of the search")
        more = any(link.get("relation") == "next" for link in links)
        total = bundle.get("total")
        if not more and isinstance(total, int) and total > len(matches):
            raise Gap(f"prefetch {key}", "holds fewer resources than the search found")
        once: dict[object, Resource] = {}
        for number, found in enumerate(matches):
            # Without an id no two resources are known to be the same.
            once.setdefault(found["id"] if isinstance(found.get("id"), str) else number, found)
        return Page(tuple(once.values()), more, any(map(_says_another_order, links)))

    def _matches(self, key: str, kind: str, bundle: Mapping[str, Any]) -> Iterator[Resource]:
        for entry in _entries(bundle):
            found = element(entry, "resource")
            if element(found, "resourceType") == "OperationOutcome":
                if any(i.get("severity") in ("error", "fatal") for i in elements(element(found, "issue"))):
                    raise Gap(f"prefetch {key}", "holds an OperationOutcome: the search failed in part")
            elif element(entry, "search", "mode") == "include":
                continue
            elif not isinstance(found, Mapping):
                raise Gap(f"prefetch {key}", "has an entry without a resource")
            elif found.get("resourceType") != kind:
                raise Gap(f"prefetch {key}", f"holds resources of another type than {kind}")
            else:
                self._require_own(key, kind, found)
                _require_plain(key, found)
                yield found

    def _require_own(self, key: str, kind: str, found: Resource) -> None:
        if not _OWNERS[kind](found, ("Patient", self.patient_id), self.server):
            raise Foreign(key)


def _entries(bundle: Mapping[str, Any]) -> list[Any]:
    listed = bundle.get("entry", [])
    return listed if isinstance(listed, list) else [listed]


def _require_plain(key: str, found: Resource) -> None:
    """Raises `Gap` for a resource with an extension that may turn its meaning into the opposite."""
    if found.get("modifierExtension"):
        raise Gap(f"prefetch {key}", "holds a resource with a modifierExtension, which no rule here knows")


def _says_another_order(link: Mapping[str, Any]) -> bool:
    """Whether a link tells the parameters that the server went by, and `-date` is not what it sorted by."""
    if link.get("relation") != "self":
        return False
    said = parse_qs(str(link.get("url")).partition("?")[2])
    return "patient" in said and said.get("_sort", [""])[0].partition(",")[0] != "-date"


Owner = Callable[[Resource, tuple[str, str], str | None], bool]


def _refers(name: str) -> Owner:
    return lambda found, patient, server: referenced(found.get(name), server) == patient


def _takes_part(found: Resource, patient: tuple[str, str], server: str | None) -> bool:
    return any(referenced(p.get("actor"), server) == patient for p in elements(found.get("participant")))


_OWNERS: dict[str, Owner] = {
    "Patient": lambda found, patient, server: found.get("id") == patient[1],
    "Encounter": _refers("subject"),
    "Condition": _refers("subject"),
    "MedicationRequest": _refers("subject"),
    "Coverage": _refers("beneficiary"),
    "Appointment": _takes_part,
}
