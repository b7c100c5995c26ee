"""A lake of 60 days of a few dozen people, and models of them, for a portal to show."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from medscore_assets.contracts.mobility import MOBILITY
from medscore_assets.mobility.cohorts import COHORTS, GLOBAL_MODEL, NEW, Route
from medscore_assets.mobility.conformal import Conformal
from medscore_assets.mobility.daily import DAILY_STEPS, DayFlag
from medscore_assets.mobility.forecasts import PATIENT_FEATURES
from medscore_assets.mobility.publish import append_routes
from medscore_assets.mobility.raw import PATIENTS
from medscore_assets.mobility.training import Settings as Boosting
from medscore_assets.mobility.training import fit_global
from medscore_assets.mobility.training_set import Split, TrainingSet
from resources.lake import Lake
from resources.mlflow_store import files_flavor
from resources.registry import CHAMPION, ModelRegistry
from tests.mobility.simulated import BEGUN, feature_table, last_day
from tests.serving.portal_site import SCRIPT, Site

DAYS, PEOPLE = 60, 40
PUBLISHED, NEWEST = last_day(DAYS - 1), last_day(DAYS)
"""The day whose forecasts are stored, and the day after, of which there are only features."""
ODD, STEADY, SILENT, BACK = f"P {SCRIPT}", "P-steady", "P-silent", "P-back"
"""An odd text as an id, regular days, no step at all, and features of the last day alone."""


def write_lake(lake: Lake, steps: np.ndarray, ids: list[str]) -> None:
    features = feature_table(steps, 1, seed=5, ids=ids)
    for day in (PUBLISHED, NEWEST):
        lake.write_day(PATIENT_FEATURES, day, features.filter(pc.equal(features["day"], day)))
    flags = [DayFlag.PARTIAL_DAY, DayFlag.DUPLICATE_RECORDS, DayFlag(0)]
    for n in range(DAYS):
        day = BEGUN + timedelta(days=n)
        known = np.flatnonzero(~np.isnan(steps[:, n]))
        whole = len(known) * [0]
        lake.write_day(
            DAILY_STEPS,
            day,
            pa.table(
                {
                    "patient_id": [ids[i] for i in known],
                    "day": pa.array(len(known) * [day], pa.date32()),
                    "steps": steps[known, n].astype(int),
                    "wear_minutes": [300 if n % 7 == 0 else 840 for _ in known],
                    "devices": [1 for _ in known],
                    "records": whole,
                    "flags": [int(flags[0] if n % 7 == 0 else flags[1 + n % 2]) for _ in known],
                }
            ),
        )
    people = [(who, date(1960, 1, 1), "female", "UTC") for who in (*ids, SILENT)]
    rows = zip(*people, strict=True)
    lake.write(
        PATIENTS, pa.table(dict(zip(PATIENTS.schema.names, map(list, rows), strict=True)), PATIENTS.schema)
    )


def train(site: Site, registry: ModelRegistry, steps: np.ndarray, ids: list[str], horizon: int) -> None:
    """A small global model that serves all cohorts; new patients get their mean."""
    data = TrainingSet.of(
        feature_table(steps, horizon, seed=5, ids=ids), MOBILITY, horizon, Split.of(BEGUN, last_day(DAYS))
    )
    quick = Boosting(max_rounds=8, max_bins=32, early_stopping_rounds=0)
    model = fit_global(data, quick, seed=3)
    folder = site.app.state.service.settings.home / f"trained-{horizon}"
    model.save(folder)
    version = registry.register(model.name, folder, flavor=files_flavor)
    registry.set_alias(model.name, version, CHAMPION)
    band = Conformal(coverage=0.9, quantile=1.5, typical_scale=1500.0, rows=200, patients=20)
    now = datetime.now(UTC)
    decided = []
    for key in (*COHORTS, NEW):
        naive = key == NEW
        serves = "expanding_mean" if naive else GLOBAL_MODEL
        reason = f"{serves} was best for {key} at {horizon}."
        route = Route(cohort=key, horizon_days=horizon, serves=serves, reason=reason, conformal=band)
        decided.append(
            {
                "cohort": key,
                "horizon_days": horizon,
                "serves": serves,
                "model_name": None if naive else model.name,
                "model_version": None if naive else version,
                "reason": reason,
                "route": json.loads(route.model_dump_json()),
                "metrics": {},
                "contract_hash": MOBILITY.hash,
                "decided_at": now,
                "decided_by": "the test",
            }
        )
    append_routes(site.warehouse, decided)
