"""Tells people of failed runs, failed checks and missing lists, and when they are over.

Belongs here: what in Dagster's event log is an alert, and of what it is the end. Each message leaves
through the ledger (`medscore_assets/alerting.py`), which knows what has been told.

Dagster's own failure sensors also fire for runs that will be retried, and read events from the newest
backwards; this one reads every event in order, keeps its place, and looks again at runs that wait for a
retry. No text of an exception is passed on: it may quote a row.
"""

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from dagster import DagsterEventType, EventLogEntry

from medscore_assets.alerting import due_lists
from medscore_assets.alerting.due_lists import lists_are_due, watch_lists
from medscore_assets.alerting.ledger import Ledger
from medscore_assets.alerting.routing import PLATFORM_OWNER, load_routing
from medscore_assets.settings import Settings
from medscore_assets.wait_times.checks import TOLD_BY_TROUBLES
from resources.alerts import Alert
from resources.warehouse import Warehouse

EVENT_TYPES = (
    DagsterEventType.RUN_FAILURE,
    DagsterEventType.RUN_SUCCESS,
    DagsterEventType.ASSET_CHECK_EVALUATION,
)
AT_ONCE = 500
"""Events of one type in one tick."""
OVERLAP = 300
"""So many ids are read again: of two events that are written at once, the first id can be seen last."""
FIRST_LOOK_BACK_S = 3600.0
"""How far the first tick of all looks back."""
TAG_PATIENCE_S = 60.0
"""Dagster writes a moment after the failure whether the run will be retried."""
RETRY_PATIENCE_S = 900.0
"""A retry that has not begun by then will not come."""
FEW_DAYS = 5
"""So many failed partitions of one run are told one by one."""
DELIVERY_BUDGET_S = 15.0

_BLOCKED_BY_CHECK = "DagsterAssetCheckFailedError"
_NO_STEP = "-"
_PARTITION_TAGS = (
    "dagster/partition",
    "dagster/asset_partition_range_start",
    "dagster/asset_partition_range_end",
)
_RANGE = "..."


@dataclass
class _Place:
    """The sensor's cursor: the last event read, and the failed runs that wait for a retry, since when."""

    after: int = 0
    since: float = 0.0
    waiting: dict[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, cursor: str | None) -> "_Place":
        return cls(**json.loads(cursor)) if cursor else cls(since=time.time() - FIRST_LOOK_BACK_S)

    def text(self) -> str:
        return json.dumps(self.__dict__)


def alert_sensor(settings: Settings) -> dg.SensorDefinition:
    """Reads the event log every 30 s. It is on unless somebody switches it off: it only tells."""

    @dg.sensor(
        name="alerts",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Tells the owners of failed runs, failed checks and missing lists, once each.",
    )
    def alerts(
        context: dg.SensorEvaluationContext, warehouse: dg.ResourceParam[Warehouse]
    ) -> dg.SensorResult:
        ledger = Ledger(warehouse, load_routing(settings))
        place = _Place.read(context.cursor)
        watcher = _Watcher(context.instance, ledger, _Catalogue(context.repository_def))
        watcher.look_again(place)
        watcher.read_on(place)
        if lists_are_due(settings, context.instance):
            watch_lists(ledger, warehouse)
        delivered = ledger.deliver(budget_s=DELIVERY_BUDGET_S)
        failed = "".join(f" Not delivered: {reason}" for reason in delivered.failed.values())
        return dg.SensorResult(
            cursor=place.text(), skip_reason=dg.SkipReason(f"Told: {delivered.sent}.{failed}")
        )

    return alerts


