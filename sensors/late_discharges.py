"""Makes a list, or makes it again, when its day holds something that it was not made from.

Belongs here: noticing late, repeated and corrected discharges, late admissions, and days without a list.
The list itself is made by its asset.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from medscore_assets.partitions import closed_mornings, window
from medscore_assets.readmission import queries
from medscore_assets.settings import Settings
from resources.warehouse import Warehouse

DAYS_BACK = 14
"""How long a list is kept up to date after its morning."""

GRACE = timedelta(minutes=30)
"""How long after 06:00 the schedule alone makes a list."""

COUNTED = ("events", "superseded", "admissions")


def late_discharge_sensor(settings: Settings, job_name: str) -> dg.SensorDefinition:
    """Polls the last `DAYS_BACK` windows for events and admissions that their lists do not know.

    A window with events and without a list asks for one: its morning was missed, or it was refused and
    the feed has been corrected since. The run key holds the counts: one state asks for one run only.
    """

    @dg.sensor(
        name="late_discharges",
        job_name=job_name,
        minimum_interval_seconds=300,
        default_status=dg.DefaultSensorStatus[settings.schedules.upper()],
        description="Makes lists that are missing, and again those with late or corrected discharges.",
    )
    def late_discharges(
        context: dg.SensorEvaluationContext, warehouse: dg.ResourceParam[Warehouse]
    ) -> dg.SensorResult | dg.SkipReason:
        requests = []
        for day in closed_mornings(DAYS_BACK, until=datetime.now(UTC) - GRACE):
            (state,) = warehouse.read(queries.window_state(window(day))).to_pylist()
            if _out_of_date(state):
                key = ":".join(str(state[name]) for name in COUNTED)
                requests.append(dg.RunRequest(partition_key=day, run_key=f"{day}:{key}"))
        if not requests:
            return dg.SkipReason(f"Every list of the last {DAYS_BACK} days holds all its discharges.")
        return dg.SensorResult(run_requests=requests)

    return late_discharges


def _out_of_date(state: dict[str, Any]) -> bool:
    if state["listed_events"] is None:
        return state["events"] > 0
    return any(state[name] != state[f"listed_{name}"] for name in COUNTED)
