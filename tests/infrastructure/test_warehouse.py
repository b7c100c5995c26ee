"""The warehouse: Arrow in and out unchanged, whatever the values."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime
from typing import Any

import hypothesis.strategies as st
import pyarrow as pa
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings

from resources.errors import PermanentError
from resources.warehouse import Warehouse
from tests.infrastructure.warehouse_tables import DAY, SECRET, add, typed

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