class _Catalogue:
    """What the definitions say of assets and checks: owners, descriptions, partitions, by step."""

    def __init__(self, repository: dg.RepositoryDefinition | None) -> None:
        self._graph = repository.asset_graph if repository else None
        self._assets: dict[str, dg.AssetKey] = {}
        if self._graph:
            self._assets = {"__".join(key.path): key for key in self._graph.get_all_asset_keys()}
            self._assets |= {
                f"{'__'.join(key.asset_key.path)}_{key.name}": key.asset_key
                for key in self._graph.asset_check_keys
            }

    def asset_of(self, step: str) -> dg.AssetKey | None:
        """The asset that a step makes or checks."""
        return self._assets.get(step)

    def owner(self, asset: dg.AssetKey | None) -> str:
        """The first owner of an asset."""
        if self._graph and asset is not None and self._graph.has(asset):
            return next(iter(self._graph.get(asset).owners), PLATFORM_OWNER)
        return PLATFORM_OWNER

    def description(self, check: dg.AssetCheckKey) -> str:
        """What a check asserts: the text of its definition."""
        if self._graph and self._graph.has(check):
            return (self._graph.get(check).description or "").strip()
        return ""

    def partitions(self, asset: dg.AssetKey | None, first: str, last: str) -> list[str]:
        """The keys of a range, or none where the asset does not know them."""
        known = self._graph and asset is not None and self._graph.has(asset)
        definition = self._graph.get(asset).partitions_def if self._graph and asset and known else None
        if definition is None:
            return []
        return list(definition.get_partition_keys_in_range(dg.PartitionKeyRange(first, last)))


class _Watcher:
    """One tick: event by event, in order, into the ledger."""

    def __init__(self, instance: dg.DagsterInstance, ledger: Ledger, catalogue: _Catalogue) -> None:
        self._instance, self._ledger, self._catalogue = instance, ledger, catalogue
        self._open = set(ledger.open_keys())

    def look_again(self, place: _Place) -> None:
        """Decide on the failed runs that waited for a retry at the last tick."""
        for run_id, failed_at in list(place.waiting.items()):
            del place.waiting[run_id]
            run = self._instance.get_run_by_id(run_id)
            if run is not None and not self._is_mended(run, failed_at):
                self._failed(run, failed_at, place)

    def read_on(self, place: _Place) -> None:
        """Read what has been written since, and move the place."""
        events, after = _events(self._instance, place)
        runs = self._runs({event.run_id for event in events})
        for event in events:
            run = runs.get(event.run_id)
            if run is None or event.dagster_event is None:
                continue
            match event.dagster_event.event_type:
                case DagsterEventType.RUN_FAILURE:
                    self._failed(run, event.timestamp, place)
                case DagsterEventType.RUN_SUCCESS:
                    self._succeeded(run, event.timestamp)
                case _:
                    self._checked(run, event)
        place.after = after

    def _runs(self, ids: set[str]) -> dict[str, dg.DagsterRun]:
        found = self._instance.get_runs(dg.RunsFilter(run_ids=list(ids))) if ids else []
        return {run.run_id: run for run in found}

    def _failed(self, run: dg.DagsterRun, failed_at: float, place: _Place) -> None:
        if run.tags.get("dagster/auto_retry_run_id"):
            return
        waited = time.time() - failed_at
        verdict = run.tags.get("dagster/will_retry")
        undecided = verdict is None and self._instance.run_retries_enabled
        if (undecided and waited < TAG_PATIENCE_S) or (verdict == "true" and waited < RETRY_PATIENCE_S):
            place.waiting[run.run_id] = failed_at
            return
        for alert in _failure_alerts(self._instance, self._catalogue, run, failed_at):
            self._raise(alert)

    def _is_mended(self, run: dg.DagsterRun, failed_at: float) -> bool:
        """Whether the same job has made the same partition since."""
        later = self._instance.get_runs(
            dg.RunsFilter(
                job_name=run.job_name,
                statuses=[dg.DagsterRunStatus.SUCCESS],
                updated_after=_moment(failed_at),
                tags={name: value for name, value in run.tags.items() if name in _PARTITION_TAGS},
            ),
            limit=1,
        )
        return bool(later)

    def _succeeded(self, run: dg.DagsterRun, at: float) -> None:
        made = _partition(run)
        for key in sorted(key for key in self._open if key.startswith("run:")):
            _, job, assets, partition = key.split(":", 3)
            if not _covers(made, partition):
                continue
            if job == run.job_name or set(assets.split("+")) <= self._made_by(run):
                self._ledger.recover(key, at=_moment(at))

    def _made_by(self, run: dg.DagsterRun) -> set[str]:
        records = self._instance.get_records_for_run(
            run.run_id, of_type=DagsterEventType.ASSET_MATERIALIZATION
        ).records
        keys = (record.asset_key for record in records)
        return {"__".join(key.path) for key in keys if key is not None}

    def _checked(self, run: dg.DagsterRun, event: EventLogEntry) -> None:
        found: Any = event.dagster_event.event_specific_data if event.dagster_event else None
        if found.check_name == due_lists.CHECK or found.check_name in TOLD_BY_TROUBLES:
            return
        made = found.partition or _partition(run)
        about = f"check:{found.asset_key.to_user_string()}:{found.check_name}:"
        if found.passed:
            for key in sorted(self._open):
                if key.startswith(about) and _covers(made, key.removeprefix(about)):
                    self._ledger.recover(key, at=_moment(event.timestamp))
            return
        for partition in _failed_days(found.metadata) or [made]:
            self._raise(_check_alert(self._catalogue, run, found, about + partition, event.timestamp))

    def _raise(self, alert: Alert) -> None:
        self._ledger.raise_alert(alert)
        self._open.add(alert.key)


