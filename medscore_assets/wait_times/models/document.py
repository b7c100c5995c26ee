"""The moving average of the design that this package grew out of, to be compared with.

Belongs here: that average as it was meant, on data that let it run. Does not belong here: the average by the
right clock (`moving_average.py`).
"""

from __future__ import annotations

from datetime import timedelta

import numpy as np

from medscore_assets.wait_times.model import BatchModel, Fitted
from medscore_assets.wait_times.prediction import Predictions, Status
from medscore_assets.wait_times.snapshot import Snapshot


class DocumentMovingAverage(BatchModel):
    """The mean wait of those whose disposition was within the last two hours, however few they are.

    A baseline: it looks at patients who leave and not at patients who are seen, and has nothing to say at
    night. It has no substitute and no second quantile.
    """

    name = "document_moving_average"
    version = "1.0.0"
    baseline = True
    lookback = timedelta(minutes=120)

    def predict_all(self, snapshot: Snapshot, fitted: Fitted) -> Predictions:
        found = Predictions.empty(len(snapshot), self.bands)
        minutes = self.lookback / timedelta(minutes=1)
        lately = snapshot.completed() & (snapshot.departed > -minutes)
        for place, band in enumerate(self.bands):
            rows = lately & snapshot.in_band(band)
            scene = snapshot.scene()[rows]
            counts = np.bincount(scene, minlength=len(snapshot))
            sums = np.bincount(scene, weights=snapshot.waits()[rows] * 60, minlength=len(snapshot))
            some = counts > 0
            found.p50[some, place] = sums[some] / counts[some]
            found.status[some, place] = Status.OK
        return found
