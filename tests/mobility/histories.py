"""Small histories of patients for the tests of features, and the features computed in plain Python.

Belongs here: tables from a few rows written out, a seeded history with every oddity, and an independent
computation of every feature from lists and dates. Does not belong here: lakes of files (`conftest.py`).
"""

from __future__ import annotations

import calendar
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

import ibis
import numpy as np
import pyarrow as pa

from medscore_assets.mobility.engines import Engine
from medscore_assets.mobility.features import Inputs
from medscore_assets.mobility.raw import DIAGNOSES, PATIENTS, SIDE_EFFECTS, THERAPIES
from medscore_assets.mobility.rollups import monthly_rollup

DAILY_SCHEMA = pa.schema(
    [("patient_id", pa.string()), ("day", pa.date32()), ("steps", pa.int64()), ("wear_minutes", pa.int32())]
)
"""The columns of `daily_steps` that features read."""

Days = Mapping[date, tuple[int, int]]
"""By day: steps and minutes of wear."""
Span = tuple[Any, date | None, date | None]
"""What is valid (a side effect with its severity), from when, and the first day that it is not."""


@dataclass
class History:
    """All that is known of one patient."""

    days: dict[date, tuple[int, int]] = field(default_factory=dict)
    birth_date: date | None = None
    sex: str | None = None
    diagnoses: list[Span] = field(default_factory=list)
    therapies: list[Span] = field(default_factory=list)
    side_effects: list[Span] = field(default_factory=list)


def walked(first: date, steps: Iterable[int | None], wear: int = 700) -> dict[date, tuple[int, int]]:
    """Consecutive days from `first`, those with None left out."""
    days = enumerate(steps)
    return {first + timedelta(days=n): (count, wear) for n, count in days if count is not None}


def tables(histories: Mapping[str, History]) -> dict[str, pa.Table]:
    """Arrow tables of the histories: daily, patients, diagnoses, therapies, side_effects."""

    def spans(name: str) -> list[tuple[str, Span]]:
        return [(who, span) for who, history in histories.items() for span in getattr(history, name)]

    def clinical(name: str, schema: pa.Schema, *, severity: bool = False) -> pa.Table:
        rows = [
            (who, *what, begin, end) if severity else (who, what, begin, end)
            for who, (what, begin, end) in spans(name)
        ]
        return _table(rows, schema)

    daily = [
        (who, day, *values) for who, history in histories.items() for day, values in history.days.items()
    ]
    people = [(who, h.birth_date, h.sex, "UTC") for who, h in histories.items() if h.birth_date or h.sex]
    return {
        "daily": _table(daily, DAILY_SCHEMA),
        "patients": _table(people, PATIENTS.schema),
        "diagnoses": clinical("diagnoses", DIAGNOSES.schema),
        "therapies": clinical("therapies", THERAPIES.schema),
        "side_effects": clinical("side_effects", SIDE_EFFECTS.schema, severity=True),
    }


