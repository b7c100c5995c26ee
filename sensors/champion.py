"""Scores the newest result again when another version has become champion, and tells Dagster of the move.

Belongs here: noticing. Decisions are made, and entered in the journal, by `medscore_assets.promotion`.
"""

import json
from datetime import timedelta

import dagster as dg

from medscore_assets.families import FAMILIES, Family
from medscore_assets.model_decisions import GATE, Decision, journal
from medscore_assets.promotion import catch_up, deciding
from medscore_assets.settings import Settings
from resources.registry import ModelRegistry
from resources.warehouse import Warehouse

SECONDS = 30

CLOCKS_DIFFER = timedelta(minutes=10)
"""By how much an event's time in Dagster may lie before its decision's time in the journal."""


def champion_sensor(settings: Settings, family: Family = FAMILIES["readmission"]) -> dg.SensorDefinition:
    """Polls the registry and the journal of decisions; the cursor is the last decision that was seen.

    Nothing is lost: the journal is read in ascending order from the cursor on, and an alias that was moved
    in MLflow's own pages is entered in it first. (Of several moves there between two ticks only the last is
    known to anybody, MLflow included.) Nothing is doubled: a command records its decision itself while it
    holds the family's lock, and a run that applies the gate's verdict materializes the asset; here an event
    is made of those decisions only that neither of them told Dagster of.

    However many moves there were, at most one run is asked for: with any but the present champion the
    result would be wrong as soon as it was there. It is asked for while the newest result is by another
    version. The run key holds, beside name and version, the last move, so that going back to an earlier
    version is a run too; and the result that is to be replaced, so that a run that had loaded the former
    champion and published late is made good.
    """

    @dg.sensor(
        name=f"{family.name}_champion_moved",
        job_name=family.scoring_job,
        minimum_interval_seconds=SECONDS,
        default_status=dg.DefaultSensorStatus[settings.schedules.upper()],
        description="Scores the newest list again when another version has become champion.",
    )
    def champion_moved(
        context: dg.SensorEvaluationContext,
        warehouse: dg.ResourceParam[Warehouse],
        registry: dg.ResourceParam[ModelRegistry],
    ) -> dg.SensorResult:
        with deciding(warehouse, family.name):
            champion = catch_up(warehouse, registry, family.name)
            entered = journal(warehouse, family.name)
            unseen = [d for d in entered if d.decision_id > _seen(context.cursor)]
            untold = _untold(context.instance, family, unseen)
        requests = _requests(warehouse, family, champion, entered)
        reason = None if requests or untold else f"The newest result is by the champion, {champion}."
        return dg.SensorResult(
            run_requests=requests,
            asset_events=[decision.event(family.champion_asset) for decision in untold],
            cursor=json.dumps({"decision_id": max((d.decision_id for d in entered), default=0)}),
            skip_reason=reason,
        )

    return champion_moved


def _seen(cursor: str | None) -> int:
    return int(json.loads(cursor)["decision_id"]) if cursor else 0


def _untold(instance: dg.DagsterInstance, family: Family, unseen: list[Decision]) -> list[Decision]:
    """Decisions by hand, or found made, that no event in Dagster tells of."""
    by_hand = [decision for decision in unseen if decision.decided_by != GATE]
    if not by_hand:
        return []
    since = min(decision.decided_at for decision in by_hand) - CLOCKS_DIFFER
    only = dg.AssetRecordsFilter(dg.AssetKey(family.champion_asset), after_timestamp=since.timestamp())
    told, cursor, more = set(), None, True
    while more:
        page = instance.fetch_materializations(only, limit=500, cursor=cursor)
        for record in page.records:
            event = record.asset_materialization
            if event is not None and "decision_id" in event.metadata:
                told.add(event.metadata["decision_id"].value)
        cursor, more = page.cursor, page.has_more
    return [decision for decision in by_hand if decision.decision_id not in told]


def _requests(
    warehouse: Warehouse, family: Family, champion: int | None, entered: list[Decision]
) -> list[dg.RunRequest]:
    newest = warehouse.read(family.newest_result).to_pylist()
    if champion is None or not newest or newest[0]["model_version"] == champion:
        return []
    move = next(d.decision_id for d in reversed(entered) if d.champion_after != d.champion_before)
    partition, published_at = newest[0]["partition_key"], newest[0]["published_at"]
    key = f"{family.name}:{champion}:{move}:{partition}:{published_at:%Y%m%dT%H%M%S.%f}"
    return [dg.RunRequest(run_key=key, partition_key=partition)]
