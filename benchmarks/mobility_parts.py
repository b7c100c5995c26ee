"""The parts of the mobility benchmark, each run in a fresh process on what the parts before it left.

    python -m benchmarks.mobility_parts PART SIZES

Prints one JSON object: the part's own figures, wall and CPU seconds of its measured work, and the peak memory
of its process with its children (Spark's JVM is one).

Belongs here: the work of each part and what it counts. Does not belong here: goals and the order of the parts
(`mobility.py`), the lakes (`mobility_lake.py`), requests (`mobility_api.py`), real people
(`mobility_people.py`).
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil

from benchmarks import mobility_api, mobility_people
from benchmarks.mobility_lake import bytes_per_row, megabytes, records_in, write_daily_rows
from medscore_assets.demo.steps import StepPlan, write
from medscore_assets.mobility.daily import DAILY_STEPS, write_daily
from medscore_assets.mobility.engines import Engine, EngineOptions, connect
from medscore_assets.mobility.forecasts import PATIENT_FEATURES
from medscore_assets.mobility.raw import PATIENTS, RAW_STEPS
from resources.lake import Lake

LAST_DAY = date(2025, 12, 25)
SEED = 20260101
AS_OF = datetime(2026, 2, 1, tzinfo=UTC)
DAY = timedelta(days=1)
SPARK_DAY = LAST_DAY - DAY
"""Whose records more than one engine takes."""
COMPUTED_DAYS = 30
"""Days before the last whose features are computed, and no more than that."""
TRAINING_DAYS = 90
"""Days before the last whose features models are fitted on."""
Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured, and where: `folder` holds the lakes."""

    folder: str
    patients: int
    days: int
    raw_patients: int
    raw_days: int
    training_rows: int
    memory: str | None

    @property
    def raw_lake(self) -> Lake:
        """Where records are."""
        return Lake(Path(self.folder) / "raw-lake")

    @property
    def lake(self) -> Lake:
        """Where daily rows are, made up without records."""
        return Lake(Path(self.folder) / "lake")

    def engine(self) -> Engine:
        """DuckDB within the memory that is allowed."""
        return connect(EngineOptions(memory=self.memory, scratch=Path(self.folder) / "spilled"))


class Meter:
    """Wall and CPU seconds of named stretches of work, children included."""

    def __init__(self) -> None:
        self.figures: Figures = {}

    @contextmanager
    def measuring(self, name: str) -> Iterator[None]:
        """Adds what the block takes to `<name>_wall_s` and `<name>_cpu_s`."""
        wall, cpu = time.perf_counter(), _cpu_seconds()
        yield
        for key, value in (("wall", time.perf_counter() - wall), ("cpu", _cpu_seconds() - cpu)):
            told = f"{name}_{key}_s"
            self.figures[told] = round(self.figures.get(told, 0.0) + value, 3)


def generate(sizes: Sizes, meter: Meter) -> Figures:
    """Records of some days, written to a lake."""
    plan = StepPlan(sizes.raw_patients, LAST_DAY - (sizes.raw_days - 1) * DAY, LAST_DAY, SEED)
    with meter.measuring("generate"):
        records = write(plan, sizes.raw_lake)
    return {"records": records, "mb": megabytes(Path(sizes.raw_lake.url))}


def daily(sizes: Sizes, meter: Meter) -> Figures:
    """Daily rows of every day's records, as the daily run makes them.

    Beside them the floor, a plain sum per patient of the same files; the expression that Spark runs on
    DuckDB, for one day; and what each process pays once, loading the compiled loops.
    """
    import ibis

    with meter.measuring("loops"):
        import_module("medscore_assets.mobility.hour_loops")
    lake = sizes.raw_lake
    connection = ibis.duckdb.connect()
    records = records_in(lake)
    days = [LAST_DAY - back * DAY for back in reversed(range(sizes.raw_days))]
    for utc_day in lake.days(RAW_STEPS):
        paths = lake.local(lake.files(RAW_STEPS, utc_day))
        with meter.measuring("plain_sum"):
            _plain_sum(connection, paths)
    for day in days:
        with meter.measuring("daily"):
            write_daily(lake, day, as_of=AS_OF)
    with meter.measuring("expression"):
        write_daily(lake, SPARK_DAY, as_of=AS_OF, connection=connection)
    size = bytes_per_row(lake, DAILY_STEPS, days[-1])
    return {"records": records, "days": len(days), "daily_bytes_per_row": size}


