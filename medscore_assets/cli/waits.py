"""`medscore waits`: ticks, fits, backtests, and which model boards show.

Belongs here: arguments, progress and output of these commands. Does not belong here: any work.
"""

from __future__ import annotations

import getpass
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from medscore_assets.cli.common import Json, console, prepare, progress_console, resources, run_job, working
from medscore_assets.settings import Settings
from resources.errors import MedscoreError, PermanentError

if TYPE_CHECKING:
    import pyarrow as pa

    from medscore_assets.wait_times.assignment import Assignment, Bootstrap
    from medscore_assets.wait_times.comparison import Evidence
    from resources.warehouse import Warehouse

waits = typer.Typer(no_args_is_help=True, help="Waits in emergency departments.")

Facilities = Annotated[
    list[str] | None, typer.Option("--facility", help="Which; may be given again. The default is all.")
]
Bands = Annotated[
    list[str] | None,
    typer.Option("--band", help="Triage band: all_posted, ctas_2, ctas_3 or ctas_4_5. The default is all."),
]
By = Annotated[str | None, typer.Option("--by", help="Who decides. The default is who is logged in.")]
Reason = Annotated[str, typer.Option("--reason", help="Why, in words; kept for good. Name no patient.")]
AsOf = Annotated[
    datetime | None,
    typer.Option(
        "--as-of",
        formats=["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M%z"],
        help="The moment, in UTC unless it has a zone. The default is the last whole quarter of an hour.",
    ),
]


@waits.command("tick")
def tick(as_of: AsOf = None) -> None:
    """Predict the waits of one moment by all models; the same moment again changes nothing."""
    from medscore_assets.wait_times.assets import at_moment
    from medscore_assets.wait_times.jobs import TICK_JOB

    moment = _moment(as_of)
    prepare(Settings())
    config = at_moment(moment, "wait_time_predictions")
    run_job(TICK_JOB, "Running all models", f"Waits of {moment:%Y-%m-%d %H:%M} UTC predicted", config=config)


@waits.command("fit")
def fit(as_of: AsOf = None) -> None:
    """Let all models learn from the six weeks before a moment."""
    from medscore_assets.wait_times.assets import at_moment
    from medscore_assets.wait_times.jobs import FIT_JOB

    moment = _moment(as_of)
    prepare(Settings())
    config = at_moment(moment, "wait_time_model_parameters")
    run_job(FIT_JOB, "Fitting all models", f"Models fitted as of {moment:%Y-%m-%d %H:%M} UTC", config=config)


@waits.command("score")
def score(as_of: AsOf = None) -> None:
    """Hold predictions against what is known of the patients by a moment, and measure each day."""
    from medscore_assets.wait_times.assets import at_moment
    from medscore_assets.wait_times.jobs import SCORING_JOB

    moment = _moment(as_of)
    prepare(Settings())
    config = at_moment(moment, "wait_time_outcomes", "wait_time_performance")
    run_job(SCORING_JOB, "Scoring predictions", f"Scored as of {moment:%Y-%m-%d %H:%M} UTC", config=config)


@waits.command("status")
def status(facility: Facilities = None, as_json: Json = False) -> None:
    """What is shown now, by which model, and what is wrong with the newest tick."""
    from medscore_assets.wait_times.showing import shown
    from medscore_assets.wait_times.store import newest_tick

    settings = Settings()
    warehouse, _ = resources(settings)
    newest = newest_tick(warehouse)
    now = shown(warehouse, datetime.now(UTC), default=_bootstrap(settings), facilities=facility)
    if as_json:
        document = {
            "newest_tick": newest and newest.isoformat(),
            "shown": [
                {
                    "facility": answer.facility_id,
                    "band": answer.band,
                    "assigned": str(answer.assigned).strip() or None,
                    "model": answer.pair and str(answer.pair),
                    "as_of": answer.as_of and answer.as_of.isoformat(),
                    "wait_seconds": answer.wait_seconds,
                    "p80_seconds": answer.p80_seconds,
                    "replaced": answer.replaced,
                    "current": answer.current,
                    "closed": answer.closed,
                }
                for answer in now.values()
            ],
        }
        print(json.dumps(document))
        return
    console.print(f"Newest tick: {newest:%Y-%m-%d %H:%M} UTC" if newest else "No tick was made yet.")
    table = listing("facility", "band", "typical", "8 in 10", "by")
    for answer in now.values():
        by = f"{answer.pair or 'nobody'}" + ("" if answer.current else " (not current)")
        if answer.closed is not None:
            by = f"closed ({answer.closed})"
        elif answer.replaced:
            by += f" (stands in for {answer.assigned})"
        typical, most = _minutes(answer.wait_seconds), _minutes(answer.p80_seconds)
        table.add_row(answer.facility_id, answer.band, typical, most, by)
    console.print(table)


