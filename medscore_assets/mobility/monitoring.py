"""Outcomes of forecasts and monitoring of mobility, from lake and warehouse to the warehouse.

Belongs here: which days are read for which pure function, and which part of a table its result replaces.
Does not belong here: formulas (`tracking.py`, `drift_reference.py`), SQL (`monitoring_queries.py`), Dagster.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import sqlalchemy as sa

from medscore_assets import tables
from medscore_assets.contracts.mobility import MOBILITY
from medscore_assets.mobility import monitoring_queries as queries
from medscore_assets.mobility.cohorts import GLOBAL_MODEL, Route, cohorts_of
from medscore_assets.mobility.daily import DAILY_STEPS
from medscore_assets.mobility.data_quality import STEPS, quality_of_newest_day
from medscore_assets.mobility.drift_reference import DriftReference
from medscore_assets.mobility.drift_store import stored_reference
from medscore_assets.mobility.encoding import DISEASE
from medscore_assets.mobility.forecasts import HORIZONS, PATIENT_FEATURES, features_of
from medscore_assets.mobility.model import MobilityModel
from medscore_assets.mobility.publish import holding_routes
from medscore_assets.mobility.tracking import (
    OUTCOMES,
    RISE,
    ROLLING_DAYS,
    Errors,
    Moments,
    Served,
    of_days,
    of_window,
    promoted_error,
)
from medscore_assets.monitoring.drift import Counts, psi
from medscore_assets.monitoring.measurement import Measurement, as_table
from medscore_assets.monitoring.thresholds import ALARM, NOT_JUDGED, State, Thresholds
from medscore_assets.monthly import ensure_month
from resources.errors import PermanentError
from resources.lake import Lake
from resources.registry import CHAMPION, ModelRegistry
from resources.warehouse import Warehouse

FAMILY = "mobility-"
"""How the names of what is measured here begin: models, naive forecasts, and `STEPS`."""

REOPENED_DAYS = 28
"""Target days whose outcomes are joined again when their steps change; older ones stay."""

DRIFT_DAYS = 7
"""The latest days of features and errors that drift is measured on: every weekday once."""

ROWS_PER_DAY = 20_000
"""Of each day's features at most so many per model, evenly over the patients."""

PSI = "psi"
ERROR = "error"
"""The subject of residual drift: forecast minus steps."""


def join_outcomes(lake: Lake, warehouse: Warehouse, today: date) -> dict[date, int]:
    """Join the steps of the last days to their forecasts; outcomes written by target day.

    Only days whose steps or forecasts changed since. A file of steps that is damaged raises
    `PermanentError` with its name; the days before it stand.
    """
    written = {}
    since = today - timedelta(days=REOPENED_DAYS)
    for day in warehouse.read(queries.unjoined_days(since, HORIZONS))["day"].to_pylist():
        written[day] = _join(lake, warehouse, day)
    return written


def _join(lake: Lake, warehouse: Warehouse, day: date) -> int:
    names = lake.files(DAILY_STEPS, day)
    steps = lake.read_day(DAILY_STEPS, day, ["patient_id", "steps"]) if names else _STEPS.empty_table()
    for forecast_day in queries.forecast_days(day, HORIZONS):
        ensure_month(warehouse, tables.mobility_forecast_outcomes, forecast_day)
    target, observed = tables.mobility_forecast_outcomes, queries.observed_table()
    with warehouse.transaction() as connection:
        warehouse.lock(connection, f"{target.name}/{day}")
        observed.create(connection)
        warehouse.append(connection, observed, steps)
        # Nothing is known of tables this fresh: a nested loop over a day's patients would take hours.
        connection.execute(queries.JOIN_BY_HASH)
        gone = connection.execute(queries.delete_unobserved(day, HORIZONS)).rowcount
        put = connection.execute(
            queries.join_observed(day, HORIZONS), execution_options={"preserve_rowcount": True}
        ).rowcount
        observed.drop(connection)
    return int(gone + put)


_STEPS = pa.schema([("patient_id", pa.string()), ("steps", pa.int64())])


