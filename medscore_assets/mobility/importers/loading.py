"""From an importer's batches to raw files of the lake, once however often they are imported.

Belongs here: rows by UTC day, in an order that depends on nothing but the rows.
Does not belong here: formats of sources, and where the lake's files are (`resources/lake.py`).

A file is named for its content. So a second import writes nothing, and a later export of the same person
adds the days that are new or have changed; records that two files share are one in the daily table.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any, Final

import numpy as np
import pyarrow as pa

from medscore_assets.mobility.importers.records import SECOND, Report
from medscore_assets.mobility.raw import RAW_STEPS
from resources.errors import PermanentError
from resources.lake import Lake

DAY: Final = 86_400 * SECOND
EPOCH: Final = date(1970, 1, 1)
ORDER: Final = ("timestamp", "patient_id", "device", "zone", "count")


@dataclass(frozen=True, slots=True)
class Loaded:
    """Which UTC days got a file, and which had the same content already."""

    written: list[date]
    unchanged: list[date]

    def as_dict(self) -> dict[str, Any]:
        """Counts of files, and the first and last day of the source. Fit for JSON."""
        days = sorted(self.written + self.unchanged)
        return {
            "files_written": len(self.written),
            "files_unchanged": len(self.unchanged),
            "first_day": days[0].isoformat(),
            "last_day": days[-1].isoformat(),
        }


def load(
    lake: Lake, batches: Iterable[pa.RecordBatch], report: Report, *, source: str, arrival: datetime
) -> Loaded:
    """Write raw batches into the lake, a file for each UTC day.

    All batches are read before the first file is written: a source that breaks off leaves nothing. They
    are held in memory, about 100 bytes for each record. `source` is named where no record was taken:
    then `PermanentError` is raised, with the reasons.
    """
    table = pa.Table.from_batches([_plain(b) for b in batches], schema=_PLAIN)
    if not table.num_rows:
        reasons = "; ".join(f"{r.rows:,} x {why}, first at {r.first}" for why, r in report.refused.items())
        raise PermanentError(
            f"no record was taken{f': {reasons}' if reasons else ''}",
            where=source,
            mend="Look whether this is the right file, and the right person.",
        )
    table = table.sort_by([(name, "ascending") for name in ORDER])
    # Whole days since 1970, rounded down before it as well.
    numbers = table["timestamp"].cast(pa.int64()).to_numpy() // DAY
    edges = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
    written: list[date] = []
    unchanged: list[date] = []
    for start, stop in pairwise(edges):
        day = EPOCH + timedelta(days=int(numbers[start]))
        present = lake.files(RAW_STEPS, day)
        name = lake.add_file(
            RAW_STEPS, day, table.slice(start, stop - start), arrival=arrival.astimezone(UTC)
        )
        (unchanged if name in present else written).append(day)
    return Loaded(written, unchanged)


_PLAIN: Final = pa.schema(
    [(f.name, f.type.value_type if pa.types.is_dictionary(f.type) else f.type) for f in RAW_STEPS.schema]
)
"""The raw schema with texts instead of dictionaries, which would carry over what stands in other days."""


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([batch.column(f.name).cast(f.type) for f in _PLAIN], schema=_PLAIN)
