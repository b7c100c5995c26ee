"""`medscore mobility run`, `train`, `compare` and `forecasts`: making days and models, and looking at them.

Belongs here: arguments, progress and output of these commands. Does not belong here: any work.
"""

from __future__ import annotations

import json
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from medscore_assets.cli.common import Json, console, prepare, print_document, resources, run_job, working
from medscore_assets.cli.mobility import Patient, mobility, open_lake
from medscore_assets.settings import Settings
from resources.errors import PermanentError

if TYPE_CHECKING:
    from medscore_assets.mobility.evaluation import Choice
    from resources.warehouse import Warehouse

__all__ = ["mobility"]

DayOption = Annotated[
    datetime | None,
    typer.Option(
        "--day", formats=["%Y-%m-%d"], help="The day whose steps are in; forecasts are of the morning after."
    ),
]


@mobility.command("run")
def run(
    day: DayOption = None,
    first: Annotated[
        datetime | None,
        typer.Option("--from", formats=["%Y-%m-%d"], help="Make all days from this one on, in one run."),
    ] = None,
    remake: Annotated[
        bool, typer.Option("--remake", help="Make forecasts again that stand because their day is over.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make steps, features and forecasts of a day, by default of the last one that is over."""
    from medscore_assets.mobility.jobs import DAILY_JOB
    from medscore_assets.partitions import morning_after, require_closed_step_day

    last = require_closed_step_day(f"{day:%Y-%m-%d}" if day else None)
    begun = require_closed_step_day(f"{first:%Y-%m-%d}") if first else last
    if begun > last:
        raise PermanentError("the first day comes after the last", where="--from", mend="Choose another.")
    settings = Settings()
    prepare(settings)
    config = {"ops": {"mobility_forecasts": {"config": {"remake": remake}}}}
    days = last if begun == last else f"{begun} to {last}"
    run_job(
        DAILY_JOB,
        f"Steps, features and forecasts of {days}",
        f"Forecasts of the morning after {last} published",
        partition=begun,
        until=last,
        config=config,
    )
    warehouse, _ = resources(settings)
    _print_day(warehouse, morning_after(last), as_json)


def _print_day(warehouse: Warehouse, day: date, as_json: bool) -> None:
    import sqlalchemy as sa

    from medscore_assets.tables import mobility_forecast_days as days

    (made,) = warehouse.read(sa.select(days).where(days.c.forecast_day == day)).to_pylist()
    served = json.loads(made["served"])
    if as_json:
        print_document(made | {"served": served}, as_json=True)
        return
    table = Table(*("cohort", "1 day ahead", "7 days ahead"), box=SIMPLE_HEAD, title="Who forecasts")
    for cohort, by_horizon in served.items():
        table.add_row(cohort, *by_horizon.values())
    console.print(table)
    console.print(f"{made['rows']:,} forecasts of {made['patients']:,} patients for {day}.", highlight=False)


@mobility.command("train")
def train(
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", exists=True, dir_okay=False, help="How models are boosted; see mobility tune."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train the models of all cohorts side by side, and choose who serves whom."""
    from medscore_assets.mobility.jobs import training_job
    from medscore_assets.mobility.model_assets import ALL_COHORTS, SETTINGS_TAG
    from medscore_assets.mobility.training_config import load
    from medscore_assets.runs import execute_in_processes

    tags = dict(ALL_COHORTS)
    if config is not None:
        load(config)
        tags[SETTINGS_TAG] = str(config.resolve())
    settings = Settings()
    prepare(settings)
    with working("Training the mobility models", "Models trained and judged"):
        execute_in_processes(training_job, tags)
    warehouse, _ = resources(settings)
    _print_routes(warehouse, as_json)


def _print_routes(warehouse: Warehouse, as_json: bool) -> None:
    from medscore_assets.mobility.publish import holding_routes

    rows = warehouse.read(holding_routes()).to_pylist()
    shown = ("cohort", "horizon_days", "serves", "model_version", "reason")
    if as_json:
        print_document({"routes": [{name: row[name] for name in shown} for row in rows]}, as_json=True)
        return
    table = Table(*("cohort", "days ahead", "serves", "why"), box=SIMPLE_HEAD)
    for row in rows:
        version = "" if row["model_version"] is None else f" {row['model_version']}"
        table.add_row(row["cohort"], str(row["horizon_days"]), f"{row['serves']}{version}", row["reason"])
    console.print(table)


@mobility.command("compare")
def compare(as_json: Json = False) -> None:
    """Show the errors of models and naive forecasts on later dates and on held-out patients.

    Mean absolute errors in steps, with 95 % intervals for which patients are drawn anew. Of each model it is
    the champion, else the newest version, which the gate may have refused.
    """
    from medscore_assets.mobility.champions import compare as compared
    from medscore_assets.mobility.forecasts import HORIZONS

    settings = Settings()
    lake, registry = open_lake(settings), resources(settings)[1]
    with working("Comparing on held-out rows", "Compared on held-out rows"):
        found = [choice for days in HORIZONS for choice in compared(lake, registry, days).values()]
    if as_json:
        print_document({"compared": [_compared(choice) for choice in found]}, as_json=True)
        return
    for choice in found:
        _print_compared(_compared(choice))


def _compared(choice: Choice) -> dict[str, Any]:
    """Every candidate's mean absolute error by set, as [estimate, lower end, upper end]."""
    ends = ("estimate", "lower", "upper")
    sizes = next(iter(choice.measured.values()))
    return {
        "cohort": choice.route.cohort,
        "horizon_days": choice.route.horizon_days,
        "held_out": {s: {"rows": of.n, "patients": of.patients} for s, of in sizes.items()},
        "mean_absolute_error": {
            name: {s: [getattr(of.measures["mae"], end) for end in ends] for s, of in sets.items()}
            for name, sets in choice.measured.items()
        },
    }


def _print_compared(told: dict[str, Any]) -> None:
    from medscore_assets.mobility.baselines import NAIVE
    from medscore_assets.mobility.cohorts import title
    from medscore_assets.mobility.evaluation import SETS

    days = told["horizon_days"]
    table = Table(
        "mean absolute error, steps",
        *(f"{SETS[s]}: {_size(of)}" for s, of in told["held_out"].items()),
        title=f"{told['cohort']}, {days} day{'' if days == 1 else 's'} ahead",
        box=SIMPLE_HEAD,
    )
    for name, errors in told["mean_absolute_error"].items():
        table.add_row(NAIVE.get(name) or title(name, told["cohort"]), *map(_error, errors.values()))
    console.print(table)


def _size(held_out: dict[str, int]) -> str:
    return f"{held_out['rows']:,} days of {held_out['patients']:,} patients"


def _error(ends: list[float | None]) -> str:
    estimate, lower, upper = ends
    if estimate is None:
        return ""
    between = "no interval" if lower is None or upper is None else f"{lower:,.0f} to {upper:,.0f}"
    return f"{estimate:,.0f} ({between})"


@mobility.command("forecasts")
def forecasts(
    patient: Patient,
    day: Annotated[
        datetime | None,
        typer.Option(
            "--day", formats=["%Y-%m-%d"], help="The morning of the forecasts; the default is the newest."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the stored forecasts of a patient, with their reasons."""
    rows = _stored(resources(Settings())[0], patient, day.date() if day else None)
    if as_json:
        print_document({"forecasts": rows}, as_json=True)
        return
    for row in rows:
        ends = "no interval" if row["lower"] is None else f"{row['lower']:,.0f} to {row['upper']:,.0f}"
        console.print(
            f"[bold]{row['target_day']}[/bold]: {row['expected_steps']:,.0f} steps ({ends}), by "
            f"{row['model']}; mean to date {row['baseline_mean']:,.0f}, data until {row['data_until']}.",
            highlight=False,
        )
        for text in row["reasons"]:
            console.print(f"  {text}", highlight=False)


def _stored(warehouse: Warehouse, patient: str, day: date | None) -> list[dict[str, Any]]:
    import sqlalchemy as sa

    from medscore_assets.mobility.stored import stored_reasons
    from medscore_assets.tables import mobility_forecast_days as days
    from medscore_assets.tables import mobility_forecasts as table

    newest = sa.select(sa.func.max(days.c.forecast_day)).scalar_subquery()
    chosen = table.c.forecast_day == (newest if day is None else day)
    query = sa.select(table).where(chosen, table.c.patient_id == patient).order_by(table.c.horizon_days)
    found = warehouse.read(query).to_pylist()
    if not found:
        raise PermanentError(
            "there is no forecast of this patient for that day",
            where="--patient, --day",
            mend="Make it: medscore mobility run. A patient without data for a year has none.",
        )
    return [_shown(row, [reason.text for reason in stored_reasons(row).reasons]) for row in found]


def _shown(row: dict[str, Any], reasons: list[str]) -> dict[str, Any]:
    kept = ("forecast_day", "horizon_days", "expected_steps", "lower", "upper", "level", "cohort", "route")
    model = row["serves"] if row["model_name"] is None else f"{row['model_name']} {row['model_version']}"
    return {
        **{name: row[name] for name in kept},
        "target_day": row["forecast_day"] + timedelta(days=row["horizon_days"] - 1),
        "model": model,
        "baseline_mean": row["baseline_mean"],
        "data_until": row["data_until"],
        "reasons": reasons,
    }
