"""The words of a score's reasons: what a feature's contribution is called, for a nurse and for a program.

Belongs here: one reason as JSON or as an object, the order of reasons, and what counts as none.
Does not belong here: the contributions themselves (`attribution.py`, `scoring.py`).
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from medscore_assets.contracts.contract import Matrix
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.readmission.scoring import Explained

Direction = Literal["raises", "lowers", "neutral"]

DECIMALS = 6
"""Contributions are told so far; what is nothing by then is no reason."""

_EFFECT: dict[Direction, str] = {
    "raises": "raises the risk",
    "lowers": "lowers the risk",
    "neutral": "does not change the risk",
}


@dataclass(slots=True)
class Factor:
    """What one feature does to one score. The contribution is in log-odds, rounded to `DECIMALS`.

    Not frozen: a frozen one takes three times as long to make, ten times a score.
    """

    feature: str
    value: int | str | bool
    contribution: float
    direction: Direction
    text: str


def top_factors(matrix: Matrix, explained: Explained, count: int) -> list[str]:
    """Per row its `count` strongest reasons, strongest first, as a JSON array.

    Each is `{feature, value, contribution, direction, text}`; the contribution is in log-odds
    against the average patient, and all ten with the baseline add up to the logit of the probability.
    What contributes nothing, to six decimals, is no reason: such a row has fewer.
    """
    strongest = _by_strength(explained.contributions)[:, :count]
    rows = np.arange(len(matrix))[:, np.newaxis]
    contributions = np.round(explained.contributions[rows, strongest], DECIMALS)
    known, which = _distinct(strongest, matrix[rows, strongest], contributions > 0)
    words = [_reason(*key) for key in known]
    reasons = [
        f"{words[place][0]}{contribution!r}{words[place][1]}" if contribution else ""
        for place, contribution in zip(which, contributions.ravel().tolist(), strict=True)
    ]
    width = strongest.shape[1]
    return [
        f"[{', '.join(filter(None, reasons[start : start + width]))}]"
        for start in range(0, len(reasons), width)
    ]


def _distinct(
    columns: npt.NDArray[np.intp], codes: npt.NDArray[np.float32], raises: npt.NDArray[np.bool_]
) -> tuple[list[tuple[int, float, bool]], list[int]]:
    """The different triples of three arrays of one shape, and for each place which of them it holds."""
    # One integer holds all three: below the code's bits, above them the column and the direction.
    bits = np.ascontiguousarray(codes).view(np.uint32).astype(np.int64)
    _, first, which = np.unique(bits | (columns * 2 + raises) << 32, return_index=True, return_inverse=True)
    at = (array.ravel()[first].tolist() for array in (columns, codes, raises))
    return list(zip(*at, strict=True)), which.ravel().tolist()


def factors(matrix: Matrix, explained: Explained) -> list[tuple[Factor, ...]]:
    """Per row all its features, the strongest first, also those that do nothing."""
    return [
        tuple(_as_factor(column, codes[column], contributions[column]) for column in order)
        for order, codes, contributions in zip(
            _by_strength(explained.contributions).tolist(),
            matrix.tolist(),
            np.round(explained.contributions, DECIMALS).tolist(),
            strict=True,
        )
    ]


def _by_strength(contributions: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """Columns per row, the strongest contribution first; ties in the contract's order."""
    return np.argsort(-np.abs(contributions), axis=1, kind="stable")


def _as_factor(column: int, code: float, contribution: float) -> Factor:
    direction: Direction = "neutral" if not contribution else "raises" if contribution > 0 else "lowers"
    feature, value, text = _words(column, code, direction)
    # Not minus zero, which JSON would show.
    return Factor(feature, value, contribution or 0.0, direction, text)


@functools.lru_cache(maxsize=4096)
def _reason(column: int, code: float, raises: bool) -> tuple[str, str]:
    """A reason as JSON, up to its contribution and from there on. A day has a few hundred different ones."""
    direction: Direction = "raises" if raises else "lowers"
    feature, value, text = _words(column, code, direction)
    known = {"feature": feature, "value": value}
    stated = {"direction": direction, "text": text}
    return f'{json.dumps(known)[:-1]}, "contribution": ', f", {json.dumps(stated)[1:]}"


@functools.lru_cache(maxsize=4096)
def _words(column: int, code: float, direction: Direction) -> tuple[str, int | str | bool, str]:
    """A feature's name, its value, and both with their effect in plain words."""
    feature = READMISSION.features[column]
    value = feature.decode(code)
    words = feature.words(value)  # type: ignore[arg-type]
    return feature.name, value, f"{words} ({_EFFECT[direction]})"
