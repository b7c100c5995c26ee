"""Which models may be used."""

from __future__ import annotations

from dataclasses import replace

import pytest

from medscore_assets.monitoring.metrics import Evaluation
from medscore_assets.monitoring.promotion import refusals

GOOD = Evaluation(1000, 140, 0.75, 0.4, 0.10, 0.15, 0.0, 1.0, 0.14, 0.14)
WORSE = replace(GOOD, brier=0.11)
BETTER = replace(GOOD, brier=0.09)


def test_a_calibrated_model_that_beats_every_baseline_may_be_used() -> None:
    assert refusals(GOOD, {"logistic_regression": WORSE, "lace_like": WORSE}) == []


@pytest.mark.parametrize("slope", [0.79, 1.26, None])
def test_a_miscalibrated_model_is_refused(slope: float | None) -> None:
    (reason,) = refusals(replace(GOOD, calibration_slope=slope), {"lace_like": WORSE})
    assert "calibration slope" in reason


def test_a_model_that_does_not_beat_a_baseline_is_refused_by_name() -> None:
    (reason,) = refusals(GOOD, {"logistic_regression": BETTER, "lace_like": WORSE})
    assert "logistic_regression" in reason