@waits.command("promote")
def promote(
    model: Annotated[str, typer.Option("--model", help="The model that is to be shown.")],
    reason: Reason,
    version: Annotated[
        str | None, typer.Option("--version", help="Its version. The default is the latest that ran.")
    ] = None,
    facility: Facilities = None,
    band: Bands = None,
    by: By = None,
    force: Annotated[bool, typer.Option("--force", help="Although the evidence does not suffice.")] = False,
    as_json: Json = False,
) -> None:
    """Show a model from now on. Refused without 28 days of evidence that it is better, unless forced."""
    from medscore_assets.wait_times import assignment
    from medscore_assets.wait_times.evidence import evidence_for

    settings = Settings()
    warehouse, _ = resources(settings)
    default = _bootstrap(settings)
    known = assignment.versions(warehouse)
    pair = assignment.known_pair(list(known), model, version)
    now = datetime.now(UTC)
    assigned = {place: made.pair for place, made in assignment.holding(warehouse, now).items()}

    def one(facility_id: str, of_band: str) -> Assignment:
        shown = assigned.get((facility_id, of_band)) or default.pair(known)
        speaks: Evidence | None = None
        if shown is not None and shown != pair:
            speaks = evidence_for(warehouse, facility_id, of_band, shown, pair, now)
        return assignment.promote(
            warehouse,
            facility_id,
            of_band,
            pair,
            by=by or user(),
            reason=reason,
            evidence=speaks,
            default=default,
            force=force,
        )

    _tell_closed(warehouse)
    everywhere(one, places(warehouse, facility, band), "assigned", as_json)


@waits.command("rollback")
def rollback(
    reason: Reason,
    facility: Facilities = None,
    band: Bands = None,
    by: By = None,
    as_json: Json = False,
) -> None:
    """Show the model again that was shown before the present one."""
    from medscore_assets.wait_times import assignment

    settings = Settings()
    warehouse, _ = resources(settings)

    def one(facility_id: str, of_band: str) -> Assignment:
        return assignment.rollback(
            warehouse, facility_id, of_band, by=by or user(), reason=reason, default=_bootstrap(settings)
        )

    _tell_closed(warehouse)
    everywhere(one, places(warehouse, facility, band), "assigned", as_json)


@waits.command("assignments")
def assignments(
    facility: Annotated[str | None, typer.Option("--facility", help="Only of this one.")] = None,
    band: Annotated[str | None, typer.Option("--band", help="Only of this one.")] = None,
    as_json: Json = False,
) -> None:
    """Every assignment of a model to a board, newest first: what, why, by whom."""
    from medscore_assets.wait_times.assignment import assignments as made

    warehouse, _ = resources(Settings())
    found = made(warehouse, facility, band)[::-1]
    if as_json:
        print(json.dumps([assignment.as_dict() for assignment in found]))
        return
    table = listing("when (UTC)", "board", "model, by whom, and why")
    for a in found:
        by = f"{a.action.replace('_', ' ')} by {a.assigned_by}{' (forced)' if a.forced else ''}"
        place = f"{a.facility_id}, {a.band}"
        table.add_row(f"{a.assigned_at:%Y-%m-%d %H:%M}", place, f"{a.pair}, {by}: {a.reason}")
    console.print(table)


@waits.command("backtest")
def backtest(
    first: Annotated[datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="The first day.")],
    last: Annotated[datetime, typer.Option("--to", formats=["%Y-%m-%d"], help="The last day, included.")],
    facility: Facilities = None,
    as_json: Json = False,
) -> None:
    """Run all models over a period again, by what was known at each tick, and measure them."""
    import pyarrow.compute as pc

    from medscore_assets.wait_times import backtest as replay
    from medscore_assets.wait_times import store
    from medscore_assets.wait_times.bands import ALL_POSTED
    from medscore_assets.wait_times.evaluation import availability, score
    from medscore_assets.wait_times.registry import load_models
    from medscore_assets.wait_times.snapshot import HISTORY
    from medscore_assets.wait_times.visits import LONGEST_WAIT, Visits

    settings = Settings()
    warehouse, _ = resources(settings)
    zones = store.facility_zones(warehouse)
    names = _known(facility, list(zones), "--facility")
    start, end = (_midnight(day, settings) for day in (first, last + timedelta(days=1)))
    since = start - replay.WARM_UP - timedelta(days=replay.LEARNING_DAYS) - HISTORY
    with working("Reading visits", "Visits read"):
        visits = Visits.of(store.visits_with_versions(warehouse, end + LONGEST_WAIT, since))
    with working("Running all models over the period", "Period replayed"):
        models = load_models(settings.wait_models_path).models
        found = replay.backtest(visits, models, names, zones, start, end)
    headline = found.attributed.filter(pc.equal(found.attributed["band"].cast("string"), ALL_POSTED))
    measured = score(headline).join(
        availability(found.predictions).select(["model", "version", "availability"]), ["model", "version"]
    )
    measured = measured.sort_by("pinball_80")
    if as_json:
        document = {
            "models": measured.to_pylist(),
            "faults": [f"{f.at:%Y-%m-%d %H:%M} {f.model} {f.version}: {f.sentence}" for f in found.faults],
            "skipped": list(found.skipped),
        }
        print(json.dumps(document))
        return
    _print_measures(measured)
    for fault in found.faults:
        progress_console.print(
            f"[yellow]{fault.model} {fault.version}[/yellow] at {fault.at}: {fault.sentence}"
        )
    for name in found.skipped:
        progress_console.print(f"{name} knows the present only and was not run.")


