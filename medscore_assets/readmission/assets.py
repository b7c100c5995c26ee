"""The readmission assets: thin shells around the pure modules of this folder.

Belongs here: read through a resource, call one pure function, write through a resource, report.
Does not belong here: any rule, any formula, any SQL (`queries.py`).
"""

import os
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import sqlalchemy as sa

from medscore_assets import catalog, tables
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.failures import failures
from medscore_assets.partitions import mornings, ready_by_seven, window
from medscore_assets.readmission.outreach import DayNotPublished, OutreachList
from medscore_assets.readmission.policy import Policy, load_policy
from medscore_assets.readmission.publish import publish_list
from medscore_assets.readmission.scoring import MODEL, ReadmissionModel
from resources.registry import CHALLENGER, CHAMPION, REFUSED_TAG, ModelRegistry
from resources.warehouse import Warehouse

COMMON: dict[str, Any] = {"group_name": catalog.READMISSION_GROUP, "owners": catalog.OWNERS}

discharge_events = dg.AssetSpec(
    "discharge_events",
    description="Discharges as hospitals send them; dirty rows included. Filled by feeds and importers.",
    kinds={"postgres"},
    metadata=catalog.table_metadata(tables.discharge_events),
    code_version=READMISSION.hash,
    **COMMON,
)
inpatient_admissions = dg.AssetSpec(
    "inpatient_admissions",
    description="Acute inpatient stays that began, also those still open. Filled by feeds and importers.",
    kinds={"postgres"},
    metadata=catalog.table_metadata(tables.inpatient_admissions),
    **COMMON,
)
readmission_outcomes = dg.AssetSpec(
    "readmission_outcomes",
    description="Outcomes from sources that record the label itself. Filled by importers.",
    kinds={"postgres"},
    metadata=catalog.table_metadata(tables.readmission_outcomes),
    **COMMON,
)
SOURCES = [discharge_events, inpatient_admissions, readmission_outcomes]


@dg.asset(
    deps=SOURCES,
    kinds={"postgres", "pandera"},
    code_version=READMISSION.hash,
    metadata=catalog.table_metadata(tables.readmission_training_set),
    pool="readmission_training",
    **COMMON,
)
def readmission_training_set(
    context: dg.AssetExecutionContext, warehouse: dg.ResourceParam[Warehouse]
) -> dg.MaterializeResult:
    """Index discharges with matured labels, split by time and grouped by patient.

    The data decide up to when labels are mature: the newest row of the feeds that tell outcomes is "now".
    A feed of admissions that stopped in September says nothing about October.
    """
    from medscore_assets.contracts.schemas import require_frame
    from medscore_assets.readmission.cohort import training_cohort

    with failures(), warehouse.transaction() as connection:
        warehouse.lock(connection, tables.readmission_training_set.name)
        events = warehouse.read(sa.select(tables.discharge_events), connection)
        admissions = warehouse.read(sa.select(tables.inpatient_admissions), connection)
        outcomes = warehouse.read(sa.select(tables.readmission_outcomes), connection)
        cohort = training_cohort(events, admissions, outcomes, as_of=_newest(admissions, outcomes))
        features = cohort.table.select(list(READMISSION.feature_names)).to_pandas()
        require_frame(READMISSION, features, where=tables.readmission_training_set.name)
        warehouse.replace(connection, tables.readmission_training_set, cohort.table, sa.true())
    context.log.info("training set: %s", cohort.flow)
    return dg.MaterializeResult(metadata={"dagster/row_count": len(cohort.table), **cohort.flow})


def _newest(admissions: pa.Table, outcomes: pa.Table) -> datetime:
    """The latest time at which a row that tells outcomes arrived."""
    import pyarrow.compute as pc

    arrivals = [admissions["ingested_at"], outcomes["recorded_at"]]
    times = [pc.max(column).as_py() for column in arrivals]
    return max((t for t in times if t is not None), default=datetime.now(UTC))


@dg.asset(
    deps=[readmission_training_set],
    kinds={"xgboost", "mlflow"},
    code_version=READMISSION.hash,
    pool="readmission_training",
    **COMMON,
)
def readmission_model(
    context: dg.AssetExecutionContext,
    warehouse: dg.ResourceParam[Warehouse],
    registry: dg.ResourceParam[ModelRegistry],
    policy_file: dg.ResourceParam[Path],
) -> dg.MaterializeResult:
    """XGBoost on the ten features, recalibrated, beside a logistic regression and a LACE-like score.

    Registered in MLflow with the hashes of contract, policy, data and files. It becomes champion if it is
    calibrated and beats both baselines on the later part of the records, otherwise challenger.
    """
    from medscore_assets.contracts.schemas import mlflow_signature
    from medscore_assets.monitoring.promotion import refusals
    from medscore_assets.readmission.training import LIMITATIONS, train

    with failures(), tempfile.TemporaryDirectory() as folder:
        trained = train(
            warehouse.read(sa.select(tables.readmission_training_set)),
            READMISSION,
            policy_hash=load_policy(policy_file).hash,
        )
        trained.model.save(Path(folder))
        baselines = {name: e for name, e in trained.evaluations.items() if name != MODEL}
        reasons = refusals(trained.evaluations[MODEL], baselines)
        version = registry.register(
            MODEL,
            Path(folder),
            signature=mlflow_signature(READMISSION),
            params=trained.parameters,
            metrics=trained.metrics,
            tags={
                "dagster_run_id": context.run.run_id,
                "limitations": " ".join(LIMITATIONS),
                REFUSED_TAG: "; ".join(reasons),
            },
        )
        alias = CHALLENGER if reasons else CHAMPION
        registry.set_alias(MODEL, version, alias)
    manifest = trained.model.manifest
    return dg.MaterializeResult(
        metadata={
            "model_version": version,
            "alias": alias,
            "not_champion_because": reasons,
            "contract_hash": manifest.contract_hash,
            "data_fingerprint": manifest.data_fingerprint,
            "trees": manifest.best_iteration + 1,
            "constant_features": list(manifest.constant_features),
            "limitations": dg.MetadataValue.md("\n".join(f"- {text}" for text in LIMITATIONS)),
            **trained.metrics,
        },
        data_version=dg.DataVersion(manifest.files["model.ubj"]),
    )


@dg.asset(
    deps=[discharge_events, inpatient_admissions, readmission_model],
    kinds={"postgres", "xgboost"},
    code_version=READMISSION.hash,
    partitions_def=mornings(),
    backfill_policy=dg.BackfillPolicy.single_run(),
    freshness_policy=ready_by_seven(),
    metadata=catalog.table_metadata(tables.care_management_scores),
    pool="care_management_scores",
    **COMMON,
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
        stored = registry.champion(MODEL)
        model = ReadmissionModel.load(stored.directory, READMISSION, threads=os.cpu_count() or 1)
    published: dict[str, dict[str, Any]] = {}
    refused: dict[str, DayNotPublished] = {}
    for day in context.partition_keys:
        try:
            with failures():
                made = publish_list(warehouse, window(day), model, stored.version, policy)
            published[day] = _list_metadata(made, stored.version, policy)
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
