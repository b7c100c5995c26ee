"""Who forecasts at present, and the forecasts of a day from the lake's features into the warehouse.

Belongs here: putting routes and champions together, and one day's way from features to rows. Does not
belong here: routing and scoring (`forecasting.py`), rows (`stored.py`), how they are written (`publish.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from medscore_assets.contracts.mobility import MOBILITY
from medscore_assets.mobility.cohorts import COHORT_MODEL, GLOBAL_MODEL, NEW, ROUTED, Route, route
from medscore_assets.mobility.forecasting import Forecasts, forecast
from medscore_assets.mobility.model import MobilityModel, model_name
from medscore_assets.mobility.publish import holding_routes, publish_forecasts
from medscore_assets.mobility.stored import forecast_rows
from resources.errors import PermanentError
from resources.lake import Dataset, Lake
from resources.registry import CHAMPION, ModelRegistry
from resources.warehouse import Warehouse

HORIZONS = (1, 7)
"""Days ahead that are forecast."""

REASONS = 3
"""Reasons that are kept of each forecast."""

PATIENT_FEATURES = Dataset("processed/patient_features", MOBILITY.schema)
FORECASTS = Dataset(
    "processed/forecasts",
    pa.schema(
        [
            ("forecast_day", pa.date32()),
            ("patient_id", pa.string()),
            ("horizon_days", pa.int64()),
            *((name, pa.float64()) for name in ("expected_steps", "lower", "upper", "level")),
            *((name, pa.string()) for name in ("cohort", "route", "serves", "model_name")),
            ("model_version", pa.int64()),
            ("contract_hash", pa.string()),
            ("baseline_mean", pa.float64()),
            ("data_until", pa.date32()),
            ("reasons", pa.string()),
            *((name, pa.int64()) for name in ("other_steps", "raised_steps", "flags")),
            ("made_at", pa.timestamp("us", "UTC")),
        ]
    ),
)
"""The warehouse's forecasts as files, for questions to the lake."""


@dataclass(frozen=True)
class Serving:
    """Who forecasts: routes by horizon and key, models by horizon and cohort or `global`, their versions."""

    routes: Mapping[int, Mapping[str, Route]]
    models: Mapping[int, Mapping[str, MobilityModel]]
    versions: Mapping[str, int]
    """By the models' names in the registry."""

    @classmethod
    def present(cls, warehouse: Warehouse, registry: ModelRegistry) -> Serving:
        """The routes that hold, and the champions that they name, loaded and verified.

        A route was calibrated with one version; where another one is champion, as after a rollback, the
        interval is that version's own. Raises `PermanentError` for a route whose model has no champion.
        """
        routes: dict[int, dict[str, Route]] = {horizon: {} for horizon in HORIZONS}
        models: dict[int, dict[str, MobilityModel]] = {horizon: {} for horizon in HORIZONS}
        versions: dict[str, int] = {}
        for row in _routes_of_this_contract(warehouse):
            held = Route.model_validate_json(row["route"])
            horizon, key = row["horizon_days"], row["cohort"]
            if row["model_name"] is not None:
                of = GLOBAL_MODEL if held.serves == GLOBAL_MODEL else key
                if row["model_name"] not in versions:
                    stored = registry.champion(row["model_name"])
                    models[horizon][of] = MobilityModel.load(stored.directory, MOBILITY)
                    versions[row["model_name"]] = stored.version
                if versions[row["model_name"]] != row["model_version"]:
                    own = models[horizon][of].manifest.conformal.get(key)
                    held = held.model_copy(update={"conformal": own})
            routes[horizon][key] = held
        return cls(routes, models, versions)

    def forecast(self, features: pa.Table, horizon_days: int) -> Forecasts:
        """The forecasts of rows of features, in their order: the same for one row and for a day of them."""
        return forecast(
            features,
            self.routes[horizon_days],
            self.models[horizon_days],
            horizon_days,
            reasons_per_row=REASONS,
        )

    def rows(
        self, features: pa.Table, horizon_days: int, *, made_at: datetime, afterwards: bool = False
    ) -> pa.Table:
        """The forecasts as rows of `mobility_forecasts`."""
        return forecast_rows(
            features,
            self.forecast(features, horizon_days),
            self.routes[horizon_days],
            self.versions,
            horizon_days,
            made_at=made_at,
            afterwards=afterwards,
        )

    def summary(self) -> dict[str, dict[str, str]]:
        """Per route and horizon who serves, with the version of a model."""
        return {key: {str(horizon): self._named(key, horizon) for horizon in HORIZONS} for key in ROUTED}

    def _named(self, key: str, horizon: int) -> str:
        serves = route(self.routes[horizon], key, horizon).serves
        if serves not in (COHORT_MODEL, GLOBAL_MODEL):
            return serves
        name = model_name(key if serves == COHORT_MODEL else GLOBAL_MODEL, horizon)
        return f"{name} {self.versions[name]}"


