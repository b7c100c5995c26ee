"""`medscore train` and `models`: training, what the registry holds, and decisions by hand about it.

Belongs here: arguments, progress and output of these commands. Does not belong here: any work.
"""

from __future__ import annotations

import getpass
import json
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from medscore_assets.cli.common import Json, console, prepare, progress_console, resources, run_job, working
from medscore_assets.settings import Settings
from resources.errors import PermanentError

if TYPE_CHECKING:
    from medscore_assets.model_decisions import Decision
    from resources.registry import ModelRegistry, RegisteredVersion

training = typer.Typer(no_args_is_help=True, help="Models.")
models = typer.Typer(no_args_is_help=True, help="Registered models, and which of them scores.")

Name = Annotated[str, typer.Option("--name", help="The model family.")]
Reason = Annotated[str, typer.Option("--reason", help="Why, in words; kept for good. Name no patient.")]
By = Annotated[str | None, typer.Option("--by", help="Who decides. The default is who is logged in.")]
Rescore = Annotated[
    bool, typer.Option(help="Score the newest list again at once. Otherwise Dagster's sensor does it.")
]


@training.command("readmission")
def train_readmission(as_json: Json = False) -> None:
    """Train and evaluate the readmission model; if the gate passes it, it scores from then on."""
    from medscore_assets.readmission.scoring import MODEL
    from resources.registry import REFUSED_TAG

    settings = Settings()
    prepare(settings)
    run_job("readmission_training", "Training and evaluating the readmission model", "Model evaluated")
    _, registry = resources(settings)
    newest = registry.versions(MODEL)[0]
    print_models([newest], as_json)
    reasons = newest.tags.get(REFUSED_TAG)
    if not as_json:
        verdict = "[red]refused by the gate[/red]" if reasons else "[green]passed the gate[/green]"
        console.print(f"Version {newest.version} {verdict}.", highlight=False)
        console.print(f"Report: {report_page(settings, registry, MODEL, newest.version)}", soft_wrap=True)
    if reasons:
        raise PermanentError(
            f"the new model is not champion: {reasons.rstrip('.')}",
            where=f"{newest.name} version {newest.version}",
            mend="Read its report; more or other records may mend it.",
        )


@models.command("list")
def models_list(as_json: Json = False) -> None:
    """Every version of every registered model, newest first."""
    from medscore_assets.readmission.scoring import MODEL

    _, registry = resources(Settings())
    print_models(registry.versions(MODEL), as_json)


@models.command("promote")
def models_promote(
    version: Annotated[int, typer.Argument(min=1, help="The version that is to score.")],
    reason: Reason,
    name: Name = "readmission",
    by: By = None,
    override_gate: Annotated[
        bool, typer.Option("--override-gate", help="Although the gate refused it or never judged it.")
    ] = False,
    rescore: Rescore = True,
    as_json: Json = False,
) -> None:
    """Make a version champion by hand."""
    from medscore_assets.promotion import promote
    from medscore_assets.runs import instance

    settings = Settings()
    warehouse, registry = resources(settings)
    with working(f"Promoting version {version}", "Alias moved, decision kept"), instance() as shared:
        made = promote(
            warehouse,
            registry,
            shared,
            name,
            version,
            reason=reason,
            by=by or _user(),
            override_gate=override_gate,
        )
    _after(settings, made, rescore, as_json)


@models.command("rollback")
def models_rollback(
    reason: Reason,
    name: Name = "readmission",
    by: By = None,
    rescore: Rescore = True,
    as_json: Json = False,
) -> None:
    """Make the champion before the present one champion again."""
    from medscore_assets.promotion import rollback
    from medscore_assets.runs import instance

    settings = Settings()
    warehouse, registry = resources(settings)
    with working("Rolling back", "Alias moved, decision kept"), instance() as shared:
        made = rollback(warehouse, registry, shared, name, reason=reason, by=by or _user())
    _after(settings, made, rescore, as_json)


