"""An additive model as plain tables: an intercept and, per feature, one score for each bin of its values.

Belongs here: the tables of a fitted EBM, their text form, looking scores up, adding two models up.
Does not belong here: what a score means in steps (`model.py`), fitting (`training.py`).

A score is intercept + term 0 + term 1 + ..., float64, in this order: the order in which interpret's
`predict` adds, so that the sums are the same bit for bit, for one row or for millions. Looking up the bin
of a value is what costs: a grid of equal cells tells it but for the few cuts that share a cell, at about a
quarter of the cost of a binary search.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

if TYPE_CHECKING:
    from interpret.glassbox import ExplainableBoostingRegressor

Numbers = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]

MISSING = 0
"""The bin of a value that is not there."""

_CELLS = 4096
_MOST_CUTS_IN_A_CELL = 6
"""With more, as in very skewed values, a binary search is no slower."""

_FEW_ROWS = 256
_ROWS_AT_ONCE = 16_384
"""As many as the caches of one core hold."""


class _Stored(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class _StoredTerm(_Stored):
    feature: str
    kind: Literal["continuous", "category"]
    cuts: list[float]
    scores: Annotated[list[float], Field(min_length=2)]
    weights: Annotated[list[float], Field(min_length=2)]


class _StoredTerms(_Stored):
    intercept: float
    terms: list[_StoredTerm]


@dataclass(frozen=True, slots=True)
class _Grid:
    """How many cuts lie below each of many equal cells between the first and the last cut."""

    low: float
    per_unit: float
    below: Places
    cuts: Numbers
    """With NaN behind the last one: no value is at or above it."""
    most: int
    """Most cuts in one cell."""

    @classmethod
    def over(cls, cuts: Numbers) -> Self | None:
        """The grid over ascending cuts; None where it would not pay."""
        if len(cuts) < 2:
            return None
        low = float(cuts[0])
        with np.errstate(over="ignore"):
            per_unit = _CELLS / (float(cuts[-1]) - low)
        if not (np.isfinite(per_unit) and per_unit > 0):
            return None
        # The cell grows with the value, rounding included, so that a cut in a lower cell is a lower cut.
        cell = np.clip((cuts - low) * per_unit, 0, _CELLS - 1).astype(np.int32)
        most = int(np.bincount(cell).max())
        if most > _MOST_CUTS_IN_A_CELL:
            return None
        below = np.searchsorted(cell, np.arange(_CELLS))
        return cls(low, per_unit, below, np.append(cuts, np.nan), most)

    def places(self, values: Numbers) -> Places:
        """How many cuts are at or below each value; values are no NaN."""
        with np.errstate(over="ignore"):
            cell = values - self.low
            cell *= self.per_unit
        np.clip(cell, 0, _CELLS - 1, out=cell)
        place = self.below[cell.astype(np.int32)]
        for _ in range(self.most):
            place += values >= self.cuts[place]
        return place


@dataclass(frozen=True)
class Term:
    """What one feature adds. `scores` and `weights` are float64 (bins,).

    Bins: 0 for a missing value, then the intervals between ascending `cuts` (a cut belongs to the upper
    one) or one per category code from 0 on, then one for any other code. `weights` are the training rows
    in each bin.
    """

    feature: str
    cuts: Numbers | None
    """None for a category."""
    scores: Numbers
    weights: Numbers

    @functools.cached_property
    def _grid(self) -> _Grid | None:
        return None if self.cuts is None else _Grid.over(self.cuts)

    def bins(self, values: Numbers) -> Places:
        """The bin of each value, shape (n,)."""
        missing = np.isnan(values)
        if self.cuts is None:
            codes = len(self.scores) - 2
            known = (values >= 0) & (values < codes) & (values == np.floor(values))
            bins = np.where(known, values, codes).astype(np.intp) + 1
        elif len(values) < _FEW_ROWS or self._grid is None:
            bins = np.searchsorted(self.cuts, values, side="right") + 1
        else:
            whole = np.where(missing, 0.0, values) if missing.any() else values
            bins = self._grid.places(whole) + 1
        bins[missing] = MISSING
        return bins

    def values(self, values: Numbers) -> Numbers:
        """The score of each value, shape (n,)."""
        return self.scores[self.bins(values)]


@dataclass(frozen=True)
class Terms:
    """An additive model: scores of encoded rows, float64 (n, features), one term per feature in order."""

    intercept: float
    terms: tuple[Term, ...] = field(repr=False)

    @classmethod
    def of(cls, ebm: ExplainableBoostingRegressor, categories: Mapping[str, int]) -> Self:
        """The tables of a fitted EBM; `categories` is the number of codes per categorical feature.

        Raises `ValueError` for anything but main effects, one per feature, under the identity link.
        """
        names: list[str] = list(ebm.feature_names_in_)
        if ebm.link_ != "identity" or list(ebm.term_features_) != [(n,) for n in range(len(names))]:
            raise ValueError("the EBM is not a regression of one main effect per feature")
        terms = [
            _term(name, levels[0], scores, weights, categories.get(name, 0))
            for name, levels, scores, weights in zip(
                names, ebm.bins_, ebm.term_scores_, ebm.bin_weights_, strict=True
            )
        ]
        return cls(float(ebm.intercept_), tuple(terms))

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The columns of the matrix, in order."""
        return tuple(term.feature for term in self.terms)

    @property
    def importances(self) -> Numbers:
        """How much each term moves the score on average over the training rows, shape (terms,)."""
        return np.array(
            [
                float(np.average(np.abs(t.scores), weights=t.weights)) if t.weights.any() else 0.0
                for t in self.terms
            ]
        )

    def predict(self, matrix: Numbers) -> Numbers:
        """The score of each row, shape (n,)."""
        scores = np.full(len(matrix), self.intercept)
        for start in range(0, len(matrix), _ROWS_AT_ONCE):
            some = matrix[start : start + _ROWS_AT_ONCE]
            for added in self._added(some):
                scores[start : start + _ROWS_AT_ONCE] += added
        return scores

    def contributions(self, matrix: Numbers) -> Numbers:
        """What each term adds, shape (n, terms); with the intercept and in order they are `predict`."""
        found = np.empty((len(matrix), len(self.terms)), order="F")
        for start in range(0, len(matrix), _ROWS_AT_ONCE):
            some = matrix[start : start + _ROWS_AT_ONCE]
            for column, added in enumerate(self._added(some)):
                found[start : start + _ROWS_AT_ONCE, column] = added
        return found

    def _added(self, matrix: Numbers) -> Iterator[Numbers]:
        return (term.values(column) for term, column in zip(self.terms, matrix.T, strict=True))

    def __add__(self, other: Terms) -> Terms:
        """The model whose every score is the sum of both scores. Raises `ValueError` for other bins."""
        if not _same_bins(self, other):
            raise ValueError("the two models do not have the same features and bins")
        terms = [
            replace(mine, scores=mine.scores + theirs.scores)
            for mine, theirs in zip(self.terms, other.terms, strict=True)
        ]
        return Terms(self.intercept + other.intercept, tuple(terms))

    def to_json(self) -> bytes:
        """As it stands in the file; floats so that they are read back to the last bit."""
        stored = {
            "intercept": self.intercept,
            "terms": [
                {
                    "feature": term.feature,
                    "kind": "category" if term.cuts is None else "continuous",
                    "cuts": [] if term.cuts is None else term.cuts.tolist(),
                    "scores": term.scores.tolist(),
                    "weights": term.weights.tolist(),
                }
                for term in self.terms
            ],
        }
        return (json.dumps(stored, allow_nan=False) + "\n").encode()

    @classmethod
    def from_json(cls, content: bytes) -> Self:
        """The model behind `to_json`. Raises `ValueError` that names the term, never a number."""
        try:
            stored = _StoredTerms.model_validate(json.loads(content))
        except ValidationError as error:
            entries = ", ".join(".".join(map(str, e["loc"])) for e in error.errors(include_input=False)[:5])
            raise ValueError(f"entries are not valid: {entries}") from None
        return cls(stored.intercept, tuple(_restored(term) for term in stored.terms))


