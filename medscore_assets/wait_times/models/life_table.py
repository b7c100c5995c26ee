"""Period life table: the wait of somebody who would meet the pace of the last hours from door to physician.

Belongs here: the product-limit estimate over a recent period and its fall-back to longer periods. Does not
belong here: anything fitted; the model has no parameters from earlier days.

Waits that ended recently describe those who arrived one wait ago, and recent arrivals that were already seen
are the short waits. The period table avoids both: each patient of the last `minutes` is at risk from the
elapsed time at which the period found them (left truncation) until they were seen (an event) or left, or the
tick came (censored). The estimate is the wait at which half, or four fifths, would have been seen. Where
fewer than `at_risk` patients are at an elapsed time its events are passed over (Lai and Ying, 1991): with one
patient at risk a single event would end the table at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from medscore_assets.wait_times.model import BatchModel, Fitted
from medscore_assets.wait_times.prediction import LONGEST_SECONDS, Predictions, Status
from medscore_assets.wait_times.snapshot import Snapshot

Numbers = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class LifeTable(BatchModel):
    """Median and 80th percentile of the table of the last two hours; of longer periods where it is short."""

    name = "life_table"
    version = "1.0.0"
    minutes: ClassVar[tuple[float, ...]] = (120.0, 240.0, 480.0, 1440.0)
    """Periods in the order tried; a median from any but the first is answered as a fall-back."""
    at_risk: ClassVar[int] = 3
    quantiles: ClassVar[tuple[float, float]] = (0.5, 0.8)

    def predict_all(self, snapshot: Snapshot, fitted: Fitted) -> Predictions:
        """Of each level, the first period in which it is reached gives it; p80 may come from a longer one."""
        found = Predictions.empty(len(snapshot), self.bands)
        ended = np.where(
            snapshot.waiting(), 0.0, np.fmin(np.fmin(snapshot.seen, snapshot.left), snapshot.departed)
        )
        event = snapshot.completed()
        for place, band in enumerate(self.bands):
            inside = snapshot.in_band(band)
            scene = snapshot.scene()[inside].astype(np.int64)
            arrived, end, seen = snapshot.arrived[inside], ended[inside], event[inside]
            values = np.full((2, len(snapshot)), np.nan)
            for period, minutes in enumerate(self.minutes):
                short = np.isnan(values).any(axis=0)
                if not short.any():
                    break
                kept = short[scene]
                shorter = period_quantiles(
                    scene[kept],
                    arrived[kept],
                    end[kept],
                    seen[kept],
                    len(snapshot),
                    minutes,
                    self.quantiles,
                    self.at_risk,
                )
                fresh = np.isnan(values[0]) & ~np.isnan(shorter[0])
                found.status[fresh, place] = Status.FALLBACK if period else Status.OK
                if period:
                    for row in np.flatnonzero(fresh):
                        found.messages[int(row), place] = f"too few patients: the last {minutes:.0f} minutes"
                values = np.where(np.isnan(values), shorter, values)
            found.p50[:, place] = np.minimum(values[0] * 60, LONGEST_SECONDS)
            found.p80[:, place] = np.minimum(np.maximum(values[1], values[0]) * 60, LONGEST_SECONDS)
        return found


def period_quantiles(
    group: Places,
    arrived: Numbers,
    ended: Numbers,
    event: Mask,
    groups: int,
    minutes: float,
    quantiles: Sequence[float],
    at_risk: int,
) -> Numbers:
    """Waits in minutes, shape (quantiles, groups), by which as much would have been seen; NaN if not reached.

    One row per patient: `group` 0..groups-1, `arrived` and `ended` in minutes relative to the tick (<= 0, 0
    while waiting), `event` where the wait ended with being seen. Rows that ended before the period are
    left out.
    """
    inside = ended > -minutes
    group, arrived, ended, event = group[inside], arrived[inside], ended[inside], event[inside]
    entry = np.maximum(-minutes - arrived, 0.0)
    exit_ = np.maximum(ended - arrived, entry + _INSTANT)
    order = np.lexsort((~event, exit_, group))
    group, exit_, event = group[order], exit_[order], event[order]
    starts = np.searchsorted(group, np.arange(groups + 1))
    span = max(float(exit_.max(initial=0.0)), minutes) + 1.0
    entered = np.searchsorted(np.sort(group * span + entry[order]), group * span + exit_)
    # Whoever left the table in the group before this row is no more at risk, so neither counts twice.
    risk = entered - np.arange(len(group))
    counted = event & (risk >= at_risk)
    steps = np.where(counted, np.log(np.maximum(1.0 - 1.0 / np.maximum(risk, 1), _NOBODY)), 0.0)
    survival = np.concatenate([[0.0], np.cumsum(steps)])
    logarithm = survival[1:] - survival[starts[group]]
    found = np.full((len(quantiles), groups), np.nan)
    for row, quantile in enumerate(quantiles):
        reached = np.flatnonzero(logarithm <= np.log1p(-quantile) + 1e-9)
        at, first = np.unique(group[reached], return_index=True)
        found[row, at] = exit_[reached[first]]
    return found


_INSTANT = 1e-3
"""Minutes that somebody who was seen at once was at risk."""
_NOBODY = 1e-12
"""The share that is left when the last one at risk is seen; its logarithm is finite."""
