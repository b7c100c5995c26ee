"""Whether the rows that are scored still look like those that a model was tried on.

Belongs here: the reference that is fixed at training, the population stability index, shares and missing
rates, and the performance to be expected before outcomes are known. The same for all model families.
Does not belong here: which change is too much (`thresholds.py`), reading rows, outcomes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from medscore_assets.contracts.contract import Contract, Matrix
from medscore_assets.contracts.fields import Category, Flag
from resources.errors import IntegrityError

Numbers = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

BINS = 10
"""Cells of about equal count into which a number or score is cut, as is the convention for PSI."""

QUANTILES = 500
"""How finely the distribution of the scores is kept, so that any later edges can be put on it."""

HALF_A_CASE = 0.5
"""Added to every cell where one of two distributions has an empty cell, so that its logarithm exists."""


class _Stored(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


Count = Annotated[int, Field(ge=0)]


class NumberBins(_Stored):
    """How many values fell between edges; a value on an edge belongs to the cell below it.

    The first cell lies below all values of the reference and the last above: both are empty in it.
    """

    kind: Literal["numbers"] = "numbers"
    edges: tuple[float, ...]
    counts: tuple[Count, ...]
    """One more than there are edges."""

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if len(self.counts) != len(self.edges) + 1 or not self.edges:
            raise ValueError("there must be one more count than edges")
        if any(low >= high for low, high in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError("the edges must rise")
        return self

    @classmethod
    def of(cls, values: npt.ArrayLike, bins: int = BINS) -> NumberBins:
        """Edges at the quantiles of `values`, shape (n,), n > 0; equal quantiles make one edge."""
        found = np.asarray(values, dtype=np.float64)
        inner = np.quantile(found, np.linspace(0, 1, bins + 1)[1:], method="inverted_cdf")
        edges = np.unique(np.append(inner, np.nextafter(found.min(), -np.inf)))
        made = cls(edges=tuple(edges.tolist()), counts=(0,) * (len(edges) + 1))
        return cls(edges=made.edges, counts=tuple(made.count(found).tolist()))

    def count(self, values: npt.ArrayLike) -> Counts:
        """How many of `values` fall into each cell."""
        cells = np.searchsorted(self.edges, np.asarray(values, dtype=np.float64), side="left")
        return np.bincount(cells, minlength=len(self.counts)).astype(np.int64)


class CategoryBins(_Stored):
    """How many rows had each category, or code; in the order of the codes, absent ones included."""

    kind: Literal["categories"] = "categories"
    categories: tuple[str, ...]
    counts: tuple[Count, ...]

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if len(self.counts) != len(self.categories):
            raise ValueError("there must be one count per category")
        return self

    @classmethod
    def of(cls, codes: npt.ArrayLike, categories: Sequence[str]) -> CategoryBins:
        """Codes 0, 1, ... of shape (n,), as positions in `categories`."""
        made = cls(categories=tuple(categories), counts=(0,) * len(categories))
        return cls(categories=made.categories, counts=tuple(made.count(codes).tolist()))

    def count(self, codes: npt.ArrayLike) -> Counts:
        """How many of `codes` there are of each category."""
        found = np.asarray(codes).astype(np.int64)
        return np.bincount(found, minlength=len(self.categories)).astype(np.int64)


Bins = Annotated[NumberBins | CategoryBins, Field(discriminator="kind")]


class Reference(_Stored):
    """What a model's features and scores looked like on the cases that it was measured on.

    Stored with the model, so that the edges never move with what they are to judge.
    """

    format: Literal["medscore-reference/1"] = "medscore-reference/1"
    n: Annotated[int, Field(gt=0)]
    begins: AwareDatetime
    """Time of the first case."""
    ends: AwareDatetime
    """Time of the last case."""
    features: dict[str, Bins]
    score: NumberBins
    score_quantiles: Annotated[tuple[float, ...], Field(min_length=QUANTILES, max_length=QUANTILES)]

    @model_validator(mode="after")
    def _count_the_same_cases(self) -> Self:
        for name, bins in {**self.features, "score": self.score}.items():
            if sum(bins.counts) != self.n:
                raise ValueError(f"the counts of {name} do not add up to {self.n}")
        return self

    def to_json(self) -> bytes:
        """As it stands in the file."""
        return (self.model_dump_json(indent=1) + "\n").encode()

    @classmethod
    def from_json(cls, content: bytes, where: str) -> Self:
        """The reference in a file. Raises `IntegrityError` that names the wrong entries."""
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            entries = ", ".join(".".join(map(str, e["loc"])) or e["msg"] for e in error.errors())
            raise IntegrityError(
                f"the drift reference is not valid: {entries}",
                where=where,
                mend="Restore the registered files, or train anew.",
            ) from error


def reference_of(
    matrix: Matrix, contract: Contract, scores: npt.ArrayLike, begins: datetime, ends: datetime
) -> Reference:
    """The reference of encoded rows, float32 (n, features), and their scores, (n,), n > 0."""
    values = np.asarray(scores, dtype=np.float64)
    middles = (np.arange(QUANTILES) + 0.5) / QUANTILES
    return Reference(
        n=len(matrix),
        begins=begins,
        ends=ends,
        features={
            feature.name: (
                CategoryBins.of(column, categories)
                if (categories := _categories(feature))
                else NumberBins.of(column)
            )
            for feature, column in zip(contract.features, matrix.T, strict=True)
        },
        score=NumberBins.of(values),
        score_quantiles=tuple(np.quantile(values, middles).tolist()),
    )


def _categories(feature: object) -> tuple[str, ...]:
    if isinstance(feature, Category):
        return feature.categories
    return ("false", "true") if isinstance(feature, Flag) else ()


def psi(expected: npt.ArrayLike, actual: npt.ArrayLike) -> float | None:
    """The population stability index of two tables of counts over the same cells.

    The sum of (a - e) x ln(a / e) over the cells, with e and a as shares. A cell that is empty in both is
    left out. Where a cell is empty in one of them only, half a case is added to every cell of both, in
    place of a tiny constant, whose choice would decide the result. None if a table holds no case at all.
    """
    e, a = np.asarray(expected, dtype=np.float64), np.asarray(actual, dtype=np.float64)
    if e.shape != a.shape or e.ndim != 1:
        raise ValueError(f"tables of {e.shape} and {a.shape} cells cannot be compared")
    if (e < 0).any() or (a < 0).any():
        raise ValueError("a count is below 0")
    if not e.sum() or not a.sum():
        return None
    filled = (e > 0) | (a > 0)
    e, a = e[filled], a[filled]
    if not (e.all() and a.all()):
        e, a = e + HALF_A_CASE, a + HALF_A_CASE
    e, a = e / e.sum(), a / a.sum()
    # Rounding may leave the smallest of negatives where both are the same.
    return max(0.0, float(np.sum((a - e) * np.log(a / e))))


def feature_psi(reference: Reference, matrix: Matrix, contract: Contract) -> dict[str, float | None]:
    """PSI per feature of encoded rows, float32 (n, features), against the reference."""
    columns = dict(zip(contract.feature_names, matrix.T, strict=True))
    return {name: psi(bins.counts, bins.count(columns[name])) for name, bins in reference.features.items()}


def mix(indices: npt.ArrayLike, names: Sequence[str]) -> dict[str, int]:
    """How many of the `indices`, shape (n,), there are of each name."""
    counts = np.bincount(np.asarray(indices, dtype=np.int64), minlength=len(names))
    return dict(zip(names, counts.tolist(), strict=True))


def missing_rates(missing: Mapping[str, int], rows: int) -> dict[str, float | None]:
    """The share of `rows` in which each field is missing; None without rows."""
    return {name: count / rows if rows else None for name, count in missing.items()}


@dataclass(frozen=True, slots=True)
class Expected:
    """The performance to be expected if every risk is exactly right; None where it is undefined."""

    n: int
    events: float
    auroc: float | None
    brier: float | None


def expected_performance(probabilities: npt.ArrayLike) -> Expected:
    """What calibrated risks, shape (n,), promise of themselves before any outcome is known.

    The idea of NannyML's confidence-based performance estimation. If a case has the outcome with its
    probability p, independently of others, then the expected squared error is p (1 - p), and of two cases
    i and j the first has the outcome and the second has not with p_i (1 - p_j). The AUROC is the ratio of
    the expected number of such pairs that are ranked rightly (ties count half) to the expected number of
    all. It sees a change of who is scored. It cannot see that the same patients now fare otherwise
    (concept drift): then the risks are no longer calibrated, and it errs as they do.
    """
    p = np.sort(np.asarray(probabilities, dtype=np.float64))
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError("a probability is outside of 0..1 or not a number")
    if not len(p):
        return Expected(0, 0.0, None, None)
    q = 1 - p
    pairs = float(p.sum() * q.sum() - p @ q)
    # Per group of equal risks: those below it, and half of the other ones within it.
    starts = np.flatnonzero(np.append(True, np.diff(p) > 0))
    events, others = np.add.reduceat(p, starts), np.add.reduceat(q, starts)
    itself = np.add.reduceat(p * q, starts)
    below = np.cumsum(others) - others
    right = float(np.sum(events * below + 0.5 * (events * others - itself)))
    return Expected(len(p), float(p.sum()), right / pairs if pairs > 0 else None, float(np.mean(p * q)))


@dataclass(frozen=True, slots=True)
class ExpectedConfusion:
    """Expected counts of flagging everybody above a threshold."""

    true_positives: float
    false_positives: float
    false_negatives: float
    true_negatives: float


def expected_confusion(probabilities: npt.ArrayLike, threshold: float) -> ExpectedConfusion:
    """The counts that calibrated risks, shape (n,), promise at a threshold; same assumption as above."""
    p = np.asarray(probabilities, dtype=np.float64)
    flagged = p > threshold
    return ExpectedConfusion(
        true_positives=float(p[flagged].sum()),
        false_positives=float((1 - p[flagged]).sum()),
        false_negatives=float(p[~flagged].sum()),
        true_negatives=float((1 - p[~flagged]).sum()),
    )
