"""The mobility contract: the one declaration of the features of a patient's day.

Belongs here: names, order, units, windows, sources, bounds and absence of the features, and the
constants that their formulas share. Does not belong here: the formulas themselves
(`mobility/feature_set.py`, one for each statistic named here) and the engines that run them.

Everything else is derived: the columns of `patient_features`, its Arrow and pandera schemas, the
dictionary of features in the docs, and the hash that ties a model to this file.

Every day with a possible sum of steps counts, a partly worn one too: some devices report only minutes
with steps, so that little wear time cannot be told from rest. `wear_share_7` and `wear_share_28` say how
much of the history was worn long enough to be trusted. Overlapping devices, duplicates, impossible
counts and future records are dealt with before, in `daily_steps`; their flags exclude nothing here.
"""

from __future__ import annotations

from medscore_assets.contracts.measures import FeatureTable, Kind, Measure, Window

MAX_DAILY_STEPS = 450_000
"""Steps of the longest day (25 hours) at the highest count that a minute may have (300)."""
WEAR_DAY_MINUTES = 600
"""Wear time from which a day is a wear day, in minutes."""
MAX_GAP_DAYS = 365
"""A patient has features on a day if some day with data lies at most so many days before it."""
MIN_TREND_DAYS = 3
"""Days with data under which a slope is null."""

DISEASES = ("MS", "PD", "RA", "other", "unknown")
"""Disease cohorts. With several active diagnoses the first of these is the patient's."""
SEXES = ("female", "male", "other", "unknown")
NO_THERAPY = "none"
WORST_SEVERITY = 3
"""Severities of a side effect go from 1 to this; 0 is none."""

LAGS = (1, 2, 3, 4, 5, 6, 7, 14, 28)
WINDOWS = (3, 7, 14, 28)

_DAILY = "daily_steps"
_TO_DATE = "daily_steps, monthly_rollups"
_STEPS = "steps"
_BEFORE = Window(None, 1)
_DATE = Window(0, 0)


def _steps(name: str, description: str, statistic: str, window: Window, *, source: str = _DAILY) -> Measure:
    """A number of steps that a day may have, null where its days hold no data."""
    return Measure(
        name,
        description,
        _STEPS,
        source,
        statistic,
        window,
        nullable=True,
        minimum=0,
        maximum=MAX_DAILY_STEPS,
    )


def _signed(
    name: str, description: str, unit: str, statistic: str, window: Window, source: str = _TO_DATE
) -> Measure:
    """A difference of two numbers of steps, or of steps per day."""
    return Measure(
        name,
        description,
        unit,
        source,
        statistic,
        window,
        nullable=True,
        minimum=-MAX_DAILY_STEPS,
        maximum=MAX_DAILY_STEPS,
    )


def _rolling(days: int) -> tuple[Measure, ...]:
    window, text = Window(days, 1), f"the {days} calendar days before"
    return (
        _steps(f"steps_mean_{days}", f"Mean of the days with data among {text}.", "mean", window),
        _steps(
            f"steps_std_{days}",
            f"Standard deviation (ddof 1) of the days with data among {text}; null under two such days.",
            "std",
            window,
        ),
        _steps(f"steps_min_{days}", f"Lowest day among {text}.", "min", window),
        _steps(f"steps_max_{days}", f"Highest day among {text}.", "max", window),
    )


def _calendar(name: str, description: str, unit: str, minimum: float, maximum: float) -> Measure:
    kind: Kind = "number" if name.startswith("year_") else "whole"
    return Measure(
        name, description, unit, "calendar", name, _DATE, kind=kind, minimum=minimum, maximum=maximum
    )


def _whole(
    name: str,
    description: str,
    unit: str,
    source: str,
    window: Window,
    minimum: int,
    maximum: int,
    *,
    nullable: bool = False,
) -> Measure:
    """A count or a whole number of units, with a formula of its own."""
    return Measure(
        name,
        description,
        unit,
        source,
        name,
        window,
        kind="whole",
        nullable=nullable,
        minimum=minimum,
        maximum=maximum,
    )


def _wear_share(days: int) -> Measure:
    return Measure(
        f"wear_share_{days}",
        f"Share of wear days ({WEAR_DAY_MINUTES} minutes or more) among the {days} calendar days before.",
        "share",
        _DAILY,
        "wear_share",
        Window(days, 1),
        minimum=0,
        maximum=1,
    )


def _trend(days: int) -> Measure:
    return _signed(
        f"steps_trend_{days}",
        f"Least-squares slope over the days with data among the {days} calendar days before; "
        f"null under {MIN_TREND_DAYS} such days.",
        "steps per day",
        "trend",
        Window(days, 1),
        _DAILY,
    )


