"""The payer of a stay, from the patient's Coverage resources.

Belongs here: which coverage holds on the day of discharge, and what several of them make together.
Does not belong here: the codes (`fhir_codes.toml`) and every other feature (`fhir_mapping.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, tzinfo

from serving.fhir_codes import Codes
from serving.fhir_resources import Gap, Resource, Span, codings, element, only, span


def is_covered(coverages: Sequence[Resource], day: date, zone: tzinfo) -> bool:
    """False only if coverage is on record and none of it holds on that day of `zone`."""
    recorded = any(c.get("status") in ("active", "cancelled") for c in coverages)
    return not recorded or bool(_in_force(coverages, day, zone))


def payer(coverages: Sequence[Resource], day: date, zone: tzinfo, codes: Codes) -> str:
    """The contract's payer on that day of `zone`; `unknown` where none is on record.

    Raises `Gap` for a coverage whose kind or time is not known, and where several payers have no order.
    """
    known: list[tuple[object, str]] = []
    for coverage in _in_force(coverages, day, zone):
        kinds = codes.meanings(codes.insurance, codings(coverage.get("type")))
        kind = only(kinds, "Coverage.type", "of a coverage in force is absent, or no listed code")
        known.append((coverage.get("order"), kind))
    kinds = {kind for _, kind in known} - {"unknown"}
    if {"medicare", "medicaid"} <= kinds or "dual_eligible" in kinds:
        return "dual_eligible"
    if len(kinds) <= 1:
        return next(iter(kinds), "unknown")
    first = {kind for order, kind in known if order == 1 and order is not True}
    return only(first, "Coverage.order", "does not say which of several payers comes first")


def _in_force(coverages: Iterable[Resource], day: date, zone: tzinfo) -> list[Resource]:
    return [c for c in coverages if c.get("status") == "active" and _covers(c, day, zone)]


def _covers(coverage: Resource, day: date, zone: tzinfo) -> bool:
    since, until = (_bound(coverage, name, zone) for name in ("start", "end"))
    if until and until.latest.astimezone(zone).date() < day:
        return False
    if since and since.earliest.astimezone(zone).date() > day:
        return False
    for bound in (since, until):
        if bound and bound.day(zone) is None and _holds(bound, day, zone):
            raise Gap("Coverage.period", "does not say whether the coverage holds on the day of discharge")
    return True


def _bound(coverage: Resource, name: str, zone: tzinfo) -> Span | None:
    said = element(coverage, "period", name)
    if said is None:
        return None
    bound = span(said, zone)
    if bound is None:
        raise Gap(f"Coverage.period.{name}", "is not a date")
    return bound


def _holds(bound: Span, day: date, zone: tzinfo) -> bool:
    return bound.earliest.astimezone(zone).date() <= day <= bound.latest.astimezone(zone).date()
