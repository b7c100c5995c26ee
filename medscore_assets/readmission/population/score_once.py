"""Millions of rows through the one scorer, each kind of row once.

Belongs here: which rows a model's trees cannot tell apart, and a bounded memory of their probabilities.
Does not belong here: scoring itself (`readmission/scoring.py`): every probability comes from there.

A tree asks whether a value lies below a threshold. Two rows that lie on the same side of every threshold
take the same way through every tree, so their margins are the same float32, bit for bit. Of the ten
features a few million members have some hundred thousand kinds: to find a row's kind costs a tenth of
its prediction.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from medscore_assets.contracts.contract import Matrix
from medscore_assets.contracts.fields import Category, Feature, Whole
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.readmission.scoring import Probabilities, ReadmissionModel

if TYPE_CHECKING:
    import xgboost as xgb

REMEMBERED = 1 << 21
"""So many kinds at most are remembered, in 16 bytes each, and fewer as kinds share a place by chance."""

Kinds = npt.NDArray[np.int64]

_SPREAD = np.uint64(0x9E3779B97F4A7C15)
"""2^64 over the golden ratio, odd: neighbouring kinds come to lie far apart (Knuth's multiplicative hash)."""


class ScoreOnce:
    """The probabilities of `ReadmissionModel.score`. Not for several threads at once.

    Each kind has one place, by its hash, and drives out whoever was there: a row whose kind is not in its
    place is scored again. So a place is looked at once, and nothing is sorted but what is scored.
    """

    def __init__(self, model: ReadmissionModel, remembered: int = REMEMBERED) -> None:
        """`remembered` is a power of 2 above 1."""
        self._model = model
        self._weights = _weights(model.booster)
        self._shift = np.uint64(64 - (remembered.bit_length() - 1))
        self._kinds: Kinds = np.full(remembered, -1, dtype=np.int64)
        self._probabilities: Probabilities = np.empty(remembered, dtype=np.float64)

    def score(self, matrix: Matrix) -> Probabilities:
        """As `ReadmissionModel.score`, for rows that keep the contract, bit for bit."""
        if self._weights is None or not len(matrix):
            return self._model.score(matrix)
        kinds = np.zeros(len(matrix), dtype=np.int64)
        for column, weight in zip(matrix.T, self._weights, strict=True):
            kinds += weight[column.astype(np.intp)]
        places = ((kinds.view(np.uint64) * _SPREAD) >> self._shift).view(np.int64)
        probabilities = self._probabilities[places]
        missed = np.flatnonzero(self._kinds[places] != kinds)
        if len(missed):
            met, first, of_missed = np.unique(kinds[missed], return_index=True, return_inverse=True)
            fresh = self._model.score(matrix[missed[first]])
            probabilities[missed] = fresh[of_missed]
            # Of several kinds that come to one place, one is chosen for both arrays.
            taken, chosen = np.unique(places[missed[first]], return_index=True)
            self._kinds[taken], self._probabilities[taken] = met[chosen], fresh[chosen]
        return probabilities


def _weights(booster: xgb.Booster) -> list[Kinds] | None:
    """Per feature what each of its codes adds to the number of a row's kind; None if 63 bits are too few."""
    trees = booster.trees_to_dataframe()
    weights, kinds = [], 1
    for feature in READMISSION.features:
        thresholds = np.unique(trees.loc[trees["Feature"] == feature.name, "Split"].to_numpy(np.float32))
        codes = np.arange(_highest(feature) + 1, dtype=np.float32)
        # How many thresholds a code does not lie below.
        weights.append(np.searchsorted(thresholds, codes, side="right").astype(np.int64) * kinds)
        kinds *= len(thresholds) + 1
    return weights if math.log2(kinds) < 63 else None


def _highest(feature: Feature) -> int:
    """The highest code of a feature; the lowest is 0."""
    if isinstance(feature, Whole):
        assert feature.minimum >= 0
        return feature.maximum
    return len(feature.categories) - 1 if isinstance(feature, Category) else 1
