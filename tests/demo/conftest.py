"""Records that several tests look at: generated ones, and small files of the public ones."""

from __future__ import annotations

import csv
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from medscore_assets.demo.discharges import DemoData, DemoPlan, generate
from medscore_assets.demo.uci_diabetes import UciData, read
from tests.demo.uci_files import ENCOUNTER, MAPPING, Import

PLAN = DemoPlan(date(2024, 7, 1), date(2025, 12, 31))


@pytest.fixture(scope="session")
def plan() -> DemoPlan:
    """Eighteen months with 120 discharges a day, seed and shares as they come."""
    return PLAN


@pytest.fixture(scope="session")
def demo() -> DemoData:
    """The records of `plan`."""
    return generate(PLAN)


@pytest.fixture
def mapping(tmp_path: Path) -> Path:
    """The code tables of the public records."""
    path = tmp_path / "IDs_mapping.csv"
    path.write_text(MAPPING)
    return path


@pytest.fixture
def importing(tmp_path: Path, mapping: Path) -> Import:
    """Imports encounters that differ from `ENCOUNTER` as told, numbered from 1000 on."""

    def run(*changes: dict[str, str], **options: Any) -> UciData:
        path = tmp_path / "records.csv"
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(ENCOUNTER))
            writer.writeheader()
            for number, change in enumerate(changes):
                writer.writerow(ENCOUNTER | {"encounter_id": str(1000 + number)} | change)
        return read(path, mapping, **options)

    return run
