"""Outcomes and monitoring of the readmission model as Dagster assets, with the checks that raise alerts.

Belongs here: read through a resource, call what measures, write the page, report in counts and states.
Does not belong here: any formula (`outcomes.py`, `monitoring/`), any SQL (`monitoring_queries.py`).
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from zoneinfo import ZoneInfo

import dagster as dg

from medscore_assets import catalog, tables
from medscore_assets.failures import failures
from medscore_assets.monitoring.measurement import DRIFT, Measurement, latest_verdicts
from medscore_assets.monitoring.thresholds import load_thresholds
from medscore_assets.partitions import mornings
from medscore_assets.readmission.assets import care_management_scores
from medscore_assets.readmission.monitoring import InUse, join_outcomes, kept, measure
from medscore_assets.readmission.outcomes import PARADOX, PARTITIONS, PERFORMANCE
from medscore_assets.readmission.policy import load_policy
from medscore_assets.readmission.scoring import MODEL, read_manifest, read_reference
from medscore_assets.readmission.sources import inpatient_admissions, readmission_outcomes
from resources.registry import ModelRegistry
from resources.warehouse import Warehouse

NO_REFERENCE = (
    "The model was stored without what drift is judged against. Train one: medscore train readmission"
)

outreach_calls = dg.AssetSpec(
    "outreach_calls",
    description="Calls to patients on a list, and what came of them. Filled by: medscore import calls",
    kinds={"postgres"},
    metadata=catalog.table_metadata(tables.outreach_calls),
    **catalog.READMISSION,
)


def _zone() -> ZoneInfo:
    return ZoneInfo(mornings().timezone or "UTC")


@dg.asset(
    deps=[care_management_scores, inpatient_admissions, readmission_outcomes, outreach_calls],
    kinds={"postgres"},
    metadata=catalog.table_metadata(tables.readmission_score_outcomes),
    pool="readmission_monitoring",
    **catalog.READMISSION,
)
def readmission_score_outcomes(warehouse: dg.ResourceParam[Warehouse]) -> dg.MaterializeResult:
    """What became of the patients on past lists, as far as it is known, with how far calls to them got.

    The label is that of the training set: 30 days, from admissions only after the claims lag.
    """
    with failures():
        rows, written = join_outcomes(warehouse, _zone())
    called = Counter(outcome or "not_called" for outcome in rows["call_outcome"].to_pylist())
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(rows),
            "rows_changed": written,
            "readmitted": sum(rows["readmitted_within_30_days"].to_pylist()),
            "calls": dict(called),
        }
    )


@dg.asset(
    deps=[care_management_scores, readmission_score_outcomes],
    kinds={"postgres", "html"},
    metadata=catalog.table_metadata(tables.monitoring_measures),
    pool="readmission_monitoring",
    **catalog.READMISSION,
)
def readmission_monitoring(
    warehouse: dg.ResourceParam[Warehouse],
    registry: dg.ResourceParam[ModelRegistry],
    policy_file: dg.ResourceParam[Path],
    thresholds_file: dg.ResourceParam[Path],
    reports_folder: dg.ResourceParam[Path],
) -> dg.MaterializeResult:
    """Drift of the last 7 and 28 days, and performance by month and by what was done, with verdicts.

    Everything goes to `monitoring_measures` and to a page for people under MEDSCORE_HOME/reports.
    """
    from medscore_assets.report.monitoring_page import MonitoringPage, verdict_table

    with failures():
        thresholds, policy = load_thresholds(thresholds_file), load_policy(policy_file)
        stored = registry.champion(MODEL)
        manifest, reference = read_manifest(stored.directory), read_reference(stored.directory)
        found = measure(
            warehouse,
            InUse(stored.version, manifest.trained_at, reference),
            _auroc_at_training(registry) | _auroc(stored.version, manifest.metrics),
            policy,
            thresholds,
            _zone(),
        )
        page = MonitoringPage(
            model=MODEL,
            version=stored.version,
            measurements=found,
            thresholds=thresholds,
            performance=PERFORMANCE,
            partitions=PARTITIONS,
            notes=PARADOX,
            caution="" if reference else NO_REFERENCE,
        ).write(reports_folder / MODEL)
    now = latest_verdicts(m for m in found if m.model_version == stored.version)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(found),
            "model_version": stored.version,
            "states": dict(Counter(m.state for m in now)),
            "verdicts": dg.MetadataValue.md(verdict_table(now)),
            "not_judged_because": "" if reference else NO_REFERENCE,
            "thresholds_version": thresholds.version,
            "thresholds_hash": thresholds.hash,
            "report": dg.MetadataValue.path(str(page)),
        }
    )


def _auroc_at_training(registry: ModelRegistry) -> dict[int, float]:
    """By version, as far as the registry knows: past lists may be those of earlier versions."""
    return {k: auroc for v in registry.versions(MODEL) for k, auroc in _auroc(v.version, v.metrics).items()}


def _auroc(version: int, metrics: Mapping[str, float]) -> dict[int, float]:
    return {version: metrics["auroc"]} if "auroc" in metrics else {}


def verdicts_now(warehouse: Warehouse, registry: ModelRegistry) -> list[Measurement]:
    """What counts now of the champion's measurements."""
    version = registry.champion(MODEL).version
    return latest_verdicts(m for m in kept(warehouse) if m.model_version == version)


def _result(
    now: list[Measurement], measures: tuple[str, ...], severity: dg.AssetCheckSeverity
) -> dg.AssetCheckResult:
    of_kind = [m for m in now if m.measure in measures]
    return dg.AssetCheckResult(
        passed=not any(m.state == "alarm" for m in of_kind),
        severity=severity,
        metadata={
            "judged": len(of_kind),
            **{
                state: sorted({f"{m.measure} of {m.subject}" for m in of_kind if m.state == state})
                for state in ("warning", "alarm")
            },
        },
    )


@dg.asset_check(asset=readmission_monitoring)
def no_drift_alarm(
    warehouse: dg.ResourceParam[Warehouse], registry: dg.ResourceParam[ModelRegistry]
) -> dg.AssetCheckResult:
    """Who is listed lately does not differ so much from training that the thresholds call it an alarm."""
    with failures():
        return _result(verdicts_now(warehouse, registry), DRIFT, dg.AssetCheckSeverity.WARN)


@dg.asset_check(asset=readmission_monitoring)
def performance_holds(
    warehouse: dg.ResourceParam[Warehouse], registry: dg.ResourceParam[ModelRegistry]
) -> dg.AssetCheckResult:
    """In the newest month that can be judged, outcomes bear out the scores as the thresholds demand."""
    with failures():
        return _result(verdicts_now(warehouse, registry), PERFORMANCE, dg.AssetCheckSeverity.ERROR)


MONITORING_ASSETS = [outreach_calls, readmission_score_outcomes, readmission_monitoring]
MONITORING_CHECKS = [no_drift_alarm, performance_holds]
