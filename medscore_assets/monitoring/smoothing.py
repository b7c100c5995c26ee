"""The observed risk as a smooth function of the predicted one, and the errors that it shows.

Belongs here: the smoother and Eavg, E90 and Emax under it, for one set of weights or for a thousand.
Does not belong here: what is drawn anew (`resampling.py`), the logistic slope (`metrics.py`).

The smoother is that of Harrell's `val.prob`, from which the three names come: lowess, locally linear with
tricube weights over the nearest 2/3 of the cases and without robustness steps, which would take the
events for outliers (Austin & Steyerberg, Stat Med 2019, use its sibling loess and call Eavg the ICI).
Cases are put into at most 256 groups of equal size along the prediction. Within the groups the widths of
the neighbourhoods stay those of the cases as they are, so that the curve of a resample is a handful of
matrix products. Emax is therefore that of a group of cases and not of the one most extreme case.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]

SPAN = 2 / 3
"""The share of the cases in each neighbourhood."""

GROUPS = 256
"""Most groups into which cases are put; up to so many different predictions every one has its own."""

_SAME = 1e-12
"""Variance of predictions in a neighbourhood below which they count as one."""


@dataclass(frozen=True, slots=True)
class Smoother:
    """The neighbourhoods of cases sorted by prediction, prepared once for any weights.

    `edges`, shape (groups + 1,), are positions in the sorted cases; `centres` (groups,) the mean predictions;
    `kernel` (groups, groups) what each group counts in each one's neighbourhood.
    """

    edges: Places
    centres: Numbers
    kernel: Numbers

    @classmethod
    def over(cls, predicted: Numbers) -> Self:
        """The smoother over predictions in rising order, shape (n,)."""
        edges = _edges(predicted)
        sizes = np.diff(edges)
        if not len(sizes):
            return cls(edges, np.empty(0), np.empty((0, 0)))
        centres = np.add.reduceat(predicted, edges[:-1]) / sizes
        distance = np.abs(centres[:, None] - centres[None, :])
        nearest = np.argsort(distance, axis=1, kind="stable")
        reached = np.cumsum(sizes[nearest], axis=1) >= max(1, int(SPAN * len(predicted) + 1e-7))
        radius = np.take_along_axis(distance, nearest, axis=1)[np.arange(len(sizes)), reached.argmax(axis=1)]
        # Most cases may have one prediction: then the neighbourhood is that prediction alone.
        scaled = np.divide(
            distance, radius[:, None], out=np.where(distance > 0, 1.0, 0.0), where=radius[:, None] > 0
        )
        return cls(edges, centres, (1 - np.minimum(scaled, 1) ** 3) ** 3)

    def curve(self, cases: Numbers, events: Numbers) -> Numbers:
        """The observed risk at each centre, in 0..1, shape (sets, groups).

        `cases` and `events`, of that shape, are the weights of each group's cases and of its events. NaN
        where a neighbourhood is empty.
        """
        x = self.centres - self.centres.mean() if len(self.centres) else self.centres
        with np.errstate(divide="ignore", invalid="ignore"):
            total = cases @ self.kernel.T
            mean_x = (cases * x) @ self.kernel.T / total
            mean_y = events @ self.kernel.T / total
            variance = (cases * x**2) @ self.kernel.T / total - mean_x**2
            covariance = (events * x) @ self.kernel.T / total - mean_x * mean_y
            slope = np.where(variance > _SAME, covariance / variance, 0.0)
            smooth: Numbers = np.clip(mean_y + slope * (x - mean_x), 0, 1)
        return smooth

    def errors(self, cases: Numbers, smooth: Numbers) -> tuple[Numbers, Numbers, Numbers]:
        """Eavg, E90 and Emax, each of shape (sets,), of curves under the weights that they were made of.

        They are the mean, the 90th percentile and the largest distance between observed and predicted risk.
        """
        if not len(self.centres):
            nothing = np.full(len(cases), np.nan)
            return nothing, nothing, nothing
        present = cases > 0
        distance = np.where(present, np.abs(smooth - self.centres), 0.0)
        total = cases.sum(axis=1)
        order = np.argsort(distance, axis=1)
        reached = np.cumsum(np.take_along_axis(cases, order, axis=1), axis=1) >= 0.9 * total[:, None]
        place = np.take_along_axis(order, reached.argmax(axis=1)[:, None], axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = (cases * distance).sum(axis=1) / total
        tenth = np.take_along_axis(distance, place, axis=1)[:, 0]
        known = np.where(total > 0, 1.0, np.nan)
        return mean, tenth * known, distance.max(axis=1) * known


def _edges(predicted: Numbers) -> Places:
    """One group per different prediction, or groups of equal size where there are too many."""
    starts = np.flatnonzero(np.diff(predicted, prepend=-np.inf) > 0)
    if len(starts) <= GROUPS:
        return np.append(starts, len(predicted)).astype(np.intp)
    return np.linspace(0, len(predicted), GROUPS + 1).astype(np.intp)
