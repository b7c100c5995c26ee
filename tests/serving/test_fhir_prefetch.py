"""What a client sends along, whole or not at all, and the code lists by which it is read."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from medscore_assets.contracts.fields import Flag
from medscore_assets.contracts.readmission import READMISSION
from resources.errors import PermanentError
from serving.examples import FEATURES
from serving.fhir_codes import DEFAULT_FILE, CodeRange, icd10, load_codes
from serving.fhir_mapping import TEMPLATES
from serving.fhir_resources import Foreign, span
from tests.serving.fhir_bundles import (
    CHRONIC,
    NOW,
    PATIENT,
    SNOMED,
    SOPT,
    ZONE,
    appointment,
    bundle,
    condition,
    coverage,
    encounter,
    medication,
    prefetch_of,
    subject,
)
from tests.serving.fhir_reading import (
    CODES,
    Prefetch,
    ending,
    mapped,
    missing,
    row,
)


@pytest.fixture
def values() -> Prefetch:
    """The prefetch of the documented example."""
    return prefetch_of(FEATURES)


# Prefetch

FEATURE_OF = {
    "encounters": "num_prior_admissions_12m",
    "conditions": "num_chronic_conditions",
    "medications": "num_medications_at_discharge",
    "appointments": "has_follow_up_scheduled",
    "coverages": "insurance_type",
}


@pytest.mark.parametrize("key", FEATURE_OF)
@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ({"resourceType": "OperationOutcome", "issue": []}, "OperationOutcome"),
        (bundle(link=[{"relation": "next", "url": "https://fhir.example.org/2"}]), "first page"),
        (bundle(total=3), "fewer resources"),
        (bundle(entry=[{"fullUrl": "https://fhir.example.org/lost"}]), "without a resource"),
        ({"resourceType": "Observation"}, "not a Bundle"),
        (bundle({"resourceType": "Observation", "subject": subject()}), "another type"),
        (
            bundle({"resourceType": "OperationOutcome", "issue": [{"severity": "error"}]}),
            "failed in part",
        ),
    ],
)
def test_half_a_search_is_none(values: Prefetch, key: str, broken: dict[str, Any], why: str) -> None:
    values[key] = broken
    assert why in missing(values)[FEATURE_OF[key]].why


@pytest.mark.parametrize("key", ["medications", "appointments", "coverages"])
def test_null_is_a_search_without_a_match(values: Prefetch, key: str) -> None:
    values[key] = None
    with_null = row(values)
    values[key] = bundle()
    assert with_null == row(values)


@pytest.mark.parametrize("key", ["patient", "encounter"])
def test_null_for_the_patient_or_the_stay_is_missing(values: Prefetch, key: str) -> None:
    values[key] = None
    assert [m.needs for m in missing(values).values()] == [f"prefetch {key}"]


def test_warnings_and_included_resources_do_no_harm(values: Prefetch) -> None:
    entries = values["medications"]["entry"]
    entries.append({"resource": {"resourceType": "Medication", "id": "9"}, "search": {"mode": "include"}})
    warning = {"resourceType": "OperationOutcome", "issue": [{"severity": "warning"}]}
    entries.append({"resource": warning, "search": {"mode": "outcome"}})
    assert row(values) == FEATURES


@pytest.mark.parametrize(
    ("key", "foreign"),
    [
        ("patient", {"resourceType": "Patient", "id": "pat-2", "birthDate": "1950-01-01"}),
        ("conditions", bundle(condition("x", "I50", patient="pat-2"))),
        ("encounters", bundle(encounter("x", "2025-06-01", "2025-06-02", patient="pat-11"))),
        ("medications", bundle(medication("x", "1", subject={"display": "somebody"}))),
        ("medications", bundle(medication("x", "1", subject={"reference": "urn:uuid:1"}))),
        ("appointments", bundle(appointment("x", "2026-03-09T09:00:00Z", patient="pat-2"))),
        ("coverages", bundle(coverage("x", "1", beneficiary={"reference": f"Group/{PATIENT}"}))),
    ],
)
def test_resources_that_are_not_known_to_be_of_the_patient_are_refused(
    values: Prefetch, key: str, foreign: dict[str, Any]
) -> None:
    values[key] = foreign
    # Also where the score does not apply.
    for change in (lambda _: None, ending("exp")):
        change(values)
        with pytest.raises(Foreign) as raised:
            mapped(values)
        assert raised.value.key == key


@pytest.mark.parametrize(
    ("reference", "server"),
    [
        (f"Patient/{PATIENT}/_history/3", None),
        (f"https://fhir.example.org/r4/Patient/{PATIENT}", "https://fhir.example.org/r4"),
        (f"https://FHIR.example.org/r4/Patient/{PATIENT}/_history/3", "https://fhir.example.org/r4/"),
    ],
)
def test_a_patient_may_be_referred_to_by_address_and_version(
    values: Prefetch, reference: str, server: str | None
) -> None:
    for entry in values["medications"]["entry"]:
        entry["resource"]["subject"] = {"reference": reference}
    assert row(values, server=server) == FEATURES


@pytest.mark.parametrize(
    "server",
    [None, "https://fhir.example.org", "https://fhir.example.org/r4/a", "https://other.example.org/r4"],
)
def test_the_same_id_on_another_server_is_somebody_else(values: Prefetch, server: str | None) -> None:
    elsewhere = {"reference": f"https://fhir.example.org/r4/Patient/{PATIENT}"}
    values["medications"]["entry"][0]["resource"]["subject"] = elsewhere
    with pytest.raises(Foreign):
        mapped(values, server=server)


def test_a_later_page_and_strangers_on_one_of_several_pages_are_refused(values: Prefetch) -> None:
    links = [{"relation": name, "url": "https://fhir.example.org/2"} for name in ("previous", "next")]
    values["conditions"]["link"] = links[:1]
    assert "not the first page" in missing(values)["num_chronic_conditions"].why
    values["conditions"] = bundle(condition("x", "I50", patient="pat-2"), link=links[1:])
    with pytest.raises(Foreign):
        mapped(values)


def test_the_data_are_as_old_as_the_oldest_search(values: Prefetch) -> None:
    assert mapped(values).data_as_of == NOW  # type: ignore[union-attr]
    values["coverages"]["meta"] = {"lastUpdated": "2026-03-02T18:00:00Z"}
    values["conditions"]["timestamp"] = "2026-03-02T18:30:00Z"
    values["medications"]["timestamp"] = "2027-01-01T00:00:00Z"
    assert mapped(values).data_as_of == NOW - timedelta(hours=1)  # type: ignore[union-attr]


def test_a_refusal_names_every_gap_and_no_value(values: Prefetch) -> None:
    text = json.dumps(values)
    values["patient"]["birthDate"] = "1948-01"
    values["coverages"] = bundle(coverage("SECRET-1", "SECRET-2"))
    del values["appointments"]
    found = missing(values)

    assert set(found) == {"patient_age", "insurance_type", "has_follow_up_scheduled"}
    told = " ".join(f"{m.feature} {m.needs} {m.why}" for m in found.values())
    assert not any(value in told for value in ("SECRET", "1948", PATIENT))
    assert PATIENT in text


# Code lists


def test_each_chronic_condition_of_the_lists_is_found_by_each_of_its_codes() -> None:
    for name, chronic in CODES.chronic.items():
        for text in chronic.icd10:
            limits = CodeRange.parse(text)
            for code in (limits.first, limits.last):
                assert CODES.chronic_of([("http://hl7.org/fhir/sid/icd-10-cm", code)]) == {name}
        for code in chronic.snomed:
            assert CODES.chronic_of([(SNOMED, code)]) == {name}
    assert len(CHRONIC) >= 50


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('home = "home"', 'home = "hom"', "disposition"),
        ('"1*" = "medicare"', '"1*" = "medicair"', "insurance"),
        ('icd10 = ["I50"]', 'icd10 = ["I50", "I48"]', "atrial_fibrillation"),
        ('icd10 = ["I50"]', 'icd10 = ["heart"]', "ICD-10 category"),
        ('respiratory = ["J00-J99"]', 'respiratory = ["I99-J99"]', "diagnosis_groups"),
        ('snomed = ["84114007",', 'snomed = ["38341003",', "same SNOMED"),
        ("[service_line.snomed]", "[service_line.snommed]", "systems lacks snommed"),
        ('version = "2026.1"', "version = 2026", "version"),
        ('uncategorised_medication = "refuse"', 'uncategorised_medication = "guess"', "uncategorised"),
        ("[systems]", "[systems", "cannot be read"),
    ],
)
def test_code_lists_with_a_mistake_are_refused_by_name(tmp_path: Path, old: str, new: str, told: str) -> None:
    text = DEFAULT_FILE.read_text(encoding="utf-8")
    assert old in text
    file = tmp_path / "codes.toml"
    file.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(PermanentError, match=told):
        load_codes(file)


@pytest.mark.parametrize(
    ("raw", "code"),
    [("e11.65", "E1165"), (" I50 ", "I50"), ("M1A.0110", "M1A0110"), ("11.65", None), ("E", None)],
)
def test_icd_10_codes_are_read_with_or_without_their_dot(raw: str, code: str | None) -> None:
    assert icd10(raw) == code


@pytest.mark.parametrize(
    "text",
    ["2026-02-30", "2026-3-1", "yesterday", "2026-03-01T10:00:00", "2026-03-01T25:00:00Z", 20260301, None],
)
def test_what_is_no_fhir_date_is_none(text: object) -> None:
    assert span(text, ZONE) is None


def test_the_templates_are_answered_by_the_builder_and_every_payer_by_a_code() -> None:
    assert set(prefetch_of(FEATURES)) == set(TEMPLATES)
    assert isinstance(READMISSION.fields["emergency_admission"], Flag)
    assert CODES.systems["payer_typology"][0] == SOPT
