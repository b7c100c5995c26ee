"""Held-out cases with a known truth, and models that are good or bad in a known way, for tests.

Belongs here: cases drawn from a declared risk. Does not belong here: any family's rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medscore_assets.monitoring.assessment import HeldOut
from medscore_assets.monitoring.metrics import sigmoid

Numbers = npt.NDArray[np.float64]
PAYERS = ("commercial", "medicaid", "medicare")


@dataclass(frozen=True, slots=True)
class World:
    """Cases with their true log-odds. `features` are independent; the first ones carry the risk."""

    log_odds: Numbers
    labels: npt.NDArray[np.bool_]
    patients: npt.NDArray[np.int64]
    payer: npt.NDArray[np.str_]
    features: Numbers

    @classmethod
    def of(cls, n: int, seed: int = 0) -> World:
        """About one in seven has the outcome; three cases fall on two patients."""
        random = np.random.default_rng(seed)
        features = random.normal(size=(n, 8))
        log_odds = -2.1 + 0.7 * features[:, 0] + 0.5 * features[:, 1] + 0.3 * features[:, 2]
        return cls(
            log_odds=log_odds,
            labels=random.random(n) < sigmoid(log_odds),
            patients=random.integers(0, max(1, n * 2 // 3), n),
            payer=np.array(PAYERS)[random.integers(0, 3, n)],
            features=features,
        )

    def with_noise(self, spread: float, seed: int = 1) -> Numbers:
        """Probabilities of a calibrated model that does not know all: the noisier, the worse."""
        noise = np.random.default_rng(seed).normal(scale=spread, size=len(self.log_odds))
        seen = self.log_odds + noise
        kept = np.var(self.log_odds) / np.var(seen)
        middle = self.log_odds.mean()
        return sigmoid(middle + kept * (seen - middle))

    def held_out(self, **probabilities: Numbers) -> HeldOut:
        """These cases with the models in the order in which they are given."""
        first = next(iter(probabilities.values()))
        return HeldOut(
            labels=self.labels,
            patients=self.patients,
            probabilities=probabilities,
            groups={"insurance_type": self.payer},
            tiers=np.where(first > 0.2, "high", "low"),
            tier_edges={"low": 0.0, "high": 0.2},
        )
