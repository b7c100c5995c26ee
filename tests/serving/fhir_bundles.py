"""Contract rows as a record system would send them: FHIR R4 resources in a CDS Hooks prefetch."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from medscore_assets.contracts.readmission import READMISSION
from serving.fhir_codes import load_codes

ZONE = ZoneInfo("America/New_York")
NOW = datetime(2026, 3, 2, 19, 0, tzinfo=UTC)
"""14:00 in `ZONE`; the stay of `prefetch_of` ends three hours earlier."""

PATIENT, ENCOUNTER = "pat-1", "enc-1"

ICD10 = "http://hl7.org/fhir/sid/icd-10-cm"
SNOMED = "http://snomed.info/sct"
RXNORM = "http://www.nlm.nih.gov/research/umls/rxnorm"
SOPT = "https://nahdo.org/sopt"
HL7 = "http://terminology.hl7.org/CodeSystem/"
NUBC_STATUS = "https://www.nubc.org/CodeSystem/PatDischargeStatus"

# None of them is a chronic condition: the principal diagnosis must not add to their count.
PRINCIPAL = {
    "cardiac": "I26.99",
    "respiratory": "J18.9",
    "digestive": "K35.80",
    "musculoskeletal": "M00.9",
    "neurological": "G03.9",
    "endocrine": "E86.0",
    "other": "A41.9",
}
DISPOSITION = {"home": "01", "home_with_care": "06", "skilled_nursing": "03", "rehab": "62", "other": "70"}
PAYERS = {
    "commercial": ["5"],
    "medicare": ["1"],
    "medicaid": ["2"],
    "dual_eligible": ["1", "2"],
    "unknown": [],
}

CHRONIC = [c.icd10[0].partition("-")[0] for c in load_codes().chronic.values()]
"""One ICD-10 category of each chronic condition."""


def coded(system: str, code: str) -> dict[str, Any]:
    """A CodeableConcept of one coding."""
    return {"coding": [{"system": system, "code": code}]}


def bundle(*resources: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """A searchset."""
    return {
        "resourceType": "Bundle",
        "type": "searchset",
        "total": len(resources),
        "link": [{"relation": "self", "url": "https://fhir.example.org/search"}],
        **(
            {"entry": [{"resource": dict(r), "search": {"mode": "match"}} for r in resources]}
            if resources
            else {}
        ),
        **more,
    }


def subject(patient: str = PATIENT) -> dict[str, str]:
    """A reference to the patient."""
    return {"reference": f"Patient/{patient}"}


def condition(name: str, code: str, system: str = ICD10, /, **changes: Any) -> dict[str, Any]:
    """An active, confirmed condition."""
    return {
        "resourceType": "Condition",
        "id": name,
        "subject": subject(changes.pop("patient", PATIENT)),
        "clinicalStatus": coded(f"{HL7}condition-clinical", "active"),
        "verificationStatus": coded(f"{HL7}condition-ver-status", "confirmed"),
        "code": coded(system, code),
        **changes,
    }


def encounter(name: str, start: str | None, end: str | None, /, **changes: Any) -> dict[str, Any]:
    """A finished inpatient stay."""
    period = {k: v for k, v in (("start", start), ("end", end)) if v}
    return {
        "resourceType": "Encounter",
        "id": name,
        "status": "finished",
        "class": {"system": f"{HL7}v3-ActCode", "code": "IMP"},
        "subject": subject(changes.pop("patient", PATIENT)),
        **({"period": period} if period else {}),
        **changes,
    }


def diagnosis(name: str, use: str | None, rank: int | None) -> dict[str, Any]:
    """An entry of Encounter.diagnosis."""
    return {
        "condition": {"reference": f"Condition/{name}"},
        **({"use": coded(f"{HL7}diagnosis-role", use)} if use else {}),
        **({"rank": rank} if rank else {}),
    }


def medication(name: str, code: str | None, /, **changes: Any) -> dict[str, Any]:
    """An active order for discharge."""
    return {
        "resourceType": "MedicationRequest",
        "id": name,
        "status": "active",
        "intent": "order",
        "category": [coded(f"{HL7}medicationrequest-category", "discharge")],
        "subject": subject(changes.pop("patient", PATIENT)),
        **({"medicationCodeableConcept": coded(RXNORM, code)} if code else {}),
        **changes,
    }


def appointment(name: str, start: str | None, /, **changes: Any) -> dict[str, Any]:
    """A booked appointment."""
    return {
        "resourceType": "Appointment",
        "id": name,
        "status": "booked",
        **({"start": start} if start else {}),
        "participant": [{"actor": subject(changes.pop("patient", PATIENT)), "status": "accepted"}],
        **changes,
    }


def coverage(name: str, code: str | None, /, **changes: Any) -> dict[str, Any]:
    """An active coverage."""
    return {
        "resourceType": "Coverage",
        "id": name,
        "status": "active",
        "beneficiary": subject(changes.pop("patient", PATIENT)),
        **({"type": coded(SOPT, code)} if code else {}),
        **changes,
    }


def of_class(code: str) -> dict[str, Any]:
    """The class of an encounter."""
    return {"class": {"system": f"{HL7}v3-ActCode", "code": code}}


def prefetch_of(row: Mapping[str, Any], *, patient: str = PATIENT, stay: str = ENCOUNTER) -> dict[str, Any]:
    """The prefetch from which the mapping must make `row`, of a stay that has just ended."""
    left = (NOW - timedelta(hours=3)).astimezone(ZONE)
    came = datetime.combine(left.date() - timedelta(days=row["length_of_stay_days"]), left.time(), ZONE)
    came = (came.astimezone(UTC) - timedelta(hours=1)).astimezone(ZONE)
    born = date(left.year - row["patient_age"], 1, 15)
    index = encounter(
        stay,
        came.isoformat(),
        left.isoformat(),
        patient=patient,
        hospitalization={
            "admitSource": coded(f"{HL7}admit-source", "emd" if row["emergency_admission"] else "gp"),
            "dischargeDisposition": coded(NUBC_STATUS, DISPOSITION[row["discharge_disposition"]]),
        },
        diagnosis=[diagnosis("principal", "DD", 1)],
    )
    earlier = [
        encounter(
            f"before-{n}",
            (came.astimezone(UTC) - timedelta(days=3 * n + 3)).isoformat(),
            (came.astimezone(UTC) - timedelta(days=3 * n + 2)).isoformat(),
            patient=patient,
        )
        for n in range(row["num_prior_admissions_12m"])
    ]
    chronic = [
        condition(f"chronic-{n}", code, patient=patient)
        for n, code in enumerate(CHRONIC[: row["num_chronic_conditions"]])
    ]
    principal = condition("principal", PRINCIPAL[row["primary_diagnosis_group"]], patient=patient)
    drugs = [
        medication(f"drug-{n}", str(1000 + n), patient=patient)
        for n in range(row["num_medications_at_discharge"])
    ]
    booked = [appointment("visit", (left + timedelta(days=5)).isoformat(), patient=patient)]
    payers = [
        coverage(f"payer-{n}", code, patient=patient) for n, code in enumerate(PAYERS[row["insurance_type"]])
    ]
    return {
        "patient": {"resourceType": "Patient", "id": patient, "birthDate": born.isoformat()},
        "encounter": index,
        "encounters": bundle(index, *earlier),
        "conditions": bundle(principal, *chronic),
        "medications": bundle(*drugs),
        "appointments": bundle(*(booked if row["has_follow_up_scheduled"] else [])),
        "coverages": bundle(*payers),
    }


def features_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The ten features of a row."""
    return {name: row[name] for name in READMISSION.feature_names}
