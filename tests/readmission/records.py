"""Small discharges and admissions, written out by hand, for tests.

Belongs here: builders of rows in the shape of the source tables, clean unless a test dirties them.
"""

from __future__ import annotations

import itertools
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa

from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.demo.discharges import EVENTS_SCHEMA, TIMESTAMP

ZONE = ZoneInfo("America/New_York")


def local(day: str, hour: int = 12, minute: int = 0) -> datetime:
    """A time of day in the platform's zone."""
    return datetime.fromisoformat(day).replace(hour=hour, minute=minute, tzinfo=ZONE)


def discharge(number: int, discharged_at: datetime, **changes: Any) -> dict[str, Any]:
    """One clean, eligible discharge; different numbers are different patients with different risks."""
    stay = number % 9 + 1
    row: dict[str, Any] = {
        "source": "test",
        "encounter_id": f"E-{number:06d}",
        "patient_id": f"P-{number:06d}",
        "hospital_id": "H-1",
        "admitted_at": discharged_at - timedelta(days=stay),
        "discharged_at": discharged_at,
        "discharge_status": "routine",
        "service_line": "acute",
        "deceased_at": None,
        "covered_until": None,
        "patient_age": 40 + number % 50,
        "length_of_stay_days": stay,
        "num_prior_admissions_12m": number % 6,
        "num_chronic_conditions": number % 11,
        "primary_diagnosis_group": READMISSION.fields["primary_diagnosis_group"].categories[number % 7],  # type: ignore[attr-defined]
        "discharge_disposition": READMISSION.fields["discharge_disposition"].categories[number % 5],  # type: ignore[attr-defined]
        "insurance_type": READMISSION.fields["insurance_type"].categories[number % 5],  # type: ignore[attr-defined]
        "emergency_admission": number % 2 == 0,
        "num_medications_at_discharge": number % 17,
        "has_follow_up_scheduled": number % 3 == 0,
        "ingested_at": discharged_at + timedelta(minutes=20),
    }
    assert set(changes) <= set(row), set(changes) - set(row)
    return row | changes


def clean_day(day: str, count: int, first_number: int = 1) -> list[dict[str, Any]]:
    """`count` clean discharges spread over the window that opens on `day` at 06:00."""
    start = local(day, 6).astimezone(UTC)
    end = local((date.fromisoformat(day) + timedelta(days=1)).isoformat(), 6).astimezone(UTC)
    step = (end - start) / (count + 1)
    numbers = itertools.count(first_number)
    return [discharge(n, start + step * (i + 1)) for i, n in zip(range(count), numbers, strict=False)]


def events_table(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows of `discharge` as the table that a feed writes; counts may come with a fraction."""
    schema = pa.schema([f.with_type(pa.float64()) if f.type == pa.int64() else f for f in EVENTS_SCHEMA])
    return pa.Table.from_pylist(rows, schema=schema)


def admission(
    encounter: str, patient: str, admitted_at: datetime, *, planned: bool = False
) -> dict[str, Any]:
    """One row of `inpatient_admissions`."""
    return {
        "encounter_id": encounter,
        "patient_id": patient,
        "admitted_at": admitted_at,
        "planned": planned,
        "source": "test",
        "ingested_at": admitted_at,
    }


def admissions_table(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows of `admission` as a table."""
    return pa.Table.from_pylist(
        rows,
        schema=pa.schema(
            [
                ("encounter_id", pa.string()),
                ("patient_id", pa.string()),
                ("admitted_at", TIMESTAMP),
                ("planned", pa.bool_()),
                ("source", pa.string()),
                ("ingested_at", TIMESTAMP),
            ]
        ),
    )
