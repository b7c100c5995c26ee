"""Makes days of steps again when raw files came in that they were not made from, and what reads these days.

Belongs here: noticing late files, and days that nobody made. The days themselves are made by their assets.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime

import dagster as dg
import sqlalchemy as sa

from medscore_assets.mobility.preparing import raw_states
from medscore_assets.partitions import closed_step_days
from medscore_assets.settings import Settings
from medscore_assets.tables import mobility_days
from resources.lake import Lake
from resources.warehouse import Warehouse

DAYS_BACK = 28
"""How far back a late file re-opens its day: as far as the windows of the features reach. A tick asks for
one run, so of at most so many days: from the oldest that is out of date to the newest."""


@dataclass(frozen=True, slots=True)
class Stale:
    """Days that are out of date or were never made, oldest first, and what the lake holds for them now."""

    days: tuple[date, ...]
    fingerprint: str


def late_steps_sensor(settings: Settings, job_name: str) -> dg.SensorDefinition:
    """Polls the raw files of the last `DAYS_BACK` days for those that their steps do not know.

    Once a state was asked for, it is not asked for again: a file that is damaged fails its day until it is
    delivered anew, which is another state. Forecasts of days that are over stand; those of today are made
    again.
    """

    @dg.sensor(
        name="late_steps",
        job_name=job_name,
        minimum_interval_seconds=600,
        default_status=dg.DefaultSensorStatus[settings.schedules.upper()],
        description="Makes days again whose raw files came late, and what was computed from them.",
    )
    def late_steps(
        context: dg.SensorEvaluationContext,
        lake: dg.ResourceParam[Lake],
        warehouse: dg.ResourceParam[Warehouse],
    ) -> dg.RunRequest | dg.SkipReason:
        keys = closed_step_days(DAYS_BACK, until=datetime.now(UTC))
        stale = stale_days(lake, warehouse, [date.fromisoformat(key) for key in keys])
        if stale is None:
            return dg.SkipReason("No day of steps was made yet. Run: medscore mobility run")
        if not stale.days:
            return dg.SkipReason(f"The steps of the last {DAYS_BACK} days hold all their records.")
        first, last = stale.days[0].isoformat(), keys[-1]
        context.log.info("out of date: %s", ", ".join(map(str, stale.days)))
        return dg.RunRequest(
            run_key=f"late:{first}:{last}:{stale.fingerprint}",
            tags={"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last},
        )

    return late_steps


def stale_days(lake: Lake, warehouse: Warehouse, days: list[date]) -> Stale | None:
    """Those of the days (consecutive, oldest first) that want to be made; None before any day was made.

    The newest day is the schedule's until it was made once.
    """
    made = _made(warehouse)
    if not made:
        return None
    found = raw_states(lake, days)
    stale = [
        day
        for day, state in found.items()
        if (made[day] != state.fingerprint if day in made else state.files > 0 and day < days[-1])
    ]
    content = "\n".join(f"{day} {found[day].fingerprint}" for day in stale)
    return Stale(tuple(stale), hashlib.sha256(content.encode()).hexdigest()[:16])


def _made(warehouse: Warehouse) -> Mapping[date, str]:
    rows = warehouse.read(sa.select(mobility_days.c.day, mobility_days.c.raw_fingerprint)).to_pylist()
    return {row["day"]: row["raw_fingerprint"] for row in rows}
