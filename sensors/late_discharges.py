"""Re-opens a published list when its discharges have changed since.

Belongs here: noticing late, repeated and corrected discharges. The list itself is made by its asset.
"""

from datetime import UTC, datetime, timedelta

import dagster as dg

from medscore_assets.readmission import queries
from medscore_assets.settings import Settings
from resources.warehouse import Warehouse

DAYS_BACK = 14
"""How long a list is kept up to date after its morning."""


def late_discharge_sensor(settings: Settings, job_name: str) -> dg.SensorDefinition:
    """Polls for lists of the last `DAYS_BACK` days whose window holds other events than they counted.

    The run key holds the new counts: the same state asks for one run only, a further late discharge
    for another.
    """

    @dg.sensor(
        name="late_discharges",
        job_name=job_name,
        minimum_interval_seconds=300,
        default_status=dg.DefaultSensorStatus[settings.schedules.upper()],
        description="Makes a list again when discharges arrive late or are corrected.",
    )
    def late_discharges(
        context: dg.SensorEvaluationContext, warehouse: dg.ResourceParam[Warehouse]
    ) -> dg.SensorResult | dg.SkipReason:
        since = datetime.now(UTC) - timedelta(days=DAYS_BACK)
        outdated = warehouse.read(queries.lists_out_of_date(since)).to_pylist()
        if not outdated:
            return dg.SkipReason(f"Every list of the last {DAYS_BACK} days holds all its discharges.")
        return dg.SensorResult(
            run_requests=[
                dg.RunRequest(
                    partition_key=row["score_date"].isoformat(),
                    run_key=f"{row['score_date']}:{row['events']}:{row['superseded']}",
                )
                for row in outdated
            ]
        )

    return late_discharges
