"""Reads the waits that emergency departments post, as somebody wrote them down from time to time.

Belongs here: the file's form, and the series of it. Does not belong here: forecasts of such series
(`wait_times/posted_experiment.py`).

A file has a column Time, on the wall clock of the departments' zone or with an offset, and one column per
department. What is posted is not what patients then wait: a series of it can be forecast, and nothing more.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

import pyarrow as pa

from medscore_assets.wait_times.importers.records import TWICE, RefusedRow, Report, in_utc, iso_moment
from medscore_assets.wait_times.importers.versions import MOMENT
from resources.errors import PermanentError

TIME: Final = "Time"
UNITS: Final = {"hours": 60.0, "minutes": 1.0}
"""Minutes in one of the unit."""
MOST_MINUTES: Final = 24 * 60

SERIES_SCHEMA = pa.schema(
    [
        pa.field("facility_id", pa.string(), nullable=False),
        pa.field("seen_at", MOMENT, nullable=False),
        pa.field("wait_minutes", pa.float64(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class PostedWaits:
    """`series`: what was posted when (`SERIES_SCHEMA`), by facility and time. `zone` is the departments'."""

    series: pa.Table
    zone: ZoneInfo


def read_posted_waits(path: Path, zone: ZoneInfo, report: Report, *, unit: str = "hours") -> PostedWaits:
    """The posted waits of a CSV file, in minutes. `unit` is that of the file, one of `UNITS`.

    A time of an hour that the clocks show twice is the second one if a time before it in the file is not
    earlier otherwise. Refused values are counted in `report`. Raises `PermanentError` where the file has no
    such header.
    """
    rows: list[tuple[str, datetime, float]] = []
    before: datetime | None = None
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            facilities = _facilities(path, next(reader, []))
            for cells in reader:
                place = f"{path.name}:{reader.line_num}"
                if not cells:
                    continue
                try:
                    at = _moment(cells[0].strip(), zone, before)
                    if before and at <= before:
                        raise RefusedRow(TIME, "not later than the row before")
                    if len(cells) != len(facilities) + 1:
                        raise RefusedRow("row", "has another number of fields than the header")
                except RefusedRow as refused:
                    report.refuse(refused, place)
                    continue
                before = at
                report.taken += 1
                for facility, cell in zip(facilities, cells[1:], strict=True):
                    try:
                        if (wait := _minutes(cell.strip(), facility, UNITS[unit])) is not None:
                            rows.append((facility, at, wait))
                    except RefusedRow as refused:
                        report.refuse(refused, place)
    except (OSError, UnicodeDecodeError) as error:
        raise PermanentError(
            f"the file cannot be read ({type(error).__name__})",
            where=str(path),
            mend="Give a CSV file in UTF-8.",
        ) from None
    columns = zip(*sorted(rows), strict=True) if rows else ([], [], [])
    arrays = [pa.array(list(c), f.type) for c, f in zip(columns, SERIES_SCHEMA, strict=True)]
    return PostedWaits(pa.table(arrays, schema=SERIES_SCHEMA), zone)


def _facilities(path: Path, header: list[str]) -> list[str]:
    names = [name.strip() for name in header]
    if len(names) < 2 or names[0] != TIME or len(set(names)) < len(names) or "" in names:
        raise PermanentError(
            "the file has no header of posted waits",
            where=f"{path.name}:1",
            mend=f"Give a column {TIME} and one per department.",
        )
    return names[1:]


def _moment(text: str, zone: ZoneInfo, before: datetime | None) -> datetime:
    try:
        return iso_moment(text, zone, TIME)
    except RefusedRow as refused:
        if refused.reason != TWICE or before is None:
            raise
    wall = datetime.fromisoformat(text)
    first, second = (wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    return first if first > before else in_utc(second, zone, TIME)


def _minutes(text: str, name: str, minutes: float) -> float | None:
    """A posted wait in minutes; None where nothing was posted."""
    if not text:
        return None
    try:
        wait = float(text) * minutes
    except ValueError:
        raise RefusedRow(name, "is not a number") from None
    if not 0 <= wait <= MOST_MINUTES:
        raise RefusedRow(name, "is not between 0 and 24 hours")
    return wait
