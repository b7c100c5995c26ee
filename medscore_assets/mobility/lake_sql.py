"""Ad-hoc questions to the lake in SQL: one SELECT, over views, by DuckDB, and nothing else.

Belongs here: which views there are, what a question may do, and errors that say where in it they are.
Does not belong here: how answers are shown (`cli/mobility.py`), and what the data sets mean.

DuckDB never opens a file for a question. The views are handed in as Arrow data sets; then access to
files, networks and extensions is switched off and the configuration locked. So a question cannot read
what is not in a view, and cannot write.
"""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from medscore_assets.mobility.daily import DAILY_STEPS
from medscore_assets.mobility.raw import DIAGNOSES, PATIENTS, RAW_STEPS, SIDE_EFFECTS, THERAPIES
from resources.errors import PermanentError
from resources.lake import Dataset, Lake

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

UNDECLARED: Final = pa.schema([])
"""The view has the columns of its newest file; where an older file has not one of them, it is null."""

VIEWS: Final[dict[str, Dataset]] = {
    "daily_steps": DAILY_STEPS,
    "patient_features": Dataset("processed/patient_features", UNDECLARED),
    "forecasts": Dataset("processed/forecasts", UNDECLARED),
    "raw_steps": RAW_STEPS,
    "patients": PATIENTS,
    "diagnoses": DIAGNOSES,
    "therapies": THERAPIES,
    "side_effects": SIDE_EFFECTS,
}

ROW_LIMIT: Final = 1_000

ABOUT_THE_TEXT: Final = frozenset({"Parser", "Binder", "Catalog", "Syntax", "Not implemented"})
"""DuckDB's errors that speak of the question and of the views' columns, hence of no value of a row."""

FROM_ARROW: Final = "reading the stream registered as"
"""How DuckDB speaks of an error of a view's data set."""

REASONS: Final = {
    "Permission": "a question reaches the lake's views, and no files, networks or extensions",
    "Conversion": "a value cannot be converted to the type asked for",
    "Out of Range": "a number is out of the range of its type",
    "Out of Memory": "the answer takes more memory than there is",
}
"""What is said of other errors, whose own text may quote a value."""


Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """Columns and rows of an answer, with at most as many rows as asked for; `cut` if there are more.

    Columns may share a name. Values are Python's: None, bool, int, float, Decimal, str, date, datetime (in
    UTC), or lists and dicts of these.
    """

    columns: list[str]
    rows: list[Row]
    cut: bool


def ask(
    lake: Lake,
    question: str,
    *,
    limit: int | None = ROW_LIMIT,
    first: date | None = None,
    last: date | None = None,
) -> Answer:
    """The answer to one SELECT (or EXPLAIN, DESCRIBE, SHOW, SUMMARIZE) over `VIEWS`.

    `first`, `last`: the days that the views hold, both included; all by default. `limit`: rows at most,
    None for all. Times are in UTC, and so are dates made of them. Days without files have no rows.

    Raises `PermanentError` that names line and column for a question that is not valid or not allowed,
    and one that names the file where a file cannot be read.
    """
    with _connection() as duckdb:
        _refuse_what_is_no_question(duckdb, question)
        named = [name for name in VIEWS if re.search(rf"\b{name}\b", question, re.IGNORECASE)]
        files = {name: _files(lake, VIEWS[name], first, last) for name in named}
        for name in named:
            duckdb.register(name, _view(lake, name, files[name]))
        _lock(duckdb)
        with _errors(question), _reading(lake, files):
            found = duckdb.execute(question)
            columns = [column[0] for column in found.description]
            rows = found.fetchall() if limit is None else found.fetchmany(limit + 1)
    return Answer(columns, rows[:limit], limit is not None and len(rows) > limit)


@contextlib.contextmanager
def _connection() -> Iterator[DuckDBPyConnection]:
    import duckdb

    with tempfile.TemporaryDirectory(prefix="medscore-sql-") as scratch:
        connection = duckdb.connect(config={"temp_directory": scratch})
        try:
            connection.execute("SET TimeZone = 'UTC'")
            connection.execute("SET python_enable_replacements = false")
            connection.execute("SET errors_as_json = true")
            yield connection
        finally:
            connection.close()


def _lock(duckdb: DuckDBPyConnection) -> None:
    duckdb.execute("SET enable_external_access = false")
    duckdb.execute("SET lock_configuration = true")


