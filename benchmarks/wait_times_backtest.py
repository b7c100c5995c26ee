"""A backtest of wait-time models over two months: what it costs, and how the models came out.

Run: python -m benchmarks.wait_times_backtest [--days 60] [--all] [--json FILE]

The departments are made up. Without `--all` the models run that estimate by themselves; with it, those too
that calibrate others, which need a week of warm-up more.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.harness import Report, timed
from medscore_assets.demo.emergency import SimulatedVisits, simulate
from medscore_assets.wait_times.backtest import LEARNING_DAYS, WARM_UP, BacktestResult, backtest
from medscore_assets.wait_times.comparison import leaderboard
from medscore_assets.wait_times.model import Model
from medscore_assets.wait_times.registry import load_models
from medscore_assets.wait_times.visits import Visits

SEED = 11
FIRST = date(2026, 1, 5)
MOST_SECONDS = 60
FEWEST_MODELS = 9
IMPORTS = ("xgboost", "statsmodels.tsa.api")
"""Loaded beforehand: a worker loads them once, not for each backtest."""


def main(arguments: list[str]) -> int:
    options = _options(arguments)
    report = Report(f"Backtest of {options.days} days of {options.facilities} emergency departments")
    for name in IMPORTS:
        importlib.import_module(name)
    models = _models(options.all)
    warm_up = WARM_UP if options.all else timedelta(0)
    start = datetime.combine(FIRST, datetime.min.time(), UTC) + timedelta(days=LEARNING_DAYS) + warm_up
    # Two more, so that outcomes of the last day are known.
    days = LEARNING_DAYS + warm_up.days + options.days + 2
    simulated = simulate(options.facilities, FIRST, days, SEED)
    found: list[BacktestResult] = []

    def run() -> None:
        visits, zones = Visits.of(simulated.visits), _zones(simulated)
        last = start + timedelta(days=options.days)
        found.append(backtest(visits, models, tuple(zones), zones, start, last, warm_up=warm_up))

    timing = timed(run)
    (result,) = found
    report.at_least("models", len(result.predictions["model"].unique()), FEWEST_MODELS, "")
    report.within("processor time", timing.cpu, 0, MOST_SECONDS, "s")
    report.within("models that failed", len(result.faults), 0, 0, "")
    report.figures = {
        "facilities": options.facilities,
        "days": options.days,
        "wall_seconds": round(timing.wall, 1),
        "predictions": len(result.predictions),
        "attributed": len(result.attributed),
        "seconds_by_model": {
            model: round(seconds, 2) for (model, _), seconds in sorted(result.seconds.items())
        },
        "leaderboard": _rows(leaderboard(result.attributed, result.predictions)),
    }
    return report.finish(options.json)


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--days", type=int, default=60)
    parser.add_argument("--facilities", type=int, default=6)
    parser.add_argument("--all", action="store_true", help="calibrated models too")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(arguments)


def _models(everything: bool) -> list[Model]:
    registry = load_models()
    if registry.failures:
        raise SystemExit(f"Models that cannot run: {registry.failures}")
    return [model for model in registry.models if everything or not model.name.endswith("_calibrated")]


def _zones(simulated: SimulatedVisits) -> dict[str, str]:
    columns = (simulated.facilities[name].to_pylist() for name in ("facility_id", "zone"))
    return dict(zip(*columns, strict=True))


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    """The measures that rank models, in minutes."""
    seconds = ("pinball_80", "pinball_50", "mae", "bias", "mean_posted", "mean_change")
    shares = ("coverage", "availability", "jumps")
    return [
        {"model": row["model"], "version": row["version"], "n": row["n"]}
        | {name: round(row[name] / 60, 2) for name in seconds}
        | {name: round(row[name], 4) for name in shares}
        for row in table.to_pylist()
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
