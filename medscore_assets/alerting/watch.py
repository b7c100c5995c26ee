"""`medscore watch`: looks after what Dagster cannot say of itself, and is no part of it.

Belongs here: a loop that notices a stopped daemon, a database that is gone and a missing list, and a sign
of life to a dead-man service elsewhere. Does not belong here: failed runs and checks (`sensors/alerts.py`).

While the warehouse is gone there is no ledger: an alert then goes straight to its channels, this process
remembers that, and enters it into the ledger when the warehouse is back.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import sqlalchemy as sa

from medscore_assets.alerting.ledger import FLAPPING_AFTER, FLAPPING_WINDOW, Ledger, alert_of
from medscore_assets.alerting.routing import PLATFORM_OWNER, Routing, load_routing
from medscore_assets.doctor import STALE_HEARTBEAT_S
from medscore_assets.settings import Settings
from resources.alerts import Alert, within
from resources.errors import MedscoreError, TransientError
from resources.warehouse import Warehouse

if TYPE_CHECKING:
    import dagster as dg

INTERVAL_S = 30.0
PROBE_S = 30.0
"""A probe that takes longer counts as failed: a database that hangs is gone."""
LEDGER_S = 120.0
HEARTBEAT_S = 60.0
LASTING = timedelta(minutes=10)
"""A warehouse that has come and gone `FLAPPING_AFTER` times must be gone for so long to be told again."""
WAREHOUSE, LEDGER, DAGSTER, DAEMON = "warehouse", "alert-ledger", "dagster-database", "daemon"

_log = logging.getLogger(__name__)


def watch(
    settings: Settings,
    *,
    once: bool = False,
    warehouse: Warehouse | None = None,
    open_instance: Callable[[], dg.DagsterInstance] | None = None,
    stop: threading.Event | None = None,
    interval_s: float = INTERVAL_S,
) -> int:
    """Look every `interval_s` until SIGTERM, Ctrl-C or `stop`; with `once` look once.

    Returns the exit code: with `once` 1 if something is not well, else 0. Raises `PermanentError` before
    the first look if the alerts' routes are wrong, and never because of what it watches.
    """
    from medscore_assets.runs import instance

    stop = stop or threading.Event()
    warehouse = warehouse or Warehouse(lambda: settings.databases().warehouse)
    watcher = Watcher(settings, load_routing(settings), warehouse, open_instance or instance)
    with _stopping_in_good_order(stop):
        while True:
            well = watcher.look(patient=not once)
            if once or stop.wait(interval_s):
                break
    watcher.close()
    return 0 if well or not once else 1


class Watcher:
    """What is remembered between two looks. `look` never raises."""

    def __init__(
        self,
        settings: Settings,
        routing: Routing,
        warehouse: Warehouse,
        open_instance: Callable[[], dg.DagsterInstance],
    ) -> None:
        self._settings, self._routing, self._warehouse = settings, routing, warehouse
        self._ledger = Ledger(warehouse, routing)
        self._open_instance = open_instance
        self._instance: dg.DagsterInstance | None = None
        self._began = time.time()
        self._last_sign = float("-inf")
        self._openings: list[datetime] = []
        self._ledger_failed = False
        self._in_ledger: set[str] = set()
        self._told: dict[str, tuple[Alert, dict[str, datetime]]] = {}
        """Alerts without a ledger, and which channels have been told when."""

    def look(self, *, patient: bool = True) -> bool:
        """Probe all, tell what has changed, and say whether all is well.

        `patient`: a daemon that is not there yet may still be starting with this process.
        """
        try:
            found = self._probe(patient)
            wrong = [alert for alert in found.values() if alert is not None]
            delivered = False
            if found[WAREHOUSE] is None:
                try:
                    delivered = within(LEDGER_S, lambda: self._enter(found), where="the ledger of alerts")
                    self._ledger_failed = False
                except MedscoreError as error:
                    wrong.extend(self._without_ledger(error))
            if wrong and not delivered:
                self._tell_without_ledger(wrong)
        except Exception as error:
            # Its text may hold an address; and one look that fails must not end the watch.
            _log.error("This look ended early: unexpected %s", type(error).__name__)
            return False
        well = not wrong and delivered
        if well:
            self._give_sign_of_life()
        return well

    def close(self) -> None:
        """Let go of the connections."""
        self._warehouse.close()
        self._forget_instance()

    def _probe(self, patient: bool) -> dict[str, Alert | None]:
        """By key the alert, or None for what is well; what cannot be known is absent."""
        found = {WAREHOUSE: self._alert(WAREHOUSE, "the warehouse does not answer", self._ask_warehouse)}
        found[DAGSTER] = self._alert(DAGSTER, "Dagster's database does not answer", self._ask_dagster)
        if found[DAGSTER] is None and self._instance is not None:
            silent = _silent_daemons(self._instance)
            starting = patient and time.time() - self._began <= STALE_HEARTBEAT_S
            if not (silent and starting):
                found[DAEMON] = _daemon_alert(silent) if silent else None
        return found

    def _alert(self, key: str, title: str, probe: Callable[[], None]) -> Alert | None:
        try:
            within(PROBE_S, probe, where=key)
        except MedscoreError as error:
            return alert_of(error, key=key, owner=PLATFORM_OWNER, title=title)
        except Exception as error:
            # Not chained and not quoted: a driver's text can hold the address with its password.
            unexpected = TransientError(
                f"asking it ended with {type(error).__name__}", where=key, mend="Run: medscore doctor"
            )
            return alert_of(unexpected, key=key, owner=PLATFORM_OWNER, title=title)
        return None

    def _ask_warehouse(self) -> None:
        question = sa.select(sa.literal(1).label("one"))
        try:
            self._warehouse.read(question)
        except TransientError:
            # A second connection, before which an embedded server that died is started again.
            self._warehouse.read(question)

    def _ask_dagster(self) -> None:
        try:
            if self._instance is None:
                self._instance = self._open_instance()
            self._instance.get_daemon_heartbeats()
        except MedscoreError:
            raise
        except Exception as error:
            # Not chained: the driver's text can hold the address with its password.
            self._forget_instance()
            raise TransientError(
                f"its event log cannot be read ({type(error).__name__})",
                where="Dagster's database",
                mend="Start the server or correct MEDSCORE_DAGSTER_DATABASE_URL.",
            ) from None

    def _without_ledger(self, error: MedscoreError) -> list[Alert]:
        """The alert for the ledger; not yet, if the warehouse may only just have gone."""
        _log.warning("The ledger of alerts: %s", error)
        first_time, self._ledger_failed = not self._ledger_failed, True
        if first_time and isinstance(error, TransientError):
            return []
        title = "the ledger of alerts cannot be kept"
        return [alert_of(error, key=LEDGER, owner=PLATFORM_OWNER, title=title)]

    def _forget_instance(self) -> None:
        instance, self._instance = self._instance, None
        if instance is not None:
            with suppress(Exception):
                instance.dispose()

    def _enter(self, found: dict[str, Alert | None]) -> bool:
        """Bring the ledger up to date and deliver what waits; whether nothing was left."""
        for key, (told, channels) in list(self._told.items()):
            self._ledger.raise_alert(told, told=channels)
            del self._told[key]
        self._in_ledger = set(self._ledger.open_keys())
        for key, alert in {**found, LEDGER: None}.items():
            if alert is not None:
                self._ledger.raise_alert(alert)
                self._in_ledger.add(key)
            elif key in self._in_ledger:
                self._ledger.recover(key)
                self._in_ledger.remove(key)
        if self._instance is not None:
            from medscore_assets.alerting.due_lists import lists_are_due, watch_lists
            from medscore_assets.wait_times.troubles import ticks_are_due, watch_waits

            if lists_are_due(self._settings, self._instance):
                watch_lists(self._ledger, self._warehouse)
            if ticks_are_due(self._settings, self._instance):
                watch_waits(self._ledger, self._warehouse)
        return not self._ledger.deliver().failed

    def _tell_without_ledger(self, wrong: list[Alert]) -> None:
        """Tell each channel once; if the warehouse comes and goes, only what lasts."""
        for alert in wrong:
            if alert.key in self._in_ledger:
                continue
            first, channels = self._told.setdefault(alert.key, (alert, {}))
            if not channels and not self._may_tell(first):
                continue
            for name in self._routing.channels_of(alert.owner):
                if name in channels:
                    continue
                try:
                    self._routing.channels[name].send(first)
                    channels[name] = datetime.now(UTC)
                except MedscoreError as error:
                    _log.warning("An alert was not delivered and will be tried again: %s", error)

    def _may_tell(self, alert: Alert) -> bool:
        now = datetime.now(UTC)
        self._openings = [at for at in self._openings if at > now - FLAPPING_WINDOW]
        if len(self._openings) >= FLAPPING_AFTER and now - alert.opened_at < LASTING:
            return False
        self._openings.append(now)
        return True

    def _give_sign_of_life(self) -> None:
        url = self._settings.heartbeat_url
        if url is None or time.monotonic() - self._last_sign < HEARTBEAT_S:
            return
        self._last_sign = time.monotonic()
        try:
            within(10.0, lambda: _get(url.get_secret_value()), where="MEDSCORE_HEARTBEAT_URL")
        except MedscoreError as error:
            _log.warning("The dead-man service did not take the sign of life: %s", error)


def _silent_daemons(instance: dg.DagsterInstance) -> dict[str, float | None]:
    """The daemons that should beat and do not, with the time of their last beat, if there was one."""
    beats = instance.get_daemon_heartbeats()
    last = {
        name: beats[name].timestamp if name in beats else None
        for name in instance.get_required_daemon_types()
    }
    oldest = time.time() - STALE_HEARTBEAT_S
    return {name: at for name, at in last.items() if at is None or at < oldest}


def _daemon_alert(silent: dict[str, float | None]) -> Alert:
    times = [at for at in silent.values() if at is not None]
    since = f"{datetime.fromtimestamp(max(times), UTC):%Y-%m-%d %H:%M} UTC" if times else "never"
    return Alert(
        key=DAEMON,
        owner=PLATFORM_OWNER,
        severity="critical",
        title="Dagster's daemon has stopped",
        detail=f"Nothing is made while it stands still. Silent: {', '.join(sorted(silent))}. "
        f"Last sign: {since}.",
        mend="Run: make up",
        opened_at=datetime.now(UTC),
    )


def _get(url: str) -> None:
    import requests

    try:
        with requests.get(url, timeout=(5, 8), allow_redirects=False, stream=True) as response:
            status = response.status_code
    except requests.RequestException as error:
        # Not chained: the text holds the address, which is a secret of its own.
        raise TransientError(
            f"it cannot be reached ({type(error).__name__})",
            where="MEDSCORE_HEARTBEAT_URL",
            mend="Correct the address.",
        ) from None
    if not 200 <= status < 300:
        raise TransientError(
            f"it answered {status}", where="MEDSCORE_HEARTBEAT_URL", mend="Correct the address."
        )


@contextmanager
def _stopping_in_good_order(stop: threading.Event) -> Iterator[None]:
    """SIGTERM and Ctrl-C end the loop between two looks, so that nothing is sent and not recorded."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    before = {
        number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
