"""Days of simulated patients with features in the shape of the contract, computed plainly with numpy.

Not the product's features: dense arrays of patients by days, slow in another way, good enough to train on.
"""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pyarrow as pa

from medscore_assets.contracts.mobility import LAGS, MOBILITY, WINDOWS
from medscore_assets.mobility.training_set import TARGET

DISEASES = np.array(["MS", "PD", "RA", "other", "unknown"])
BEGUN = date(2024, 1, 1)


def simulated_steps(patients: int, days: int, seed: int, *, wears: float = 0.93) -> np.ndarray:
    """Steps, shape (patients, days), NaN on days without data: level, weekday, momentum, noise."""
    random = np.random.default_rng(seed)
    level = np.exp(random.normal(8.6, 0.5, (patients, 1)))
    weekday = 1 + 0.25 * np.sin(2 * np.pi * (np.arange(days) % 7) / 7)
    momentum = np.zeros((patients, days))
    for day in range(1, days):
        momentum[:, day] = 0.8 * momentum[:, day - 1] + random.normal(0, 0.15, patients)
    steps = level * weekday * np.exp(momentum + random.normal(0, 0.2, (patients, days)))
    steps[random.random((patients, days)) > wears] = np.nan
    steps[:, 0] = level[:, 0]
    return np.round(steps)


def feature_table(
    steps: np.ndarray, horizon_days: int, *, seed: int = 0, first: int = 1, ids: list[str] | None = None
) -> pa.Table:
    """Every row from day `first` on with a target `horizon_days - 1` later, and that target."""
    patients, days = steps.shape
    random = np.random.default_rng(seed)
    begun = np.datetime64(BEGUN)
    columns: dict[str, np.ndarray] = _history(steps) | _clinical(patients, days, random)
    dates = np.tile(begun + np.arange(days), (patients, 1))
    columns |= _calendar(dates)
    target = np.full_like(steps, np.nan)
    target[:, : days - horizon_days + 1] = steps[:, horizon_days - 1 :]
    used = ~np.isnan(target) & (columns["baseline_days"] >= 1)
    used[:, :first] = False
    ids = ids or [f"p{seed}-{n:05d}" for n in range(patients)]
    table = {
        "patient_id": pa.array(
            np.repeat(np.array(ids, dtype=object)[:, None], days, axis=1)[used], pa.string()
        ),
        "day": pa.array(dates[used], pa.date32()),
    }
    for measure in MOBILITY.features:
        values = columns[measure.name][used]
        if values.dtype.kind == "f":
            table[measure.name] = pa.array(values, from_pandas=True).cast(measure.arrow_type)
        else:
            table[measure.name] = pa.array(values.astype(object), measure.arrow_type)
    return pa.table(table | {TARGET: pa.array(target[used])})


def last_day(days: int) -> date:
    return BEGUN + timedelta(days=days - 1)


def _shifted(values: np.ndarray, by: int) -> np.ndarray:
    found = np.full_like(values, np.nan)
    if by < values.shape[1]:
        found[:, by:] = values[:, : values.shape[1] - by]
    return found


def _history(steps: np.ndarray) -> dict[str, np.ndarray]:
    lags = {k: _shifted(steps, k) for k in range(1, 29)}
    found = {f"steps_lag_{k}": lags[k] for k in LAGS}
    for window in WINDOWS:
        stack = np.stack([lags[k] for k in range(1, window + 1)])
        known = np.isfinite(stack).sum(axis=0)
        with np.errstate(all="ignore"):
            mean = np.nansum(stack, axis=0) / np.where(known, known, np.nan)
            spread = np.sqrt(np.nansum((stack - mean) ** 2, axis=0) / np.where(known > 1, known - 1, np.nan))
            # fmin and fmax skip what is absent.
            found |= {f"steps_mean_{window}": mean, f"steps_std_{window}": spread}
            found |= {
                f"steps_min_{window}": np.fmin.reduce(stack),
                f"steps_max_{window}": np.fmax.reduce(stack),
            }
    same = np.stack([lags[k] for k in (7, 14, 21, 28)])
    counted = np.isfinite(same).sum(axis=0)
    found["steps_same_weekday_mean"] = np.nansum(same, axis=0) / np.where(counted, counted, np.nan)
    for window in (14, 28):
        found[f"steps_trend_{window}"] = (lags[1] - lags[window]) / (window - 1)
    for window in (7, 28):
        found[f"wear_share_{window}"] = np.stack(
            [np.isfinite(lags[k]).astype(float) for k in range(1, window + 1)]
        ).mean(axis=0)
    found["wear_minutes_lag_1"] = np.where(np.isfinite(lags[1]), 800.0, np.nan)
    return found | _to_date(steps, lags, found)


