"""The life of a readmission model in Dagster: training set, model, evaluation, champion.

Belongs here: read through a resource, call one pure function, write through a resource, report.
Does not belong here: any rule, any formula, any SQL (`queries.py`), and the lists (`assets.py`).
"""

import tempfile
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import dagster as dg
import pyarrow as pa
import sqlalchemy as sa

from medscore_assets import catalog, tables
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.failures import failures
from medscore_assets.model_decisions import REFUSED
from medscore_assets.partitions import mornings
from medscore_assets.readmission.policy import load_policy
from medscore_assets.readmission.scoring import MODEL
from medscore_assets.readmission.sources import SOURCES
from resources.registry import CHALLENGER, ModelRegistry
from resources.warehouse import Warehouse

CHALLENGER_PROMOTED = "challenger_promoted"


@dg.asset(
    deps=SOURCES,
    kinds={"postgres", "pandera"},
    code_version=READMISSION.hash,
    metadata=catalog.table_metadata(tables.readmission_training_set),
    pool="readmission_training",
    **catalog.READMISSION,
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
    """The latest time at which a row that tells outcomes arrived, in the zone of the mornings."""
    import pyarrow.compute as pc

    arrivals = [admissions["ingested_at"], outcomes["recorded_at"]]
    times = [pc.max(column).as_py() for column in arrivals]
    newest = max((t for t in times if t is not None), default=datetime.now(UTC))
    return newest.astimezone(ZoneInfo(mornings().timezone or "UTC"))


@dg.asset(
    deps=[readmission_training_set],
    kinds={"xgboost", "mlflow"},
    code_version=READMISSION.hash,
    pool="readmission_training",
    **catalog.READMISSION,
)
def readmission_model(
    context: dg.AssetExecutionContext,
    warehouse: dg.ResourceParam[Warehouse],
    registry: dg.ResourceParam[ModelRegistry],
    policy_file: dg.ResourceParam[Path],
) -> dg.MaterializeResult:
    """XGBoost on the ten features, recalibrated, beside a logistic regression and a LACE-like score.

    Registered in MLflow with the hashes of contract, policy, data and files. It becomes the challenger;
    whether it becomes champion is decided once it has been evaluated.
    """
    from medscore_assets.contracts.schemas import mlflow_signature
    from medscore_assets.readmission.training import LIMITATIONS, train

    with failures(), tempfile.TemporaryDirectory() as folder:
        trained = train(
            warehouse.read(sa.select(tables.readmission_training_set)),
            READMISSION,
            policy_hash=load_policy(policy_file).hash,
        )
        trained.model.save(Path(folder))
        version = registry.register(
            MODEL,
            Path(folder),
            signature=mlflow_signature(READMISSION),
            params=trained.parameters,
            metrics=trained.metrics,
            tags={"dagster_run_id": context.run.run_id, "limitations": " ".join(LIMITATIONS)},
        )
        registry.set_alias(MODEL, version, CHALLENGER)
    manifest = trained.model.manifest
    return dg.MaterializeResult(
        metadata={
            "model_version": version,
            "alias": CHALLENGER,
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
    deps=[readmission_training_set, readmission_model],
    kinds={"mlflow", "matplotlib"},
    code_version=READMISSION.hash,
    pool="readmission_training",
    **catalog.READMISSION,
)
def readmission_evaluation(
    context: dg.AssetExecutionContext,
    warehouse: dg.ResourceParam[Warehouse],
    registry: dg.ResourceParam[ModelRegistry],
    policy_file: dg.ResourceParam[Path],
    gate_file: dg.ResourceParam[Path],
    reports_folder: dg.ResourceParam[Path],
    mlflow_address: dg.ResourceParam[str],
) -> dg.MaterializeResult:
    """The challenger on held-out discharges, beside champion and baselines, and the gate's verdict on it.

    The report (a page, plots, model card, TRIPOD+AI table) is kept with the version in MLflow. Without a
    challenger the champion is measured again.
    """
    from medscore_assets.evaluation_metadata import evaluation_metadata
    from medscore_assets.monitoring.promotion import load_gate
    from medscore_assets.readmission.judging import judge_version

    with failures():
        gate = load_gate(gate_file)
        judged = judge_version(
            warehouse,
            registry,
            load_policy(policy_file),
            gate,
            reports_folder,
            flow=_cohort_flow(context.instance),
            run_id=context.run.run_id,
        )
    context.log.info("version %s: %s", judged.version, judged.verdict.reasons or "passes the gate")
    return dg.MaterializeResult(
        metadata={
            "model_version": judged.version,
            "champion": judged.champion or "none",
            "compared_with_champion": judged.compared,
            "gate_version": gate.version,
            "gate_hash": gate.hash,
            **evaluation_metadata(
                judged.assessment, judged.verdict, judged.files, f"{mlflow_address}/{judged.page}"
            ),
        }
    )


def _cohort_flow(instance: dg.DagsterInstance) -> dict[str, int]:
    """What the training set's newest materialization told of its cohort; empty if it is not known."""
    event = instance.get_latest_materialization_event(readmission_training_set.key)
    told = event.asset_materialization.metadata if event and event.asset_materialization else {}
    return {
        name: value.value
        for name, value in told.items()
        if "/" not in name and isinstance(value, dg.IntMetadataValue) and value.value is not None
    }


@dg.asset(
    deps=[readmission_evaluation],
    kinds={"mlflow", "postgres"},
    code_version=READMISSION.hash,
    pool="readmission_training",
    check_specs=[
        dg.AssetCheckSpec(
            CHALLENGER_PROMOTED,
            asset="readmission_champion",
            description="Warns where the gate refused the challenger; the champion goes on.",
        )
    ],
    **catalog.READMISSION,
)
def readmission_champion(
    context: dg.AssetExecutionContext,
    warehouse: dg.ResourceParam[Warehouse],
    registry: dg.ResourceParam[ModelRegistry],
    gate_file: dg.ResourceParam[Path],
) -> dg.MaterializeResult:
    """The version that scores. A challenger that passed the gate takes the champion's place.

    One that was refused is kept with its reasons, and nothing else changes: that run succeeds, with a
    warning. Every decision, those by hand included, is an event of this asset and a row of the journal.
    """
    from medscore_assets.monitoring.promotion import load_gate
    from medscore_assets.promotion import apply_verdict

    with failures():
        decision = apply_verdict(warehouse, registry, MODEL, load_gate(gate_file).hash)
    context.log.info("version %s %s: %s", decision.model_version, decision.decision, decision.reason)
    return dg.MaterializeResult(
        metadata=decision.metadata(),
        check_results=[
            dg.AssetCheckResult(
                check_name=CHALLENGER_PROMOTED,
                passed=decision.decision != REFUSED,
                severity=dg.AssetCheckSeverity.WARN,
                metadata={"model_version": decision.model_version, "reason": decision.reason},
            )
        ],
    )
