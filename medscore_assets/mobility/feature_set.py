"""The formula of every statistic that the mobility contract names, as Ibis expressions.

Belongs here: one function per statistic, from the columns of a patient's day (`Known`) to a value.
Does not belong here: what the features are called and which days they look at (`contracts/mobility.py`),
and how their columns are gathered (`features.py`).

Steps are whole numbers held as float64, so every sum here is exact: the order of additions, and so the
engine, cannot change it. Divisions and square roots round once, alike on every engine. A division by
nothing is null.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

from medscore_assets.contracts.measures import Measure
from medscore_assets.contracts.mobility import (
    MIN_TREND_DAYS,
    MOBILITY,
    WEAR_DAY_MINUTES,
    WINDOWS,
)

if TYPE_CHECKING:
    import ibis.expr.types as ir

SAME_WEEKDAY_LAGS = (7, 14, 21, 28)
LONGEST = max(WINDOWS)
"""Days of history that a feature may look at one by one."""
NO_DATA = -2
"""The code of a day without data: even, as that of a day that is not worn, and below all others."""
ABOVE = 2**31 - 1
"""Of `NO_DATA` the bits of this number lie above all codes; other codes are these bits of themselves."""
FAR = float((NO_DATA & ABOVE) >> 1)
"""Steps that no day has."""
K_BITS, KK_BITS = 6, 16
"""Of 28 days the number, the sum of k and that of its squares take 5, 9 and 13 bits."""
KEPT_LAGS = sorted(
    {m.window.newest for m in MOBILITY.features if m.statistic in ("lag", "baseline_deviation_lag")}
    | set(SAME_WEEKDAY_LAGS)
)
TREND_WINDOWS = sorted({m.window.oldest or 0 for m in MOBILITY.features if m.statistic == "trend"})
WEAR_WINDOWS = sorted({m.window.oldest or 0 for m in MOBILITY.features if m.statistic == "wear_share"})


def lag(k: int) -> str:
    """The column of the steps `k` days before: float64, null without data."""
    return f"lag_{k}"


def coded(k: int) -> str:
    """The column of the day `k` days before, as `day_code` has it, or `NO_DATA`: int32, never null.

    One column holds all that windows look at, and without nulls: engines carry it at half the cost of
    steps and wear by themselves, and add such columns up at a fifth of that of columns with nulls.
    """
    return f"day_{k}"


def day_code(steps: ir.IntegerValue, wear_minutes: ir.IntegerValue) -> ir.IntegerValue:
    """A day with data as one whole number: twice the steps, and one more if it is a wear day."""
    return (steps * 2 + (wear_minutes >= WEAR_DAY_MINUTES).fill_null(False).cast("int32")).cast("int32")


@dataclass(frozen=True, slots=True)
class Known:
    """The columns from which formulas are made, one row per patient and day.

    `lag_k` for `KEPT_LAGS`; per window `n_`, `sum_`, `squares_`, `lowest_`, `highest_` of the days with data
    (`n_` is never null, the others are 0 or out of reach where it is 0); `k_`, `kk_`, `ky_` for trends, sums
    over k days before; `wear_days_`; `base_n`, `base_sum`, `base_squares`; `wear_minutes`, `number` and
    `last_number`; the calendar; the patient's and the clinical state's columns, null where unknown.
    """

    table: ir.Table

    def __getitem__(self, name: str) -> ir.Value:
        return self.table[name]

    def mean(self, days: int) -> ir.Value:
        """Mean of the days with data of a window."""
        return self[f"sum_{days}"] / self[f"n_{days}"].nullif(0.0)

    def base_mean(self) -> ir.Value:
        """Mean of all days with data to date."""
        return self["base_sum"] / self["base_n"].nullif(0.0)


def with_windows(table: ir.Table) -> ir.Table:
    """The table with the columns of `Known` that come of `day_1` to `day_28`, in place of these.

    Step by step from the shortest window to the longest, each on the sums of the one before, so that
    expressions stay as short as the windows are.
    """
    codes = [coded(k) for k in range(1, LONGEST + 1)]
    others = kept = [name for name in table.columns if name not in codes]
    decoded: dict[str, ir.Value] = {}
    for k in range(1, LONGEST + 1):
        decoded |= _decoded(table[coded(k)], k)
    table = table.select(*kept, *codes, **decoded)
    shorter = 0
    for longest in sorted({*WINDOWS, *TREND_WINDOWS, *WEAR_WINDOWS}):
        days = range(shorter + 1, longest + 1)
        columns = _window(table, shorter, longest)
        columns |= {lag(k): _known_steps(table, k) for k in days if k in KEPT_LAGS}
        kept = [*kept, *columns]
        kinds = ("day", "is", "steps", "worn")
        later = [f"{kind}_{k}" for k in range(longest + 1, LONGEST + 1) for kind in kinds]
        table = table.mutate(**columns).select(*kept, *later)
        shorter = longest
    table = table.mutate(**{name: table[name].cast("int32") for name in kept if name.startswith("counts_")})
    unpacked: dict[str, ir.Value] = {}
    for window in sorted({*WINDOWS, *TREND_WINDOWS}):
        unpacked |= _unpacked(table, window)
    packed = ("counts_", "least_", "most_")
    passed = [name for name in kept if name in others or not name.startswith(packed)]
    return table.select(*passed, **unpacked)


def _decoded(day: ir.IntegerValue, k: int) -> dict[str, ir.FloatingValue]:
    """Of the coded day `k` days before, as float64: 1 if there is data, else 0; steps, else 0; 1 if worn."""
    present, worn = (day >= 0).cast("float64"), (day & 1).cast("float64")
    # Twice the steps, and -2 without data.
    steps = (day.cast("float64") - worn) * 0.5 + (1.0 - present)
    return {f"is_{k}": present, f"steps_{k}": steps, f"worn_{k}": worn}


def _known_steps(table: ir.Table, k: int) -> ir.FloatingValue:
    import ibis

    return (table[f"is_{k}"] > 0.0).ifelse(table[f"steps_{k}"], ibis.null("float64"))


def _window(table: ir.Table, shorter: int, days: int) -> dict[str, ir.Value]:
    """What is known of a window of `days`, from the next `shorter` one (0: none) and the days between."""
    import ibis

    new = range(shorter + 1, days + 1)
    between = [(k, table[f"is_{k}"], table[f"steps_{k}"], table[f"worn_{k}"]) for k in new]
    codes = [table[coded(k)] for k in new]
    above = ibis.literal(ABOVE, "int32")

    def sum_of(name: str, terms: list[ir.Value]) -> dict[str, ir.Value]:
        before = [table[f"{name}_{shorter}"]] if shorter else []
        return {f"{name}_{days}": reduce(operator.add, [*before, *terms])}

    columns = (
        # One sum for the number of days with data, and for those of k and its square over them.
        sum_of(
            "counts",
            [present * float(1 + (k << K_BITS) + (k * k << KK_BITS)) for k, present, _, _ in between],
        )
        | sum_of("sum", [steps for _, _, steps, _ in between])
        | sum_of("squares", [steps * steps for _, _, steps, _ in between])
        | sum_of("wear_days", [worn for _, _, _, worn in between])
        | sum_of("ky", [steps * float(k) for k, _, steps, _ in between])
    )
    # Codes are in the order of steps.
    least, most = ([table[f"{name}_{shorter}"]] if shorter else [] for name in ("least", "most"))
    columns[f"least_{days}"] = ibis.least(*least, *(code & above for code in codes))
    columns[f"most_{days}"] = ibis.greatest(*most, *codes)
    return columns


def _unpacked(table: ir.Table, days: int) -> dict[str, ir.Value]:
    """What a window's packed columns hold, as float64."""
    counts = table[f"counts_{days}"]
    found = {
        "n": counts & (2**K_BITS - 1),
        "k": (counts >> K_BITS) & (2 ** (KK_BITS - K_BITS) - 1),
        "kk": counts >> KK_BITS,
        "lowest": table[f"least_{days}"] >> 1,
        "highest": table[f"most_{days}"] >> 1,
    }
    return {f"{name}_{days}": value.cast("float64") for name, value in found.items()}