def _to_date(
    steps: np.ndarray, lags: dict[int, np.ndarray], known: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    before = np.isfinite(lags[1])
    count = np.cumsum(before, axis=1).astype(float)
    total = np.cumsum(np.nan_to_num(lags[1]), axis=1)
    squares = np.cumsum(np.nan_to_num(lags[1]) ** 2, axis=1)
    place = np.arange(steps.shape[1])[None, :]
    newest = np.maximum.accumulate(np.where(before, place, -1), axis=1)
    with np.errstate(all="ignore"):
        mean = total / np.where(count, count, np.nan)
        spread = np.sqrt(np.maximum(squares - count * mean**2, 0) / np.where(count > 1, count - 1, np.nan))
    return {
        "days_since_data": np.where(newest >= 0, place - newest + 1, np.nan).astype(float),
        "baseline_mean": mean,
        "baseline_std": spread,
        "baseline_days": count,
        "baseline_deviation_lag_1": lags[1] - mean,
        "baseline_deviation_lag_7": lags[7] - mean,
        "baseline_deviation_mean_7": known["steps_mean_7"] - mean,
        "baseline_ratio_mean_7": known["steps_mean_7"] / np.where(mean > 0, mean, np.nan),
    }


def _clinical(patients: int, days: int, random: np.random.Generator) -> dict[str, np.ndarray]:
    def each(values: np.ndarray) -> np.ndarray:
        return np.repeat(values[:, None], days, axis=1)

    disease = random.choice(DISEASES, patients, p=[0.3, 0.25, 0.25, 0.1, 0.1])
    treated = random.random(patients) < 0.5
    since = np.where(disease == "unknown", np.nan, random.integers(1, 4000, patients))
    return {
        "age_years": each(random.integers(20, 90, patients).astype(float)),
        "sex": each(random.choice(["female", "male"], patients)),
        "disease": each(disease),
        "days_since_diagnosis": each(since),
        "active_diseases": each((disease != "unknown").astype(float)),
        "therapy": each(np.where(treated, random.choice(["a", "b", "c"], patients), "none")),
        "days_on_therapy": each(np.where(treated, random.integers(1, 900, patients), np.nan)),
        "active_therapies": each(treated.astype(float)),
        "active_side_effects": each(random.integers(0, 2, patients).astype(float)),
        "worst_side_effect": each(random.integers(0, 4, patients).astype(float)),
    }


def _calendar(dates: np.ndarray) -> dict[str, np.ndarray]:
    """By Python's own calendar, one date at a time."""
    different = {value: value.astype(object).timetuple() for value in dates[0]}
    weekday = np.array([different[value].tm_wday for value in dates[0]], dtype=float)
    length = np.array([date(different[v].tm_year, 12, 31).timetuple().tm_yday for v in dates[0]])
    angle = 2 * np.pi * (np.array([different[v].tm_yday for v in dates[0]]) - 1) / length
    of_day = {
        "weekday": weekday,
        "month": np.array([different[value].tm_mon for value in dates[0]], dtype=float),
        "is_weekend": (weekday >= 5).astype(float),
        "year_sin": np.sin(angle),
        "year_cos": np.cos(angle),
    }
    return {name: np.tile(values, (len(dates), 1)) for name, values in of_day.items()}
