"""Days of the lake made by Spark, each by an expression: steps, monthly sums and features.

One machine makes the same rows: sums and features by the same expressions on DuckDB, steps by compiled loops.

Belongs here: what the driver asks of Spark, and how executors write whole days. Does not belong here: what is
computed (`daily.py`, `rollups.py`, `features.py`), the job around it (`spark_job.py`), who starts it
(`day_engine.py`).

Rows do not pass through the driver. Spark brings a day's rows together, by patient, and the executor that has
them writes them as the lake writes any day: in the contract's types, one file, whole or not at all. A task
that Spark repeats writes the same day again.
"""

from __future__ import annotations

import functools
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from medscore_assets.contracts.mobility import MOBILITY
from medscore_assets.mobility.daily import DAILY_STEPS, daily_steps, home_bounds, widest, zone_bounds
from medscore_assets.mobility.engines import Engine
from medscore_assets.mobility.features import feature_frame
from medscore_assets.mobility.forecasts import PATIENT_FEATURES
from medscore_assets.mobility.raw import PATIENTS, RAW_STEPS, has_come, touching
from medscore_assets.mobility.rollups import MONTHLY_ROLLUPS, monthly_rollup, months_of
from resources.errors import MedscoreError, PermanentError
from resources.lake import Dataset, Lake

if TYPE_CHECKING:
    import ibis.expr.types as ir

DAY = timedelta(days=1)
MOST_TASKS = 256
"""That write days at once."""

FOUND = pa.schema([("day", pa.date32()), ("rows", pa.int64()), ("what", pa.string()), ("where", pa.string())])
"""What comes of a day on an executor: how many rows were written, or what is wrong and where."""


class SparkLake(Lake):
    """A lake whose files Spark opens where they are.

    On S3 only the ends of files are read here, to check their columns.
    """

    def local(self, names: Sequence[str]) -> list[str]:
        """As of `Lake`, but addresses on S3 and not downloads."""
        return [f"{self.url}/{name}" for name in names] if self._remote else super().local(names)

    def check(self, dataset: Dataset, names: Sequence[str]) -> None:
        """As of `Lake`."""
        if not self._remote:
            super().check(dataset, names)
            return
        from pyarrow.fs import FileSystem

        from resources.lake import as_schema

        for name in names:
            where = f"{self.url}/{name}"
            files, path = FileSystem.from_uri(where)
            try:
                found = pq.read_schema(path, filesystem=files)
            except (pa.ArrowInvalid, OSError):
                raise PermanentError(
                    f"the file {name} of {dataset.path} cannot be read as Parquet",
                    where=where,
                    mend="Deliver it again, or take it out of the lake; then run its days again.",
                ) from None
            as_schema(found.empty_table(), dataset.schema, where=where)

    @property
    def _remote(self) -> bool:
        return self.url.startswith("s3://")


def lake_at(url: str, cache: Path) -> SparkLake:
    """The lake at an address, with the credentials that AWS's own tools find; `cache` is a folder."""
    if not url.startswith("s3://"):
        return SparkLake(url)
    import boto3

    return SparkLake(url, s3=boto3.client("s3"), cache=cache)


