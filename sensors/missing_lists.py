"""Makes the lists that nobody made: missed mornings are not caught up by the scheduler.

Belongs here: noticing closed windows without a list. Lists that are there: `late_discharges.py`.
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


def missing_list_sensor(settings: Settings, job_name: str) -> dg.SensorDefinition:
    """Polls the last `DAYS_BACK` windows for those without a list, days without discharges included.

    From the first record on every closed window has a list, so that an empty one is known to be empty.
    """

    @dg.sensor(
        name="missing_lists",
        job_name=job_name,
        minimum_interval_seconds=300,
        default_status=dg.DefaultSensorStatus[settings.schedules.upper()],
        description="Makes the lists of mornings on which none was made.",
    )
    def missing_lists(
        context: dg.SensorEvaluationContext,
        warehouse: dg.ResourceParam[Warehouse],
        registry: dg.ResourceParam[ModelRegistry],
        policy_file: dg.ResourceParam[Path],
    ) -> dg.SensorResult | dg.SkipReason:
        days = closed_mornings(DAYS_BACK, until=datetime.now(UTC) - GRACE)
        wanted = [state for state in day_states(warehouse, days) if state.missing]
        idle = f"There is a list for each of the last {DAYS_BACK} days with records."
        if not wanted:
            return dg.SkipReason(idle)
        means = Means.present(registry, policy_file)
        if means is None:
            return NO_CHAMPION
        return request_lists(context, job_name, wanted, means, idle)

    return missing_lists
