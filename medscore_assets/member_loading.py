"""Brings a quarter's members into the warehouse, as a snapshot that is there whole or not at all.

Belongs here: the partition of `member_features` that holds a quarter, and the row that says what it is.
Does not belong here: reading or generating members (`demo/`), and what is computed from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime

import pyarrow as pa
import sqlalchemy as sa

from medscore_assets.loading import REPLACEABLE
from medscore_assets.readmission.population.quarters import Quarter
from medscore_assets.tables import member_features, member_snapshots
from resources.errors import PermanentError
from resources.warehouse import Warehouse


def partition_name(quarter: Quarter) -> str:
    """The table that holds the members of a quarter: `member_features_2026_q3`."""
    return f"{member_features.name}_{quarter.year}_q{quarter.number}"


def load_members(
    warehouse: Warehouse,
    quarter: Quarter,
    batches: Iterable[pa.RecordBatch],
    *,
    source: str,
    as_of: datetime,
    replace: bool,
    progress: Callable[[int], None] = lambda rows: None,
) -> int:
    """Write the snapshot of a quarter, in one transaction. Returns the number of members.

    `batches` have columns of `member_features`, the quarter among them; `as_of` has a zone; `progress` is
    told the rows of each batch. Readers see the old snapshot until the end. Raises `PermanentError` if
    there is one and not `replace`, if it is of a source that cannot be loaded again, or if a member comes
    twice; then the old one stands.
    """
    with warehouse.transaction() as connection:
        warehouse.lock(connection, partition_name(quarter))
        _require_room(warehouse, connection, quarter, replace)
        partition = _filled(warehouse, connection, quarter, batches, progress)
        rows = int(connection.scalar(sa.select(sa.func.count()).select_from(partition)) or 0)
        _attach(connection, quarter, partition)
        connection.execute(sa.delete(member_snapshots).where(member_snapshots.c.quarter == quarter.key))
        connection.execute(
            sa.insert(member_snapshots).values(quarter=quarter.key, as_of=as_of, source=source, rows=rows)
        )
    return rows


def _require_room(warehouse: Warehouse, connection: sa.Connection, quarter: Quarter, replace: bool) -> None:
    """Raises `PermanentError` if a snapshot is there that must not be replaced."""
    stored = sa.select(member_snapshots.c.source).where(member_snapshots.c.quarter == quarter.key)
    for present in warehouse.read(stored, connection)["source"].to_pylist():
        replaceable = present in REPLACEABLE
        if not (replace and replaceable):
            raise PermanentError(
                f"the members of {quarter} are loaded already, from {present}",
                where=member_snapshots.name,
                mend="Give --replace to load them again."
                if replaceable
                else "Choose another quarter, or use another MEDSCORE_HOME or MEDSCORE_DATABASE_URL.",
            )


def _filled(
    warehouse: Warehouse,
    connection: sa.Connection,
    quarter: Quarter,
    batches: Iterable[pa.RecordBatch],
    progress: Callable[[int], None],
) -> sa.Table:
    """A table of its own with the rows, their key and statistics, not yet a partition."""
    table = member_features.to_metadata(sa.MetaData(), name=f"{partition_name(quarter)}_loading")
    connection.exec_driver_sql(
        # The check spares the attaching a look at every row.
        f"CREATE TABLE {table.name} (LIKE {member_features.name}, CHECK (quarter = '{quarter}'))"
    )
    for batch in batches:
        warehouse.append(connection, table, pa.Table.from_batches([batch]), freeze=True)
        progress(batch.num_rows)
    connection.exec_driver_sql(
        f"ALTER TABLE {table.name} ADD CONSTRAINT pk_{table.name} PRIMARY KEY (quarter, member_id)"
    )
    connection.exec_driver_sql(f"ANALYZE {table.name}")
    return table


def _attach(connection: sa.Connection, quarter: Quarter, partition: sa.Table) -> None:
    """Put the filled table in the place of the quarter's partition."""
    name = partition_name(quarter)
    connection.exec_driver_sql(f"DROP TABLE IF EXISTS {name}")
    connection.exec_driver_sql(f"ALTER TABLE {partition.name} RENAME TO {name}")
    connection.exec_driver_sql(f"ALTER INDEX pk_{partition.name} RENAME TO pk_{name}")
    connection.exec_driver_sql(
        f"ALTER TABLE {member_features.name} ATTACH PARTITION {name} FOR VALUES IN ('{quarter}')"
    )
