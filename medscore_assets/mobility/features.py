"""The features of patients' days, written once as Ibis expressions for every engine.

Belongs here: gathering what is known before each day, for a range of days in one pass or for one day from
the few rows that it needs. Does not belong here: names and windows (`contracts/mobility.py`), formulas
(`feature_set.py`), clinical states (`clinical.py`), engines (`engines.py`) and files (`resources/lake.py`).

A row is (patient_id, day) for every day asked for, whether or not the day itself holds data, of every
patient with data within `MAX_GAP_DAYS` before it. Windows are calendar days. For a range, each patient's
calendar is completed first, so that the row k before is the day k before; for one day, the days before are
picked by date; for long ranges on one machine, arrays hold them (`day_arrays.py`). All give the same
`day_1` to `day_28`, and all else is computed from these.
"""

from __future__ import annotations

import calendar
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import TYPE_CHECKING

import pyarrow as pa

from medscore_assets.contracts.mobility import MAX_GAP_DAYS, MOBILITY
from medscore_assets.mobility.clinical import day_number, number_of, people, states
from medscore_assets.mobility.feature_set import (
    LONGEST,
    NO_DATA,
    Known,
    coded,
    day_code,
    formula,
    with_windows,
)
from medscore_assets.mobility.rollups import days_with_data, month_of

if TYPE_CHECKING:
    import ibis.expr.types as ir

DAY = timedelta(days=1)
ONE_DAY = float(2**40)
"""Added to a day's steps, so that one running sum holds steps and days: exactly, for 8,000 days and 450,000
steps on each. A running sum takes an engine as long as a dozen formulas."""
MOST_DAYS = 8000


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


