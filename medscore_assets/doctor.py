"""Looks at an installation and says what is wrong and what mends it.

Belongs here: one small probe per thing that must be right before a list can be made.
Does not belong here: mending.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from medscore_assets import tables
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.readmission.policy import load_policy
from medscore_assets.settings import Settings
from resources.errors import MedscoreError
from resources.registry import ModelRegistry
from resources.warehouse import Warehouse

STALE_HEARTBEAT_S = 300
"""Dagster's daemons beat every 30 s."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: whether it is well, what was found, and what mends it if not."""

    name: str
    well: bool
    found: str
    mend: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def examine(settings: Settings, warehouse: Warehouse, registry: ModelRegistry) -> Iterator[Finding]:
    """Every finding in the order in which things depend on each other."""
    probes: list[tuple[str, Callable[[], Finding]]] = [
        ("database", lambda: _database(settings)),
        ("source records", lambda: _records(warehouse)),
        ("policy", lambda: _policy(settings)),
        ("registry and contract", lambda: _champion(registry)),
        ("latest list", lambda: _latest_list(warehouse)),
        ("schedules", lambda: _schedules()),
        ("alerts", lambda: _alerts(settings, warehouse)),
    ]
    for name, probe in probes:
        try:
            yield probe()
        except MedscoreError as error:
            yield Finding(name, False, f"{error.what} ({error.where})", error.mend)


def _database(settings: Settings) -> Finding:
    from medscore_assets.database import revisions

    current, head = revisions(settings.databases().warehouse)
    return Finding(
        "database",
        current == head,
        f"schema {current or 'absent'}, code {head}",
        "" if current == head else "Run: medscore db upgrade",
    )


def _records(warehouse: Warehouse) -> Finding:
    events = tables.discharge_events
    query = sa.select(sa.func.count().label("rows"), sa.func.max(events.c.ingested_at).label("newest"))
    row = warehouse.read(query).to_pylist()[0]
    if not row["rows"]:
        mend = "Run: medscore demo load, or medscore import uci-diabetes"
        return Finding("source records", False, "no discharges", mend)
    return Finding(
        "source records", True, f"{row['rows']:,} discharge events, newest {row['newest']:%Y-%m-%d %H:%M} UTC"
    )


def _policy(settings: Settings) -> Finding:
    policy = load_policy(settings.policy_path)
    return Finding("policy", True, f"version {policy.version}, hash {policy.hash[:12]}")


def _champion(registry: ModelRegistry) -> Finding:
    from medscore_assets.readmission.publish import load_champion

    champion = load_champion(registry)
    found = (
        f"{champion.model.name} version {champion.version}, files intact, contract {READMISSION.hash[:12]}"
    )
    return Finding("registry and contract", True, found)


def _latest_list(warehouse: Warehouse) -> Finding:
    from medscore_assets.partitions import latest_morning

    due = latest_morning()
    newest = warehouse.read(sa.select(sa.func.max(tables.outreach_lists.c.score_date).label("day")))
    day = newest["day"][0].as_py()
    well = day is not None and day.isoformat() >= due
    mend = "" if well else f"Run: medscore outreach make --date {due}"
    return Finding("latest list", well, f"newest {day or 'none'}, due {due}", mend)


def _schedules() -> Finding:
    import dagster as dg

    from medscore_assets.definitions import defs
    from medscore_assets.runs import instance

    with instance() as shared:
        running = {s.instigator_name for s in shared.all_instigator_state() if s.is_running}
        stopped = {s.instigator_name for s in shared.all_instigator_state() if not s.is_running}
        heartbeats = shared.get_daemon_heartbeats()
    wanted = {s.name: s.default_status for s in (*(defs.schedules or ()), *(defs.sensors or ()))}
    default_on = (dg.DefaultScheduleStatus.RUNNING, dg.DefaultSensorStatus.RUNNING)
    off = sorted(
        n for n, status in wanted.items() if n not in running and (n in stopped or status not in default_on)
    )
    if off:
        mend = "Switch them on in Dagster's UI, or set MEDSCORE_SCHEDULES=running"
        return Finding("schedules", False, f"switched off: {', '.join(off)}", mend)
    beat = heartbeats.get("SCHEDULER")
    if beat is None or time.time() - beat.timestamp > STALE_HEARTBEAT_S:
        found = "the daemon has never run" if beat is None else "the daemon has stopped"
        return Finding("schedules", False, found, "Run: make up")
    return Finding("schedules", True, "switched on")


def _alerts(settings: Settings, warehouse: Warehouse) -> Finding:
    from medscore_assets.alerting.ledger import Ledger
    from medscore_assets.alerting.routing import load_routing, validate
    from medscore_assets.definitions import defs

    owners = {owner for spec in defs.resolve_all_asset_specs() for owner in spec.owners}
    routes = validate(settings, owners)
    ledger = Ledger(warehouse, load_routing(settings))
    if waiting := ledger.undelivered():
        mend = "See which channel fails: medscore alerts test. The daemon sends what waits."
        return Finding("alerts", False, f"{waiting} messages wait for their channel", mend)
    if open_alerts := ledger.open_alerts():
        mend = "See them: medscore alerts list"
        return Finding("alerts", False, f"open: {', '.join(a.title for a in open_alerts)}", mend)
    return Finding("alerts", True, f"nothing is wrong; {routes}")