def rows(sizes: Sizes, meter: Meter) -> Figures:
    """Daily rows and rollups for the parts that follow; the rollups are measured."""
    from medscore_assets.mobility.preparing import make_rollups

    plan = StepPlan(sizes.patients, LAST_DAY - (sizes.days - 1) * DAY, LAST_DAY, SEED)
    made = write_daily_rows(plan, sizes.lake)
    with sizes.engine() as engine, meter.measuring("rollups"):
        make_rollups(sizes.lake, engine, plan.days)
    return {"daily_rows": made, "mb": megabytes(Path(sizes.lake.url))}


def backfill(sizes: Sizes, meter: Meter) -> Figures:
    """The features of every day after the first as the platform makes them: checked, sorted, a file a day.

    A pass's files are deleted before the next one.
    """
    from medscore_assets.mobility.preparing import MOST_DAYS_AT_ONCE, make_features

    days = _days_after_the_first(sizes)
    made, disk = 0, 0.0
    folder = Path(sizes.lake.url) / PATIENT_FEATURES.path
    with sizes.engine() as engine:
        for begin in range(0, len(days), MOST_DAYS_AT_ONCE):
            with meter.measuring("backfill"):
                rows = make_features(sizes.lake, engine, days[begin : begin + MOST_DAYS_AT_ONCE])
            made += sum(rows.values())
            disk = max(disk, megabytes(folder))
            shutil.rmtree(folder)
    return {"feature_rows": made, "most_features_on_disk_mb": disk}


def features(sizes: Sizes, meter: Meter) -> Figures:
    """What of a backfill is computing: a month's features as Arrow, neither checked nor written."""
    from medscore_assets.mobility.day_arrays import features_by_day
    from medscore_assets.mobility.preparing import ROWS_AT_ONCE

    first, *_, last = _days_after_the_first(sizes)[-COMPUTED_DAYS:]
    with sizes.engine() as engine, meter.measuring("features"):
        tables = features_by_day(sizes.lake, engine, first, last, rows_at_once=ROWS_AT_ONCE)
        made = sum(table.num_rows for table in tables)
    return {"rows": made}


def _days_after_the_first(sizes: Sizes) -> list[date]:
    """The days whose features are made: before the first of all there is nothing to know."""
    return [LAST_DAY - back * DAY for back in reversed(range(-1, sizes.days - 1))]


def one_day(sizes: Sizes, meter: Meter) -> Figures:
    """The day after the last one: features of everybody, checked and written, as the daily run does it."""
    from medscore_assets.mobility.day_arrays import features_by_day
    from medscore_assets.mobility.preparing import ROWS_AT_ONCE, make_features

    day = LAST_DAY + DAY
    with sizes.engine() as engine, meter.measuring("one_day"):
        made = make_features(sizes.lake, engine, [day])
    with sizes.engine() as engine, meter.measuring("one_day_computed"):
        list(features_by_day(sizes.lake, engine, day, day, rows_at_once=ROWS_AT_ONCE))
    size = bytes_per_row(sizes.lake, PATIENT_FEATURES, day)
    return {"rows": made[day], "feature_bytes_per_row": size}


