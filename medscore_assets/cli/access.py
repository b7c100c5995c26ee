"""`medscore audit` and `medscore keys`: the audit trail, and keys for development.

Belongs here: arguments and output of these commands. Does not belong here: any work.
"""

from __future__ import annotations

import getpass
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medscore_assets.cli.common import Json, console, print_document, progress_console, working
from medscore_assets.settings import Settings

if TYPE_CHECKING:
    from medscore_assets.audit import Occurrence, Verified
    from resources.warehouse import Warehouse

audit = typer.Typer(no_args_is_help=True, help="Who saw, asked for or was refused what.")
keys = typer.Typer(no_args_is_help=True, help="API keys for development.")

_FORMATS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]
Since = Annotated[
    datetime | None, typer.Option(formats=_FORMATS, help="From when on; local to MEDSCORE_TIMEZONE.")
]


@audit.command("verify")
def audit_verify(
    anchor: Annotated[
        list[str] | None, typer.Option(help="SEQUENCE:HASH, as an earlier verification printed it.")
    ] = None,
    since: Since = None,
    as_json: Json = False,
) -> None:
    """Check that no event was changed, removed, moved or put in. Exits with 1 if one was.

    Keep the anchor that is printed where the database's users cannot write: only with it can a cut-off end,
    or a chain that was computed anew, be noticed.
    """
    from medscore_assets.audit import Anchor, verify

    settings = Settings()
    anchors = tuple(Anchor.parse(text) for text in anchor or ())
    with working("Verifying the audit's chain", "Audit's chain read"):
        found = verify(_warehouse(settings), _aware(since, settings), anchors)
    if as_json:
        print(json.dumps(_as_dict(found)))
    else:
        _print_verified(found)
    if not found.intact:
        raise typer.Exit(1)


@audit.command("show")
def audit_show(
    patient: Annotated[str | None, typer.Option(help="Only events about this patient.")] = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many, the newest.")] = 100,
    as_json: Json = False,
) -> None:
    """Show events, the newest first. That you read them is itself recorded."""
    from medscore_assets.audit import events

    settings = Settings()
    reader = _occurrence("audit-read", "medscore audit show", patient_id=patient)
    found = events(
        _warehouse(settings), reader, patient_id=patient, since=_aware(since, settings), limit=limit
    )
    if as_json:
        print(json.dumps(found))
        return
    for each in found:
        console.print(_line(each["sequence"], each["event"]), highlight=False, markup=False, soft_wrap=True)


@keys.command("create")
def keys_create(
    client: Annotated[str, typer.Option(help="Whose key it is.")],
    role: Annotated[list[str], typer.Option(help="coordinator, care-manager, analyst or steward.")],
    days: Annotated[int, typer.Option(min=1, max=90, help="How long it lasts.")] = 30,
    as_json: Json = False,
) -> None:
    """Make a key and show it, this once."""
    from medscore_assets.access_keys import create

    by = _occurrence("access-change", "medscore keys create", entity=client)
    made = create(_warehouse(Settings()), client, role, days, by, datetime.now(UTC))
    if as_json:
        document = {"key_id": made.key_id, "expires_at": made.expires_at.isoformat(), "key": made.key}
        print(json.dumps(document))
        return
    console.print(made.key, highlight=False, markup=False, soft_wrap=True)
    progress_console.print(
        f"[green]✓[/green] Key {made.key_id} of {client}, until {made.expires_at:%Y-%m-%d}. "
        "It is stored nowhere: keep it now."
    )


@keys.command("list")
def keys_list(as_json: Json = False) -> None:
    """List the keys, without their secrets."""
    from medscore_assets.access_keys import listed

    now = datetime.now(UTC)
    found = [
        {
            "key_id": key.key_id,
            "client": key.client,
            "roles": sorted(key.roles),
            "state": "revoked" if key.revoked_at else "expired" if key.expires_at <= now else "in force",
            "expires_at": key.expires_at.isoformat(timespec="seconds"),
        }
        for key in listed(_warehouse(Settings()))
    ]
    print_document({"keys": found}, as_json)


@keys.command("revoke")
def keys_revoke(key_id: Annotated[str, typer.Argument(help="The key's open part.")]) -> None:
    """Take a key back. The API refuses it within 15 seconds."""
    from medscore_assets.access_keys import revoke

    by = _occurrence("access-change", "medscore keys revoke", entity=key_id)
    if not revoke(_warehouse(Settings()), key_id, by, datetime.now(UTC)):
        progress_console.print(f"[red]Error:[/red] There is no key {key_id} in force.", highlight=False)
        raise typer.Exit(1)
    progress_console.print(f"[green]✓[/green] Key {key_id} revoked.")


def _warehouse(settings: Settings) -> Warehouse:
    from resources.warehouse import Warehouse

    return Warehouse(lambda: settings.databases().warehouse)


def _occurrence(kind: str, command: str, **more: Any) -> Occurrence:
    from medscore_assets.audit import Occurrence

    return Occurrence(
        kind=kind,
        outcome="success",
        recorded=datetime.now(UTC),
        client="medscore command",
        subject=getpass.getuser(),
        route=command,
        **more,
    )


def _aware(moment: datetime | None, settings: Settings) -> datetime | None:
    return moment.replace(tzinfo=settings.zone).astimezone(UTC) if moment else None


def _as_dict(found: Verified) -> dict[str, Any]:
    return {
        "intact": found.intact,
        "count": found.count,
        "first": found.first,
        "last": found.last,
        "anchor": str(found.head) if found.head else None,
        "problem_count": found.problem_count,
        "problems": [{"sequence": p.sequence, "kind": p.kind, "text": p.text} for p in found.problems],
    }


def _print_verified(found: Verified) -> None:
    for problem in found.problems:
        console.print(f"[red]✗[/red] event {problem.sequence}: {problem.text} ({problem.kind})")
    if found.intact:
        console.print(f"[green]✓[/green] {found.count:,} events, {found.first} to {found.last}: intact")
    else:
        console.print(f"[red]✗[/red] {found.problem_count:,} problems in {found.count:,} events")
    if found.head:
        console.print(f"anchor: {found.head}", highlight=False, soft_wrap=True)


def _line(sequence: int, event: dict[str, Any]) -> str:
    """One event in one line: when, what, with which outcome, who, about what."""
    kind = event["subtype"][-1]["code"]
    who = " ".join(
        a["who"]["identifier"]["value"] for a in event["agent"] if "identifier" in a.get("who", {})
    )
    about = " ".join(
        e["what"].get("reference") or e["what"].get("identifier", {}).get("value", "")
        for e in event["entity"]
    )
    outcome = {"0": "success", "4": "refused", "8": "failed"}[event["outcome"]]
    reason = f" ({event['outcomeDesc']})" if "outcomeDesc" in event else ""
    return f"{sequence} {event['recorded'][:19]}Z {kind} {outcome}{reason} | {who or 'unknown'} | {about}"
