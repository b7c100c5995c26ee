"""The life of a readmission model in Dagster: training set, model.

Belongs here: read through a resource, call one pure function, write through a resource, report.
Does not belong here: any rule, any formula, any SQL (`queries.py`), and the lists (`assets.py`).
"""

import tempfile
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pyarrow as pa
import sqlalchemy as sa

from medscore_assets import catalog, tables
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.failures import failures
from medscore_assets.readmission.policy import load_policy
from medscore_assets.readmission.scoring import MODEL
from medscore_assets.readmission.sources import SOURCES
from resources.registry import CHALLENGER, CHAMPION, REFUSED_TAG, ModelRegistry
from resources.warehouse import Warehouse


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
    **catalog.READMISSION,
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