def train(sizes: Sizes, meter: Meter) -> Figures:
    """Every cohort's model and the global one for both horizons, and who serves; kept for the forecasts."""
    from medscore_assets.mobility.cohorts import COHORTS, GLOBAL_MODEL, ROUTED
    from medscore_assets.mobility.forecasts import HORIZONS
    from medscore_assets.mobility.training import fit_cohort, fit_global, judge

    figures: Figures = {}
    for horizon in HORIZONS:
        with meter.measuring("training_set"):
            data = _training_set(sizes, horizon)
        models = {}
        for cohort in (*COHORTS, GLOBAL_MODEL):
            with meter.measuring("fits"):
                fit = fit_global(data) if cohort == GLOBAL_MODEL else fit_cohort(data, cohort)
            fit.save(Path(sizes.folder) / "models" / str(horizon) / cohort)
            models[cohort] = fit
        for key in ROUTED:
            own = {"cohort": models[key]} if key in models else {}
            with meter.measuring("judging"):
                choice = judge(data, key, {**own, GLOBAL_MODEL: models[GLOBAL_MODEL]})
            file = Path(sizes.folder) / "models" / str(horizon) / f"route-{key}.json"
            file.write_text(choice.route.model_dump_json())
            figures[f"{key}, {horizon} d"] = mobility_people.told(choice)
        figures[f"rows, {horizon} d"] = len(data.steps)
    return {"fits": len(HORIZONS) * (len(COHORTS) + 1), "simulated": figures}


def forecasts(sizes: Sizes, meter: Meter) -> Figures:
    """A day's forecasts of everybody, from the features in the lake to rows of PostgreSQL."""
    from zoneinfo import ZoneInfo

    from medscore_assets.database import prepare
    from medscore_assets.definitions import default_resources
    from medscore_assets.mobility.forecasts import publish_day
    from medscore_assets.settings import Settings

    settings = Settings(home=Path(sizes.folder) / "home")
    prepare(settings.databases())
    warehouse = default_resources(settings)["warehouse"]
    with meter.measuring("loading_models"):
        serving = _serving(Path(sizes.folder) / "models")
    server = _server(warehouse)
    served = _cpu_of(server)
    with meter.measuring("forecasts"):
        counts = publish_day(sizes.lake, warehouse, serving, LAST_DAY + DAY, zone=ZoneInfo("UTC"))
    return counts | {"server_cpu_s": round(_cpu_of(server) - served, 2), "served": serving.summary()}


def api(sizes: Sizes, meter: Meter) -> Figures:
    """One patient's forecast over HTTP, from the day that was published and from the features of the next."""
    folder = Path(sizes.folder)
    with meter.measuring("api"):
        return mobility_api.measured(
            folder / "home", sizes.lake, folder / "models", _serving(folder / "models"), LAST_DAY + DAY
        )


def spark(sizes: Sizes, meter: Meter) -> Figures:
    """The same day on Spark within this machine: its records to daily rows, its daily rows to features."""
    from medscore_assets.mobility.spark_work import features_on, steps_on

    scratch = Path(sizes.folder) / "spark"
    # Of the workers that Spark starts.
    os.environ["PYSPARK_PYTHON"] = sys.executable
    options = EngineOptions("spark", memory=sizes.memory, scratch=scratch)
    with meter.measuring("starting"):
        engine = connect(options)
    with engine:
        with meter.measuring("daily"):
            daily_rows = steps_on(engine, sizes.raw_lake, SPARK_DAY, as_of=AS_OF)
        day = LAST_DAY + DAY
        with meter.measuring("one_day"):
            feature_rows = features_on(engine, sizes.lake, day, day)[day]
        figures = {"daily_rows": daily_rows, "feature_rows": feature_rows}
        # The JVM lives until this process ends; its peak is asked for while it is there.
        return figures | {"peak_mb": _peak_mb()}


def people(sizes: Sizes, meter: Meter) -> Figures:
    """Real people: the Fitabase minutes from the file to who serves."""
    with meter.measuring("people"):
        return mobility_people.measured(Path(sizes.folder) / "people")


PARTS: dict[str, Callable[[Sizes, Meter], Figures]] = {
    work.__name__: work
    for work in (generate, daily, rows, backfill, features, one_day, train, forecasts, api, spark, people)
}


def main(part: str, sizes: Sizes) -> Figures:
    """The figures of one part."""
    meter = Meter()
    found = PARTS[part](sizes, meter)
    return {"peak_mb": _peak_mb()} | found | meter.figures


def arguments(part: str, sizes: Sizes) -> list[str]:
    """The command that runs a part in a process of its own."""
    return [sys.executable, "-m", "benchmarks.mobility_parts", part, json.dumps(asdict(sizes))]


