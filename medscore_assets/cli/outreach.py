"""`medscore outreach`: making and showing morning lists.

Belongs here: arguments, progress and output of these commands. Does not belong here: any work.
"""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from medscore_assets.cli.common import Day, Json, console, prepare, resources, run_job
from medscore_assets.database_addresses import without_password
from medscore_assets.settings import Settings
from resources.errors import MedscoreError

if TYPE_CHECKING:
    from medscore_assets.readmission.catch_up import DayState

outreach = typer.Typer(no_args_is_help=True, help="The morning outreach list.")


@outreach.command("make")
def outreach_make(day: Day = None, as_json: Json = False) -> None:
    """Make (again) the list of one day; the default is the last window that closed."""
    from medscore_assets.partitions import latest_morning, require_closed

    key = require_closed(day.date().isoformat()) if day else latest_morning()
    settings = Settings()
    prepare(settings)
    run_job(
        "readmission_outreach", f"Scoring the discharges of {key}", f"List of {key} published", partition=key
    )
    if as_json:
        show_list(settings, date.fromisoformat(key), 1_000_000, as_json)


@outreach.command("show")
def outreach_show(
    day: Day = None,
    top: Annotated[int, typer.Option(min=1, help="How many patients.")] = 20,
    as_json: Json = False,
) -> None:
    """Show a list; the default is the newest one."""
    show_list(Settings(), day.date() if day else None, top, as_json)


def missing(
    days: Annotated[int, typer.Option(min=1, max=366, help="How many mornings to look back.")] = 14,
    make: Annotated[bool, typer.Option("--make", help="Make them.")] = False,
    as_json: Json = False,
) -> None:
    """Say which lists are missing or out of date; exits with 1 if any is. With --make, make them."""
    from medscore_assets.partitions import closed_mornings
    from medscore_assets.readmission.catch_up import day_states, stretches

    settings = Settings()
    if make:
        prepare(settings)
    warehouse, _ = resources(settings)

    def wanted() -> list[DayState]:
        states = day_states(warehouse, closed_mornings(days, until=datetime.now(UTC)))
        return [state for state in states if state.missing or state.out_of_date]

    errors = _make(stretches([s.day for s in wanted()])) if make else []
    left = wanted()
    if as_json:
        print(json.dumps({"days": days, "lists": [s.as_dict() for s in left]}))
    else:
        _print_missing(left, days)
    if errors:
        raise errors[0]
    if left:
        raise typer.Exit(1)


def _make(stretches: list[tuple[str, str]]) -> list[MedscoreError]:
    """Make the lists of each stretch of days in one run; one that fails does not stop the next."""
    errors = []
    for first, last in stretches:
        of = first if first == last else f"{first} to {last}"
        try:
            run_job(
                "readmission_outreach", f"Making {of}", f"Lists of {of} made", partition=first, until=last
            )
        except MedscoreError as error:
            errors.append(error)
    return errors


def _print_missing(states: list[DayState], days: int) -> None:
    if not states:
        console.print(f"Every list of the last {days} mornings is there and up to date.")
        return
    table = Table()
    for heading in ("day", "list", "discharges now", "when it was made"):
        table.add_column(heading)
    for s in states:
        listed = "" if s.listed is None else str(s.listed["events"])
        table.add_row(s.day, s.as_dict()["state"], str(s.counts["events"]), listed)
    console.print(table)
    console.print("Run: medscore missing --make", highlight=False)


def show_list(settings: Settings, day: date | None, top: int, as_json: bool) -> None:
    """One list with its first patients, for a program or for a person."""
    from medscore_assets.readmission.policy import load_policy
    from medscore_assets.readmission.published import published_list

    warehouse, _ = resources(settings)
    shown = published_list(warehouse, day, top)
    for patient in shown.patients:
        for column in ("top_factors", "recommended_actions"):
            patient[column] = json.loads(patient[column])
    if as_json:
        print(json.dumps({"list": shown.header, "patients": shown.patients}, default=str))
        return
    policy = load_policy(settings.policy_path)
    opened, closed = (shown.header[k].astimezone(settings.zone) for k in ("window_start", "window_end"))
    table = Table(
        title=f"Discharged {opened:%a %d %b %H:%M} to {closed:%a %d %b %Y %H:%M}",
        caption=shown.patients[0]["disclaimer"] if shown.patients else "Nobody to call.",
        show_lines=True,
    )
    table.add_column("#", justify="right")
    table.add_column("encounter\npatient", no_wrap=True)
    table.add_column("30-day risk", no_wrap=True)
    table.add_column("why, and → what to do")
    for p in shown.patients:
        table.add_row(
            str(p["rank"]),
            f"{p['encounter_id']}\n{p['patient_id']}",
            f"{shown.percent(p['readmission_probability'], policy)}\n{p['risk_tier'].replace('_', ' ')}",
            "\n".join([f["text"] for f in p["top_factors"]] + [f"→ {a}" for a in p["recommended_actions"]]),
        )
    console.print(table)
    h = shown.header
    console.print(
        f"{h['scored']} scored, {h['excluded']} not eligible, {h['quarantined']} in quarantine, "
        f"{h['superseded']} superseded of {h['events']} events. {h['model_name'].capitalize()} model "
        f"version {h['model_version']}, policy {h['policy_version']}.",
        highlight=False,
    )
    address = without_password(settings.databases().warehouse)
    console.print(f"Table care_management_scores, score_date {h['score_date']}, in {address}", soft_wrap=True)