def _refuse_what_is_no_question(duckdb: DuckDBPyConnection, question: str) -> None:
    """Refuse all but one statement that only reads."""
    from duckdb import StatementType

    with _errors(question):
        statements = duckdb.extract_statements(question)
    if len(statements) != 1:
        what = "there is no question" if not statements else "there is more than one statement"
        raise PermanentError(what, where="the question", mend="Ask one SELECT.")
    kind = statements[0].type
    if kind not in (StatementType.SELECT, StatementType.EXPLAIN):
        raise PermanentError(
            f"{kind.name} is not allowed: the lake is only read here",
            where="the question",
            mend="Ask one SELECT.",
        )


def _files(
    lake: Lake, dataset: Dataset, first: date | None, last: date | None
) -> list[tuple[date | None, str]]:
    """The files of a view with the days they belong to, oldest first."""
    if dataset.partition is None:
        return [(None, name) for name in lake.files(dataset)]
    days = [d for d in lake.days(dataset) if (first or date.min) <= d <= (last or date.max)]
    return [(day, name) for day in days for name in lake.files(dataset, day)]


def _view(lake: Lake, name: str, files: Sequence[tuple[date | None, str]]) -> pads.Dataset | pa.Table:
    """What a view reads: its files, each known by its day, so that other days' are not opened."""
    dataset = VIEWS[name]
    names = [file for _, file in files]
    if not names and dataset.schema == UNDECLARED:
        raise PermanentError(
            f"the lake has no {name} for these days",
            where=f"{lake.url}/{dataset.path}",
            mend="Make them first, or name other days.",
        )
    if dataset.schema != UNDECLARED:
        lake.check(dataset, names)
    paths = lake.local(names)
    schema = _plain(dataset.schema)
    if paths and dataset.schema == UNDECLARED:
        with lake.reading(dataset, names[-1:]):
            schema = _plain(pq.read_schema(paths[-1]))
    if dataset.partition == "day" and "day" not in schema.names:
        schema = schema.append(pa.field("day", pa.date32()))
    if not paths:
        return schema.empty_table()
    return pads.FileSystemDataset.from_paths(
        paths,
        schema=schema,
        format=pads.ParquetFileFormat(),
        filesystem=pafs.LocalFileSystem(),
        partitions=[pads.field("day") == day if dataset.partition == "day" else None for day, _ in files],
    )


def _plain(schema: pa.Schema) -> pa.Schema:
    """Texts instead of dictionaries: one file may have what another has not."""
    return pa.schema(
        [pa.field(f.name, f.type.value_type if pa.types.is_dictionary(f.type) else f.type) for f in schema]
    )


@contextlib.contextmanager
def _reading(lake: Lake, files: dict[str, list[tuple[date | None, str]]]) -> Iterator[None]:
    """Around the question: a damaged file is named."""
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        # DuckDB opens no file itself: only what Arrow hands it can be damaged.
        if FROM_ARROW in str(error):
            for name, found in files.items():
                with lake.reading(VIEWS[name], [file for _, file in found]):
                    raise
        raise


@contextlib.contextmanager
def _errors(question: str) -> Iterator[None]:
    """DuckDB's errors as one sentence with the place in the question, and without values of rows."""
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        raise _sentence(question, str(error)) from None


def _sentence(question: str, message: str) -> PermanentError:
    kind, _, rest = message.partition(" Error: ")
    found: dict[str, str] = {}
    with contextlib.suppress(ValueError):
        found = json.loads(rest)
    text = REASONS.get(kind, f"DuckDB gave up: {kind}")
    if kind in ABOUT_THE_TEXT and "exception_message" in found:
        # What a missing table may have been instead, DuckDB looks for among its own.
        said = found["exception_message"]
        text = said.partition("\n")[0] if kind == "Catalog" else " ".join(said.split())
    place = _place(question, found.get("position"))
    mend = f"Correct the question. The views are {', '.join(VIEWS)}."
    return PermanentError(text, where=place, mend=mend)


def _place(question: str, position: str | None) -> str:
    if position is None or not position.isdecimal():
        return "the question"
    # DuckDB counts bytes.
    before = question.encode()[: int(position)].decode(errors="ignore")
    lines = before.split("\n")
    return f"line {len(lines)}, column {len(lines[-1]) + 1}"
