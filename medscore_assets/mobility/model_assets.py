"""The life of mobility's models in Dagster: training rows, models by cohort, decisions and routes.

Belongs here: the order of steps, which of them run side by side, and what Dagster is told. Does not belong
here: fitting, rules, registry (`champions.py`), and the days (`assets.py`).

A model per cohort and horizon is a step of its own, so that the job `mobility_training` fits as many at once
as the machine has cores.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg

from medscore_assets import catalog, tables
from medscore_assets.contracts.mobility import MOBILITY
from medscore_assets.failures import failures
from medscore_assets.mobility.cohorts import COHORTS, GLOBAL_MODEL
from medscore_assets.mobility.engines import EngineOptions
from medscore_assets.mobility.forecasts import HORIZONS
from medscore_assets.model_decisions import REFUSED
from resources.lake import Lake
from resources.registry import ModelRegistry
from resources.warehouse import Warehouse

POOL = "mobility_training"
SETTINGS_TAG = "medscore/mobility_training_file"
"""The run's tag that names a file of settings, instead of the one of the platform's settings."""

CHALLENGERS_PROMOTED = "challengers_promoted"

cohorts = dg.StaticPartitionsDefinition(list(COHORTS))

ALL_COHORTS = {
    "dagster/asset_partition_range_start": cohorts.get_first_partition_key() or "",
    "dagster/asset_partition_range_end": cohorts.get_last_partition_key() or "",
}
"""Tags of a run that trains the models of every cohort."""

# One process per core: each holds the training rows and boosts on one thread.
EXECUTOR = dg.multiprocess_executor.configured({"max_concurrent": os.cpu_count() or 1})


@dg.asset(
    deps=["daily_steps", "monthly_rollups", "diagnoses", "therapies", "side_effects", "mobility_patients"],
    kinds={"duckdb", "parquet"},
    code_version=MOBILITY.hash,
    pool=POOL,
    **catalog.MOBILITY,
)
def mobility_training_rows(
    context: dg.AssetExecutionContext,
    lake: dg.ResourceParam[Lake],
    mobility_engine: dg.ResourceParam[EngineOptions],
) -> dg.MaterializeResult:
    """Features of the last year's days of sampled patients, and the steps that followed them."""
    from medscore_assets.mobility.engines import connect
    from medscore_assets.mobility.training_rows import make_training_rows

    with failures(), connect(mobility_engine) as engine:
        made = make_training_rows(lake, engine)
    context.log.info("training rows: %s", made)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": made.rows,
            "first_day": made.first_day.isoformat(),
            "last_day": made.last_day.isoformat(),
            **{f"patients_{cohort}": patients for cohort, patients in made.patients.items()},
        }
    )


@dg.op(ins={"after": dg.In(dg.Nothing)}, out=dg.DynamicOut(dict), pool=POOL)
def cohort_fits(context: dg.OpExecutionContext) -> Iterator[dg.DynamicOutput[dict[str, Any]]]:
    """One fit for each cohort of the run and each horizon."""
    if context.has_partition_key_range:
        chosen = cohorts.get_partition_keys_in_range(context.partition_key_range)
    else:
        chosen = [context.partition_key]
    yield from _fits(chosen)


@dg.op(ins={"after": dg.In(dg.Nothing)}, out=dg.DynamicOut(dict), pool=POOL)
def global_fits(context: dg.OpExecutionContext) -> Iterator[dg.DynamicOutput[dict[str, Any]]]:
    """One fit for each horizon."""
    yield from _fits([GLOBAL_MODEL])


def _fits(chosen: list[str]) -> Iterator[dg.DynamicOutput[dict[str, Any]]]:
    for cohort in chosen:
        for horizon in HORIZONS:
            key = f"{cohort}_{horizon}d"
            yield dg.DynamicOutput({"cohort": cohort, "horizon_days": horizon}, mapping_key=key)


