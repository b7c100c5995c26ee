"""Reads visits from CSV files whose header has the names of the columns of `ed_visits`.

Belongs here: the file's form, and what of a row can be a visit. Does not belong here: what makes a valid wait
(`wait_times/visits.py`), and writing (`visit_loading.py`).

facility_id, visit_id and arrival are columns of every file; the others may be absent. Times are ISO 8601,
with an offset or on the wall clock of the facility. With recorded_at, a row is one version of a visit: all
that was known of it from then on. Without, a row is a visit as it ended, and each of its times counts as
recorded when it happened, which is as much as can be said of an extract. superseded_at and source are read
over: versions follow from recorded_at, and the source is this import.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa

from medscore_assets.wait_times.importers.records import (
    AHEAD,
    RefusedRow,
    Report,
    facility_zone,
    iso_readings,
    known_zone,
    opaque_id,
    refuse_future,
)
from medscore_assets.wait_times.importers.repeated_hour import choose
from medscore_assets.wait_times.importers.versions import (
    TIMES,
    VISITS_SCHEMA,
    Told,
    versions,
    visits_table,
)
from resources.errors import PermanentError

SOURCE = "csv"
REQUIRED = ("facility_id", "visit_id", "arrival")
TRUE, FALSE = ("true", "t", "1", "yes", "y"), ("false", "f", "0", "no", "n", "")
ORDER = {"arrival": 0, "triage_at": 1, "pia_at": 2, "left_at": 3, "disposition_at": 3, "recorded_at": 4}
"""Which of a visit's times come first."""
BATCH_ROWS = 100_000
FACILITY_COLUMNS = ("facility_id", "name", "name_fr", "zone", "region")


def has_recording_times(path: Path) -> bool:
    """Whether the rows are versions, with recorded_at, and not visits as they ended."""
    with _opened(path) as file:
        return "recorded_at" in _header(path, csv.reader(file))


def read_visits(
    path: Path, zones: Mapping[str, ZoneInfo], report: Report, *, now: datetime
) -> Iterator[pa.Table]:
    """Versions of visits as tables of `VISITS_SCHEMA`, `superseded_at` open where the file cannot say.

    `zones` are those of the known facilities. Refused rows are counted in `report`. Raises `PermanentError`
    where the file has no such header.
    """
    with _opened(path) as file:
        reader = csv.reader(file)
        header = _header(path, reader)
        as_table = _version_rows if "recorded_at" in header else _as_happened
        rows: list[dict[str, Any]] = []
        for cells in reader:
            if not cells:
                continue
            try:
                rows.append(_row(header, cells, zones, report, now))
            except RefusedRow as refused:
                report.refuse(refused, f"{path.name}:{reader.line_num}")
                continue
            report.taken += 1
            if len(rows) == BATCH_ROWS:
                yield as_table(rows)
                rows = []
        if rows:
            yield as_table(rows)


def read_facilities(path: Path) -> pa.Table:
    """Facilities of a CSV file with the columns facility_id, zone, and name, name_fr, region if there are.

    Raises `PermanentError` naming the line of a row that cannot be taken.
    """
    with _opened(path) as file:
        reader = csv.DictReader(file)
        _require_columns(path, reader.fieldnames or [], ("facility_id", "zone"), FACILITY_COLUMNS)
        rows = []
        for row in reader:
            found = {name: (row.get(name) or "").strip() or None for name in FACILITY_COLUMNS}
            place = f"{path.name}:{reader.line_num}"
            if not found["facility_id"]:
                raise PermanentError("facility_id is missing", where=place, mend="Give each facility an id.")
            known_zone(found["zone"] or "", place)
            rows.append(found | {"name": found["name"] or found["facility_id"]})
    return pa.Table.from_pylist(rows, pa.schema([(name, pa.string()) for name in FACILITY_COLUMNS]))


