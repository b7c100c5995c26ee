"""The nightly maintenance: deletes what is older than its declared period, in the warehouse and in Dagster.

Belongs here: the job, and which rows are past their period. Does not belong here: the periods themselves
(`settings.py`), when it runs (`schedules/`), and Dagster's ticks, which its daemon deletes (`dagster.yaml`).

Everything is deleted in small transactions and can be repeated. The space of deleted rows is used again
by PostgreSQL's autovacuum; nothing here vacuums.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import sqlalchemy as sa
from dagster import DagsterEventType
from dagster._core.storage.event_log import SqlEventLogStorage
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable

from medscore_assets import tables
from medscore_assets.failures import failures
from medscore_assets.mobility.retention import prune_forecasts
from medscore_assets.readmission.cohort import CLAIMS_LAG, FOLLOW_UP
from medscore_assets.readmission.publish import day_lock
from medscore_assets.settings import Settings
from medscore_assets.wait_times.retention import prune_waits
from resources.warehouse import Warehouse

LISTS = (
    tables.care_management_scores,
    tables.outreach_exclusions,
    tables.encounter_quarantine,
    tables.readmission_score_outcomes,
    tables.outreach_lists,
)
"""What belongs to one list, in an order that the foreign keys allow."""

ROWS_AT_ONCE = 10_000

PASSING_EVENTS = (
    DagsterEventType.ENGINE_EVENT,
    DagsterEventType.FRESHNESS_STATE_EVALUATION,
    DagsterEventType.HANDLED_OUTPUT,
    DagsterEventType.LOADED_INPUT,
    DagsterEventType.LOGS_CAPTURED,
    DagsterEventType.RESOURCE_INIT_STARTED,
    DagsterEventType.RESOURCE_INIT_SUCCESS,
    DagsterEventType.STEP_INPUT,
    DagsterEventType.STEP_OUTPUT,
    DagsterEventType.STEP_START,
    DagsterEventType.STEP_WORKER_STARTED,
    DagsterEventType.STEP_WORKER_STARTING,
)
"""Events that only tell how a run went on. All others are kept, those too that this list does not know:
from materializations, plans, failures and check evaluations Dagster tells which partitions there are."""


@dataclass(frozen=True, slots=True)
class Cutoffs:
    """What is older is deleted."""

    lists: date
    """Days whose list may go."""
    audit: datetime
    """Times before which decisions, measures and alerts may go."""


def cutoffs(warehouse: Warehouse, settings: Settings, now: datetime) -> Cutoffs:
    """The ends of the periods at `now` (with a zone).

    No list goes whose outcomes may still come, by the newest row of the feeds that tell them, and never
    the newest list.
    """
    lists = (now - timedelta(days=settings.keep_lists_days)).date()
    arrivals = [sa.func.max(tables.inpatient_admissions.c.ingested_at)]
    arrivals.append(sa.func.max(tables.readmission_outcomes.c.recorded_at))
    newest = sa.select(
        sa.select(sa.func.max(tables.outreach_lists.c.score_date)).scalar_subquery().label("list"),
        sa.func.greatest(*(sa.select(a).scalar_subquery() for a in arrivals)).label("outcome"),
    )
    (found,) = warehouse.read(newest).to_pylist()
    if found["list"] is not None:
        lists = min(lists, found["list"])
    if found["outcome"] is not None:
        # A window reaches into the next day, and windows are days of a zone.
        mature = found["outcome"] - FOLLOW_UP - CLAIMS_LAG - timedelta(days=2)
        lists = min(lists, mature.date())
    return Cutoffs(lists, audit=now - timedelta(days=settings.keep_audit_days))


def prune_lists(warehouse: Warehouse, before: date) -> dict[str, int]:
    """Delete the lists of the days before `before`, a transaction a day. Returns the rows by table."""
    deleted = dict.fromkeys((table.name for table in LISTS), 0)
    for day in _days_before(warehouse, before):
        with warehouse.transaction() as connection:
            # A day is not made again while it is deleted.
            warehouse.lock(connection, day_lock(day))
            for table in LISTS:
                done = connection.execute(sa.delete(table).where(table.c.score_date == day))
                deleted[table.name] += done.rowcount
    return deleted


def _days_before(warehouse: Warehouse, before: date) -> list[date]:
    """Days that still have rows. A refused day has a quarantine and no list."""
    days = sa.union(*(sa.select(t.c.score_date).where(t.c.score_date < before) for t in LISTS)).subquery()
    found = warehouse.read(sa.select(days.c.score_date).order_by(days.c.score_date))
    return list(found["score_date"].to_pylist())


def prune_audit(warehouse: Warehouse, before: datetime) -> dict[str, int]:
    """Delete old measures, alerts that are over, decisions and audit events. Returns the rows by table.

    Of each model the decision that made the present champion stays, however old it is; of the audit's
    chain its newest event, which the next one refers to.
    """
    measures, alerts, decisions = tables.monitoring_measures, tables.alerts, tables.model_decisions
    later = decisions.alias("later")
    replaced = sa.exists().where(
        later.c.model_name == decisions.c.model_name,
        later.c.decision_id > decisions.c.decision_id,
        later.c.decision != "refused",
    )
    events = tables.audit_events
    return _prune(
        warehouse,
        {
            measures: measures.c.period_end < before.date(),
            alerts: alerts.c.recovered_at < before,
            decisions: sa.and_(
                decisions.c.decided_at < before, sa.or_(decisions.c.decision == "refused", replaced)
            ),
            events: events.c.sequence < _first_to_stay(before),
        },
    )


def _first_to_stay(before: datetime) -> sa.ScalarSelect[int]:
    """The place in the audit's chain from which on all stays: what is deleted is its beginning."""
    events = tables.audit_events.c
    young = sa.select(sa.func.min(events.sequence)).where(events.recorded_at >= before).scalar_subquery()
    newest = sa.select(sa.func.max(events.sequence)).scalar_subquery()
    return sa.select(sa.func.coalesce(young, newest)).scalar_subquery()


