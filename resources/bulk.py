"""Bulk Arrow in and out of PostgreSQL: what a column's type is on both sides, and COPY.

Belongs here: COPY in both directions over an open connection. Does not belong here: connections,
transactions, and the translation of the database's errors (`warehouse.py`).

Out goes COPY's text format: rows are gathered as they come off libpq and parsed by Arrow's CSV reader. A
million members of 16 columns take 2.8 CPU-s, client and server together; the binary format through the ADBC
driver, which parses value by value, took 3.7 under the same load, and two connections at once saved nothing.
In goes CSV, at 2.9 CPU-s per million of 17 columns; the ADBC driver's binary rows took 3.2.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from psycopg import generators, pq
from psycopg.errors import error_from_result
from psycopg.waiting import Ready, Wait
from pyarrow import csv
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql.psycopg import dialect

from resources.errors import PermanentError

UTC_MICROSECONDS = pa.timestamp("us", tz="UTC")

_DIALECT = dialect()  # type: ignore[no-untyped-call]

_READ: Mapping[int, pa.DataType] = MappingProxyType(
    {
        psycopg.adapters.types[name].oid: arrow
        for arrow, names in (
            (pa.int64(), ("int2", "int4", "int8")),
            (pa.float64(), ("float4", "float8")),
            (pa.string(), ("text", "varchar", "bpchar", "name", "json", "jsonb")),
            (pa.bool_(), ("bool",)),
            (pa.date32(), ("date",)),
            (UTC_MICROSECONDS, ("timestamptz",)),
        )
        for name in names
    }
)
_STREAMED = (pa.int64(), pa.float64(), pa.string(), pa.bool_())
_ROWS_PER_WRITE = 50_000
_BYTES_PER_BATCH = 32 * 1024 * 1024
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_ESCAPED = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def arrow_type(column: psycopg.Column) -> pa.DataType:
    """The Arrow type of a column that a query gives. Raises `PermanentError` if it has none here."""
    found = _READ.get(column.type_code)
    if found is None:
        raise PermanentError(
            f"the query gives a column of the type {column.type_display}, which has no Arrow type here",
            where=f"column {column.name}",
            mend="Cast it in the query.",
        )
    return found


def copied_in(connection: sa.Connection, table: sa.Table, rows: pa.Table, *, freeze: bool = False) -> int:
    """Add `rows` by COPY, a single one by INSERT. Returns the number added. See `Warehouse.append`."""
    rows = _fitted(table, rows)
    into, insert = _commands(table, tuple(rows.column_names))
    if rows.num_rows == 1 and rows.num_columns and not freeze:
        return _put_in(connection, insert, rows)
    command = into + (b" FROM STDIN (FORMAT csv, FREEZE)" if freeze else b" FROM STDIN (FORMAT csv)")
    # Quotes tell an empty text from NULL.
    written = csv.WriteOptions(include_header=False, quoting_style="all_valid")
    with _raw(connection).cursor() as cursor:
        with cursor.copy(command) as copy:
            for batch in rows.to_batches(max_chunksize=_ROWS_PER_WRITE):
                text = BytesIO()
                csv.write_csv(_times_as_text(batch), text, written)
                copy.write(text.getbuffer())
        copied = cursor.rowcount
    if copied != rows.num_rows:
        raise PermanentError(
            f"{copied} of {rows.num_rows} rows were taken",
            where=table.name,
            mend=r"Remove lines that hold only \. from the texts, or use PostgreSQL 18.",
        )
    return copied


@functools.lru_cache(maxsize=256)
def _commands(table: sa.Table, names: tuple[str, ...]) -> tuple[bytes, bytes]:
    """COPY as far as its columns, and INSERT of one row with a place for each value."""
    # The preparer writes a percent sign twice, as a command with parameters needs it.
    preparer = _DIALECT.identifier_preparer
    into = f"{preparer.format_table(table)} ({', '.join(map(preparer.quote, names))})"
    places = ", ".join(["%s"] * len(names))
    # COPY, too, takes a value for a column that would count by itself.
    insert = f"INSERT INTO {into} OVERRIDING SYSTEM VALUE VALUES ({places})"
    return f"COPY {into.replace('%%', '%')}".encode(), insert.encode()


def _put_in(connection: sa.Connection, insert: bytes, row: pa.Table) -> int:
    """One row, in one step where COPY takes three."""
    batch = _times_as_text(row.combine_chunks().to_batches()[0])
    texts = [column.cast(pa.string())[0].as_py() for column in batch.columns]
    with _raw(connection).cursor() as cursor:
        return cursor.execute(insert, texts).rowcount


def copied_out(connection: sa.Connection, query: sa.Select[Any], batch_rows: int) -> Iterator[pa.RecordBatch]:
    """The rows of `query` by COPY, at most `batch_rows` at a time. See `Warehouse.stream`."""
    schema = _streamed_schema(connection, query)
    # A server may be set to fewer digits than a double has.
    connection.execute(sa.select(sa.func.set_config("extra_float_digits", "1", True)))
    compiled = query.compile(dialect=connection.dialect, compile_kwargs={"render_postcompile": True})
    parameters = compiled.params
    # psycopg reads %% as a sign only where there are parameters.
    select = str(compiled) if parameters else str(compiled) % ()
    command = f"COPY ({select}) TO STDOUT (FORMAT text, ENCODING 'UTF8')".encode()
    raw = _raw(connection)
    # Rows are parsed, which needs no lock of Python's, while the next ones are gathered.
    with ThreadPoolExecutor(1, "parser") as parser, raw.cursor() as cursor, cursor.copy(command, parameters):
        parsing: Future[pa.RecordBatch] | None = None
        ended = False
        while not ended:
            text, ended = raw.wait(_gathered(raw.pgconn, batch_rows))
            before, parsing = parsing, parser.submit(_parsed, text, schema) if text else None
            if before is not None:
                yield before.result()
        if parsing is not None:
            yield parsing.result()


def _raw(connection: sa.Connection) -> psycopg.Connection[Any]:
    return cast("psycopg.Connection[Any]", connection.connection.driver_connection)


def _streamed_schema(connection: sa.Connection, query: sa.Select[Any]) -> pa.Schema:
    """What the query gives, asked of the server without a row being read."""
    cursor = cast("psycopg.Cursor[Any]", connection.execute(query.limit(0)).cursor)
    schema = pa.schema([(c.name, arrow_type(c)) for c in cursor.description or ()])
    for field in schema:
        if field.type not in _STREAMED:
            raise PermanentError(
                f"a column of the type {field.type} cannot be streamed",
                where=f"column {field.name}",
                mend="Leave it out, cast it in the query, or read the rows at once.",
            )
    return schema


def _gathered(pgconn: pq.abc.PGconn, batch_rows: int) -> Generator[Wait, Ready | int, tuple[bytearray, bool]]:
    """The next rows as COPY sends them, and whether they were the last.

    For `Connection.wait`: asked row by row, psycopg's own iterator takes three times as long.
    """
    text = bytearray()
    next_row = pgconn.get_copy_data
    for _ in range(batch_rows):
        size, row = next_row(1)
        while size == 0:
            while not (yield Wait.R):
                continue
            pgconn.consume_input()
            size, row = next_row(1)
        if size < 0:
            for result in (yield from generators.fetch_many(pgconn)):
                if result.status != pq.ExecStatus.COMMAND_OK:
                    raise error_from_result(result)
            return text, True
        text += row
        if len(text) >= _BYTES_PER_BATCH:
            break
    return text, False


def _parsed(text: bytearray, schema: pa.Schema) -> pa.RecordBatch:
    """Lines of COPY's text format as Arrow; in texts, tabs, line ends and backslashes come escaped."""
    if text.startswith(_BYTE_ORDER_MARK):
        # The reader takes one away.
        text[:0] = _BYTE_ORDER_MARK
    names = [str(position) for position in range(len(schema))]
    table = csv.read_csv(
        pa.py_buffer(text),
        csv.ReadOptions(column_names=names, use_threads=False, block_size=len(text) + 1),
        csv.ParseOptions(delimiter="\t", quote_char=False, escape_char=False, ignore_empty_lines=False),
        csv.ConvertOptions(
            column_types=dict(zip(names, schema.types, strict=True)),
            null_values=[r"\N"],
            strings_can_be_null=True,
            true_values=["t"],
            false_values=["f"],
        ),
    )
    # The block is as long as the text, so there is one chunk.
    columns = [column.chunk(0) for column in table.columns]
    # Several times as fast as the text's own count, which would hold up other threads.
    escapes = np.count_nonzero(np.frombuffer(text, np.uint8) == ord("\\"))
    if escapes > sum(column.null_count for column in columns):
        columns = [_unescaped(c) if pa.types.is_string(c.type) else c for c in columns]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _unescaped(texts: pa.Array) -> pa.Array:
    escaped = pc.fill_null(pc.match_substring(texts, "\\"), False)
    plain = [
        re.sub(r"\\(.)", lambda found: _ESCAPED.get(found[1], found[1]), text)
        for text in texts.filter(escaped).to_pylist()
    ]
    return pc.replace_with_mask(texts, escaped, pa.array(plain, pa.string()))


