"""Mobility forecasts for 100,000 patients, from records to forecasts, against the source document's plan.

    python -m benchmarks.mobility [--json PATH] [--full] [--patients N] [--days N] [--raw-days N] ...

Each part runs in a fresh process on the files of those before it, so that its CPU seconds and its peak of
memory are its own. Rates are per CPU-second, of all threads and of what the process started; a wall time
holds for a machine that does nothing else. Patients, records and daily rows are made up
(`medscore demo steps`); the last part is 33 real people. What serves them is chosen on the rows on which it
is then held against the best simple forecast: that holds by construction, and tells nothing of other days.

`--full` is the document's plan: 100,000 patients x 1,089 days of daily rows to features really run, and at
least 500 million records really read, scaled to 8 billion. It takes some twelve gigabytes of disk and cleans
up. The plan's features are made by what the platform runs, checks and files included; what of that is
computing is measured beside it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import mobility_document as document
from benchmarks.harness import Report, console
from benchmarks.mobility_lake import megabytes
from benchmarks.mobility_parts import PARTS, Sizes, arguments
from benchmarks.mobility_people import source
from medscore_assets.mobility.baselines import EXPANDING, SAME_WEEKDAY, SEVEN_DAYS, YESTERDAY
from medscore_assets.mobility.preparing import MOST_DAYS_AT_ONCE
from medscore_assets.mobility.training_set import LATER_DATES
from medscore_assets.settings import PROJECT_ROOT
from resources.errors import PermanentError

MILLION = 1e6
FULL_RECORDS = 500 * MILLION
FULL_RAW_DAYS = 76
RECORDS_PER_DAY = document.RECORDS_PER_PATIENT / document.DAYS
BYTES = {"record": 4.0, "daily row": 10.0, "feature row": 170.0}
"""On disk, rounded up, to tell before whether there is room."""

SIMPLE = (YESTERDAY, SAME_WEEKDAY, SEVEN_DAYS, EXPANDING)
"""What is served must not be worse than: single naive forecasts, not combined ones."""

Json = Annotated[Path | None, typer.Option("--json")]


@dataclass(frozen=True, slots=True)
class Bound:
    """A goal on a figure, or on a quotient of two, of one part."""

    what: str
    part: str
    over: str
    under: str | None
    bound: float
    unit: str
    at_least: bool


GOALS = (
    Bound("records generated per CPU-second", "generate", "records", "generate_cpu_s", 2.5e6, "", True),
    Bound("records to daily per CPU-second", "daily", "records", "daily_cpu_s", 9e6, "", True),
    Bound("feature rows computed per CPU-second", "features", "rows", "features_cpu_s", 150e3, "", True),
    Bound("one day's features", "one_day", "one_day_wall_s", None, 10, "s", False),
    Bound("one day's forecasts, end to end", "forecasts", "forecasts_wall_s", None, 10, "s", False),
    Bound("a stored forecast, 99 of 100 requests", "api", "stored_p99_ms", None, 20, "ms", False),
    Bound("a forecast on demand, 99 of 100", "api", "on_demand_p99_ms", None, 100, "ms", False),
)


def main(
    json_path: Json = None,
    full: Annotated[bool, typer.Option("--full", help="The document's whole plan.")] = False,
    patients: Annotated[int, typer.Option(min=100)] = document.PATIENTS,
    days: Annotated[int, typer.Option(min=60, help="Days of daily rows.")] = 120,
    raw_patients: Annotated[int, typer.Option(min=100)] = document.PATIENTS,
    raw_days: Annotated[int, typer.Option(min=2, help="Days of records.")] = 5,
    training_rows: Annotated[int, typer.Option(min=1_000, help="Rows of each cohort.")] = 50_000,
    memory: Annotated[str | None, typer.Option(help="Memory for DuckDB and for Spark, such as 8GB.")] = "8GB",
    without: Annotated[list[str] | None, typer.Option(help="A part to leave out.")] = None,
    scratch: Annotated[Path | None, typer.Option(help="Where the files lie meanwhile.")] = None,
) -> None:
    """Measures and reports; exits with 1 when a goal is missed."""
    if unknown := set(without or ()) - set(PARTS):
        raise typer.BadParameter(f"the parts are {', '.join(PARTS)}; not {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory(prefix="medscore-benchmark-", dir=scratch) as folder:
        # The embedded server runs under another account where this one is root.
        Path(folder).chmod(0o755)
        sizes = Sizes(
            folder=folder,
            patients=document.PATIENTS if full else patients,
            days=document.DAYS if full else days,
            raw_patients=document.PATIENTS if full else raw_patients,
            raw_days=FULL_RAW_DAYS if full else raw_days,
            training_rows=training_rows,
            memory=memory,
        )
        report = _measure(sizes, full, set(without or ()))
    raise typer.Exit(report.finish(json_path))


def _measure(sizes: Sizes, full: bool, without: set[str]) -> Report:
    _require_room(sizes)
    report = Report(f"Mobility forecasts for {sizes.patients:,} patients")
    report.figures["sizes"] = {name: getattr(sizes, name) for name in sizes.__slots__ if name != "folder"}
    found: dict[str, dict[str, Any]] = {}
    most = 0.0
    for part in PARTS:
        if part in without:
            continue
        if part == "people" and not source().exists():
            console.print(f"no file of minutes at {source()}: left out")
            continue
        if part == "spark" and find_spec("pyspark") is None:
            console.print("the extra spark is not installed: left out")
            continue
        found[part] = _run(part, sizes)
        most = max(most, megabytes(Path(sizes.folder)) + found[part].get("most_features_on_disk_mb", 0))
        console.print(part, found[part])
    report.figures |= found | {"most_disk_mb": round(most)}
    _judge(report, found, full)
    return report


def _run(part: str, sizes: Sizes) -> dict[str, Any]:
    """A part in a process of its own."""
    done = subprocess.run(
        arguments(part, sizes), cwd=PROJECT_ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{part}: {done.stderr[-3000:]}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _judge(report: Report, found: dict[str, dict[str, Any]], full: bool) -> None:
    for goal in GOALS:
        if goal.part not in found:
            continue
        figures = found[goal.part]
        value = figures[goal.over] / (figures[goal.under] if goal.under else 1)
        if goal.at_least:
            report.at_least(goal.what, value, goal.bound, goal.unit)
        else:
            report.within(goal.what, value, 0, goal.bound, goal.unit)
    if {"daily", "rows", "backfill"} <= set(found):
        _plan(report, found, full)
    if "forecasts" in found:
        took, rows = found["forecasts"]["forecasts_wall_s"], found["forecasts"]["patients"]
        hours = took * document.PATIENTS / rows / 3600
        report.figures["document / ours, forecasts of everybody"] = round(document.forecast_hours() / hours)
    if "spark" in found and {"daily", "one_day"} <= set(found):
        report.figures["Spark / DuckDB, CPU of the same day"] = _beside(found)
    if "people" in found:
        _people(report, found["people"])


def _plan(report: Report, found: dict[str, dict[str, Any]], full: bool) -> None:
    """The document's plan in vCPU-hours; a goal where all of its patient-days were really run."""
    daily, rows, backfill = found["daily"], found["rows"], found["backfill"]
    records, patient_days = daily["records"], rows["daily_rows"]
    from_days = rows["rollups_cpu_s"] + backfill["backfill_cpu_s"]
    hours = document.scaled_vcpu_hours(daily["daily_cpu_s"], records, from_days, patient_days)
    report.figures["plan"] = {
        "records_read": records,
        "records_of_the_plan": document.RECORDS,
        "records_vcpu_hours": round(daily["daily_cpu_s"] * document.RECORDS / records / 3600, 3),
        "rollups_and_features_vcpu_hours": round(from_days / 3600, 4),
        "patient_days_run": patient_days,
        "vcpu_hours": round(hours, 3),
        "document_vcpu_hours": document.pipeline_vcpu_hours(),
    }
    if full:
        report.at_least("records really read", records, FULL_RECORDS, "")
        report.within("the document's plan", hours, 0, 0.5, "vCPU-hours")