def explicit_types(terms: Terms) -> list[Sequence[float] | str]:
    """Interpret's `feature_types` that give an EBM the bins of these terms."""
    return ["nominal" if term.cuts is None else term.cuts.tolist() for term in terms.terms]


def _term(name: str, level: Numbers | dict[str, int], scores: Numbers, weights: Numbers, codes: int) -> Term:
    if not isinstance(level, dict):
        # The last of interpret's bins is for texts that are no number: no matrix holds one.
        return Term(name, np.array(level), np.array(scores[:-1]), np.array(weights[:-1]))
    of_bin = np.full(codes + 2, len(scores) - 1)
    of_bin[MISSING] = MISSING
    for code, number in level.items():
        of_bin[int(code) + 1] = number
    known = of_bin < len(scores) - 1
    return Term(name, None, np.array(scores[of_bin]), np.where(known, weights[of_bin], 0.0))


def _same_bins(one: Terms, other: Terms) -> bool:
    def alike(mine: Term, theirs: Term) -> bool:
        if mine.cuts is None or theirs.cuts is None:
            return mine.cuts is theirs.cuts and len(mine.scores) == len(theirs.scores)
        return np.array_equal(mine.cuts, theirs.cuts)

    return one.feature_names == other.feature_names and all(map(alike, one.terms, other.terms))


def _restored(stored: _StoredTerm) -> Term:
    cuts = np.array(stored.cuts)
    bins = len(stored.scores)
    fits = not stored.cuts if stored.kind == "category" else bins == len(cuts) + 2
    if not fits or len(stored.weights) != bins or (np.diff(cuts) <= 0).any():
        raise ValueError(f"the cuts, scores and weights of {stored.feature} do not fit together")
    return Term(
        stored.feature,
        None if stored.kind == "category" else cuts,
        np.array(stored.scores),
        np.array(stored.weights),
    )
