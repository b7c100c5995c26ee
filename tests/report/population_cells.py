"""Simulated quarters for the population report's tests: discharges drawn one by one, then counted."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime

import numpy as np
import pandas as pd
from scipy.special import gammaincinv

from medscore_assets.readmission.policy import DISCLAIMER
from medscore_assets.report.population import Header, PopulationReport, PreviousQuarter
from medscore_assets.report.population.dictionary import COLUMNS, DIMENSION_NAMES, MEASURES

REGIONS = (
    "East North Central", "East South Central", "Middle Atlantic", "Mountain", "New England", "Pacific",
    "South Atlantic", "West North Central", "West South Central", "Unknown",
)  # fmt: skip
DIAGNOSES = ("cardiac", "respiratory", "digestive", "musculoskeletal", "neurological", "endocrine", "other",
             "Unknown")  # fmt: skip
AGES = ("0-17", "18-34", "35-49", "50-64", "65-74", "75-84", "85+", "Unknown")
INSURANCES = ("commercial", "medicare", "medicaid", "dual_eligible")
CUBES = {
    "total": (),
    "region": ("region",),
    "primary_diagnosis_group": ("primary_diagnosis_group",),
    "age_group": ("age_group",),
    "sex": ("sex",),
    "insurance_type": ("insurance_type",),
    "hospital": ("hospital_id",),
    "region_diagnosis": ("region", "primary_diagnosis_group"),
    "age_group_sex": ("age_group", "sex"),
    "region_insurance": ("region", "insurance_type"),
}


def discharges(n: int, hospitals: int = 420, seed: int = 1, *, matured: float = 0.66) -> pd.DataFrame:
    """Index discharges with their risks and outcomes; each stands for itself and for `members` members."""
    random = np.random.default_rng(seed)
    volume = random.lognormal(0, 1.0, hospitals)
    at = random.choice(hospitals, n, p=volume / volume.sum())
    effect = np.exp(random.normal(0, 0.05, hospitals))
    effect[random.choice(hospitals, max(hospitals // 40, 1), replace=False)] *= 1.6
    home = random.integers(0, 9, hospitals)
    region = np.where(random.random(n) < 0.94, home[at], random.integers(0, 10, n))
    age = random.choice(8, n, p=[0.004, 0.08, 0.12, 0.22, 0.26, 0.2, 0.114, 0.002])
    diagnosis = random.choice(8, n, p=[0.24, 0.17, 0.15, 0.12, 0.08, 0.07, 0.168, 0.002])
    insurance = np.where(
        (age >= 4) & (random.random(n) < 0.9), 1, random.choice(4, n, p=[0.6, 0.1, 0.24, 0.06])
    )
    logit = -2.3 + 0.12 * age + np.array([0.35, 0.25, 0, -0.4, 0.1, 0.1, 0, 0])[diagnosis]
    logit += np.linspace(-0.15, 0.15, 10)[region] + 0.7 * random.standard_normal(n)
    risk = 1 / (1 + np.exp(-logit))
    chance = np.clip(risk * effect[at] * np.where(region == 4, 1.1, 1.0), 0, 1)
    known = random.random(n) < matured
    return pd.DataFrame(
        {
            "region": np.array(REGIONS)[region],
            "hospital_id": np.array([f"H{number:04d}" for number in range(hospitals)])[at],
            "primary_diagnosis_group": np.array(DIAGNOSES)[diagnosis],
            "age_group": np.array(AGES)[age],
            "sex": random.choice(["female", "male", "Unknown"], n, p=[0.53, 0.469, 0.001]),
            "insurance_type": np.array(INSURANCES)[insurance],
            "risk": np.round(risk * 2**30) / 2**30,
            "known": known,
            "readmitted": known & (random.random(n) < chance),
            "members": 1 + random.poisson(38, n),
            "invalid": (random.random(n) < 0.02).astype(int),
        }
    )


def published(found: pd.DataFrame, quarter: str = "2026-Q3", *, withhold: bool = True) -> pd.DataFrame:
    """The cells of every cube; counts of 1 to 10 and what hangs on them are withheld (without complement)."""
    cells = [
        _cell(quarter, cube, dict(zip(names, key if isinstance(key, tuple) else (key,), strict=True)), group)
        for cube, names in CUBES.items()
        for key, group in (found.groupby(list(names)) if names else [((), found)])
    ]
    frame = pd.DataFrame([_withheld(cell) if withhold else cell for cell in cells])
    frame = frame[[column.name for column in COLUMNS]]
    for column in MEASURES:
        frame[column.name] = frame[column.name].astype("Int64" if column.kind == "count" else "Float64")
    return frame


def _cell(quarter: str, cube: str, key: dict[str, str], group: pd.DataFrame) -> dict[str, object]:
    n, risk = len(group), group["risk"]
    known = group[group["known"]]
    observed, due = int(known["readmitted"].sum()), float(known["risk"].sum())
    half = 1.96 * float(risk.std(ddof=1)) / np.sqrt(n) if n > 1 else np.nan
    high, very_high = int((risk > 0.4).sum()), int((risk > 0.6).sum())
    members = int(group["members"].sum() + group["invalid"].sum())
    return {
        "quarter": quarter,
        "cube": cube,
        **dict.fromkeys(DIMENSION_NAMES, "All"),
        **key,
        "members": members,
        "members_scored": int(group["members"].sum()),
        "members_invalid": int(group["invalid"].sum()),
        "index_discharges": n,
        "index_discharges_scored": n,
        "mean_risk": round(float(risk.mean()), 3),
        "mean_risk_low": round(max(float(risk.mean()) - half, 0), 3),
        "mean_risk_high": round(min(float(risk.mean()) + half, 1), 3),
        "high_risk": high,
        "very_high_risk": very_high,
        "high_risk_share": round(high / n, 3),
        "very_high_risk_share": round(very_high / n, 3),
        "expected_readmissions": round(float(risk.sum()), 1),
        "matured": len(known),
        "observed_readmissions": observed if len(known) else None,
        "expected_matured": round(due, 1) if len(known) else None,
        "observed_to_expected": round(observed / due, 2) if due else None,
        "oe_low": round((gammaincinv(observed, 0.025) if observed else 0) / due, 2) if due else None,
        "oe_high": round(gammaincinv(observed + 1, 0.975) / due, 2) if due else None,
        "member_mean_risk": round(float(risk.mean()) * 0.7, 3),
        "suppressed": False,
        "suppressed_measures": [],
    }


_HANGS_ON = {
    "index_discharges_scored": [c.name for c in MEASURES if c.name != "members"],
    "high_risk": ["high_risk", "high_risk_share"],
    "very_high_risk": ["very_high_risk", "very_high_risk_share"],
    "observed_readmissions": ["observed_readmissions", "observed_to_expected", "oe_low", "oe_high"],
    "members_invalid": ["members_invalid", "members_scored"],
}


def _withheld(cell: dict[str, object]) -> dict[str, object]:
    small = [name for name in _HANGS_ON if 0 < (cell[name] or 0) <= 10]  # type: ignore[operator]
    names = sorted({each for name in small for each in _HANGS_ON[name]})
    return {**cell, **dict.fromkeys(names), "suppressed": bool(names), "suppressed_measures": names}


def exclusions(found: pd.DataFrame) -> pd.DataFrame:
    """The flow's rows for those discharges and the members they stand for."""
    invalid = int(found["invalid"].sum())
    rest = int(found["members"].sum()) - len(found)
    parts: Sequence[tuple[str, str, int]] = (
        ("out_of_bounds", "patient_age", invalid - invalid // 3),
        ("unknown_category", "primary_diagnosis_group", invalid // 3),
        ("no_index_discharge", "", rest - 900),
        ("index_discharge_not_recorded", "", 900),
    )
    return pd.DataFrame(parts, columns=["reason", "field", "members"])


def header(rows: int, **changed: object) -> Header:
    """A header of the third quarter of 2026."""
    values: dict[str, object] = {
        "quarter": "2026-Q3",
        "first_day": date(2026, 7, 1),
        "last_day": date(2026, 9, 30),
        "version": 1,
        "as_of": datetime(2026, 10, 1, 6, 0, tzinfo=UTC),
        "rows": rows,
        "input_fingerprint": "9f86d081884c7d65",
        "model_name": "readmission",
        "model_version": "7",
        "contract_hash": "a" * 64,
        "policy_version": "2026.1",
        "policy_hash": "b" * 64,
        "disclaimer": DISCLAIMER,
        "zone": "America/New_York",
        "high_above": 0.4,
        "very_high_above": 0.6,
    }
    return Header(**{**values, **changed})  # type: ignore[arg-type]


def population_report(
    found: pd.DataFrame, before: pd.DataFrame | None = None, **changed: object
) -> PopulationReport:
    """The report of discharges, compared with an earlier quarter's if given."""
    cells = published(found)
    rows = int(found["members"].sum() + found["invalid"].sum())
    previous = (
        None if before is None else PreviousQuarter("2026-Q2", 1, "6", "2026.1", published(before, "2026-Q2"))
    )
    values: dict[str, object] = {
        "header": header(rows),
        "cells": cells,
        "exclusions": exclusions(found),
        "previous": previous,
        "names": {"dual_eligible": "Medicare and Medicaid", "medicare": "Medicare", "medicaid": "Medicaid",
                  "patient_age": "age", "primary_diagnosis_group": "diagnosis group"},
    }  # fmt: skip
    return PopulationReport(**{**values, **changed})  # type: ignore[arg-type]
