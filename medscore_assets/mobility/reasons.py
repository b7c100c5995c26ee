"""The reasons of a forecast: which features add or take how many steps, in plain words.

Belongs here: the order of reasons, their sums in whole steps, and the short form in which they are stored.
Does not belong here: the contributions themselves (`model.py`), what a value is called (`wording.py`).

Reasons are told in whole steps. Those that are told, the rest and what keeps a forecast at 0 add up exactly
to forecast minus baseline, both rounded: the rest takes what rounding leaves. Of many rows they are made
column by column, without their words: a day has 600,000 of them, and few are ever read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from medscore_assets.contracts.measures import Measure
from medscore_assets.contracts.mobility import MOBILITY
from medscore_assets.mobility.encoding import CALENDAR, matrix_name, target_days
from medscore_assets.mobility.model import Explained, MobilityModel
from medscore_assets.mobility.wording import words

Numbers = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]
Wholes = npt.NDArray[np.int64]

_ROWS_AT_ONCE = 4096
"""As many as the caches of one core hold."""

_FEATURES = {matrix_name(feature.name): feature for feature in MOBILITY.features}


@dataclass(frozen=True, slots=True)
class Reason:
    """What one feature does to one forecast, in whole steps."""

    feature: str
    value: float | int | str | None
    steps: int
    text: str
    """`+310 steps because it is a Saturday`."""


@dataclass(frozen=True, slots=True)
class Reasons:
    """Why a forecast differs from the mean of the patient's days to date, in whole steps.

    `baseline` + every reason's steps + `other` + `raised` is `forecast`.
    """

    forecast: int
    baseline: int
    reasons: list[Reason]
    other: int
    """All features that are not among the reasons, and what the model adds for everybody."""
    raised: int
    """What raises a sum below 0 to 0 steps."""


@dataclass(frozen=True, slots=True)
class ReasonColumns:
    """The reasons of many forecasts: int64 arrays of shape (n,), and texts."""

    forecast: Wholes
    baseline: Wholes
    listed: pa.Array
    """JSON `[[feature, value, steps], ...]` of each row, strongest first."""
    other: Wholes
    raised: Wholes

    @classmethod
    def joined(cls, parts: Sequence[tuple[Places, Self]]) -> Self:
        """Parts as one, each row at its place; the places of all parts are 0 to n - 1."""
        order = np.argsort(np.concatenate([places for places, _ in parts]))

        def numbers(name: str) -> Wholes:
            found: Wholes = np.concatenate([getattr(part, name) for _, part in parts])[order]
            return found

        listed = pa.concat_arrays([part.listed for _, part in parts]).take(pa.array(order))
        return cls(numbers("forecast"), numbers("baseline"), listed, numbers("other"), numbers("raised"))

    @classmethod
    def empty(cls) -> Self:
        """Of no forecasts."""
        none = np.empty(0, np.int64)
        return cls(none, none, pa.array([], pa.string()), none, none)

    def rows(self) -> Iterator[Reasons]:
        """Row by row, in words."""
        columns = (self.forecast, self.baseline, self.other, self.raised)
        numbers = zip(*(column.tolist() for column in columns), strict=True)
        for (forecast, baseline, other, raised), text in zip(numbers, self.listed.to_pylist(), strict=True):
            yield Reasons(forecast, baseline, told(orjson.loads(text)), other, raised)


def told(listed: Sequence[Sequence[Any]]) -> list[Reason]:
    """Reasons in words, from `[feature, value, steps]` of each."""
    return [_reason(_FEATURES[name], value, steps) for name, value, steps in listed]


def reasons(model: MobilityModel, table: pa.Table, explained: Explained, count: int = 3) -> ReasonColumns:
    """Per row of features its `count` strongest reasons, strongest first.

    What adds less than half a step is no reason: such a row has fewer.
    """
    contributions = explained.contributions
    strongest = _strongest(contributions, count)
    steps = _whole(np.take_along_axis(contributions, strongest, axis=1))
    baseline, forecast = _whole(explained.baseline), _whole(explained.steps)
    raised = _whole(np.maximum(-(explained.baseline + explained.score), 0.0))
    other = forecast - baseline - raised - steps.sum(axis=1)
    return ReasonColumns(forecast, baseline, _listed(model, table, strongest, steps), other, raised)


def reasons_of_naive(source: Measure, values: Numbers, baseline: Numbers, forecast: Numbers) -> ReasonColumns:
    """Per row the one reason of a naive forecast: the feature that it repeats. All arrays of shape (n,).

    None where that is the mean to date itself, or is not known and the mean to date stands in.
    """
    whole, mean = _whole(forecast), _whole(baseline)
    told = _entries(matrix_name(source.name), pa.array(values, from_pandas=True), whole - mean)
    entries = pc.if_else(pa.array(whole != mean), told, pa.scalar(None, pa.string()))
    none = np.zeros(len(whole), np.int64)
    return ReasonColumns(whole, mean, _lists([entries]), none, none)


def _reason(feature: Measure, value: Any, steps: int) -> Reason:
    unit = "step" if abs(steps) == 1 else "steps"
    text = f"{steps:+,} {unit} because {words(feature, value)}"
    return Reason(matrix_name(feature.name), value, steps, text)


def _strongest(contributions: Numbers, count: int) -> Places:
    """The places of each row's largest contributions in size, (n, count); of equal ones the first."""
    count = min(count, contributions.shape[1])
    found = np.empty((len(contributions), count), np.intp)
    for start in range(0, len(contributions), _ROWS_AT_ONCE):
        sizes = np.abs(contributions[start : start + _ROWS_AT_ONCE], order="C")
        rows = np.arange(len(sizes))
        for rank in range(count):
            places = sizes.argmax(axis=1)
            found[start : start + len(sizes), rank] = places
            sizes[rows, places] = -1.0
    return found