def _plain_sum(connection: Any, paths: list[str]) -> None:
    """The document's `groupBy(patient).sum(count)` of a day, which counts overlapping devices twice."""
    records = connection.read_parquet(paths, hive_partitioning=False)
    records.group_by("patient_id").aggregate(steps=records["count"].sum()).to_pyarrow()


def _training_set(sizes: Sizes, horizon: int) -> Any:
    """Features of the last days of as many patients as the rows need, with their targets."""
    import pyarrow as pa

    from medscore_assets.contracts.mobility import MOBILITY
    from medscore_assets.mobility.encoding import target_days
    from medscore_assets.mobility.features import feature_frame
    from medscore_assets.mobility.training_set import Split, TrainingSet, sampled, with_targets

    days = min(TRAINING_DAYS, sizes.days - 1)
    first, last = LAST_DAY - (days - 1) * DAY, LAST_DAY
    # Of five cohorts' rows, so that the smallest cohort has its share.
    few = max(1, 5 * sizes.training_rows // days)
    patients = sorted(sizes.lake.read(PATIENTS, ["patient_id"])["patient_id"].to_pylist())
    greatest = patients[:few][-1]
    with sizes.engine() as engine:
        inputs = engine.feature_inputs(sizes.lake, first, last)
        known, sums = (t.filter(t.patient_id <= greatest) for t in (inputs.daily, inputs.rollups))
        inputs = replace(inputs, daily=known, rollups=sums)
        found = pa.Table.from_batches(engine.batches(feature_frame(inputs, first, last)))
        daily = engine.dataset(sizes.lake, DAILY_STEPS, first, LAST_DAY).to_pyarrow()
    features = MOBILITY.conform(found, where="benchmark")
    table = sampled(with_targets(features, daily, horizon), sizes.training_rows)
    targets = target_days(table, horizon)
    split = Split.of(targets.min().item(), targets.max().item())
    return TrainingSet.of(table, MOBILITY, horizon, split)


def _serving(folder: Path) -> Any:
    """What `train` left, as the daily run would have it from the registry."""
    from medscore_assets.contracts.mobility import MOBILITY
    from medscore_assets.mobility.cohorts import Route
    from medscore_assets.mobility.forecasts import HORIZONS, Serving
    from medscore_assets.mobility.model import MobilityModel

    models = {
        horizon: {
            place.name: MobilityModel.load(place, MOBILITY)
            for place in (folder / str(horizon)).iterdir()
            if place.is_dir()
        }
        for horizon in HORIZONS
    }
    told = {
        h: [Route.model_validate_json(f.read_text()) for f in (folder / str(h)).glob("route-*.json")]
        for h in HORIZONS
    }
    routes = {horizon: {route.cohort: route for route in found} for horizon, found in told.items()}
    return Serving(routes, models, {m.name: 1 for of in models.values() for m in of.values()})


def _server(warehouse: Any) -> psutil.Process:
    """The postmaster."""
    import sqlalchemy as sa

    with warehouse.transaction() as connection:
        parent = psutil.Process(connection.scalar(sa.text("SELECT pg_backend_pid()"))).parent()
    assert parent is not None
    return parent


def _cpu_seconds() -> float:
    """Of this process and all that it started."""
    return _cpu_of(psutil.Process())


def _cpu_of(process: psutil.Process) -> float:
    """Of a process and its descendants: those that ended by their parents' account, and those that run."""
    total = 0.0
    for one in (process, *process.children(recursive=True)):
        try:
            spent = one.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += spent.user + spent.system + spent.children_user + spent.children_system
    return total


def _peak_mb() -> int:
    """Peaks of this program and of what it started, added up: `ru_maxrss` remembers the parent's."""
    return sum(_high_water(process) for process in (psutil.Process(), *psutil.Process().children(True)))


def _high_water(process: psutil.Process) -> int:
    try:
        text = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return 0
    found = [line.split()[1] for line in text.splitlines() if line.startswith("VmHWM:")]
    return round(int(found[0]) / 1024) if found else 0


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Sizes(**json.loads(sys.argv[2])))))
