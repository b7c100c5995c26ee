"""Quantiles of many small groups at once.

Belongs here: that arithmetic. Does not belong here: what the groups are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]


def grouped_quantile(
    values: Numbers, group: npt.NDArray[np.integer[Any]], groups: int, level: float
) -> Numbers:
    """The quantile of the values of each group, interpolated; shape (groups,), NaN for an empty one."""
    if not len(values):
        return np.full(groups, np.nan)
    counts = np.bincount(group, minlength=groups)
    ordered = values[np.lexsort((values, group))]
    first = np.cumsum(counts) - counts
    place = level * np.maximum(counts - 1, 0)
    low = np.floor(place).astype(np.int64)
    high = np.minimum(low + 1, np.maximum(counts - 1, 0))
    last = len(values) - 1
    below, above = (ordered[np.minimum(first + at, last)] for at in (low, high))
    found: Numbers = np.where(counts > 0, below + (place - low) * (above - below), np.nan)
    return found
