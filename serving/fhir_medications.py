"""How many medications a patient is discharged with, from MedicationRequest resources.

Belongs here: which orders count, and which of them are of the same medication. Does not belong here: the
codes (`fhir_codes.toml`) and every other feature (`fhir_mapping.py`).
"""

from __future__ import annotations

from collections.abc import Iterable

from serving.fhir_codes import Codes
from serving.fhir_resources import Gap, Resource, all_codings, codings, element, elements, referenced


def count(requests: Iterable[Resource], codes: Codes, server: str | None = None) -> int:
    """Distinct medications: those ordered for discharge, or, if none is marked so, those that go on.

    `server` is the address of the client's FHIR server. Raises `Gap` for an order in force that does not say
    what it is of, or whether it is for discharge.
    """
    by_category: dict[str, list[Resource]] = {}
    for request in requests:
        if not _in_force(request, codes):
            continue
        said = codes.meanings(codes.medication_category, all_codings(request.get("category")))
        for name in said or {"uncategorised"}:
            by_category.setdefault(name, []).append(request)
    if "discharge" in by_category:
        return _distinct(by_category["discharge"], server)
    unmarked = by_category.get("uncategorised", [])
    if unmarked and codes.uncategorised_medication == "refuse":
        raise Gap("MedicationRequest.category", "an active order does not say whether it is for discharge")
    return _distinct([*by_category.get("continued", []), *unmarked], server)


def _in_force(request: Resource, codes: Codes) -> bool:
    rules = codes.medications
    ordered = request.get("status") in rules.statuses and request.get("intent") in rules.intents
    return ordered and request.get("doNotPerform") is not True


def _distinct(requests: list[Resource], server: str | None) -> int:
    """How many medications; two requests that share a code, a resource or a name are of the same."""
    parents: dict[object, object] = {}

    def root(name: object) -> object:
        while (parent := parents.setdefault(name, name)) != name:
            parents[name] = name = parents[parent]
        return name

    for request in requests:
        first, *others = _names(request, server)
        for name in others:
            parents[root(name)] = root(first)
        root(first)
    return len({root(name) for name in list(parents)})


def _names(request: Resource, server: str | None) -> list[object]:
    """By what a medication is known: its codes or its resource, else its text. At least one."""
    reference = element(request, "medicationReference", "reference")
    inside = isinstance(reference, str) and reference.startswith("#")
    # A name within the request says nothing outside of it: every request may call its medication "#1".
    concept = _contained(request, reference) if inside else request.get("medicationCodeableConcept")
    names: list[object] = [*codings(concept)]
    if isinstance(reference, str) and not inside:
        names.append(referenced(request.get("medicationReference"), server) or reference)
    if not names and isinstance(text := element(concept, "text"), str) and text.strip():
        names.append(" ".join(text.casefold().split()))
    if not names:
        raise Gap("MedicationRequest.medication", "an active order does not name its medication")
    return names


def _contained(request: Resource, reference: str) -> object:
    """The code of the medication that a request holds within itself; None if there is none."""
    held = (c for c in elements(request.get("contained")) if c.get("id") == reference[1:])
    return next((medication.get("code") for medication in held), None)
