"""Real people in the mobility benchmark: the Fitabase minutes from the file to errors and routes.

Belongs here: import, days, features, models and what is told of a choice. Does not belong here: how good the
figures must be (`mobility.py`). The people have no disease label, so all are of the cohort `other`.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa

from medscore_assets.mobility.cohorts import COHORT_MODEL, GLOBAL_MODEL, OTHER
from medscore_assets.mobility.evaluation import Choice
from medscore_assets.settings import PROJECT_ROOT, Settings
from resources.lake import Lake

FILE = "fitabase_minuteStepsWide_merged.csv.gz"
ZONE = ZoneInfo("America/New_York")
DAY = timedelta(days=1)


def source() -> Path:
    """Where the file of minutes is, if it is."""
    return (Settings().test_data or PROJECT_ROOT.parent / "shared" / "data") / FILE


def measured(folder: Path) -> dict[str, Any]:
    """Errors and routes at both horizons, on dates and people that no model was fitted on."""
    from medscore_assets.mobility.forecasts import HORIZONS

    lake, figures = Lake(folder), imported(Lake(folder))
    features, daily = prepared(lake)
    figures |= {"daily_rows": daily.num_rows, "feature_rows": features.num_rows}
    for horizon in HORIZONS:
        figures[f"{horizon} d"] = told(chosen(features, daily, horizon))
    return figures


def imported(lake: Lake) -> dict[str, Any]:
    """The file's records in the lake; how many minutes and steps there are."""
    from medscore_assets.mobility.importers.fitabase import read
    from medscore_assets.mobility.importers.loading import load
    from medscore_assets.mobility.importers.records import Report

    report = Report()
    load(lake, read(source(), ZONE, report), report, source=FILE, arrival=datetime.now(UTC))
    return {"records": report.records, "steps": report.steps}


def prepared(lake: Lake) -> tuple[pa.Table, pa.Table]:
    """Features of every day after the first, and the daily rows."""
    from medscore_assets.mobility.daily import DAILY_STEPS
    from medscore_assets.mobility.engines import connect
    from medscore_assets.mobility.forecasts import PATIENT_FEATURES
    from medscore_assets.mobility.preparing import make_features, make_rollups, make_steps
    from medscore_assets.mobility.raw import RAW_STEPS

    utc_days = lake.days(RAW_STEPS)
    days = _between(utc_days[0], utc_days[-1])
    for day in days:
        make_steps(lake, day, as_of=datetime.now(UTC))
    with connect() as engine:
        make_rollups(lake, engine, days)
        made = make_features(lake, engine, days[1:])
    features = [lake.read_day(PATIENT_FEATURES, day) for day, rows in made.items() if rows]
    daily = [lake.read_day(DAILY_STEPS, day) for day in lake.days(DAILY_STEPS)]
    return pa.concat_tables(features), pa.concat_tables(daily)


def chosen(features: pa.Table, daily: pa.Table, horizon: int) -> Choice:
    """Who serves these people at a horizon, and what that rests on."""
    from medscore_assets.contracts.mobility import MOBILITY
    from medscore_assets.mobility.encoding import target_days
    from medscore_assets.mobility.training import fit_cohort, fit_global, judge
    from medscore_assets.mobility.training_set import Split, TrainingSet, with_targets

    table = with_targets(features, daily, horizon)
    targets = target_days(table, horizon)
    split = Split.of(targets.min().item(), targets.max().item())
    data = TrainingSet.of(table, MOBILITY, horizon, split)
    models = {COHORT_MODEL: fit_cohort(data, OTHER), GLOBAL_MODEL: fit_global(data)}
    return judge(data, OTHER, models)


def told(choice: Choice) -> dict[str, Any]:
    """Who serves and why, and each candidate's mean absolute error with its interval, by set."""
    errors = {
        of_set: {
            name: [_rounded(getattr(sets[of_set].measures["mae"], end)) for end in _ENDS]
            for name, sets in choice.measured.items()
        }
        for of_set in choice.rivals
    }
    sizes = {of_set: next(iter(choice.measured.values()))[of_set] for of_set in choice.rivals}
    return {
        "serves": choice.route.serves,
        "reason": choice.route.reason,
        "rows": {of_set: measured.n for of_set, measured in sizes.items()},
        "patients": {of_set: measured.patients for of_set, measured in sizes.items()},
        "mae": errors,
        "coverage": {
            name: {of_set: _rounded(m.measures["coverage"].estimate, 3) for of_set, m in sets.items()}
            for name, sets in choice.measured.items()
            if all("coverage" in m.measures for m in sets.values())
        },
    }


_ENDS = ("estimate", "lower", "upper")


def _rounded(value: float | None, digits: int = 1) -> float | None:
    return None if value is None else round(value, digits)


def _between(first: date, last: date) -> list[date]:
    return [first + n * DAY for n in range((last - first).days + 1)]