@dg.op(pool=POOL)
def fit_and_register(
    context: dg.OpExecutionContext,
    wanted: dict[str, Any],
    lake: dg.ResourceParam[Lake],
    registry: dg.ResourceParam[ModelRegistry],
    mobility_training_file: dg.ResourceParam[Path | None],
) -> dict[str, Any]:
    """An EBM on the steps relative to each patient's mean to date; it becomes the challenger."""
    from medscore_assets.mobility.champions import fit
    from medscore_assets.mobility.model import model_name
    from medscore_assets.mobility.training_config import load, settings_of

    named = context.run.tags.get(SETTINGS_TAG)
    file = Path(named) if named else mobility_training_file
    with failures():
        name = model_name(wanted["cohort"], wanted["horizon_days"])
        settings = settings_of(load(file), name) if file else None
        tags = {"dagster_run_id": context.run.run_id}
        made = fit(lake, registry, wanted["cohort"], wanted["horizon_days"], settings, tags=tags)
    context.log.info("%s: %s", name, made)
    return {
        "name": made.name,
        "version": "none" if made.version is None else made.version,
        "rounds": made.rounds,
        "rows": made.rows,
        "reason": made.reason,
    }


@dg.op(pool=POOL)
def report_fits(context: dg.OpExecutionContext, made: list[dict[str, Any]]) -> None:
    """What was fitted, as a table."""
    records = [dg.TableRecord(of) for of in sorted(made, key=lambda of: str(of["name"]))]
    context.add_output_metadata({"models": dg.MetadataValue.table(records), "contract_hash": MOBILITY.hash})


_AFTER_ROWS = {"rows": dg.AssetIn("mobility_training_rows", dagster_type=dg.Nothing)}


@dg.graph_asset(
    ins=_AFTER_ROWS,
    partitions_def=cohorts,
    backfill_policy=dg.BackfillPolicy.single_run(),
    kinds={"mlflow"},
    **catalog.MOBILITY,
)
def mobility_models(rows: None) -> None:
    """An explainable boosting model per cohort and horizon, with its conformal intervals.

    Registered in MLflow as files that nothing executes, with the plots of its shape functions.
    """
    return report_fits(cohort_fits(after=rows).map(fit_and_register).collect())


@dg.graph_asset(ins=_AFTER_ROWS, kinds={"mlflow"}, **catalog.MOBILITY)
def mobility_global_model(rows: None) -> None:
    """The model of all patients per horizon: it serves cohorts whose own is not better, and new patients."""
    return report_fits(global_fits(after=rows).map(fit_and_register).collect())


@dg.asset(
    deps=[mobility_training_rows, mobility_models, mobility_global_model],
    kinds={"mlflow", "postgres"},
    code_version=MOBILITY.hash,
    metadata=catalog.table_metadata(tables.mobility_routes),
    pool=POOL,
    check_specs=[
        dg.AssetCheckSpec(
            CHALLENGERS_PROMOTED,
            asset="mobility_routes",
            description="Warns where the gate refused a challenger; what served goes on.",
        )
    ],
    **catalog.MOBILITY,
)
def mobility_routes(
    context: dg.AssetExecutionContext,
    lake: dg.ResourceParam[Lake],
    warehouse: dg.ResourceParam[Warehouse],
    registry: dg.ResourceParam[ModelRegistry],
    mobility_gate_file: dg.ResourceParam[Path],
) -> dg.MaterializeResult:
    """Which version forecasts, and whom: challengers through the gate, then the best for each cohort.

    On held-out later dates and held-out patients. A model serves only where it is surely better than the
    best naive forecast. Decisions are rows of the journal; routes are rows of `mobility_routes`, with their
    reason in words.
    """
    from medscore_assets.mobility.champions import decide
    from medscore_assets.mobility.gate import load_gate

    with failures():
        gate = load_gate(mobility_gate_file)
        judged = [decide(lake, warehouse, registry, gate, horizon) for horizon in HORIZONS]
    decisions = [made for of in judged for made in of.decisions.values()]
    routes = [
        dg.TableRecord(
            {
                "cohort": key,
                "horizon_days": of.horizon_days,
                "serves": choice.route.serves,
                "reason": choice.route.reason,
            }
        )
        for of in judged
        for key, choice in of.choices.items()
    ]
    refused = {made.model_name: made.reason for made in decisions if made.decision == REFUSED}
    return dg.MaterializeResult(
        metadata={
            "routes": dg.MetadataValue.table(routes),
            "routes_changed": sum(of.routes_changed for of in judged),
            "decisions": {m.model_name: f"version {m.model_version} {m.decision}" for m in decisions},
            "gate_version": gate.version,
            "gate_hash": gate.hash,
            "contract_hash": MOBILITY.hash,
        },
        check_results=[
            dg.AssetCheckResult(
                check_name=CHALLENGERS_PROMOTED,
                passed=not refused,
                severity=dg.AssetCheckSeverity.WARN,
                metadata={"refused": refused},
            )
        ],
    )
