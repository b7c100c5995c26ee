"""Drift references beside registered models.

Belongs here: attaching one to a version, and fetching it. Does not belong here: what it is.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from medscore_assets.mobility.drift_reference import DriftReference
from medscore_assets.mobility.model import MobilityModel
from medscore_assets.mobility.training_set import TrainingSet
from resources.errors import PermanentError
from resources.registry import ModelRegistry

FILE = "drift_reference.json"
FOLDER = "drift"
"""What the file's folder is attached to a registered version as."""


def store_reference(registry: ModelRegistry, version: int, model: MobilityModel, data: TrainingSet) -> bool:
    """Attach the reference to a registered version of the model; False where there are too few rows."""
    reference = DriftReference.of(model, data)
    if reference is None:
        return False
    with tempfile.TemporaryDirectory(prefix="medscore-mobility-") as folder:
        (Path(folder) / FILE).write_bytes(reference.to_json())
        registry.attach(model.name, version, Path(folder), FOLDER)
    return True


def stored_reference(
    registry: ModelRegistry, name: str, version: int, scratch: Path
) -> DriftReference | None:
    """The reference of a registered version, fetched into `scratch`; None if it was stored without one."""
    try:
        file = registry.attached(name, version, FOLDER, scratch) / FILE
    except PermanentError:
        return None
    return DriftReference.from_json(file.read_bytes(), str(file))
