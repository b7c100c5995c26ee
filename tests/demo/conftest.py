"""Generated records that several tests look at."""

from __future__ import annotations

from datetime import date

import pytest

from medscore_assets.demo.discharges import DemoData, DemoPlan, generate

PLAN = DemoPlan(date(2024, 7, 1), date(2025, 12, 31))


@pytest.fixture(scope="session")
def plan() -> DemoPlan:
    """Eighteen months with 120 discharges a day, seed and shares as they come."""
    return PLAN


@pytest.fixture(scope="session")
def demo() -> DemoData:
    """The records of `plan`."""
    return generate(PLAN)
