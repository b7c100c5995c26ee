"""What is arranged at discharge, read from FHIR: medications, follow-up, payer."""

from __future__ import annotations

from typing import Any

import pytest

from serving.examples import FEATURES
from tests.serving.fhir_bundles import (
    HL7,
    PATIENT,
    RXNORM,
    appointment,
    bundle,
    coded,
    coverage,
    medication,
    prefetch_of,
    subject,
)
from tests.serving.fhir_reading import (
    CODES,
    Prefetch,
    missing,
    row,
)


@pytest.fixture
def values() -> Prefetch:
    """The prefetch of the documented example."""
    return prefetch_of(FEATURES)


# Medications


def named(name: str, concept: dict[str, Any]) -> dict[str, Any]:
    """An order for a medication that is named by a whole concept."""
    return medication(name, None, medicationCodeableConcept=concept)


def held(name: str, code: dict[str, Any] | None) -> dict[str, Any]:
    """An order that holds its medication within itself, under the name that all of them use."""
    inside = {"resourceType": "Medication", "id": "med", **({"code": code} if code else {})}
    return medication(name, None, medicationReference={"reference": "#med"}, contained=[inside])


def referring(name: str, reference: str) -> dict[str, Any]:
    return medication(name, None, medicationReference={"reference": reference})


COMMUNITY, INPATIENT = ([coded(f"{HL7}medicationrequest-category", c)] for c in ("community", "inpatient"))


@pytest.mark.parametrize(
    ("requests", "count"),
    [
        ([], 0),
        ([medication("a", "1"), medication("b", "1"), medication("c", "2")], 2),
        ([medication("a", "1"), medication("b", "2", category=COMMUNITY)], 1),
        ([medication("a", "1", category=COMMUNITY), medication("b", "2", category=INPATIENT)], 1),
        ([medication("a", "1", status="stopped"), medication("b", "2", intent="plan")], 0),
        ([medication("a", "1", doNotPerform=True)], 0),
        ([medication("a", None, medicationReference={"reference": "Medication/9"})] * 2, 1),
        ([referring("a", "Medication/9"), referring("b", "https://fhir.example.org/Medication/9")], 1),
        ([referring("a", "Medication/9"), referring("b", "https://other.example.org/Medication/9")], 2),
        ([held("a", coded(RXNORM, "1")), held("b", coded(RXNORM, "2")), held("c", {"text": "Iron"})], 3),
        ([held("a", coded(RXNORM, "1")), medication("b", "1")], 1),
        ([named("a", {"text": "Aspirin  81"}), named("b", {"text": "aspirin 81"})], 1),
        (
            [
                medication("a", "1"),
                medication("b", "2"),
                named("c", {"coding": [{"system": RXNORM, "code": code} for code in "12"]}),
            ],
            1,
        ),
    ],
)  # fmt: skip
def test_medications_are_counted_once_each_by_what_names_them(
    values: Prefetch, requests: list[dict[str, Any]], count: int
) -> None:
    values["medications"] = bundle(*requests)
    assert row(values, server="https://fhir.example.org")["num_medications_at_discharge"] == count


@pytest.mark.parametrize(
    "one",
    [
        medication("a", None),
        medication("a", "1", category=[]),
        held("a", None),
        referring("a", "#elsewhere"),
        medication("a", "1", modifierExtension=[{"url": "urn:not-this-one", "valueBoolean": True}]),
    ],
)
def test_an_order_that_leaves_the_count_open_is_asked_for(values: Prefetch, one: dict[str, Any]) -> None:
    values["medications"] = bundle(one)
    assert list(missing(values)) == ["num_medications_at_discharge"]


def test_a_hospital_may_count_orders_without_a_category(values: Prefetch) -> None:
    lax = CODES.model_copy(update={"uncategorised_medication": "count"})
    values["medications"] = bundle(
        medication("a", "1", category=[]), medication("b", "2", category=INPATIENT)
    )
    assert row(values, lax)["num_medications_at_discharge"] == 1


# Follow-up

SOON = "2026-03-09T09:00:00-05:00"


def declined_by(*patients: str) -> dict[str, Any]:
    """A booked appointment of the patient and somebody else, which some of them have declined."""
    actors = [subject(), {"reference": "Practitioner/1"}]
    answers = ["declined" if a["reference"] in patients else "accepted" for a in actors]
    taking_part = [{"actor": a, "status": said} for a, said in zip(actors, answers, strict=True)]
    return appointment("a", SOON, participant=taking_part)


@pytest.mark.parametrize(
    ("appointments", "booked"),
    [
        ([], False),
        ([appointment("a", SOON)], True),
        ([appointment("a", "2026-08-09T09:00:00-05:00")], True),
        ([appointment("a", "2026-03-02T10:59:00-05:00")], False),
        ([appointment("a", SOON, status=s) for s in ("cancelled", "proposed", "pending", "noshow")], False),
        ([declined_by("Practitioner/1")], True),
        ([declined_by(f"Patient/{PATIENT}")], False),
        ([appointment("a", None), appointment("b", "2026-03-09T09:00:00Z")], True),
        ([appointment("a", None)], None),
        ([appointment("a", "next week")], None),
        ([appointment("a", "2026-03-02")], None),
    ],
)  # fmt: skip
def test_a_follow_up_is_a_booked_appointment_after_the_discharge(
    values: Prefetch, appointments: list[dict[str, Any]], booked: bool | None
) -> None:
    values["appointments"] = bundle(*appointments)
    if booked is None:
        assert list(missing(values)) == ["has_follow_up_scheduled"]
    else:
        assert row(values)["has_follow_up_scheduled"] is booked


# Payer


@pytest.mark.parametrize(
    ("coverages", "payer"),
    [
        ([], "unknown"),
        ([coverage("a", "111")], "medicare"),
        ([coverage("a", "25")], "medicaid"),
        ([coverage("a", "14")], "dual_eligible"),
        ([coverage("a", "1"), coverage("b", "2")], "dual_eligible"),
        ([coverage("a", "512"), coverage("b", "61")], "commercial"),
        ([coverage("a", "9999")], "unknown"),
        ([coverage("a", "1", order=1), coverage("b", "5", order=2)], "medicare"),
        ([coverage("a", "1", order=2), coverage("b", "5", order=1)], "commercial"),
        ([coverage("a", "1"), coverage("b", "5")], None),
        ([coverage("a", "1"), coverage("b", "5", status="cancelled")], "medicare"),
        ([coverage("a", "1"), coverage("b", "5", period={"end": "2026-03-01"})], "medicare"),
        ([coverage("a", "1", period={"start": "2026-03-02", "end": "2026-03-02"})], "medicare"),
        ([coverage("a", "1"), coverage("b", "5", period={"start": "2026-03-03"})], "medicare"),
        ([coverage("a", "1", period={"start": "0001-01-01", "end": "9999-12-31"})], "medicare"),
        ([coverage("a", "1", period={"end": "2026-03"})], None),
        ([coverage("a", "1", period={"end": "soon"})], None),
        ([coverage("a", "73")], None),
        ([coverage("a", "81")], None),
        ([coverage("a", None)], None),
        ([coverage("a", None, type={"text": "Medicare"})], None),
    ],
)
def test_the_payer_is_that_of_the_coverage_in_force(
    values: Prefetch, coverages: list[dict[str, Any]], payer: str | None
) -> None:
    values["coverages"] = bundle(*coverages)
    if payer:
        assert row(values)["insurance_type"] == payer
    else:
        assert list(missing(values)) == ["insurance_type"]
