"""The formula of every statistic that the mobility contract names, as Ibis expressions.

Belongs here: one function per statistic, from the columns of a patient's day (`Known`) to a value.
Does not belong here: what the features are called and which days they look at (`contracts/mobility.py`),
and how their columns are gathered (`features.py`).

Steps are whole numbers held as float64, so every sum here is exact: the order of additions, and so the
engine, cannot change it. Divisions and square roots round once, alike on every engine. A division by
nothing is null.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medscore_assets.contracts.measures import Measure
from medscore_assets.contracts.mobility import MAX_DAILY_STEPS, MIN_TREND_DAYS, MOBILITY, WINDOWS

if TYPE_CHECKING:
    import ibis.expr.types as ir

SAME_WEEKDAY_LAGS = (7, 14, 21, 28)
LONGEST = max(WINDOWS)
"""Days of history that a feature may look at one by one."""
KEPT_LAGS = sorted(
    {m.window.newest for m in MOBILITY.features if m.statistic in ("lag", "baseline_deviation_lag")}
    | set(SAME_WEEKDAY_LAGS)
)
TREND_WINDOWS = sorted({m.window.oldest or 0 for m in MOBILITY.features if m.statistic == "trend"})
WEAR_WINDOWS = sorted({m.window.oldest or 0 for m in MOBILITY.features if m.statistic == "wear_share"})


def lag(k: int) -> str:
    """The column of the steps `k` days before: float64, null without data."""
    return f"lag_{k}"


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


def window_sums(table: ir.Table) -> dict[str, ir.Value]:
    """The columns of `Known` that come of `lag_1` to `lag_28`, by name."""
    import ibis

    nothing, far = ibis.literal(0.0), ibis.literal(float(MAX_DAILY_STEPS + 1))
    columns: dict[str, ir.Value] = {}
    n = total = squares = k_sum = kk_sum = ky_sum = highest = nothing
    lowest = far
    for k in range(1, LONGEST + 1):
        value = table[lag(k)]
        present, steps = value.notnull().cast("float64"), value.fill_null(nothing)
        n, total, squares = n + present, total + steps, squares + steps * steps
        lowest, highest = ibis.least(lowest, value.fill_null(far)), ibis.greatest(highest, steps)
        if k <= max(TREND_WINDOWS):
            k_sum = k_sum + present * float(k)
            kk_sum = kk_sum + present * float(k * k)
            ky_sum = ky_sum + steps * float(k)
        if k in WINDOWS:
            columns |= {
                f"n_{k}": n,
                f"sum_{k}": total,
                f"squares_{k}": squares,
                f"lowest_{k}": lowest,
                f"highest_{k}": highest,
            }
        if k in TREND_WINDOWS:
            columns |= {f"k_{k}": k_sum, f"kk_{k}": kk_sum, f"ky_{k}": ky_sum}
    return columns


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
    return known[f"lowest_{days}"].nullif(float(MAX_DAILY_STEPS + 1))


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