HISTORY = (
    *(
        _steps(f"steps_lag_{k}", f"Steps {k} {'day' if k == 1 else 'days'} before.", "lag", Window(k, k))
        for k in LAGS
    ),
    *(measure for days in WINDOWS for measure in _rolling(days)),
    _steps(
        "steps_same_weekday_mean",
        "Mean of the days with data among the same weekdays of the four weeks before.",
        "same_weekday_mean",
        Window(28, 7),
    ),
    _trend(14),
    _trend(28),
    _wear_share(7),
    _wear_share(28),
    _whole(
        "wear_minutes_lag_1",
        "Wear time of the day before; null without data on it.",
        "minutes",
        _DAILY,
        Window(1, 1),
        0,
        1500,
        nullable=True,
    ),
    _whole(
        "days_since_data",
        "Days since the last day with data; 1 is yesterday.",
        "days",
        _TO_DATE,
        Window(MAX_GAP_DAYS, 1),
        1,
        MAX_GAP_DAYS,
    ),
)

CALENDAR = (
    _calendar("weekday", "Day of the week, Monday is 0.", "day", 0, 6),
    _calendar("month", "Month of the year.", "month", 1, 12),
    _calendar("is_weekend", "1 on Saturday and Sunday, else 0.", "flag", 0, 1),
    _calendar("year_sin", "Sine of the day's place in its year, a year being a full circle.", "", -1, 1),
    _calendar("year_cos", "Cosine of the day's place in its year.", "", -1, 1),
)

PATIENT_OFFSETS = (
    _steps("baseline_mean", "Mean of all days with data to date.", "baseline_mean", _BEFORE, source=_TO_DATE),
    _steps(
        "baseline_std",
        "Standard deviation (ddof 1) of all days with data to date; null under two such days.",
        "baseline_std",
        _BEFORE,
        source=_TO_DATE,
    ),
    _whole("baseline_days", "Days with data to date.", "days", _TO_DATE, _BEFORE, 1, 100_000),
    _signed(
        "baseline_deviation_lag_1",
        "Steps of the day before less the baseline mean to date.",
        _STEPS,
        "baseline_deviation_lag",
        Window(1, 1),
    ),
    _signed(
        "baseline_deviation_lag_7",
        "Steps seven days before less the baseline mean to date.",
        _STEPS,
        "baseline_deviation_lag",
        Window(7, 7),
    ),
    _signed(
        "baseline_deviation_mean_7",
        "Mean of the seven days before less the baseline mean to date.",
        _STEPS,
        "baseline_deviation_mean",
        Window(7, 1),
    ),
    Measure(
        "baseline_ratio_mean_7",
        "Mean of the seven days before over the baseline mean to date; null where that is 0.",
        "ratio",
        _TO_DATE,
        "baseline_ratio_mean",
        Window(7, 1),
        nullable=True,
        minimum=0,
        # The days of the mean are among those of the baseline, so it is at most 100,000 days to 1.
        maximum=100_000,
    ),
)

CLINICAL = (
    _whole(
        "age_years", "Completed years of age on the day.", "years", "patients", _DATE, 0, 120, nullable=True
    ),
    Measure("sex", "Sex as recorded.", "", "patients", "sex", _DATE, kind="category", categories=SEXES),
    Measure(
        "disease",
        "Disease cohort: the first of MS, PD, RA, other with a diagnosis active on the day before.",
        "",
        "diagnoses",
        "disease",
        _BEFORE,
        kind="category",
        categories=DISEASES,
    ),
    _whole(
        "days_since_diagnosis",
        "Days since that disease's first active diagnosis began; null without one.",
        "days",
        "diagnoses",
        _BEFORE,
        1,
        50_000,
        nullable=True,
    ),
    _whole(
        "active_diseases",
        "Different diseases with a diagnosis active on the day before.",
        "diseases",
        "diagnoses",
        _BEFORE,
        0,
        1000,
    ),
    Measure(
        "therapy",
        "Therapy active on the day before, the last begun of several (then the first by name), or `none`.",
        "",
        "therapies",
        "therapy",
        _BEFORE,
        kind="label",
    ),
    _whole(
        "days_on_therapy",
        "Days since that therapy began; null without one.",
        "days",
        "therapies",
        _BEFORE,
        1,
        50_000,
        nullable=True,
    ),
    _whole(
        "active_therapies",
        "Different therapies active on the day before.",
        "therapies",
        "therapies",
        _BEFORE,
        0,
        1000,
    ),
    _whole(
        "active_side_effects",
        "Different side effects active on the day before.",
        "side effects",
        "side_effects",
        _BEFORE,
        0,
        1000,
    ),
    _whole(
        "worst_side_effect",
        "Highest severity among the side effects active on the day before; 0 without one.",
        "severity",
        "side_effects",
        _BEFORE,
        0,
        WORST_SEVERITY,
    ),
)

MOBILITY = FeatureTable(
    name="mobility",
    revision=1,
    rules=(
        ("max_daily_steps", MAX_DAILY_STEPS),
        ("wear_day_minutes", WEAR_DAY_MINUTES),
        ("max_gap_days", MAX_GAP_DAYS),
        ("min_trend_days", MIN_TREND_DAYS),
    ),
    features=(*HISTORY, *CALENDAR, *PATIENT_OFFSETS, *CLINICAL),
)
