"""The readmission contract: the one declaration of a discharge and its ten features.

Belongs here: fields, order, codes, bounds and plain words of the readmission features, and the
context that says who is eligible. Does not belong here: rules about who is called (`readmission/`).

Everything else is derived: encoders, pandera schema, request model, SQL columns, MLflow signature,
Dagster's column schema, and the hash that ties a model to this file. Changing a code, the order or a
bound changes the hash, and every registered model is refused until it is trained anew.
"""

from __future__ import annotations

from medscore_assets.contracts.contract import Contract
from medscore_assets.contracts.fields import Category, Day, Flag, Identifier, Moment, Whole

READMISSION = Contract(
    name="readmission",
    context=(
        Identifier("encounter_id", "The hospital stay, unique over all hospitals."),
        Identifier("patient_id", "The patient, the same at every stay."),
        Identifier("hospital_id", "The discharging hospital."),
        Moment("admitted_at", "When the stay began."),
        Moment("discharged_at", "When the stay ended."),
        Category(
            "discharge_status",
            "How the stay ended, for eligibility only; never a feature.",
            ("routine", "expired", "hospice", "transferred", "left_against_advice", "unknown"),
            {
                "routine": "discharged alive to home, home care, nursing care or rehabilitation",
                "expired": "died in hospital",
                "hospice": "discharged to hospice care",
                "transferred": "transferred to another acute-care hospital",
                "left_against_advice": "left against medical advice",
                "unknown": "status not recorded",
            },
        ),
        Category(
            "service_line",
            "The kind of care given, for eligibility only; never a feature.",
            ("acute", "obstetric", "newborn", "psychiatric", "rehabilitation", "cancer_treatment"),
        ),
        Moment("deceased_at", "When the patient died, if known.", required=False),
        Day("covered_until", "Last day of the member's coverage; absent while it is open-ended."),
    ),
    features=(
        Whole(
            "patient_age",
            "Age at discharge.",
            0,
            120,
            "years",
            "aged {value} years",
            phrase_one="aged 1 year",
        ),
        Whole(
            "length_of_stay_days",
            "Nights in hospital.",
            0,
            365,
            "days",
            "a stay of {value} days",
            phrase_one="a stay of 1 day",
        ),
        Whole(
            "num_prior_admissions_12m",
            "Hospital admissions in the 12 months before this one.",
            0,
            100,
            "admissions",
            "{value} hospital admissions in the past 12 months",
            monotone=1,
            phrase_one="1 hospital admission in the past 12 months",
        ),
        Whole(
            "num_chronic_conditions",
            "Active chronic conditions.",
            0,
            50,
            "conditions",
            "{value} chronic conditions",
            monotone=1,
            phrase_one="1 chronic condition",
        ),
        Category(
            "primary_diagnosis_group",
            "Group of the principal diagnosis.",
            ("cardiac", "respiratory", "digestive", "musculoskeletal", "neurological", "endocrine", "other"),
            {
                "cardiac": "a heart or circulatory diagnosis",
                "respiratory": "a respiratory diagnosis",
                "digestive": "a digestive diagnosis",
                "musculoskeletal": "a musculoskeletal diagnosis",
                "neurological": "a neurological diagnosis",
                "endocrine": "an endocrine or metabolic diagnosis",
                "other": "a diagnosis of another group",
            },
        ),
        Category(
            "discharge_disposition",
            "Where the patient is discharged to.",
            ("home", "home_with_care", "skilled_nursing", "rehab", "other"),
            {
                "home": "discharged home without home care",
                "home_with_care": "discharged home with home care",
                "skilled_nursing": "discharged to skilled nursing",
                "rehab": "discharged to rehabilitation",
                "other": "discharged to another place",
            },
        ),
        Category(
            "insurance_type",
            "The payer.",
            ("commercial", "medicare", "medicaid", "dual_eligible", "unknown"),
            {
                "commercial": "commercial insurance",
                "medicare": "Medicare",
                "medicaid": "Medicaid",
                "dual_eligible": "Medicare and Medicaid",
                "unknown": "insurance not recorded",
            },
        ),
        Flag(
            "emergency_admission",
            "Whether the admission came through the emergency department.",
            "admitted through the emergency department",
            "a planned or direct admission",
        ),
        Whole(
            "num_medications_at_discharge",
            "Medications prescribed at discharge.",
            0,
            100,
            "medications",
            "{value} medications at discharge",
            monotone=1,
            phrase_one="1 medication at discharge",
        ),
        Flag(
            "has_follow_up_scheduled",
            "Whether a follow-up appointment is booked, at whatever date.",
            "a follow-up appointment is booked",
            "no follow-up appointment is booked",
        ),
    ),
)