def serving_state(warehouse: Warehouse, registry: ModelRegistry) -> tuple[Any, ...]:
    """What is another value as soon as `Serving.present` is: the routes' ids and the champions' versions."""
    rows = _routes_of_this_contract(warehouse)
    names = sorted({row["model_name"] for row in rows if row["model_name"] is not None})
    return (
        tuple(row["route_id"] for row in rows),
        tuple((name, registry.version_with(name, CHAMPION)) for name in names),
    )


def publish_day(
    lake: Lake, warehouse: Warehouse, serving: Serving, day: date, *, zone: ZoneInfo
) -> dict[str, Any]:
    """The forecasts of a day of features, written; counts of them.

    A day without features is published with no rows. Raises `PermanentError` naming a damaged file.
    """
    made_at = datetime.now(UTC)
    features = features_of(lake, day)
    afterwards = made_at.astimezone(zone).date() > day
    rows = _by_patient(
        [serving.rows(features, horizon, made_at=made_at, afterwards=afterwards) for horizon in HORIZONS]
    )
    header = {
        "patients": features.num_rows,
        "rows": rows.num_rows,
        "served": json.dumps(serving.summary(), sort_keys=True),
        "contract_hash": MOBILITY.hash,
    }
    written = publish_forecasts(warehouse, day, rows, header, made_at)
    if written or not lake.files(FORECASTS, day):
        lake.write_day(FORECASTS, day, rows)
    return {"patients": features.num_rows, "rows": rows.num_rows, "written": written, **_counts(rows)}


def features_of(lake: Lake, day: date) -> pa.Table:
    """The features of a day that were computed under this contract; no rows where there are none."""
    names = lake.files(PATIENT_FEATURES, day)
    if not names:
        return MOBILITY.schema.empty_table()
    table = lake.read_day(PATIENT_FEATURES, day)
    require_contract(lake, names[0])
    return table


def require_contract(lake: Lake, name: str) -> None:
    """Raises `PermanentError` if a file of features was not computed under this contract."""
    import pyarrow.parquet as pq

    told = pq.read_schema(lake.local([name])[0]).metadata or {}
    stated = told.get(b"contract_hash", b"").decode()
    if stated != MOBILITY.hash:
        raise PermanentError(
            f"the features were computed under the contract {stated[:12] or '(none)'}, and this code has "
            f"{MOBILITY.hash[:12]}",
            where=f"{lake.url}/{name}",
            mend="Compute them anew: medscore mobility run, or medscore mobility train",
        )


def _by_patient(of_horizons: list[pa.Table]) -> pa.Table:
    """The rows in the order of the table's key: its index then grows at one end."""
    rows = pa.concat_tables(of_horizons)
    order = np.arange(rows.num_rows).reshape(len(of_horizons), -1).T.ravel()
    return rows.take(pa.array(order))


def _routes_of_this_contract(warehouse: Warehouse) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = warehouse.read(holding_routes()).to_pylist()
    return [row for row in rows if row["contract_hash"] == MOBILITY.hash]


def _counts(rows: pa.Table) -> dict[str, int]:
    new = rows.filter(pc.equal(rows["route"], NEW)).num_rows
    naive = rows["model_name"].null_count
    return {"of_new_patients": new, "by_models": rows.num_rows - naive, "by_naive_forecasts": naive}
