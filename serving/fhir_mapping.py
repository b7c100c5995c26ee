"""From FHIR R4 resources to one row of the readmission contract: by the code lists, or not at all.

Belongs here: what each of the ten features is in FHIR, who is not scored, and what is missing where a
feature cannot be known. Does not belong here: reading resources (`fhir_resources.py`), the codes
(`fhir_codes.toml`) and HTTP (`cds_hooks.py`). Nothing here does I/O.

A feature is never guessed. What is not there, contradicts itself, or has a code that no list knows leads to
`Underivable`, which names the feature, the element it needs and the reason, and no value of the patient.
While the stay is still open the discharge is taken to be now, as it is in the hook that asks at discharge.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, tzinfo
from typing import Any

from medscore_assets.contracts.fields import InvalidValue
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.readmission.cohort import ADULT_AGE, EXCLUSIONS
from serving import fhir_coverage, fhir_medications
from serving.fhir_codes import ENDINGS, Codes, Coding
from serving.fhir_resources import (
    Gap,
    Prefetch,
    Resource,
    all_codings,
    codings,
    element,
    elements,
    full_date,
    only,
    referenced,
    span,
)
from serving.fhir_stays import Stay, began_after, is_hospital_stay, prior_admissions, reaches_back, stay_of

NOT_INPATIENT = "not_inpatient"
"""Not a hospital stay at all: no exclusion of the cohort, which holds hospital stays only."""

_WITHDRAWN = frozenset(("refuted", "entered-in-error"))
"""Verification statuses of a condition that is none. A principal diagnosis may be a suspected one."""

TEMPLATES = {
    "patient": "Patient/{{context.patientId}}",
    "encounter": "Encounter/{{context.encounterId}}",
    "encounters": "Encounter?patient={{context.patientId}}&_sort=-date&_count=500",
    "conditions": "Condition?patient={{context.patientId}}&_count=500",
    "medications": "MedicationRequest?patient={{context.patientId}}&status=active&_count=500",
    "appointments": "Appointment?patient={{context.patientId}}&status=booked&_count=200",
    "coverages": "Coverage?patient={{context.patientId}}&_count=100",
}
"""What a client is asked to send along, by name."""


_SEARCHES = {
    "encounters": "Encounter",
    "conditions": "Condition",
    "medications": "MedicationRequest",
    "appointments": "Appointment",
    "coverages": "Coverage",
}


@dataclass(frozen=True, slots=True)
class Missing:
    """One feature that cannot be known: the element it needs, and why it is not enough."""

    feature: str
    needs: str
    why: str


class Underivable(Exception):
    """Some features cannot be known from what was sent."""

    def __init__(self, missing: tuple[Missing, ...]) -> None:
        self.missing = missing
        super().__init__(", ".join(m.feature for m in missing))


@dataclass(frozen=True, slots=True)
class NotScored:
    """No score applies to this stay: a name of `cohort.EXCLUSIONS`, or `NOT_INPATIENT`."""

    reason: str


@dataclass(frozen=True, slots=True)
class Mapped:
    """A stay as the contract has it. `row` holds the ten features, valid by the contract."""

    row: Mapping[str, Any]
    encounter_id: str
    patient_id: str
    discharged_at: datetime
    discharge_is_now: bool
    """Whether the stay is still open, so that the features are those of a discharge at `discharged_at`."""
    data_as_of: datetime


def map_stay(
    values: Mapping[str, Any],
    *,
    patient_id: str,
    encounter_id: str,
    now: datetime,
    zone: tzinfo,
    codes: Codes,
    server: str | None = None,
) -> Mapped | NotScored:
    """The contract row of one stay, from the values of a prefetch by `TEMPLATES`.

    `now` has a zone; calendar days are those of `zone`. `server` is the address of the client's FHIR server:
    references by address point to something only there. Raises `Underivable`, and `Foreign` if a resource is
    not of the patient or the encounter is another one.
    """
    prefetch = Prefetch(values, patient_id, server)
    prefetch.require_own(_SEARCHES)
    try:
        encounter = prefetch.one("encounter", "Encounter")
        if encounter.get("id") != encounter_id:
            raise Gap("prefetch encounter", "is not the encounter of the context")
        if not is_hospital_stay(encounter, codes):
            return NotScored(NOT_INPATIENT)
        patient = prefetch.one("patient", "Patient")
        stay = stay_of(encounter, now, zone)
    except Gap as gap:
        raise Underivable((Missing("encounter_id", gap.needs, gap.why),)) from None
    reading = _Reading(prefetch, patient, encounter, stay, now, zone, codes)
    if reason := reading.exclusion():
        return NotScored(reason)
    return Mapped(
        row=reading.row(),
        encounter_id=encounter_id,
        patient_id=patient_id,
        discharged_at=stay.discharged.latest,
        discharge_is_now=stay.is_open,
        data_as_of=prefetch.told_at(now),
    )


@dataclass(slots=True)
class _Reading:
    """One stay with all that was sent about it. Each method gives its answer or raises `Gap`."""

    prefetch: Prefetch
    patient: Resource
    encounter: Resource
    stay: Stay
    now: datetime
    zone: tzinfo
    codes: Codes

    def exclusion(self) -> str:
        """The first of `EXCLUSIONS` that is known to hold, or ''."""
        holds: dict[str, Callable[[], bool]] = {
            **{ending: lambda ending=ending: self.place() == ending for ending in ENDINGS},  # type: ignore[misc]
            "minor": lambda: self.age() < ADULT_AGE,
            "service_line": self.of_another_service,
            "deceased": self.deceased,
            "not_covered": lambda: not self.insured(),
            "readmitted": lambda: began_after(self.stay, self._encounters(), self.now, self.zone, self.codes),
        }
        for name in EXCLUSIONS:
            try:
                if name in holds and holds[name]():
                    return name
            except Gap:
                # It is told with the features, all of which are needed by then.
                continue
        return ""

    def row(self) -> dict[str, Any]:
        """All ten features. Raises `Underivable` that lists every gap."""
        ways: dict[str, Callable[[], Any]] = {
            "patient_age": self.age,
            "length_of_stay_days": self.nights,
            "num_prior_admissions_12m": self.prior_admissions,
            "num_chronic_conditions": self.chronic_conditions,
            "primary_diagnosis_group": self.diagnosis_group,
            "discharge_disposition": self.place,
            "insurance_type": self.payer,
            "emergency_admission": self.came_by_emergency,
            "num_medications_at_discharge": self.medications,
            "has_follow_up_scheduled": self.follow_up,
        }
        row: dict[str, Any] = {}
        missing = []
        for feature in READMISSION.features:
            try:
                row[feature.name] = ways[feature.name]()
                feature.code(row[feature.name])
            except Gap as gap:
                missing.append(Missing(feature.name, gap.needs, gap.why))
            except InvalidValue as invalid:
                why = f"the value that follows is not one that the model knows ({invalid.reason.label})"
                missing.append(Missing(feature.name, "the contract", why))
        if missing:
            raise Underivable(tuple(missing))
        return row

    def age(self) -> int:
        born, left = full_date(self.patient.get("birthDate")), self._last_day()
        if born is None:
            raise Gap("Patient.birthDate", "is absent, or is not a full date")
        return left.year - born.year - ((left.month, left.day) < (born.month, born.day))

    def nights(self) -> int:
        came = self.stay.admitted.day(self.zone)
        if came is None:
            raise Gap("Encounter.period.start", "is not a full date")
        return (self._last_day() - came).days

    def prior_admissions(self) -> int:
        others = self._encounters()
        if all(e.get("id") != self.encounter.get("id") for e in others):
            raise Gap("prefetch encounters", "does not list this stay, so it may lack others too")
        return prior_admissions(self.stay, others, self.zone, self.codes)

    def _encounters(self) -> Sequence[Resource]:
        page = self.prefetch.first_page("encounters", "Encounter")
        if page.more and (page.unsorted or not reaches_back(self.stay, page.resources, self.zone)):
            raise Gap(
                "prefetch encounters",
                "is the first page of several, and does not go back, newest first and all with their dates, "
                "beyond the 12 months before this stay",
            )
        return page.resources

    def chronic_conditions(self) -> int:
        """Distinct groups of the code lists, of conditions that are active and established."""
        found: set[str] = set()
        for condition in self.prefetch.found("conditions", "Condition"):
            established = self._established(condition)
            if established is False:
                continue
            named = self.codes.chronic_of(codings(condition.get("code")))
            active = self._active(condition)
            if named is None and active is not False:
                raise Gap("Condition.code", "an active condition has no ICD-10 or listed SNOMED CT code")
            if named and active is None:
                raise Gap("Condition.clinicalStatus", "a chronic condition does not say whether it is active")
            if named and active and established is None:
                raise Gap("Condition.verificationStatus", "of a chronic condition has no listed code")
            if named and active:
                found |= named
        return len(found)

    def _established(self, condition: Resource) -> bool | None:
        """Whether a condition is one that the patient has; None if it says so in no known code."""
        status = condition.get("verificationStatus")
        known = self._verification(condition)
        if status and not known:
            return None
        return not known & set(self.codes.conditions.not_established)

    def _verification(self, condition: Resource) -> set[str]:
        return set(self.codes.in_system("verification_status", codings(condition.get("verificationStatus"))))

    def _active(self, condition: Resource) -> bool | None:
        """Whether a condition is active; None if it does not say, or says both."""
        known = set(self.codes.in_system("clinical_status", codings(condition.get("clinicalStatus"))))
        goes_on = bool(known & set(self.codes.conditions.active))
        ended = bool(known & set(self.codes.conditions.inactive)) or any(
            k.startswith("abatement") for k in condition
        )
        return None if goes_on == ended else goes_on

    def diagnosis_group(self) -> str:
        groups = self.codes.group_of(self._principal_diagnosis())
        return only(
            groups, "Condition.code", "of the principal diagnosis is no listed ICD-10 or SNOMED CT code"
        )

    def _principal_diagnosis(self) -> list[Coding]:
        """The codings of the principal diagnosis: of discharge, else for billing, unmarked, at admission."""
        uses: dict[str, list[Mapping[str, Any]]] = {}
        for entry in elements(self.encounter.get("diagnosis")):
            use = self.codes.meanings(self.codes.diagnosis_use, codings(entry.get("use")))
            for name in use or ({"unmarked"} if not entry.get("use") else set()):
                uses.setdefault(name, []).append(entry)
        needs = "Encounter.diagnosis"
        listed = next((uses[n] for n in ("discharge", "billing", "unmarked", "admission") if n in uses), [])
        alone = len(listed) == 1 and listed[0].get("rank") is None
        first = [e for e in listed if e.get("rank") == 1] or (listed if alone else [])
        if len(first) != 1:
            raise Gap(needs, "no entry, or more than one, is the principal diagnosis (use and rank)")
        target = referenced(first[0].get("condition"), self.prefetch.server)
        for condition in self.prefetch.found("conditions", "Condition"):
            if target == ("Condition", condition.get("id")):
                if self._established(condition) is None or self._verification(condition) & _WITHDRAWN:
                    raise Gap("Condition.verificationStatus", "says that there is no principal diagnosis")
                return codings(condition.get("code"))
        raise Gap("prefetch conditions", "does not hold the principal diagnosis of the encounter")

    def place(self) -> str:
        """A category of the contract, or one of `ENDINGS`."""
        said = codings(element(self.encounter, "hospitalization", "dischargeDisposition"))
        needs = "Encounter.hospitalization.dischargeDisposition"
        return only(self.codes.meanings(self.codes.disposition, said), needs, "is absent, or no listed code")

    def of_another_service(self) -> bool:
        codes, encounter = self.codes, self.encounter
        said = [
            *codings(encounter.get("serviceType")),
            *all_codings(encounter.get("type")),
            *codings(element(encounter, "hospitalization", "admitSource")),
        ]
        kinds = codes.meanings(codes.encounter_class, codings(encounter.get("class")))
        lines = kinds | codes.meanings(codes.service_line, said)
        # A diagnosis that is not known is told with the feature, without which there is no score.
        with contextlib.suppress(Gap):
            lines |= codes.service_lines_of_diagnosis(self._principal_diagnosis())
        return bool(lines - {"acute"})

    def deceased(self) -> bool:
        """Whether the patient is known to have died, whenever that was."""
        return self.patient.get("deceasedBoolean") is True or bool(self.patient.get("deceasedDateTime"))

    def insured(self) -> bool:
        """False only if coverage is recorded and none of it holds on the day of discharge."""
        return fhir_coverage.is_covered(self._coverages(), self._last_day(), self.zone)

    def payer(self) -> str:
        return fhir_coverage.payer(self._coverages(), self._last_day(), self.zone, self.codes)

    def _coverages(self) -> Sequence[Resource]:
        return self.prefetch.found("coverages", "Coverage")

    def came_by_emergency(self) -> bool:
        codes, encounter = self.codes, self.encounter
        source = codings(element(encounter, "hospitalization", "admitSource"))
        said = codes.meanings(codes.emergency_source, source)
        classes = [codings(e.get("class")) for e in elements(encounter.get("classHistory"))]
        if not said and any("EMER" in codes.in_system("encounter_class", c) for c in classes):
            said = {"yes"}
        if not said:
            way = [*codings(encounter.get("priority")), *all_codings(encounter.get("type"))]
            said = codes.meanings(codes.emergency_priority, way)
        needs = "Encounter.hospitalization.admitSource"
        return (
            only(said, needs, "is absent or no listed code, and neither priority nor type decides") == "yes"
        )

    def medications(self) -> int:
        requests = self.prefetch.found("medications", "MedicationRequest")
        return fhir_medications.count(requests, self.codes, self.prefetch.server)

    def follow_up(self) -> bool:
        unclear = False
        for appointment in self.prefetch.found("appointments", "Appointment"):
            booked = appointment.get("status") in self.codes.appointments.booked
            if not booked or self.prefetch.declined(appointment):
                continue
            start = span(appointment.get("start"), self.zone)
            if start and start.earliest > self.stay.discharged.latest:
                return True
            unclear |= start is None or start.latest > self.stay.discharged.earliest
        if unclear:
            raise Gap("Appointment.start", "does not say whether a booked appointment is after the discharge")
        return False

    def _last_day(self) -> date:
        day = self.stay.discharged.day(self.zone)
        if day is None:
            raise Gap("Encounter.period.end", "is not a full date")
        return day
