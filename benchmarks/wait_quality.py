"""How good the wait-time models are on simulated departments, over five seeds, and on posted waits.

Run: python -m benchmarks.wait_quality [--seed N ...] [--posted FILE] [--json FILE]

Belongs here: the goals of quality, and the figures behind them. Does not belong here: cost
(`wait_times.py`, `wait_times_backtest.py`).

Each seed: six departments, six weeks to learn from, a week of warm-up (calibration needs outcomes) and 28
days that are judged, by the headline (CTAS 3 to 5). Errors are of the patients for whom every model has a
value, coverage is of all whom a model told a wait. Figures are means over departments, so that a large one
does not decide. Shifts, arrivals and shocks are made up, and the physics of one queue flatters models of
queues: the order of models is meant, not the size of their errors.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc
from rich.table import Table

from benchmarks.harness import Report, console
from medscore_assets.demo.emergency import simulate
from medscore_assets.wait_times.backtest import LEARNING_DAYS, WARM_UP, backtest
from medscore_assets.wait_times.bands import ALL_POSTED
from medscore_assets.wait_times.comparison import matched
from medscore_assets.wait_times.evaluation import score
from medscore_assets.wait_times.importers.posted_waits import read_posted_waits
from medscore_assets.wait_times.importers.records import Report as Refusals
from medscore_assets.wait_times.posted_experiment import posted_wait_experiment
from medscore_assets.wait_times.registry import load_models
from medscore_assets.wait_times.visits import Visits

SEEDS = (11, 12, 13, 14, 15)
"""Declared before anything was measured on them."""
FIRST = date(2026, 1, 5)
FACILITIES = 6
DAYS = 28

DOCUMENT, AVERAGE, FLUID = "document_moving_average", "moving_average_60", "queue_fluid"
QUANTILES = ("quantile_boosting", "quantile_boosting_calibrated")
"""The quantile model, as it is and calibrated."""
AVERAGE_BETTER, FLUID_BETTER = 0.15, 0.25
COVERAGE = (0.78, 0.82)

POSTED_ZONE = "America/Toronto"
_MINUTES = ("pinball_80", "mae", "bias", "mean_posted")
MEASURES = (*_MINUTES, "coverage")

Measured = Mapping[str, Mapping[str, Mapping[str, float]]]
"""By model, then by facility, then by measure; minutes and shares."""


def main(arguments: list[str]) -> int:
    options = _options(arguments)
    report = Report("Quality of wait-time models")
    found = {}
    for seed in options.seed or SEEDS:
        found[seed] = measured(seed)
        console.print(_table(seed, found[seed]))
        _judge(report, seed, found[seed])
    report.figures = {"seeds": {str(seed): _means(models) for seed, models in found.items()}}
    report.figures["coverage_by_department"] = {
        name: {
            str(seed): [round(one["coverage"], 4) for one in models[name].values()]
            for seed, models in found.items()
        }
        for name in next(iter(found.values()))
        if name.endswith("_calibrated")
    }
    if options.posted:
        report.figures["posted"] = _posted(options.posted)
    return report.finish(options.json)


def measured(seed: int) -> Measured:
    """What every registered model made of the 28 days."""
    days = LEARNING_DAYS + WARM_UP.days + DAYS
    # Two more, so that outcomes of the last day are known.
    simulated = simulate(FACILITIES, FIRST, days + 2, seed)
    columns = (simulated.facilities[name].to_pylist() for name in ("facility_id", "zone"))
    zones = dict(zip(*columns, strict=True))
    models = load_models()
    if models.failures:
        raise SystemExit(f"Models that cannot run: {models.failures}")
    start = datetime.combine(FIRST, datetime.min.time(), UTC) + timedelta(days=LEARNING_DAYS) + WARM_UP
    last = start + timedelta(days=DAYS)
    result = backtest(Visits.of(simulated.visits), models.models, tuple(zones), zones, start, last)
    if result.faults:
        raise SystemExit(f"Models that failed: {result.faults}")
    headline = result.attributed.filter(pc.equal(result.attributed["band"].cast(pa.string()), ALL_POSTED))
    by = ("model", "facility_id")
    # Coverage is a promise to all whom a model told a wait; errors are compared on the same patients.
    promised = {
        (row["model"], row["facility_id"]): row["coverage"] for row in score(headline, by).to_pylist()
    }
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row in score(matched(headline), by).to_pylist():
        shares = {"coverage": promised[row["model"], row["facility_id"]], "patients": row["n"]}
        minutes = {name: row[name] / 60 for name in (*_MINUTES, "pinball_50")}
        found.setdefault(row["model"], {})[row["facility_id"]] = minutes | shares
    return found


def _judge(report: Report, seed: int, models: Measured) -> None:
    mae = {name: _mean(models[name], "mae") for name in models}
    loss = {name: _mean(models[name], "pinball_80") for name in models}
    report.at_least(
        f"{seed}: {AVERAGE} better than {DOCUMENT}, MAE", 1 - mae[AVERAGE] / mae[DOCUMENT], AVERAGE_BETTER, ""
    )
    report.at_least(
        f"{seed}: {FLUID} better than {AVERAGE}, MAE", 1 - mae[FLUID] / mae[AVERAGE], FLUID_BETTER, ""
    )
    others = min(value for name, value in loss.items() if name not in QUANTILES)
    report.at_least(
        f"{seed}: the worse of {' and '.join(QUANTILES)} better than any other, pinball loss at 0.8",
        1 - max(loss[name] for name in QUANTILES) / others,
        0.0,
        "",
    )
    for name in sorted(models):
        if name.endswith("_calibrated"):
            for facility, values in models[name].items():
                report.within(f"{seed}: coverage of {name} at {facility}", values["coverage"], *COVERAGE, "")


def _mean(of_facilities: Mapping[str, Mapping[str, float]], measure: str) -> float:
    return statistics.fmean(values[measure] for values in of_facilities.values())


def _means(models: Measured) -> dict[str, dict[str, float]]:
    return {
        name: {measure: round(_mean(found, measure), 3) for measure in (*MEASURES, "pinball_50")}
        for name, found in models.items()
    }


def _table(seed: int, models: Measured) -> Table:
    table = Table(
        "model", *MEASURES, "least and most coverage", title=f"Seed {seed}: means over departments, minutes"
    )
    for name in sorted(models, key=lambda model: _mean(models[model], "pinball_80")):
        shares = [values["coverage"] for values in models[name].values()]
        means = (_mean(models[name], measure) for measure in MEASURES)
        cells = (
            f"{m:.1%}" if name_ == "coverage" else f"{m:.1f}"
            for name_, m in zip(MEASURES, means, strict=True)
        )
        table.add_row(name, *cells, f"{min(shares):.1%} to {max(shares):.1%}")
    return table


def _posted(file: Path) -> dict[str, Any]:
    """Models that fit a series of posted waits against carrying it forward, as measured."""
    series = read_posted_waits(file, ZoneInfo(POSTED_ZONE), Refusals(), unit="hours")
    found = posted_wait_experiment(series)
    ahead = sorted({one.minutes_ahead for one in found.scores})
    for facility in found.tested_from:
        table = Table(
            "model", *(f"{minutes} min ahead" for minutes in ahead), title=f"{facility}: MAE, minutes"
        )
        rows: dict[str, list[str]] = {}
        for one in found.scores:
            if one.facility_id == facility:
                cell = f"{one.mae:.1f} ({one.against_baseline:+.0%})"
                rows.setdefault(one.model, []).append(cell)
        for model, cells in rows.items():
            table.add_row(model, *cells)
        console.print(table)
    return found.as_dict()


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, action="append", help="only these; may be given again")
    parser.add_argument("--posted", type=Path, help="CSV of posted waits in hours, as of London (Ontario)")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
