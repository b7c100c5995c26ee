"""A backtest of wait-time models over two months: what it costs, and how the models came out.

Run: python -m benchmarks.wait_times_backtest [--days 60] [--all] [--json FILE]

It runs `medscore waits backtest` in this process, its libraries loaded: visits are read from PostgreSQL, six
weeks to learn from before the period among them, every model is fitted daily and asked at every tick, and the
outcomes are measured. Time of the processor is that of this process and of the database server together. The
departments are made up, and loaded beforehand. Without `--all` the nine models run that estimate by
themselves; with it, those too that calibrate others, as the command does unless a file of models says
otherwise: they, and what they learn from, run for a week of warm-up before.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.harness import Report
from benchmarks.own_database import cpu_of, own_settings, server_of
from medscore_assets.cli.waits import backtest
from medscore_assets.database import prepare
from medscore_assets.demo.emergency import simulate
from medscore_assets.settings import Settings
from medscore_assets.wait_times.backtest import LEARNING_DAYS, WARM_UP
from medscore_assets.wait_times.registry import load_models
from medscore_assets.wait_times.snapshot import HISTORY
from medscore_assets.wait_times.visit_loading import load_demo_visits
from resources.warehouse import Warehouse

SEED = 11
FIRST = date(2026, 1, 5)
DAYS, FACILITIES = 60, 6
MOST_SECONDS = 60
FEWEST_MODELS = 9
IMPORTS = ("xgboost", "statsmodels.tsa.api", "statsmodels.tsa.exponential_smoothing.ets", "pandas")
"""Loaded beforehand: a worker loads them once, not for each backtest."""


def main(arguments: list[str]) -> int:
    options = _options(arguments)
    report = Report(f"Backtest of {options.days} days of {options.facilities} emergency departments")
    report.figures = measure(report, options.days, options.facilities, everything=options.all)
    return report.finish(options.json)


def measure(
    report: Report, days: int = DAYS, facilities: int = FACILITIES, *, everything: bool = False
) -> dict[str, Any]:
    """Adds the goals to a report; the figures behind them."""
    for name in IMPORTS:
        importlib.import_module(name)
    first = FIRST + HISTORY + timedelta(days=LEARNING_DAYS) + WARM_UP
    last = first + timedelta(days=days - 1)
    with tempfile.TemporaryDirectory(prefix="medscore-benchmark-") as folder:
        settings = own_settings(Path(folder))
        warehouse = _loaded(settings, facilities, last)
        server = server_of(warehouse)
        with _told(settings, None if everything else _without_calibration(settings)):
            began, cpu, served = time.perf_counter(), time.process_time(), cpu_of(server)
            found = _run(first, last)
            wall = time.perf_counter() - began
            own, served = time.process_time() - cpu, cpu_of(server) - served
        warehouse.close()
    report.at_least("models of the backtest", len(found["models"]), FEWEST_MODELS, "")
    report.within("backtest, processor time, server included", own + served, 0, MOST_SECONDS, "s")
    report.within("backtest, on the clock", wall, 0, MOST_SECONDS, "s")
    report.within("models that failed in the backtest", len(found["faults"]), 0, 0, "")
    return {
        "facilities": facilities,
        "days": days,
        "wall_seconds": round(wall, 1),
        "own_cpu_seconds": round(own, 1),
        "server_cpu_seconds": round(served, 1),
        "models": [_rounded(row) for row in found["models"]],
    }


def _loaded(settings: Settings, facilities: int, last: date) -> Warehouse:
    """A warehouse with the visits of the period and of what comes before it."""
    databases = settings.databases()
    prepare(databases)
    warehouse = Warehouse(databases.warehouse)
    # Two more days, so that outcomes of the last one are known.
    made = simulate(facilities, FIRST, (last - FIRST).days + 3, SEED)
    load_demo_visits(warehouse, made.facilities, made.visits, replace=False)
    with warehouse.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("VACUUM ANALYZE")
    return warehouse


def _without_calibration(settings: Settings) -> Path:
    """A file with the models that are enabled, and no calibration around any."""
    names = [m.name for m in load_models(settings.wait_models_path).models if not m.outcomes_of()]
    file = settings.home / "models.toml"
    file.write_text(f"enabled = {json.dumps(names)}\n")
    return file


@contextlib.contextmanager
def _told(settings: Settings, models: Path | None) -> Iterator[None]:
    """The environment by which the command finds this home, and these models if not its own."""
    said = {"MEDSCORE_HOME": str(settings.home)}
    if models is not None:
        said["MEDSCORE_WAIT_MODELS_FILE"] = str(models)
    before = {name: os.environ.get(name) for name in said}
    os.environ.update(said)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _run(first: date, last: date) -> dict[str, Any]:
    """What the command prints."""
    first_day, last_day = (datetime.combine(day, datetime.min.time()) for day in (first, last))
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        backtest(first_day, last_day, as_json=True)
    document: dict[str, Any] = json.loads(printed.getvalue())
    return document


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    """The measures that rank a model, in minutes."""
    seconds = ("pinball_80", "pinball_50", "mae", "bias", "mean_posted")
    shares = ("coverage", "availability")
    return (
        {"model": row["model"], "version": row["version"], "n": row["n"]}
        | {name: round(row[name] / 60, 2) for name in seconds}
        | {name: round(row[name], 4) for name in shares}
    )


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--days", type=int, default=DAYS)
    parser.add_argument("--facilities", type=int, default=FACILITIES)
    parser.add_argument("--all", action="store_true", help="calibrated models too")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
