"""The features of patients' days, written once as Ibis expressions for every engine.

Belongs here: gathering what is known before each day, for a range of days in one pass or for one day from
the few rows that it needs. Does not belong here: names and windows (`contracts/mobility.py`), formulas
(`feature_set.py`), clinical states (`clinical.py`), engines (`engines.py`) and files (`resources/lake.py`).

A row is (patient_id, day) for every day asked for, whether or not the day itself holds data, of every
patient with data within `MAX_GAP_DAYS` before it. Windows are calendar days. For a range, each patient's
calendar is completed first, so that the row k before is the day k before; for one day, the days before are
picked by date. Both give the same `lag_1` to `lag_28`, and all else is computed from these.
"""

from __future__ import annotations

import calendar
import math
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import TYPE_CHECKING

import pyarrow as pa

from medscore_assets.contracts.mobility import MAX_GAP_DAYS, MOBILITY, WEAR_DAY_MINUTES
from medscore_assets.mobility.clinical import day_number, number_of, people, states
from medscore_assets.mobility.feature_set import (
    KEPT_LAGS,
    LONGEST,
    WEAR_WINDOWS,
    Known,
    formula,
    lag,
    window_sums,
)
from medscore_assets.mobility.rollups import days_with_data, month_of

if TYPE_CHECKING:
    import ibis.expr.types as ir

DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Inputs:
    """The tables of the lake that features come from, all on one engine.

    `daily` must hold a patient and day once. Rows outside of what `reads` names change nothing, and rows of
    a day or later change no feature of that day.
    """

    daily: ir.Table
    rollups: ir.Table
    patients: ir.Table
    diagnoses: ir.Table
    therapies: ir.Table
    side_effects: ir.Table

    def block(self, number: int, blocks: int) -> Inputs:
        """The rows of one of `blocks` disjoint groups of patients; their union is everybody."""
        return Inputs(*(_of_block(getattr(self, name), number, blocks) for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class Reads:
    """What features of some days are computed from: days of `daily_steps`, and whole months before them."""

    first_day: date
    last_day: date
    months_before: date
    """Rollups of all months before this one, which is the month of the first day asked for."""


def reads(first_day: date, last_day: date) -> Reads:
    """What to read for the features of the days from `first_day` to `last_day`."""
    month = month_of(first_day)
    return Reads(min(first_day - LONGEST * DAY, month), last_day - DAY, month)


def feature_frame(inputs: Inputs, first_day: date, last_day: date) -> ir.Table:
    """The features of the days from `first_day` to `last_day`, both included, in no order.

    Columns are those of `MOBILITY`, in its order; run the result through `MOBILITY.conform`, which settles
    the types. For long ranges ask for one block of patients after the other (`Inputs.block`).
    """
    if last_day < first_day:
        raise ValueError("the last day lies before the first")
    needs = reads(first_day, last_day)
    daily = days_with_data(inputs.daily)
    daily = daily.filter(daily.day.between(needs.first_day, needs.last_day))
    inputs = replace(inputs, daily=daily, rollups=_before(inputs.rollups, needs))
    days = _calendar(needs.first_day, last_day)
    gather = _one_day if first_day == last_day else _range
    known = _with_patients(gather(inputs, needs, days, first_day), inputs, days, first_day, last_day)
    columns = Known(known)
    return known.select("patient_id", "day", **{m.name: formula(m, columns) for m in MOBILITY.features})


def _of_block(table: ir.Table, number: int, blocks: int) -> ir.Table:
    if not 0 <= number < blocks:
        raise ValueError("blocks are numbered from 0")
    # The remainder of a negative hash is negative.
    return table if blocks == 1 else table.filter((table.patient_id.hash() % blocks).abs() == number)


def _before(rollups: ir.Table, needs: Reads) -> ir.Table:
    """(patient_id, old_n, old_sum, old_squares, old_number): all rollups before the first day's month."""
    months = rollups.filter(rollups.month < needs.months_before)
    return months.group_by("patient_id").aggregate(
        old_n=months.days.sum().cast("float64"),
        old_sum=months.steps.sum().cast("float64"),
        old_squares=months.squares.sum().cast("float64"),
        old_number=day_number(months.last_day).max(),
    )


def _calendar(first: date, last: date) -> ir.Table:
    """(day, number, year, month_day, and the calendar's features): computed here, alike for every engine."""
    import ibis

    days = [first + n * DAY for n in range((last - first).days + 1)]
    # A year is a full circle, be it 365 or 366 days, so that its end meets the next one's beginning.
    lengths = [366 if calendar.isleap(day.year) else 365 for day in days]
    angles = [2 * math.pi * (day.timetuple().tm_yday - 1) / n for day, n in zip(days, lengths, strict=True)]
    whole = pa.int32()
    columns = {
        "day": pa.array(days, pa.date32()),
        "number": pa.array([number_of(day) for day in days], whole),
        "year": pa.array([day.year for day in days], whole),
        "month_day": pa.array([100 * day.month + day.day for day in days], whole),
        "weekday": pa.array([day.weekday() for day in days], whole),
        "month": pa.array([day.month for day in days], whole),
        "is_weekend": pa.array([int(day.weekday() >= 5) for day in days], whole),
        "year_sin": pa.array([math.sin(angle) for angle in angles], pa.float64()),
        "year_cos": pa.array([math.cos(angle) for angle in angles], pa.float64()),
    }
    return ibis.memtable(pa.table(columns))


def _known_patients(inputs: Inputs, first_day: date) -> ir.Table:
    """(patient_id): who has data late enough to be eligible on the first day, or in the days read."""
    import ibis

    old = inputs.rollups
    recent = old.filter(old.old_number >= number_of(first_day) - MAX_GAP_DAYS)
    return ibis.union(inputs.daily.select("patient_id"), recent.select("patient_id"), distinct=True)


def _range(inputs: Inputs, needs: Reads, days: ir.Table, first_day: date) -> ir.Table:
    """What is known before each day of a range, by windows over completed calendars.

    Columns: patient_id, number, lag_1 to lag_28, wear_days_7 and wear_days_28, wear_minutes, new_n, new_sum,
    new_squares (of the days since the first day's month began) and new_number (the last day with data).
    """
    import ibis

    daily = inputs.daily
    worn = daily.select(
        "patient_id",
        "day",
        steps=daily.steps.cast("float64"),
        wear_minutes=daily.wear_minutes,
    )
    rows = _known_patients(inputs, first_day).cross_join(days.select("day", "number"))
    rows = rows.left_join(worn, ["patient_id", "day"])
    steps, number = rows.steps, rows.number
    new = (number >= number_of(needs.months_before)).ifelse(steps, ibis.null("float64"))
    wear = (rows.wear_minutes >= WEAR_DAY_MINUTES).cast("float64")
    order = {"group_by": rows.patient_id, "order_by": number}
    by_day, before = ibis.window(**order), ibis.window(**order, rows=(None, -1))
    known = rows.select(
        "patient_id",
        "number",
        **{lag(k): steps.lag(k).over(by_day) for k in range(1, LONGEST + 1)},
        **{f"wear_days_{n}": wear.sum().over(ibis.window(**order, rows=(-n, -1))) for n in WEAR_WINDOWS},
        wear_minutes=rows.wear_minutes.lag(1).over(by_day),
        new_n=new.count().over(before),
        new_sum=new.sum().over(before),
        new_squares=(new * new).sum().over(before),
        new_number=steps.notnull().ifelse(number, ibis.null("int32")).max().over(before),
    )
    return known.filter(known.number >= number_of(first_day))


def _one_day(inputs: Inputs, needs: Reads, days: ir.Table, day: date) -> ir.Table:
    """The columns of `_range` for one day, picked by date from the few days that it needs."""
    import ibis

    daily = inputs.daily
    rows = daily.select(
        "patient_id",
        "day",
        steps=daily.steps.cast("float64"),
        wear=(daily.wear_minutes >= WEAR_DAY_MINUTES).cast("float64"),
        wear_minutes=daily.wear_minutes,
    )
    rows = rows.mutate(back=number_of(day) - day_number(rows.day))
    new = rows.back <= (day - needs.months_before).days
    picked = rows.group_by("patient_id").aggregate(
        **{lag(k): rows.steps.max(where=rows.back == k) for k in range(1, LONGEST + 1)},
        **{f"wear_days_{n}": rows.wear.sum(where=rows.back <= n) for n in WEAR_WINDOWS},
        wear_minutes=rows.wear_minutes.max(where=rows.back == 1),
        new_n=rows.steps.count(where=new),
        new_sum=rows.steps.sum(where=new),
        new_squares=(rows.steps * rows.steps).sum(where=new),
        new_number=(number_of(day) - rows.back.min()).cast("int32"),
    )
    everybody = _known_patients(inputs, day).left_join(picked, "patient_id").drop("patient_id_right")
    return everybody.mutate(number=ibis.literal(number_of(day), "int32"))


def _with_patients(
    history: ir.Table, inputs: Inputs, days: ir.Table, first_day: date, last_day: date
) -> ir.Table:
    """The columns of `Known`: history to date, calendar, patient and clinical state, for who is eligible."""
    import ibis

    old = inputs.rollups
    joined = history.left_join(old, "patient_id")
    total = {
        f"base_{name}": joined[f"old_{name}"].fill_null(0.0)
        + joined[f"new_{name}"].cast("float64").fill_null(0.0)
        for name in ("n", "sum", "squares")
    }
    known = joined.select(
        "patient_id",
        "number",
        **{lag(k): joined[lag(k)] for k in KEPT_LAGS},
        **window_sums(joined),
        **{name: joined[name].fill_null(0.0) for name in (f"wear_days_{n}" for n in WEAR_WINDOWS)},
        wear_minutes_lag_1=joined.wear_minutes,
        last_number=ibis.coalesce(joined.new_number, joined.old_number),
        **total,
    )
    known = known.filter(known.last_number >= known.number - MAX_GAP_DAYS)
    known = known.inner_join(days, "number")
    known = known.left_join(people(inputs.patients), "patient_id", rname="{name}_p")
    state = states(inputs.diagnoses, inputs.therapies, inputs.side_effects, first_day, last_day)
    return known.left_join(
        state,
        [
            known.patient_id == state.patient_id,
            known.number >= state.from_number,
            known.number <= state.to_number,
        ],
        rname="{name}_c",
    )
