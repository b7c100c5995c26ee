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

MOST_KINDS = 2_000_000
"""So many are remembered, in 16 bytes each; further ones are scored whenever they are met."""

Kinds = npt.NDArray[np.int64]


class ScoreOnce:
    """The probabilities of `ReadmissionModel.score`. Not for several threads at once."""

    def __init__(self, model: ReadmissionModel, most_kinds: int = MOST_KINDS) -> None:
        self._model, self._most_kinds = model, most_kinds
        self._places = _places(model.booster)
        self._kinds: Kinds = np.empty(0, dtype=np.int64)
        self._probabilities: Probabilities = np.empty(0, dtype=np.float64)

    def score(self, matrix: Matrix) -> Probabilities:
        """As `ReadmissionModel.score`, for rows that keep the contract, bit for bit."""
        if self._places is None or not len(matrix):
            return self._model.score(matrix)
        kinds = np.zeros(len(matrix), dtype=np.int64)
        for column, place in zip(matrix.T, self._places, strict=True):
            kinds += place[column.astype(np.intp)]
        met, first, of_row = np.unique(kinds, return_index=True, return_inverse=True)
        probabilities = np.empty(len(met), dtype=np.float64)
        at = np.searchsorted(self._kinds, met)
        known = at < len(self._kinds)
        known[known] = self._kinds[at[known]] == met[known]
        probabilities[known] = self._probabilities[at[known]]
        if not known.all():
            fresh = self._model.score(matrix[first[~known]])
            probabilities[~known] = fresh
            if len(self._kinds) + len(fresh) <= self._most_kinds:
                self._kinds = np.insert(self._kinds, at[~known], met[~known])
                self._probabilities = np.insert(self._probabilities, at[~known], fresh)
        return np.asarray(probabilities[of_row])


def _places(booster: xgb.Booster) -> list[Kinds] | None:
    """Per feature what each of its codes adds to the number of a row's kind; None if 63 bits are too few."""
    trees = booster.trees_to_dataframe()
    places, kinds = [], 1
    for feature in READMISSION.features:
        thresholds = np.unique(trees.loc[trees["Feature"] == feature.name, "Split"].to_numpy(np.float32))
        codes = np.arange(_highest(feature) + 1, dtype=np.float32)
        # How many thresholds a code does not lie below.
        places.append(np.searchsorted(thresholds, codes, side="right").astype(np.int64) * kinds)
        kinds *= len(thresholds) + 1
    return places if math.log2(kinds) < 63 else None


def _highest(feature: Feature) -> int:
    """The highest code of a feature; the lowest is 0."""
    if isinstance(feature, Whole):
        assert feature.minimum >= 0
        return feature.maximum
    return len(feature.categories) - 1 if isinstance(feature, Category) else 1