def _check_alert(
    catalogue: _Catalogue, run: dg.DagsterRun, found: dg.AssetCheckEvaluation, key: str, at: float
) -> Alert:
    asset = found.asset_key.to_user_string()
    return Alert(
        key=key,
        owner=catalogue.owner(found.asset_key),
        severity="critical" if found.severity == dg.AssetCheckSeverity.ERROR else "warning",
        title=f"check {found.check_name} of {asset} failed" + _of(key.split(":", 3)[3]),
        detail=_text(found.metadata, "what") or catalogue.description(found.asset_check_key),
        mend=_text(found.metadata, "mend") or f"See the checks of {asset} in Dagster, run {run.run_id}.",
        opened_at=_moment(at),
    )


def _failed_days(metadata: Mapping[str, Any]) -> list[str]:
    """The partitions that a check names as failed, if it looked at several and they are few."""
    named = getattr(metadata.get("days_that_fail"), "value", None)
    return [str(day) for day in named] if isinstance(named, list) and len(named) <= FEW_DAYS else []


def _events(instance: dg.DagsterInstance, place: _Place) -> tuple[list[EventLogEntry], int]:
    """The events of all types in the order of their ids, and the id up to which none is left out."""
    found: dict[int, EventLogEntry] = {}
    complete_up_to: list[int] = []
    for event_type in EVENT_TYPES:
        page: dict[int, EventLogEntry] = {}
        after = max(0, place.after - OVERLAP)
        while True:
            more = instance.event_log_storage.get_logs_for_all_runs_by_log_id(
                after_cursor=after, dagster_event_type=event_type, limit=AT_ONCE
            )
            page.update({i: event for i, event in more.items() if event.timestamp >= place.since})
            after = max(more, default=after)
            if len(more) < AT_ONCE or (after > place.after and page):
                break
        if len(more) == AT_ONCE:
            complete_up_to.append(after)
        found.update(page)
    horizon = min(complete_up_to, default=max(found, default=place.after))
    return [found[i] for i in sorted(found) if i <= horizon], max(horizon, place.after)


