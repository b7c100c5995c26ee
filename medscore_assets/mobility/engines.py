"""The engines that run the lake's Ibis expressions: DuckDB in this process, Spark, or Athena.

Belongs here: connecting by one switch, and tables over the lake's files on the connected engine.
Does not belong here: expressions (`features.py`, `rollups.py`) and where files are (`resources/lake.py`).

An expression gives the same cells on every engine. What differs is where it runs: DuckDB takes one
machine far past 100,000 patients, Spark is for lakes past that, Athena for lakes that are already in its
catalogue.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import pyarrow as pa

from medscore_assets.mobility.features import Inputs, reads
from medscore_assets.mobility.raw import DIAGNOSES, PATIENTS, SIDE_EFFECTS, THERAPIES
from medscore_assets.mobility.rollups import MONTHLY_ROLLUPS
from medscore_assets.spark.java import java_home
from resources.errors import PermanentError
from resources.lake import ROW_GROUP, Dataset, Lake

if TYPE_CHECKING:
    import ibis.expr.types as ir
    from ibis.backends import BaseBackend

EngineName = Literal["duckdb", "spark", "athena"]

AS_WRITTEN = "join_order,build_side_probe_side"
"""What DuckDB's optimizer leaves alone: its estimate of the clinical states is too high by orders of
magnitude, so that it would build its hash tables from the whole history. The expressions have their small
side on the right, which is the side that is built from."""

SHORT_LIVED = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
"""How Java runs Spark within this machine: compiled quickly and once, garbage collected on one thread. Most
of a session's time goes into plans and into code that runs for seconds: without these options it took a third
more CPU seconds at 20,000 patients."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Which engine, and how much of the machine it may take.

    `threads` and `memory` (such as `8GB`) hold for DuckDB and for Spark in this machine; None leaves the
    engine's own default. `spark` is a master (`local`, `spark://host:7077`), a Spark Connect address
    (`sc://host`), or None for the session that is already there (on a cluster). `athena` are the arguments
    of `ibis.athena.connect`: `s3_staging_dir`, `schema_name`, `region_name` and so on.
    """

    engine: EngineName = "duckdb"
    threads: int | None = None
    memory: str | None = None
    scratch: Path | None = None
    """Where DuckDB and Spark may put what does not fit in memory."""
    spark: str | None = "local"
    athena: dict[str, Any] = field(default_factory=dict)


class Engine:
    """A connected engine. `backend` is Ibis's; use as a context, which disconnects at its end."""

    def __init__(self, name: EngineName, backend: BaseBackend, session: Any = None) -> None:
        self.name = name
        self.backend = backend
        self._session = session

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect; a Spark session stops."""
        if self._session is not None:
            self._session.stop()
        else:
            self.backend.disconnect()

    def parquet(self, paths: Sequence[str], schema: pa.Schema) -> ir.Table:
        """A table over Parquet files by their own columns; without files, an empty one of `schema`."""
        import ibis

        if not paths:
            return ibis.memtable(schema.empty_table())
        if self._session is None:
            # The folders' names hold the day a second time.
            return self.backend.read_parquet(list(paths), hive_partitioning=False)
        name = f"files_{uuid.uuid4().hex}"
        self._session.read.parquet(*paths).createOrReplaceTempView(name)
        return self.backend.table(name)

    def dataset(
        self, lake: Lake, dataset: Dataset, first: date | None = None, last: date | None = None
    ) -> ir.Table:
        """A data set of the lake as a table, of the partitions from `first` to `last` if it has partitions.

        On Athena it is the catalogue's table of the same name, whole; the expressions name its days.
        """
        if self.name == "athena":
            return self.backend.table(dataset.path.rpartition("/")[2])
        if dataset.partition is None:
            names = lake.files(dataset)
        else:
            names = lake.dataset_paths(dataset, first or date.min, last or date.max)
        lake.check(dataset, names)
        return self.parquet(lake.local(names), dataset.schema)

    def batches(self, frame: ir.Table, rows: int = ROW_GROUP) -> Iterator[pa.RecordBatch]:
        """The rows of an expression in batches of about `rows`, as the engine finds them, in no order."""
        if self.name != "duckdb":
            yield from self.backend.to_pyarrow_batches(frame, chunk_size=rows)
            return
        # A view brings along the tables in memory that the expression has; Ibis's own batches ask
        # DuckDB's cursor for what it has not had since DuckDB 2.
        name = f"batches_{uuid.uuid4().hex}"
        self.backend.create_view(name, frame)
        try:
            yield from self.backend.con.table(name).to_arrow_reader(rows)
        finally:
            self.backend.con.execute(f"DROP VIEW {name}")

    def feature_inputs(self, lake: Lake, first_day: date, last_day: date) -> Inputs:
        """The tables that the features of these days need, and no more of the lake than that.

        Raises `PermanentError` naming the file if one is damaged or lacks a column.
        """
        from medscore_assets.mobility.daily import DAILY_STEPS

        needs = reads(first_day, last_day)
        return Inputs(
            daily=self.dataset(lake, DAILY_STEPS, needs.first_day, needs.last_day),
            rollups=self.dataset(lake, MONTHLY_ROLLUPS, date.min, needs.first_day),
            patients=self.dataset(lake, PATIENTS),
            diagnoses=self.dataset(lake, DIAGNOSES),
            therapies=self.dataset(lake, THERAPIES),
            side_effects=self.dataset(lake, SIDE_EFFECTS),
        )


def connect(options: EngineOptions | None = None) -> Engine:
    """The engine that the options name. Raises `PermanentError` if it is not installed or has no Java."""
    import ibis

    options = options or EngineOptions()
    # Else Ibis spells out a column wherever the next select uses it, and engines compute it as often.
    ibis.options.sql.fuse_selects = False
    match options.engine:
        case "duckdb":
            return _duckdb(options)
        case "spark":
            return _spark(options)
        case "athena":
            return _athena(options)


def _duckdb(options: EngineOptions) -> Engine:
    import ibis

    settings: dict[str, Any] = {"preserve_insertion_order": False, "disabled_optimizers": AS_WRITTEN}
    if options.threads:
        settings["threads"] = options.threads
    if options.memory:
        settings["memory_limit"] = options.memory
    if options.scratch:
        settings["temp_directory"] = str(options.scratch)
    return Engine("duckdb", ibis.duckdb.connect(**settings))


def _spark(options: EngineOptions) -> Engine:
    try:
        import ibis
        from pyspark.sql import SparkSession
    except ImportError:
        raise _missing("spark", "Spark") from None
    builder = SparkSession.builder.appName("medscore")
    url = options.spark
    if url is not None and url.startswith("sc://"):
        session = builder.remote(url).getOrCreate()
    elif url is not None:
        local = url == "local" or url.startswith("local[")
        if local:
            os.environ["JAVA_HOME"] = java_home()
            cores = options.threads or os.cpu_count() or 1
            url = f"local[{cores}]" if url == "local" else url
            builder = _local(builder, options, cores)
        session = builder.master(url).getOrCreate()
    else:
        session = builder.getOrCreate()
    return Engine("spark", ibis.pyspark.connect(session), session)


def _local(builder: Any, options: EngineOptions, cores: int) -> Any:
    """Spark within this machine: as many partitions as cores, nothing listening to other machines."""
    settings = {
        "spark.sql.shuffle.partitions": str(cores),
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.driver.extraJavaOptions": SHORT_LIVED,
        **({"spark.driver.memory": options.memory.lower().removesuffix("b")} if options.memory else {}),
        **({"spark.local.dir": str(options.scratch)} if options.scratch else {}),
    }
    for name, value in settings.items():
        builder = builder.config(name, value)
    return builder


def _athena(options: EngineOptions) -> Engine:
    import ibis

    try:
        connect_to = ibis.athena.connect
    except ImportError:
        raise PermanentError(
            "Athena's driver is not installed",
            where="the engine athena",
            mend="Install it: pip install 'ibis-framework[athena]'; or choose the engine duckdb.",
        ) from None
    if not options.athena.get("s3_staging_dir"):
        raise PermanentError(
            "Athena needs a place for its results",
            where="the engine athena",
            mend="Give s3_staging_dir, an s3:// address that this account may write to.",
        )
    return Engine("athena", connect_to(**options.athena))


def _missing(extra: str, what: str) -> PermanentError:
    return PermanentError(
        f"{what} is not installed",
        where=f"the engine {extra}",
        mend="In the project's folder: make .venv/tools; or choose the engine duckdb.",
    )
