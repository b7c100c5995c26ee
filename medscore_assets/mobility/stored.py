"""Forecasts as rows of the warehouse, and back: reasons in few bytes, and in words again when they are read.

Belongs here: the columns of `mobility_forecasts` from what `forecasting.py` made, the flags, and the reasons
of a stored row. Does not belong here: making forecasts (`forecasting.py`), the tables, reading and writing.

A reason is stored as [feature, value, steps]. Its words follow from these, so that a day of 200,000 rows
stays small, and a stored forecast says what the same forecast says that is computed on demand.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import IntFlag
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from medscore_assets.contracts.mobility import MOBILITY
from medscore_assets.mobility.cohorts import COHORT_MODEL, GLOBAL_MODEL, Route, cohorts_of, route
from medscore_assets.mobility.encoding import BASELINE, DISEASE, numbers
from medscore_assets.mobility.forecasting import Forecasts
from medscore_assets.mobility.reasons import Reasons, told

FRESH_DAYS = 7
"""Days without data from which the data behind a forecast are old."""


class ForecastFlag(IntFlag):
    """What is to be known of a forecast: the bits of `flags`."""

    FEW_DAYS = 1
    """The patient has too few days for an own spread; the interval is as wide as the cohort's at least."""
    OLD_DATA = 2
    """The last day with data is more than `FRESH_DAYS` days before."""
    NO_INTERVAL = 4
    AFTERWARDS = 8
    """Made after its day was over, from what was known by then of the days before it."""


def forecast_rows(
    features: pa.Table,
    made: Forecasts,
    routes: Mapping[str, Route],
    versions: Mapping[str, int],
    horizon_days: int,
    *,
    made_at: datetime,
    afterwards: bool,
) -> pa.Table:
    """The rows of `mobility_forecasts` for rows of features and what was forecast of them.

    `routes` are those of the forecasts; `versions` is by the models' names in the registry.
    """
    total = features.num_rows
    keys, places = np.unique(made.routes, return_inverse=True)
    taken = [route(routes, key, horizon_days) for key in keys.tolist()]
    # A route's rows have one server.
    firsts = [made.serves[np.argmax(places == place)] for place in range(len(taken))]
    named = [
        name if served.serves in (COHORT_MODEL, GLOBAL_MODEL) else None
        for served, name in zip(taken, firsts, strict=True)
    ]

    def by_route(values: list[Any], kind: pa.DataType) -> pa.Array:
        return pa.array(values, kind).take(pa.array(places))

    disease = np.asarray(features[DISEASE].to_numpy(zero_copy_only=False), dtype=object)
    whole = pa.int64()
    return pa.table(
        {
            "forecast_day": features["day"],
            "patient_id": features["patient_id"],
            "horizon_days": pa.repeat(pa.scalar(horizon_days, whole), total),
            "expected_steps": pa.array(made.steps),
            "lower": pa.array(made.lower, from_pandas=True),
            "upper": pa.array(made.upper, from_pandas=True),
            "level": by_route([r.conformal.coverage if r.conformal else None for r in taken], pa.float64()),
            "cohort": pa.array(cohorts_of(disease).astype(object), pa.string()),
            "route": by_route(keys.tolist(), pa.string()),
            "serves": by_route([r.serves for r in taken], pa.string()),
            "model_name": by_route(named, pa.string()),
            "model_version": by_route([versions[name] if name else None for name in named], whole),
            "contract_hash": pa.repeat(MOBILITY.hash, total),
            "baseline_mean": pa.array(numbers(features[BASELINE], BASELINE)),
            "data_until": _data_until(features),
            "reasons": made.reasons.listed,
            "other_steps": pa.array(made.reasons.other),
            "raised_steps": pa.array(made.reasons.raised),
            "flags": pa.array(_flags(features, made, afterwards), whole),
            "made_at": pa.repeat(pa.scalar(made_at, pa.timestamp("us", "UTC")), total),
        }
    )


def stored_reasons(row: Mapping[str, Any]) -> Reasons:
    """The reasons of a row of `mobility_forecasts`, in words; `reasons` is JSON text or its list."""
    listed = orjson.loads(row["reasons"]) if isinstance(row["reasons"], str | bytes) else row["reasons"]
    return Reasons(
        forecast=int(np.rint(row["expected_steps"])),
        baseline=int(np.rint(row["baseline_mean"])),
        reasons=told(listed),
        other=row["other_steps"],
        raised=row["raised_steps"],
    )


def _data_until(features: pa.Table) -> pa.ChunkedArray:
    """The last day with data before each row's day."""
    days = features["day"].cast(pa.int32())
    return pc.subtract(days, features["days_since_data"].cast(pa.int32())).cast(pa.date32())


def _flags(features: pa.Table, made: Forecasts, afterwards: bool) -> np.ndarray[Any, np.dtype[np.int64]]:
    old = numbers(features["days_since_data"], "days_since_data") > FRESH_DAYS
    return np.asarray(
        made.unsure * int(ForecastFlag.FEW_DAYS)
        + old * int(ForecastFlag.OLD_DATA)
        + np.isnan(made.lower) * int(ForecastFlag.NO_INTERVAL)
        + (int(ForecastFlag.AFTERWARDS) if afterwards else 0),
        dtype=np.int64,
    )
