"""The morning list as a Dagster asset: a thin shell around the pure modules of this folder.

Belongs here: read through a resource, call one pure function, write through a resource, report.
Does not belong here: any rule, any formula, any SQL (`queries.py`), and models (`model_assets.py`).
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dagster as dg

from medscore_assets import catalog, tables
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.failures import failures
from medscore_assets.partitions import mornings, ready_by_seven, window
from medscore_assets.readmission.model_assets import readmission_champion
from medscore_assets.readmission.outreach import DayNotPublished, OutreachList
from medscore_assets.readmission.policy import Policy, load_policy
from medscore_assets.readmission.publish import load_champion, publish_list
from medscore_assets.readmission.sources import discharge_events, inpatient_admissions
from resources.registry import ModelRegistry
from resources.warehouse import Warehouse


@dg.asset(
    deps=[discharge_events, inpatient_admissions, readmission_champion],
    kinds={"postgres", "xgboost"},
    code_version=READMISSION.hash,
    partitions_def=mornings(),
    backfill_policy=dg.BackfillPolicy.single_run(),
    freshness_policy=ready_by_seven(),
    metadata=catalog.table_metadata(tables.care_management_scores),
    pool="care_management_scores",
    **catalog.READMISSION,
)
def care_management_scores(
    context: dg.AssetExecutionContext,
    warehouse: dg.ResourceParam[Warehouse],
    registry: dg.ResourceParam[ModelRegistry],
    policy_file: dg.ResourceParam[Path],
) -> Iterator[dg.AssetMaterialization | dg.MaterializeResult]:
    """The morning outreach list: the discharges of 06:00 to 06:00, ranked by calibrated risk.

    Every patient has reasons, recommended actions and the disclaimer. A row that breaks the contract
    goes to quarantine and stops nobody else; too many of them stop the day. One transaction a day.
    """
    with failures():
        policy = load_policy(policy_file)
    published: dict[str, dict[str, Any]] = {}
    refused: dict[str, DayNotPublished] = {}
    # It is loaded while the first day is read.
    with ThreadPoolExecutor(1, "champion") as loader:
        champion = loader.submit(load_champion, registry)
        for day in context.partition_keys:
            try:
                with failures():
                    made = publish_list(warehouse, window(day), champion.result, policy)
                published[day] = _list_metadata(made, champion.result().version, policy)
                context.log.info("%s: %s", day, made.counts)
            except dg.Failure as failure:
                if not isinstance(failure.__cause__, DayNotPublished):
                    raise
                refused[day] = failure.__cause__
                context.log.error("%s: %s", day, failure.__cause__)
    if refused:
        # The other days are published, and Dagster must know although the step fails.
        for day, metadata in published.items():
            yield dg.AssetMaterialization(context.asset_key, partition=day, metadata=metadata)
        raise _refusal(refused)
    for day, metadata in published.items():
        context.add_asset_metadata(metadata, partition_key=day)
    yield dg.MaterializeResult()


def _refusal(refused: dict[str, DayNotPublished]) -> dg.Failure:
    first = next(iter(refused.values()))
    days = "" if len(refused) == 1 else f" Days not published: {', '.join(refused)}. The first:"
    table = dg.TableMetadataValue(
        records=[
            dg.TableRecord({"day": day, "field": field, "reason": reason, "rows": rows})
            for day, error in refused.items()
            for (field, reason), rows in error.broken_rules.items()
        ],
        schema=dg.TableSchema(
            [
                dg.TableColumn("day"),
                dg.TableColumn("field"),
                dg.TableColumn("reason"),
                dg.TableColumn("rows", "int"),
            ]
        ),
    )
    return dg.Failure(
        description=f"{days} {first}".strip(),
        metadata={
            "what": f"{days} {first.what}".strip(),
            "where": first.where,
            "mend": first.mend,
            "broken_rules": table,
        },
        allow_retries=False,
    )


def _list_metadata(made: OutreachList, version: int, policy: Policy) -> dict[str, Any]:
    """Counts only: nothing in Dagster tells anything about one patient."""
    return {
        "dagster/row_count": made.counts["scored"],
        **made.counts,
        "tiers": made.tiers,
        "exclusions": made.exclusion_reasons,
        "model_version": version,
        "contract_hash": READMISSION.hash,
        "policy_version": policy.version,
        "policy_hash": policy.hash,
    }
