"""Asks for a training of the mobility models when forecasts are surely worse than at promotion.

Belongs here: the cool-down, and one request at most. Does not belong here: the rule by which an error is an
alarm (`mobility/tracking.py`, `thresholds.toml`), and whether what is trained goes live (the gate).
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

from medscore_assets.mobility.model_assets import ALL_COHORTS
from medscore_assets.mobility.monitoring import asks_for_training, kept, served_today
from medscore_assets.monitoring.measurement import Measurement
from medscore_assets.settings import Settings
from resources.registry import ModelRegistry
from resources.warehouse import Warehouse
from sensors.degradation import last_training

MODEL_ASSETS = (dg.AssetKey("mobility_models"), dg.AssetKey("mobility_global_model"))

LOOKED_BACK_DAYS = 28
"""Measures of windows that ended earlier tell nothing of today."""


def mobility_degradation_sensor(
    settings: Settings, job_name: str, also_training: Sequence[str] = ()
) -> dg.SensorDefinition:
    """Polls `monitoring_measures` for a rise of the rolling error of who serves today.

    All models are trained together. Any training counts for the cool-down, whoever asked for it and
    however it ended: a run of the job or of the jobs `also_training`, or of the models' assets alone.
    """
    cool_down = timedelta(days=settings.mobility_cooldown_days)

    @dg.sensor(
        name="mobility_degradation",
        job_name=job_name,
        minimum_interval_seconds=900,
        default_status=dg.DefaultSensorStatus[settings.schedules.upper()],
        description="Asks for a training when mobility forecasts are surely worse than at promotion.",
    )
    def mobility_degradation(
        context: dg.SensorEvaluationContext,
        warehouse: dg.ResourceParam[Warehouse],
        registry: dg.ResourceParam[ModelRegistry],
    ) -> dg.RunRequest | dg.SkipReason:
        now = datetime.now(UTC)
        since = now.astimezone(settings.zone).date() - timedelta(days=LOOKED_BACK_DAYS)
        alarms = asks_for_training(kept(warehouse, since), served_today(warehouse, registry))
        if not alarms:
            return dg.SkipReason("No route's forecasts are surely worse than at promotion.")
        last = last_training(context.instance, (job_name, *also_training), MODEL_ASSETS)
        if last is not None and last + cool_down > now:
            return dg.SkipReason(
                f"{_named(alarms)}; the training of {last.astimezone(settings.zone):%Y-%m-%d %H:%M} is less "
                f"than {cool_down.days} days ago."
            )
        context.log.info("%s", _named(alarms))
        return dg.RunRequest(
            # The same key until another training is there, so that a request is made once.
            run_key=f"mobility:{last.isoformat() if last else 'never trained'}",
            tags={**ALL_COHORTS, "medscore/asked_for_by": _named(alarms)},
        )

    return mobility_degradation


def _named(alarms: Sequence[Measurement]) -> str:
    worst = sorted(alarms, key=lambda m: (-(m.value or 0.0), m.model_name, m.subject))
    names = [f"{m.model_name} for {m.subject} errs {m.value or 0.0:.0%} more" for m in worst]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
