"""Exact SHAP values of shallow trees, as a few matrix products.

Belongs here: the path-dependent Shapley values that XGBoost's `pred_contribs` gives, computed leaf by leaf.
Does not belong here: probabilities (`scoring.py`) and words (`outreach.py`).

A leaf answers `value` where every condition on its path holds and 0 elsewhere, and a feature that is left
out holds with the share of training weight that went the leaf's way (Lundberg et al., Nature Machine
Intelligence 2020). Per leaf that is a game of as many players as its path has features, at most the depth of
the tree, and its Shapley values are a polynomial in the conditions. The coefficients are worked out once;
a row then costs comparisons and products, each distinct one once: for 160 trees of depth 2 about a tenth of
`pred_contribs`.
"""

from __future__ import annotations

import io
import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import xgboost as xgb

Numbers = npt.NDArray[np.float64]
Bounds = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

_NOBODY = -1
_ROWS_AT_ONCE = 128
"""As many as the caches of one core hold."""


@dataclass(frozen=True, slots=True)
class _Nodes:
    """All nodes of all trees in one numbering; arrays of shape (nodes,)."""

    parent: Integers
    left: Integers
    feature: Integers
    threshold: Bounds
    weight: Numbers


@dataclass(frozen=True, slots=True)
class _Paths:
    """The conditions on the way to each leaf, one per feature; arrays of shape (leaves, most features).

    A condition is `low <= x < high`; `share` is the training weight that keeps it. A place that a path does
    not need holds always, for everybody.
    """

    value: Numbers
    feature: Integers
    low: Bounds
    high: Bounds
    share: Numbers


@dataclass(frozen=True, slots=True)
class _Terms:
    """Products of conditions, all of as many factors, and what each adds to each feature when it holds.

    `factors` numbers the conditions, of shape (terms, factors); `weights` has the shape (terms, features).
    """

    factors: Integers
    weights: Numbers


@dataclass(frozen=True, slots=True)
class Attribution:
    """Shapley values of the margin of a tree ensemble; see the module."""

    features: int
    _feature: Integers
    _low: Bounds
    _high: Bounds
    """The distinct conditions `low <= x[feature] < high`; many leaves share one."""
    _terms: tuple[_Terms, ...]

    @classmethod
    def of(cls, booster: xgb.Booster) -> Self:
        """The attribution of a booster of trees with numeric splits. Raises `ValueError` for any other."""
        found = json.loads(bytes(booster.save_raw("json")))["learner"]["gradient_booster"]
        if found["name"] != "gbtree" or any(tree["categories"] for tree in found["model"]["trees"]):
            raise ValueError("the booster is not an ensemble of trees with numeric splits")
        paths = _merged(*_climbed(_nodes(found["model"]["trees"])))
        feature, low, high = paths.feature.ravel(), paths.low.ravel(), paths.high.ravel()
        ranks = (np.unique(bounds, return_inverse=True)[1] for bounds in (low, high))
        first, number = _distinct(np.column_stack([feature, *ranks]))
        features = booster.num_features()
        terms = _gathered(_expanded(paths, features), number.reshape(paths.feature.shape))
        return cls(features, feature[first], low[first], high[first], tuple(terms))

    def to_bytes(self) -> bytes:
        """As it stands in a file: an `npz` of plain arrays, the same bytes for the same trees."""
        arrays: dict[str, Any] = {"feature": self._feature, "low": self._low, "high": self._high}
        for size, terms in enumerate(self._terms):
            arrays |= {f"factors_{size}": terms.factors, f"weights_{size}": terms.weights}
        file = io.BytesIO()
        np.savez(file, allow_pickle=False, **arrays)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """What `to_bytes` gave. Raises `ValueError` if it is not that."""
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                arrays = dict(file)
            sizes = sum(name.startswith("weights_") for name in arrays)
            terms = tuple(_Terms(arrays[f"factors_{n}"], arrays[f"weights_{n}"]) for n in range(sizes))
            return cls(terms[0].weights.shape[1], arrays["feature"], arrays["low"], arrays["high"], terms)
        except (OSError, EOFError, KeyError, IndexError, ValueError, BadZipFile) as error:
            raise ValueError("not the file of an attribution") from error

    def values(self, matrix: npt.NDArray[np.float32]) -> Numbers:
        """Shapley values of the margin, float64 (n, features), for finite float32 (n, features).

        With the expected margin of the training data they add up to the margin.
        """
        if len(matrix) == 1:
            return self._of_one(matrix[0])
        parts = [
            self._of_some(matrix[start : start + _ROWS_AT_ONCE])
            for start in range(0, len(matrix), _ROWS_AT_ONCE)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, self.features))

    def _of_one(self, row: npt.NDArray[np.float32]) -> Numbers:
        # The same sums without a second dimension, which for one row costs more than they do.
        x = row[self._feature]
        holds = (x >= self._low) & (x < self._high)
        total = np.zeros(self.features)
        for terms in self._terms:
            if not terms.factors.shape[1]:
                total += terms.weights.sum(axis=0)
                continue
            first, *others = terms.factors.T
            product = holds[first]
            for factor in others:
                product &= holds[factor]
            total += product.astype(np.float64) @ terms.weights
        return total[np.newaxis]

    def _of_some(self, matrix: npt.NDArray[np.float32]) -> Numbers:
        # By columns, so that what is picked and compared lies together in memory.
        x = np.ascontiguousarray(matrix.T)[self._feature]
        holds = ((x >= self._low[:, None]) & (x < self._high[:, None])).astype(np.float64)
        total = np.zeros((self.features, len(matrix)))
        for terms in self._terms:
            product = np.ones((len(terms.factors), len(matrix)))
            for factor in terms.factors.T:
                product *= holds[factor]
            total += terms.weights.T @ product
        return total.T


