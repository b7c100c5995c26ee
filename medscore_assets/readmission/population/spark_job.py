"""The script that Spark runs: members in Parquet to the sums of a quarter's report.

Belongs here: the driver's work, what an executor does with a partition, and what is told back. Does not
belong here: what is summed (`accumulate.py`), the files (`exchange.py`), what is around every job
(`spark/job_frame.py`), who starts it (`engines.py`).

It is the code of the local engine that runs here, on every machine of the job: the contract encodes, the
scorer scores, integers are summed; so the sums are the same, to the last bit. An error that MedScore raises
comes back as a row, since trying it again gives the same answer; any other fails its task, which Spark
repeats. What is told to Dagster are counts, hashes and sentences; no log gets a member's value.
"""

from __future__ import annotations

import functools
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.readmission.policy import load_policy
from medscore_assets.readmission.population.accumulate import Accumulator
from medscore_assets.readmission.population.exchange import (
    MEMBERS_SCHEMA,
    POLICY_FILE,
    SUMS_FILE,
    Export,
    Task,
    read_export,
)
from medscore_assets.readmission.population.partial import Partial
from medscore_assets.readmission.scoring import ReadmissionModel
from medscore_assets.spark.exchange import Exchange, error_from_bytes, error_to_bytes
from medscore_assets.spark.job_frame import Job, require_packages
from resources.artifacts import MANIFEST_FILE, sha256
from resources.errors import IntegrityError, MedscoreError, PermanentError

PACKAGES = ("medscore", "numpy", "xgboost")
"""What all machines of the job must have in the versions of the one that starts it."""

ROWS_PER_BATCH = 65_536
FOUND = pa.schema([("sums", pa.binary()), ("error", pa.binary())])
"""What comes of a partition: one row, with one of the two."""

_SQL_TYPES = {pa.string(): "string", pa.float64(): "double", pa.bool_(): "boolean"}


def sums_put(task: Task, exchange: Exchange, cache: Path) -> dict[str, Any]:
    """Put the sums into the run's folder; how many rows and partitions they are of, and their hash."""
    partial, partitions = reduced(task, exchange)
    content = partial.to_bytes()
    exchange.put(f"{task.run}/{SUMS_FILE}", content)
    return {"rows": partial.rows, "partitions": partitions, "sha256": sha256(content)}


def reduced(task: Task, exchange: Exchange) -> tuple[Partial, int]:
    """The sums over all exported members, and over how many partitions they were taken.

    Raises `PermanentError` if the members are not those that were exported, and what an executor raised.
    """
    export = read_export(exchange, task.members, task.export_sha256)
    found = _collected(task, exchange, export)
    for error in (error for _, error in found if error is not None):
        raise error_from_bytes(bytes(error))
    partials = [Partial.from_bytes(bytes(sums)) for sums, _ in found]
    total = functools.reduce(Partial.merged, partials, Partial())
    if (total.rows, f"{total.fingerprint:016x}") != (export.rows, export.fingerprint):
        raise PermanentError(
            f"Spark read {total.rows:,} members; {export.rows:,} were exported, and not these",
            where=exchange.url(task.members),
            mend="Move the folder away, and run the report again.",
        )
    return total, len(partials)


def _collected(task: Task, exchange: Exchange, export: Export) -> list[Any]:
    """One row of `FOUND` per partition."""
    from pyspark.sql import SparkSession

    # Given and not inferred: Spark then opens no file before the tasks do.
    schema = ", ".join(f"{field.name} {_SQL_TYPES[field.type]}" for field in MEMBERS_SCHEMA)
    files = [exchange.url(f"{task.members}/{name}") for name in export.files]
    reduce = functools.partial(reduce_partition, task.manifest_sha256, task.policy_hash, task.packages)
    spark = SparkSession.builder.appName(f"MedScore population report {export.quarter}").getOrCreate()
    try:
        spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", ROWS_PER_BATCH)
        for name in (*task.model_files, POLICY_FILE):
            spark.sparkContext.addFile(exchange.url(f"{task.run}/{name}"))
        members = spark.read.schema(schema).parquet(*files)
        return list(members.mapInArrow(reduce, "sums binary, error binary").collect())
    finally:
        spark.stop()


def reduce_partition(
    manifest_sha256: str, policy_hash: str, packages: dict[str, str], batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """On an executor: one row of `FOUND` for all batches of a partition."""
    from pyspark import SparkFiles

    try:
        accumulator = _accumulator(
            Path(SparkFiles.getRootDirectory()), manifest_sha256, policy_hash, packages
        )
        for batch in batches:
            accumulator.add(batch)
        row: dict[str, bytes | None] = {"sums": accumulator.partial().to_bytes(), "error": None}
    except MedscoreError as error:
        row = {"sums": None, "error": error_to_bytes(error)}
    except Exception as error:
        innermost = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(innermost.filename).name}:{innermost.lineno}"
        # Its text may quote a row, and Spark's log goes wherever the cluster is set to write it.
        raise RuntimeError(f"unexpected {type(error).__name__} at {place}; its text is withheld") from None
    yield pa.RecordBatch.from_pylist([row], FOUND)


def _accumulator(
    folder: Path, manifest_sha256: str, policy_hash: str, packages: dict[str, str]
) -> Accumulator:
    """With the model and the policy that were shipped, if they are what the task says."""
    require_packages(packages, "the executors have")
    if sha256((folder / MANIFEST_FILE).read_bytes()) != manifest_sha256:
        raise IntegrityError(
            "the model that reached the executors is not the champion",
            where=MANIFEST_FILE,
            mend="Run the report again.",
        )
    policy = load_policy(folder / POLICY_FILE)
    if policy.hash != policy_hash:
        raise IntegrityError(
            "the policy that reached the executors is another one",
            where=POLICY_FILE,
            mend="Run the report again.",
        )
    return Accumulator(ReadmissionModel.load(folder, READMISSION), policy)


JOB = Job("population report on Spark", Task, sums_put)

if __name__ == "__main__":
    JOB.main()
