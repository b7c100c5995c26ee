"""Streams: every value as it was stored, memory flat, one snapshot, and errors without rows."""

from __future__ import annotations

import tracemalloc
from typing import Any

import hypothesis.strategies as st
import pyarrow as pa
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, example, given, settings

from resources.errors import PermanentError, TransientError
from resources.warehouse import Warehouse

SECRET = "patient-4711"

streamed = sa.Table(
    "streamed",
    sa.MetaData(),
    sa.Column("word", sa.Text),
    sa.Column("real", sa.Double),
    sa.Column("flag", sa.Boolean),
    sa.Column("whole", sa.BigInteger),
    sa.Column("other", sa.Text),
)
SCHEMA = pa.schema(
    {"word": pa.string(), "real": pa.float64(), "flag": pa.bool_(), "whole": pa.int64(), "other": pa.string()}
)


@pytest.fixture
def store(warehouse: Warehouse) -> Warehouse:
    with warehouse.transaction() as connection:
        streamed.create(connection)
    return warehouse


def put(store: Warehouse, *rows: tuple[Any, ...]) -> pa.Table:
    table = pa.Table.from_pylist([dict(zip(SCHEMA.names, row, strict=True)) for row in rows], SCHEMA)
    with store.transaction() as connection:
        connection.execute(sa.delete(streamed))
        store.append(connection, streamed, table)
    return table


def as_it_is(table: pa.Table) -> str:
    """Tells NaN from NULL and -0.0 from 0.0, and NaN equals itself."""
    return repr(table.to_pylist())


TEXT = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=6
) | st.sampled_from(
    ["", "\\N", "\\", "\\t", "a\tb", "\r\n", "\v\f\b", '"', "NULL", "\ufeff", "ÄЖ漢🫀", "1.0", "t"]
)
ROW = st.tuples(
    st.none() | TEXT,
    st.none() | st.floats(),
    st.none() | st.booleans(),
    st.none() | st.integers(-(2**63), 2**63 - 1),
    st.none() | TEXT,
)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(rows=st.lists(ROW, max_size=12), batch_rows=st.integers(1, 5))
@example(rows=[("\ufeff\\N", None, None, None, "\\\\n\n")], batch_rows=1)
def test_what_was_put_in_comes_out(store: Warehouse, rows: list[Any], batch_rows: int) -> None:
    stored = put(store, *rows)
    batches = list(store.stream(sa.select(streamed), batch_rows=batch_rows))
    assert as_it_is(pa.Table.from_batches(batches, SCHEMA)) == as_it_is(stored)
    assert all(0 < batch.num_rows <= batch_rows for batch in batches)


def test_a_lone_empty_text_is_a_row(store: Warehouse) -> None:
    put(store, ("", None, None, None, None), (None, None, None, None, None))
    (batch,) = store.stream(sa.select(streamed.c.word))
    assert batch.column(0).to_pylist() == ["", None]


@pytest.mark.parametrize("word", ["100%", "%s", "it's", "back\\slash", "%(word_1)s", 'a"b'])
def test_the_values_of_a_condition_are_taken_as_they_are(store: Warehouse, word: str) -> None:
    put(store, (word, 1.0, None, None, None), ("other", 2.0, None, None, None))
    for condition in (streamed.c.word == word, streamed.c.word.in_([word, "absent"])):
        (batch,) = store.stream(sa.select(streamed.c.real).where(condition))
        assert batch.column(0).to_pylist() == [1.0]


def test_a_sign_in_a_query_without_values_is_a_sign(store: Warehouse) -> None:
    put(store, ("abc", 1.0, None, None, None), ("x%", 2.0, None, None, None))
    (batch,) = store.stream(sa.select(streamed.c.real).where(sa.text("word LIKE '%c'")))
    assert batch.column(0).to_pylist() == [1.0]


def test_a_server_set_to_few_digits_still_gives_all(store: Warehouse) -> None:
    put(store, (None, 0.1 + 0.2, None, None, None))
    with store.transaction() as connection:
        connection.execute(sa.text("SET LOCAL extra_float_digits = -4"))
        (batch,) = store.stream(sa.select(streamed.c.real), connection)
    assert batch.column(0).to_pylist() == [0.1 + 0.2]


def many(rows: int) -> sa.Select[Any]:
    series = sa.func.generate_series(1, rows).table_valued("n").render_derived()
    return sa.select(series.c.n, sa.func.repeat("x", 100).label("text"))


def test_memory_does_not_grow_with_the_rows(warehouse: Warehouse) -> None:
    rows, batch_rows = 120_000, 8_192
    before, most, seen = pa.total_allocated_bytes(), 0, 0
    tracemalloc.start()
    for batch in warehouse.stream(many(rows), batch_rows=batch_rows):
        seen += batch.num_rows
        most = max(most, pa.total_allocated_bytes() - before)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seen == rows
    # A batch is 0.9 MB, all rows are 13 MB.
    assert most < 4e6
    assert peak < 4e6


def test_rows_that_come_while_it_streams_are_not_seen(store: Warehouse) -> None:
    put(store, *[("first", 1.0, None, None, None)] * 20_000)
    batches = store.stream(sa.select(streamed.c.word), batch_rows=1_000)
    seen = next(batches).num_rows
    with store.transaction() as connection:
        connection.execute(sa.insert(streamed).values(word="second"))
    assert seen + sum(batch.num_rows for batch in batches) == 20_000


def test_who_stops_early_leaves_the_warehouse_usable(warehouse: Warehouse) -> None:
    batches = warehouse.stream(many(200_000), batch_rows=100)
    assert next(batches).num_rows == 100
    batches.close()
    assert warehouse.read(sa.select(sa.literal(1).label("one"))).num_rows == 1
    assert warehouse.engine.pool.checkedout() == 0


def test_a_lost_connection_may_be_tried_again(warehouse: Warehouse) -> None:
    batches = warehouse.stream(many(2_000_000), batch_rows=100)
    next(batches)
    others = sa.text(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE 'COPY%'"
    )
    with warehouse.transaction() as connection:
        assert connection.scalar(others) == 1
    with pytest.raises(TransientError):
        list(batches)


def test_an_error_in_the_middle_shows_no_value(store: Warehouse) -> None:
    put(store, *[("1", 1.0, None, None, None)] * 5_000, (SECRET, None, None, None, None))
    with pytest.raises(PermanentError) as raised:
        list(store.stream(sa.select(sa.cast(streamed.c.word, sa.Integer).label("n")), batch_rows=100))
    assert SECRET not in str(raised.value)
    assert raised.value.__suppress_context__


def test_a_column_that_cannot_be_streamed_is_named(store: Warehouse) -> None:
    for unfit in (sa.func.now(), sa.cast(1, sa.Numeric)):
        with pytest.raises(PermanentError, match="column unfit"):
            next(store.stream(sa.select(unfit.label("unfit"))))


def test_only_a_table_made_in_the_same_transaction_can_be_frozen(store: Warehouse) -> None:
    rows = put(store, ("a", 1.0, True, 1, None))
    with pytest.raises(PermanentError), store.transaction() as connection:
        store.append(connection, streamed, rows, freeze=True)
    with store.transaction() as connection:
        streamed.drop(connection)
        streamed.create(connection)
        store.append(connection, streamed, rows, freeze=True)
    with store.transaction() as connection:
        connection.execute(sa.text("ANALYZE streamed"))
        visible = sa.text("SELECT relallvisible FROM pg_class WHERE relname = 'streamed'")
        assert connection.scalar(visible) == 1
