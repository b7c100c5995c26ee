"""Intervals around forecasts by split-conformal prediction, per cohort and horizon.

Belongs here: the declared scale of a patient, the finite-sample quantile, intervals and their flags.
Does not belong here: the forecasts themselves (`model.py`, `baselines.py`), how often they hold
(`evaluation.py`).

The score of a calibration row is |steps - forecast| / scale. Its quantile at rank ceil((n + 1) * coverage)
holds at least that share of further rows, whatever the distribution, as far as rows are exchangeable
(Vovk et al. 2005). Days of one patient resemble each other and times change: the share is therefore measured
on held-out later dates and patients, and monitored. The scale is the patient's own standard deviation with a
floor, so that steady patients get narrow intervals. A patient with too few days to have one gets at least
the scale that is typical of the cohort.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

Numbers = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

COVERAGE = 0.9
"""The share of days that intervals shall hold."""

FLOOR_STEPS = 500.0
"""A scale is never below: a patient who never moved may begin to."""

FEWEST_DAYS = 3
"""Valid days below which a patient's own spread is not believed."""

FEWEST_ROWS = 100
FEWEST_PATIENTS = 10
"""Calibration rows, and patients among them, below which a cohort has no quantile of its own."""


class Conformal(BaseModel):
    """What turns forecasts into intervals: forecast -/+ quantile * scale of the patient."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    coverage: Annotated[float, Field(gt=0, lt=1)]
    quantile: Annotated[float, Field(ge=0)]
    typical_scale: Annotated[float, Field(ge=FLOOR_STEPS)]
    """Median scale of the calibration patients with enough days, in steps."""
    rows: Annotated[int, Field(ge=1)]
    patients: Annotated[int, Field(ge=1)]

    @classmethod
    def fitted(
        cls,
        steps: Numbers,
        forecast: Numbers,
        spread: Numbers,
        valid_days: Numbers,
        patients: npt.ArrayLike,
        coverage: float = COVERAGE,
    ) -> Self | None:
        """From calibration rows that no model was fitted on, arrays of shape (n,).

        `spread` is the patient's standard deviation to date (NaN where unknown), `valid_days` the number
        of days behind it. None where rows or patients are too few for a quantile of their own.
        """
        different = len(np.unique(np.asarray(patients)))
        if len(steps) < FEWEST_ROWS or different < FEWEST_PATIENTS:
            return None
        typical = _typical_scale(spread, valid_days)
        scores = np.abs(steps - forecast) / scale(spread, valid_days, typical)
        found = quantile(scores, coverage)
        if found is None:
            return None
        return cls(
            coverage=coverage, quantile=found, typical_scale=typical, rows=len(steps), patients=different
        )

    def interval(self, forecast: Numbers, spread: Numbers, valid_days: Numbers) -> Interval:
        """The interval of each forecast, arrays of shape (n,). No lower end is below 0 steps."""
        half = self.quantile * scale(spread, valid_days, self.typical_scale)
        return Interval(np.maximum(forecast - half, 0.0), forecast + half, unsure(spread, valid_days))


@dataclass(frozen=True, slots=True)
class Interval:
    """Lower and upper ends in steps, shape (n,). `unsure` is where a patient has no own spread yet."""

    lower: Numbers
    upper: Numbers
    unsure: Mask

    def holds(self, steps: Numbers) -> Mask:
        """Whether each interval held the steps; both ends belong to it."""
        return np.asarray((self.lower <= steps) & (steps <= self.upper))


def quantile(scores: Numbers, coverage: float) -> float | None:
    """The score of rank ceil((n + 1) * coverage); None where n is too small for that rank."""
    # Rounded first: 0.9 * 10 must be 9, not a rank further for the last bit of a product.
    rank = math.ceil(round((len(scores) + 1) * coverage, 9))
    if rank > len(scores):
        return None
    return float(np.partition(scores, rank - 1)[rank - 1])


def scale(spread: Numbers, valid_days: Numbers, typical: float) -> Numbers:
    """The scale of each patient's days in steps, shape (n,): the own spread, floored.

    Never below the cohort's typical one for patients with fewer than `FEWEST_DAYS` valid days.
    """
    own = np.fmax(spread, FLOOR_STEPS)
    return np.where(unsure(spread, valid_days), np.maximum(own, typical), own)


def unsure(spread: Numbers, valid_days: Numbers) -> Mask:
    """Where a patient's own spread is unknown or rests on too few days."""
    return np.asarray(np.isnan(spread) | ~(valid_days >= FEWEST_DAYS))


def _typical_scale(spread: Numbers, valid_days: Numbers) -> float:
    known = spread[~unsure(spread, valid_days)]
    return float(max(np.median(known), FLOOR_STEPS)) if len(known) else FLOOR_STEPS