def _failure_alerts(
    instance: dg.DagsterInstance, catalogue: _Catalogue, run: dg.DagsterRun, failed_at: float
) -> Iterator[Alert]:
    """One alert for a failed run; one for each day where only a few days of a range failed.

    None where a failed check stopped the run: the check is told.
    """
    failed = _step_failures(instance, run)
    own = {step: data for step, data in failed.items() if not _is_blocked_by_check(data)}
    if failed and not own:
        return
    steps = sorted(own)
    asset = next((a for a in map(catalogue.asset_of, steps) if a is not None), None)
    detail, mend = _what_failed(run, own)
    for partition in _failed_partitions(instance, catalogue, run, asset):
        yield Alert(
            key=f"run:{run.job_name}:{'+'.join(steps) or _NO_STEP}:{partition}",
            owner=catalogue.owner(asset),
            severity="critical",
            title=f"{run.job_name} failed" + _of(partition),
            detail=detail,
            mend=mend,
            opened_at=_moment(failed_at),
        )


def _step_failures(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dict[str, Any]:
    records = instance.get_records_for_run(run.run_id, of_type=DagsterEventType.STEP_FAILURE).records
    events = (record.event_log_entry.dagster_event for record in records)
    return {e.step_key: e.step_failure_data for e in events if e is not None and e.step_key}


def _is_blocked_by_check(data: Any) -> bool:
    return bool(data.error and data.error.cls_name == _BLOCKED_BY_CHECK)


def _what_failed(run: dg.DagsterRun, failures: Mapping[str, Any]) -> tuple[str, str]:
    """Detail and mend, from what our own errors state; of any other error its kind alone."""
    see = f"See run {run.run_id} in Dagster."
    for step, data in failures.items():
        stated = data.user_failure_data.metadata if data.user_failure_data else {}
        if what := _text(stated, "what"):
            return f"{what} ({_text(stated, 'where')}). Step {step}.", f"{_text(stated, 'mend')} {see}"
        if kind := _text(stated, "kind"):
            return f"Unexpected {kind} ({_text(stated, 'place')}). Step {step}.", see
        cause = data.error.cause or data.error if data.error else None
        return f"{cause.cls_name if cause else 'An error'} in step {step}; its text is withheld.", see
    reason = run.tags.get("dagster/failure_reason", "unknown").replace("_", " ").lower()
    return f"No step failed; the run did: {reason}.", see


def _failed_partitions(
    instance: dg.DagsterInstance, catalogue: _Catalogue, run: dg.DagsterRun, asset: dg.AssetKey | None
) -> Iterable[str]:
    """The run's partition or range; of a range the few that were not made, if they are few."""
    whole = _partition(run)
    if _RANGE not in whole or asset is None:
        return [whole]
    first, last = whole.split(_RANGE)
    records = instance.get_records_for_run(run.run_id, of_type=DagsterEventType.ASSET_MATERIALIZATION).records
    made = {record.partition_key for record in records if record.asset_key == asset}
    left = [key for key in catalogue.partitions(asset, first, last) if key not in made]
    return left if 0 < len(left) <= FEW_DAYS else [whole]


def _partition(run: dg.DagsterRun) -> str:
    """The run's partition, its range as `first...last`, or nothing."""
    key, first, last = (run.tags.get(name) for name in _PARTITION_TAGS)
    return key or (f"{first}{_RANGE}{last}" if first and last else "")


def _covers(made: str, partition: str) -> bool:
    """Whether a run of `made` has made all of `partition`; keys of time sort as texts."""
    if made == partition:
        return True
    if _RANGE not in made:
        return False
    (first, last), wanted = made.split(_RANGE), partition.split(_RANGE)
    return all(len(key) == len(first) and first <= key <= last for key in wanted)


def _of(partition: str) -> str:
    return f" for {partition.replace(_RANGE, ' to ')}" if partition else ""


def _text(metadata: Mapping[str, Any], name: str) -> str:
    value = getattr(metadata.get(name), "value", None)
    return value if isinstance(value, str) else ""


def _moment(timestamp: float) -> datetime:
    return datetime.fromtimestamp(timestamp, UTC)
