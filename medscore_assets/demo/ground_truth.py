"""The declared truth behind the demo records: the probability that each readmission is drawn with.

Belongs here: one formula over the ten features, its coefficients, and nothing random.
Does not belong here: how patients come about (`patients.py`). No model may read this module; only the
report that compares a model with the best that is reachable.

The probability is logistic in the features, with two interactions and a step, and never falls when prior
admissions, chronic conditions or medications rise. The effects have the direction and the rough size of
those in LACE and HOSPITAL (Donze et al. 2013); the numbers are made for the demo and mean nothing clinical.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[Any]

INTERCEPT = -3.85
PER_LOG_PRIOR_ADMISSION = 0.70
PER_CHRONIC_CONDITION = 0.06
PER_MEDICATION = 0.01
MANY_MEDICATIONS = 0.45
PER_LOG_NIGHT = 0.30
PER_YEAR_ABOVE_60 = 0.012
EMERGENCY = 0.40
FOLLOW_UP = -0.10
CHRONIC_CONDITION_OF_HEART_OR_LUNG = 0.11
FOLLOW_UP_OF_HEART_OR_LUNG = -0.60
"""The interactions: after a cardiac or respiratory stay a chronic condition weighs more, and a follow-up
appointment helps more."""

DIAGNOSIS = {
    "cardiac": 0.20,
    "respiratory": 0.25,
    "digestive": 0.05,
    "musculoskeletal": -0.50,
    "neurological": 0.10,
    "endocrine": 0.15,
    "other": 0.0,
}
DISPOSITION = {"home": 0.0, "home_with_care": 0.20, "skilled_nursing": 0.35, "rehab": 0.15, "other": 0.40}
INSURANCE = {"commercial": 0.0, "medicare": 0.10, "medicaid": 0.30, "dual_eligible": 0.40, "unknown": 0.10}

MOST_CONDITIONS, MOST_MEDICATIONS = 15, 30
"""Beyond these the risk stays level."""
FROM_MANY_MEDICATIONS = 10
"""The step: from here on the patient counts as one with many medications."""


def readmission_probability(features: Mapping[str, Values]) -> npt.NDArray[np.float64]:
    """The true probability, shape (n,), of an unplanned readmission within 30 days.

    `features` maps the contract's ten names to arrays of valid values of shape (n,).
    """
    chronic = np.minimum(features["num_chronic_conditions"], MOST_CONDITIONS)
    medications = features["num_medications_at_discharge"]
    diagnosis = features["primary_diagnosis_group"]
    heart_or_lung = np.isin(diagnosis, ("cardiac", "respiratory"))
    logit = (
        INTERCEPT
        + PER_LOG_PRIOR_ADMISSION * np.log1p(features["num_prior_admissions_12m"])
        + PER_CHRONIC_CONDITION * chronic
        + CHRONIC_CONDITION_OF_HEART_OR_LUNG * chronic * heart_or_lung
        + PER_MEDICATION * np.minimum(medications, MOST_MEDICATIONS)
        + MANY_MEDICATIONS * (medications >= FROM_MANY_MEDICATIONS)
        + PER_LOG_NIGHT * np.log1p(features["length_of_stay_days"])
        + PER_YEAR_ABOVE_60 * np.maximum(features["patient_age"] - 60, 0)
        + EMERGENCY * features["emergency_admission"]
        + FOLLOW_UP * features["has_follow_up_scheduled"]
        + FOLLOW_UP_OF_HEART_OR_LUNG * features["has_follow_up_scheduled"] * heart_or_lung
        + _effect(diagnosis, DIAGNOSIS)
        + _effect(features["discharge_disposition"], DISPOSITION)
        + _effect(features["insurance_type"], INSURANCE)
    )
    return np.asarray(1 / (1 + np.exp(-logit)), dtype=np.float64)


def _effect(values: Values, effects: Mapping[str, float]) -> npt.NDArray[np.float64]:
    return np.select([values == category for category in effects], list(effects.values()), np.nan)
