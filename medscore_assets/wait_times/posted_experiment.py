"""Which simple models forecast a posted wait better than "as it is now", measured on a series of them.

Belongs here: models that need nothing but the series, and their errors. Does not belong here: reading series
(`importers/posted_waits.py`), and the models that are shown, which know the visits (`models/`).

The series is laid on a grid of 15 minutes: at each point stands what was last posted, if that is not older
than half an hour. Nothing is interpolated, and no model looks across a longer gap. Models are fitted on the
earlier part of the days and compared on the later part, on the moments at which each has a forecast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from medscore_assets.wait_times.importers.posted_waits import PostedWaits
from resources.errors import PermanentError

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

STEP_MINUTES: Final = 15
FRESH_MINUTES: Final = 30
HORIZONS: Final = (15, 60, 120)
DAY_STEPS: Final = 24 * 60 // STEP_MINUTES
ORDER: Final = 5
"""Of the autoregression."""
SMOOTHING: Final = np.linspace(0.02, 1.0, 50)
FITTED_SHARE: Final = 0.5
BASELINE: Final = "carry_forward"

Forecast = Callable[[Floats, int], Floats]
"""From the grid (n,) and steps ahead to the forecast made at each point (n,), NaN where there is none."""


@dataclass(frozen=True, slots=True)
class Score:
    """Mean absolute error in minutes of a model at a facility, `minutes_ahead`, over `n` moments.

    `against_baseline` is the share by which it is smaller than that of carrying forward; negative: larger.
    """

    facility_id: str
    model: str
    minutes_ahead: int
    n: int
    mae: float
    against_baseline: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """All scores, and the moments from which on they were measured (UTC), by facility."""

    scores: tuple[Score, ...]
    tested_from: Mapping[str, datetime]
    tested_until: Mapping[str, datetime]

    def as_dict(self) -> dict[str, Any]:
        """Fit for JSON."""
        return {
            "tested": {
                name: {
                    "from": self.tested_from[name].isoformat(),
                    "until": self.tested_until[name].isoformat(),
                }
                for name in self.tested_from
            },
            "scores": [
                {name: getattr(score, name) for name in Score.__dataclass_fields__} for score in self.scores
            ],
        }


def posted_wait_experiment(posted: PostedWaits) -> Comparison:
    """Compare all models at all `HORIZONS`, facility by facility.

    Raises `PermanentError` where a series is too short to be fitted and tested: two days at least.
    """
    scores: list[Score] = []
    start, end = dict[str, datetime](), dict[str, datetime]()
    for facility in pc.unique(posted.series["facility_id"]).to_pylist():
        rows = posted.series.filter(pc.equal(posted.series["facility_id"], facility))
        grid, values = on_grid(rows)
        fitted = int(len(grid) * FITTED_SHARE)
        if fitted < DAY_STEPS:
            raise PermanentError(
                "the series of posted waits is too short", where=facility, mend="Give two days or more."
            )
        tested = np.arange(len(grid)) >= fitted
        local = pa.array(grid).cast(pa.timestamp("us", "UTC"))
        hours = pc.hour(local.cast(pa.timestamp("us", posted.zone.key))).to_numpy()
        scores += _scores(facility, values, tested, forecasters(values[:fitted], hours))
        start[facility], end[facility] = local[fitted].as_py(), local[-1].as_py()
    return Comparison(tuple(scores), start, end)


def on_grid(rows: pa.Table) -> tuple[npt.NDArray[np.datetime64], Floats]:
    """Points every 15 minutes (datetime64[us], UTC), and what was last posted at each; NaN after a gap.

    `rows` are those of one facility, in the order of time.
    """
    at = rows["seen_at"].to_numpy().astype("datetime64[us]")
    step = np.timedelta64(STEP_MINUTES, "m")
    first = at[0].astype("datetime64[h]").astype("datetime64[us]")
    grid = np.arange(first + np.ceil((at[0] - first) / step) * step, at[-1] + step, step)
    last = np.searchsorted(at, grid, side="right") - 1
    fresh = grid - at[last] <= np.timedelta64(FRESH_MINUTES, "m")
    return grid, np.where(fresh, rows["wait_minutes"].to_numpy()[last], np.nan)


def forecasters(fitted: Floats, hours: npt.NDArray[np.int64]) -> dict[str, Forecast]:
    """The models by name, fitted on the first part of a grid; `hours` are the local hours of all of it."""
    alpha = _smoothing_of_least_error(fitted)
    weights = _autoregression(fitted)
    profile = _profile(fitted, hours)
    return {
        BASELINE: lambda values, steps: values,
        "moving_average_60": lambda values, steps: _moving_average(values, 60 // STEP_MINUTES),
        "moving_average_120": lambda values, steps: _moving_average(values, 120 // STEP_MINUTES),
        "ets": lambda values, steps: _smoothed(values, alpha),
        "ar5": lambda values, steps: _autoregressed(values, weights, steps),
        "time_of_day": lambda values, steps: profile[_ahead(hours, steps)],
        "carry_forward_by_time_of_day": lambda values, steps: (
            values + profile[_ahead(hours, steps)] - profile[hours]
        ),
    }


def _scores(facility: str, values: Floats, tested: Mask, models: Mapping[str, Forecast]) -> list[Score]:
    scores = []
    for minutes in HORIZONS:
        steps = minutes // STEP_MINUTES
        truth = np.concatenate([values[steps:], np.full(steps, np.nan)])
        made = {name: np.maximum(forecast(values, steps), 0) for name, forecast in models.items()}
        matched = tested & ~np.isnan(truth) & ~np.any([np.isnan(f) for f in made.values()], axis=0)
        errors = {name: float(np.abs(f - truth)[matched].mean()) for name, f in made.items()}
        scores += [
            Score(facility, name, minutes, int(matched.sum()), error, 1 - error / errors[BASELINE])
            for name, error in errors.items()
        ]
    return scores


def _ahead(hours: npt.NDArray[np.int64], steps: int) -> npt.NDArray[np.int64]:
    """The local hour some steps later, at each point; at the end of the grid, as the day before."""
    return np.asarray(np.concatenate([hours[steps:], hours[len(hours) - DAY_STEPS :][:steps]]))


def _moving_average(values: Floats, width: int) -> Floats:
    """The mean of the last `width` values; of fewer where some are missing."""
    windows = np.lib.stride_tricks.sliding_window_view(
        np.concatenate([np.full(width - 1, np.nan), values]), width
    )
    known = ~np.isnan(windows)
    total = np.where(known, windows, 0).sum(axis=1)
    # Without a value at the moment there is nothing to be compared with.
    return np.where(np.isnan(values), np.nan, total / np.maximum(known.sum(axis=1), 1))


def _smoothed(values: Floats, alpha: float) -> Floats:
    """The level of simple exponential smoothing, ETS(A,N,N), after each value; it begins anew after a gap."""
    levels, level = np.full(len(values), np.nan), np.nan
    for place, value in enumerate(values.tolist()):
        level = value if level != level else level + alpha * (value - level)
        levels[place] = level
    return levels


def _smoothing_of_least_error(values: Floats) -> float:
    """The smoothing whose level misses the next value by the least square."""
    misses = [np.nanmean((_smoothed(values, alpha)[:-1] - values[1:]) ** 2) for alpha in SMOOTHING.tolist()]
    return float(SMOOTHING[int(np.argmin(misses))])


def _lagged(values: Floats) -> Floats:
    """A one and the last `ORDER` values, newest first, at each point (n, ORDER + 1)."""
    lags = [np.concatenate([np.full(lag, np.nan), values[: len(values) - lag]]) for lag in range(ORDER)]
    return np.stack([np.ones(len(values)), *lags], axis=1)


def _autoregression(values: Floats) -> Floats:
    """Constant and weights of an AR(5), by conditional least squares over runs without a gap."""
    rows, following = _lagged(values)[:-1], values[1:]
    whole = ~np.isnan(rows).any(axis=1) & ~np.isnan(following)
    return np.asarray(np.linalg.lstsq(rows[whole], following[whole])[0])


def _autoregressed(values: Floats, weights: Floats, steps: int) -> Floats:
    rows = _lagged(values)
    for _ in range(steps):
        rows = np.column_stack([rows[:, 0], rows @ weights, rows[:, 1:-1]])
    return np.asarray(rows[:, 1])


def _profile(fitted: Floats, hours: npt.NDArray[np.int64]) -> Floats:
    """The mean of each local hour (24,); of all where an hour has no value."""
    known = ~np.isnan(fitted)
    of = hours[: len(fitted)][known]
    counts = np.bincount(of, minlength=24)
    sums = np.bincount(of, weights=fitted[known], minlength=24)
    return np.where(counts > 0, sums / np.maximum(counts, 1), fitted[known].mean())