def formula(measure: Measure, known: Known) -> ir.Value:
    """The feature's value as an expression of its declared type."""
    value = FORMULAS.get(measure.statistic, _as_it_is)(measure, known)
    kind = {"number": "float64", "whole": "int32", "flag": "boolean"}.get(measure.kind, "string")
    return value.cast(kind)


def _as_it_is(measure: Measure, known: Known) -> ir.Value:
    """A column of the calendar, the patient or the clinical state that bears the feature's name."""
    return known[measure.name]


def _lag(measure: Measure, known: Known) -> ir.Value:
    return known[lag(measure.window.newest)]


def _mean(measure: Measure, known: Known) -> ir.Value:
    return known.mean(_days(measure))


def _std(measure: Measure, known: Known) -> ir.Value:
    days = _days(measure)
    return _deviation(known[f"n_{days}"], known[f"sum_{days}"], known[f"squares_{days}"])


def _deviation(n: ir.Value, total: ir.Value, squares: ir.Value) -> ir.Value:
    """Standard deviation with ddof 1; null for n under 2, since n (n - 1) is 0 then."""
    import ibis

    spread = ibis.greatest(n * squares - total * total, ibis.literal(0.0))
    return (spread / (n * (n - 1.0)).nullif(0.0)).sqrt()


def _min(measure: Measure, known: Known) -> ir.Value:
    days = _days(measure)
    return known[f"lowest_{days}"].nullif(FAR)


