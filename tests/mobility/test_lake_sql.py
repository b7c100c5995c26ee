"""Questions to the lake: what is answered, what is refused, and where an error is said to be."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from medscore_assets.cli import app
from medscore_assets.mobility.daily import DAILY_STEPS
from medscore_assets.mobility.lake_sql import Answer, ask
from medscore_assets.mobility.raw import RAW_STEPS
from resources.errors import PermanentError
from resources.lake import Lake

DAYS = [date(2026, 3, 1), date(2026, 3, 3)]
"""The second of March has no files."""


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    made = Lake(tmp_path_factory.mktemp("lake"))
    for day in DAYS:
        moment = datetime(day.year, day.month, day.day, 23, 30, tzinfo=UTC)
        raw = {
            "patient_id": ["secret-a", "secret-b"],
            "timestamp": [moment, moment + timedelta(minutes=1)],
            "zone": ["Europe/Berlin", None],
            "count": [40, 60],
            "device": ["watch", "phone"],
        }
        made.add_file(RAW_STEPS, day, pa.table(raw), arrival=moment)
        daily = {"patient_id": ["secret-a"], "day": [day], "steps": [9], "wear_minutes": [1]}
        daily |= {name: [1] for name in ("devices", "records", "flags")}
        made.write_day(DAILY_STEPS, day, pa.table(daily))
    return made


def path_of(lake: Lake) -> Path:
    return Path(lake.local(lake.files(DAILY_STEPS, DAYS[0]))[0])


def test_views_are_joined_by_day_and_days_without_files_have_no_rows(lake: Lake) -> None:
    answer = ask(
        lake,
        "SELECT r.day, sum(count)::INT, any_value(steps) "
        "FROM raw_steps r JOIN Daily_Steps USING (patient_id, day) "
        "WHERE r.day >= DATE '2026-03-02' GROUP BY ALL; -- the last day",
    )
    assert answer.rows == [(DAYS[1], 40, 9)]
    every_day = "SELECT DISTINCT day, CAST(timestamp AS DATE) FROM raw_steps ORDER BY day"
    assert ask(lake, every_day).rows == [(day, day) for day in DAYS]
    assert ask(lake, every_day, last=DAYS[0]).rows == [(DAYS[0], DAYS[0])]
    assert ask(lake, "SELECT count(*) FROM raw_steps", first=date(2027, 1, 1)).rows == [(0,)]
    assert ask(lake, "SELECT count(*) FROM diagnoses").rows == [(0,)]


def test_the_limit_cuts_and_says_so(lake: Lake) -> None:
    assert ask(lake, "SELECT 1 AS a, 2 AS a FROM raw_steps", limit=3) == Answer(
        ["a", "a"], [(1, 2)] * 3, True
    )
    assert ask(lake, "SELECT 1 AS a FROM raw_steps", limit=4) == Answer(["a"], [(1,)] * 4, False)
    assert len(ask(lake, "FROM range(5000)", limit=None).rows) == 5000


REFUSED = [
    ("COPY raw_steps TO '{out}'", "COPY is not allowed"),
    ("EXPLAIN ANALYZE COPY (SELECT 1) TO '{out}'", "no files, networks or extensions"),
    ("ATTACH '{out}' AS other", "ATTACH is not allowed"),
    ("INSTALL httpfs", "LOAD is not allowed"),
    ("LOAD httpfs", "LOAD is not allowed"),
    ("SET enable_external_access = true", "SET is not allowed"),
    ("PRAGMA database_list", "PRAGMA is not allowed"),
    ("CREATE TABLE t AS SELECT 1", "CREATE is not allowed"),
    ("SELECT 1; SELECT 2", "more than one statement"),
    ("", "no question"),
    ("SELECT * FROM read_csv('/etc/passwd')", r"no files, networks .*line 1, column 15"),
    ("SELECT * FROM read_text('/etc/passwd')", r"no files, networks .*line 1, column 15"),
    ("SELECT * FROM glob('/etc/*')", "no files, networks"),
    ("SELECT * FROM '/etc/passwd'", "does not exist"),
    ("SELECT * FROM read_parquet('{file}')", "no files, networks"),
    ("SELECT * FROM '{file}'", "does not exist|no files, networks"),
    ("SELECT * FROM parquet_metadata('{file}')", "no files, networks"),
    ("SELECT * FROM read_parquet('https://example.org/a.parquet')", "no files, networks|gave up"),
    ("SELECT * FROM a_table_of_python", "does not exist"),
]


@pytest.mark.parametrize(("question", "says"), REFUSED)
def test_a_question_can_neither_write_nor_read_beyond_the_views(
    lake: Lake, tmp_path: Path, question: str, says: str
) -> None:
    a_table_of_python = pa.table({"a": [1]})
    before = path_of(lake).read_bytes()
    with pytest.raises(PermanentError, match=says):
        ask(lake, question.format(out=tmp_path / "out", file=path_of(lake)))
    assert not list(tmp_path.iterdir())
    assert path_of(lake).read_bytes() == before
    assert a_table_of_python.num_rows == 1


@pytest.mark.parametrize(
    ("question", "says"),
    [
        ("SELECT *\nFORM raw_steps", r"syntax error .*line 2, column 6"),
        ("SELECT 'é', foo FROM raw_steps", r"\"foo\" not found .*line 1, column 13"),
        ("SELECT * FROM nothing", r"nothing does not exist.*line 1, column 15.*The views are daily_steps"),
        ("SELECT CAST(patient_id AS INT) FROM raw_steps", r"cannot be converted .*line 1, column 8"),
        ("SELECT error(patient_id) FROM raw_steps", "DuckDB gave up: Invalid Input"),
        ("SELECT * FROM forecasts", "the lake has no forecasts"),
    ],
)
def test_an_error_says_where_it_is_and_quotes_no_value(lake: Lake, question: str, says: str) -> None:
    with pytest.raises(PermanentError, match=says) as caught:
        ask(lake, question)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_damaged_file_is_named_and_other_days_are_answered(lake: Lake, tmp_path: Path) -> None:
    mine = Lake(tmp_path)
    for day in DAYS:
        mine.write_day(DAILY_STEPS, day, lake.read_day(DAILY_STEPS, day))
    damaged = path_of(mine)
    content = bytearray(damaged.read_bytes())
    content[4:40] = bytes(36)
    damaged.write_bytes(content)
    with pytest.raises(PermanentError, match=r"day=2026-03-01/part\.parquet"):
        ask(mine, "SELECT sum(steps), max(patient_id) FROM daily_steps")
    assert ask(mine, "SELECT steps FROM daily_steps WHERE day > DATE '2026-03-01'").rows == [(9,)]


def test_the_command_prints_a_table_csv_or_json(lake: Lake, clean_environment: pytest.MonkeyPatch) -> None:
    clean_environment.setenv("MEDSCORE_LAKE", lake.url)
    question = "SELECT day, NULL AS nothing, '[b]' AS text FROM daily_steps ORDER BY day"

    def printed(*options: str) -> str:
        done = CliRunner().invoke(app, ["lake", "sql", question, *options])
        assert done.exit_code == 0, done.output
        return done.stdout

    assert all(text in printed() for text in ("2026-03-03", "null", "[b]", "2 rows"))
    assert printed("--csv").splitlines() == ["day,nothing,text", "2026-03-01,,[b]", "2026-03-03,,[b]"]
    assert json.loads(printed("--json", "--limit", "1")) == {
        "columns": ["day", "nothing", "text"],
        "rows": [["2026-03-01", None, "[b]"]],
        "cut": True,
        "limit": 1,
    }
