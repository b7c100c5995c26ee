"""Small seeded lakes for the tests of mobility, and a session of Spark.

Belongs here: lakes that more than one test file reads. They are shared: a test that writes takes a copy
(`lake`, which is empty, or `shutil.copytree`). Does not belong here: records made for one trap.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from medscore_assets.demo.steps import StepPlan, write
from medscore_assets.mobility.engines import Engine, EngineOptions, connect
from resources.lake import Lake


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """An empty lake in a folder of its own."""
    return Lake(tmp_path / "lake")


@pytest.fixture(scope="session")
def step_plan() -> StepPlan:
    """25 patients over 24 days with the spring's clock change of New York (2026-03-08) among them."""
    return StepPlan(patients=25, first_day=date(2026, 2, 20), last_day=date(2026, 3, 15), seed=7)


@pytest.fixture(scope="session")
def raw_lake(step_plan: StepPlan, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """The plan's raw records and clinical tables. Read only."""
    made = Lake(tmp_path_factory.mktemp("raw-lake"))
    write(step_plan, made)
    return made


@pytest.fixture(scope="session")
def daily_lake(step_plan: StepPlan, raw_lake: Lake) -> Lake:
    """The same lake with `daily_steps` of every day of the plan. Read only."""
    from medscore_assets.mobility.daily import write_daily

    as_of = datetime.combine(step_plan.last_day, datetime.min.time(), UTC) + timedelta(days=30)
    for day in step_plan.days:
        write_daily(raw_lake, day, as_of=as_of)
    return raw_lake


@pytest.fixture(scope="package", autouse=True)
def spark_begun(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Future[Engine] | None]:
    """Lets Spark start while other tests run, if a test of this session asks for it.

    Java loads most of its classes at the first query, so one is asked of it.
    """
    if not any("spark" in getattr(item, "fixturenames", ()) for item in request.session.items):
        yield None
        return

    def begin() -> Engine:
        engine = connect(EngineOptions("spark", threads=1, memory="1GB", scratch=scratch))
        rows = engine.backend.sql("SELECT id % 3 AS k, count(*) AS n FROM range(9) GROUP BY 1 ORDER BY 1")
        assert rows.n.sum().execute() == 9
        return engine

    scratch = tmp_path_factory.mktemp("spark")
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1, "spark") as thread:
        patch.setenv("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")
        patch.setenv("PYSPARK_PYTHON", sys.executable)
        begun = thread.submit(begin)
        yield begun
        if begun.exception() is None:
            begun.result().close()


@pytest.fixture(scope="package")
def spark(spark_begun: Future[Engine] | None) -> Engine:
    """One session for all tests, in this machine.

    Compiling its plans would take Spark and Java many times what these few rows take without it.
    """
    sql = pytest.importorskip("pyspark.sql", reason="the extra spark is not installed")
    assert spark_begun is not None
    engine = spark_begun.result()
    settings = sql.SparkSession.active().conf
    settings.set("spark.sql.codegen.wholeStage", "false")
    settings.set("spark.sql.codegen.factoryMode", "NO_CODEGEN")
    settings.set("spark.sql.adaptive.enabled", "false")
    return engine
