"""What is wrong with wait times now, told through the ledger of alerts: once each, and its end once.

Belongs here: from the newest tick's row to alerts, and the dead man's alert when there is no tick. It looks
at the tables alone: a run that never began leaves no trace anywhere else. Does not belong here: failed runs
and other failed checks (`sensors/alerts.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from medscore_assets import tables
from medscore_assets.alerting.ledger import Ledger
from medscore_assets.settings import Settings
from medscore_assets.wait_times.assignment import Pair, by_version, holding
from medscore_assets.wait_times.bands import ALL_POSTED
from medscore_assets.wait_times.tick import TIMELY
from resources.alerts import Alert
from resources.warehouse import Warehouse

if TYPE_CHECKING:
    import dagster as dg
    from dagster._core.scheduler.instigation import InstigatorState

SCHEDULE = "wait_time_tick"
OWNER = "team:clinical-ml"

PREFIX = "waits:"
DEAD_MAN = f"{PREFIX}tick"

LATE = TIMELY + timedelta(minutes=5)
"""Nothing for two ticks, and the time that a run takes to start and end."""

_LOADED = datetime.now(UTC)
"""Since then at the latest whoever asks waits for ticks."""


def ticks_are_due(settings: Settings, instance: dg.DagsterInstance) -> bool:
    """Whether somebody wants ticks made: by the setting, or by the schedule's switch in Dagster's UI."""
    state = _of_schedule(instance)
    if state is not None and state.status.value in ("RUNNING", "STOPPED"):
        return state.is_running
    return settings.schedules == "running"


def due_since(instance: dg.DagsterInstance) -> datetime:
    """Since when ticks that are due are made: since their schedule is on, as far as Dagster tells."""
    state = _of_schedule(instance)
    started = getattr(state.instigator_data, "start_timestamp", None) if state is not None else None
    return _LOADED if started is None else datetime.fromtimestamp(started, UTC)


def _of_schedule(instance: dg.DagsterInstance) -> InstigatorState | None:
    states = instance.all_instigator_state() if instance.schedule_storage else []
    return next((state for state in reversed(states) if state.instigator_name == SCHEDULE), None)


def watch_waits(
    ledger: Ledger, warehouse: Warehouse, *, since: datetime | None = None, now: datetime | None = None
) -> list[str]:
    """Raise an alert for all that is wrong at `now` (with a zone), recover what is over; the open keys.

    Without a tick of late only the dead man's alert is raised, and nothing recovers: nothing is known. Before
    the first tick ever it is raised once patients have come, and ticks been due (`since`), for long enough.
    """
    now = now or datetime.now(UTC)
    tick = _newest(warehouse)
    if tick is None:
        began = _first_arrival(warehouse)
        if began is None or max(began, since or _LOADED) > now - LATE:
            return ledger.open_keys(PREFIX)
        ledger.raise_alert(_dead_man(None, now))
        return ledger.open_keys(PREFIX)
    if tick["as_of"] < now - LATE:
        ledger.raise_alert(_dead_man(tick["as_of"], now))
        return ledger.open_keys(PREFIX)
    wrong = {alert.key: alert for alert in _alerts(warehouse, tick)}
    for key in ledger.open_keys(PREFIX):
        if key not in wrong:
            ledger.recover(key, at=now)
    for alert in wrong.values():
        ledger.raise_alert(alert)
    return sorted(wrong)


def _newest(warehouse: Warehouse) -> dict[str, Any] | None:
    table = tables.wait_time_ticks
    query = sa.select(table).where(sa.not_(table.c.replay)).order_by(table.c.as_of.desc()).limit(1)
    rows = warehouse.read(query).to_pylist()
    return rows[0] if rows else None


def _first_arrival(warehouse: Warehouse) -> datetime | None:
    """When the first patient came of whom anything is known; None before anybody did."""
    c = tables.ed_visits.c
    query = sa.select(sa.func.min(c.arrival).label("first")).where(c.superseded_at.is_(None))
    found: datetime | None = warehouse.read(query)["first"][0].as_py()
    return found


def _dead_man(last: datetime | None, now: datetime) -> Alert:
    told = f"The last tick was that of {last:%Y-%m-%d %H:%M} UTC." if last else "No tick was ever made."
    return Alert(
        key=DEAD_MAN,
        owner=OWNER,
        severity="critical",
        title="no wait times are predicted",
        detail=f"{told} The boards are blank.",
        mend="See how runs of wait_time_tick end in Dagster. By hand: medscore waits tick",
        opened_at=now,
    )


def _alerts(warehouse: Warehouse, tick: dict[str, Any]) -> Iterator[Alert]:
    at = tick["as_of"]
    for model, what in json.loads(tick["problems"]).items():
        yield Alert(
            key=f"{PREFIX}model:{model}",
            owner=OWNER,
            severity="warning",
            title=f"the wait-time model {model} does not work as it should",
            detail=f"At {at:%H:%M} UTC: {what}. The other models were not touched by it.",
            mend="See its rows in wait_time_predictions and the model's own log.",
            opened_at=at,
        )
    facilities = tables.wait_time_facility_ticks.c
    silent = sa.select(facilities.facility_id).where(facilities.as_of == at, facilities.stale_input)
    for facility in warehouse.read(silent.order_by(facilities.facility_id))["facility_id"].to_pylist():
        yield Alert(
            key=f"{PREFIX}feed:{facility}",
            owner=OWNER,
            severity="critical",
            title=f"no visits come in from {facility}",
            detail="For two hours or more nothing came from it, or no arrivals, at a time when patients "
            "come. Its board is blank.",
            mend="Look at the interface that delivers its visits.",
            opened_at=at,
        )
    for pair, (places, running) in _not_run(warehouse, at).items():
        yield Alert(
            key=f"{PREFIX}assigned:{pair}",
            owner=OWNER,
            severity="warning",
            title=f"the assigned wait-time model {pair} is not run",
            detail=f"Boards show another model in its place, or none: {', '.join(places)}. "
            + (f"Of the model this is run: {', '.join(running)}." if running else "No version of it is run."),
            mend="Promote one that is run, with --force before it has evidence of its own: medscore waits "
            "promote. Or enable the assigned one in the file of models.",
            opened_at=at,
        )
    for facility in _without_value(warehouse, at):
        yield Alert(
            key=f"{PREFIX}board:{facility}",
            owner=OWNER,
            severity="critical",
            title=f"no model has a wait for {facility}",
            detail=f"At {at:%H:%M} UTC not one model has a value of the headline.",
            mend="See the statuses of its rows in wait_time_predictions.",
            opened_at=at,
        )


def _not_run(warehouse: Warehouse, at: datetime) -> dict[Pair, tuple[list[str], list[str]]]:
    """Assigned pairs that the tick did not ask: where they are assigned, and versions of them that it did."""
    c = tables.wait_time_predictions.c
    query = sa.select(c.model, c.version).where(c.as_of == at).distinct()
    asked = sorted({Pair(**row) for row in warehouse.read(query).to_pylist()}, key=by_version)
    found: dict[Pair, tuple[list[str], list[str]]] = {}
    for (facility, band), made in holding(warehouse, at).items():
        if made.pair not in asked:
            running = [str(pair) for pair in asked if pair.model == made.model]
            found.setdefault(made.pair, ([], running))[0].append(f"{facility} {band}")
    return found


def _without_value(warehouse: Warehouse, at: datetime) -> list[str]:
    c = tables.wait_time_predictions.c
    query = (
        sa.select(c.facility_id)
        .where(c.as_of == at, c.band == ALL_POSTED)
        .group_by(c.facility_id)
        .having(sa.func.count(c.wait_seconds) == 0)
        .order_by(c.facility_id)
    )
    return list(warehouse.read(query)["facility_id"].to_pylist())
