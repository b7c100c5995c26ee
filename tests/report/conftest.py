"""Fixtures of the report: a measured model on simulated discharges, and the report made of it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

import medscore_assets.readmission
from medscore_assets.monitoring.assessment import Assessment, HeldOut
from medscore_assets.monitoring.evaluation import assess
from medscore_assets.monitoring.metrics import sigmoid
from medscore_assets.monitoring.promotion import Check, Verdict
from medscore_assets.report.evaluation_report import EvaluationReport
from medscore_assets.report.files import write_report
from medscore_assets.report.model_card import load_texts
from medscore_assets.report.tripod import load_items

FAMILY = Path(medscore_assets.readmission.__file__).parent

MANIFEST = {
    "format": "medscore-readmission/1",
    "policy_hash": "c" * 64,
    "feature_names": ["patient_age", "length_of_stay_days"],
    "best_iteration": 41,
    "recalibration": {"intercept": 0.01, "slope": 1.02},
    "parameters": {"max_depth": 3, "learning_rate": 0.1},
    "seed": 0,
    "data_fingerprint": "d" * 64,
    "discharges": {"train": 9600, "validation": 2400, "test": 4000},
    "metrics": {"auroc": 0.7},
    "trained_at": "2026-03-01T06:00:00Z",
    "packages": {"python": "3.11.9", "xgboost": "3.2.0"},
    "files": {"model.ubj": "e" * 64},
}

FLOW = {
    "events": 20_110,
    "invalid_context": 104,
    "excluded_expired": 7,
    "excluded_minor": 302,
    "excluded_deceased": 0,
    "label_not_matured": 3697,
    "train": 9600,
    "validation": 2400,
    "test": 4000,
}


NO_IMAGES = dict.fromkeys(
    ("calibration", "decision_curve", "risk_distribution", "tiers_and_workload", "subgroups"), b""
)


def simulated(n: int = 4000, seed: int = 3) -> HeldOut:
    """Discharges whose true risk the judged model knows, the others with noise; one insurance is rare."""
    random = np.random.default_rng(seed)
    truth = -2.1 + 0.8 * random.standard_normal(n)
    insurance = random.choice(["commercial", "medicare", "medicaid"], n, p=[0.4, 0.45, 0.15])
    insurance = insurance.astype("U20")
    insurance[:7] = "dual_eligible"
    probabilities = {
        "readmission": sigmoid(truth),
        "champion": sigmoid(truth + 0.3 * random.standard_normal(n)),
        "logistic_regression": sigmoid(truth + 0.7 * random.standard_normal(n)),
        "lace_like": sigmoid(truth + 1.2 * random.standard_normal(n)),
    }
    edges = {"low": 0.0, "moderate": 0.2, "high": 0.4, "very_high": 0.6}
    tiers = np.array(list(edges))[
        np.searchsorted(list(edges.values())[1:], probabilities["readmission"], "left")
    ]
    return HeldOut(
        labels=random.random(n) < sigmoid(truth),
        patients=random.integers(0, int(n * 0.8), n),
        probabilities=probabilities,
        groups={
            "age_band": random.choice(["18-44", "45-64", "65-74", "75-84", "85+"], n),
            "insurance_type": insurance,
            "emergency_admission": random.choice(["yes", "no"], n),
        },
        tiers=tiers,
        tier_edges=edges,
    )


@pytest.fixture(scope="session")
def assessment() -> Assessment:
    """The simulated discharges, measured with few resamples."""
    return assess(simulated(), resamples=40)


@pytest.fixture(scope="session")
def report(assessment: Assessment) -> EvaluationReport:
    """The report of a version that the gate admits."""
    return EvaluationReport(
        assessment=assessment,
        verdict=Verdict(
            True, (), (Check("calibration_slope", "all", "", 1.0, 1.25, True, "The slope is 1."),)
        ),
        model="readmission",
        version="7",
        manifest=MANIFEST,
        policy={"version": "2026.1", "hash": "c" * 64, "daily_calls": 60},
        parts=MANIFEST["discharges"],  # type: ignore[arg-type]
        flow=FLOW,
        limitations=("A booked follow-up is an intervention.", "Claims lag by weeks."),
        texts=load_texts(FAMILY / "model_card.toml"),
        tripod=load_items(FAMILY / "tripod_ai.toml"),
        run_id="0b7f7f0e-run",
        created_at=datetime(2026, 3, 1, 6, 0, tzinfo=UTC),
        champion="champion",
        champion_version="5",
    )


@pytest.fixture(scope="session")
def written(report: EvaluationReport, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """That report's files."""
    return write_report(tmp_path_factory.mktemp("report"), report)
