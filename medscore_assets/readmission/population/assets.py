"""The quarterly population report as Dagster assets: a thin shell around the modules of this folder.

Belongs here: read through a resource, call what computes, report in counts of the whole population.
Does not belong here: any rule, any formula, any SQL (`queries.py`), any page (`medscore_assets/report/`).
"""

from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg

from medscore_assets import catalog, tables
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.failures import failures
from medscore_assets.partitions import quarter_of_partition, quarters, report_by_morning
from medscore_assets.readmission.model_assets import readmission_champion
from medscore_assets.readmission.policy import load_policy
from medscore_assets.readmission.population.engines import Champion, PopulationEngine
from medscore_assets.readmission.population.quarters import Quarter
from medscore_assets.readmission.scoring import MODEL, ReadmissionModel
from resources.registry import ModelRegistry
from resources.warehouse import Warehouse

POOL = "population_report"

member_features = dg.AssetSpec(
    "member_features",
    description="All members of a quarter with the features of their last stay, frozen; dirty rows "
    "included. Filled by an insurer's feed, or by: medscore demo members",
    kinds={"postgres"},
    metadata=catalog.table_metadata(tables.member_features),
    code_version=READMISSION.hash,
    partitions_def=quarters(),
    **catalog.READMISSION,
)


@dg.asset(
    deps=[member_features, readmission_champion],
    kinds={"postgres", "xgboost"},
    code_version=READMISSION.hash,
    partitions_def=quarters(),
    backfill_policy=dg.BackfillPolicy.single_run(),
    freshness_policy=report_by_morning(),
    metadata=catalog.table_metadata(tables.population_risk_published),
    pool=POOL,
    **catalog.READMISSION,
)
def population_risk_summary(
    context: dg.AssetExecutionContext,
    warehouse: dg.ResourceParam[Warehouse],
    registry: dg.ResourceParam[ModelRegistry],
    policy_file: dg.ResourceParam[Path],
    population_engine: dg.ResourceParam[PopulationEngine],
) -> dg.MaterializeResult:
    """Readmission risk of a quarter's members by region, hospital, diagnosis, age, sex and insurance.

    Every member is read once, scored and forgotten; what is kept are counts and sums. The headline
    population are the scored index discharges. Cells of 1 to 10 people are withheld, with whatever would
    give them away, in `population_risk_published`; `population_risk_summary` has them all and is not to
    be shown. One transaction a quarter. MEDSCORE_POPULATION_ENGINE says what scores: this process, Spark,
    or EMR; the summary is the same to the last bit.
    """
    with failures():
        policy = load_policy(policy_file)
        stored = registry.champion(MODEL)
        # Reading is what takes long: threads that wait for work would take its time.
        model = ReadmissionModel.load(stored.directory, READMISSION, threads=1)
        champion = Champion(model, stored.version, stored.directory, policy, policy_file)
    for quarter in _quarters(context):
        with failures():
            made = population_engine.publish(context, warehouse, quarter, champion)
        metadata = {
            "dagster/row_count": len(made.published),
            **_header_metadata(made.header),
            "cells_with_withheld_figures": int(made.published["suppressed"].sum()),
        }
        context.log.info("%s: %s", quarter, metadata)
        context.add_asset_metadata(metadata, partition_key=quarter.first_day.isoformat())
    return dg.MaterializeResult()


@dg.asset(
    deps=[population_risk_summary],
    kinds={"pdf", "csv", "parquet"},
    partitions_def=quarters(),
    backfill_policy=dg.BackfillPolicy.single_run(),
    freshness_policy=report_by_morning(),
    pool=POOL,
    **catalog.READMISSION,
)
def population_risk_report(
    context: dg.AssetExecutionContext,
    warehouse: dg.ResourceParam[Warehouse],
    registry: dg.ResourceParam[ModelRegistry],
    policy_file: dg.ResourceParam[Path],
    reports_folder: dg.ResourceParam[Path],
) -> dg.MaterializeResult:
    """The report as files: a CSV per cube, one Parquet, a PDF and a manifest with their hashes.

    Under MEDSCORE_HOME/reports/population, a folder per version, which is never overwritten. Made of the
    published cells only.
    """
    from medscore_assets.readmission.population.files import make_files

    zone = ZoneInfo(quarters().timezone or "UTC")
    for quarter in _quarters(context):
        with failures():
            made = make_files(warehouse, registry, quarter, load_policy(policy_file), zone, reports_folder)
        metadata = {
            **_header_metadata(made.header),
            "folder": dg.MetadataValue.path(str(made.folder)),
            "files": len(made.files) + 1,
            "made_now": made.made,
            "sha256": made.files,
        }
        context.add_asset_metadata(metadata, partition_key=quarter.first_day.isoformat())
    return dg.MaterializeResult()


def _quarters(context: dg.AssetExecutionContext) -> list[Quarter]:
    """Oldest first: a report compares with the quarter before."""
    return sorted(quarter_of_partition(key) for key in context.partition_keys)


def _header_metadata(header: dict[str, Any]) -> dict[str, Any]:
    """Of the whole population: no small cell, nothing about one member."""
    return {
        "quarter": header["quarter"],
        "version": header["version"],
        "as_of": header["as_of"].isoformat(),
        "members": header["rows"],
        "input_fingerprint": header["input_fingerprint"],
        "model_version": header["model_version"],
        "contract_hash": header["contract_hash"],
        "policy_version": header["policy_version"],
        "policy_hash": header["policy_hash"],
    }
