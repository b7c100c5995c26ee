"""What a SELECT gave, as Arrow columns.

Belongs here: a result that is already with the client, value by value, into Arrow.
Does not belong here: asking (`warehouse.py`), COPY and the types (`bulk.py`).

Dates and times are taken as PostgreSQL writes them and read by Arrow, a column at once: as Python's
objects, each with its zone, they would cost several times as much as all else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
import pyarrow as pa
from psycopg.adapt import AdaptersMap, Transformer
from psycopg.types.datetime import DateLoader, TimestamptzLoader
from psycopg.types.string import TextLoader

from resources.bulk import UTC_MICROSECONDS, arrow_type

_BY_ARROW = {pa.date32(): DateLoader, UTC_MICROSECONDS: TimestamptzLoader}
"""Who reads one value where Arrow cannot read the column."""

_ADAPTERS = AdaptersMap(psycopg.adapters)
for _name in ("json", "jsonb", "date", "timestamptz"):
    _ADAPTERS.register_loader(_name, TextLoader)


@dataclass(frozen=True, slots=True)
class _Context:
    """For psycopg: how values are read, and on which connection."""

    connection: psycopg.Connection[Any] | None
    adapters: AdaptersMap = _ADAPTERS


def fetched(cursor: psycopg.Cursor[Any]) -> pa.Table:
    """The rows of a result, in the types that `Warehouse.read` states."""
    result = cursor.pgresult
    fields = [pa.field(column.name, arrow_type(column)) for column in cursor.description or ()]
    if result is None or not result.ntuples:
        return pa.schema(fields).empty_table()
    transformer = Transformer(_Context(cursor.connection))
    transformer.set_pgresult(result)
    rows = transformer.load_rows(0, result.ntuples, tuple)
    columns = zip(*rows, strict=True) if fields else ()
    arrays = [_array(column, field.type, cursor) for column, field in zip(columns, fields, strict=True)]
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def _array(values: tuple[Any, ...], kind: pa.DataType, cursor: psycopg.Cursor[Any]) -> pa.Array:
    loader = _BY_ARROW.get(kind)
    if loader is None:
        return pa.array(values, kind)
    try:
        return pa.array(values, pa.string()).cast(kind)
    except pa.ArrowInvalid:
        # One such cell, a time without an end or one written in another style, must not stop a day.
        read = loader(0, cursor).load
        return pa.array([None if text is None else _held(read, text) for text in values], kind)


def _held(read: Any, text: str) -> Any:
    """A date or time, or None for one that Python cannot hold."""
    try:
        return read(text.encode())
    except (psycopg.DataError, OverflowError, ValueError):
        return None