@models.command("history")
def models_history(name: Name = "readmission", as_json: Json = False) -> None:
    """Every decision about a model's versions, newest first: what, why, by whom."""
    from medscore_assets.families import family
    from medscore_assets.model_decisions import journal

    warehouse, _ = resources(Settings())
    decisions = journal(warehouse, family(name).name)[::-1]
    if as_json:
        print(json.dumps([decision.as_dict() for decision in decisions]))
        return
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    for heading in ("when (UTC)", "version", "champion", "by whom, and why"):
        table.add_column(heading, no_wrap=not heading.startswith("by"))
    for d in decisions:
        before, after = (v or "none" for v in (d.champion_before, d.champion_after))
        moved = f"{before}" if before == after else f"{before} → {after}"
        words = f"{d.decision.replace('_', ' ')} by {d.decided_by}: {d.reason}"
        table.add_row(f"{d.decided_at:%Y-%m-%d %H:%M}", str(d.model_version), moved, words)
    console.print(table)


@models.command("report")
def models_report(
    version: Annotated[int | None, typer.Option(min=1, help="Which; the default is the champion.")] = None,
    name: Name = "readmission",
    open_page: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
    as_json: Json = False,
) -> None:
    """Where a version's evaluation report is; fetched from the registry if it is not on this machine."""
    from medscore_assets.families import family

    settings = Settings()
    _, registry = resources(settings)
    wanted = version or registry.champion(family(name).name).version
    page = report_page(settings, registry, name, wanted)
    if as_json:
        print(json.dumps({"model": name, "version": wanted, "report": str(page)}))
    else:
        console.print(str(page), soft_wrap=True, highlight=False)
    if open_page:
        webbrowser.open(page.as_uri())


def report_page(settings: Settings, registry: ModelRegistry, name: str, version: int) -> Path:
    """The page of a version's report on this machine. Raises `PermanentError` if it was never evaluated."""
    from medscore_assets.readmission.judging import EVALUATION
    from medscore_assets.report.files import PAGE

    page = settings.home / "reports" / name / str(version) / PAGE
    if not page.exists():
        registry.attached(name, version, EVALUATION, page.parent)
    return page


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError) as error:
        raise PermanentError(
            "this account has no name", where="--by", mend="Say who decides: --by 'Your name'"
        ) from error


def _after(settings: Settings, made: Decision, rescore: bool, as_json: bool) -> None:
    """Score the newest result again if it is by another version, and say what was decided."""
    from medscore_assets.families import family

    of = family(made.model_name)
    if as_json:
        print(json.dumps(made.as_dict()))
    else:
        what = f"Version {made.model_version} {made.decision.replace('_', ' ')}"
        console.print(f"{what}. Champion: version {made.champion_after}.", highlight=False)
    warehouse, _ = resources(settings)
    newest = warehouse.read(of.newest_result).to_pylist()
    if not newest or newest[0]["model_version"] == made.champion_after:
        return
    key = newest[0]["partition_key"]
    if rescore:
        run_job(of.scoring_job, f"Scoring {key} again", f"{key} scored again", partition=key)
    else:
        progress_console.print(f"{key} is still by version {newest[0]['model_version']}.", highlight=False)


def print_models(versions: list[RegisteredVersion], as_json: bool) -> None:
    """A table of versions, one a line."""
    if as_json:
        print(json.dumps([v.as_dict() for v in versions], default=str))
        return
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    for heading in ("model", "alias", "created", "contract", "AUROC", "slope", "Brier"):
        table.add_column(heading, no_wrap=True)
    for v in versions:
        measures = (v.metrics.get(name) for name in ("auroc", "calibration_slope", "brier"))
        table.add_row(
            f"{v.name} {v.version}",
            ", ".join(v.aliases),
            f"{v.created_at:%Y-%m-%d}",
            v.tags.get("contract_hash", "")[:8],
            *("" if value is None else f"{value:.3f}" for value in measures),
        )
    console.print(table)