def steps_on(engine: Engine, lake: Lake, day: date, *, as_of: datetime) -> int:
    """Make `daily_steps` of a local day; the number of its rows. As `daily.write_daily`, on Spark."""
    names = [name for raw_day in touching(day) for name in lake.files(RAW_STEPS, raw_day)]
    if not names:
        raise lake.no_files(RAW_STEPS, day)
    lake.check(RAW_STEPS, names)
    records = engine.parquet(lake.local(names), RAW_STEPS.schema)
    seen = set(records.select("zone").distinct().to_pyarrow()["zone"].to_pylist())
    zones = zone_bounds(day, seen - {None}, as_of=as_of)
    elsewhere = bool(seen - set(zones["zone"].to_pylist()))
    patients = engine.dataset(lake, PATIENTS).select("patient_id", "zone")
    homes = home_bounds(day, (patients if elsewhere else patients.limit(0)).to_pyarrow(), as_of=as_of)
    first, last = widest(zones, homes)  # constants, by which row groups are passed over
    records = records.filter(records.timestamp >= first, records.timestamp < last)
    minute = (records.timestamp.epoch_seconds() // 60).cast("int32")
    with _Kept(engine) as kept:
        at_home = _memtable(homes) if elsewhere else None
        rows = daily_steps(records.mutate(minute=minute), _memtable(zones), at_home, kept)
        rows = _as_spark_has_it(rows).mutate(day=_literal(day))
        written = _written(engine, rows, lake, DAILY_STEPS, [day], empty=has_come(lake, day))
    return written[day]


def rollups_on(engine: Engine, lake: Lake, days: Iterable[date]) -> dict[date, int]:
    """Make the monthly sums of the months of these days anew; rows by month."""
    months = months_of(days)
    made: dict[date, int] = {}
    for month in months:
        last = (month + 31 * DAY).replace(day=1) - DAY
        sums = monthly_rollup(engine.dataset(lake, DAILY_STEPS, month, last))
        made |= _written(engine, sums, lake, MONTHLY_ROLLUPS, [month])
    return made


def features_on(engine: Engine, lake: Lake, first: date, last: date) -> dict[date, int]:
    """Make the features of a range of days in one pass; rows by day.

    Raises `ContractViolation` for a day whose features break the contract; days beside it may be written.
    """
    frame = feature_frame(engine.feature_inputs(lake, first, last), first, last)
    days = [first + n * DAY for n in range((last - first).days + 1)]
    return _written(engine, frame, lake, PATIENT_FEATURES, days)


class _Kept:
    """Keeps tables that are read several times, until the block ends: Spark would compute them as often."""

    def __init__(self, engine: Engine) -> None:
        from pyspark.sql import SparkSession

        self._engine, self._session = engine, SparkSession.active()
        self._frames: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for name, frame in self._frames.items():
            frame.unpersist()
            self._session.catalog.dropTempView(name)

    def __call__(self, table: ir.Table) -> ir.Table:
        name = f"kept_{uuid.uuid4().hex}"
        self._frames[name] = frame = _planned(self._engine, _as_spark_has_it(table)).persist()
        frame.createOrReplaceTempView(name)
        # Counted, it is there, and its size is known: what joins a small table has no need to sort itself.
        frame.count()
        return self._engine.backend.table(name)


def _planned(engine: Engine, rows: ir.Table) -> Any:
    """The expression as a frame of Spark, planned once.

    A view that is created of an expression is kept as text, which Spark plans anew wherever it is named.
    """
    from pyspark.sql import SparkSession

    # Brings tables in memory along, as Ibis does for whatever it runs itself.
    engine.backend._run_pre_execute_hooks(rows)
    return SparkSession.active().sql(engine.backend.compile(rows))


def _as_spark_has_it(rows: ir.Table) -> ir.Table:
    """The expression with Spark's own `bit_or`, which Ibis has for other engines alone, and wide shifts.

    Ibis writes the constant that is shifted as one of 32 bits, whatever its type.
    """
    import ibis
    from ibis.expr import operations as ops

    def bit_or(value: Any, where: Any = None) -> Any: ...
    def bigint(value: Any) -> Any: ...

    widened = ibis.udf.scalar.builtin(bigint, signature=(("int64",), "int64"))

    def translated(node: Any, given: dict[Any, Any] | None) -> Any:
        node = node.__recreate__(given) if given else node
        if isinstance(node, ops.BitwiseLeftShift):
            return ops.BitwiseLeftShift(widened(node.left.to_expr()), node.right)
        if isinstance(node, ops.BitOr):
            kind = node.arg.dtype
            own = ibis.udf.agg.builtin(bit_or, signature=((kind,), kind))
            where = None if node.where is None else node.where.to_expr()
            return own(node.arg.to_expr(), where=where).op()
        return node

    return rows.op().replace(translated).to_expr()


def _memtable(table: pa.Table) -> ir.Table:
    import ibis

    return ibis.memtable(table)


def _literal(day: date) -> ir.Value:
    import ibis

    return ibis.literal(day, "date")


def _written(
    engine: Engine, rows: ir.Table, lake: Lake, dataset: Dataset, days: Sequence[date], *, empty: bool = True
) -> dict[date, int]:
    """Let executors write the partitions of these days, those without rows if `empty`; rows by day."""
    by = dataset.partition or "day"
    frame = _planned(engine, rows)
    # A month that Spark truncated a date to is a timestamp, whatever Ibis takes it for.
    frame = frame.withColumn(by, frame[by].cast("date")).repartition(min(len(days), MOST_TASKS), by)
    frame = frame.sortWithinPartitions(by, "patient_id")
    write = functools.partial(write_days, lake.url, dataset)
    told = frame.mapInArrow(write, "day date, rows long, what string, where string").collect()
    for row in told:
        if row["what"] is not None:
            raise PermanentError(
                row["what"], where=row["where"], mend="Correct the rows that the day is computed from."
            )
    made = {row["day"]: row["rows"] for row in told}
    for day in days:
        if empty and day not in made:
            lake.write_day(dataset, day, dataset.schema.empty_table())
    return {day: made.get(day, 0) for day in days}


def write_days(url: str, dataset: Dataset, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """On an executor: write each partition of rows that come by partition; one row of `FOUND` for each."""
    with tempfile.TemporaryDirectory(prefix="medscore-mobility-") as cache:
        lake = lake_at(url, Path(cache))
        for day, parts in groupby(_by_day(batches, dataset.partition or "day"), key=lambda part: part[0]):
            counted = _Counted(dataset, url, (batch for _, batch in parts))
            row: dict[str, Any] = dict.fromkeys(FOUND.names)
            try:
                lake.write_day(dataset, day, counted)
                row |= {"day": day, "rows": counted.rows}
            except MedscoreError as error:
                row |= {"day": day, "what": error.what, "where": error.where}
            yield pa.RecordBatch.from_pylist([row], FOUND)


class _Counted:
    """Batches of one day, checked against the contract if they are features, and counted as they pass."""

    def __init__(self, dataset: Dataset, url: str, batches: Iterator[pa.RecordBatch]) -> None:
        self.rows = 0
        self._dataset, self._where, self._batches = dataset, f"{url}/{dataset.path}", batches

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        for batch in self._batches:
            self.rows += batch.num_rows
            if self._dataset.path != PATIENT_FEATURES.path:
                yield batch
                continue
            table = MOBILITY.conform(pa.Table.from_batches([batch]), where=self._where)
            MOBILITY.require(table, where=self._where)
            yield from table.to_batches()


def _by_day(batches: Iterator[pa.RecordBatch], by: str) -> Iterator[tuple[date, pa.RecordBatch]]:
    """Batches in pieces of one day each, in their order."""
    for batch in batches:
        for day in sorted(pc.unique(batch[by]).to_pylist()):
            yield day, batch.filter(pc.equal(batch[by], pa.scalar(day, pa.date32())))
