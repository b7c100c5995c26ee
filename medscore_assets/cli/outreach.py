"""`medscore outreach`: making and showing morning lists.

Belongs here: arguments, progress and output of these commands. Does not belong here: any work.
"""

from __future__ import annotations

import json
from datetime import date
from typing import Annotated

import typer
from rich.table import Table

from medscore_assets.cli.common import Day, Json, console, prepare, resources, run_job
from medscore_assets.settings import Settings, without_password

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
            f"{policy.percent(p['readmission_probability'])}\n{p['risk_tier'].replace('_', ' ')}",
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
