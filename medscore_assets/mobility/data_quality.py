"""The quality of the newest day of steps: missing patients, impossible counts, files of another shape.

Belongs here: these measures and what they are compared with. Does not belong here: which records count
(`daily.py`), which change is too much (`monitoring/thresholds.py`), keeping what was measured.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from medscore_assets.mobility.daily import DAILY_STEPS, DayFlag
from medscore_assets.mobility.raw import RAW_STEPS
from medscore_assets.monitoring.measurement import Measurement
from medscore_assets.monitoring.thresholds import ALARM, GOOD, NOT_JUDGED, WARNING, State, Thresholds
from resources.lake import Lake

STEPS = "mobility-steps"
"""What the quality of the records is kept under, with version 0."""

QUALITY_DAYS = 28
"""What a day is compared with: the days before it."""

MISSING_PATIENTS, FAULTY_DAYS, OTHER_SCHEMA = "missing_patients", "faulty_days", "other_schema"
QUALITY = (MISSING_PATIENTS, FAULTY_DAYS, OTHER_SCHEMA)


def quality_of_newest_day(
    lake: Lake, days: Sequence[dict[str, Any]], kept: Iterable[Measurement], thresholds: Thresholds
) -> list[Measurement]:
    """What is measured of the newest of `days`, rows of `mobility_days` in their order; none without days.

    `kept` is what was measured before. Nothing is judged by what there is nothing to compare with.
    """
    if not days:
        return []
    day: date = days[-1]["day"]
    since = day - timedelta(days=QUALITY_DAYS)
    usual = int(statistics.median([r["patients"] for r in days[:-1] if r["day"] >= since] or [0]))
    absent = max(0.0, 1 - days[-1]["patients"] / usual) if usual else None
    state = thresholds.judge("missing_patients", absent, n=usual)
    earlier = [
        m.value
        for m in kept
        if m.measure == FAULTY_DAYS and since <= m.period_end < day and m.value is not None
    ]
    return [
        _of_steps(MISSING_PATIENTS, "daily_steps", day, usual, absent, state),
        _faults(lake, thresholds, day, earlier),
        _schema(lake, day),
    ]


def _faults(lake: Lake, thresholds: Thresholds, day: date, earlier: Sequence[float]) -> Measurement:
    """The share of the day's patients with an impossible count or a time to come, against days before."""
    n, value = 0, None
    if lake.files(DAILY_STEPS, day):
        flags = lake.read_day(DAILY_STEPS, day, ["flags"])["flags"]
        n = len(flags)
        bits = int(DayFlag.IMPOSSIBLE_COUNT_REMOVED | DayFlag.FUTURE_REMOVED)
        faulty = pc.not_equal(pc.bit_wise_and(flags, pa.scalar(bits, flags.type)), 0)
        value = pc.sum(faulty).as_py() / n if n else None
    rise = value - statistics.median(earlier) if value is not None and earlier else None
    state = thresholds.judge("faulty_days_rise", rise, n=n)
    return _of_steps(FAULTY_DAYS, "daily_steps", day, n, value, state)


def _schema(lake: Lake, day: date) -> Measurement:
    """How many of the day's raw files have other columns than declared: one more warns, a lost one alarms."""
    files = lake.files(RAW_STEPS, day)
    states: list[State] = [_schema_state(Path(path)) for path in lake.local(files)]
    other = sum(state != GOOD for state in states)
    worst: State = ALARM if ALARM in states else WARNING if other else GOOD
    return _of_steps(
        OTHER_SCHEMA, "raw_step_counts", day, len(files), float(other), worst if files else NOT_JUDGED
    )


def _schema_state(path: Path) -> State:
    """A damaged file counts as one without its columns: whose day failed for it."""
    try:
        found = pq.read_schema(path)
    except (pa.ArrowInvalid, OSError):
        return ALARM
    declared = RAW_STEPS.schema
    plain = {field.name: _value_type(field.type) for field in found}
    if any(plain.get(field.name) != _value_type(field.type) for field in declared):
        return ALARM
    return WARNING if set(plain) - set(declared.names) else GOOD


def _value_type(kind: pa.DataType) -> str:
    """What a column's values are, however they are stored: dictionaries, large texts, any unit of time."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_large_string(kind):
        return "string"
    if pa.types.is_timestamp(kind):
        return "timestamp" if kind.tz else "timestamp without a zone"
    return "whole number" if pa.types.is_integer(kind) else str(kind)


def _of_steps(
    measure: str, subject: str, day: date, n: int, value: float | None, state: State
) -> Measurement:
    return Measurement(STEPS, 0, measure, subject, day, day, n, None, value, None, None, state)
