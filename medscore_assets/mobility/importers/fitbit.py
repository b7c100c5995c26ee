"""Importer of Fitbit's account export: its files steps-*.json, in a folder or in the zip archive.

Belongs here: what the files must look like and how their elements become raw records.
Does not belong here: plausibility of counts (`mobility/daily.py`), writing into the lake (`loading.py`).

What the source does not have, and what stands in its place:

* The zone. `dateTime` is in no stated zone, and exports of different years are said to differ: the
  caller declares the zone in which the device was worn, and whether the times are its wall clock's or
  UTC. Compare a known walk. A wall-clock time that comes for the second time in one file, in an hour
  that the zone's clocks repeat, is the second of the two.
* The device: `DEVICE` for all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np
import orjson
import pyarrow as pa

from medscore_assets.mobility.importers.archives import MEBI, Part, opened, parts
from medscore_assets.mobility.importers.records import (
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
FILE_NAME: Final = re.compile(r"steps-\d{4}-\d{2}-\d{2}\.json")
TIME_FORMAT: Final = "%m/%d/%y %H:%M:%S"
MEND: Final = "Give the zip archive of the account's export, or the folder with its files steps-*.json."
MAX_BYTES: Final = 256 * MEBI
"""The most that one file of steps may hold; a month by the minute has 3 MiB."""
MAX_OTHER_BYTES: Final = 32 * 1024**3
"""The most that any file of the archive may hold, read or not."""


def read(
    path: Path,
    zone: ZoneInfo,
    report: Report,
    *,
    patient: str,
    utc: bool = False,
    progress: Progress | None = None,
) -> Iterator[pa.RecordBatch]:
    """Raw batches of one patient's export, a file each. `utc`: times are UTC and not of the wall clock.

    The report's rows are elements of the files; places name file and element, from 1. Raises
    `PermanentError` naming file and position when a file is not what it should be.
    """
    found = [p for p in parts(path, MEND, MAX_OTHER_BYTES) if FILE_NAME.fullmatch(p.name)]
    if not found:
        raise PermanentError("there is no file steps-*.json", where=str(path), mend=MEND)
    total, done = sum(part.size for part in found), 0
    for part in found:
        yield _records(_elements(part), part, zone, report, patient, utc)
        done += part.size
        if progress is not None:
            progress(done, total)


def _elements(part: Part) -> list[Any]:
    if part.size > MAX_BYTES:
        raise PermanentError(
            f"the file has more than {MAX_BYTES // MEBI} MiB", where=str(part), mend=f"Split it. {MEND}"
        )
    with opened(part, MEND) as file:
        content = file.read()
    try:
        elements = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise PermanentError(
            "this is not JSON", where=f"{part}, line {error.lineno}, column {error.colno}", mend=MEND
        ) from None
    if not isinstance(elements, list):
        raise PermanentError("this is not a list of elements", where=str(part), mend=MEND)
    return elements


def _records(
    elements: list[Any], part: Part, zone: ZoneInfo, report: Report, patient: str, utc: bool
) -> pa.RecordBatch:
    """The raw records of one file, without what the report says was refused."""
    import pandas as pd

    texts = pd.Series([_text(element, "dateTime") for element in elements], dtype=object)
    wall = pd.to_datetime(texts, format=TIME_FORMAT, errors="coerce")
    clock = ZoneInfo("UTC") if utc else zone
    moments, lost = from_wall_clock(wall.to_numpy(), clock, texts.duplicated().to_numpy())
    counts, fit = whole_numbers(pa.array([_text(element, "value") for element in elements], pa.string()))
    taken = np.ones(len(elements), dtype=bool)
    for reason, mask in {NO_TIME: wall.isna().to_numpy(), SKIPPED_TIME: lost, NO_COUNT: ~fit}.items():
        found = np.flatnonzero(mask & taken)
        if len(found):
            report.refuse(reason, len(found), f"{part}, element {found[0] + 1}")
        taken &= ~mask
    n = int(taken.sum())
    report.taken += n
    return report.count(
        raw_batch(
            constant(patient, n), moments[taken], constant(zone.key, n), counts[taken], constant(DEVICE, n)
        )
    )


def _text(element: Any, name: str) -> str | None:
    """A member of an element as text, None where there is none."""
    value = element.get(name) if isinstance(element, dict) else None
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else None
