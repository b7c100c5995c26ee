"""Whether the morning list that must be there is there, whatever its run says.

Belongs here: which list is due by now, and the alert for one that is missing. It looks at the table
alone: a run that never began leaves no trace anywhere else.
"""

from datetime import UTC, datetime, timedelta

import dagster as dg
import sqlalchemy as sa

from medscore_assets import catalog
from medscore_assets.alerting.ledger import Ledger
from medscore_assets.partitions import MORNING_HOUR, READY_BY_HOUR, closed_mornings
from medscore_assets.settings import Settings
from medscore_assets.tables import outreach_lists
from resources.alerts import Alert
from resources.warehouse import Warehouse

SCHEDULE = "morning_outreach"
CHECK = "list_exists_by_seven"
"""The check that shows in Dagster what is looked at here; its failure is not told a second time."""
_PREFIX = "missing-list:outreach:"


def lists_are_due(settings: Settings, instance: dg.DagsterInstance) -> bool:
    """Whether somebody wants lists made: by the setting, or by the schedule's switch in Dagster's UI."""
    if settings.schedules == "running":
        return True
    states = instance.all_instigator_state() if instance.schedule_storage else []
    return any(state.instigator_name == SCHEDULE and state.is_running for state in states)


def missing_list_alert(warehouse: Warehouse, *, now: datetime | None = None) -> Alert | None:
    """The alert for the morning that is due at `now` (with a zone), or None if its list is there.

    The list of the window that closed at 06:00 is due at 07:00, local time.
    """
    now = now or datetime.now(UTC)
    # In UTC: the hour between closing and due has no change of clocks.
    closed_by = now.astimezone(UTC) - timedelta(hours=READY_BY_HOUR - MORNING_HOUR)
    due = closed_mornings(1, until=closed_by)
    if not due or _has_list(warehouse, due[0]):
        return None
    return Alert(
        key=_PREFIX + due[0],
        owner=catalog.OWNERS[0],
        severity="critical",
        title=f"the outreach list of {due[0]} is missing",
        detail=f"It was due at {READY_BY_HOUR:02d}:00, and care management has no list to call from.",
        mend=f"Run: medscore outreach make --date {due[0]}",
        opened_at=now,
    )


def watch_lists(ledger: Ledger, warehouse: Warehouse, *, now: datetime | None = None) -> None:
    """Raise the alert for a list that is missing, and recover those whose list is there."""
    missing = missing_list_alert(warehouse, now=now)
    for key in ledger.open_keys(_PREFIX):
        if _has_list(warehouse, key.removeprefix(_PREFIX)):
            ledger.recover(key, at=now)
    if missing is not None:
        ledger.raise_alert(missing)


def _has_list(warehouse: Warehouse, day: str) -> bool:
    query = sa.select(sa.func.count().label("lists")).where(
        sa.cast(outreach_lists.c.score_date, sa.Text) == day
    )
    return bool(warehouse.read(query)["lists"][0].as_py())
