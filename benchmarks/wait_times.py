"""One tick of a hundred emergency departments, from PostgreSQL and back, beside the source document's loop.

Run: python -m benchmarks.wait_times [--facilities N] [--rounds N] [--document N] [--json FILE]

Ours: what the schedule's run does, without Dagster: every model of `models.toml` at the next tick, with fits
that were made before: read what is known, run, check, write predictions, boards and the tick in one
transaction, and ask for what the asset's checks tell. There are no outcomes yet, so calibrated models give
their base's value. The document's loop: nine models for each department in turn, once, on the same rows of
the same server, with linear algebra in one thread: more would cost it seven times as much on small matrices.
Both start with their libraries loaded. Time of the processor is that of this process and of the database
server together.

Then the same tick with a model behind HTTP that takes the request and never answers, on the clock. The
two-month backtest is `benchmarks/wait_times_backtest.py`; `--backtest` runs it as a part of the same report.
"""

from __future__ import annotations

import argparse
import importlib
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from benchmarks import document_waits, wait_times_backtest
from benchmarks.harness import Report
from benchmarks.own_database import cpu_of, own_settings, server_of
from medscore_assets import tables
from medscore_assets.database import prepare
from medscore_assets.demo.emergency import known_at, simulate
from medscore_assets.wait_times.assignment import Bootstrap
from medscore_assets.wait_times.backtest import EVERY
from medscore_assets.wait_times.checks import tick_results
from medscore_assets.wait_times.fitting import fit
from medscore_assets.wait_times.registry import load_models
from medscore_assets.wait_times.tick import Tick, latest_tick, make_tick
from medscore_assets.wait_times.visit_loading import load_demo_visits
from resources.warehouse import Warehouse

SEED = 11
DAYS = 16
"""Two weeks for the document's loop, and two days before."""
MOST_CPU_SECONDS = 2.0
MOST_WALL_SECONDS = 10.0
FEWEST_MODELS = 9
IMPORTS = ("xgboost", "statsmodels.tsa.api", "statsmodels.tsa.exponential_smoothing.ets", "httpx", "pandas")
HUNG = """
[[http]]
name = "hung"
url = "http://127.0.0.1:{port}"
allow_http = true
"""
"""With the time limit that an entry has unless it says otherwise."""


@dataclass(frozen=True)
class Cost:
    """Seconds on the clock, and of the processor in this process and in the server."""

    wall: float
    own_cpu: float
    server_cpu: float

    @property
    def cpu(self) -> float:
        """Of both."""
        return self.own_cpu + self.server_cpu


class Bench:
    """A warehouse with visits until now, and what a piece of work on it costs."""

    def __init__(self, home: Path, facilities: int) -> None:
        self.settings = own_settings(home)
        databases = self.settings.databases()
        prepare(databases)
        self.url = databases.warehouse
        self.warehouse = Warehouse(self.url)
        self._server = server_of(self.warehouse)
        self.last = latest_tick(datetime.now(UTC)) - EVERY
        first = self.last.date() - timedelta(days=DAYS)
        made = simulate(facilities, first, DAYS + 1, SEED)
        known = known_at(made.visits, self.last)
        load_demo_visits(self.warehouse, made.facilities, known, replace=False)
        self.facilities: list[str] = made.facilities["facility_id"].to_pylist()
        self.versions = known.num_rows
        with self.warehouse.engine.connect() as connection:
            isolated = connection.execution_options(isolation_level="AUTOCOMMIT")
            isolated.execute(sa.text("VACUUM ANALYZE"))

    def cost(self, work: Callable[[], Any]) -> Cost:
        """What one run of it takes."""
        wall, own, server = time.perf_counter(), time.process_time(), cpu_of(self._server)
        work()
        return Cost(
            time.perf_counter() - wall, time.process_time() - own, max(0.0, cpu_of(self._server) - server)
        )

    def tick(self, as_of: datetime, models: Path | None = None) -> Tick:
        """What a run of the schedule does: models looked up, the tick made, its checks asked."""
        registry = load_models(models or self.settings.wait_models_path)
        default = Bootstrap(self.settings.wait_model, self.settings.wait_model_version)
        made = make_tick(self.warehouse, as_of, registry, default=default, run_id="benchmark", now=as_of)
        list(tick_results(self.warehouse, made))
        return made

    def fit(self, at: datetime) -> None:
        """What the daily run does, with the days that there are."""
        fit(self.warehouse, at, load_models(self.settings.wait_models_path), run_id="benchmark")


