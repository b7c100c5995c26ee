"""Monthly sums of a patient's days: what a baseline to date needs of the months that are over.

Belongs here: which days hold data, their sums by patient and month, and which months a day's baseline
reads. Does not belong here: the features themselves (`features.py`) and where files are.

All columns are whole numbers, so that sums of months and sums of days are equal to the last bit. A day
that is computed anew makes its month's rollup stale; `months_of` names it.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from typing import TYPE_CHECKING

import pyarrow as pa

from medscore_assets.contracts.mobility import MAX_DAILY_STEPS
from resources.lake import Dataset

if TYPE_CHECKING:
    import ibis.expr.types as ir

MONTHLY_ROLLUPS = Dataset(
    "processed/monthly_rollups",
    pa.schema(
        [
            ("patient_id", pa.string()),
            ("month", pa.date32()),
            ("days", pa.int32()),
            ("steps", pa.int64()),
            ("squares", pa.int64()),
            ("lowest", pa.int64()),
            ("highest", pa.int64()),
            ("last_day", pa.date32()),
        ]
    ),
    partition="month",
)
"""One row: a patient's days with data in the month that begins at `month`.

`days` is how many there are, `steps` and `squares` their sum and sum of squares, `lowest` and `highest` the
days with the fewest and most steps. A patient without such a day has no row.
"""


def days_with_data(daily: ir.Table) -> ir.Table:
    """The rows of `daily_steps` that count: those with a sum of steps that a day may have."""
    return daily.filter(daily.steps.between(0, MAX_DAILY_STEPS))


def monthly_rollup(daily: ir.Table) -> ir.Table:
    """`MONTHLY_ROLLUPS` of whole months of `daily_steps`, on the engine of the table."""
    days = days_with_data(daily)
    days = days.select(
        "patient_id", "day", month=days.day.truncate("M").cast("date"), steps=days.steps.cast("int64")
    )
    return days.group_by("patient_id", "month").aggregate(
        days=days.count().cast("int32"),
        steps=days.steps.sum().cast("int64"),
        squares=(days.steps * days.steps).sum().cast("int64"),
        lowest=days.steps.min(),
        highest=days.steps.max(),
        last_day=days.day.max(),
    )


def month_of(day: date) -> date:
    """The first day of a day's month, which names the month."""
    return day.replace(day=1)


def months_of(days: Iterable[date]) -> list[date]:
    """The months whose rollups are stale once these days have been computed anew, in order."""
    return sorted({month_of(day) for day in days})
