"""Outcomes and monitoring of mobility forecasts as Dagster assets, with the checks that raise alerts.

Belongs here: read through a resource, call what measures, report in counts and states.
Does not belong here: any formula (`tracking.py`, `drift_reference.py`, `data_quality.py`), any SQL.
"""

import tempfile
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import dagster as dg

from medscore_assets import catalog, tables
from medscore_assets.failures import failures
from medscore_assets.mobility.data_quality import QUALITY
from medscore_assets.mobility.monitoring import (
    PSI,
    join_outcomes,
    kept,
    measure,
    served_today,
    verdicts_now,
)
from medscore_assets.mobility.tracking import OUTCOMES
from medscore_assets.monitoring.measurement import Measurement
from medscore_assets.monitoring.thresholds import load_thresholds
from medscore_assets.partitions import mornings
from resources.lake import Lake
from resources.registry import ModelRegistry
from resources.warehouse import Warehouse


@dg.asset(
    deps=["daily_steps", "mobility_forecasts"],
    kinds={"postgres"},
    metadata=catalog.table_metadata(tables.mobility_forecast_outcomes),
    pool="mobility_monitoring",
    **catalog.MOBILITY,
)
def mobility_forecast_outcomes(
    warehouse: dg.ResourceParam[Warehouse], lake: dg.ResourceParam[Lake]
) -> dg.MaterializeResult:
    """Forecasts of the last 28 days with the steps that came, as far as their days are known.

    A day is joined again when its steps or its forecasts changed.
    """
    with failures():
        today = datetime.now(UTC).astimezone(ZoneInfo(mornings().timezone or "UTC")).date()
        written = join_outcomes(lake, warehouse, today)
    return dg.MaterializeResult(
        metadata={
            "days_joined": len(written),
            "rows_changed": sum(written.values()),
            "newest_day": str(max(written, default="")),
        }
    )


@dg.asset(
    deps=[mobility_forecast_outcomes, "patient_features"],
    kinds={"postgres"},
    metadata=catalog.table_metadata(tables.monitoring_measures),
    pool="mobility_monitoring",
    **catalog.MOBILITY,
)
def mobility_monitoring(
    warehouse: dg.ResourceParam[Warehouse],
    registry: dg.ResourceParam[ModelRegistry],
    lake: dg.ResourceParam[Lake],
    thresholds_file: dg.ResourceParam[Path],
) -> dg.MaterializeResult:
    """Error and coverage by route and horizon, each day and over 14 days; drift; quality of the records.

    Everything goes to `monitoring_measures`. What is at alarm over 14 days asks for a training.
    """
    from medscore_assets.report.monitoring_page import verdict_table

    with failures(), tempfile.TemporaryDirectory(prefix="medscore-mobility-") as scratch:
        thresholds = load_thresholds(thresholds_file)
        found = measure(lake, warehouse, registry, thresholds, Path(scratch))
        now = verdicts_now(found, served_today(warehouse, registry))
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(found),
            "states": dict(Counter(m.state for m in now)),
            "verdicts": dg.MetadataValue.md(verdict_table(now)),
            "thresholds_version": thresholds.version,
            "thresholds_hash": thresholds.hash,
        }
    )


def _result(
    warehouse: Warehouse,
    registry: ModelRegistry,
    measures: tuple[str, ...],
    severity: dg.AssetCheckSeverity,
) -> dg.AssetCheckResult:
    now = verdicts_now(kept(warehouse), served_today(warehouse, registry))
    of_kind = [m for m in now if m.measure in measures]
    return dg.AssetCheckResult(
        passed=not any(m.state == "alarm" for m in of_kind),
        severity=severity,
        metadata={
            "judged": len(of_kind),
            **{
                state: sorted({_named(m) for m in of_kind if m.state == state})
                for state in ("warning", "alarm")
            },
        },
    )


def _named(m: Measurement) -> str:
    return f"{m.measure} of {m.subject}, {m.model_name}"


@dg.asset_check(asset=mobility_monitoring)
def forecast_errors_hold(
    warehouse: dg.ResourceParam[Warehouse], registry: dg.ResourceParam[ModelRegistry]
) -> dg.AssetCheckResult:
    """Over the last 14 days forecasts err no more than at promotion, and intervals hold what they promise.

    As far as the thresholds demand, and surely, not by the days of a few patients.
    """
    with failures():
        return _result(warehouse, registry, OUTCOMES, dg.AssetCheckSeverity.ERROR)


@dg.asset_check(asset=mobility_monitoring)
def features_and_errors_are_stable(
    warehouse: dg.ResourceParam[Warehouse], registry: dg.ResourceParam[ModelRegistry]
) -> dg.AssetCheckResult:
    """Features and errors of the last 7 days do not differ from training so much that it is an alarm."""
    with failures():
        return _result(warehouse, registry, (PSI,), dg.AssetCheckSeverity.WARN)


@dg.asset_check(asset=mobility_monitoring)
def step_records_are_sound(
    warehouse: dg.ResourceParam[Warehouse], registry: dg.ResourceParam[ModelRegistry]
) -> dg.AssetCheckResult:
    """On the newest day no more patients and counts are missing or impossible than usual; files fit."""
    with failures():
        return _result(warehouse, registry, QUALITY, dg.AssetCheckSeverity.WARN)


MONITORING_JOB = "mobility_daily_monitoring"

MONITORING_ASSETS = [mobility_forecast_outcomes, mobility_monitoring]
MONITORING_CHECKS = [forecast_errors_hold, features_and_errors_are_stable, step_records_are_sound]
MONITORING_JOBS = [
    dg.define_asset_job(
        MONITORING_JOB,
        selection=dg.AssetSelection.assets(*MONITORING_ASSETS),
        description="Outcomes joined to mobility forecasts; error, coverage and drift of who serves.",
    )
]
