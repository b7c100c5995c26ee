"""Days of the lake by Spark, started through Dagster Pipes: the same rows as DuckDB's, and what fails.

One job of Spark is started in this file, of monthly sums, which are planned soonest. Days of steps and of
features are made in the session of the other tests, from the task on. What an executor does with rows, and
what the engine does with a job, is tested without Spark.
"""

import shutil
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from medscore_assets.contracts.mobility import MOBILITY
from medscore_assets.demo.steps import StepPlan
from medscore_assets.mobility import spark_job
from medscore_assets.mobility.daily import DAILY_STEPS, DayFlag, write_daily
from medscore_assets.mobility.day_engine import DayEngine, DuckDays, SparkDays, day_engine
from medscore_assets.mobility.engines import Engine, EngineOptions, connect
from medscore_assets.mobility.forecasts import PATIENT_FEATURES
from medscore_assets.mobility.preparing import make_features, make_rollups
from medscore_assets.mobility.raw import RAW_STEPS
from medscore_assets.mobility.rollups import MONTHLY_ROLLUPS
from medscore_assets.mobility.spark_work import lake_at, write_days
from medscore_assets.settings import Settings
from medscore_assets.spark import launchers
from medscore_assets.spark.exchange import ERROR_FILE, Exchange, error_to_bytes
from resources.errors import PermanentError
from resources.lake import Dataset, Lake

CLOCK_CHANGE = date(2026, 3, 8)
FIRST, LAST = date(2026, 3, 10), date(2026, 3, 11)
AS_OF = datetime(2026, 4, 14, tzinfo=UTC)
OPTIONS = """
master = "local[1]"
[conf]
"spark.driver.memory" = "1g"
"spark.sql.shuffle.partitions" = 1
"spark.sql.adaptive.enabled" = false
"spark.sql.codegen.wholeStage" = false
"spark.sql.codegen.factoryMode" = "NO_CODEGEN"
"spark.driver.extraJavaOptions" = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
"""


