"""Registered versions and verdicts on them, for tests of decisions about models.

Belongs here: making them without training. Does not belong here: what is decided.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from medscore_assets.model_decisions import VERDICT_TAG, StoredVerdict
from medscore_assets.readmission.scoring import MODEL, Manifest, ReadmissionModel, Recalibration
from resources.registry import ModelRegistry

GATE_HASH = "a" * 64
PASSED = StoredVerdict(True, (), None, GATE_HASH, "b" * 64)


def verdict(registry: ModelRegistry, version: int, against: int | None, *reasons: str) -> None:
    """Write a verdict on a version: a refusal if there are reasons."""
    found = replace(PASSED, promote=not reasons, reasons=reasons, against=against)
    registry.tag(MODEL, version, {VERDICT_TAG: found.to_tag()})


def variant(model: ReadmissionModel, *, slope: float = 1.0, trees: int | None = None) -> ReadmissionModel:
    """The model with its margins scaled about the average patient, or with its first trees only."""
    manifest, serialized = model.manifest, model.serialized
    recalibration = manifest.recalibration
    if trees is not None:
        serialized = bytes(model.booster[:trees].save_raw("ubj"))
        manifest = manifest.model_copy(update={"best_iteration": trees - 1})
    if slope != 1.0:
        # The average log-odds stay, so that only the spread is wrong.
        intercept = model.baseline - slope * (model.baseline - recalibration.intercept)
        scaled = Recalibration(intercept=intercept, slope=slope * recalibration.slope)
        manifest = manifest.model_copy(update={"recalibration": scaled})
    return with_files(manifest, serialized)


def with_files(manifest: Manifest, serialized: bytes) -> ReadmissionModel:
    """A model whose manifest tells the hash of these bytes."""
    from medscore_assets.readmission.scoring import MODEL_FILE
    from resources.artifacts import sha256

    files = {MODEL_FILE: sha256(serialized)}
    return ReadmissionModel.from_bytes(serialized, manifest.model_copy(update={"files": files}))


def register(registry: ModelRegistry, model: ReadmissionModel, folder: Path) -> int:
    """Register a model; its version."""
    model.save(folder)
    return registry.register(MODEL, folder)
