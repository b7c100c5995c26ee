"""Rows of the feature table as the matrix that a mobility model reads, for a horizon.

Belongs here: which columns a model has, codes of texts, the calendar of the target day.
Does not belong here: what features are (`contracts/mobility.py`), how they are computed (`features.py`).

A row of features is of day D and knows days before D. At a horizon of h days the target is D + h - 1. What a
model may know of the target day itself is its date: the calendar features are those of the target day.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from medscore_assets.contracts.measures import FeatureTable, Measure
from resources.errors import ContractViolation

Numbers = npt.NDArray[np.float64]
Days = npt.NDArray[np.datetime64]

BASELINE = "baseline_mean"
SPREAD = "baseline_std"
VALID_DAYS = "baseline_days"
DISEASE = "disease"
LAG = "steps_lag_{}"
MEAN = "steps_mean_{}"
"""The features that forecasts lean on beside the model."""

UNSEEN = -1.0
"""The code of a text that the model does not know."""

MOST_LABELS = 30
"""Texts that a model tells apart where the contract leaves the list open: the most frequent ones."""


def _day_of_year(days: Days) -> Numbers:
    begun = days.astype("datetime64[Y]").astype("datetime64[D]")
    found: Numbers = (days - begun).astype(np.float64) + 1
    return found


def _angle(days: Days) -> Numbers:
    years = days.astype("datetime64[Y]")
    length = ((years + 1).astype("datetime64[D]") - years.astype("datetime64[D]")).astype(np.float64)
    found: Numbers = 2 * np.pi * (_day_of_year(days) - 1) / length
    return found


def _weekday(days: Days) -> Numbers:
    # 1970-01-01 was a Thursday.
    return ((days.astype(np.int64) + 3) % 7).astype(np.float64)


CALENDAR: dict[str, Callable[[Days], Numbers]] = {
    "weekday": _weekday,
    "month": lambda days: (days.astype("datetime64[M]").astype(np.int64) % 12 + 1).astype(np.float64),
    "is_weekend": lambda days: (_weekday(days) >= 5).astype(np.float64),
    "year_sin": lambda days: np.asarray(np.sin(_angle(days))),
    "year_cos": lambda days: np.asarray(np.cos(_angle(days))),
}
"""The calendar features of the contract, for the days whose steps are forecast."""


@dataclass(frozen=True)
class Encoding:
    """The columns of a model's matrix. `vocabulary` has the texts of a feature; the position is the code."""

    contract: FeatureTable
    horizon_days: int
    vocabulary: Mapping[str, tuple[str, ...]]

    @classmethod
    def learned(cls, contract: FeatureTable, horizon_days: int, table: pa.Table) -> Self:
        """Closed lists as the contract has them; of an open one, the texts most frequent in the table."""
        texts = (feature for feature in contract.features if feature.kind in ("category", "label"))
        vocabulary = {f.name: f.categories or _most_frequent(table[f.name]) for f in texts}
        return cls(contract, horizon_days, vocabulary)

    @property
    def names(self) -> tuple[str, ...]:
        """The columns, in order; those of the target day's calendar begin with `target_`."""
        return tuple(matrix_name(feature.name) for feature in self.contract.features)

    def encode(self, table: pa.Table) -> Numbers:
        """Rows of features as float64 (n, columns), column by column in memory; NaN where nothing is known.

        Raises `ContractViolation` if a column is absent or of another type.
        """
        matrix = np.empty((table.num_rows, len(self.contract.features)), order="F")
        targets = target_days(table, self.horizon_days)
        for place, feature in enumerate(self.contract.features):
            if feature.name in CALENDAR:
                matrix[:, place] = CALENDAR[feature.name](targets)
            else:
                matrix[:, place] = self._codes(feature, _column(table, feature.name))
        return matrix

    def _codes(self, feature: Measure, column: pa.ChunkedArray) -> Numbers:
        if feature.name not in self.vocabulary:
            return numbers(column, feature.name)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            raise _of_another_type(feature.name)
        known = pa.array(self.vocabulary[feature.name], type=column.type)
        codes = pc.fill_null(pc.cast(pc.index_in(column, value_set=known), pa.float64()), UNSEEN)
        absent = np.asarray(pc.is_null(column))
        return np.where(absent, np.nan, np.asarray(codes))


def matrix_name(feature: str) -> str:
    """What a feature is called in a model's matrix."""
    return f"target_{feature}" if feature in CALENDAR else feature


def target_days(table: pa.Table, horizon_days: int) -> Days:
    """The day whose steps each row is to forecast, datetime64[D] (n,)."""
    days = np.asarray(_column(table, "day").cast(pa.date32())).astype("datetime64[D]")
    ahead = np.timedelta64(horizon_days - 1, "D")
    return np.asarray(days + ahead, dtype="datetime64[D]")


def numbers(column: pa.ChunkedArray, name: str) -> Numbers:
    """A numeric or boolean column as float64 (n,), NaN where it is null."""
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise _of_another_type(name)
    # Where values are missing, Arrow makes them NaN, and whole numbers float64 for it.
    return np.asarray(column.to_numpy(), np.float64)


def columns_of(table: pa.Table, names: tuple[str, ...]) -> dict[str, Numbers]:
    """Some features as float64 (n,), by name."""
    return {name: numbers(_column(table, name), name) for name in names}


def _column(table: pa.Table, name: str) -> pa.ChunkedArray:
    place = table.schema.get_field_index(name)
    if place < 0:
        raise ContractViolation(
            f"the table lacks the column {name}",
            where="mobility features",
            mend="Compute the features anew with this version.",
        )
    return table.column(place)


def _most_frequent(column: pa.ChunkedArray) -> tuple[str, ...]:
    counted = pc.value_counts(column.drop_null())
    pairs = zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True)
    # By name where the counts tie, so that the same table gives the same codes.
    ordered = sorted(pairs, key=lambda pair: (-pair[1], pair[0]))
    return tuple(sorted(str(text) for text, _ in ordered[:MOST_LABELS]))


def _of_another_type(name: str) -> ContractViolation:
    return ContractViolation(
        f"the column {name} has another type than its contract says",
        where="mobility features",
        mend="Compute the features anew with this version.",
    )
