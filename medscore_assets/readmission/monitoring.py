"""Outcomes and monitoring from the warehouse to the warehouse.

Belongs here: which rows are read for which pure function, and which part of a table its result replaces.
Does not belong here: formulas (`outcomes.py`, `monitoring/`), SQL (`monitoring_queries.py`), Dagster.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from medscore_assets import tables
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.monitoring.drift import Reference
from medscore_assets.monitoring.measurement import (
    DRIFT,
    Measurement,
    Window,
    as_table,
    drift_measurements,
)
from medscore_assets.monitoring.thresholds import Thresholds
from medscore_assets.partitions import window
from medscore_assets.readmission import monitoring_queries as queries
from medscore_assets.readmission.cohort import FOLLOW_UP
from medscore_assets.readmission.columns import joined
from medscore_assets.readmission.outcomes import PERFORMANCE, matured_outcomes, performance
from medscore_assets.readmission.policy import TIERS, Policy
from medscore_assets.readmission.scoring import MODEL
from resources.warehouse import Warehouse

WINDOWS = (7, 28)
"""Over how many of the latest days drift is measured: a broken feed shows in a week, a slow change in four.
Whole weeks, so that each holds every weekday equally often."""


@dataclass(frozen=True, slots=True)
class InUse:
    """The model whose lists are being made, as drift needs it."""

    version: int
    trained_at: datetime
    reference: Reference | None


def join_outcomes(warehouse: Warehouse, zone: tzinfo) -> tuple[pa.Table, int]:
    """Write `readmission_score_outcomes` as far as labels are known; the table, and the rows that changed.

    All of it every time, so that a late admission, a corrected label or a call entered afterwards finds its
    row. The newest row of the feeds that tell outcomes is "now", as for the training set: a feed that
    stopped tells nothing about the days since.
    """
    target = tables.readmission_score_outcomes
    with warehouse.transaction() as connection:
        warehouse.lock(connection, target.name)
        as_of = warehouse.read(queries.known_until(), connection)["known_until"][0].as_py()
        as_of = (as_of or datetime(1970, 1, 1, tzinfo=UTC)).astimezone(zone)
        rows = matured_outcomes(
            warehouse.read(queries.scores_until(as_of.astimezone(UTC) - FOLLOW_UP), connection),
            warehouse.read(queries.stays_scored(), connection),
            warehouse.read(queries.admissions(), connection),
            warehouse.read(queries.recorded_outcomes(), connection),
            warehouse.read(queries.calls(), connection),
            as_of,
        )
        written = warehouse.replace(connection, target, rows, sa.true())
    return rows, written


def measure(
    warehouse: Warehouse,
    in_use: InUse,
    auroc_at_training: Mapping[int, float],
    policy: Policy,
    thresholds: Thresholds,
    zone: tzinfo,
) -> list[Measurement]:
    """Measure drift of the latest days and performance of all months; what is kept of the model in the end.

    Drift of earlier days stays as it was judged then. Performance is replaced for every month of which all
    lists are kept, since the past changes when outcomes come late. A value that comes out the same keeps its
    `measured_at`.
    """
    table = tables.monitoring_measures
    with warehouse.transaction() as connection:
        warehouse.lock(connection, f"{table.name}/{MODEL}")
        last = warehouse.read(queries.newest_list(), connection)["score_date"][0].as_py()
        drift = (
            [
                measurement
                for days in WINDOWS
                for measurement in drift_measurements(
                    _window(warehouse, connection, in_use, policy, last, days), in_use.reference, thresholds
                )
            ]
            if last
            else []
        )
        matured = warehouse.read(queries.outcomes_with_capacity(), connection)
        since = _first_whole_month(warehouse, connection)
        of_months = [
            m for m in performance(matured, auroc_at_training, thresholds, zone) if m.period_start >= since
        ]
        of_model = table.c.model_name == MODEL
        of_version = table.c.model_version == in_use.version
        drift_part = of_version & table.c.measure.in_(DRIFT) & (table.c.period_end == last)
        for found, part in (
            (drift, drift_part),
            (of_months, table.c.measure.in_(PERFORMANCE) & (table.c.period_start >= since)),
        ):
            warehouse.replace(
                connection,
                table,
                as_table(found, datetime.now(UTC)),
                of_model & part,
                keep_if_unchanged=("measured_at",),
            )
        return kept(warehouse, connection)


def kept(warehouse: Warehouse, connection: sa.Connection | None = None) -> list[Measurement]:
    """Every measurement that is kept of the readmission model, oldest period first."""
    return [Measurement(**row) for row in warehouse.read(queries.measurements(MODEL), connection).to_pylist()]


def _first_whole_month(warehouse: Warehouse, connection: sa.Connection) -> date:
    """From when on performance is measured anew: months whose lists were deleted stay as they were."""
    found = warehouse.read(queries.oldest_list_and_month(MODEL), connection).to_pylist()[0]
    oldest: date | None
    month: date | None
    oldest, month = found["score_date"], found["period_start"]
    if oldest is None or month is None or month >= oldest.replace(day=1):
        return date.min
    return (oldest.replace(day=1) + timedelta(days=31)).replace(day=1)


def _window(
    warehouse: Warehouse,
    connection: sa.Connection,
    in_use: InUse,
    policy: Policy,
    last: date,
    days: int,
) -> Window:
    first = last - timedelta(days=days - 1)
    listed = READMISSION.encode(warehouse.read(queries.features_listed(READMISSION, first, last), connection))
    scores = warehouse.read(queries.scores_listed(in_use.version, first, last), connection)
    # Tiers of an earlier policy have other edges: they tell nothing about patients.
    under_policy = scores.filter(pc.equal(scores["policy_hash"], policy.hash))
    missing = _counts(
        warehouse.read(
            queries.missing_in(READMISSION, window(first.isoformat()), window(last.isoformat())), connection
        )
    )
    before, quantiles = {"rows": 0}, np.empty(0)
    if in_use.reference:
        reference = in_use.reference
        quantiles = np.asarray(reference.score_quantiles)
        before = _counts(
            warehouse.read(
                queries.missing_between(READMISSION, reference.begins, reference.ends, in_use.trained_at),
                connection,
            )
        )
    return Window(
        model_name=MODEL,
        model_version=in_use.version,
        first=first,
        last=last,
        features=dict(zip(READMISSION.feature_names, listed.matrix[listed.valid].T, strict=True)),
        scores=np.asarray(joined(scores["readmission_probability"])),
        tiers=np.asarray(pc.index_in(joined(under_policy["risk_tier"]), value_set=pa.array(TIERS))).astype(
            np.int64
        ),
        tier_names=TIERS,
        reference_tiers=policy.tier_indices(quantiles).astype(np.int64),
        missing=missing,
        rows=missing.pop("rows"),
        reference_missing=before,
        reference_rows=before.pop("rows"),
    )


def _counts(one_row: pa.Table) -> dict[str, Any]:
    return dict(one_row.to_pylist()[0])
