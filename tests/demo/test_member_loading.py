"""A quarter's members are there whole or not at all, and never mixed with others."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pyarrow as pa
import pytest
import sqlalchemy as sa

from medscore_assets.demo.members import SCHEMA, members
from medscore_assets.member_loading import load_members
from medscore_assets.readmission.population.quarters import Quarter
from medscore_assets.tables import member_features, member_snapshots
from resources.errors import PermanentError
from resources.warehouse import Warehouse

Q2, Q3 = Quarter(2026, 2), Quarter(2026, 3)
AS_OF = datetime(2026, 10, 1, tzinfo=UTC)


def load(
    warehouse: Warehouse,
    batches: Iterator[pa.RecordBatch],
    quarter: Quarter = Q3,
    *,
    replace: bool = False,
    source: str = "demo",
) -> int:
    return load_members(warehouse, quarter, batches, source=source, as_of=AS_OF, replace=replace)


def stored(warehouse: Warehouse, quarter: Quarter = Q3) -> pa.Table:
    query = sa.select(member_features).where(member_features.c.quarter == quarter.key)
    return pa.Table.from_batches(warehouse.stream(query), SCHEMA).sort_by("member_id")


def snapshots(warehouse: Warehouse) -> dict[str, tuple[str, int]]:
    rows = warehouse.read(sa.select(member_snapshots)).to_pylist()
    return {row["quarter"]: (row["source"], row["rows"]) for row in rows}


def test_each_quarter_is_loaded_as_it_was_generated(warehouse: Warehouse) -> None:
    for quarter, count in ((Q2, 300), (Q3, 500)):
        assert load(warehouse, members(count, quarter, 1), quarter) == count
        generated = pa.Table.from_batches(members(count, quarter, 1))
        assert repr(stored(warehouse, quarter).to_pylist()) == repr(generated.to_pylist())
    assert snapshots(warehouse) == {"2026-Q2": ("demo", 300), "2026-Q3": ("demo", 500)}


def test_a_loaded_quarter_is_only_replaced_when_asked(warehouse: Warehouse) -> None:
    load(warehouse, members(50, Q3, 1))
    with pytest.raises(PermanentError, match=r"2026-Q3 are loaded already.*--replace"):
        load(warehouse, members(60, Q3, 2))
    assert load(warehouse, members(60, Q3, 2), replace=True) == 60
    assert repr(stored(warehouse).to_pylist()) == repr(pa.Table.from_batches(members(60, Q3, 2)).to_pylist())
    assert snapshots(warehouse) == {"2026-Q3": ("demo", 60)}


def test_the_old_snapshot_is_seen_until_the_end_and_stands_if_the_load_breaks(warehouse: Warehouse) -> None:
    load(warehouse, members(50, Q3, 1))
    before = stored(warehouse)

    def breaking() -> Iterator[pa.RecordBatch]:
        yield from members(60, Q3, 2)
        assert stored(warehouse).equals(before)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(warehouse, breaking(), replace=True)
    assert stored(warehouse).equals(before)
    assert snapshots(warehouse) == {"2026-Q3": ("demo", 50)}


def test_members_that_come_twice_or_are_of_another_quarter_are_refused(warehouse: Warehouse) -> None:
    def twice() -> Iterator[pa.RecordBatch]:
        yield from members(10, Q3, 1)
        yield from members(1, Q3, 1)

    for batches in (twice(), members(10, Q2, 1)):
        with pytest.raises(PermanentError) as raised:
            load(warehouse, batches)
        assert "DEMO-M" not in str(raised.value)
    assert snapshots(warehouse) == {}
    assert stored(warehouse).num_rows == 0


def test_demo_members_never_replace_those_of_a_feed(warehouse: Warehouse) -> None:
    load(warehouse, members(10, Q3, 1), source="an insurer")
    with pytest.raises(PermanentError, match=r"from an insurer.*Choose another quarter"):
        load(warehouse, members(10, Q3, 1), replace=True)
