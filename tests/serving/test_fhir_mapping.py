"""FHIR resources to contract rows: each feature by its codes, and never a guess."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medscore_assets.contracts.fields import Category, Whole
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.readmission.cohort import EXCLUSIONS
from serving.examples import FEATURES
from serving.fhir_mapping import TEMPLATES, Mapped, NotScored, Underivable
from serving.fhir_resources import Foreign
from tests.serving.fhir_bundles import (
    HL7,
    SNOMED,
    bundle,
    coded,
    condition,
    coverage,
    diagnosis,
    of_class,
    prefetch_of,
)
from tests.serving.fhir_reading import (
    CODES,
    Change,
    Prefetch,
    ending,
    hospitalization,
    mapped,
    missing,
    row,
    stay_with,
    void,
)


@pytest.fixture
def values() -> Prefetch:
    """The prefetch of the documented example."""
    return prefetch_of(FEATURES)


rows = st.fixed_dictionaries(
    {
        f.name: st.integers(f.minimum, min(f.maximum, 60))
        if isinstance(f, Whole)
        else st.sampled_from(f.categories)
        if isinstance(f, Category)
        else st.booleans()
        for f in READMISSION.features
    }
).filter(lambda found: found["patient_age"] >= 18)


@given(rows)
@settings(max_examples=60, deadline=None)
def test_any_row_that_is_written_as_fhir_comes_back_as_it_was(wanted: dict[str, Any]) -> None:
    assert row(prefetch_of(wanted)) == wanted


@given(rows, st.lists(st.sampled_from(sorted(TEMPLATES)), min_size=1, unique=True))
@settings(max_examples=60, deadline=None)
def test_whatever_is_not_sent_is_asked_for_and_never_guessed(
    wanted: dict[str, Any], absent: list[str]
) -> None:
    values = {k: v for k, v in prefetch_of(wanted).items() if k not in absent}
    told = " ".join(m.needs for m in missing(values).values())
    assert any(f"prefetch {key}" in told for key in absent)


def paths(value: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The place of every member in nested JSON."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, each in items for found in [(*before, key), *paths(each, (*before, key))]]


JUNK = st.sampled_from(
    [None, "", "??", 0, -1, True, [], {}, [None], "9999-12-31", "0001-01-01T00:00:00Z", {"coding": "x"}]
)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_spoilt_resources_give_the_row_a_refusal_or_an_exclusion_and_never_another_error(data: Any) -> None:
    values = copy.deepcopy(prefetch_of(FEATURES))
    place = data.draw(st.sampled_from(paths(values)))
    parent = values
    for key in place[:-1]:
        parent = parent[key]
    parent[place[-1]] = data.draw(JUNK)
    try:
        found = mapped(values)
    except (Underivable, Foreign):
        return
    if isinstance(found, Mapped):
        assert READMISSION.encode_row(found.row).shape == (1, 10)


# Age


@pytest.mark.parametrize(
    ("born", "age"),
    [("1946-03-02", 80), ("1946-03-03", 79), ("2004-02-29", 22), ("1906-03-02", 120)],
)
def test_the_age_is_the_full_years_on_the_day_of_discharge(values: Prefetch, born: str, age: int) -> None:
    values["patient"]["birthDate"] = born
    assert row(values)["patient_age"] == age


@pytest.mark.parametrize("born", ["1946", "1946-03", "", None, 1946, "1946-13-01", "2.3.1946", "1805-01-01"])
def test_a_birth_date_that_gives_no_plausible_age_is_missing(values: Prefetch, born: object) -> None:
    values["patient"]["birthDate"] = born
    assert list(missing(values)) == ["patient_age"]


# Chronic conditions


def with_conditions(values: Prefetch, *conditions: dict[str, Any]) -> Prefetch:
    values["conditions"] = bundle(condition("principal", "A41.9"), *conditions)
    return values


INACTIVE = coded(f"{HL7}condition-clinical", "resolved")


@pytest.mark.parametrize(
    ("conditions", "count"),
    [
        ([], 0),
        ([condition("a", "E11.9"), condition("b", "E10.65"), condition("c", "I50.22")], 2),
        ([condition("a", "E11.9"), condition("a", "E11.9")], 1),
        ([condition("a", "44054006", SNOMED), condition("b", "E119")], 1),
        ([condition("a", "J18.9"), condition("b", "S72.001A")], 0),
        ([condition("a", "I50.9", clinicalStatus=INACTIVE)], 0),
        ([condition("a", "I50.9", clinicalStatus=coded(f"{HL7}condition-clinical", "recurrence"))], 1),
        ([condition("a", "I50.9", verificationStatus=coded(f"{HL7}condition-ver-status", "refuted"))], 0),
        ([condition("a", "I50.9", verificationStatus=coded(f"{HL7}condition-ver-status", "provisional"))], 0),
        ([condition("a", "I50.9", clinicalStatus=None, abatementDateTime="2020")], 0),
        ([condition("a", "X", "urn:local", clinicalStatus=INACTIVE)], 0),
        ([condition("a", "J18.9", clinicalStatus=None)], 0),
    ],
)
def test_chronic_conditions_are_counted_once_each_while_they_are_active(
    values: Prefetch, conditions: list[dict[str, Any]], count: int
) -> None:
    assert row(with_conditions(values, *conditions))["num_chronic_conditions"] == count


@pytest.mark.parametrize(
    "one",
    [
        condition("local", "X", "urn:local"),
        condition("text", "X", code={"text": "Diabetes"}),
        condition("unlisted", "1234567", SNOMED),
        condition("form", "DIABETES"),
        condition("status", "I50.9", clinicalStatus=None),
        condition("both", "I50.9", abatementDateTime="2020"),
        condition("text", "I50.9", verificationStatus={"text": "Refuted"}),
        condition("other", "I50.9", verificationStatus=coded("urn:local", "entered-in-error")),
    ],
)
def test_a_condition_that_leaves_the_count_open_is_asked_for(values: Prefetch, one: dict[str, Any]) -> None:
    assert list(missing(with_conditions(values, one))) == ["num_chronic_conditions"]


def test_a_hospital_may_take_unlisted_snomed_codes_as_not_chronic(values: Prefetch) -> None:
    lax = CODES.model_copy(update={"unlisted_snomed": "ignore"})
    values = with_conditions(values, condition("u", "1234567", SNOMED), condition("d", "44054006", SNOMED))
    assert row(values, lax)["num_chronic_conditions"] == 1


# Principal diagnosis


@pytest.mark.parametrize(
    ("code", "system", "group"),
    [
        ("I50.9", None, "cardiac"),
        ("j18.9", None, "respiratory"),
        ("K92.2", None, "digestive"),
        ("M17.11", None, "musculoskeletal"),
        ("G40.909", None, "neurological"),
        ("E11.65", None, "endocrine"),
        ("A41.9", None, "other"),
        ("C34.90", None, "other"),
        ("U07.1", None, "other"),
        ("84114007", SNOMED, "cardiac"),
        ("233604007", SNOMED, "respiratory"),
        ("709044004", SNOMED, "other"),
    ],
)
def test_the_diagnosis_group_follows_from_the_chapter(
    values: Prefetch, code: str, system: str | None, group: str
) -> None:
    values["conditions"] = bundle(condition("principal", code, *([system] if system else [])))
    assert row(values)["primary_diagnosis_group"] == group


@pytest.mark.parametrize(
    ("entries", "group"),
    [
        ([diagnosis("lung", "AD", 1), diagnosis("heart", "DD", 1)], "cardiac"),
        ([diagnosis("lung", "DD", 2), diagnosis("heart", "DD", 1)], "cardiac"),
        ([diagnosis("lung", "CM", 1), diagnosis("heart", "billing", 1)], "cardiac"),
        ([diagnosis("heart", None, None)], "cardiac"),
        ([diagnosis("heart", "AD", None)], "cardiac"),
        ([diagnosis("lung", "DD", None), diagnosis("heart", "DD", None)], None),
        ([diagnosis("lung", "DD", 1), diagnosis("heart", "DD", 1)], None),
        ([diagnosis("heart", "CC", 1)], None),
        ([diagnosis("lung", "DD", 2), diagnosis("heart", "billing", 1)], None),
        ([diagnosis("elsewhere", "DD", 1)], None),
        ([], None),
    ],
)
def test_the_principal_diagnosis_is_the_one_of_discharge(
    values: Prefetch, entries: list[dict[str, Any]], group: str | None
) -> None:
    values["conditions"] = bundle(condition("heart", "I26.99"), condition("lung", "J18.9"))
    stay_with(values, diagnosis=entries)
    if group:
        assert row(values)["primary_diagnosis_group"] == group
    else:
        assert list(missing(values)) == ["primary_diagnosis_group"]


@pytest.mark.parametrize(
    ("status", "group"),
    [
        (coded(f"{HL7}condition-ver-status", "provisional"), "cardiac"),
        (coded(f"{HL7}condition-ver-status", "refuted"), None),
        (coded(f"{HL7}condition-ver-status", "entered-in-error"), None),
        ({"text": "Refuted"}, None),
    ],
)
def test_a_principal_diagnosis_may_be_suspected_and_not_withdrawn(
    values: Prefetch, status: dict[str, Any], group: str | None
) -> None:
    values["conditions"] = bundle(condition("principal", "I26.99", verificationStatus=status))
    if group:
        assert row(values)["primary_diagnosis_group"] == group
    else:
        assert list(missing(values)) == ["primary_diagnosis_group"]


def test_a_principal_diagnosis_with_codes_of_two_groups_is_refused(values: Prefetch) -> None:
    both = {"coding": [*coded(HL7, "")["coding"], *condition("x", "I26.9")["code"]["coding"]]}
    both["coding"] += condition("x", "J18.9")["code"]["coding"]
    values["conditions"] = bundle(condition("principal", "", code=both))
    assert missing(values)["primary_diagnosis_group"].why == "has codes that contradict each other"


# Disposition and eligibility


@pytest.mark.parametrize(
    ("codes", "place"),
    [
        ([("disposition", "home")], "home"),
        ([("ub", "06")], "home_with_care"),
        ([("disposition", "snf"), ("ub", "03")], "skilled_nursing"),
        ([("disposition", "rehab")], "rehab"),
        ([("ub", "70"), ("local", "whatever")], "other"),
        ([("disposition", "oth")], "other"),
        ([("disposition", "other-hcf")], None),
        ([("local", "home")], None),
        ([("disposition", "home"), ("ub", "03")], None),
        ([("ub", "30")], None),
        ([], None),
    ],
)  # fmt: skip
def test_the_place_after_discharge_follows_from_listed_codes_that_agree(
    values: Prefetch, codes: list[tuple[str, str]], place: str | None
) -> None:
    systems = {
        "disposition": f"{HL7}discharge-disposition",
        "ub": "https://www.nubc.org/CodeSystem/PatDischargeStatus",
        "local": "urn:local",
    }
    coding = [{"system": systems[name], "code": code} for name, code in codes]
    hospitalization(values, dischargeDisposition={"coding": coding} if coding else {"text": "Home"})
    if place:
        assert row(values)["discharge_disposition"] == place
    else:
        assert list(missing(values)) == ["discharge_disposition"]


def covered_by(**changes: Any) -> Change:
    return lambda values: values.update(coverages=bundle(coverage("c", "1", **changes)))


def ub(code: str) -> Change:
    concept = coded("https://www.nubc.org/CodeSystem/PatDischargeStatus", code)
    return lambda values: void(hospitalization(values, dischargeDisposition=concept))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (ending("exp"), "expired"),
        (ending("hosp"), "hospice"),
        (ub("02"), "transferred"),
        (ending("aadvice"), "left_against_advice"),
        (lambda v: v["patient"].update(birthDate="2010-01-01"), "minor"),
        (lambda v: void(hospitalization(v, admitSource=coded(f"{HL7}admit-source", "born"))), "service_line"),
        (lambda v: void(stay_with(v, serviceType=coded(SNOMED, "394602003"))), "service_line"),
        (lambda v: v.update(conditions=bundle(condition("principal", "O80"))), "service_line"),
        (lambda v: v.update(conditions=bundle(condition("principal", "F33.2"))), "service_line"),
        (lambda v: v["patient"].update(deceasedBoolean=True), "deceased"),
        (lambda v: v["patient"].update(deceasedDateTime="2026-03-02"), "deceased"),
        (covered_by(period={"end": "2026-02-28"}), "not_covered"),
        (covered_by(status="cancelled"), "not_covered"),
        (lambda v: void(stay_with(v, **of_class("AMB"))), "not_inpatient"),
    ],
)  # fmt: skip
def test_who_is_not_eligible_is_not_scored_whatever_else_is_missing(change: Change, reason: str) -> None:
    values = prefetch_of(FEATURES)
    change(values)
    assert mapped(values) == NotScored(reason)
    assert reason in {*EXCLUSIONS, "not_inpatient"}

    values["medications"] = {"resourceType": "OperationOutcome"}
    assert mapped(values) == NotScored(reason)


# Emergency


@pytest.mark.parametrize(
    ("changes", "came"),
    [
        ({"source": "emd"}, True),
        ({"source": "gp"}, False),
        ({"source": "gp", "priority": "EM"}, False),
        ({"priority": "EM"}, True),
        ({"priority": "EL"}, False),
        ({"priority": "UR"}, None),
        ({"class_history": "EMER"}, True),
        ({"source": "unlisted", "priority": "EL"}, False),
        ({}, None),
    ],
)
def test_an_emergency_admission_follows_from_its_source_then_its_priority(
    values: Prefetch, changes: dict[str, str], came: bool | None
) -> None:
    source, priority, earlier = (changes.get(n) for n in ("source", "priority", "class_history"))
    hospitalization(values, admitSource=coded(f"{HL7}admit-source", source) if source else None)
    stay_with(
        values,
        priority=coded(f"{HL7}v3-ActPriority", priority) if priority else None,
        classHistory=[{"class": {"system": f"{HL7}v3-ActCode", "code": earlier}}] if earlier else None,
    )
    if came is None:
        assert list(missing(values)) == ["emergency_admission"]
    else:
        assert row(values)["emergency_admission"] is came
