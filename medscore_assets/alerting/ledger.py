"""The ledger of alerts: what is wrong, who has been told, when it was over.

Belongs here: the life of an alert from opening to recovery, in the table `alerts`, and each delivery of it.
Does not belong here: what is an alert (`sensors/alerts.py`, `watch.py`) and how a channel sends.

The table holds one row per alert and channel, so that a mailbox that works is not told again because a
webhook is down. A row is sent under its lock and marked in the same transaction: processes that race send
once. One that is killed between sending and marking sends again, with the same idempotency key.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from medscore_assets.alerting.routing import Routing
from medscore_assets.tables import alerts
from resources.alerts import Alert, Severity
from resources.errors import MedscoreError
from resources.warehouse import Warehouse

FLAPPING_AFTER = 3
"""An alert that opened so often within `FLAPPING_WINDOW` is flapping..."""
FLAPPING_WINDOW = timedelta(hours=1)
CALM = timedelta(minutes=30)
"""...and its recovery is told once it has held for so long. If it comes back before, nobody is told."""

BUDGET_S = 30.0
"""After so long no further delivery is begun in one call; the next call goes on."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Delivered:
    """What one call of `Ledger.deliver` did: messages sent, and channels that failed with the reason."""

    sent: int = 0
    failed: dict[str, str] = field(default_factory=dict)


class Ledger:
    """The alerts of one warehouse. Every method may raise what `Warehouse.transaction` raises."""

    def __init__(self, warehouse: Warehouse, routing: Routing) -> None:
        self._warehouse, self._routing = warehouse, routing

    def raise_alert(self, alert: Alert, *, told: Mapping[str, datetime] | None = None) -> bool:
        """Record that something is wrong since `alert.opened_at`. True if that is told to somebody.

        An alert that is open is counted, not told again; unless it was a warning and is critical. What
        is not later than what is known is passed over, so that events can be read twice. `told` names
        channels that know already, and since when.
        """
        opened = False
        with self._warehouse.transaction() as connection:
            self._warehouse.lock(connection, f"alert {alert.key}")
            for channel in self._routing.channels_of(alert.owner):
                known = _newest(connection, alert.key, channel)
                notified_at = (told or {}).get(channel)
                opened |= _raise(connection, alert, channel, known, notified_at) and notified_at is None
        return opened

    def recover(self, key: str, *, at: datetime | None = None) -> bool:
        """Record that it is over since `at` (a time with a zone; now). True if it was open until then."""
        at = at or datetime.now(UTC)
        with self._warehouse.transaction() as connection:
            self._warehouse.lock(connection, f"alert {key}")
            over = connection.execute(
                sa.update(alerts)
                .where(
                    alerts.c.alert_key == key, alerts.c.recovered_at.is_(None), alerts.c.last_seen_at <= at
                )
                .values(recovered_at=at)
            )
        return over.rowcount > 0

    def open_keys(self, prefix: str = "") -> list[str]:
        """The keys that begin so and are open, in their order."""
        return list(dict.fromkeys(a.key for a in self.open_alerts() if a.key.startswith(prefix)))

    def open_alerts(self) -> list[Alert]:
        """What is wrong, oldest first, each alert once."""
        query = sa.select(alerts).where(alerts.c.recovered_at.is_(None)).order_by(alerts.c.alert_id)
        found = (_alert(row) for row in self._warehouse.read(query).to_pylist())
        return list({alert.key: alert for alert in found}.values())

    def undelivered(self) -> int:
        """How many messages wait for their channel."""
        query = sa.select(sa.func.count().label("waiting")).where(_waits())
        return int(self._warehouse.read(query)["waiting"][0].as_py())

    def deliver(self, *, budget_s: float = BUDGET_S, now: datetime | None = None) -> Delivered:
        """Send what waits, oldest first. A channel that fails is left until the next call."""
        done, deadline = Delivered(), time.monotonic() + budget_s
        now = now or datetime.now(UTC)
        query = sa.select(alerts.c.alert_id, alerts.c.channel).where(_waits()).order_by(alerts.c.alert_id)
        for row in self._warehouse.read(query).to_pylist():
            channel = row["channel"]
            if channel in done.failed or time.monotonic() > deadline:
                continue
            try:
                # Opening and recovery are two messages, also if both waited.
                while self._deliver_one(row["alert_id"], channel, now):
                    done.sent += 1
            except _NotSent as error:
                done.failed[channel] = error.reason
                _log.warning("An alert was not delivered and will be tried again: %s", error.reason)
        return done

    def _deliver_one(self, alert_id: int, channel: str, now: datetime) -> bool:
        """Send the next message of one row, if there is one that nobody else is sending."""
        with self._warehouse.transaction() as connection:
            locked = sa.select(alerts).where(alerts.c.alert_id == alert_id, _waits())
            row = connection.execute(locked.with_for_update(skip_locked=True)).mappings().one_or_none()
            if row is None or (row["notified_at"] and _is_on_hold(connection, row, now)):
                return False
            opening = row["notified_at"] is None
            target = self._routing.channels.get(channel)
            if target is None:
                _log.warning("The channel %s is gone; its message about %s is dropped", channel, row["title"])
            else:
                try:
                    target.send(_alert(row, recovered=not opening))
                except MedscoreError as error:
                    raise _NotSent(str(error)) from None
            column = alerts.c.notified_at if opening else alerts.c.recovery_notified_at
            connection.execute(
                sa.update(alerts).where(alerts.c.alert_id == alert_id).values({column: datetime.now(UTC)})
            )
        return True


