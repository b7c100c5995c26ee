"""What the value of a feature is called in a reason, as a clause for people.

Belongs here: a clause for every feature of the mobility contract, known or not. Does not belong here: which
features are reasons and by how much (`reasons.py`).

"The last day" is the newest day that a forecast knows of: the one before the day of the features.
"""

from __future__ import annotations

import functools
from typing import Any

from medscore_assets.contracts.measures import Measure

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)

_OF_STATISTIC = {
    "mean": ("{days} had a mean of {value:,.0f} steps", "{days} have no data"),
    "std": ("{days} had a standard deviation of {value:,.0f} steps", "{days} have too few data to vary"),
    "min": ("the lowest of {days} had {value:,.0f} steps", "{days} have no data"),
    "max": ("the highest of {days} had {value:,.0f} steps", "{days} have no data"),
    "trend": ("{days} had a trend of {value:+,.0f} steps a day", "{days} have too few data for a trend"),
    "wear_share": ("{value:.0%} of {days} were worn long enough", "{days} have no wear time"),
}

_OF_FEATURE = {
    "steps_same_weekday_mean": (
        "the days 7, 14, 21 and 28 days back had a mean of {value:,.0f} steps",
        "the days 7, 14, 21 and 28 days back have no data",
    ),
    "wear_minutes_lag_1": ("the last day had {value:,.0f} minutes of wear", "the last day has no data"),
    "days_since_data": ("the last data are {value:,.0f} days old", "no day has data"),
    "baseline_mean": ("the mean of all days to date is {value:,.0f} steps", "no day has data"),
    "baseline_std": (
        "all days to date have a standard deviation of {value:,.0f} steps",
        "the days to date are too few to vary",
    ),
    "baseline_days": ("{value:,.0f} days have data", "no day has data"),
    "baseline_deviation_lag_1": (
        "the last day was {size:,.0f} steps {side} the mean to date",
        "the last day has no data",
    ),
    "baseline_deviation_lag_7": (
        "the day 7 days back was {size:,.0f} steps {side} the mean to date",
        "the day 7 days back has no data",
    ),
    "baseline_deviation_mean_7": (
        "the last 7 days were {size:,.0f} steps {side} the mean to date",
        "the last 7 days have no data",
    ),
    "baseline_ratio_mean_7": (
        "the last 7 days had {value:.2f} times the mean to date",
        "the last 7 days have no data",
    ),
    "age_years": ("the age is {value:.0f} years", "the age is not known"),
    "sex": ("the sex is {value}", "the sex is not known"),
    "disease": ("the disease is {value}", "no disease is known"),
    "days_since_diagnosis": ("the diagnosis was {value:,.0f} days ago", "no diagnosis is known"),
    "active_diseases": ("the number of diseases is {value:.0f}", "no disease is known"),
    "therapy": ("the therapy is {value}", "no therapy is known"),
    "days_on_therapy": ("the therapy began {value:,.0f} days ago", "no therapy is known"),
    "active_therapies": ("the number of therapies is {value:.0f}", "no therapy is known"),
    "active_side_effects": ("the number of side effects is {value:.0f}", "no side effect is known"),
    "worst_side_effect": ("the worst side effect is {value}", "no side effect is known"),
}

_OF_VALUE: dict[tuple[str, Any], str] = {
    ("therapy", "none"): "there is no therapy",
    ("disease", "other"): "the disease is none of MS, PD and RA",
    ("worst_side_effect", 0): "there is no side effect",
    ("worst_side_effect", 1): "the worst side effect is mild",
    ("worst_side_effect", 2): "the worst side effect is moderate",
    ("worst_side_effect", 3): "the worst side effect is severe",
    ("days_since_data", 1): "the last day has data",
    ("is_weekend", 0): "it is no weekend",
    ("is_weekend", 1): "it is a weekend",
}


def words(feature: Measure, value: Any) -> str:
    """A feature's value as a clause: `the last 7 days had a mean of 5,120 steps`."""
    if (special := _OF_VALUE.get((feature.name, value))) is not None:
        return special
    if feature.source == "calendar":
        return _calendar(feature.name, value)
    known, absent = _clauses(feature)
    if value is None or value == "unknown":
        return absent
    if isinstance(value, str):
        return known.format(value=value)
    return known.format(value=value, size=abs(value), side="above" if value >= 0 else "below")


@functools.cache
def _clauses(feature: Measure) -> tuple[str, str]:
    """With the value, and without one."""
    back = feature.window.oldest
    if feature.statistic == "lag":
        day = "the last day" if back == 1 else f"the day {back} days back"
        return f"{day} had {{value:,.0f}} steps", f"{day} has no data"
    known, absent = _OF_FEATURE.get(feature.name) or _OF_STATISTIC[feature.statistic]
    days = f"the last {back} days"
    return known.replace("{days}", days), absent.replace("{days}", days)


def _calendar(name: str, value: float) -> str:
    if name == "weekday":
        return f"it is a {WEEKDAYS[int(value)]}"
    if name == "month":
        return f"it is {MONTHS[int(value) - 1]}"
    return "it is this time of the year"
