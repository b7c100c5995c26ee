"""Asks for a training when what is measured of the champion is at alarm, and not again soon after.

Belongs here: which measures a training can mend, and the cool-down. Does not belong here: measuring
(`monitoring/`), and whether the trained model goes live (the gate).
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

from medscore_assets.monitoring.measurement import Measurement, latest_verdicts
from medscore_assets.readmission.monitoring import kept
from medscore_assets.readmission.scoring import MODEL
from medscore_assets.settings import Settings
from resources.registry import CHAMPION, ModelRegistry
from resources.warehouse import Warehouse

MENDED_IN_THE_FEED = ("missing_rate",)
"""Measures of the feed: a model trained on fields that no longer come would make the fault permanent."""

MODEL_ASSET = dg.AssetKey("readmission_model")


def degradation_sensor(
    settings: Settings, job_name: str, also_training: Sequence[str] = ()
) -> dg.SensorDefinition:
    """Polls `monitoring_measures` for alarms of the present champion.

    Any training counts for the cool-down, whoever asked for it and however it ended: the weekly one, one
    by hand (jobs `also_training`, or the asset alone), one that failed. A failed one that were tried again
    at once would fail again; people are told of it.
    """
    cool_down = timedelta(days=settings.retraining_cooldown_days)

    @dg.sensor(
        name="degradation",
        job_name=job_name,
        minimum_interval_seconds=900,
        default_status=dg.DefaultSensorStatus[settings.schedules.upper()],
        description="Asks for a training when the champion's measures are at alarm.",
    )
    def degradation(
        context: dg.SensorEvaluationContext,
        warehouse: dg.ResourceParam[Warehouse],
        registry: dg.ResourceParam[ModelRegistry],
    ) -> dg.RunRequest | dg.SkipReason:
        champion = registry.version_with(MODEL, CHAMPION)
        if champion is None:
            return dg.SkipReason("There is no champion whose measures could be at alarm.")
        alarms = alarms_of(warehouse, champion)
        if not alarms:
            return dg.SkipReason(f"No measure of version {champion} that a training can mend is at alarm.")
        trained = last_training(context.instance, (job_name, *also_training))
        if trained is not None and trained + cool_down > datetime.now(UTC):
            return dg.SkipReason(
                f"Version {champion} is at alarm ({_named(alarms)}); the training of "
                f"{trained.astimezone(settings.zone):%Y-%m-%d %H:%M} is less than {cool_down.days} days ago."
            )
        context.log.info("version %s is at alarm: %s", champion, _named(alarms))
        return dg.RunRequest(
            run_key=f"{MODEL}:{champion}:{trained.isoformat() if trained else 'never trained'}",
            tags={"medscore/asked_for_by": _named(alarms)},
        )

    return degradation


def alarms_of(warehouse: Warehouse, version: int) -> list[Measurement]:
    """What counts now of a version's measures, is at alarm, and may be mended by a training."""
    now = latest_verdicts(m for m in kept(warehouse) if m.model_version == version)
    return [m for m in now if m.state == "alarm" and m.measure not in MENDED_IN_THE_FEED]


def last_training(
    instance: dg.DagsterInstance, job_names: Sequence[str], models: Sequence[dg.AssetKey] = (MODEL_ASSET,)
) -> datetime | None:
    """When the newest run of these jobs was asked for, or a model was last materialized by any other."""
    times = [
        record.create_timestamp.timestamp()
        for name in job_names
        for record in instance.get_run_records(dg.RunsFilter(job_name=name), limit=1)
    ]
    made = (instance.get_latest_materialization_event(model) for model in models)
    times += [event.timestamp for event in made if event is not None]
    return datetime.fromtimestamp(max(times), UTC) if times else None


def _named(alarms: Sequence[Measurement]) -> str:
    names = sorted({f"{alarm.measure} of {alarm.subject}" for alarm in alarms})
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