def _table(rows: Sequence[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)


def inputs(histories: Mapping[str, History]) -> Inputs:
    """The histories as tables of any engine, rollups among them."""
    made = {name: ibis.memtable(table) for name, table in tables(histories).items()}
    return Inputs(rollups=monthly_rollup(made["daily"]), **made)


def rows(engine: Engine, frame: ibis.expr.types.Table) -> dict[tuple[str, date], dict[str, Any]]:
    """The frame's rows by patient and day, conforming to the contract."""
    from medscore_assets.contracts.mobility import MOBILITY

    table = MOBILITY.conform(engine.backend.to_pyarrow(frame), where="the test")
    MOBILITY.require(table, where="the test")
    return {(row.pop("patient_id"), row.pop("day")): row for row in table.to_pylist()}


def odd_histories(first: date, days: int, seed: int = 3) -> dict[str, History]:
    """Patients of every kind: steady, with gaps, with one day, all zeros, unknown, with much going on."""
    random = np.random.default_rng(seed)
    last = first + timedelta(days=days - 1)

    def some(share: float) -> dict[date, tuple[int, int]]:
        counts = random.lognormal(8.3, 0.6, days).astype(int).tolist()
        kept = [count if random.random() < share else None for count in counts]
        return {
            day: (steps, int(random.integers(60, 1440))) for day, (steps, _) in walked(first, kept).items()
        }

    middle = first + timedelta(days=days * 2 // 3)
    return {
        "steady": History(some(1.0), date(1961, 2, 28), "female", [("MS", date(2020, 5, 1), None)]),
        "with gaps": History(
            some(0.6),
            date(2000, 2, 29),
            "male",
            [("RA", date(2019, 1, 1), None), ("PD", middle, None), ("gout", None, None)],
            [("walking", date(2025, 1, 1), middle), ("exercise", middle, None), ("diet", middle, None)],
            [(("fatigue", 1), first, None), (("fatigue", 3), middle, middle + timedelta(days=9))],
        ),
        "rare": History(some(0.08), None, "male", [("gout", date(2018, 3, 3), middle)]),
        "one day": History(walked(middle, [4321]), date(1990, 12, 31), "nonsense"),
        "zeros": History(walked(first, [0] * days), date(2030, 1, 1), "female"),
        "unknown": History(some(0.9)),
        "late": History(walked(last, [9000])),
        "twice": History(
            some(0.5),
            date(1950, 1, 1),
            "female",
            [("PD", date(2021, 1, 1), None), ("PD", date(2021, 1, 1), None), ("MS", date(2010, 1, 1), first)],
            [("b", middle, None), ("a", middle, None), ("a", middle, None)],
            [(("pain", 2), first, middle), (("nausea", 7), first, None)],
        ),
    }


def plain_features(history: History, day: date) -> dict[str, Any] | None:
    """The features of one patient and day by the definitions, from dates and lists; None if not eligible."""
    before = {d: values for d, values in history.days.items() if d < day and 0 <= values[0] <= 450_000}
    if not before or (day - max(before)).days > 365:
        return None
    steps = {d: float(s) for d, (s, _) in before.items()}
    row = _history_features(steps, before, day)
    row |= _baseline_features(steps, day, row["steps_mean_7"])
    return row | _calendar_features(day) | _clinical_features(history, day)


def _back(day: date, k: int) -> date:
    return day - timedelta(days=k)


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _std(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def _slope(points: Sequence[tuple[float, float]]) -> float | None:
    return statistics.linear_regression(*zip(*points, strict=True)).slope if len(points) > 2 else None


def _history_features(steps: Mapping[date, float], before: Days, day: date) -> dict[str, Any]:
    row: dict[str, Any] = {f"steps_lag_{k}": steps.get(_back(day, k)) for k in (1, 2, 3, 4, 5, 6, 7, 14, 28)}
    for window in (3, 7, 14, 28):
        points = [(-k, steps[_back(day, k)]) for k in range(1, window + 1) if _back(day, k) in steps]
        values = [value for _, value in points]
        row |= {
            f"steps_mean_{window}": _mean(values),
            f"steps_std_{window}": _std(values),
            f"steps_min_{window}": min(values, default=None),
            f"steps_max_{window}": max(values, default=None),
        }
        if window in (14, 28):
            row[f"steps_trend_{window}"] = _slope(points)
        if window in (7, 28):
            worn = [k for k in range(1, window + 1) if before.get(_back(day, k), (0, 0))[1] >= 600]
            row[f"wear_share_{window}"] = len(worn) / window
    weekday = [steps[_back(day, k)] for k in (7, 14, 21, 28) if _back(day, k) in steps]
    row["steps_same_weekday_mean"] = _mean(weekday)
    yesterday = before.get(_back(day, 1))
    row["wear_minutes_lag_1"] = yesterday and yesterday[1]
    row["days_since_data"] = (day - max(before)).days
    return row


def _baseline_features(steps: Mapping[date, float], day: date, mean_7: float | None) -> dict[str, Any]:
    mean = statistics.fmean(steps.values())

    def from_mean(value: float | None) -> float | None:
        return None if value is None else value - mean

    return {
        "baseline_mean": mean,
        "baseline_std": _std(list(steps.values())),
        "baseline_days": len(steps),
        "baseline_deviation_lag_1": from_mean(steps.get(_back(day, 1))),
        "baseline_deviation_lag_7": from_mean(steps.get(_back(day, 7))),
        "baseline_deviation_mean_7": from_mean(mean_7),
        "baseline_ratio_mean_7": mean_7 / mean if mean_7 is not None and mean else None,
    }


def _calendar_features(day: date) -> dict[str, Any]:
    length = 366 if calendar.isleap(day.year) else 365
    angle = 2 * math.pi * (day - date(day.year, 1, 1)).days / length
    return {
        "weekday": day.weekday(),
        "month": day.month,
        "is_weekend": int(day.weekday() in (5, 6)),
        "year_sin": math.sin(angle),
        "year_cos": math.cos(angle),
    }


def _clinical_features(history: History, day: date) -> dict[str, Any]:
    def active(spans: Sequence[Span]) -> list[tuple[Any, date]]:
        return [
            (what, begin)
            for what, begin, end in spans
            if begin is not None and begin < day and (end is None or (end >= day and end > begin))
        ]

    diagnoses, therapies = active(history.diagnoses), active(history.therapies)
    effects = [what for what, _ in active(history.side_effects)]
    cohorts = [(what if what in ("MS", "PD", "RA") else "other", begin) for what, begin in diagnoses]
    order = ("MS", "PD", "RA", "other")
    first = min(cohorts, key=lambda c: (order.index(c[0]), c[1]), default=None)
    last = min(therapies, key=lambda t: (-t[1].toordinal(), t[0]), default=None)
    birth = history.birth_date
    age = birth and day.year - birth.year - ((day.month, day.day) < (birth.month, birth.day))
    return {
        "age_years": age if age is not None and 0 <= age <= 120 else None,
        "sex": history.sex if history.sex in ("female", "male", "other") else "unknown",
        "disease": first[0] if first else "unknown",
        "days_since_diagnosis": (day - first[1]).days if first else None,
        "active_diseases": len({what for what, _ in diagnoses}),
        "therapy": last[0] if last else "none",
        "days_on_therapy": (day - last[1]).days if last else None,
        "active_therapies": len({what for what, _ in therapies}),
        "active_side_effects": len({what for what, _ in effects}),
        "worst_side_effect": max((severity for _, severity in effects if 1 <= severity <= 3), default=0),
    }