def prune_answers(warehouse: Warehouse, before: date, now: datetime) -> dict[str, int]:
    """Delete scores that the API gave from before, what was said of them, and tokens that expired."""
    tokens = tables.replayed_tokens
    return _prune(
        warehouse,
        {
            tables.cds_feedback: tables.cds_feedback.c.received_at < before,
            tables.shadow_scores: tables.shadow_scores.c.scored_at < before,
            tables.readmission_scores: tables.readmission_scores.c.scored_at < before,
            # A day later than they must be: clocks differ.
            tokens: tokens.c.expires_at < now - timedelta(days=1),
        },
    )


def _prune(warehouse: Warehouse, old: dict[sa.Table, sa.ColumnElement[bool]]) -> dict[str, int]:
    deleted = {}
    for table, condition in old.items():
        with warehouse.transaction() as connection:
            # Tables that are only added to refuse any other deletion.
            connection.execute(sa.select(sa.func.set_config("medscore.retention", "on", True)))
            deleted[table.name] = connection.execute(sa.delete(table).where(condition)).rowcount
    return deleted


def prune_event_log(instance: dg.DagsterInstance, before: datetime) -> int:
    """Delete the passing events and log lines of Dagster's runs from before. Returns their number.

    Runs, materializations, observations, checks and failures stay: deleting a run through Dagster would
    take its materializations with it, and the partitions that it made would count as never made.
    """
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        return 0
    log = SqlEventLogStorageTable.c
    old = (
        sa.select(log.id)
        .where(
            # Dagster's times have no zone and are UTC.
            log.timestamp < before.astimezone(UTC).replace(tzinfo=None),
            sa.or_(
                log.dagster_event_type.is_(None),
                log.dagster_event_type.in_([event.value for event in PASSING_EVENTS]),
            ),
        )
        .limit(ROWS_AT_ONCE)
    )
    deleted = 0
    while True:
        with storage.index_connection() as connection:
            done = connection.execute(sa.delete(SqlEventLogStorageTable).where(log.id.in_(old))).rowcount
        deleted += done
        if done < ROWS_AT_ONCE:
            return deleted


def prune_compute_logs(folder: Path, before: datetime) -> int:
    """Delete the files under `folder` that were last written before, and folders left empty.

    Returns the number of files. Of output that is kept elsewhere, such as in S3, that place takes care.
    """
    deleted = 0
    # Deepest first, so that a folder is looked at after what was in it.
    for path in sorted(folder.rglob("*"), key=lambda p: len(p.parts), reverse=True):
        if path.is_dir():
            if not any(path.iterdir()) and path.stat().st_mtime < before.timestamp():
                path.rmdir()
        elif path.stat().st_mtime < before.timestamp():
            path.unlink()
            deleted += 1
    return deleted


def maintenance_job(settings: Settings) -> dg.JobDefinition:
    """The job `maintenance`: what it deleted stands in the metadata of its outputs."""

    @dg.op(pool="maintenance", out=dg.Out(dg.Nothing))
    def prune_warehouse(context: dg.OpExecutionContext, warehouse: dg.ResourceParam[Warehouse]) -> None:
        """Old lists with all that belongs to them, measures, alerts, decisions, waits and forecasts."""
        with failures():
            now = datetime.now(UTC)
            ends = cutoffs(warehouse, settings, now)
            deleted = prune_lists(warehouse, ends.lists)
            deleted |= prune_answers(warehouse, ends.lists, now) | prune_audit(warehouse, ends.audit)
            deleted |= prune_waits(warehouse, now - timedelta(days=settings.keep_waits_days), ends.audit)
            deleted |= prune_forecasts(warehouse, (now - timedelta(days=settings.keep_forecasts_days)).date())
        context.log.info("deleted: %s", deleted)
        context.add_output_metadata(
            {"lists_before": str(ends.lists), "audit_before": ends.audit.isoformat(), **deleted}
        )

    @dg.op(pool="maintenance", out=dg.Out(dg.Nothing))
    def prune_run_logs(context: dg.OpExecutionContext) -> None:
        """The log lines of old runs, and what their steps printed."""
        before = datetime.now(UTC) - timedelta(days=settings.keep_run_logs_days)
        with failures():
            events = prune_event_log(context.instance, before)
            files = prune_compute_logs(settings.home / "dagster" / "compute_logs", before)
        context.log.info("deleted: %s log lines, %s files", events, files)
        context.add_output_metadata(
            {"run_logs_before": before.isoformat(), "log_lines": events, "files": files}
        )

    @dg.job(description="Deletes what is older than the declared periods.")
    def maintenance() -> None:
        prune_warehouse()
        prune_run_logs()

    return maintenance