def _expected(column: sa.Column[Any]) -> pa.DataType | None:
    """The Arrow type whose values PostgreSQL takes for this column without guessing."""
    match column.type:
        case sa.Boolean():
            return pa.bool_()
        case sa.Integer():
            return pa.int64()
        case sa.Float():
            return pa.float64()
        case sa.String() | JSONB():
            return pa.string()
        case sa.Date():
            return pa.date32()
        case sa.DateTime(timezone=True):
            return UTC_MICROSECONDS
    return None


def _fitted(table: sa.Table, rows: pa.Table) -> pa.Table:
    """`rows` in the types of the table's columns. Nothing is rounded, cut or guessed."""
    fitted = [_fitted_column(table, name, rows[name]) for name in rows.column_names]
    return pa.Table.from_arrays(fitted, names=rows.column_names)


def _fitted_column(table: sa.Table, name: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
    column = table.columns.get(name)
    expected = _expected(column) if column is not None else None
    naive = pa.types.is_timestamp(values.type) and values.type.tz is None
    if expected is not None and not (naive and pa.types.is_timestamp(expected)):
        try:
            return values.cast(expected)
        except pa.ArrowException:
            # Not chained: Arrow quotes the value that does not fit.
            pass
    raise PermanentError(
        "the table has no such column"
        if column is None
        else f"values of the type {values.type} do not fit a column of the type {column.type}",
        where=f"{table.name}.{name}",
        mend="Give the table's columns in the table's types.",
    )


def _times_as_text(rows: pa.RecordBatch) -> pa.RecordBatch:
    """Times written out with their Z, which takes Arrow's CSV writer twenty times as long."""
    for position, field in enumerate(rows.schema):
        if field.type == UTC_MICROSECONDS:
            plain = rows.column(position).cast(pa.timestamp("us")).cast(pa.string())
            rows = rows.set_column(position, field.name, pc.binary_join_element_wise(plain, "Z", ""))
    return rows
