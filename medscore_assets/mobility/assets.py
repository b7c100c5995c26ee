"""Mobility's days as Dagster assets: steps, monthly sums, features, forecasts.

Belongs here: read through a resource, call one function, write through a resource, report in counts.
Does not belong here: any rule, any formula, any SQL, and models (`model_assets.py`).

A partition is a local day that is over. Its steps are `daily_steps`; the features and forecasts of the same
partition are those of the morning after, which know the day's steps and all before.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg

from medscore_assets import catalog, tables
from medscore_assets.contracts.mobility import MOBILITY
from medscore_assets.failures import failures
from medscore_assets.mobility.daily import DAILY_STEPS
from medscore_assets.mobility.day_engine import DayEngine
from medscore_assets.mobility.feature_set import LONGEST
from medscore_assets.mobility.forecasts import PATIENT_FEATURES
from medscore_assets.mobility.model_assets import mobility_routes
from medscore_assets.mobility.rollups import MONTHLY_ROLLUPS
from medscore_assets.mobility.sources import CLINICAL_SOURCES, lake_metadata, raw_step_counts
from medscore_assets.partitions import forecasts_by_morning, morning_after, step_days
from resources.lake import Lake
from resources.registry import ModelRegistry
from resources.warehouse import Warehouse

DAILY: dict[str, Any] = {
    "partitions_def": step_days(),
    "backfill_policy": dg.BackfillPolicy.single_run(),
    "code_version": MOBILITY.hash,
    **catalog.MOBILITY,
}


class ForecastConfig(dg.Config):
    """How a day that has forecasts already is treated."""

    remake: bool = False
    """Make the forecasts of days that are over again. Otherwise they stand: they are what was said."""


@dg.asset(
    deps=[raw_step_counts, *CLINICAL_SOURCES[:1]],
    kinds={"numba", "parquet"},
    metadata=lake_metadata(DAILY_STEPS),
    pool="daily_steps",
    **DAILY,
)
def daily_steps(
    context: dg.AssetExecutionContext,
    lake: dg.ResourceParam[Lake],
    warehouse: dg.ResourceParam[Warehouse],
    day_engine: dg.ResourceParam[DayEngine],
) -> Iterator[dg.AssetMaterialization | dg.MaterializeResult]:
    """Steps per patient and local day: overlapping devices resolved by the hour, wear time, flags.

    A day without records has no rows, and says so. A day with a damaged file fails, with the file's name;
    its earlier rows stand, and the other days of a range are made.
    """
    made: dict[str, dict[str, Any]] = {}
    failed: dict[str, dg.Failure] = {}
    for key in context.partition_keys:
        try:
            with failures():
                made[key] = _make_day(context, lake, warehouse, day_engine, date.fromisoformat(key))
        except dg.Failure as failure:
            failed[key] = failure
            context.log.error("%s: %s", key, failure.description)
    if failed:
        # The other days are made, and Dagster must know although the step fails.
        for key, metadata in made.items():
            yield dg.AssetMaterialization(context.asset_key, partition=key, metadata=metadata)
        raise _failure_of(failed)
    for key, metadata in made.items():
        context.add_asset_metadata(metadata, partition_key=key)
    yield dg.MaterializeResult()


def _make_day(
    context: dg.AssetExecutionContext, lake: Lake, warehouse: Warehouse, day_engine: DayEngine, day: date
) -> dict[str, Any]:
    from medscore_assets.mobility.preparing import raw_state
    from medscore_assets.mobility.publish import record_day

    # Before the files are read: what arrives meanwhile makes the day out of date.
    state, as_of = raw_state(lake, day), datetime.now(UTC)
    rows = day_engine.steps(context, lake, day, as_of=as_of) if state.files else 0
    record_day(
        warehouse, day, raw_files=state.files, fingerprint=state.fingerprint, patients=rows, made_at=as_of
    )
    told = {} if rows else {"note": "No records of this day: nobody's steps are known."}
    return {"dagster/row_count": rows, "raw_files": state.files, **told}


def _failure_of(failed: dict[str, dg.Failure]) -> dg.Failure:
    first = next(iter(failed.values()))
    if len(failed) == 1:
        return first
    days = f"Days that failed: {', '.join(failed)}. The first:"
    metadata = dict(first.metadata)
    if isinstance(what := metadata.get("what"), dg.TextMetadataValue):
        metadata["what"] = dg.TextMetadataValue(f"{days} {what.value}")
    return dg.Failure(description=f"{days} {first.description}", metadata=metadata, allow_retries=False)


@dg.asset(
    deps=[daily_steps],
    kinds={"duckdb", "parquet"},
    metadata=lake_metadata(MONTHLY_ROLLUPS),
    pool="monthly_rollups",
    **DAILY,
)
def monthly_rollups(
    context: dg.AssetExecutionContext,
    lake: dg.ResourceParam[Lake],
    day_engine: dg.ResourceParam[DayEngine],
) -> dg.MaterializeResult:
    """Sums of each patient's days by month, so that baselines to date need no full history.

    The months of the partitions' days are made anew, whole.
    """
    days = [date.fromisoformat(key) for key in context.partition_keys]
    with failures():
        made = day_engine.rollups(context, lake, days)
    for day in days:
        rows = made[day.replace(day=1)]
        metadata = {"dagster/row_count": rows, "month": f"{day:%Y-%m}"}
        context.add_asset_metadata(metadata, partition_key=day.isoformat())
    return dg.MaterializeResult()


@dg.asset(
    deps=[
        dg.AssetDep(
            daily_steps,
            partition_mapping=dg.TimeWindowPartitionMapping(
                start_offset=1 - LONGEST, end_offset=0, allow_nonexistent_upstream_partitions=True
            ),
        ),
        monthly_rollups,
        *CLINICAL_SOURCES,
    ],
    kinds={"duckdb", "parquet"},
    metadata=lake_metadata(PATIENT_FEATURES),
    pool="patient_features",
    **DAILY,
)
def patient_features(
    context: dg.AssetExecutionContext,
    lake: dg.ResourceParam[Lake],
    day_engine: dg.ResourceParam[DayEngine],
) -> dg.MaterializeResult:
    """What is known of each patient on the morning after the partition's day, by the contract.

    Only the days that the features look at are read; a range of days is made in few passes.
    """
    mornings = {key: morning_after(key) for key in context.partition_keys}
    with failures():
        made = day_engine.features(context, lake, list(mornings.values()))
    for key, day in mornings.items():
        metadata = {"dagster/row_count": made[day], "day": day.isoformat(), "contract_hash": MOBILITY.hash}
        context.add_asset_metadata(metadata, partition_key=key)
    return dg.MaterializeResult()


@dg.asset(
    deps=[patient_features, mobility_routes],
    kinds={"postgres", "parquet"},
    freshness_policy=forecasts_by_morning(),
    metadata=catalog.table_metadata(tables.mobility_forecasts),
    pool="mobility_forecasts",
    **DAILY,
)
def mobility_forecasts(
    context: dg.AssetExecutionContext,
    config: ForecastConfig,
    lake: dg.ResourceParam[Lake],
    warehouse: dg.ResourceParam[Warehouse],
    registry: dg.ResourceParam[ModelRegistry],
) -> dg.MaterializeResult:
    """Steps expected of every patient with data, 1 and 7 days ahead, with interval and top reasons.

    Made on the morning after the partition's day, by the champion that serves the patient's cohort or the
    naive forecast that is better. One transaction a day; forecasts of days that are over stand.
    """
    from medscore_assets.mobility.forecasts import Serving, publish_day
    from medscore_assets.mobility.publish import published_days

    zone = ZoneInfo(step_days().timezone or "UTC")
    mornings = {key: morning_after(key) for key in context.partition_keys}
    with failures():
        serving = Serving.present(warehouse, registry)
        days = list(mornings.values())
        standing = published_days(warehouse, min(days), max(days))
    today = datetime.now(zone).date()
    for key, day in mornings.items():
        if day in standing and day < today and not config.remake:
            metadata: dict[str, Any] = {"note": "The day is over: its forecasts stand."}
        else:
            with failures():
                counts = publish_day(lake, warehouse, serving, day, zone=zone)
            metadata = {"dagster/row_count": counts.pop("rows"), **counts, "contract_hash": MOBILITY.hash}
            context.log.info("%s: %s", day, counts)
        context.add_asset_metadata({"day": day.isoformat(), **metadata}, partition_key=key)
    return dg.MaterializeResult(metadata={"served": serving.summary()})
