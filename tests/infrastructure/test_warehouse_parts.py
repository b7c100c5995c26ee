"""The warehouse: a part of a table becomes exactly the rows that are given."""

from __future__ import annotations

import threading

import pyarrow as pa
import pytest
import sqlalchemy as sa

from resources.errors import PermanentError
from resources.warehouse import Warehouse
from tests.infrastructure.warehouse_tables import DAY, NEXT, SECRET, lists, put, scored, scores, stored, typed


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
