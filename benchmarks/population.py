"""The quarterly report against the source document's script: 4.2 million members, from table to cubes.

    python -m benchmarks.population [--json PATH] [--members N] [--rounds N]

Members are generated once into an embedded PostgreSQL of the benchmark's own. Each contender then runs in a
fresh process on the same table and the same booster, in turn, so that a peak of memory is its own. CPU is
that of the process and of the server together. Imports and the start of an interpreter are outside of the
measured time on both sides, loading the model is within; memory is the peak of the whole process.

Ours asks the registry for the champion, reads, checks, scores and counts every member, writes the cells of
ten cubes with intervals and withheld small cells in one transaction, and a CSV per cube. The report's Parquet
and PDF are not made, and Dagster is outside. The document's script computes the mean risk of one cube and
prints ten rows. Beside them the floors: the bare read of the columns by the platform's reader, and the bare
prediction of every member from a matrix that lies ready, on all cores. (Members whom no tree tells apart ours
scores once.)
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import joblib
import psutil
import sqlalchemy as sa
import typer

from benchmarks.harness import Report, console
from benchmarks.outreach import _joblib_model, _register_demo_model
from benchmarks.own_database import cpu_of, own_settings, server_of
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.database import prepare
from medscore_assets.definitions import default_resources
from medscore_assets.demo.members import SOURCE, members
from medscore_assets.member_loading import load_members
from medscore_assets.readmission.policy import load_policy
from medscore_assets.readmission.population import queries
from medscore_assets.readmission.population.quarters import Quarter
from medscore_assets.readmission.scoring import MODEL, ReadmissionModel
from medscore_assets.settings import PROJECT_ROOT, Settings
from resources.warehouse import Warehouse

QUARTER = Quarter(2026, 3)
TIMES_FASTER = 5.0
MOST_MEGABYTES = 500.0
MILLION = 1_000_000


def main(
    json_path: Annotated[Path | None, typer.Option("--json")] = None,
    number: Annotated[int, typer.Option("--members", min=1_000)] = 4_200_000,
    rounds: Annotated[int, typer.Option(min=1)] = 1,
    contender: Annotated[str, typer.Option(hidden=True)] = "",
    home: Annotated[Path, typer.Option(hidden=True)] = Path(),
    server: Annotated[int, typer.Option(hidden=True)] = 0,
) -> None:
    """Measures and reports; exits with 1 when a goal is missed."""
    if contender:
        print(json.dumps(_measured(contender, Settings(home=home), psutil.Process(server))))
        return
    with tempfile.TemporaryDirectory(prefix="medscore-benchmark-") as folder:
        report = _measure(own_settings(Path(folder)), number, rounds)
    raise typer.Exit(report.finish(json_path))


def _measure(settings: Settings, number: int, rounds: int) -> Report:
    report = Report(f"{number:,} members scored and summarised")
    began = time.perf_counter()
    _prepare(settings, number)
    report.figures["generating_and_loading_s"] = round(time.perf_counter() - began, 1)
    server = server_of(default_resources(settings)["warehouse"])
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
    for _ in range(rounds):
        for name in CONTENDERS:
            runs[name].append(_in_a_process(name, settings.home, server))
            console.print(name, runs[name][-1])
    for name, measured in runs.items():
        report.figures[name] = {key: [run[key] for run in measured] for key in measured[0]}
    ours, document = runs["ours"], runs["document"]
    for what, key in (("wall", "wall_s"), ("CPU, server included", "cpu_s")):
        ratios = [d[key] / o[key] for d, o in zip(document, ours, strict=True)]
        report.at_least(
            f"document / ours, {what}",
            statistics.median(ratios),
            TIMES_FASTER if key == "wall_s" else 1.0,
            "times",
        )
    report.within("peak memory of ours", max(r["peak_mb"] for r in ours), 0, MOST_MEGABYTES, "MB")
    return report


def _prepare(settings: Settings, number: int) -> None:
    """Databases, a champion with the document's copy of it, and the members."""
    prepare(settings.databases())
    resources = default_resources(settings)
    _register_demo_model(resources["registry"], load_policy().hash, settings.home / "trained")
    _joblib_model(resources["registry"], settings.home / "readmission_model.joblib")
    loaded = load_members(
        resources["warehouse"],
        QUARTER,
        members(number, QUARTER, 1),
        source=SOURCE,
        as_of=datetime(2026, 11, 15, tzinfo=UTC),
        replace=False,
    )
    assert loaded == number
    with resources["warehouse"].engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(sa.text("CHECKPOINT"))


