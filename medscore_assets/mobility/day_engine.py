"""Which engine makes the lake's days: DuckDB in this process, Spark in reach of this machine, or Amazon EMR.

Belongs here: choosing by the settings, what a Spark job is given, and what it tells. Does not belong here:
how a job is started (`spark/launchers.py`), what it does (`spark_job.py`), what days are.

Whichever makes them, the days are the same, cell by cell.
"""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Literal

import dagster as dg

from medscore_assets.contracts.mobility import MOBILITY
from medscore_assets.mobility.engines import EngineOptions
from medscore_assets.settings import Settings
from medscore_assets.spark.exchange import SCRIPT_FILE, Exchange, versions
from medscore_assets.spark.launchers import SettingNames, awaited, launcher, load_options
from resources.lake import Lake

SETTINGS = SettingNames("MEDSCORE_MOBILITY_ENGINE", "MEDSCORE_MOBILITY_SPARK_FILE", "MEDSCORE_LAKE", "duckdb")

RUNS = "spark-runs"
"""The folder of the lake in which jobs find their script and leave what failed."""


class DayEngine(ABC):
    """Makes days of the lake. A day is replaced whole, or raises and stays as it is."""

    @abstractmethod
    def steps(self, context: dg.AssetExecutionContext, lake: Lake, day: date, *, as_of: datetime) -> int:
        """Make `daily_steps` of a local day that has raw files; the number of its rows."""

    @abstractmethod
    def rollups(self, context: dg.AssetExecutionContext, lake: Lake, days: Sequence[date]) -> dict[date, int]:
        """Make the monthly sums of the months of these days anew; rows by month."""

    @abstractmethod
    def features(
        self, context: dg.AssetExecutionContext, lake: Lake, days: Sequence[date]
    ) -> dict[date, int]:
        """Make the features of these days; rows by day."""


@dataclass(frozen=True)
class DuckDays(DayEngine):
    """In this process: steps by compiled loops, monthly sums and features by DuckDB."""

    options: EngineOptions

    def steps(self, context: dg.AssetExecutionContext, lake: Lake, day: date, *, as_of: datetime) -> int:
        from medscore_assets.mobility.preparing import make_steps

        return make_steps(lake, day, as_of=as_of)

    def rollups(self, context: dg.AssetExecutionContext, lake: Lake, days: Sequence[date]) -> dict[date, int]:
        from medscore_assets.mobility.engines import connect
        from medscore_assets.mobility.preparing import make_rollups

        with connect(self.options) as engine:
            return make_rollups(lake, engine, days)

    def features(
        self, context: dg.AssetExecutionContext, lake: Lake, days: Sequence[date]
    ) -> dict[date, int]:
        from medscore_assets.mobility.engines import connect
        from medscore_assets.mobility.preparing import make_features

        with connect(self.options) as engine:
            return make_features(lake, engine, days)


@dataclass(frozen=True)
class SparkDays(DayEngine):
    """By a Spark job for each call, started and awaited through Dagster Pipes.

    `scratch` is a folder of this machine for logs, `options_file` the TOML file of Spark's options.
    """

    name: Literal["spark", "emr"]
    scratch: Path
    options_file: Path | None = None

    def steps(self, context: dg.AssetExecutionContext, lake: Lake, day: date, *, as_of: datetime) -> int:
        return self._made(context, lake, "steps", day, day, as_of)[day]

    def rollups(self, context: dg.AssetExecutionContext, lake: Lake, days: Sequence[date]) -> dict[date, int]:
        from medscore_assets.mobility.rollups import months_of

        made: dict[date, int] = {}
        for first, last in _runs(months_of(days), most_days_apart=31):
            made |= self._made(context, lake, "rollups", first, last)
        return made

    def features(
        self, context: dg.AssetExecutionContext, lake: Lake, days: Sequence[date]
    ) -> dict[date, int]:
        made: dict[date, int] = {}
        for first, last in _runs(sorted(set(days)), most_days_apart=1):
            made |= self._made(context, lake, "features", first, last)
        return made

    def _made(
        self,
        context: dg.AssetExecutionContext,
        lake: Lake,
        what: Literal["steps", "rollups", "features"],
        first: date,
        last: date,
        as_of: datetime | None = None,
    ) -> dict[date, int]:
        """What a job made, run to its end.

        Raises `PermanentError` naming Spark's log if the job fails; days that it made before that stand.
        """
        from medscore_assets.mobility import spark_job

        launching = launcher(self.name, load_options(self.options_file, SETTINGS), self.scratch, SETTINGS)
        exchange = Exchange(lake.url, self.scratch)
        launching.require_ready(exchange)
        task = spark_job.Task(
            address=exchange.address,
            run=f"{RUNS}/{uuid.uuid4().hex}",
            what=what,
            first_day=first,
            last_day=last,
            as_of=as_of or datetime.now(UTC),
            contract_hash=MOBILITY.hash,
            packages=versions(spark_job.PACKAGES),
        )
        # Beside its own modules the script would hide others of the same names.
        exchange.put(f"{task.run}/{SCRIPT_FILE}", Path(spark_job.__file__).read_bytes())
        context.log.info("Spark makes %s from %s to %s; log: %s", what, first, last, launching.log(task))
        told = awaited(context, launching, exchange, task, again="run the days again")
        exchange.discard(task.run)
        launching.forget(task)
        return {date.fromisoformat(day): rows for day, rows in told[-1]["rows"].items()}


def day_engine(settings: Settings) -> DayEngine:
    """The engine that the settings name. Nothing is opened before it is used."""
    if settings.mobility_engine == "duckdb":
        return DuckDays(EngineOptions(scratch=settings.home / "scratch"))
    return SparkDays(settings.mobility_engine, settings.home / "spark", settings.mobility_spark_file)


def _runs(days: Sequence[date], most_days_apart: int) -> Iterator[tuple[date, date]]:
    """First and last of days that follow each other."""
    first = 0
    for place, day in enumerate(days):
        if place + 1 == len(days) or days[place + 1] - day > timedelta(days=most_days_apart):
            yield days[first], day
            first = place + 1
