"""Which estimators are better on simulated departments, over ten days of one declared seed.

The margins that are demanded over five seeds and longer periods are measured by `benchmarks/`.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from medscore_assets.demo.emergency import simulate
from medscore_assets.wait_times.backtest import backtest
from medscore_assets.wait_times.evaluation import score
from medscore_assets.wait_times.models.calibrated import calibrated
from medscore_assets.wait_times.models.document import DocumentMovingAverage
from medscore_assets.wait_times.models.moving_average import MovingAverage60
from medscore_assets.wait_times.models.quantile_boosting import QuantileBoosting
from medscore_assets.wait_times.models.queue_fluid import QueueFluid
from medscore_assets.wait_times.visits import Visits

SEED = 11
LEARNED_DAYS, WARM_UP_DAYS, JUDGED_DAYS = 21, 7, 10


@pytest.mark.slow
def test_the_queue_tells_more_than_averages_and_calibration_keeps_its_word() -> None:
    start = date(2025, 1, 6)
    days = LEARNED_DAYS + WARM_UP_DAYS + JUDGED_DAYS
    made = simulate(6, start, days + 1, SEED)
    zones = dict(zip(*(made.facilities[name].to_pylist() for name in ("facility_id", "zone")), strict=True))
    first = datetime(2025, 1, 6, 9, tzinfo=UTC) + timedelta(days=LEARNED_DAYS + WARM_UP_DAYS)
    fluid, boosted = QueueFluid(), QuantileBoosting()
    result = backtest(
        Visits.of(made.visits),
        [MovingAverage60(), DocumentMovingAverage(), fluid, boosted, calibrated(fluid)],
        tuple(zones),
        zones,
        first,
        first + timedelta(days=JUDGED_DAYS),
        timedelta(minutes=30),
        days=LEARNED_DAYS,
        warm_up=timedelta(days=WARM_UP_DAYS),
    )
    assert not result.faults
    headline = result.attributed.filter(pc.equal(result.attributed["band"], "all_posted"))
    errors, pinball = (measured(headline, name) for name in ("mae", "pinball_80"))
    assert errors["moving_average_60"] < 0.85 * errors["document_moving_average"]
    assert errors["queue_fluid"] < 0.75 * errors["moving_average_60"]
    assert min(pinball, key=pinball.__getitem__) == "quantile_boosting"
    assert measured(headline, "coverage")["queue_fluid_calibrated"] == pytest.approx(0.8, abs=0.03)


def measured(attributed: pa.Table, name: str) -> dict[str, float]:
    """A measure of each model."""
    table = score(attributed, ("model",))
    return dict(zip(table["model"].to_pylist(), table[name].to_pylist(), strict=True))