class _NotSent(Exception):
    """A channel's refusal on its way out of the transaction that holds the row."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _raise(
    connection: sa.Connection,
    alert: Alert,
    channel: str,
    known: sa.RowMapping | None,
    notified_at: datetime | None,
) -> bool:
    """Count, re-open or insert; whether there is something to tell."""
    at = alert.opened_at
    if known is not None:
        if at <= max(known["last_seen_at"], known["recovered_at"] or known["last_seen_at"]):
            return False
        worse = known["severity"] == "warning" and alert.severity == "critical"
        if known["recovered_at"] is None or known["recovery_notified_at"] is None:
            # Also where it was over and nobody has been told so: for them it is still open.
            texts = {"severity": alert.severity, "title": alert.title, "detail": alert.detail}
            connection.execute(
                sa.update(alerts)
                .where(alerts.c.alert_id == known["alert_id"])
                .values(
                    last_seen_at=at,
                    occurrences=alerts.c.occurrences + 1,
                    recovered_at=None,
                    **({**texts, "mend": alert.mend, "notified_at": notified_at} if worse else {}),
                )
            )
            return worse
    connection.execute(
        sa.insert(alerts).values(
            alert_key=alert.key,
            channel=channel,
            owner=alert.owner,
            severity=alert.severity,
            title=alert.title,
            detail=alert.detail,
            mend=alert.mend,
            opened_at=at,
            last_seen_at=at,
            occurrences=1,
            notified_at=notified_at,
        )
    )
    return True


def _newest(connection: sa.Connection, key: str, channel: str) -> sa.RowMapping | None:
    """The last row of an alert, locked: who is sending it finishes first."""
    query = (
        sa.select(alerts)
        .where(alerts.c.alert_key == key, alerts.c.channel == channel)
        .order_by(alerts.c.alert_id.desc())
        .limit(1)
        .with_for_update()
    )
    return connection.execute(query).mappings().one_or_none()


def _is_on_hold(connection: sa.Connection, row: sa.RowMapping, now: datetime) -> bool:
    """Whether the recovery of a flapping alert has not held for long enough to be told."""
    if row["recovered_at"] + CALM <= now:
        return False
    recent = sa.select(sa.func.count()).where(
        alerts.c.alert_key == row["alert_key"],
        alerts.c.channel == row["channel"],
        alerts.c.opened_at > row["recovered_at"] - FLAPPING_WINDOW,
    )
    return (connection.scalar(recent) or 0) >= FLAPPING_AFTER


def _waits() -> sa.ColumnElement[bool]:
    over = alerts.c.recovered_at.is_not(None) & alerts.c.recovery_notified_at.is_(None)
    return alerts.c.notified_at.is_(None) | over


def _alert(row: Mapping[Any, Any], *, recovered: bool = False) -> Alert:
    return Alert(
        key=row["alert_key"],
        owner=row["owner"],
        severity=row["severity"],
        title=row["title"],
        detail=row["detail"],
        mend=row["mend"],
        opened_at=row["opened_at"],
        recovered=recovered,
        recovered_at=row["recovered_at"] if recovered else None,
    )


def alert_of(
    error: MedscoreError, *, key: str, owner: str, title: str, severity: Severity = "critical"
) -> Alert:
    """The alert for one of our errors, since now."""
    detail = f"{error.what} ({error.where})."
    return Alert(key, owner, severity, title, detail, error.mend, datetime.now(UTC))
