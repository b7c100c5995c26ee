"""`medscore alerts` and `watch`: what is wrong, whether its owner would hear of it, and the watch.

Belongs here: arguments, progress and output of these commands. Does not belong here: any work.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from medscore_assets.cli.common import Json, console, resources
from medscore_assets.settings import Settings
from resources.errors import MedscoreError, PermanentError

if TYPE_CHECKING:
    from medscore_assets.alerting.ledger import Ledger

alerts = typer.Typer(no_args_is_help=True, help="What is wrong, and who is told.")


def _ledger(settings: Settings) -> Ledger:
    from medscore_assets.alerting.ledger import Ledger
    from medscore_assets.alerting.routing import load_routing

    warehouse, _ = resources(settings)
    return Ledger(warehouse, load_routing(settings))


@alerts.command("list")
def alerts_list(as_json: Json = False) -> None:
    """What is wrong at present, oldest first."""
    found = _ledger(Settings()).open_alerts()
    if as_json:
        print(json.dumps([alert.as_dict() for alert in found], default=str))
        return
    if not found:
        console.print("Nothing is wrong that anybody was told of.")
        return
    table = Table("since", "severity", "owner", "what, and → what mends it", box=SIMPLE_HEAD)
    for a in found:
        table.add_row(
            f"{a.opened_at:%Y-%m-%d %H:%M}",
            a.severity,
            a.owner,
            f"{a.title}\n{a.detail}\n→ {a.mend}\n({a.key})",
        )
    console.print(table)


@alerts.command("test")
def alerts_test() -> None:
    """Send a test message by every channel. Exits with 1 if one does not take it."""
    from medscore_assets.alerting.routing import PLATFORM_OWNER, load_routing
    from resources.alerts import Alert

    now = datetime.now(UTC)
    message = Alert(
        f"test {now.isoformat()}",
        PLATFORM_OWNER,
        "warning",
        "This is a test",
        "Somebody typed: medscore alerts test.",
        "Nothing is to be done.",
        now,
    )
    failed = False
    for name, channel in load_routing(Settings()).channels.items():
        try:
            channel.send(message)
            console.print(f"[green]✓[/green] {name}: sent")
        except MedscoreError as error:
            failed = True
            console.print(f"[red]✗[/red] {name}: {error}", highlight=False)
    if failed:
        raise typer.Exit(1)


@alerts.command("close")
def alerts_close(key: Annotated[str, typer.Argument(help="The key that `list` shows in brackets.")]) -> None:
    """Say that an alert is over, where nothing will say so by itself."""
    if not _ledger(Settings()).recover(key):
        raise PermanentError(
            "no such alert is open", where=key, mend="See the open ones: medscore alerts list"
        )
    console.print("Closed; its owner will be told.")


def watch(
    once: Annotated[
        bool, typer.Option("--once", help="Look once; exit with 1 if something is wrong.")
    ] = False,
) -> None:
    """Watch the daemon, the database and the morning's list from outside of Dagster, and alert."""
    from medscore_assets.alerting.watch import watch as look

    raise typer.Exit(look(Settings(), once=once))