def _beside(found: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Spark's CPU seconds over DuckDB's, for one day of records and one day of features."""
    return {
        "records to daily": round(found["spark"]["daily_cpu_s"] / found["daily"]["expression_cpu_s"], 1),
        "daily to features": round(
            found["spark"]["one_day_cpu_s"] / found["one_day"]["one_day_computed_cpu_s"], 1
        ),
    }


def _people(report: Report, found: dict[str, Any]) -> None:
    """What serves must not be worse on later dates than the simple forecast that is best there.

    The choice is made by the same errors on the same rows, so this holds by construction: it watches the
    rule, and says nothing of how well the choice does on other days.
    """
    for horizon in ("1 d", "7 d"):
        told = found[horizon]
        what = f"Fitabase, {horizon}, later dates: error of {told['serves']} / of the best simple forecast"
        report.within(what, _share(told, (LATER_DATES,)), 0, 1, "")


def _share(told: dict[str, Any], of_sets: tuple[str, ...]) -> float:
    """The error of what serves over that of the best simple forecast, on the rows of some sets."""

    def error(name: str) -> float:
        return sum(float(told["mae"][of_set][name][0]) * told["rows"][of_set] for of_set in of_sets)

    return error(told["serves"]) / min(error(name) for name in SIMPLE)


def _require_room(sizes: Sizes) -> None:
    """Raises `PermanentError` if the disk has no room for the files."""
    of_a_pass = sizes.patients * min(sizes.days, MOST_DAYS_AT_ONCE)
    needed = (
        sizes.raw_patients * sizes.raw_days * RECORDS_PER_DAY * BYTES["record"]
        + sizes.patients * sizes.days * BYTES["daily row"]
        + of_a_pass * BYTES["feature row"]
    )
    free = shutil.disk_usage(sizes.folder).free
    if free < 2 * needed:
        raise PermanentError(
            f"the benchmark needs {2 * needed / 1e9:.1f} GB of disk, spilling included, of "
            f"{free / 1e9:.1f} that are free",
            where=sizes.folder,
            mend="Give a folder on another disk with --scratch, or smaller sizes.",
        )


if __name__ == "__main__":
    typer.run(main)
