"""`medscore waits close`, `reopen` and `closures`: boards that are blanked by hand.

Belongs here: arguments and output of these commands. Does not belong here: any work.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from medscore_assets.cli.common import Json, console, resources
from medscore_assets.cli.waits import Bands, By, Reason, everywhere, listing, places, user, waits
from medscore_assets.settings import Settings

__all__ = ["waits"]

if TYPE_CHECKING:
    from medscore_assets.wait_times.closing import Closure

Which = Annotated[list[str], typer.Option("--facility", help="Which; may be given again.")]


@waits.command("close")
def close(
    facility: Which,
    because: Annotated[
        str,
        typer.Option(
            "--because", help="What patients read: closed, redirected, exceptional or not_measured."
        ),
    ],
    reason: Reason,
    band: Bands = None,
    by: By = None,
    as_json: Json = False,
) -> None:
    """Show no wait on a board, but why and to ask at the desk. Until it is opened again."""
    from medscore_assets.wait_times import closing

    warehouse, _ = resources(Settings())

    def one(facility_id: str, of_band: str) -> Closure:
        return closing.close(warehouse, facility_id, of_band, because, by=by or user(), reason=reason)

    everywhere(one, places(warehouse, facility, band), "closed", as_json)


@waits.command("reopen")
def reopen(facility: Which, reason: Reason, band: Bands = None, by: By = None, as_json: Json = False) -> None:
    """Show waits again on a board that was closed, by the model that is assigned by then."""
    from medscore_assets.wait_times import closing

    warehouse, _ = resources(Settings())

    def one(facility_id: str, of_band: str) -> Closure:
        return closing.reopen(warehouse, facility_id, of_band, by=by or user(), reason=reason)

    everywhere(one, places(warehouse, facility, band), "reopened", as_json)


@waits.command("closures")
def closures(
    facility: Annotated[str | None, typer.Option("--facility", help="Only of this one.")] = None,
    band: Annotated[str | None, typer.Option("--band", help="Only of this one.")] = None,
    as_json: Json = False,
) -> None:
    """Every closing and opening of a board, newest first: what, why, by whom."""
    from medscore_assets.wait_times.closing import closures as made

    warehouse, _ = resources(Settings())
    found = made(warehouse, facility, band)[::-1]
    if as_json:
        print(json.dumps([closure.as_dict() for closure in found]))
        return
    table = listing("when (UTC)", "board", "what, by whom, and why")
    for c in found:
        what = f"{c.cause or 'open again'}, by {c.decided_by}: {c.reason}"
        table.add_row(f"{c.decided_at:%Y-%m-%d %H:%M}", f"{c.facility_id}, {c.band}", what)
    console.print(table)
