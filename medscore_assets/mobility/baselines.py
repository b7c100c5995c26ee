"""The naive forecasts that a model must beat to serve, and that serve where none does.

Belongs here: their names and their values from a row's features. Does not belong here: how good they are
(`evaluation.py`), intervals around them (`conformal.py`).

All of them know what a row of features knows: days strictly before its day. Where one lacks its days, the
mean of all days to date stands in, which every eligible row has.

The mean of two of them is one more: of the last 7 days, which follow a change soon and are few, and of all
days to date, which are many and follow it late. Its weights are equal and not fitted: a simple mean of
forecasts whose errors differ is hard to beat, and a weight estimated from few patients rarely does (Bates and
Granger 1969; Timmermann 2006).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from medscore_assets.mobility.encoding import BASELINE, LAG, MEAN

Numbers = npt.NDArray[np.float64]

YESTERDAY = "yesterday"
SAME_WEEKDAY = "same_weekday_last_week"
SEVEN_DAYS = "mean_7_days"
EXPANDING = "expanding_mean"
COMBINED = "combined_mean"

NAIVE = {
    EXPANDING: "The mean of all days to date",
    COMBINED: "The mean of the last 7 days' mean and that of all days to date",
    SEVEN_DAYS: "The mean of the last 7 days",
    SAME_WEEKDAY: "The same weekday a week ago",
    YESTERDAY: "The last day",
}
"""The naive forecasts with their names in sentences; in a tie the first one counts as the better."""


def forecasts(columns: Mapping[str, Numbers], horizon_days: int) -> dict[str, Numbers]:
    """Every naive forecast in steps, shape (n,), from the features of the rows.

    `same_weekday_last_week` is the newest known day of the target's weekday: 7 days before the row's day at
    a horizon of 1 day, the day before it at a horizon of 7 days.
    """
    known = columns[BASELINE]
    found = {name: columns[source(name, horizon_days)] for name in NAIVE}
    filled = {name: np.where(np.isnan(values), known, values) for name, values in found.items()}
    return filled | {COMBINED: (filled[SEVEN_DAYS] + filled[EXPANDING]) / 2}


def needed(horizon_days: int) -> tuple[str, ...]:
    """The features that the naive forecasts read, each once."""
    return tuple(dict.fromkeys(source(name, horizon_days) for name in NAIVE))


def source(name: str, horizon_days: int) -> str:
    """The feature that a naive forecast repeats; of the combined one, what moves it from the mean to date."""
    return {
        EXPANDING: BASELINE,
        COMBINED: MEAN.format(7),
        SEVEN_DAYS: MEAN.format(7),
        SAME_WEEKDAY: LAG.format(7 - (horizon_days - 1) % 7),
        YESTERDAY: LAG.format(1),
    }[name]
