"""The warehouse: transactions, locks, lost connections, and errors without rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pyarrow as pa
import pytest
import sqlalchemy as sa

from resources.errors import MedscoreError, PermanentError, TransientError
from resources.warehouse import Warehouse
from tests.conftest import address_of
from tests.infrastructure.warehouse_tables import SECRET, add, put, scored, scores, typed


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