def _in_a_process(contender: str, home: Path, server: psutil.Process) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.population", "--contender", contender, "--home", str(home)]
    command += ["--server", str(server.pid)]
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{contender}: {done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found | {"cpu_s": round(found["process_cpu_s"] + found["server_cpu_s"], 2)}


def _measured(contender: str, settings: Settings, server: psutil.Process) -> dict[str, Any]:
    work = CONTENDERS[contender](settings)
    wall, cpu, served = time.perf_counter(), time.process_time(), cpu_of(server)
    counted = work()
    return {
        "wall_s": round(time.perf_counter() - wall, 2),
        "process_cpu_s": round(time.process_time() - cpu, 2),
        "server_cpu_s": round(cpu_of(server) - served, 2),
        "peak_mb": round(_peak_kilobytes() / 1024),
        "rows": counted,
    }


def _peak_kilobytes() -> int:
    """Of this program: `ru_maxrss` would remember the process that it was forked from."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise RuntimeError("the kernel does not tell the peak of memory")


def _model(settings: Settings, threads: int = 1) -> ReadmissionModel:
    stored = default_resources(settings)["registry"].champion(MODEL)
    return ReadmissionModel.load(stored.directory, READMISSION, threads=threads)


def _ours(settings: Settings) -> Callable[[], int]:
    from medscore_assets.readmission.population.files import published_cells
    from medscore_assets.readmission.population.publish import publish_summary
    from medscore_assets.report.population import cells, tables

    warehouse = default_resources(settings)["warehouse"]
    # What is imported only on first use is outside of the measure, as with the document's.
    _model(settings)

    def run() -> int:
        model = _model(settings)
        made = publish_summary(warehouse, QUARTER, model, 1, load_policy())
        shown = cells.checked(published_cells(warehouse, QUARTER))
        for cube in cells.cubes(shown):
            (settings.home / tables.file_name(cube)).write_bytes(tables.cube_csv(shown, cube))
        return int(made.header["rows"])

    return run


def _document(settings: Settings) -> Callable[[], int]:
    from benchmarks.document_population import score_members

    url = settings.databases().warehouse
    file = settings.home / "readmission_model.joblib"
    # What it imports only on first use is outside of the measure.
    joblib.load(file)
    return lambda: int(score_members(url, file)["total_members"].sum())


def _reading(settings: Settings) -> Callable[[], int]:
    warehouse: Warehouse = default_resources(settings)["warehouse"]
    return lambda: sum(batch.num_rows for batch in warehouse.stream(queries.members(QUARTER)))


def _predicting(settings: Settings) -> Callable[[], int]:
    import numpy as np
    import pyarrow as pa

    warehouse = default_resources(settings)["warehouse"]
    model = _model(settings, threads=os.cpu_count() or 1)
    names = list(READMISSION.feature_names)
    pieces = []
    for batch in warehouse.stream(queries.members(QUARTER)):
        encoded = READMISSION.encode(pa.Table.from_batches([batch]).select(names))
        pieces.append(encoded.matrix[encoded.valid])
    matrix = np.concatenate(pieces)
    return lambda: len(model.score(matrix))


CONTENDERS: dict[str, Callable[[Settings], Callable[[], int]]] = {
    "floor_reading": _reading,
    "floor_predicting": _predicting,
    "ours": _ours,
    "document": _document,
}


if __name__ == "__main__":
    typer.run(main)