def _row(
    header: list[str], cells: list[str], zones: Mapping[str, ZoneInfo], report: Report, now: datetime
) -> dict[str, Any]:
    if len(cells) != len(header):
        raise RefusedRow("row", "has another number of fields than the header")
    texts = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
    zone = facility_zone(texts["facility_id"], zones)
    if not texts["visit_id"]:
        raise RefusedRow("visit_id", "missing")
    read = {
        name: iso_readings(text, zone, name)
        for name in (*TIMES, "recorded_at")
        if (text := texts.get(name, ""))
    }
    chosen = choose(read, ORDER, now + AHEAD if "recorded_at" in texts else now)
    times = {name: chosen.times.get(name) for name in (*TIMES, "recorded_at")}
    if "recorded_at" in texts:
        if times["recorded_at"] is None:
            raise RefusedRow("recorded_at", "missing")
        refuse_future(times["recorded_at"], now)
    elif not any(times.values()):
        raise RefusedRow("arrival", "missing, like every other time")
    elif any(moment > now for moment in times.values() if moment):
        raise RefusedRow("row", "has a time in the future")
    row = {
        "facility_id": texts["facility_id"],
        "visit_id": opaque_id(texts["facility_id"], texts["visit_id"]),
        **times,
        "ctas": _level(texts.get("ctas", "")),
        "scheduled": _truth(texts.get("scheduled", "")),
    }
    chosen.count(report)
    return row


def _level(text: str) -> int | None:
    # Spreadsheets and data frames write whole numbers with nulls among them as 3.0.
    text = text.removesuffix(".0")
    if not text:
        return None
    if text not in ("1", "2", "3", "4", "5"):
        raise RefusedRow("ctas", "is not 1, 2, 3, 4 or 5")
    return int(text)


def _truth(text: str) -> bool:
    if text.lower() not in (*TRUE, *FALSE):
        raise RefusedRow("scheduled", "is neither true nor false")
    return text.lower() in TRUE


def _version_rows(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist([row | {"source": SOURCE} for row in rows], VISITS_SCHEMA)


def _as_happened(rows: list[dict[str, Any]]) -> pa.Table:
    """One version per time of each visit: that time and those before are known from then on."""
    times = {name: np.array([_naive(row[name]) for row in rows], "datetime64[us]") for name in TIMES}
    records = np.stack([times[name] for name in TIMES], axis=1)
    first = np.fmin.reduce(records, axis=1)
    told = np.concatenate([records, first[:, None]], axis=1)
    never = np.datetime64("NaT")
    fields: dict[str, Any] = {name: ([Told(i, times[name])], never) for i, name in enumerate(TIMES)}
    level = np.array([row["ctas"] or 0 for row in rows], np.int16)
    # Without a time of triage, the level counts as known from the first record on.
    by_triage, by_first = TIMES.index("triage_at"), len(TIMES)
    untriaged = np.isnat(times["triage_at"])
    fields["ctas"] = ([Told(by_first, np.where(untriaged, level, 0)), Told(by_triage, level)], 0)
    fields["scheduled"] = ([Told(by_first, np.array([row["scheduled"] for row in rows]))], False)
    made = versions(told, fields)
    ids = pa.array([row["visit_id"] for row in rows], pa.string())
    return visits_table([row["facility_id"] for row in rows], ids, made, SOURCE)


def _naive(moment: datetime | None) -> datetime | None:
    return moment.replace(tzinfo=None) if moment else None


def _header(path: Path, reader: Any) -> list[str]:
    names = [cell.strip() for cell in next(reader, [])]
    _require_columns(path, names, REQUIRED, (*VISITS_SCHEMA.names,))
    return names


def _require_columns(path: Path, names: Any, required: tuple[str, ...], allowed: tuple[str, ...]) -> None:
    missing = [name for name in required if name not in names]
    unknown = [name for name in names if name not in allowed]
    if missing or unknown or len(set(names)) < len(names):
        what = f"there is no column {missing[0]}" if missing else "a column is unknown or there twice"
        raise PermanentError(
            what, where=f"{path.name}:1", mend=f"Give a header with some of: {', '.join(allowed)}."
        )


@contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    unpacked = gzip.open if path.suffix == ".gz" else open
    try:
        with unpacked(path, "rt", encoding="utf-8-sig", newline="") as file:
            yield file
    except (OSError, UnicodeDecodeError, EOFError) as error:
        raise PermanentError(
            f"the file cannot be read ({type(error).__name__})",
            where=str(path),
            mend="Give a CSV file in UTF-8.",
        ) from None
