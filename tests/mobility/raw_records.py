"""Single raw records, made by hand."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa

from medscore_assets.mobility.daily import DAILY_STEPS, write_daily
from medscore_assets.mobility.raw import PATIENTS, RAW_STEPS
from resources.lake import Lake, as_schema

DAY = date(2026, 3, 10)
NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
AS_OF = datetime(2026, 12, 1, tzinfo=UTC)


def record(
    at: datetime, count: int | None, *, device: str = "phone", zone: str | None = "UTC", patient: str = "a"
) -> dict[str, Any]:
    return {"patient_id": patient, "timestamp": at, "zone": zone, "count": count, "device": device}


def records(*rows: dict[str, Any]) -> pa.Table:
    plain = pa.schema([(f.name, getattr(f.type, "value_type", f.type)) for f in RAW_STEPS.schema])
    return as_schema(pa.Table.from_pylist(list(rows), schema=plain), RAW_STEPS.schema, where="a test")


def deliver(lake: Lake, *rows: dict[str, Any], home: str = "UTC", arrival: datetime = AS_OF) -> None:
    """Put records into the lake's raw days, and the patients whom they name, who live in one zone."""
    who = sorted({row["patient_id"] for row in rows})
    born = [date(1960, 1, 1)] * len(who)
    columns = {"patient_id": who, "birth_date": born, "sex": ["f"] * len(who), "zone": [home] * len(who)}
    lake.write(PATIENTS, pa.table(columns))
    for day in {row["timestamp"].astimezone(UTC).date() for row in rows}:
        chosen = [row for row in rows if row["timestamp"].astimezone(UTC).date() == day]
        lake.add_file(RAW_STEPS, day, records(*chosen), arrival=arrival)


def daily(lake: Lake, day: date = DAY, as_of: datetime = AS_OF) -> dict[str, dict[str, Any]]:
    """The day's rows, made anew, by patient."""
    write_daily(lake, day, as_of=as_of)
    return {row["patient_id"]: row for row in lake.read_day(DAILY_STEPS, day).to_pylist()}
