"""The warehouse: Arrow tables in and out of PostgreSQL, in transactions.

Belongs here: connections, bulk reads and writes, locks, and the translation of the database's errors
into `resources.errors`. Does not belong here: any particular table or query.

No error that leaves this module quotes a row: PostgreSQL's own texts can, so they are replaced by the
kind of the error and the names of table, column and constraint.
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import psycopg
import pyarrow as pa
import sqlalchemy as sa
from psycopg.types.string import TextLoader
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.dialects.postgresql.psycopg import dialect
from sqlalchemy.schema import CreateTable, DropTable

from resources.bulk import copied_in, copied_out
from resources.errors import MedscoreError, PermanentError, TransientError
from resources.results import fetched

_DIALECT = dialect()  # type: ignore[no-untyped-call]
_TRANSIENT = ("08", "53", "40001", "40P01", "55P03", "57P01", "57P02", "57P03", "57014")
"""SQLSTATE classes and codes after which the same work may succeed: lost connections, no room left,
deadlocks and serialisation, a lock not had in time, a server that stops or starts, a time limit."""

_LOCK = sa.text(
    "SELECT set_config('lock_timeout', :wait, true), pg_advisory_xact_lock(hashtextextended(:name, 0))"
)
"""From left to right: the limit holds for the lock beside it."""


@dataclass(frozen=True, slots=True)
class Part:
    """What a part of a table is to be: under `where` exactly `rows`, by primary key.

    A row that differs from the stored one at most in the columns `keep_if_unchanged` stays as it is, with
    those columns' old values; so the same rows again write nothing.
    """

    table: sa.Table
    rows: pa.Table
    where: sa.ColumnElement[bool]
    keep_if_unchanged: tuple[str, ...] = ()


class Warehouse:
    """One PostgreSQL database. Opens nothing before it is used; safe to share between threads.

    `url` has the driver psycopg (`postgresql+psycopg://...`), or is a function that gives it. After a
    lost connection the function is asked anew, so that an embedded server that died is started again.
    """

    def __init__(self, url: str | Callable[[], str]) -> None:
        self._url = url
        self._engine: sa.Engine | None = None
        self._guard = threading.Lock()

    @property
    def engine(self) -> sa.Engine:
        """The connection pool."""
        with self._guard:
            if self._engine is None:
                self._engine = _create_engine(self._url() if callable(self._url) else self._url)
            return self._engine

    def close(self) -> None:
        """Close the pooled connections. The next use opens new ones."""
        with self._guard:
            engine, self._engine = self._engine, None
        if engine is not None:
            engine.dispose()

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """A transaction: committed at the end of the block, rolled back if the block raises.

        Raises `TransientError` when trying again may help (connection lost, deadlock, lock not had),
        `PermanentError` when the database refuses the work.
        """
        engine = self.engine
        try:
            with engine.begin() as connection:
                yield connection
        except (sa.exc.DBAPIError, psycopg.Error) as error:
            translated = _translated(error, engine.url)
            if isinstance(translated, TransientError):
                self.close()
            # No chain: the original's text may quote a row.
            raise translated from None
        except sa.exc.TimeoutError:
            raise TransientError(
                "all connections of this process are in use",
                where=_place(engine.url),
                mend="Try again, or run less at once.",
            ) from None

    def read(self, query: sa.Executable, connection: sa.Connection | None = None) -> pa.Table:
        """The rows of a SELECT, inside `connection`'s transaction or in one of its own.

        Integers come as int64, reals as float64, texts and JSON as string, booleans as bool, dates as
        date32, times as timestamp[us, UTC]; NULL is null, and so is a date or time that Python cannot hold
        (infinity, or after the year 9999). Raises `PermanentError` for a column of
        another type, and what `transaction` raises.
        """
        with nullcontext(connection) if connection is not None else self.transaction() as inside:
            return fetched(cast("psycopg.Cursor[Any]", inside.execute(query).cursor))

    def stream(
        self, query: sa.Select[Any], connection: sa.Connection | None = None, *, batch_rows: int = 65_536
    ) -> Iterator[pa.RecordBatch]:
        """The rows of a SELECT as they come, `batch_rows` or fewer at a time: memory stays flat.

        One statement, so one snapshot, inside `connection`'s transaction or in one of its own. Until the
        last batch is taken the connection does nothing else; who stops before that ends the transaction.
        Integers, reals, texts, JSON and booleans come as in `read`. Raises `PermanentError` for a column
        of another type, and what `transaction` raises.
        """
        with nullcontext(connection) if connection is not None else self.transaction() as inside:
            yield from copied_out(inside, query, batch_rows)

    def append(
        self, connection: sa.Connection, table: sa.Table, rows: pa.Table, *, freeze: bool = False
    ) -> int:
        """Add `rows` by COPY; columns go by name, absent ones get their default. Returns the number added.

        `freeze` is for a table that this transaction made: the rows need no bookkeeping when they are read
        first. Raises `PermanentError` naming the column if one is unknown or holds values of another
        type. A time without a zone is such a value.
        """
        return copied_in(connection, table, rows, freeze=freeze)

    def replace(
        self,
        connection: sa.Connection,
        table: sa.Table,
        rows: pa.Table,
        where: sa.ColumnElement[bool],
        keep_if_unchanged: tuple[str, ...] = (),
    ) -> int:
        """Make one part of a table exactly some rows; see `Part`. Returns the rows written.

        Two replacements of one part at the same time need `lock` first. Raises `PermanentError`, before
        anything is committed, if the rows hold a key twice or a row that is not under `where`.
        """
        return self.replace_each(connection, [Part(table, rows, where, keep_if_unchanged)])[0]

    def replace_each(self, connection: sa.Connection, parts: Sequence[Part]) -> list[int]:
        """`replace` for parts of several tables in their order, which are counted together."""
        for part in parts:
            _require_key(part.table, part.rows.column_names)
        before = _counts(connection, parts)
        written = [_put(connection, part, held) for part, held in zip(parts, before, strict=True)]
        touched = [part for part, held in zip(parts, before, strict=True) if held or part.rows.num_rows]
        for part, found in zip(touched, _counts(connection, touched), strict=True):
            if found != part.rows.num_rows:
                raise PermanentError(
                    f"{part.rows.num_rows} rows were given for a part of the table that then holds {found}",
                    where=part.table.name,
                    mend="Give each key once, and only rows of the part that is replaced.",
                )
        return written

    def lock(self, connection: sa.Connection, name: str, *, wait_s: float = 120.0) -> None:
        """Hold the lock `name` until the transaction ends: who takes the same name goes one after another.

        From here on the transaction waits at most `wait_s` for any lock, also a row's; `transaction`
        then raises `TransientError`.
        """
        connection.execute(_LOCK, {"wait": f"{wait_s * 1000:.0f}", "name": name})


def _create_engine(url: str) -> sa.Engine:
    engine = sa.create_engine(
        url,
        pool_pre_ping=True,
        hide_parameters=True,
        # Nobody uses the type, and asking for it takes longer than the rest of a first connection.
        use_native_hstore=False,
        connect_args={"connect_timeout": 10, "application_name": "medscore", "options": "-c timezone=UTC"},
    )

    @sa.event.listens_for(engine, "connect")
    def hand_json_out_as_text(connection: psycopg.Connection[Any], _: object) -> None:
        for name in ("json", "jsonb"):
            connection.adapters.register_loader(name, TextLoader)

    return engine


def _counts(connection: sa.Connection, parts: Sequence[Part]) -> list[int]:
    """How many rows each part holds."""
    if not parts:
        return []
    counts = (sa.select(sa.func.count()).select_from(p.table).where(p.where).scalar_subquery() for p in parts)
    return list(connection.execute(sa.select(*counts)).one())


def _put(connection: sa.Connection, part: Part, held: int) -> int:
    """Write one part, which holds so many rows. Returns the rows written."""
    table, rows = part.table, part.rows
    if not held:
        return copied_in(connection, table, rows) if rows.num_rows else 0
    if not rows.num_rows:
        return connection.execute(sa.delete(table).where(part.where)).rowcount
    staging, create, drop = _staging(table, tuple(rows.column_names))
    connection.exec_driver_sql(create)
    copied_in(connection, staging, rows)
    written = _write_differences(connection, table, staging, part.where, part.keep_if_unchanged)
    connection.exec_driver_sql(drop)
    return written


def _require_key(table: sa.Table, names: list[str]) -> None:
    absent = [c.name for c in table.primary_key if c.name not in names]
    unknown = [name for name in names if name not in table.columns]
    if absent or unknown:
        raise PermanentError(
            "the rows lack a key column" if absent else "the table has no such column",
            where=", ".join(f"{table.name}.{name}" for name in absent or unknown),
            mend="Give the table's columns, its whole key among them.",
        )


@functools.lru_cache(maxsize=256)
def _staging(table: sa.Table, names: tuple[str, ...]) -> tuple[sa.Table, str, str]:
    """A temporary table with those columns of `table`, and the statements that create and drop it.

    Cached, because SQLAlchemy knows its compiled statements again by the identity of their tables.
    """
    staging = sa.Table(
        f"staging_{table.name}",
        sa.MetaData(),
        *(sa.Column(name, table.columns[name].type, autoincrement=False) for name in names),
        prefixes=["TEMPORARY"],
        postgresql_on_commit="DROP",
    )
    create, drop = (str(ddl(staging).compile(dialect=_DIALECT)) for ddl in (CreateTable, DropTable))
    return staging, create, drop


def _write_differences(
    connection: sa.Connection,
    table: sa.Table,
    staging: sa.Table,
    where: sa.ColumnElement[bool],
    keep_if_unchanged: tuple[str, ...],
) -> int:
    """Delete what is gone, insert what is new, update what differs. Returns the number of rows touched."""
    keys = [c.name for c in table.primary_key]
    values = [c.name for c in staging.columns if c.name not in keys]
    compared = [name for name in values if name not in keep_if_unchanged]

    def differs(other: Mapping[str, Any]) -> sa.ColumnElement[bool]:
        return sa.or_(sa.false(), *(table.columns[c].is_distinct_from(other[c]) for c in compared))

    same_key = sa.and_(*(table.columns[k] == staging.columns[k] for k in keys))
    if _has_further_keys(table):
        # Updates happen row by row, so rows that swap a unique value would collide: insert them anew.
        same_key = same_key & sa.not_(differs(dict(staging.columns.items())))
    gone = connection.execute(sa.delete(table).where(where, ~sa.exists().where(same_key)))

    upsert = insert(table).from_select(
        [c.name for c in staging.columns], sa.select(staging), include_defaults=False
    )
    if compared:
        upsert = upsert.on_conflict_do_update(
            index_elements=keys,
            set_={name: upsert.excluded[name] for name in values},
            where=where & differs(dict(upsert.excluded.items())),
        )
    else:
        upsert = upsert.on_conflict_do_nothing(index_elements=keys)
    put = connection.execute(upsert, execution_options={"preserve_rowcount": True})
    return gone.rowcount + put.rowcount


def _has_further_keys(table: sa.Table) -> bool:
    """Whether something beside the primary key must be unique."""
    constraints = any(isinstance(c, sa.UniqueConstraint) for c in table.constraints)
    return constraints or any(index.unique for index in table.indexes)


def _translated(error: sa.exc.DBAPIError | psycopg.Error, url: sa.URL) -> MedscoreError:
    original = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    state = getattr(original, "sqlstate", None)
    if not isinstance(original, psycopg.Error) or (
        state is None and isinstance(original, psycopg.OperationalError | psycopg.InterfaceError)
    ):
        return unreachable(str(original), url)
    kind = re.sub(r"(?<!^)(?=[A-Z])", " ", type(original).__name__).lower()
    if (state or "").startswith(_TRANSIENT):
        return TransientError(f"the database gave up: {kind}", where=_place(url), mend="Try again.")
    diagnosis = original.diag
    names = [n for n in (diagnosis.table_name, diagnosis.column_name, diagnosis.constraint_name) if n]
    if (state or "").startswith("42"):
        # Of this class the texts name parts of the schema, never values.
        return PermanentError(
            f"the database's schema is not the code's: {diagnosis.message_primary}",
            where=", ".join(names) or _place(url),
            mend="Run: medscore db upgrade",
        )
    return PermanentError(
        f"the database refuses the rows: {kind}",
        where=", ".join(names) or _place(url),
        mend="Correct the rows that the step writes.",
    )


def unreachable(text: str, url: sa.URL) -> MedscoreError:
    """The error for a connection not had, from libpq's text, which names server, user and database only."""
    reason = text.strip().splitlines()[-1].rpartition("FATAL:")[2].strip() if text.strip() else "no answer"
    if "does not exist" in reason or "authentication failed" in reason:
        mend = "Correct MEDSCORE_DATABASE_URL, or run: medscore db upgrade"
        return PermanentError(f"the database cannot be opened: {reason}", where=_place(url), mend=mend)
    if re.search(r"\bSSL\b|certificate", reason):
        mend = "Name the server's root certificate in the address: sslrootcert=FILE"
        return PermanentError(f"the connection is not trusted: {reason}", where=_place(url), mend=mend)
    mend = "Start the server or correct MEDSCORE_DATABASE_URL, and try again."
    return TransientError(f"the database does not answer: {reason}", where=_place(url), mend=mend)


def _place(url: sa.URL) -> str:
    host = url.host or url.query.get("host") or "this machine"
    return f"database {url.database} on {host}"
