"""Simulated emergency departments that the tests of this area share."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import pytest

from medscore_assets.demo.emergency import SimulatedVisits, simulate
from medscore_assets.wait_times.model import History
from medscore_assets.wait_times.snapshot import Snapshot, build_snapshot
from medscore_assets.wait_times.visits import Visits


@dataclass(frozen=True)
class Simulated:
    """Three departments over twelve days, seen on the eleventh at 17:00 UTC. Never to be changed."""

    tables: SimulatedVisits
    visits: Visits
    zones: dict[str, str]
    now: datetime

    @property
    def facilities(self) -> tuple[str, ...]:
        return tuple(self.zones)

    @property
    def history(self) -> History:
        """What a model may learn from."""
        return History(self.visits, self.now, self.facilities, self.zones, days=10)

    def snapshot(self, ticks: int = 1) -> Snapshot:
        """All departments at the last ticks, the newest tick first."""
        times = [self.now - timedelta(minutes=15 * tick) for tick in range(ticks)]
        return build_snapshot(
            self.visits, [(name, time) for time in times for name in self.zones], self.zones
        )


@pytest.fixture(scope="session")
def simulated() -> Simulated:
    """Seed and dates were chosen once, before any model was measured on them."""
    made = simulate(3, date(2026, 3, 2), 12, seed=7)
    zones = {row["facility_id"]: row["zone"] for row in made.facilities.to_pylist()}
    return Simulated(made, Visits.of(made.visits), zones, datetime(2026, 3, 12, 17, tzinfo=UTC))