def _max(measure: Measure, known: Known) -> ir.Value:
    import ibis

    days = _days(measure)
    return (known[f"n_{days}"] > 0.0).ifelse(known[f"highest_{days}"], ibis.null("float64"))


def _same_weekday_mean(measure: Measure, known: Known) -> ir.Value:
    import ibis

    nothing = ibis.literal(0.0)
    values = [known[lag(k)] for k in SAME_WEEKDAY_LAGS]
    total = sum((v.fill_null(nothing) for v in values), start=nothing)
    return total / sum((v.notnull().cast("float64") for v in values), start=nothing).nullif(0.0)


def _trend(measure: Measure, known: Known) -> ir.Value:
    """Slope of steps over the day; with days counted backwards its sign turns."""
    import ibis

    days = _days(measure)
    n, k, kk = known[f"n_{days}"], known[f"k_{days}"], known[f"kk_{days}"]
    slope = (k * known[f"sum_{days}"] - n * known[f"ky_{days}"]) / (n * kk - k * k).nullif(0.0)
    return (n >= float(MIN_TREND_DAYS)).ifelse(slope, ibis.null("float64"))


def _wear_share(measure: Measure, known: Known) -> ir.Value:
    days = _days(measure)
    return known[f"wear_days_{days}"] / float(days)


def _days_since_data(measure: Measure, known: Known) -> ir.Value:
    return known["number"] - known["last_number"]


def _baseline_mean(measure: Measure, known: Known) -> ir.Value:
    return known.base_mean()


def _baseline_std(measure: Measure, known: Known) -> ir.Value:
    return _deviation(known["base_n"], known["base_sum"], known["base_squares"])


def _baseline_days(measure: Measure, known: Known) -> ir.Value:
    return known["base_n"]


def _baseline_deviation_lag(measure: Measure, known: Known) -> ir.Value:
    return _lag(measure, known) - known.base_mean()


def _baseline_deviation_mean(measure: Measure, known: Known) -> ir.Value:
    return known.mean(_days(measure)) - known.base_mean()


def _baseline_ratio_mean(measure: Measure, known: Known) -> ir.Value:
    return known.mean(_days(measure)) / known.base_mean().nullif(0.0)


def _age_years(measure: Measure, known: Known) -> ir.Value:
    before_birthday = (known["month_day"] < known["birth_month_day"]).cast("int32")
    return _possible(measure, known["year"] - known["birth_year"] - before_birthday)


def _since(column: str) -> Callable[[Measure, Known], ir.Value]:
    return lambda measure, known: _possible(measure, known["number"] - known[column])


def _possible(measure: Measure, value: ir.Value) -> ir.Value:
    """A value of a clinical date, null where the date is so wrong that it breaks the bounds."""
    import ibis

    bounds = (ibis.literal(int(measure.minimum or 0)), ibis.literal(int(measure.maximum or 0)))
    return value.between(*bounds).ifelse(value, ibis.null("int32"))


def _or(absent: str | int) -> Callable[[Measure, Known], ir.Value]:
    return lambda measure, known: known[measure.name].fill_null(absent)


def _days(measure: Measure) -> int:
    """The length of a window that ends on the day before."""
    if measure.window.oldest is None or measure.window.newest != 1:
        raise ValueError(f"{measure.name}: {measure.statistic} wants a window of days up to the day before")
    return measure.window.oldest


FORMULAS: dict[str, Callable[[Measure, Known], ir.Value]] = {
    "lag": _lag,
    "mean": _mean,
    "std": _std,
    "min": _min,
    "max": _max,
    "same_weekday_mean": _same_weekday_mean,
    "trend": _trend,
    "wear_share": _wear_share,
    "days_since_data": _days_since_data,
    "baseline_mean": _baseline_mean,
    "baseline_std": _baseline_std,
    "baseline_days": _baseline_days,
    "baseline_deviation_lag": _baseline_deviation_lag,
    "baseline_deviation_mean": _baseline_deviation_mean,
    "baseline_ratio_mean": _baseline_ratio_mean,
    "age_years": _age_years,
    "sex": _or("unknown"),
    "disease": _or("unknown"),
    "days_since_diagnosis": _since("diagnosed_number"),
    "active_diseases": _or(0),
    "therapy": _or("none"),
    "days_on_therapy": _since("therapy_number"),
    "active_therapies": _or(0),
    "active_side_effects": _or(0),
    "worst_side_effect": _or(0),
}
"""By statistic. One that is absent here is a column that `features.py` gathers ready made."""
