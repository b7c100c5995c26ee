"""Hospitals against chance: exact Poisson limits around a common ratio of observed to expected.

Belongs here: the limits as curves, and where each hospital lies. Does not belong here: the plot.

Observed readmissions are taken as Poisson with the mean ratio x expected. A point lies above a curve exactly
when its tail probability is below half of what the limits leave out, so that plot and judgement agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medscore_assets.report import wording
from medscore_assets.report.population.cells import Cell
from medscore_assets.report.population.dictionary import UNKNOWN

Numbers = npt.NDArray[np.float64]

WARNING, ALARM = 0.95, 0.998
"""The limits of funnel plots: two and three standard deviations of a normal."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A hospital whose published figures place it in the funnel."""

    cell: Cell
    observed: int
    expected: float
    tail: float
    """Probability of a count at least as far out on its side, by chance alone."""

    @property
    def name(self) -> str:
        return self.cell.key[0]

    @property
    def ratio(self) -> float:
        """Observed by expected."""
        return self.observed / self.expected

    def outside(self, level: float) -> bool:
        """Whether it lies outside the limits that hold this share of chance."""
        return self.tail < (1 - level) / 2


@dataclass(frozen=True, slots=True)
class Funnel:
    """The hospitals around the common ratio."""

    target: float
    """Observed by expected of all members together."""
    hospitals: Sequence[Placed]
    withheld: int
    """Hospitals that cannot be placed because a figure is withheld."""
    without: int
    """Hospitals without a discharge whose outcome is known."""

    def above(self, level: float = ALARM) -> list[Placed]:
        """Those beyond the upper limit, the least probable first."""
        return self._beyond(level, above=True)

    def below(self, level: float = ALARM) -> list[Placed]:
        """Those beyond the lower limit, the least probable first."""
        return self._beyond(level, above=False)

    def _beyond(self, level: float, *, above: bool) -> list[Placed]:
        found = [h for h in self.hospitals if h.outside(level) and (h.ratio > self.target) == above]
        return sorted(found, key=lambda h: (h.tail, h.name))

    @property
    def by_chance_shown(self) -> str:
        """How many hospitals chance alone puts outside the wide limits on average, at most, in words."""
        found = (1 - ALARM) * len(self.hospitals)
        return "fewer than 0.1" if found < 0.1 else wording.number(found, 1)


def funnel(hospitals: Sequence[Cell], target: float | None) -> Funnel | None:
    """The hospitals around the ratio; None if outcomes are not known or no hospital can be placed.

    `Unknown` is no hospital and is left out.
    """
    if target is None or target <= 0:
        return None
    placed: list[Placed] = []
    withheld = without = 0
    for cell in hospitals:
        if cell.key[0] == UNKNOWN:
            continue
        observed, expected = cell.value("observed_readmissions"), cell.value("expected_matured")
        if observed is not None and expected is not None and expected > 0:
            placed.append(Placed(cell, round(observed), expected, _tail(round(observed), target * expected)))
        elif {"observed_readmissions", "expected_matured"} & cell.withheld:
            withheld += 1
        else:
            without += 1
    return Funnel(target, placed, withheld, without) if placed else None


def _tail(observed: int, mean: float) -> float:
    from scipy.special import gammainc, gammaincc

    at_most = float(gammaincc(observed + 1, mean))
    at_least = float(gammainc(observed, mean)) if observed else 1.0
    return min(at_most, at_least)


def limits(
    target: float, level: float, most: float
) -> tuple[tuple[Numbers, Numbers], tuple[Numbers, Numbers]]:
    """The lower and the upper limit as curves (expected, ratio), up to so many expected readmissions.

    Each point is a count, taken as continuous, and the expectation for which it is just at the limit.
    """
    from scipy.special import gammaincinv

    outside = (1 - level) / 2
    counts = np.concatenate(
        [np.linspace(0, 20, 201), np.geomspace(20.2, 20 + 2 * most * max(target, 1), 400)]
    )
    lower = gammaincinv(counts + 1, 1 - outside) / target
    rising = counts[counts >= 0.1]
    upper = gammaincinv(rising, outside) / target
    keep = upper > 0
    return (lower, counts / lower), (upper[keep], rising[keep] / upper[keep])
