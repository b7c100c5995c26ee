"""Importer of Fitabase's "minuteStepsWide": a row for each person and hour, columns Steps00 to Steps59.

Belongs here: what the file must look like and how its rows become raw records.
Does not belong here: plausibility of counts (`mobility/daily.py`), writing into the lake (`loading.py`).

What the source does not have, and what stands in its place:

* The zone. Hours are of the wall clock, in no stated zone; the caller declares the one zone of all
  people in the file. A row that repeats the row before (same person and hour) in an hour that the
  zone's clocks repeat is the second of the two.
* Worn or not. An hour without steps is in the file whether the device was worn or not. Its 60 zeros are
  taken as records, since nothing tells the two apart.
* The device: `DEVICE` for all.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from medscore_assets.mobility.importers.archives import UNREADABLE, Part, opened, parts, unreadable
from medscore_assets.mobility.importers.records import (
    MINUTE,
    NO_COUNT,
    NO_TIME,
    SKIPPED_TIME,
    Progress,
    Report,
    constant,
    from_wall_clock,
    raw_batch,
    whole_numbers,
)
from resources.errors import PermanentError

DEVICE: Final = "fitbit"
PERSON, HOUR = "Id", "ActivityHour"
MINUTES: Final = tuple(f"Steps{minute:02d}" for minute in range(60))
HOUR_FORMATS: Final = ("%m/%d/%Y %H:%M", "%m/%d/%Y %I:%M:%S %p")
MEND: Final = "Give Fitabase's minuteStepsWide_merged.csv or .csv.gz."
OTHER_PERSON: Final = "another person's"
NO_PERSON: Final = "the person is missing"
WRONG_WIDTH: Final = "the row has more or fewer fields than the header"


def read(
    path: Path,
    zone: ZoneInfo,
    report: Report,
    *,
    patient: str | None = None,
    progress: Progress | None = None,
) -> Iterator[pa.RecordBatch]:
    """Raw batches of a file, in its order, by the minute. `patient`: take only this Id.

    The report's rows are minutes; places are row numbers, the header being row 1. Raises
    `PermanentError` naming file and column when the file is not of this kind.
    """
    if path.is_dir() or path.suffix.lower() == ".zip":
        raise PermanentError("this is a folder or an archive", where=str(path), mend=MEND)
    (part,) = parts(path, MEND, max_bytes=0)
    with opened(part, MEND, progress) as file:
        yield from _batches(file, part, zone, report, patient)


def _batches(
    file: IO[bytes], part: Part, zone: ZoneInfo, report: Report, patient: str | None
) -> Iterator[pa.RecordBatch]:
    misfits: list[int] = []
    before = 0
    previous = ("", "")
    try:
        for rows in _reader(file, part, misfits):
            numbers = _row_numbers(before, rows.num_rows, misfits)
            before += rows.num_rows
            yield report.count(_records(rows, numbers, previous, zone, report, patient))
            previous = (rows.column(PERSON)[-1].as_py(), rows.column(HOUR)[-1].as_py())
    except (pa.ArrowInvalid, *UNREADABLE):
        raise unreadable(str(part), MEND) from None
    for number in misfits:
        report.refuse(WRONG_WIDTH, len(MINUTES), f"row {number}")


def _reader(file: IO[bytes], part: Part, misfits: list[int]) -> Iterator[pa.RecordBatch]:
    """The rows as texts, in blocks. `misfits` gets the row numbers of rows of another width."""

    def misfit(row: pacsv.InvalidRow) -> str:
        misfits.append(row.number)
        return "skip"

    columns = (PERSON, HOUR, *MINUTES)
    reader = pacsv.open_csv(
        file,
        # Only one thread knows the numbers of the rows that it skips.
        read_options=pacsv.ReadOptions(use_threads=False),
        parse_options=pacsv.ParseOptions(invalid_row_handler=misfit),
        convert_options=pacsv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string())),
    )
    absent = [name for name in columns if name not in reader.schema.names]
    if absent:
        raise PermanentError(
            f"the header lacks {', '.join(absent[:3])}{' and more' if len(absent) > 3 else ''}",
            where=f"{part}, row 1",
            mend=MEND,
        )
    return (batch for batch in reader if batch.num_rows)


def _row_numbers(before: int, rows: int, misfits: list[int]) -> npt.NDArray[np.int64]:
    """Where in the file the next rows stand, given how many were read and which were skipped."""
    numbers = np.arange(before + 2, before + 2 + rows)
    for misfit in sorted(misfits):
        numbers[numbers >= misfit] += 1
    return numbers


def _records(
    rows: pa.RecordBatch,
    numbers: npt.NDArray[np.int64],
    previous: tuple[str, str],
    zone: ZoneInfo,
    report: Report,
    patient: str | None,
) -> pa.RecordBatch:
    """The raw records of some rows, minute by minute, without what the report says was refused."""
    people, hours = rows.column(PERSON), rows.column(HOUR)
    moments, lost = from_wall_clock(_hours(hours), zone, _repeats(people, hours, previous))
    reasons = {
        NO_PERSON: np.asarray(pc.equal(pc.utf8_trim_whitespace(people), "")),
        OTHER_PERSON: np.asarray(pc.not_equal(people, patient if patient is not None else people)),
        NO_TIME: np.isnat(_hours(hours)),
        SKIPPED_TIME: lost,
    }
    wanted = np.ones(rows.num_rows, dtype=bool)
    for reason, mask in reasons.items():
        found = mask & wanted
        if found.any():
            report.refuse(reason, int(found.sum()) * len(MINUTES), f"row {numbers[found][0]}")
        wanted &= ~mask
    counts, fit = whole_numbers(pa.concat_arrays([rows.column(name) for name in MINUTES]))
    # Column by column in the file's block, row by row in the lake.
    counts = counts.reshape(len(MINUTES), rows.num_rows).T
    fit = fit.reshape(len(MINUTES), rows.num_rows).T
    for row, minute in np.argwhere(~fit & wanted[:, None])[:1]:
        place = f"row {numbers[row]}, {MINUTES[minute]}"
        report.refuse(NO_COUNT, int((~fit & wanted[:, None]).sum()), place)
    taken = (fit & wanted[:, None]).ravel()
    report.taken += int(taken.sum())
    minutes = moments[:, None] + np.arange(len(MINUTES)) * MINUTE
    n = int(taken.sum())
    return raw_batch(
        people.take(pa.array(np.repeat(np.arange(rows.num_rows), len(MINUTES))[taken])),
        minutes.ravel()[taken],
        constant(zone.key, n),
        counts.ravel()[taken],
        constant(DEVICE, n),
    )


def _hours(texts: pa.Array) -> npt.NDArray[np.datetime64]:
    """Wall-clock hours, NaT where the text is none."""
    import pandas as pd

    found = pd.Series(texts.to_numpy(zero_copy_only=False))
    hours = pd.to_datetime(found, format=HOUR_FORMATS[0], errors="coerce")
    for other in HOUR_FORMATS[1:]:
        hours = hours.fillna(pd.to_datetime(found, format=other, errors="coerce"))
    return hours.to_numpy().astype("datetime64[us]")


def _repeats(people: pa.Array, hours: pa.Array, previous: tuple[str, str]) -> npt.NDArray[np.bool_]:
    """A mask of the rows with person and hour of the row before."""
    person, hour = (
        np.append([before], texts.to_numpy(zero_copy_only=False))
        for before, texts in zip(previous, (people, hours), strict=True)
    )
    return np.asarray((person[1:] == person[:-1]) & (hour[1:] == hour[:-1]))
