"""Whether a newly trained model may be used.

Belongs here: the decision, from measurements alone, and the reasons for a refusal.
Does not belong here: measuring (`metrics.py`) and moving aliases (`resources/registry.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

from medscore_assets.monitoring.metrics import Evaluation

SLOPE = (0.8, 1.25)
"""Calibration slope on the later test part between which a model may be used."""


def refusals(model: Evaluation, baselines: Mapping[str, Evaluation]) -> list[str]:
    """Why the model may not become champion; empty if it may.

    It must be calibrated on the test part, and its error (Brier) must not exceed any baseline's.
    """
    reasons = []
    slope = model.calibration_slope
    if slope is None or not SLOPE[0] <= slope <= SLOPE[1]:
        found = "undefined" if slope is None else f"{slope:.3f}"
        reasons.append(f"calibration slope {found} is outside of {SLOPE[0]} to {SLOPE[1]}")
    for name, baseline in baselines.items():
        if model.brier is None or baseline.brier is None or model.brier > baseline.brier:
            reasons.append(f"its Brier score does not beat the baseline {name}")
    return reasons
