"""A quarter scored by Spark: the same summary to the last bit, and what happens when a job fails.

One job of Spark runs to its end in this file, and one that cannot begin. What an executor and the driver
refuse is tested in this process, with the same functions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from medscore_assets import definitions
from medscore_assets.cli.population import population
from medscore_assets.partitions import partition_of_quarter
from medscore_assets.readmission.policy import DEFAULT_FILE, load_policy
from medscore_assets.readmission.population import publish, spark_job
from medscore_assets.readmission.population.assets import population_risk_summary
from medscore_assets.readmission.population.engines import (
    SETTINGS,
    Champion,
    SparkEngine,
    launched,
    staged,
)
from medscore_assets.readmission.population.exchange import (
    EXPORT_FILE,
    POLICY_FILE,
    SUMS_FILE,
    Task,
    read_export,
)
from medscore_assets.readmission.population.export import export_members
from medscore_assets.readmission.population.partial import Partial
from medscore_assets.readmission.population.publish import publish_partial, publish_summary
from medscore_assets.readmission.population.score_stream import reduce_members
from medscore_assets.readmission.scoring import MODEL, ReadmissionModel
from medscore_assets.spark.exchange import Exchange
from medscore_assets.spark.launchers import SparkOptions, SubmitLauncher
from resources.artifacts import MANIFEST_FILE
from resources.errors import PermanentError, TransientError
from resources.registry import ModelRegistry
from resources.warehouse import Warehouse
from tests.readmission.population.members import QUARTER, load, many_members
from tests.readmission.population.test_publish import contents

POLICY = load_policy()
QUICK = """
master = "local[1]"
[conf]
# So small that no two files are read together.
"spark.sql.files.maxPartitionBytes" = "4m"
# For so few rows compiling takes longer than it saves.
"spark.driver.extraJavaOptions" = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
"spark.sql.codegen.wholeStage" = false
"spark.sql.codegen.factoryMode" = "NO_CODEGEN"
"spark.sql.adaptive.enabled" = false
"spark.sql.shuffle.partitions" = 1
"""


def summarized(
    warehouse: Warehouse, registry: ModelRegistry, engine: SparkEngine
) -> dg.ExecuteInProcessResult:
    with dg.DagsterInstance.ephemeral() as instance:
        return dg.materialize(
            [population_risk_summary],
            partition_key=partition_of_quarter(QUARTER),
            instance=instance,
            raise_on_error=False,
            resources={
                "warehouse": warehouse,
                "registry": registry,
                "policy_file": DEFAULT_FILE,
                "population_engine": engine,
            },
        )


@pytest.fixture
def exchange(tmp_path: Path) -> Exchange:
    return Exchange(str(tmp_path / "exchange"), tmp_path / "cache")


@pytest.fixture
def task(warehouse: Warehouse, model: ReadmissionModel, exchange: Exchange, tmp_path: Path) -> Task:
    """A job for 600 members in three files, with everything that it needs in its folder."""
    load(warehouse, many_members(600, dirty=0.2))
    folder, _ = export_members(warehouse, QUARTER, exchange, rows_per_file=200)
    model.save(tmp_path / "model")
    champion = Champion(model, 1, tmp_path / "model", POLICY, DEFAULT_FILE)
    return staged(exchange, folder, "runs/one", champion)


@pytest.fixture
def on_executors(monkeypatch: pytest.MonkeyPatch, exchange: Exchange, task: Task) -> None:
    """What Spark does with a file, done here: files reach executors in a flat folder."""
    files = pytest.importorskip("pyspark").SparkFiles
    monkeypatch.setattr(files, "getRootDirectory", lambda: str(exchange.local(task.run)))

    def collected(task: Task, exchange: Exchange, export: Any) -> list[Any]:
        return [row for name in export.files for row in reduced_file(task, exchange, name)]

    monkeypatch.setattr(spark_job, "_collected", collected)


def reduced_file(task: Task, exchange: Exchange, name: str) -> Iterator[tuple[Any, Any]]:
    batches = iter(pq.read_table(exchange.local(f"{task.members}/{name}")).to_batches(max_chunksize=90))
    expected = (task.manifest_sha256, task.policy_hash, task.packages)
    for row in spark_job.reduce_partition(*expected, batches):
        yield from zip(row["sums"].to_pylist(), row["error"].to_pylist(), strict=True)


@pytest.mark.slow
def test_spark_gives_the_same_summary_to_the_last_bit(
    warehouse: Warehouse,
    champion: ModelRegistry,
    model: ReadmissionModel,
    exchange: Exchange,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("pyspark", reason="the extra spark is not installed")
    members = many_members(2_000, dirty=0.1)
    load(warehouse, members)
    export_members(warehouse, QUARTER, exchange, rows_per_file=300)
    (tmp_path / "spark.toml").write_text(QUICK)
    engine = SparkEngine("spark", exchange.address, tmp_path / "scratch", tmp_path / "spark.toml")
    given: list[Partial] = []

    def remembered(warehouse: Warehouse, quarter: Any, partial: Partial, *others: Any) -> Any:
        given.append(partial)
        return publish_partial(warehouse, quarter, partial, *others)

    monkeypatch.setattr(publish, "publish_partial", remembered)
    result = summarized(warehouse, champion, engine)
    logs = [log.read_text() for log in (tmp_path / "scratch").glob("*.log")]
    assert result.success, logs
    assert "Spark summed 2000 members in 7 partitions" in capfd.readouterr().err
    (event,) = result.asset_materializations_for_node("population_risk_summary")
    assert (event.metadata["members"].value, event.metadata["version"].value) == (2_000, 1)

    here = reduce_members(iter(members.to_batches(max_chunksize=700)), model, POLICY)
    assert [partial.to_bytes() for partial in given] == [here.to_bytes()]
    before = contents(warehouse)
    version = champion.champion(MODEL).version
    assert publish_summary(warehouse, QUARTER, model, version, POLICY).header["version"] == 1
    assert contents(warehouse) == before, "the local engine would have written another cell"
    # Sums of small groups and logs are kept for nobody.
    assert list((tmp_path / "exchange" / "runs").iterdir()) == []
    assert logs == []


@pytest.mark.slow
def test_a_job_that_cannot_begin_publishes_nothing_and_names_its_log(
    warehouse: Warehouse, champion: ModelRegistry, exchange: Exchange, tmp_path: Path
) -> None:
    pytest.importorskip("pyspark", reason="the extra spark is not installed")
    load(warehouse, many_members(50))
    (tmp_path / "spark.toml").write_text('master = "nowhere"\n')
    engine = SparkEngine("spark", exchange.address, tmp_path / "scratch", tmp_path / "spark.toml")
    result = summarized(warehouse, champion, engine)
    (event,) = [e for e in result.all_events if e.is_step_failure]
    told = event.step_failure_data.user_failure_data.description
    (log,) = (tmp_path / "scratch").glob("*.log")
    assert "the Spark job did not come to its end" in told
    assert str(log) in told
    assert "SparkSubmit" in log.read_text()
    assert log.stat().st_mode & 0o077 == 0
    assert contents(warehouse)["population_reports"] == []


def test_members_are_exported_once_per_load_without_who_they_are(
    warehouse: Warehouse, task: Task, exchange: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = read_export(exchange, task.members)
    assert (export.rows, len(export.files)) == (600, 3)
    assert "member_id" not in pq.read_schema(exchange.local(f"{task.members}/{export.files[0]}")).names

    monkeypatch.setattr(
        definitions, "default_resources", lambda s: {"warehouse": warehouse, "registry": None}
    )
    said = CliRunner().invoke(
        population, ["export", "--quarter", "2026-Q3", "--to", exchange.address, "--json"]
    )
    assert json.loads(said.stdout)["export"] == export.model_dump(mode="json")
    assert task.members in json.loads(said.stdout)["folder"]

    load(warehouse, many_members(600, seed=2))
    folder, other = export_members(warehouse, QUARTER, exchange)
    assert folder != task.members
    assert other.fingerprint != export.fingerprint
    sums = Partial()
    with pytest.raises(TransientError, match="loaded again while they were being scored"):
        publish_partial(warehouse, QUARTER, sums, export.loaded_at, None, 1, POLICY)  # type: ignore[arg-type]


@pytest.mark.usefixtures("on_executors")
def test_the_driver_takes_only_the_members_that_were_exported(
    model: ReadmissionModel, task: Task, exchange: Exchange
) -> None:
    files = read_export(exchange, task.members).files
    whole = [pq.read_table(exchange.local(f"{task.members}/{name}")) for name in files]
    total, partitions = spark_job.reduced(task, exchange)
    here = reduce_members((b for t in whole for b in t.to_batches()), model, POLICY)
    assert (total.to_bytes(), partitions) == (here.to_bytes(), 3)

    changed = whole[1].set_column(0, "region", whole[1]["region"].take(list(range(199, -1, -1))))
    pq.write_table(changed, exchange.local(f"{task.members}/{files[1]}"))
    with pytest.raises(PermanentError, match="600 were exported, and not these"):
        spark_job.reduced(task, exchange)
    exchange.put(f"{task.members}/{EXPORT_FILE}", b"{}")
    with pytest.raises(PermanentError, match="manifest of the exported members was changed"):
        spark_job.reduced(task, exchange)


@pytest.mark.usefixtures("on_executors")
def test_an_executor_refuses_another_model_policy_or_library_in_one_sentence(
    task: Task, exchange: Exchange
) -> None:
    xgboost = task.model_copy(update={"packages": {"xgboost": "1.0"}})
    with pytest.raises(PermanentError, match=r"executors have xgboost .*, the task was made with 1\.0"):
        spark_job.reduced(xgboost, exchange)
    exchange.put(
        f"{task.run}/{POLICY_FILE}",
        re.sub(rb"(?m)^version = .*", b'version = "x"', DEFAULT_FILE.read_bytes()),
    )
    other = load_policy(exchange.local(f"{task.run}/{POLICY_FILE}")).hash  # type: ignore[arg-type]
    with pytest.raises(PermanentError, match="the policy that reached the executors is another one"):
        spark_job.reduced(task, exchange)
    exchange.put(f"{task.run}/model.ubj", b"other")
    with pytest.raises(PermanentError, match=r"model\.ubj was changed"):
        spark_job.reduced(task.model_copy(update={"policy_hash": other}), exchange)
    exchange.put(f"{task.run}/{MANIFEST_FILE}", b"{}")
    with pytest.raises(PermanentError, match="not the champion"):
        spark_job.reduced(task, exchange)


@pytest.mark.usefixtures("on_executors")
def test_what_an_executor_did_not_foresee_is_told_without_its_text(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def __init__(self, *arguments: Any) -> None:
            raise ValueError("Mrs Roe")

    monkeypatch.setattr(spark_job, "Accumulator", Broken)
    with pytest.raises(
        RuntimeError, match=r"unexpected ValueError at test_spark\.py:\d+; its text is"
    ) as told:
        list(spark_job.reduce_partition(task.manifest_sha256, task.policy_hash, {}, iter(())))
    assert told.value.__suppress_context__


class InThisProcess(SubmitLauncher):
    """Runs the driver here, as Pipes would see it."""

    def __init__(self, scratch: Path) -> None:
        super().__init__(SparkOptions(), scratch, SETTINGS)
        self.told: list[Any] = []

    def run(self, context: Any, exchange: Exchange, task: Task) -> Any:
        self._task = task
        if not spark_job.JOB.perform(self):  # type: ignore[arg-type]
            raise RuntimeError("the text of a cluster")
        return self

    def get_extra(self, name: str) -> Any:
        return self._task.model_dump()

    def report_custom_message(self, message: Any) -> None:
        self.told.append(message)

    def get_custom_messages(self) -> list[Any]:
        return self.told


@pytest.mark.usefixtures("on_executors")
def test_sums_are_taken_as_told_and_an_error_of_the_job_comes_back_with_the_log(
    task: Task, exchange: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context: Any = dg.build_op_context()
    job = InThisProcess(tmp_path)
    assert launched(context, job, exchange, task).rows == 600
    assert {name: job.told[0][name] for name in ("rows", "partitions")} == {"rows": 600, "partitions": 3}
    monkeypatch.setattr(job, "report_custom_message", lambda m: job.told.append({**m, "sha256": "0"}))
    with pytest.raises(PermanentError, match="not those that the Spark job told of"):
        launched(context, job, exchange, task)

    exchange.put(f"{task.run}/model.ubj", b"other")
    with pytest.raises(PermanentError, match=r"model\.ubj was changed") as told:
        launched(context, job, exchange, task)
    assert job.log(task) in told.value.where
    assert told.value.__suppress_context__
    assert exchange.has(f"{task.run}/{SUMS_FILE}")
