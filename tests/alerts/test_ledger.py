"""The ledger: told once, over once, however often, by however many, and whatever is down."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from medscore_assets.alerting.ledger import CALM, FLAPPING_AFTER, Ledger
from medscore_assets.alerting.routing import Routing, load_routing
from medscore_assets.settings import Settings
from medscore_assets.tables import alerts
from resources.alerts import Alert, LogChannel
from resources.errors import TransientError
from resources.warehouse import Warehouse
from tests.alerts.conftest import OPENED, Mailbox, Receiver, alert

MINUTE = timedelta(minutes=1)


def minutes(number: float) -> datetime:
    return OPENED + number * MINUTE


def rows(warehouse: Warehouse) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = warehouse.read(sa.select(alerts).order_by(alerts.c.alert_id)).to_pylist()
    return found


def test_a_failure_is_told_once_over_many_ticks_and_its_recovery_once(
    ledger: Ledger, receiver: Receiver, warehouse: Warehouse
) -> None:
    for tick in range(5):
        assert ledger.raise_alert(alert(opened_at=minutes(tick))) is (tick == 0)
        ledger.deliver()
    assert receiver.states == ["open"]
    for _ in range(5):
        ledger.recover(alert().key, at=minutes(9))
        ledger.deliver()
    assert receiver.states == ["open", "recovered"]
    assert {(r["occurrences"], r["opened_at"], r["recovered_at"]) for r in rows(warehouse)} == {
        (5, OPENED, minutes(9))
    }
    assert ledger.open_keys() == []
    assert ledger.undelivered() == 0


def test_events_that_are_read_again_change_nothing(ledger: Ledger, receiver: Receiver) -> None:
    for time in range(3):
        ledger.raise_alert(alert(opened_at=minutes(0)))
        ledger.raise_alert(alert(opened_at=minutes(2)))
        assert not ledger.recover(alert().key, at=minutes(1))
        assert ledger.open_keys() == ([] if time else [alert().key])
        ledger.deliver()
        ledger.recover(alert().key, at=minutes(3))
        ledger.deliver()
    assert receiver.states == ["open", "recovered"]


def test_what_is_over_before_anybody_was_told_is_told_in_order(ledger: Ledger, receiver: Receiver) -> None:
    ledger.raise_alert(alert())
    ledger.recover(alert().key, at=minutes(1))
    ledger.deliver()
    assert receiver.states == ["open", "recovered"]


def test_a_second_thing_is_a_second_alert(ledger: Ledger, receiver: Receiver) -> None:
    for key in ("run:a:b:2026-03-02", "run:a:b:2026-03-0"):
        ledger.raise_alert(alert(key))
    ledger.recover("run:a:b:2026-03-0", at=minutes(1))
    ledger.deliver()
    assert sorted(receiver.states) == ["open", "open", "recovered"]
    assert ledger.open_keys() == ["run:a:b:2026-03-02"]


def test_a_warning_that_becomes_critical_is_told_again(ledger: Ledger, receiver: Receiver) -> None:
    for minute, severity in enumerate(("warning", "warning", "critical", "warning", "critical")):
        ledger.raise_alert(alert(severity=severity, opened_at=minutes(minute)))
        ledger.deliver()
    assert [m["severity"] for m in receiver.messages] == ["warning", "critical"]


def test_nothing_is_lost_while_the_receiver_is_down(
    ledger: Ledger, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.stop()
    ledger.raise_alert(alert())
    for _ in range(3):
        assert "webhook" in ledger.deliver().failed
    ledger.recover(alert().key, at=minutes(5))
    assert ledger.undelivered() == 2
    # The log is told at once, and not again because the webhook is down.
    assert sum("CRITICAL" in r.getMessage() for r in caplog.records) == 1
    receiver.start()
    assert ledger.deliver().failed == {}
    assert receiver.states == ["open", "recovered"]
    assert ledger.undelivered() == 0


def test_a_mailbox_that_works_is_not_told_again_because_a_webhook_is_down(
    warehouse: Warehouse, told: Settings, receiver: Receiver, mail_server: Callable[..., Mailbox]
) -> None:
    mailbox = mail_server()
    everything = Settings(
        home=told.home,
        database_url=told.database_url,
        alert_webhook_url=receiver.url,
        alert_webhook_secret="s",
        alert_smtp_url=f"smtp://127.0.0.1:{mailbox.port}",
        alert_email_from="a@b.org",
        alert_email_to="c@d.org",
    )
    receiver.answers = lambda: 500
    Ledger(warehouse, load_routing(everything)).raise_alert(alert())
    for _ in range(4):
        # A process of its own each time: nothing is remembered but what stands in the table.
        Ledger(warehouse, load_routing(everything)).deliver()
    assert len(mailbox.mails) == 1
    receiver.answers = lambda: 200
    Ledger(warehouse, load_routing(everything)).deliver()
    assert (len(mailbox.mails), receiver.states) == (1, ["open"])


def test_flapping_does_not_storm_and_its_end_is_told(ledger: Ledger, receiver: Receiver) -> None:
    for minute in range(0, 50, 2):
        ledger.raise_alert(alert(opened_at=minutes(minute)))
        ledger.deliver(now=minutes(minute))
        ledger.recover(alert().key, at=minutes(minute + 1))
        ledger.deliver(now=minutes(minute + 1))
    assert receiver.states.count("open") == FLAPPING_AFTER
    assert receiver.states.count("recovered") == FLAPPING_AFTER - 1
    ledger.deliver(now=minutes(49) + CALM)
    assert receiver.states.count("recovered") == FLAPPING_AFTER
    assert receiver.states[-1] == "recovered"


@pytest.mark.faults
def test_two_processes_that_race_tell_once(
    warehouse: Warehouse, told: Settings, receiver: Receiver, database: str
) -> None:
    start = threading.Barrier(4)
    failures: list[BaseException] = []

    def process(act: Callable[[Ledger], object]) -> None:
        own = Warehouse(database)
        try:
            ledger = Ledger(own, load_routing(told))
            start.wait(10)
            act(ledger)
            ledger.deliver()
        except BaseException as error:
            failures.append(error)
        finally:
            own.close()

    def race(act: Callable[[Ledger], object]) -> None:
        threads = [threading.Thread(target=process, args=(act,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)

    race(lambda ledger: [ledger.raise_alert(alert(f"k{n}", opened_at=minutes(n))) for n in range(5)])
    # Who found a row taken by another left it to the other.
    Ledger(warehouse, load_routing(told)).deliver()
    assert not failures
    assert receiver.states == ["open"] * 5
    race(lambda ledger: [ledger.recover(f"k{n}", at=minutes(9)) for n in range(5)])
    Ledger(warehouse, load_routing(told)).deliver()
    assert not failures
    assert receiver.states == ["open"] * 5 + ["recovered"] * 5


class Dying(LogChannel):
    """Sends, and then the process is gone before it has recorded that."""

    def __init__(self, taken: list[Alert]) -> None:
        super().__init__("log")
        self.taken = taken

    def send(self, alert: Alert) -> None:
        self.taken.append(alert)
        if len(self.taken) == 1:
            raise SystemExit(9)


@pytest.mark.faults
def test_who_is_killed_between_sending_and_recording_sends_again_with_the_same_key(
    warehouse: Warehouse,
) -> None:
    taken: list[Alert] = []
    ledger = Ledger(warehouse, Routing({"log": Dying(taken)}, {"default": ("log",)}))
    ledger.raise_alert(alert())
    with pytest.raises(SystemExit):
        ledger.deliver()
    ledger.deliver()
    ledger.deliver()
    assert len(taken) == 2
    assert len({a.idempotency_key for a in taken}) == 1


def test_a_channel_that_was_taken_out_holds_nothing_up(
    warehouse: Warehouse, told: Settings, receiver: Receiver
) -> None:
    Ledger(warehouse, load_routing(told)).raise_alert(alert())
    without = Ledger(warehouse, Routing({"log": LogChannel()}, {"default": ("log",)}))
    without.deliver()
    assert receiver.requests == []
    assert without.undelivered() == 0


def test_a_warehouse_that_is_gone_raises_what_can_be_tried_again(told: Settings) -> None:
    gone = Warehouse("postgresql+psycopg://nobody@127.0.0.1:1/none")
    with pytest.raises(TransientError):
        Ledger(gone, load_routing(told)).raise_alert(alert())
