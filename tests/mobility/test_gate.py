"""The gate of mobility models, on held-out rows that are made for each of its rules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medscore_assets.mobility.conformal import Interval
from medscore_assets.mobility.evaluation import HeldOut
from medscore_assets.mobility.gate import CHALLENGER_FORECAST, CHAMPION_FORECAST, judge, load_gate
from medscore_assets.mobility.training_set import HELD_OUT_PATIENTS, LATER_DATES
from resources.errors import PermanentError

GATE = load_gate()


def held_out(
    errors: dict[str, float], *, patients: int = 60, half_width: float = 1700.0, seed: int = 0
) -> HeldOut:
    """Forecasts with normal errors of these deviations; 20 days of each patient, half in each set."""
    random = np.random.default_rng(seed)
    rows = patients * 20
    steps = random.uniform(3000, 9000, rows)
    patient = np.arange(rows) % patients
    made = {name: steps + random.normal(0, error, rows) for name, error in errors.items()}
    challenger = made[CHALLENGER_FORECAST]
    band = Interval(challenger - half_width, challenger + half_width, np.zeros(rows, dtype=bool))
    later = np.arange(rows) < rows // 2
    return HeldOut(
        steps,
        patient,
        {LATER_DATES: later, HELD_OUT_PATIENTS: ~later},
        made,
        {CHALLENGER_FORECAST: band},
    )


NAIVE = {"expanding_mean": 1500.0, "yesterday": 2000.0}


def test_a_challenger_that_beats_the_naive_forecasts_and_is_not_worse_passes() -> None:
    verdict = judge(held_out({CHALLENGER_FORECAST: 1000.0, CHAMPION_FORECAST: 1200.0, **NAIVE}), GATE)
    assert verdict.promote
    assert verdict.reasons == ()
    assert verdict.metrics["later_dates.difference_from_champion"] < 0


@pytest.mark.parametrize(
    ("changed", "options", "reason"),
    [
        ({CHAMPION_FORECAST: 900.0}, {}, "from that of the champion"),
        ({"expanding_mean": 1000.0}, {}, "it must be below 0"),
        ({}, {"half_width": 900.0}, "intervals hold"),
        ({}, {"half_width": 4000.0}, "intervals hold"),
        ({}, {"patients": 12}, "12 patients in later dates are too few"),
    ],
)
def test_a_challenger_is_refused_with_the_rule_that_it_breaks(
    changed: dict[str, float], options: dict[str, float], reason: str
) -> None:
    errors = {CHALLENGER_FORECAST: 1000.0, CHAMPION_FORECAST: 1200.0, **NAIVE, **changed}
    verdict = judge(held_out(errors, **options), GATE)  # type: ignore[arg-type]
    assert not verdict.promote
    assert any(reason in stated for stated in verdict.reasons)


def test_a_gate_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "gate.toml"
    file.write_text('version = "2"\nmargin = 0.02\nlowest_coverage = 0.97\nhighest_coverage = 0.9\n')
    with pytest.raises(PermanentError, match="is not valid"):
        load_gate(file)