@pytest.fixture(scope="module")
def by_duckdb(daily_lake: Lake, step_plan: StepPlan, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Steps, duplicates among them, monthly sums, and the features of two days. Read only."""
    folder = tmp_path_factory.mktemp("by-duckdb")
    shutil.copytree(daily_lake.url, folder, dirs_exist_ok=True)
    lake = Lake(folder)
    again = lake.read_day(RAW_STEPS, CLOCK_CHANGE).slice(0, 500)
    lake.add_file(RAW_STEPS, CLOCK_CHANGE, again, arrival=AS_OF)
    write_daily(lake, CLOCK_CHANGE, as_of=AS_OF)
    with connect(EngineOptions(threads=1)) as engine:
        make_rollups(lake, engine, step_plan.days)
        make_features(lake, engine, [FIRST, LAST])
    return lake


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "spark.toml").write_text(OPTIONS)
    return tmp_path / "scratch"


class InThisProcess:
    """Does a task in a session that is there, as the job would; and tells what it made."""

    def __init__(self, spark: Engine, cache: Path) -> None:
        self._spark, self._cache = spark, cache

    def __call__(self, launching: Any, context: Any, exchange: Exchange, task: spark_job.Task) -> Any:
        read = spark_job.Task.model_validate(task.model_dump(mode="json"))
        made = spark_job.make(read, self._spark, lake_at(read.address, self._cache))
        self._told = [{"rows": {day.isoformat(): rows for day, rows in made.items()}}]
        return self

    def get_custom_messages(self) -> list[Any]:
        return self._told


@pytest.mark.slow
def test_spark_makes_the_same_steps_and_features_and_leaves_nothing_else(
    by_duckdb: Lake, spark: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = [(DAILY_STEPS, CLOCK_CHANGE), (PATIENT_FEATURES, FIRST), (PATIENT_FEATURES, LAST)]
    lake = _without(by_duckdb, tmp_path / "by-spark", days)
    job = InThisProcess(spark, tmp_path)
    monkeypatch.setattr(launchers.SubmitLauncher, "run", lambda *given: job(*given))
    engine, context = SparkDays("spark", tmp_path / "scratch"), dg.build_asset_context()

    made = engine.steps(context, lake, CLOCK_CHANGE, as_of=AS_OF)
    expected = by_duckdb.read_day(DAILY_STEPS, CLOCK_CHANGE)
    assert made == expected.num_rows > 20
    assert lake.read_day(DAILY_STEPS, CLOCK_CHANGE).equals(expected)
    assert any(flags & DayFlag.DUPLICATE_RECORDS for flags in expected["flags"].to_pylist())

    to_come = lake.days(RAW_STEPS)[-1] + timedelta(days=1)
    assert engine.steps(context, lake, to_come, as_of=AS_OF) == 0
    assert to_come not in lake.days(DAILY_STEPS)

    made = engine.features(context, lake, [LAST, FIRST])
    for day in (FIRST, LAST):
        here, there = lake.read_day(PATIENT_FEATURES, day), by_duckdb.read_day(PATIENT_FEATURES, day)
        assert here.equals(there)
        assert made[day] == there.num_rows > 20
        (path,) = lake.local(lake.files(PATIENT_FEATURES, day))
        assert pa.parquet.read_schema(path).metadata[b"contract_hash"].decode() == MOBILITY.hash
    assert list((Path(lake.url) / "spark-runs").iterdir()) == []


@pytest.mark.slow
def test_a_job_that_is_started_makes_the_same_monthly_sums_and_leaves_nothing_else(
    by_duckdb: Lake, tmp_path: Path, scratch: Path
) -> None:
    pytest.importorskip("pyspark", reason="the extra spark is not installed")
    month = FIRST.replace(day=1)
    lake = _without(by_duckdb, tmp_path / "by-spark", [(MONTHLY_ROLLUPS, month)])
    engine = SparkDays("spark", scratch, tmp_path / "spark.toml")

    made = _in_a_run(lambda context: engine.rollups(context, lake, [FIRST]), scratch)
    expected = by_duckdb.read_day(MONTHLY_ROLLUPS, month)
    assert made == {month: expected.num_rows}
    assert expected.num_rows > 20
    assert lake.read_day(MONTHLY_ROLLUPS, month).equals(expected)
    assert list((Path(lake.url) / "spark-runs").iterdir()) == []
    assert list(scratch.glob("*.log")) == []


def test_an_executor_writes_whole_days_and_tells_of_one_that_breaks_the_contract(
    by_duckdb: Lake, tmp_path: Path
) -> None:
    lake = Lake(tmp_path / "written")
    good, bad = (by_duckdb.read_day(PATIENT_FEATURES, day) for day in (FIRST, LAST))
    place = bad.column_names.index("age_years")
    bad = bad.set_column(
        place, bad.schema.field(place), pa.array([999] * bad.num_rows, bad.schema.types[place])
    )
    batches = iter(pa.concat_tables([good, bad]).combine_chunks().to_batches(max_chunksize=7))
    told = [row for batch in write_days(lake.url, PATIENT_FEATURES, batches) for row in batch.to_pylist()]
    assert [(row["day"], row["rows"]) for row in told] == [(FIRST, good.num_rows), (LAST, None)]
    assert lake.read_day(PATIENT_FEATURES, FIRST).equals(good)
    assert lake.days(PATIENT_FEATURES) == [FIRST]
    assert "age_years" in told[1]["what"]
    assert "999" not in told[1]["what"]


def test_a_job_of_another_version_or_contract_makes_nothing(tmp_path: Path) -> None:
    task = spark_job.Task(
        address=str(tmp_path),
        run="spark-runs/one",
        what="features",
        first_day=FIRST,
        last_day=LAST,
        as_of=AS_OF,
        contract_hash="0" * 64,
        packages={"numpy": "1.0"},
    )
    assert spark_job.Task.model_validate(task.model_dump(mode="json")) == task
    nothing: Any = None
    with pytest.raises(PermanentError, match=r"has numpy .*, the task was made with 1\.0"):
        spark_job.make(task, nothing, nothing)
    with pytest.raises(PermanentError, match=r"has the contract .*, the task was made with 0{12}"):
        spark_job.make(task.model_copy(update={"packages": {}}), nothing, nothing)


def test_a_failed_job_says_what_it_left_behind_and_where_its_log_is(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = PermanentError("the column steps is missing", where="a file", mend="Deliver it again.")
    lake, given = Lake(tmp_path / "lake"), []

    def fails(self: Any, context: Any, exchange: Exchange, task: spark_job.Task) -> Any:
        given.append((task.first_day, task.last_day))
        if len(given) == 1:
            exchange.put(f"{task.run}/{ERROR_FILE}", error_to_bytes(left))
        raise RuntimeError("the text of a cluster")

    monkeypatch.setattr(launchers.SubmitLauncher, "run", fails)
    monkeypatch.setattr(launchers.SubmitLauncher, "require_ready", lambda self, exchange: None)
    engine, context = SparkDays("spark", scratch), dg.build_asset_context()
    with pytest.raises(PermanentError, match="the column steps is missing") as told:
        engine.features(context, lake, [LAST, FIRST, LAST + timedelta(days=5)])
    assert str(scratch) in told.value.where
    with pytest.raises(PermanentError, match="did not come to its end: RuntimeError") as told:
        engine.rollups(context, lake, [FIRST, LAST, FIRST - timedelta(days=40)])
    assert told.value.__suppress_context__
    # Days that follow each other are one job, and so are months.
    assert given == [(FIRST, LAST), (date(2026, 1, 1), date(2026, 1, 1))]


def test_the_engine_is_that_of_the_settings_and_errors_name_these(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(day_engine(Settings(home=tmp_path)), DuckDays)
    (tmp_path / "spark.toml").write_text('masters = "local"\n')
    monkeypatch.setenv("MEDSCORE_MOBILITY_ENGINE", "emr")
    found: DayEngine = day_engine(Settings(home=tmp_path))
    lake, context = Lake(tmp_path / "lake"), dg.build_asset_context()
    with pytest.raises(PermanentError, match=r"no options \(MEDSCORE_MOBILITY_SPARK_FILE\)"):
        found.features(context, lake, [FIRST])
    monkeypatch.setenv("MEDSCORE_MOBILITY_SPARK_FILE", str(tmp_path / "spark.toml"))
    with pytest.raises(PermanentError, match="MEDSCORE_MOBILITY_SPARK_FILE"):
        day_engine(Settings(home=tmp_path)).features(context, lake, [FIRST])
    (tmp_path / "spark.toml").write_text('[emr]\nregion = "us-east-1"\nrequest = {}\n')
    with pytest.raises(PermanentError, match="MEDSCORE_LAKE"):
        day_engine(Settings(home=tmp_path)).features(context, lake, [FIRST])


def _without(lake: Lake, folder: Path, days: list[tuple[Dataset, date]]) -> Lake:
    """A copy of a lake without some of its days."""
    shutil.copytree(lake.url, folder)
    for dataset, day in days:
        shutil.rmtree(folder / dataset.folder(day))
    return Lake(folder)


def _in_a_run(work: Any, scratch: Path) -> Any:
    """What `work` returns within the run of an asset, which Pipes asks for."""
    made = []

    @dg.asset
    def days(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        made.append(work(context))
        return dg.MaterializeResult()

    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([days], instance=instance, raise_on_error=False)
    assert result.success, [log.read_text()[-3000:] for log in scratch.glob("*.log")]
    return made[0]