@dataclass(frozen=True, slots=True)
class Around:
    """What features of a range of days take beside the patients' histories.

    `everybody`: one row per patient who may have features, with
    `who`, a number that stands for the patient (in the order of ids: engines sort and join by numbers at a
    fraction of the cost of texts), `patient_id`, the sums of the months before, and birth and sex. `days`:
    the calendar. `state`: the clinical states by `who` and spans of days.
    """

    everybody: ir.Table
    days: ir.Table
    state: ir.Table


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
    the types.
    """
    around, needs = around_days(inputs, first_day, last_day), reads(first_day, last_day)
    known = known_days(_days_read(inputs, needs), around.everybody)
    gather = _one_day if first_day == last_day else _range
    return features_of(gather(known, around.everybody, around.days, needs, first_day), around)


def around_days(
    inputs: Inputs,
    first_day: date,
    last_day: date,
    kept: Callable[[ir.Table], ir.Table] = lambda table: table,
) -> Around:
    """What the features of the days from `first_day` to `last_day` take beside histories.

    `kept` may store what is read several times, and gives it back.
    """
    if last_day < first_day:
        raise ValueError("the last day lies before the first")
    needs = reads(first_day, last_day)
    if (last_day - needs.first_day).days > MOST_DAYS:
        raise ValueError(f"more than {MOST_DAYS} days at once")
    daily, rollups = _days_read(inputs, needs), _before(inputs.rollups, needs)
    everybody = kept(_everybody(replace(inputs, daily=daily, rollups=rollups), first_day))
    state = states(inputs.diagnoses, inputs.therapies, inputs.side_effects, first_day, last_day)
    named = state.inner_join(everybody.select("patient_id", "who"), "patient_id").drop("patient_id")
    return Around(everybody, kept(_calendar(needs.first_day, last_day)), kept(named))


def features_of(history: ir.Table, around: Around, *also: str) -> ir.Table:
    """The features of histories: one row per patient and day, of those who have data late enough.

    Columns of `history`: who, number (of the day), day_1 to day_28 (`coded`), wear_minutes, and of the days
    since the first day's month began new_n, new_sum, new_squares and new_number (the last day with data).
    It may have others, and those named are kept.
    """
    known = _with_patients(with_windows(history), around)
    columns = Known(known)
    features = {measure.name: formula(measure, columns) for measure in MOBILITY.features}
    return known.select("patient_id", "day", *also, **features)


def _days_read(inputs: Inputs, needs: Reads) -> ir.Table:
    daily = days_with_data(inputs.daily)
    return daily.filter(daily.day.between(needs.first_day, needs.last_day))


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


def _everybody(inputs: Inputs, first_day: date) -> ir.Table:
    """Who has data late enough to be eligible on the first day, or in the days read: one row per patient."""
    import ibis

    old = inputs.rollups
    recent = old.filter(old.old_number >= number_of(first_day) - MAX_GAP_DAYS)
    known = ibis.union(inputs.daily.select("patient_id"), recent.select("patient_id"), distinct=True)
    # In order, so that a part that an engine computes twice gets the same numbers.
    known = known.mutate(who=ibis.row_number().over(order_by=known.patient_id).cast("int32"))
    known = known.left_join(old, "patient_id", rname="{name}_r").drop("patient_id_r")
    return known.left_join(people(inputs.patients), "patient_id", rname="{name}_p").drop("patient_id_p")


def known_days(daily: ir.Table, everybody: ir.Table) -> ir.Table:
    """(who, number, steps, code, wear_minutes): the days with data."""
    joined = daily.inner_join(everybody.select("patient_id", "who"), "patient_id")
    return joined.select(
        "who",
        number=day_number(joined.day),
        steps=joined.steps.cast("float64"),
        code=day_code(joined.steps, joined.wear_minutes),
        wear_minutes=joined.wear_minutes,
    )


def _range(known: ir.Table, everybody: ir.Table, days: ir.Table, needs: Reads, first_day: date) -> ir.Table:
    """The columns of `features_of` for each day of a range, by windows over completed calendars."""
    import ibis

    every_day = everybody.select("who").cross_join(days.select("number"))
    rows = every_day.left_join(known, ["who", "number"], rname="{name}_r")
    code, number = rows.code.fill_null(NO_DATA), rows.number
    new = (code >= 0) & (number >= number_of(needs.months_before))
    steps = new.ifelse(rows.steps, 0.0)
    counted = new.ifelse(rows.steps + ONE_DAY, 0.0)
    order = {"group_by": rows.who, "order_by": number}
    by_day, before = ibis.window(**order), ibis.window(**order, rows=(None, -1))
    history = rows.select(
        "who",
        "number",
        **{coded(k): code.lag(k, NO_DATA).over(by_day) for k in range(1, LONGEST + 1)},
        wear_minutes=rows.wear_minutes.lag(1).over(by_day),
        counted=counted.sum().over(before),
        new_squares=(steps * steps).sum().over(before),
        new_number=(code >= 0).ifelse(number, ibis.null("int32")).max().over(before),
    )
    history = history.filter(history.number >= number_of(first_day))
    history = history.mutate(new_n=(history.counted / ONE_DAY).floor().cast("float64"))
    return history.mutate(new_sum=history.counted - history.new_n * ONE_DAY).drop("counted")


def _one_day(known: ir.Table, everybody: ir.Table, days: ir.Table, needs: Reads, day: date) -> ir.Table:
    """The columns of `features_of` for one day, picked by date from the few days that it needs."""
    import ibis

    rows = known.mutate(back=number_of(day) - known.number)
    new = rows.back <= (day - needs.months_before).days
    picked = rows.group_by("who").aggregate(
        **{coded(k): rows.code.max(where=rows.back == k) for k in range(1, LONGEST + 1)},
        wear_minutes=rows.wear_minutes.max(where=rows.back == 1),
        new_n=rows.steps.count(where=new),
        new_sum=rows.steps.sum(where=new),
        new_squares=(rows.steps * rows.steps).sum(where=new),
        new_number=(number_of(day) - rows.back.min()).cast("int32"),
    )
    history = everybody.select("who").left_join(picked, "who", rname="{name}_r").drop("who_r")
    codes = {coded(k): history[coded(k)].fill_null(NO_DATA) for k in range(1, LONGEST + 1)}
    return history.mutate(number=ibis.literal(number_of(day), "int32"), **codes)


def _with_patients(history: ir.Table, around: Around) -> ir.Table:
    """The columns of `Known`: history to date, calendar, patient and clinical state, for who is eligible."""
    import ibis

    joined = history.inner_join(around.everybody, "who", rname="{name}_r")
    total = {
        f"base_{name}": joined[f"old_{name}"].fill_null(0.0)
        + joined[f"new_{name}"].cast("float64").fill_null(0.0)
        for name in ("n", "sum", "squares")
    }
    gone = ("wear_minutes", "new_n", "new_sum", "new_squares", "new_number")
    known = joined.select(
        *(name for name in history.columns if name not in gone),
        *("patient_id", "birth_year", "birth_month_day", "sex"),
        wear_minutes_lag_1=joined.wear_minutes,
        last_number=ibis.coalesce(joined.new_number, joined.old_number),
        **total,
    )
    known = known.filter(known.last_number >= known.number - MAX_GAP_DAYS).inner_join(around.days, "number")
    state = around.state
    return known.left_join(
        state,
        [known.who == state.who, known.number >= state.from_number, known.number <= state.to_number],
        rname="{name}_c",
    )
