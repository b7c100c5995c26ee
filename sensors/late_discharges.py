"""Makes a list again when its day holds something that it was not made from.

Belongs here: noticing late, repeated and corrected discharges, and late admissions.
Days without a list: `missing_lists.py`. The list itself is made by its asset.
"""

from datetime import UTC, datetime
from pathlib import Path

import dagster as dg

from medscore_assets.partitions import closed_mornings
from medscore_assets.readmission.catch_up import day_states
from medscore_assets.settings import Settings
from resources.registry import ModelRegistry
from resources.warehouse import Warehouse
from sensors.list_requests import DAYS_BACK, GRACE, NO_CHAMPION, Means, request_lists


def late_discharge_sensor(settings: Settings, job_name: str) -> dg.SensorDefinition:
    """Polls the last `DAYS_BACK` windows for events and admissions that their lists do not know."""

    @dg.sensor(
        name="late_discharges",
        job_name=job_name,
        minimum_interval_seconds=300,
        default_status=dg.DefaultSensorStatus[settings.schedules.upper()],
        description="Makes lists again that have late or corrected discharges.",
    )
    def late_discharges(
        context: dg.SensorEvaluationContext,
        warehouse: dg.ResourceParam[Warehouse],
        registry: dg.ResourceParam[ModelRegistry],
        policy_file: dg.ResourceParam[Path],
    ) -> dg.SensorResult | dg.SkipReason:
        days = closed_mornings(DAYS_BACK, until=datetime.now(UTC) - GRACE)
        wanted = [state for state in day_states(warehouse, days) if state.out_of_date]
        idle = f"Every list of the last {DAYS_BACK} days holds all its discharges."
        if not wanted:
            return dg.SkipReason(idle)
        means = Means.present(registry, policy_file)
        if means is None:
            return NO_CHAMPION
        return request_lists(context, job_name, wanted, means, idle)

    return late_discharges