def served_today(warehouse: Warehouse, registry: ModelRegistry) -> list[Served]:
    """Who serves each route at present, and what that was decided on.

    Routes of another contract serve nobody. Where another version became champion since, as by a rollback,
    nothing is known of the error that it was promoted with: it is measured, and its rise is not judged.
    """
    found = []
    for row in warehouse.read(holding_routes()).to_pylist():
        if row["contract_hash"] != MOBILITY.hash:
            continue
        held = Route.model_validate_json(row["route"])
        name, version = row["model_name"], row["model_version"]
        champion = registry.version_with(name, CHAMPION) if name else None
        promoted = promoted_error(json.loads(row["metrics"]), row["serves"], row["cohort"])
        found.append(
            Served(
                row["cohort"],
                row["horizon_days"],
                row["serves"],
                name,
                champion if name else None,
                promoted if champion == version else None,
                held.conformal.coverage if held.conformal else None,
            )
        )
    return found


def measure(
    lake: Lake, warehouse: Warehouse, registry: ModelRegistry, thresholds: Thresholds, scratch: Path
) -> list[Measurement]:
    """Measure the last days and keep what comes out; what is kept of them in the end.

    Days before the window stay as they were measured then. A value that comes out the same keeps its
    `measured_at`. `scratch` is a folder for files of the registry.
    """
    served = served_today(warehouse, registry)
    quality = quality_of_newest_day(
        lake, warehouse.read(queries.patients_by_day()).to_pylist(), kept(warehouse), thresholds
    )
    last = warehouse.read(queries.newest_outcome())["target_day"][0].as_py()
    drift = _drift(lake, warehouse, registry, served, thresholds, last, scratch) if last else []
    table = tables.monitoring_measures
    with warehouse.transaction() as connection:
        warehouse.lock(connection, f"{table.name}/{FAMILY}")
        parts = [(quality, table.c.model_name == STEPS, [m.period_end for m in quality])]
        if last is not None:
            first = last - timedelta(days=ROLLING_DAYS - 1)
            days = of_days(_errors(warehouse, connection, first, last, by_day=True))
            window = of_window(_errors(warehouse, connection, first, last, by_day=False), served, thresholds)
            of_models = table.c.model_name.startswith(FAMILY, autoescape=True) & (table.c.model_name != STEPS)
            outcomes = of_models & table.c.measure.in_(OUTCOMES)
            of_a_day = table.c.period_start == table.c.period_end
            span = [first + timedelta(days=n) for n in range(ROLLING_DAYS)]
            parts.append((days, outcomes & of_a_day, span))
            parts.append((window, outcomes & ~of_a_day, [last]))
            parts.append((drift, of_models & (table.c.measure == PSI), [last]))
        for found, part, ends in parts:
            warehouse.replace(
                connection,
                table,
                as_table(found, datetime.now(UTC)),
                part & table.c.period_end.in_(ends),
                keep_if_unchanged=("measured_at",),
            )
        since = (last or datetime.now(UTC).date()) - timedelta(days=REOPENED_DAYS)
        return kept(warehouse, since, connection)


def kept(
    warehouse: Warehouse, since: date = date.min, connection: sa.Connection | None = None
) -> list[Measurement]:
    """Every measurement of mobility whose period ends on a day or after it, oldest first."""
    rows = warehouse.read(queries.measurements(FAMILY, since), connection).to_pylist()
    return [Measurement(**row) for row in rows]


def verdicts_now(measurements: Iterable[Measurement], served: Iterable[Served]) -> list[Measurement]:
    """What counts now of who serves today and of the records: what was judged at each measure's newest end.

    A route that nobody takes any more has no such end, and says nothing of today.
    """
    present = {s.measured_as for s in served} | {(STEPS, 0)}
    known = list(measurements)
    newest: dict[str, date] = {}
    for m in known:
        newest[m.measure] = max(m.period_end, newest.get(m.measure, date.min))
    return [
        m
        for m in known
        if (m.model_name, m.model_version) in present
        and m.state != NOT_JUDGED
        and m.period_end == newest[m.measure]
    ]


def asks_for_training(measurements: Iterable[Measurement], served: Iterable[Served]) -> list[Measurement]:
    """The routes whose forecasts are so much worse than at promotion that the thresholds call it an alarm."""
    return [m for m in verdicts_now(measurements, served) if m.measure == RISE and m.state == ALARM]


def _errors(
    warehouse: Warehouse, connection: sa.Connection, first: date, last: date, *, by_day: bool
) -> list[Errors]:
    query = queries.errors(first, last, max(HORIZONS), by_day=by_day)
    return [
        Errors(
            row["route"],
            row["horizon_days"],
            row["serves"],
            row["model_name"],
            row["model_version"],
            row["target_day"] if by_day else first,
            row["target_day"] if by_day else last,
            row["patients"],
            row["rows"],
            *(_moments(row, name) for name in ("absolute", "squared", "covered")),
        )
        for row in warehouse.read(query, connection).to_pylist()
    ]


