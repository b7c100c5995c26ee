"""The members of a quarter from the warehouse to Parquet, for an engine on other machines.

Belongs here: one consistent export of one load, and that it is made once. Does not belong here: names and
form of the files (`exchange.py`).
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterator

import pyarrow as pa

from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.readmission.population import queries
from medscore_assets.readmission.population.accumulate import Fingerprint
from medscore_assets.readmission.population.exchange import (
    EXPORT_FILE,
    MEMBERS_SCHEMA,
    Export,
    load_folder,
    read_export,
)
from medscore_assets.readmission.population.publish import require_as_loaded, require_snapshot
from medscore_assets.readmission.population.quarters import Quarter
from medscore_assets.spark.exchange import Exchange
from resources.lake import write_parquet
from resources.warehouse import Warehouse

ROWS_PER_FILE = 8 * 65_536
"""So few that every core of a cluster gets files of its own, and so many that a file is worth opening."""


def export_members(
    warehouse: Warehouse,
    quarter: Quarter,
    exchange: Exchange,
    progress: Callable[[int], None] = lambda rows: None,
    *,
    rows_per_file: int = ROWS_PER_FILE,
) -> tuple[str, Export]:
    """The folder of a quarter's members in Parquet, and what is in it. Made if this load is not there yet.

    Members are streamed: memory holds one row group. `progress` is told the rows of each batch. Raises
    `PermanentError` if there is no snapshot, or it does not hold the members that were loaded.
    """
    with warehouse.transaction() as connection:
        # Counted first: from here on nobody can exchange the snapshot before this transaction ends.
        counted = int(connection.scalar(queries.members_counted(quarter)) or 0)
        snapshot = require_snapshot(warehouse, connection, quarter)
        require_as_loaded(quarter, snapshot, counted)
        folder = load_folder(quarter.key, snapshot)
        if exchange.has(f"{folder}/{EXPORT_FILE}"):
            return folder, read_export(exchange, folder)
        found = Fingerprint()

        def counted_batches() -> Iterator[pa.RecordBatch]:
            size = min(rows_per_file, 65_536)
            for batch in warehouse.stream(queries.members(quarter), connection, batch_rows=size):
                found.add(batch)
                progress(batch.num_rows)
                yield batch

        files = _write(exchange, folder, counted_batches(), -(-rows_per_file // 65_536))
    made = Export(
        quarter=quarter.key,
        loaded_at=snapshot["loaded_at"],
        as_of=snapshot["as_of"],
        rows=found.rows,
        fingerprint=f"{found.value:016x}",
        contract_hash=READMISSION.hash,
        files=tuple(files),
    )
    exchange.put(f"{folder}/{EXPORT_FILE}", made.to_bytes())
    return folder, made


def _write(
    exchange: Exchange, folder: str, batches: Iterator[pa.RecordBatch], batches_per_file: int
) -> list[str]:
    """The names of the files, each with so many batches."""
    files: list[str] = []
    # Two exports at once read in different orders: files of one must not stand among those of the other.
    export = uuid.uuid4().hex[:8]
    for first in batches:
        name = f"members-{export}-{len(files):05}.parquet"
        rows = itertools.chain([first], itertools.islice(batches, batches_per_file - 1))
        with exchange.writing(f"{folder}/{name}") as file:
            write_parquet(file, rows, MEMBERS_SCHEMA, where=exchange.url(f"{folder}/{name}"))
        files.append(name)
    return files