def _listed(model: MobilityModel, table: pa.Table, strongest: Places, steps: Wholes) -> pa.Array:
    """The reasons of each row as JSON: made feature by feature, then put in order."""
    features = model.encoding.contract.features
    # Cells are row * count + rank, gathered by their feature.
    cells = np.flatnonzero(steps)
    numbers = strongest.ravel()[cells].astype(np.int16)
    by_feature = np.argsort(numbers, kind="stable")
    cells, numbers = cells[by_feature], numbers[by_feature]
    bounds = np.searchsorted(numbers, np.arange(len(features) + 1)).tolist()
    made: list[pa.Array] = [pa.array([], pa.string())]
    for feature, begin, end in zip(features, bounds, bounds[1:], strict=False):
        if begin < end:
            mine = cells[begin:end]
            values = _values(feature, table, mine // strongest.shape[1], model.encoding.horizon_days)
            made.append(_entries(matrix_name(feature.name), values, steps.ravel()[mine]))
    # Of each cell its place in `made`; -1 where there is no reason.
    places = np.full(strongest.size, -1)
    places[cells] = np.arange(len(cells))
    entries = pa.concat_arrays(made)
    ranks = places.reshape(strongest.shape).T
    return _lists([entries.take(pa.array(of_rank, mask=of_rank < 0)) for of_rank in ranks])


def _values(feature: Measure, table: pa.Table, rows: Places, horizon_days: int) -> pa.Array:
    """What a feature says of some rows; of the calendar, what the target day's says."""
    if feature.name in CALENDAR:
        return pa.array(CALENDAR[feature.name](target_days(table, horizon_days)[rows]))
    return table[feature.name].take(pa.array(rows)).combine_chunks()


def _entries(name: str, values: pa.Array, steps: Wholes) -> pa.Array:
    """`["name",value,steps]` of each value."""
    ends = pc.cast(pa.array(steps), pa.string())
    return pc.binary_join_element_wise(f'["{name}",', _as_json(values), ",", ends, "]", "")


def _lists(ranks: Sequence[pa.Array]) -> pa.Array:
    """`[entry,entry]` of each row; where an entry is null, those of all later ranks are."""
    first, *others = ranks
    later = [pc.binary_join_element_wise(",", entries, "") for entries in others]
    # Nulls are replaced and not skipped: skipping drops a row that has nothing but nulls.
    none = {"null_handling": "replace", "null_replacement": ""}
    return pc.binary_join_element_wise("[", first, *later, "]", "", **none)


def _as_json(values: pa.Array) -> pa.Array:
    """Each value as orjson writes it; where it is null, `null`."""
    if pa.types.is_floating(values.type):
        numbers = np.ascontiguousarray(values.to_numpy(zero_copy_only=False), np.float64)
        text = orjson.dumps(numbers, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].decode()
        return pc.split_pattern(pa.scalar(text), ",").values if len(numbers) else pa.array([], pa.string())
    if pa.types.is_integer(values.type) or pa.types.is_boolean(values.type):
        return pc.fill_null(pc.cast(values, pa.string()), "null")
    coded = values if pa.types.is_dictionary(values.type) else values.dictionary_encode()
    texts = [orjson.dumps(text).decode() for text in coded.dictionary.to_pylist()]
    return pc.fill_null(pa.array(texts, pa.string()).take(coded.indices), "null")


def _whole(values: Numbers) -> Wholes:
    return np.rint(values).astype(np.int64)
