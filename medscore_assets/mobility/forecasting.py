"""Forecasts for rows of features, one or millions: who serves each, its steps, its interval, its reasons.

Belongs here: routing rows to models and naive forecasts, and putting together what is stored of each.
Does not belong here: scores (`model.py`), naive forecasts (`baselines.py`), reading and writing the lake.

The API's forecast on demand and the day's batch are this one function, so that they agree to the last bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from medscore_assets.contracts.mobility import MOBILITY
from medscore_assets.mobility import baselines
from medscore_assets.mobility.cohorts import GLOBAL_MODEL, NEW, Route, cohorts_of, route, routed_as
from medscore_assets.mobility.conformal import unsure
from medscore_assets.mobility.encoding import BASELINE, DISEASE, SPREAD, VALID_DAYS, columns_of
from medscore_assets.mobility.model import MobilityModel
from medscore_assets.mobility.reasons import ReasonColumns, reasons, reasons_of_naive
from resources.errors import ContractViolation, PermanentError

Numbers = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Forecasts:
    """What is said of each row, arrays of length n."""

    steps: Numbers
    lower: Numbers
    upper: Numbers
    """NaN, as `lower` is, where the route has no interval."""
    serves: npt.NDArray[np.object_]
    """The model's name in the registry, or the naive forecast's."""
    routes: npt.NDArray[np.str_]
    """The cohort, or `new`."""
    unsure: Mask
    """The patient has too few days for an own spread: an interval is as wide as the cohort's at least."""
    reasons: ReasonColumns


def forecast(
    table: pa.Table,
    routes: Mapping[str, Route],
    models: Mapping[str, MobilityModel],
    horizon_days: int,
    *,
    reasons_per_row: int = 3,
) -> Forecasts:
    """The forecast of each row of the feature table at a horizon, in the order of the rows.

    `routes` is by route key, `models` by cohort or `global`. Raises `PermanentError` if a route names a
    model that is not there or of another horizon, `ContractViolation` for a row without a baseline.
    """
    columns = columns_of(table, (SPREAD, VALID_DAYS, *baselines.needed(horizon_days)))
    if unknown := int(np.isnan(columns[BASELINE]).sum()):
        raise ContractViolation(
            f"{unknown} of {table.num_rows} rows have no {BASELINE}",
            where="mobility forecasts",
            mend="Leave out patients without any day of data.",
        )
    cohorts = cohorts_of(np.asarray(table[DISEASE].to_numpy(zero_copy_only=False), dtype=object))
    keys = routed_as(cohorts, columns[VALID_DAYS])
    total = table.num_rows
    steps, lower, upper = np.empty(total), np.full(total, np.nan), np.full(total, np.nan)
    serves = np.empty(total, dtype=object)
    told: list[tuple[npt.NDArray[np.intp], ReasonColumns]] = []
    for key in np.unique(keys).tolist():
        rows = np.flatnonzero(keys == key)
        served = route(routes, key, horizon_days)
        of_rows = {name: values[rows] for name, values in columns.items()}
        some = table if len(rows) == total else table.take(pa.array(rows))
        serves[rows], steps[rows], why = _served(some, of_rows, served, models, reasons_per_row)
        told.append((rows, why))
        if served.conformal is not None:
            band = served.conformal.interval(steps[rows], of_rows[SPREAD], of_rows[VALID_DAYS])
            lower[rows], upper[rows] = band.lower, band.upper
    doubtful = unsure(columns[SPREAD], columns[VALID_DAYS])
    because = ReasonColumns.joined(told) if told else ReasonColumns.empty()
    return Forecasts(steps, lower, upper, serves, keys, doubtful, because)


def _served(
    table: pa.Table,
    columns: Mapping[str, Numbers],
    served: Route,
    models: Mapping[str, MobilityModel],
    count: int,
) -> tuple[str, Numbers, ReasonColumns]:
    """The name of what serves a route, and what it says of the rows of the route."""
    if served.serves in baselines.NAIVE:
        steps = baselines.forecasts(columns, served.horizon_days)[served.serves]
        source = MOBILITY.by_name[baselines.source(served.serves, served.horizon_days)]
        return served.serves, steps, reasons_of_naive(source, columns[source.name], columns[BASELINE], steps)
    model = _model(served, models)
    explained = model.explain(model.encoding.encode(table))
    return model.name, explained.steps, reasons(model, table, explained, count)


def _model(served: Route, models: Mapping[str, MobilityModel]) -> MobilityModel:
    name = GLOBAL_MODEL if served.serves == GLOBAL_MODEL or served.cohort == NEW else served.cohort
    found = models.get(name)
    if found is None or found.manifest.horizon_days != served.horizon_days:
        raise PermanentError(
            f"the route of {served.cohort} at {served.horizon_days} days is served by the model of {name}, "
            "which is not there",
            where="mobility forecasts",
            mend="Train and evaluate the mobility models, or load the model that the route names.",
        )
    return found