def _nodes(trees: list[dict[str, Any]]) -> _Nodes:
    sizes = [len(tree["left_children"]) for tree in trees]
    offsets = np.repeat(np.cumsum([0, *sizes[:-1]]), sizes)

    def joined(name: str, dtype: Any) -> Any:
        return np.fromiter(itertools.chain.from_iterable(tree[name] for tree in trees), dtype, sum(sizes))

    left = joined("left_children", np.int64)
    right = joined("right_children", np.int64)
    inner = np.flatnonzero(left != _NOBODY)
    left[inner] += offsets[inner]
    parent = np.full(len(left), _NOBODY)
    parent[left[inner]] = inner
    parent[right[inner] + offsets[inner]] = inner
    return _Nodes(
        parent,
        left,
        joined("split_indices", np.int64),
        joined("split_conditions", np.float32),
        joined("sum_hessian", np.float64),
    )


def _climbed(nodes: _Nodes) -> tuple[Numbers, list[_Paths]]:
    """The leaves' values, and step by step from each leaf to its root the condition passed."""
    leaves = np.flatnonzero(nodes.left == _NOBODY)
    at, steps = leaves, []
    while (nodes.parent[at] != _NOBODY).any():
        above = nodes.parent[at]
        moving = above != _NOBODY
        node = np.where(moving, above, at)
        went_left = nodes.left[node] == at
        threshold = nodes.threshold[node]
        steps.append(
            _Paths(
                nodes.threshold[leaves].astype(np.float64),
                np.where(moving, nodes.feature[node], _NOBODY),
                np.where(moving & ~went_left, threshold, np.float32(-np.inf)),
                np.where(moving & went_left, threshold, np.float32(np.inf)),
                np.where(moving, nodes.weight[at] / nodes.weight[node], 1.0),
            )
        )
        at = node
    return nodes.threshold[leaves].astype(np.float64), steps


def _merged(value: Numbers, steps: list[_Paths]) -> _Paths:
    """Conditions on one feature, met twice on a path, as one."""
    places = max(len(steps), 1)
    shape = (len(value), places)
    feature = np.full(shape, _NOBODY)
    low = np.full(shape, -np.inf, dtype=np.float32)
    high = np.full(shape, np.inf, dtype=np.float32)
    share = np.ones(shape)
    for number, step in enumerate(steps):
        waiting = step.feature != _NOBODY
        for place in range(number + 1):
            free = feature[:, place] == _NOBODY
            here = waiting & (free | (feature[:, place] == step.feature))
            feature[here, place] = step.feature[here]
            low[here, place] = np.maximum(low[here, place], step.low[here])
            high[here, place] = np.minimum(high[here, place], step.high[here])
            share[here, place] *= step.share[here]
            waiting &= ~here
    # A place without a feature holds for everybody, whatever the column that it looks at.
    return _Paths(value, np.where(feature == _NOBODY, 0, feature), low, high, share)


def _expanded(paths: _Paths, features: int) -> dict[tuple[int, ...], Numbers]:
    """The Shapley values of each leaf's game, multiplied out: places on the path -> (leaves, features).

    Player j gains value * (holds_j - share_j) over the coalitions S of the others, each of which multiplies
    `holds` of those in S with `share` of those outside, weighted by |S|! (players - |S| - 1)! / players!.
    """
    leaves, players = paths.feature.shape
    places = range(players)
    sums = {
        chosen: np.zeros((leaves, features))
        for size in range(players + 1)
        for chosen in itertools.combinations(places, size)
    }
    rows = np.arange(leaves)
    for j in places:
        others = [place for place in places if place != j]
        column = paths.feature[:, j]
        for size in range(players):
            weight = math.factorial(size) * math.factorial(players - size - 1) / math.factorial(players)
            for coalition in itertools.combinations(others, size):
                outside = [place for place in others if place not in coalition]
                gain = weight * paths.value * paths.share[:, outside].prod(axis=1)
                sums[tuple(sorted((*coalition, j)))][rows, column] += gain
                sums[coalition][rows, column] -= gain * paths.share[:, j]
    return sums


def _gathered(expanded: dict[tuple[int, ...], Numbers], number: Integers) -> Iterator[_Terms]:
    """The products of one size together, each distinct product once."""
    for size in range(number.shape[1] + 1):
        of_size = [(chosen, weights) for chosen, weights in expanded.items() if len(chosen) == size]
        factors = np.concatenate([np.sort(number[:, list(chosen)], axis=1) for chosen, _ in of_size])
        weights = np.concatenate([weights for _, weights in of_size])
        first, term = _distinct(factors)
        sums = np.zeros((len(first), weights.shape[1]))
        np.add.at(sums, term, weights)
        yield _Terms(factors[first], sums)


def _distinct(rows: Integers) -> tuple[Integers, Integers]:
    """Where each distinct row of whole numbers first stands, and which of these each row is."""
    codes = np.zeros(len(rows), dtype=np.int64)
    for column in rows.T:
        codes = codes * (column.max(initial=0) + 1) + column
    _, first, number = np.unique(codes, return_index=True, return_inverse=True)
    return first, number
