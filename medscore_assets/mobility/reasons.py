"""The reasons of a forecast: which features add or take how many steps, in plain words.

Belongs here: the order of reasons and their sums in whole steps. Does not belong here: the contributions
themselves (`model.py`), what a value is called (`wording.py`).

Reasons are told in whole steps. Those that are told, the rest and what keeps a forecast at 0 add up exactly
to forecast minus baseline, both rounded: the rest takes what rounding leaves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from medscore_assets.contracts.measures import Measure
from medscore_assets.mobility.encoding import CALENDAR, matrix_name, target_days
from medscore_assets.mobility.model import Explained, MobilityModel
from medscore_assets.mobility.wording import words

Numbers = npt.NDArray[np.float64]
Wholes = npt.NDArray[np.int64]


@dataclass(slots=True)
class Reason:
    """What one feature does to one forecast, in whole steps.

    Not frozen, as `Reasons` is not: frozen ones take three times as long to make, and a day has 300,000.
    """

    feature: str
    value: float | int | str | None
    steps: int
    text: str
    """`+310 steps because it is a Saturday`."""


@dataclass(slots=True)
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

    def to_json(self) -> str:
        """As it is stored beside a forecast."""
        return orjson.dumps(self).decode()


def reasons(model: MobilityModel, table: pa.Table, explained: Explained, count: int = 3) -> list[Reasons]:
    """Per row of features its `count` strongest reasons, strongest first.

    What adds less than half a step is no reason: such a row has fewer.
    """
    contributions = explained.contributions
    strongest = np.argsort(-np.abs(contributions), axis=1, kind="stable")[:, :count]
    told = np.rint(np.take_along_axis(contributions, strongest, axis=1)).astype(np.int64)
    baseline, forecast = _whole(explained.baseline), _whole(explained.steps)
    score = explained.level + contributions.sum(axis=1)
    raised = _whole(np.maximum(-(explained.baseline + score), 0.0))
    other = forecast - baseline - raised - told.sum(axis=1)
    rows = zip(
        forecast.tolist(),
        baseline.tolist(),
        _told(model, table, strongest, told),
        other.tolist(),
        raised.tolist(),
        strict=True,
    )
    return [Reasons(*row) for row in rows]


def reasons_of_naive(source: Measure, values: Numbers, baseline: Numbers, steps: Numbers) -> list[Reasons]:
    """Per row the one reason of a naive forecast: the feature that it repeats. All arrays of shape (n,).

    None where that is the mean to date itself, or is not known and the mean to date stands in.
    """
    rows = zip(_whole(steps).tolist(), _whole(baseline).tolist(), values.tolist(), strict=True)
    return [
        Reasons(
            forecast,
            mean,
            [told_reason(source, value, forecast - mean)] if forecast != mean else [],
            0,
            0,
        )
        for forecast, mean, value in rows
    ]


def told_reason(feature: Measure, value: Any, steps: int) -> Reason:
    """The reason that a feature with this value adds these whole steps."""
    unit = "step" if abs(steps) == 1 else "steps"
    return Reason(
        matrix_name(feature.name), value, steps, f"{steps:+,} {unit} because {words(feature, value)}"
    )


def _told(
    model: MobilityModel, table: pa.Table, strongest: npt.NDArray[np.intp], told: Wholes
) -> list[list[Reason]]:
    """The reasons per row, made feature by feature: reading a column once is what makes it fast."""
    made: list[list[Reason | None]] = [[None] * strongest.shape[1] for _ in range(len(strongest))]
    for place in np.unique(strongest[told != 0]).tolist():
        feature = model.encoding.contract.features[place]
        rows, ranks = np.nonzero((strongest == place) & (told != 0))
        values = _values(feature, table, rows, model.encoding.horizon_days)
        for row, rank, value, steps in zip(
            rows.tolist(), ranks.tolist(), values, told[rows, ranks].tolist(), strict=True
        ):
            made[row][rank] = told_reason(feature, value, steps)
    return [[reason for reason in of_row if reason is not None] for of_row in made]


def _values(feature: Measure, table: pa.Table, rows: npt.NDArray[np.intp], horizon_days: int) -> list[Any]:
    """What a feature says of some rows; of the calendar, what the target day's says."""
    if feature.name in CALENDAR:
        found: list[Any] = CALENDAR[feature.name](target_days(table, horizon_days)[rows]).tolist()
        return found
    listed: list[Any] = table[feature.name].take(pa.array(rows)).to_pylist()
    return listed


def _whole(values: Numbers) -> Wholes:
    return np.rint(values).astype(np.int64)
