"""Hospital stays as FHIR has them: which encounters are stays, when they were, which of them are one.

Belongs here: the index stay's times, and the stays before and after it. Does not belong here: every other
feature (`fhir_mapping.py`) and the codes (`fhir_codes.toml`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

from serving.fhir_codes import Codes
from serving.fhir_resources import Gap, Resource, Span, codings, element, span

YEAR = timedelta(days=365)
"""The "12 months" of the contract, as the training data count them."""

OPEN = ("in-progress", "onleave")
ENDED = ("finished",)
_NEVER_WAS = ("planned", "cancelled", "entered-in-error")

CLOCKS_APART = timedelta(minutes=5)
"""How far the clock of whoever recorded a stay may be ahead."""

_FOR_EVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Stay:
    """When a hospital stay began and ended. While it `is_open`, its end is the time of asking."""

    encounter_id: str
    admitted: Span
    discharged: Span
    is_open: bool


def is_hospital_stay(encounter: Resource, codes: Codes) -> bool:
    """Whether an encounter is an inpatient one. Raises `Gap` if its class is of no known system."""
    kind = codings(encounter.get("class"))
    if not codes.in_system("encounter_class", kind):
        raise Gap("Encounter.class", "is absent, or not of the code system v3-ActCode")
    return bool(codes.meanings(codes.encounter_class, kind))


def stay_of(encounter: Resource, now: datetime, zone: tzinfo) -> Stay:
    """The times of the index stay. Raises `Gap` if they are not known or contradict each other."""
    status = encounter.get("status")
    if status not in (*OPEN, *ENDED):
        raise Gap("Encounter.status", "is neither in-progress nor finished")
    admitted = _bound(encounter, "start", zone)
    if admitted is None:
        raise Gap("Encounter.period.start", "is absent, or is not a date")
    discharged = _bound(encounter, "end", zone)
    if status in ENDED:
        if discharged is None:
            raise Gap("Encounter.period.end", "is absent although the stay is finished")
        if discharged.earliest > now + CLOCKS_APART:
            raise Gap("Encounter.period.end", "is in the future although the stay is finished")
    # The end that somebody plans for an open stay is not yet one.
    is_open = discharged is None or (status in OPEN and discharged.earliest > now)
    if discharged is None or is_open:
        at = now.astimezone(UTC)
        discharged = Span(at, at)
    if discharged.latest < admitted.earliest:
        raise Gap("Encounter.period", "ends before it begins")
    return Stay(str(encounter.get("id")), admitted, discharged, is_open)


def prior_admissions(index: Stay, encounters: Sequence[Resource], zone: tzinfo, codes: Codes) -> int:
    """Hospital admissions in the 12 months before the index stay; stays that overlap or touch are one.

    A stay that reaches into the index stay is part of it. Raises `Gap` where a date leaves it open.
    """
    opens = Span(index.admitted.earliest - YEAR, index.admitted.latest - YEAR)
    stays: list[tuple[Span, Span]] = []
    for encounter, began in _others(index, encounters, zone, codes):
        if began.latest < opens.earliest or began.earliest >= index.admitted.latest:
            continue
        ended = _end(encounter, zone)
        if _reaches(ended, index.admitted):
            continue
        if not (began.earliest >= opens.latest and began.latest < index.admitted.earliest):
            raise Gap("Encounter.period.start", "of another stay leaves open whether it is within 12 months")
        stays.append((began, ended))
    stays.sort(key=lambda stay: stay[0].earliest)
    count, last = 0, None
    for began, ended in stays:
        if last is None or not _reaches(last, began):
            count, last = count + 1, ended
        elif ended.latest > last.latest:
            last = ended
    return count


def reaches_back(index: Stay, encounters: Sequence[Resource], zone: tzinfo) -> bool:
    """Whether a page of encounters, newest first, goes back beyond the 12 months before the index stay.

    Then no encounter of a later page counts. Servers sort by when encounters began or by when they ended:
    in whichever order the page is, its last one must be from before. An encounter without a beginning has
    no place in that order, so with one of them it is not known.
    """
    opens = index.admitted.earliest - YEAR
    began = [_bound(encounter, "start", zone) for encounter in encounters]
    ended = [_bound(encounter, "end", zone) or Span(_FOR_EVER, _FOR_EVER) for encounter in encounters]
    known = [each for each in began if each is not None]
    if len(known) < len(began):
        return False
    orders = [spans for spans in (known, ended) if _newest_first(spans)]
    return bool(known and orders) and all(spans[-1].latest < opens for spans in orders)


def _newest_first(spans: Sequence[Span]) -> bool:
    """Whether spans are in that order, either by their first or by their last moments."""
    firsts, lasts = [s.earliest for s in spans], [s.latest for s in spans]
    return any(moments == sorted(moments, reverse=True) for moments in (firsts, lasts))


def began_after(
    index: Stay, encounters: Iterable[Resource], now: datetime, zone: tzinfo, codes: Codes
) -> bool:
    """Whether another hospital stay began at or after the discharge and before `now`."""
    if index.is_open:
        return False
    return any(
        began.earliest >= index.discharged.latest and began.earliest < now
        for _, began in _others(index, encounters, zone, codes)
    )


def _others(
    index: Stay, encounters: Iterable[Resource], zone: tzinfo, codes: Codes
) -> Iterable[tuple[Resource, Span]]:
    """Every other hospital stay that took place, with its beginning."""
    for encounter in encounters:
        if encounter.get("id") == index.encounter_id or encounter.get("status") in _NEVER_WAS:
            continue
        began = _bound(encounter, "start", zone)
        if began and began.latest < index.admitted.earliest - YEAR:
            # Too long ago to matter, whatever else is wrong with it.
            continue
        if not is_hospital_stay(encounter, codes):
            continue
        if encounter.get("status") not in (*OPEN, *ENDED):
            raise Gap("Encounter.status", "of another stay does not say whether it took place")
        if began is None:
            raise Gap("Encounter.period.start", "of another stay is absent, or is not a date")
        yield encounter, began


def _end(encounter: Resource, zone: tzinfo) -> Span:
    ended = _bound(encounter, "end", zone)
    if ended is None:
        if encounter.get("status") in ENDED:
            raise Gap("Encounter.period.end", "of another stay is absent, or is not a date")
        return Span(_FOR_EVER, _FOR_EVER)
    return ended


def _reaches(ended: Span, began: Span) -> bool:
    """Whether a stay lasts until another one begins. Raises `Gap` if their dates leave it open."""
    if ended.earliest >= began.latest:
        return True
    if ended.latest < began.earliest:
        return False
    raise Gap("Encounter.period", "of two stays leaves open whether they are one")


def _bound(encounter: Resource, name: str, zone: tzinfo) -> Span | None:
    return span(element(encounter, "period", name), zone)
