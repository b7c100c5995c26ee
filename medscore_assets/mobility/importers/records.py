"""What every importer of step counts shares: what became of the source's rows, clocks, and raw batches.

Belongs here: the report of an import, the zone's clock, the shape of a raw batch.
Does not belong here: any one source's format (a module each), archives (`archives.py`), and writing
into the lake (`loading.py`).

Importers take whatever can be a raw record, plausible or not: what counts as impossible is decided once,
where the day is made (`mobility/daily.py`). They refuse only what cannot be a record at all, and count it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from medscore_assets.mobility.raw import RAW_STEPS
from resources.errors import PermanentError

Progress = Callable[[int, int], None]
"""Told how many bytes of how many are read."""
Bools = npt.NDArray[np.bool_]
Moments = npt.NDArray[np.int64]
"""Microseconds since 1970 in UTC."""

SECOND: Final = 1_000_000
MINUTE: Final = 60 * SECOND

NO_COUNT: Final = "the count is missing, or no whole number of 32 bits"
NO_TIME: Final = "the time cannot be read"
SKIPPED_TIME: Final = "the zone's clocks skipped this time"


@dataclass(frozen=True, slots=True)
class Refused:
    """Rows of the source refused for one reason: how many, and where the first one stands."""

    rows: int
    first: str


@dataclass
class Report:
    """What became of the source's rows. Filled while the batches are read; complete when they are through.

    `taken`: rows of the source (a row of a table, an element) that became records, wholly or in part.
    `records`: raw records made of them. `steps`: their sum. `refused`: by reason; in a file with many
    counts to a row, the rows are its counts. Holds no value of any patient.
    """

    taken: int = 0
    records: int = 0
    steps: int = 0
    refused: dict[str, Refused] = field(default_factory=dict)

    def refuse(self, reason: str, rows: int, first: str) -> None:
        """Count rows that were not taken; of several calls, the first one's place stays."""
        if rows:
            earlier = self.refused.get(reason)
            self.refused[reason] = Refused(
                rows + (earlier.rows if earlier else 0), earlier.first if earlier else first
            )

    def count(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The same batch, its records and steps counted."""
        self.records += batch.num_rows
        self.steps += pc.sum(batch.column("count").cast(pa.int64()), min_count=0).as_py()
        return batch

    def as_dict(self) -> dict[str, Any]:
        """Fit for JSON."""
        refused = [{"reason": why, "rows": r.rows, "first": r.first} for why, r in self.refused.items()]
        return {"taken": self.taken, "records": self.records, "steps": self.steps, "refused": refused}


def known_zone(name: str) -> ZoneInfo:
    """The zone of an IANA name; `PermanentError` for anything else."""
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError):
        raise PermanentError(
            "this is not the IANA name of a time zone",
            where="--zone",
            mend="Give the zone in which the device was worn, such as Europe/Berlin.",
        ) from None


def from_wall_clock(
    wall: npt.NDArray[np.datetime64], zone: ZoneInfo, second_time: Bools
) -> tuple[Moments, Bools]:
    """UTC of wall-clock times, and a mask of those that the zone's clocks skipped (their UTC is 0).

    Of an hour that the clocks repeat, the first is meant, and the second where `second_time` says so.
    Missing times are 0 and not in the mask.
    """
    import pandas as pd

    index = pd.DatetimeIndex(wall.astype("datetime64[us]"))
    local = index.tz_localize(zone, ambiguous=~second_time, nonexistent="NaT")
    lost = np.asarray(local.isna())
    moments = local.tz_convert("UTC").tz_localize(None).to_numpy().astype("datetime64[us]").astype(np.int64)
    return np.where(lost, 0, moments), lost & ~np.isnat(wall)


def whole_numbers(texts: pa.Array) -> tuple[npt.NDArray[np.int64], Bools]:
    """Texts as numbers, and a mask of those that are whole numbers of 32 bits (the others are 0)."""
    # Ten digits at most, so that the cast below cannot fail.
    digits = pc.match_substring_regex(texts, r"^\s*[+-]?\d{1,10}(\.0*)?\s*$").fill_null(False)
    plain = pc.replace_substring_regex(texts, r"[\s+]|\.0*\s*$", "")
    numbers = pc.if_else(digits, plain, "0").cast(pa.int64()).to_numpy(zero_copy_only=False)
    fit = np.asarray(digits) & (np.abs(numbers) <= np.iinfo(np.int32).max)
    return np.where(fit, numbers, 0), fit


def raw_batch(
    patients: pa.Array, moments: Moments, zones: pa.Array, counts: npt.NDArray[np.int64], devices: pa.Array
) -> pa.RecordBatch:
    """A batch of the lake's raw records from its columns: texts plain or dictionary-encoded."""
    columns = {
        "patient_id": patients,
        "timestamp": pa.array(moments, pa.timestamp("us", "UTC")),
        "zone": zones,
        "count": pa.array(counts, pa.int64()),
        "device": devices,
    }
    return pa.RecordBatch.from_arrays(
        [_as(columns[f.name], f.type) for f in RAW_STEPS.schema], schema=RAW_STEPS.schema
    )


def constant(text: str, rows: int) -> pa.Array:
    """One text for every row."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, dtype=np.int32)), pa.array([text]))


def _as(column: pa.Array, wanted: pa.DataType) -> pa.Array:
    return column if column.type == wanted else column.cast(wanted)
