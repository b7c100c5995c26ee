"""The naive forecasts that a model must beat to serve, and that serve where none does.

Belongs here: their names and their values from a row's features. Does not belong here: how good they are
(`evaluation.py`), intervals around them (`conformal.py`).

All of them know what a row of features knows: days strictly before its day. Where one lacks its days, the
mean of all days to date stands in, which every eligible row has.
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

NAIVE = {
    EXPANDING: "The mean of all days to date",
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
    return {name: np.where(np.isnan(values), known, values) for name, values in found.items()}


def needed(horizon_days: int) -> tuple[str, ...]:
    """The features that the naive forecasts read, each once."""
    return tuple(dict.fromkeys(source(name, horizon_days) for name in NAIVE))


def source(name: str, horizon_days: int) -> str:
    """The feature that a naive forecast repeats."""
    return {
        EXPANDING: BASELINE,
        SEVEN_DAYS: MEAN.format(7),
        SAME_WEEKDAY: LAG.format(7 - (horizon_days - 1) % 7),
        YESTERDAY: LAG.format(1),
    }[name]
