"""The source document's plan for 100,000 patients, in its own figures, and what they multiply to.

Belongs here: quantities as the document states them, and arithmetic on them. Does not belong here: anything
that is measured. Nothing of the document's plan runs here: it has no data, and its cluster is not at hand.
"""

from __future__ import annotations

PATIENTS = 100_000
RECORDS_PER_PATIENT = 80_000
DAYS = 1089
"""80,000 records of one patient are 73.5 a day, what the generator's patients have: so many days."""

RECORDS = PATIENTS * RECORDS_PER_PATIENT
"""8 billion."""

VCPUS = 1 * 4 + 10 * 8
"""One m5.xlarge and ten m5.2xlarge."""
PIPELINE_HOURS = 2
FORECASTS_PER_HOUR = 10_000
MODELS_AT_ONCE, TRAINING_HOURS, TRAINING_VCPUS = 4, 3, 16
"""Four cluster models, up to 3 hours each, on an ml.m5.4xlarge each."""


def pipeline_vcpu_hours() -> float:
    """What records to features cost: 84 vCPU for 2 hours."""
    return float(VCPUS * PIPELINE_HOURS)


def forecast_hours() -> float:
    """How long a forecast of every patient takes."""
    return PATIENTS / FORECASTS_PER_HOUR


def training_vcpu_hours() -> float:
    """What training all models once costs."""
    return float(MODELS_AT_ONCE * TRAINING_HOURS * TRAINING_VCPUS)


def scaled_vcpu_hours(records_cpu_s: float, records: int, days_cpu_s: float, patient_days: int) -> float:
    """vCPU-hours of the document's plan from CPU seconds of parts of it.

    `records_cpu_s` made daily rows of `records`, `days_cpu_s` made features of `patient_days`; each is
    scaled to the plan in proportion.
    """
    from_records = records_cpu_s * RECORDS / records
    from_days = days_cpu_s * PATIENTS * DAYS / patient_days
    return (from_records + from_days) / 3600
