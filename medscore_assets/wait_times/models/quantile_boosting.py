"""Gradient-boosted quantiles of the wait, pooled over facilities and bands.

Belongs here: the fit, how the trees are kept, and the model. Does not belong here: the features
(`queue_features.py`).

The trees start from the fluid model's drain time and learn by which factor to change it (XGBoost, quantile
objective on the logarithm of the wait, both levels in one model): quantiles of a logarithm are logarithms of
quantiles. They are refitted daily and kept as UBJSON in base64, which any XGBoost reads and which runs no
code on loading. Levels that cross are sorted.
"""

from __future__ import annotations

import base64
import functools
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from medscore_assets.wait_times.model import EVERYWHERE, BatchModel, Fitted, History
from medscore_assets.wait_times.models.once import once
from medscore_assets.wait_times.models.pace import FITTED_DAYS, fitted_pace
from medscore_assets.wait_times.models.queue_features import DRAIN, FEATURES, QueueFeatures, training_rows
from medscore_assets.wait_times.models.queue_fluid import paces_of
from medscore_assets.wait_times.models.queue_state import QueueEvents
from medscore_assets.wait_times.prediction import LONGEST_SECONDS, Predictions, Status
from medscore_assets.wait_times.snapshot import Snapshot

Numbers = npt.NDArray[np.float64]

FEWEST_ROWS = 200
"""Fewer rows are not fitted: no data."""
START = (1.0, 1.5)
"""Of the drain time, from which the trees for the two levels start."""
OFFSET_MINUTES = 10.0
"""Added before the logarithm, so that a few minutes are not all that counts."""


class QuantileBoosting(BatchModel):
    """Median and 80th percentile by boosted trees on the state of the queue."""

    name = "quantile_boosting"
    version = "1.0.0"
    levels: ClassVar[tuple[float, float]] = (0.5, 0.8)
    days: ClassVar[int] = 42
    settle_hours: ClassVar[float] = 12.0
    most_rows: ClassVar[int] = 16_000
    rounds: ClassVar[int] = 20
    depth: ClassVar[int] = 5
    learning_rate: ClassVar[float] = 0.25
    least_weight: ClassVar[float] = 40.0
    bins: ClassVar[int] = 64

    def fit(self, history: History) -> dict[str, dict[str, Any]] | None:
        """`trees` for all facilities, and the pace of each; None where too few patients were seen."""
        return once(history, (self.name, repr(self.parameters())), lambda: self._fit(history))

    def _fit(self, history: History) -> dict[str, dict[str, Any]] | None:
        import xgboost as xgb

        paces = once(history, ("pace", FITTED_DAYS), lambda: fitted_pace(history, FITTED_DAYS))
        rows = training_rows(history, paces, self.days, self.settle_hours, self.most_rows)
        if len(rows.waits) < FEWEST_ROWS:
            return None
        settings = {
            "objective": "reg:quantileerror",
            "quantile_alpha": list(self.levels),
            "tree_method": "hist",
            "max_depth": self.depth,
            "eta": self.learning_rate,
            "min_child_weight": self.least_weight,
            "max_bin": self.bins,
            "nthread": 1,
            "seed": 0,
        }
        data = xgb.QuantileDMatrix(
            rows.features,
            label=np.log(rows.waits + OFFSET_MINUTES),
            base_margin=_start(rows.features),
            feature_names=list(FEATURES),
            max_bin=self.bins,
            nthread=1,
        )
        booster = xgb.train(settings, data, num_boost_round=self.rounds)
        trees = base64.b64encode(bytes(booster.save_raw("ubj"))).decode("ascii")
        return {**paces, EVERYWHERE: {"trees": trees}}

    def predict_all(self, snapshot: Snapshot, fitted: Fitted) -> Predictions:
        """No data before the first fit; a fall-back where the pace is that of a facility's last day."""
        found = Predictions.empty(len(snapshot), self.bands)
        trees = fitted.get(EVERYWHERE, {}).get("trees")
        if trees is None or not len(snapshot):
            return found
        events = QueueEvents.of_scenes(snapshot)
        paces, unfitted, known = paces_of(snapshot, events, fitted)
        line, now = np.arange(len(snapshot)), np.zeros(len(snapshot))
        features = QueueFeatures(snapshot, events, paces).at(line, now)
        minutes = self._quantiles(np.concatenate([features[band] for band in self.bands]), trees)
        seconds = np.clip(np.sort(minutes, axis=1) * 60, 0, LONGEST_SECONDS)
        by_band = seconds.reshape(len(self.bands), len(snapshot), 2)
        found.p50[known], found.p80[known] = by_band[:, known, 0].T, by_band[:, known, 1].T
        found.status[known] = Status.OK
        found.status[known & unfitted] = Status.FALLBACK
        for scene in np.flatnonzero(known & unfitted):
            for place in range(len(self.bands)):
                found.messages[int(scene), place] = "not fitted yet: the pace of the last day"
        return found

    def _quantiles(self, features: Numbers, trees: str) -> Numbers:
        """Minutes, shape (n, levels)."""
        import xgboost as xgb

        data = xgb.DMatrix(features, base_margin=_start(features), feature_names=list(FEATURES), nthread=1)
        quantiles: Numbers = np.exp(_booster(trees).predict(data).astype(np.float64)) - OFFSET_MINUTES
        return quantiles


def _start(features: Numbers) -> Numbers:
    """What the trees add to, shape (n, levels)."""
    start: Numbers = np.log(features[:, DRAIN, None] * np.array(START) + OFFSET_MINUTES)
    return start


@functools.lru_cache(maxsize=4)
def _booster(trees: str) -> Any:
    import xgboost as xgb

    booster = xgb.Booster({"nthread": 1})
    booster.load_model(bytearray(base64.b64decode(trees)))
    return booster
