"""A readmission version from the registry, measured, judged by the gate, reported, and stamped with it all.

Belongs here: the order of reads and writes around `evaluation.py`, the gate and the report.
Does not belong here: measuring, rules, pages, and what follows from a verdict (`promotion.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.compute as pc
import sqlalchemy as sa

from medscore_assets import tables
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.model_decisions import VERDICT_TAG, StoredVerdict
from medscore_assets.monitoring.assessment import Assessment
from medscore_assets.monitoring.evaluation import assess
from medscore_assets.monitoring.promotion import Gate, Verdict, judge
from medscore_assets.readmission.cohort import PARTS
from medscore_assets.readmission.evaluation import BASELINES, CHAMPION_NAME, held_out
from medscore_assets.readmission.policy import Policy
from medscore_assets.readmission.scoring import MODEL, ReadmissionModel
from medscore_assets.readmission.training import LIMITATIONS
from resources.errors import PermanentError
from resources.registry import CHALLENGER, CHAMPION, ModelRegistry
from resources.warehouse import Warehouse

EVALUATION = "evaluation"
"""The folder of the version's run that holds its report."""

_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Judged:
    """One version, measured and judged; `files` are those of its report on this machine."""

    version: int
    champion: int | None
    """The version that is champion, if there is one."""
    compared: bool
    """Whether the champion was compared with; it is not where it is this version, or cannot score."""
    assessment: Assessment
    verdict: Verdict
    files: tuple[Path, ...]
    page: str
    """The report's page in MLflow's UI, from `#` on."""


@dataclass(frozen=True, slots=True)
class _Candidates:
    version: int
    model: ReadmissionModel
    champion_version: int | None
    champion: ReadmissionModel | None


def judge_version(
    warehouse: Warehouse,
    registry: ModelRegistry,
    policy: Policy,
    gate: Gate,
    reports: Path,
    *,
    flow: Mapping[str, int],
    run_id: str,
) -> Judged:
    """Judge the challenger, or the champion where there is none, on the training set's test part.

    The report's files come to `reports`/name/version and to the version's run. The verdict becomes a tag of
    a challenger last, so that it is never without its report. `flow` is the cohort's, `run_id` Dagster's.
    Raises `PermanentError` if there is no version, or the training set is another one than its own.
    """
    candidates = _candidates(registry)
    training_set = warehouse.read(sa.select(tables.readmission_training_set))
    cases = held_out(training_set, candidates.model, candidates.champion, policy)
    assessment = assess(cases, thresholds=gate.thresholds, resamples=gate.resamples)
    name = None if candidates.champion is None else CHAMPION_NAME
    verdict = judge(assessment, name, BASELINES, gate)
    parts = {part: int(pc.sum(pc.equal(training_set["part"], part)).as_py() or 0) for part in PARTS}
    files = _write_report(candidates, assessment, verdict, policy, reports, parts, flow, run_id)
    page = registry.attach(MODEL, candidates.version, files[0].parent, EVALUATION)
    registry.log_metrics(MODEL, candidates.version, _metrics(assessment))
    if candidates.version != candidates.champion_version:
        stored = StoredVerdict(
            verdict.promote,
            tuple(verdict.reasons),
            candidates.champion_version,
            gate.hash,
            candidates.model.manifest.data_fingerprint,
            compared=name is not None,
        )
        registry.tag(MODEL, candidates.version, {VERDICT_TAG: stored.to_tag()})
    return Judged(
        version=candidates.version,
        champion=candidates.champion_version,
        compared=name is not None,
        assessment=assessment,
        verdict=verdict,
        files=files,
        page=page,
    )


def _candidates(registry: ModelRegistry) -> _Candidates:
    """Who is judged, and against whom. A champion of another contract can score nobody: not compared with."""
    champion_version = registry.version_with(MODEL, CHAMPION)
    version = registry.version_with(MODEL, CHALLENGER) or champion_version
    if version is None:
        raise PermanentError(
            "there is no version to judge",
            where=f"registered model {MODEL}",
            mend=f"Train one: medscore train {MODEL}",
        )
    model = ReadmissionModel.load(registry.stored(MODEL, version).directory, READMISSION)
    champion = None
    if champion_version is not None and champion_version != version:
        stored = registry.stored(MODEL, champion_version)
        if stored.tags.get("contract_hash") == READMISSION.hash:
            champion = ReadmissionModel.load(stored.directory, READMISSION)
    return _Candidates(version, model, champion_version, champion)


def _write_report(
    candidates: _Candidates,
    assessment: Assessment,
    verdict: Verdict,
    policy: Policy,
    reports: Path,
    parts: Mapping[str, int],
    flow: Mapping[str, int],
    run_id: str,
) -> tuple[Path, ...]:
    from medscore_assets.report.evaluation_report import EvaluationReport
    from medscore_assets.report.files import write_report
    from medscore_assets.report.model_card import load_texts
    from medscore_assets.report.tripod import load_items

    compared = candidates.champion is not None
    report = EvaluationReport(
        assessment=assessment,
        verdict=verdict,
        model=MODEL,
        version=str(candidates.version),
        manifest=candidates.model.manifest.model_dump(mode="json"),
        policy={"hash": policy.hash, **policy.model_dump(mode="json")},
        parts=parts,
        flow=flow,
        limitations=LIMITATIONS,
        texts=load_texts(_HERE / "model_card.toml"),
        tripod=load_items(_HERE / "tripod_ai.toml"),
        run_id=run_id,
        created_at=datetime.now(UTC),
        champion=CHAMPION_NAME if compared else None,
        champion_version=str(candidates.champion_version) if compared else None,
    )
    return tuple(write_report(reports / MODEL / str(candidates.version), report))


def _metrics(assessment: Assessment) -> dict[str, float]:
    """The judged model's measures with the ends of their intervals, by names of MLflow's."""
    found: dict[str, float] = {}
    for name, of in assessment.performance[assessment.model].measures.items():
        ends = {"": of.estimate, ".lower": of.lower, ".upper": of.upper}
        found |= {f"{EVALUATION}.{name}{end}": value for end, value in ends.items() if value is not None}
    return found