def _moments(row: Mapping[str, Any], name: str) -> Moments:
    return Moments(*(float(row[f"{name}_{moment}"] or 0.0) for moment in ("s", "ss", "sn", "n", "nn")))


@dataclass(frozen=True, slots=True)
class _InUse:
    """A registered model that serves, with the cells that were fixed with it."""

    version: int
    model: MobilityModel
    reference: DriftReference


def _drift(
    lake: Lake,
    warehouse: Warehouse,
    registry: ModelRegistry,
    served: Sequence[Served],
    thresholds: Thresholds,
    last: date,
    scratch: Path,
) -> list[Measurement]:
    """The stability of features and of errors of every registered model that serves and has a reference."""
    first = last - timedelta(days=DRIFT_DAYS - 1)
    found = []
    in_use = {
        name: model
        for name, version in sorted({s.measured_as for s in served if s.model_name})
        if (model := _in_use(registry, name, version, scratch)) is not None
    }
    counted = _counted(lake, in_use.values(), first, last)
    for name, use in in_use.items():
        counts, rows = counted[name]
        for feature, value in use.reference.stability(counts).items():
            state = thresholds.judge("psi", value, n=rows)
            found.append(_stability(name, use.version, feature, first, last, rows, value, state))
    for s in served:
        named = in_use.get(s.model_name or "")
        bins = named.reference.errors.get(s.route) if named else None
        if named is None or bins is None:
            continue
        query = queries.error_cells(s.key, first, last, max(HORIZONS), bins.edges)
        cells = np.zeros(len(bins.counts), dtype=np.int64)
        for row in warehouse.read(query).to_pylist():
            cells[row["cell"]] = row["rows"]
        n = int(cells.sum())
        value = psi(bins.counts, cells)
        state = thresholds.judge("psi", value, n=n)
        found.append(
            _stability(named.model.name, named.version, f"{ERROR} of {s.route}", first, last, n, value, state)
        )
    return found


def _in_use(registry: ModelRegistry, name: str, version: int, scratch: Path) -> _InUse | None:
    """None for a version that was stored without a reference."""
    reference = stored_reference(registry, name, version, scratch / name / str(version))
    if reference is None:
        return None
    return _InUse(version, MobilityModel.load(registry.stored(name, version).directory, MOBILITY), reference)


def _counted(
    lake: Lake, in_use: Iterable[_InUse], first: date, last: date
) -> dict[str, tuple[dict[str, Counts], int]]:
    """Per model the rows of some days in the cells of each feature, and how many rows these are."""
    uses = list(in_use)
    counts: dict[str, dict[str, Counts]] = {use.model.name: {} for use in uses}
    rows = dict.fromkeys(counts, 0)
    for day in lake.days(PATIENT_FEATURES):
        if not uses or not first <= day <= last:
            continue
        try:
            table = features_of(lake, day)
        except PermanentError:
            # A damaged day, or one of another contract, has failed its forecasts: the others are measured.
            continue
        cohorts = cohorts_of(np.asarray(table[DISEASE].to_numpy(zero_copy_only=False), dtype=object))
        for use in uses:
            own = use.model.manifest.cohort
            mine = np.arange(len(cohorts)) if own == GLOBAL_MODEL else np.flatnonzero(cohorts == own)
            mine = mine[:: max(1, -(-len(mine) // ROWS_PER_DAY))]
            matrix = use.model.encoding.encode(table.take(pa.array(mine)))
            of_model = counts[use.model.name]
            for feature, cells in use.reference.count(use.model.encoding, matrix).items():
                of_model[feature] = of_model.get(feature, 0) + cells
            rows[use.model.name] += len(mine)
    for use in uses:
        for feature, fixed in use.reference.features.items():
            counts[use.model.name].setdefault(feature, np.zeros(len(fixed.counts), dtype=np.int64))
    return {name: (counts[name], rows[name]) for name in counts}


def _stability(
    name: str, version: int, subject: str, first: date, last: date, n: int, value: float | None, state: State
) -> Measurement:
    return Measurement(name, version, PSI, subject, first, last, n, None, value, None, None, state)