def _print_measures(measured: pa.Table) -> None:
    """Models of the headline, best first."""
    table = listing("model", "seen", "pinball", "MAE", "bias", "coverage", "posted", "available")
    for row in measured.to_pylist():
        minutes = (_minutes(row[name]) for name in ("pinball_80", "mae", "bias"))
        table.add_row(
            f"{row['model']} {row['version']}",
            f"{row['n']:,}",
            *minutes,
            _share(row["coverage"]),
            _minutes(row["mean_posted"]),
            _share(row["availability"]),
        )
    console.print(table)
    console.print("Minutes, triage levels 3 to 5. Best first by pinball loss at 0.8; posted: the mean of it.")


class Decided(Protocol):
    """What came of a decision at one place, in words and for JSON."""

    @property
    def told(self) -> str: ...

    def as_dict(self) -> dict[str, Any]: ...


def everywhere(
    one: Callable[[str, str], Decided], at: Iterator[tuple[str, str]], name: str, as_json: bool
) -> None:
    """Do it at every place; what is refused at one is done at the others. Exits with 1 if any was refused.

    `name` is that of what was done, in JSON.
    """
    made: list[dict[str, Any]] = []
    refused: list[dict[str, str]] = []
    for facility_id, band in at:
        try:
            done = one(facility_id, band)
        except MedscoreError as error:
            place = {"facility": facility_id, "band": band}
            refused.append({**place, "what": error.what, "where": error.where, "mend": error.mend})
            if not as_json:
                progress_console.print(f"[red]Refused:[/red] {facility_id}, {band}: {error}", highlight=False)
        else:
            made.append(done.as_dict())
            if not as_json:
                console.print(f"{facility_id}, {band}: {done.told}", highlight=False)
    if as_json:
        print(json.dumps({name: made, "refused": refused}))
    if refused:
        raise typer.Exit(1)


def places(
    warehouse: Warehouse, facilities: list[str] | None, bands: list[str] | None
) -> Iterator[tuple[str, str]]:
    """The facilities and bands that are meant, by default all. Raises `PermanentError` for unknown ones."""
    from medscore_assets.wait_times.bands import ALL_BANDS
    from medscore_assets.wait_times.store import facility_zones

    names = _known(facilities, list(facility_zones(warehouse)), "--facility")
    of_bands = _known(bands, list(ALL_BANDS), "--band")
    return ((name, band) for name in names for band in of_bands)


def _known(wanted: list[str] | None, there: list[str], option: str) -> list[str]:
    """The wanted ones, by default all. Raises `PermanentError` for one that is not there."""
    if not there:
        raise PermanentError(
            "there is no facility", where="ed_facilities", mend="Import visits, or run: medscore demo visits"
        )
    for name in wanted or ():
        if name not in there:
            raise PermanentError(
                f"{name} is not known", where=option, mend=f"Choose among: {', '.join(there)}."
            )
    return list(dict.fromkeys(wanted or there))


def _tell_closed(warehouse: Warehouse) -> None:
    from medscore_assets.wait_times.closing import closed_places

    if closed := closed_places(warehouse, datetime.now(UTC)):
        names = ", ".join(sorted({facility for facility, _ in closed}))
        progress_console.print(f"Closed boards stay closed: {names}.", highlight=False)


def _bootstrap(settings: Settings) -> Bootstrap:
    from medscore_assets.wait_times.assignment import Bootstrap

    return Bootstrap(settings.wait_model, settings.wait_model_version)


def _moment(as_of: datetime | None) -> datetime:
    from medscore_assets.wait_times.tick import latest_tick, require_tick

    if as_of is None:
        return latest_tick(datetime.now(UTC))
    return require_tick(as_of if as_of.tzinfo is not None else as_of.replace(tzinfo=UTC))


def _midnight(day: datetime, settings: Settings) -> datetime:
    return datetime.combine(day.date(), time(), settings.zone).astimezone(UTC)


def user() -> str:
    """Who is logged in."""
    try:
        return getpass.getuser()
    except (KeyError, OSError) as error:
        raise PermanentError(
            "this account has no name", where="--by", mend="Say who decides: --by 'Your name'"
        ) from error


def _minutes(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds / 60:.0f}"


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def listing(*headings: str) -> Table:
    """A table for a terminal. What a heading of a model says may break into lines."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    for heading in headings:
        table.add_column(heading, no_wrap=not heading.startswith("model"))
    return table
