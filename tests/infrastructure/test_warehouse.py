"""The warehouse: Arrow in and out unchanged, exact replacement, locks, and errors without rows."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

import hypothesis.strategies as st
import psycopg
import pyarrow as pa
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from sqlalchemy.dialects.postgresql import JSONB

from resources.errors import MedscoreError, PermanentError, TransientError
from resources.warehouse import Warehouse
from tests.conftest import address_of

SECRET = "patient-4711"

metadata = sa.MetaData()
typed = sa.Table(
    "typed",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=False), primary_key=True),
    sa.Column("whole", sa.Integer),
    sa.Column("real", sa.Double),
    sa.Column("word", sa.Text),
    sa.Column("flag", sa.Boolean),
    sa.Column("day", sa.Date),
    sa.Column("moment", sa.DateTime(timezone=True)),
    sa.Column("document", JSONB),
    sa.Column("noted_at", sa.DateTime(timezone=True), server_default=sa.func.now()),
)
lists = sa.Table(
    "lists", metadata, sa.Column("day", sa.Date, primary_key=True), sa.Column("rows", sa.Integer)
)
scores = sa.Table(
    "scores",
    metadata,
    sa.Column("day", sa.Date, sa.ForeignKey(lists.c.day), primary_key=True),
    sa.Column("encounter", sa.Text, primary_key=True),
    sa.Column("rank", sa.Integer, nullable=False),
    sa.Column("risk", sa.Double, sa.CheckConstraint("risk <= 1", name="risk_bound"), nullable=False),
    sa.Column("scored_at", sa.Text, nullable=False),
    sa.UniqueConstraint("day", "rank", name="one_per_rank"),
)
DAY, NEXT = date(2026, 3, 8), date(2026, 3, 9)
SCHEMA = pa.schema(
    {
        "id": pa.int64(),
        "whole": pa.int64(),
        "real": pa.float64(),
        "word": pa.string(),
        "flag": pa.bool_(),
        "day": pa.date32(),
        "moment": pa.timestamp("us", tz="UTC"),
        "document": pa.string(),
    }
)


@pytest.fixture
def store(warehouse: Warehouse) -> Warehouse:
    with warehouse.transaction() as connection:
        metadata.create_all(connection)
    return warehouse


def add(store: Warehouse, table: sa.Table, rows: pa.Table) -> int:
    with store.transaction() as connection:
        return store.append(connection, table, rows)


def scored(*rows: tuple[str, int, float], day: date = DAY, at: str = "first") -> pa.Table:
    columns = {
        "day": pa.array([day] * len(rows), pa.date32()),
        "encounter": pa.array([row[0] for row in rows], pa.string()),
        "rank": pa.array([row[1] for row in rows], pa.int64()),
        "risk": pa.array([row[2] for row in rows], pa.float64()),
        "scored_at": pa.array([at] * len(rows), pa.string()),
    }
    return pa.table(columns)


def put(store: Warehouse, rows: pa.Table, day: date = DAY) -> int:
    with store.transaction() as connection:
        store.lock(connection, f"scores/{day}")
        header = pa.table({"day": pa.array([day], pa.date32()), "rows": [rows.num_rows]})
        store.replace(connection, lists, header, lists.c.day == day)
        return store.replace(connection, scores, rows, scores.c.day == day, keep_if_unchanged=("scored_at",))


def stored(store: Warehouse) -> list[tuple[Any, ...]]:
    table = store.read(sa.select(scores).order_by(scores.c.day, scores.c.rank))
    return [tuple(row.values()) for row in table.to_pylist()]


# Reading and writing


def test_every_type_comes_back_as_it_went_with_nulls(store: Warehouse) -> None:
    moment = datetime(2026, 3, 8, 6, 59, 59, 999_999, tzinfo=UTC)
    rows = pa.Table.from_pylist(
        [
            {"id": 1, "whole": -5, "real": 0.1, "word": "plain", "flag": True, "day": DAY, "moment": moment}
            | {"document": '{"a": [1, null]}'},
            {"id": 2, "whole": 0, "real": -0.0, "word": "", "flag": False, "day": date(1969, 12, 31)}
            | {"moment": datetime(1900, 1, 1, tzinfo=UTC), "document": "[]"},
            {"id": 3, "word": "NULL", "real": float("inf")},
            {"id": 4, "word": '"quoted", comma\nline\r\n\\.\n\ttab \\N ü 🏥'},
        ],
        schema=SCHEMA,
    )
    assert add(store, typed, rows) == 4
    query = sa.select(*(typed.c[name] for name in SCHEMA.names)).order_by(typed.c.id)
    found = store.read(query)
    assert found.schema == SCHEMA
    assert found.equals(rows)


@given(
    words=st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])) | st.none()),
    reals=st.lists(st.floats(allow_nan=False) | st.none()),
    moments=st.lists(
        st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30), timezones=st.just(UTC))  # noqa: DTZ001
        | st.none()
    ),
)
@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_text_real_and_time_comes_back_as_it_went(
    store: Warehouse, words: list[Any], reals: list[Any], moments: list[Any]
) -> None:
    rows = pa.concat_tables(
        [
            pa.table({name: pa.array(values, SCHEMA.field(name).type)})
            for name, values in (("word", words), ("real", reals), ("moment", moments))
        ],
        promote_options="default",
    )
    with store.transaction() as connection:
        connection.execute(sa.delete(typed))
        store.append(connection, typed, rows)
        found = store.read(
            sa.select(typed.c.word, typed.c.real, typed.c.moment).order_by(typed.c.id), connection
        )
    assert found.equals(rows)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("word", [None, "", " ", "NULL", '""', '"', ",", "\n", "\r\n", "\\.", "\\N", "%s %% {}", None]),
        ("word", [None]),
        ("word", [""]),
        ("real", [None, 0.0, -0.0, float("inf"), -float("inf"), 5e-324, 1.7976931348623157e308, 0.1 + 0.2]),
        ("flag", [None, True, False]),
        ("flag", [None]),
        ("whole", [None, 2**31 - 1, -(2**31)]),
        ("day", [None, date(1, 1, 1), date(9999, 12, 31)]),
        ("moment", [None, datetime(2026, 11, 1, 5, 59, 59, 100_000, tzinfo=UTC)]),
        ("document", [None, "null", '""', "[]", '{"a": "x, \\"y\\"\\n"}']),
    ],
)
def test_a_column_read_alone_keeps_null_empty_and_every_value(
    store: Warehouse, column: str, values: list[Any]
) -> None:
    rows = pa.table({column: pa.array(values, SCHEMA.field(column).type)})
    add(store, typed, rows)
    found = store.read(sa.select(typed.c[column]).order_by(typed.c.id))
    assert found.equals(rows)
    assert list(map(str, found[column].to_pylist())) == list(map(str, values))


def test_a_real_that_is_not_a_number_is_none_of_the_others(store: Warehouse) -> None:
    add(store, typed, pa.table({"real": pa.array([float("nan"), None, 1.0])}))
    nan, null, one = store.read(sa.select(typed.c.real).order_by(typed.c.id))["real"].to_pylist()
    assert nan is not None
    assert nan != nan
    assert (null, one) == (None, 1.0)


def test_a_text_larger_than_a_block_and_a_name_given_twice(store: Warehouse) -> None:
    long = 'line "one"\n' * 300_000
    add(store, typed, pa.table({"word": [long, "short"]}))
    found = store.read(sa.select(typed.c.word, typed.c.id.label("word")).order_by(typed.c.id))
    assert [column.to_pylist() for column in found.columns] == [[long, "short"], [1, 2]]


@pytest.mark.parametrize("value", ["it's", "100 %", "%(x)s", "a\\b", '"q"', "$1; --", "\n", "ü"])
def test_a_value_in_a_condition_is_only_a_value(store: Warehouse, value: str) -> None:
    add(store, typed, pa.table({"word": [value, "other"]}))
    query = sa.select(typed.c.word, sa.literal(value).label("%")).where(typed.c.word == value)
    assert store.read(query).to_pylist() == [{"word": value, "%": value}]
    assert store.read(sa.select(typed.c.word).where(typed.c.word.in_([value]))).num_rows == 1


def test_columns_go_by_name_and_absent_ones_get_their_default(store: Warehouse) -> None:
    add(store, typed, pa.table({"word": ["a", "b"], "whole": [2, 1]}))
    (first, second) = store.read(sa.select(typed).order_by(typed.c.id)).to_pylist()
    assert (first["word"], first["whole"], second["word"], second["whole"]) == ("a", 2, "b", 1)
    assert first["noted_at"] is not None
    assert (first["id"], second["id"]) == (1, 2)


def test_no_rows_are_a_table_with_all_columns(store: Warehouse) -> None:
    assert add(store, typed, SCHEMA.empty_table()) == 0
    found = store.read(sa.select(typed.c.word, typed.c.day))
    assert found.num_rows == 0
    assert found.schema == pa.schema({"word": pa.string(), "day": pa.date32()})


def test_a_query_may_count_bind_and_list(store: Warehouse) -> None:
    add(store, typed, pa.table({"word": ["a", "b", "c%"], "whole": [1, 2, 3]}))
    query = sa.select(sa.func.count().label("n"), sa.func.max(typed.c.whole).label("top"))
    assert store.read(query.where(typed.c.word.in_(["a", "c%"]))).to_pylist() == [{"n": 2, "top": 3}]


def test_times_are_utc_whatever_zone_they_were_given_in(store: Warehouse) -> None:
    given_in = pa.array([datetime(2026, 3, 8, 12, tzinfo=UTC)], pa.timestamp("us", tz="America/New_York"))
    add(store, typed, pa.table({"moment": given_in}))
    assert store.read(sa.select(typed.c.moment))["moment"].to_pylist() == [
        datetime(2026, 3, 8, 12, tzinfo=UTC)
    ]


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("whole", pa.array([SECRET])),
        ("whole", pa.array([1.5])),
        ("flag", pa.array([SECRET])),
        ("moment", pa.array([datetime(2026, 3, 8)], pa.timestamp("us"))),  # noqa: DTZ001
        ("absent", pa.array([SECRET])),
        ("whole", pa.array([2**40])),
        ("word", pa.array([f"{SECRET}\0"])),
        ("document", pa.array([f"{{{SECRET}"])),
    ],
)
def test_values_that_do_not_fit_are_refused_without_being_shown(
    store: Warehouse, column: str, values: pa.Array
) -> None:
    with pytest.raises(PermanentError) as caught:
        add(store, typed, pa.table({column: values}))
    assert SECRET not in f"{caught.value!r}{caught.value.__cause__}"
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert store.read(sa.select(typed)).num_rows == 0


def test_a_type_without_an_arrow_type_is_refused(store: Warehouse) -> None:
    with pytest.raises(PermanentError, match="numeric"):
        store.read(sa.select(sa.literal(1).cast(sa.Numeric)))


@pytest.mark.slow
def test_it_is_quick_for_a_morning_list_and_for_many_rows(store: Warehouse) -> None:
    for rows, limit in ((800, 0.1), (100_000, 10.0)):
        many = pa.table({"word": ["a word"] * rows, "whole": range(rows), "real": [0.5] * rows})
        add(store, typed, many)
        started = time.thread_time()
        add(store, typed, many)
        store.read(sa.select(typed.c.word, typed.c.whole, typed.c.real).limit(rows))
        assert time.thread_time() - started < limit


# Replacing


def test_a_part_becomes_exactly_the_rows(store: Warehouse) -> None:
    put(store, scored(("a", 1, 0.9), ("b", 2, 0.5), ("c", 3, 0.1)))
    put(store, scored(("x", 1, 0.4), day=NEXT), NEXT)
    assert put(store, scored(("b", 1, 0.6), ("c", 2, 0.1), ("d", 3, 0.05), at="second")) > 0
    assert [row[1:4] for row in stored(store)] == [
        ("b", 1, 0.6),
        ("c", 2, 0.1),
        ("d", 3, 0.05),
        ("x", 1, 0.4),
    ]
    assert put(store, scored()) == 3
    assert [row[1] for row in stored(store)] == ["x"]


def test_the_same_rows_again_write_nothing_and_keep_their_time(store: Warehouse) -> None:
    rows = [("a", 1, 0.9), ("b", 2, 0.5)]
    put(store, scored(*rows))
    before = stored(store)
    assert put(store, scored(*rows, at="later")) == 0
    assert stored(store) == before
    put(store, scored(("a", 1, 0.9), ("b", 2, 0.6), at="later"))
    assert [(row[1], row[4]) for row in stored(store)] == [("a", "first"), ("b", "later")]


def test_rows_that_swap_a_unique_value_do_not_collide(store: Warehouse) -> None:
    put(store, scored(("a", 1, 0.9), ("b", 2, 0.5), ("c", 3, 0.1)))
    put(store, scored(("c", 1, 0.9), ("a", 2, 0.5), ("b", 3, 0.1)))
    assert [row[1] for row in stored(store)] == ["c", "a", "b"]


def test_a_row_that_others_point_to_is_updated_in_place(store: Warehouse) -> None:
    put(store, scored(("a", 1, 0.9)))
    put(store, scored(("a", 1, 0.9), ("b", 2, 0.5)))
    assert store.read(sa.select(lists))["rows"].to_pylist() == [2]


def test_null_and_a_value_differ(store: Warehouse) -> None:
    def write(value: int | None) -> int:
        rows = pa.table({"id": [1], "whole": pa.array([value], pa.int64())})
        with store.transaction() as connection:
            return store.replace(connection, typed, rows, sa.true())

    assert [write(None), write(None), write(1), write(1), write(None)] == [1, 0, 1, 0, 1]


def test_a_row_of_another_part_or_a_repeated_key_is_refused_and_nothing_changes(store: Warehouse) -> None:
    put(store, scored(("a", 1, 0.9)))
    put(store, scored(("a", 1, 0.4), day=NEXT), NEXT)
    before = stored(store)
    stray = pa.concat_tables([scored(("b", 1, 0.8)), scored(("a", 1, 0.7), day=NEXT)])
    with pytest.raises(PermanentError, match="only rows of the part"):
        put(store, stray)
    with pytest.raises(PermanentError) as caught:
        put(store, scored((SECRET, 1, 0.8), (SECRET, 2, 0.7)))
    assert SECRET not in str(caught.value)
    assert stored(store) == before


def test_a_key_column_that_is_absent_is_named(store: Warehouse) -> None:
    with pytest.raises(PermanentError, match=r"scores\.encounter"), store.transaction() as connection:
        store.replace(connection, scores, scored(("a", 1, 0.9)).drop(["encounter"]), scores.c.day == DAY)


@pytest.mark.faults
def test_replacements_of_one_part_at_once_leave_the_rows_of_one_of_them(store: Warehouse) -> None:
    attempts = [
        scored(*((f"{n}-{i % (n + 3)}", i + 1, 0.5) for i in range(n + 3)), at=str(n)) for n in range(6)
    ]
    failures: list[Exception] = []

    def run(rows: pa.Table) -> None:
        try:
            for _ in range(5):
                put(store, rows)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(rows,)) for rows in attempts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert {row[1] for row in stored(store)} in [set(rows["encounter"].to_pylist()) for rows in attempts]


# Transactions, locks and errors


def test_an_error_inside_rolls_everything_back_and_passes_through(store: Warehouse) -> None:
    with pytest.raises(ZeroDivisionError), store.transaction() as connection:
        store.append(connection, typed, pa.table({"whole": [1]}))
        _ = 1 // 0
    assert store.read(sa.select(typed)).num_rows == 0


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([(SECRET, 1, 2.0)], "risk_bound"),
        ([(SECRET, 1, 0.5), (SECRET + "!", 1, 0.5)], "one_per_rank"),
        ([(SECRET, 1, 0.5)], "scores_day_fkey"),
    ],
)
def test_a_broken_constraint_is_named_and_no_row_is_shown(
    store: Warehouse, rows: list[Any], named: str
) -> None:
    if named != "scores_day_fkey":
        put(store, scored())
    with pytest.raises(PermanentError, match=named) as caught:
        add(store, scores, scored(*rows))
    assert SECRET not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_table_that_is_not_there_asks_for_the_upgrade(store: Warehouse) -> None:
    with pytest.raises(PermanentError, match="medscore db upgrade"):
        store.read(sa.select(sa.column("x")).select_from(sa.table("nowhere")))


def test_a_lock_is_waited_for_and_then_given_up(store: Warehouse) -> None:
    with store.transaction() as holder:
        store.lock(holder, "day/1")
        with store.transaction() as other:
            store.lock(other, "day/2", wait_s=0.2)
        with pytest.raises(TransientError, match="lock not available"), store.transaction() as other:
            store.lock(other, "day/1", wait_s=0.2)
    with store.transaction() as other:
        store.lock(other, "day/1", wait_s=0.2)


@pytest.mark.faults
def test_a_lost_connection_is_transient_and_the_next_use_connects_anew(
    store: Warehouse, postgres: str
) -> None:
    with pytest.raises(TransientError), store.transaction() as connection:
        pid = connection.scalar(sa.select(sa.func.pg_backend_pid()))
        with psycopg.connect(postgres, autocommit=True) as server:
            server.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
        connection.execute(sa.select(1))
    assert store.read(sa.select(sa.literal(1).label("one"))).to_pylist() == [{"one": 1}]


@pytest.fixture
def unreachable(tmp_path: Any) -> Iterator[Warehouse]:
    opened = Warehouse(f"postgresql+psycopg://me:{SECRET}@/medscore?host={tmp_path}")
    yield opened
    opened.close()


def test_a_server_that_is_not_there_is_transient(unreachable: Warehouse) -> None:
    with pytest.raises(TransientError, match="does not answer") as caught:
        unreachable.read(sa.select(1))
    assert SECRET not in str(caught.value)


def test_a_database_that_is_not_there_is_permanent(postgres: str) -> None:
    with pytest.raises(PermanentError, match="medscore db upgrade"):
        Warehouse(address_of(postgres, "nowhere")).read(sa.select(1))


def test_the_address_is_asked_for_late_and_again_after_a_loss(database: str, tmp_path: Any) -> None:
    answers = iter([f"postgresql+psycopg://me@/x?host={tmp_path}", database])
    opened = Warehouse(lambda: next(answers))
    with pytest.raises(MedscoreError):
        opened.read(sa.select(1))
    assert opened.read(sa.select(sa.literal(1).label("one"))).num_rows == 1
    opened.close()