def main(arguments: list[str]) -> int:
    options = _options(arguments)
    for name in IMPORTS:
        importlib.import_module(name)
    report = Report(f"A tick of {options.facilities} emergency departments")
    with tempfile.TemporaryDirectory(prefix="medscore-benchmark-") as folder:
        bench = Bench(Path(folder), options.facilities)
        _measure(bench, report, options, Path(folder))
        bench.warehouse.close()
    if options.backtest:
        report.figures["backtest"] = wait_times_backtest.measure(report)
    return report.finish(options.json)


def _measure(bench: Bench, report: Report, options: argparse.Namespace, folder: Path) -> None:
    # Ticks in the order of time, each made once: another one to warm up, and one with the hung model.
    moments = [bench.last - EVERY * number for number in reversed(range(options.rounds + 2))]
    fitting = bench.cost(lambda: bench.fit(moments[0]))
    made = [bench.tick(moments[0])]
    costs = [bench.cost(lambda at=at: made.append(bench.tick(at))) for at in moments[1:-1]]  # type: ignore[misc]
    with _hanging() as port:
        models = folder / "models.toml"
        models.write_text(bench.settings.wait_models_path.read_text() + HUNG.format(port=port))
        hung = bench.cost(lambda: made.append(bench.tick(moments[-1], models)))
    rows = bench.warehouse.read(
        sa.select(sa.func.count()).select_from(tables.wait_time_predictions)
    ).to_pylist()
    assert list(rows[0].values()) == [sum(tick.written for tick in made)], "each tick's rows are there once"
    assert set(made[-1].problems) == {"hung 0.0.0"}, made[-1].problems

    ran = len(made[1].latency_ms)
    report.at_least("models", ran, FEWEST_MODELS, "")
    report.within("processor time of a tick, median", _median(costs, "cpu"), 0, MOST_CPU_SECONDS, "s")
    report.within("a tick with one hung HTTP model, on the clock", hung.wall, 0, MOST_WALL_SECONDS, "s")
    report.figures = {
        "facilities": options.facilities,
        "versions_of_visits": bench.versions,
        "visits_in_snapshot": made[1].visits,
        "rows_per_tick": made[1].rows,
        "share_with_value": round(made[1].with_value / made[1].rows, 4),
        "tick": {name: _spread(costs, name) for name in ("cpu", "own_cpu", "server_cpu", "wall")},
        "tick_with_hung_model": {"wall": round(hung.wall, 2), "cpu": round(hung.cpu, 2)},
        "latency_ms_by_model": {name: round(ms, 1) for name, ms in made[-2].latency_ms.items()},
        f"fit_of_{DAYS}_days": {"wall": round(fitting.wall, 1), "cpu": round(fitting.cpu, 1)},
    }
    if options.document:
        _document(bench, report, options.document, _median(costs, "cpu"))


def _document(bench: Bench, report: Report, departments: int, ours: float) -> None:
    with bench.warehouse.transaction() as connection:
        connection.execute(document_waits.TABLE)
    some = bench.facilities[:departments]
    saved: list[int] = []
    with threadpool_limits(1, user_api="blas"):
        cost = bench.cost(lambda: saved.append(document_waits.main(bench.url, some)))
    everywhere = cost.cpu * len(bench.facilities) / len(some)
    report.figures["document"] = {
        "models": len(document_waits.Model.get_concrete_models()),
        "departments": len(some),
        "predictions": saved[0],
        "cpu": round(cost.cpu, 2),
        "wall": round(cost.wall, 2),
        "cpu_at_all_departments": round(everywhere, 1),
        "times_the_processor_time_of_ours": round(everywhere / ours, 1),
    }


@contextmanager
def _hanging() -> Iterator[int]:
    """The port of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def _median(costs: list[Cost], name: str) -> float:
    return float(statistics.median(getattr(cost, name) for cost in costs))


def _spread(costs: list[Cost], name: str) -> dict[str, float]:
    values = [getattr(cost, name) for cost in costs]
    return {
        "min": round(min(values), 3),
        "median": round(_median(costs, name), 3),
        "max": round(max(values), 3),
    }


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--facilities", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--document", type=int, default=100, help="departments of the document's loop")
    parser.add_argument("--backtest", action="store_true", help="the backtest of two months as well")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
