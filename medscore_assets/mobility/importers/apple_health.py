"""Importer of Apple Health's export: export.zip, or the export.xml in it.

Belongs here: what the XML must look like, how its step counts become raw records by the minute.
Does not belong here: plausibility of counts (`mobility/daily.py`), writing into the lake (`loading.py`).

* The file is read in pieces with expat; memory does not grow with it. No document type is handed to the
  parser, hence no entity is ever declared, expanded or fetched. (Some versions of iOS write one that is
  not well-formed, too, and any other reader would stop there.)
* Times carry an offset and are exact. The zone of a record is that of its metadata (HKTimeZone) if it
  has one, else the one that the caller declares.
* A record over more than a minute is spread over its minutes in proportion to time, in whole steps that
  add up to its count; so is the time worn. A shorter one stays one record at its start.
* `device` stands for the record's sourceName: a phone and a watch stay apart. The name itself, which often
  holds its owner's ("Anna's iPhone"), is not stored; see `pseudonym`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Final
from xml.parsers import expat
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from medscore_assets.mobility.importers.archives import MEBI, Part, opened, parts
from medscore_assets.mobility.importers.records import (
    NO_COUNT,
    NO_TIME,
    SECOND,
    Progress,
    Report,
    constant,
    known_zone,
    raw_batch,
    whole_numbers,
)
from resources.errors import PermanentError

STEP_COUNT: Final = "HKQuantityTypeIdentifierStepCount"
ZONE_KEY: Final = "HKTimeZone"
MEND: Final = "Give the export.zip of the Health app, or the export.xml in it."
MAX_BYTES: Final = 32 * 1024**3
MAX_DOCTYPE: Final = MEBI
MAX_ELEMENT: Final = 4 * MEBI
"""How much of the file one element's tag may take."""
MAX_DEPTH: Final = 64
MAX_SECONDS: Final = 24 * 3600
BATCH: Final = 50_000
ENDS_EARLY: Final = "the record ends before it begins"
TOO_LONG: Final = "the record is longer than a day"

Whole = npt.NDArray[np.int64]


def read(
    path: Path, zone: ZoneInfo, report: Report, *, patient: str, progress: Progress | None = None
) -> Iterator[pa.RecordBatch]:
    """Raw batches of one patient's export, in its order.

    The report's rows are step-count records; places are line numbers. Raises `PermanentError` naming
    file and line when the file is no such export, or is not safe to read.
    """
    part = _document(path)
    steps = _StepCounts(zone)
    with opened(part, MEND, progress) as file:
        for piece in _without_doctype(file, part):
            _parse(steps, piece, part)
            if len(steps.counts) >= BATCH:
                yield steps.batch(patient, report)
        _parse(steps, b"", part, last=True)
    yield steps.batch(patient, report)


def _document(path: Path) -> Part:
    """The XML itself. Apple names folder and file in the phone's language; the clinical one ends in _cda."""
    found = parts(path, MEND, MAX_BYTES)
    documents = [p for p in found if p.name.lower().endswith(".xml") and "_cda" not in p.name.lower()]
    if len(documents) != 1 or path.is_dir():
        what = "there is no export.xml" if not documents else "there is more than one XML file"
        raise PermanentError(what if not path.is_dir() else "this is a folder", where=str(path), mend=MEND)
    return documents[0]


def _without_doctype(file: IO[bytes], part: Part) -> Iterator[bytes]:
    """The file in pieces, its document type replaced by as many empty lines."""
    head = file.read(MEBI)
    start = head.find(b"<!DOCTYPE")
    # Declared before anything else, or it is text inside of an element.
    if start >= 0 and not re.search(rb"<[A-Za-z]", head[:start]):
        head += file.read(MAX_DOCTYPE)
        subset = re.compile(rb"<!DOCTYPE[^\[>]*(\[.*?\]\s*)?>", re.DOTALL).match(head, start)
        if subset is None:
            raise _unsafe("the document type has no end", part, 1 + head[:start].count(b"\n"))
        if b"<!ENTITY" in subset[0]:
            raise _unsafe("the document declares entities", part, 1 + head[:start].count(b"\n"))
        head = head[:start] + b"\n" * subset[0].count(b"\n") + head[subset.end() :]
    while head:
        yield head
        head = file.read(MEBI)


@dataclass
class _StepCounts:
    """Collects the step counts that the parser meets."""

    zone: ZoneInfo
    parser: Any = field(init=False)
    depth: int = 0
    fed: int = 0
    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    counts: list[str | None] = field(default_factory=list)
    devices: list[str] = field(default_factory=list)
    zones: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    inside: bool = False

    def __post_init__(self) -> None:
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = False
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.StartDoctypeDeclHandler = self._doctype

    def _doctype(self, *_: Any) -> None:
        raise _Unsafe("the document type is not where it belongs")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _Unsafe(f"elements are nested more than {MAX_DEPTH} deep")
        # Records inside of a correlation stand at the top level once more.
        if self.depth == 2 and name == "Record" and attributes.get("type") == STEP_COUNT:
            self.inside = True
            self.starts.append(_seconds(attributes.get("startDate", "")))
            self.ends.append(_seconds(attributes.get("endDate", "")))
            self.counts.append(attributes.get("value"))
            self.devices.append(attributes.get("sourceName", ""))
            self.zones.append(self.zone.key)
            self.lines.append(self.parser.CurrentLineNumber)
        elif self.inside and name == "MetadataEntry" and attributes.get("key") == ZONE_KEY:
            try:
                self.zones[-1] = known_zone(attributes.get("value", "")).key
            except PermanentError:
                return  # what is no zone says nothing about where the device was

    def _end(self, _: str) -> None:
        self.depth -= 1
        self.inside = self.inside and self.depth >= 2

    def batch(self, patient: str, report: Report) -> pa.RecordBatch:
        """The raw records of what was collected, which is then forgotten."""
        starts, ends = np.array(self.starts, np.int64), np.array(self.ends, np.int64)
        counts, fit = whole_numbers(pa.array(self.counts, pa.string()))
        reasons = {
            NO_TIME: (starts == UNREADABLE) | (ends == UNREADABLE),
            ENDS_EARLY: ends < starts,
            TOO_LONG: ends - starts > MAX_SECONDS,
            NO_COUNT: ~fit,
        }
        taken = np.ones(len(starts), dtype=bool)
        for reason, mask in reasons.items():
            found = np.flatnonzero(mask & taken)
            if len(found):
                report.refuse(reason, len(found), f"line {self.lines[found[0]]}")
            taken &= ~mask
        report.taken += int(taken.sum())
        row, moments, steps = spread(starts[taken], ends[taken], counts[taken])
        origin = pa.array(np.flatnonzero(taken)[row])
        made = raw_batch(
            constant(patient, len(row)),
            moments,
            pa.array(self.zones, pa.string()).dictionary_encode().take(origin),
            steps,
            _pseudonyms(patient, self.devices).take(origin),
        )
        for collected in (self.starts, self.ends, self.counts, self.devices, self.zones, self.lines):
            collected.clear()
        return report.count(made)


def pseudonym(patient: str, name: str) -> str:
    """`apple-` and 8 hexadecimal digits for a device's name, the same in every import of a patient.

    A hash of the name keyed with the patient's id. So two patients' devices of one name have nothing in
    common, and without the id no table of usual names gives the name back; whoever has the id can test
    a guess.
    """
    key = hashlib.sha256(patient.encode()).digest()
    return f"apple-{hashlib.blake2b(name.encode(), digest_size=4, key=key).hexdigest()}"


def _pseudonyms(patient: str, names: list[str]) -> pa.DictionaryArray:
    encoded = pa.array(names, pa.string()).dictionary_encode()
    stand_ins = pa.array([pseudonym(patient, name) for name in encoded.dictionary.to_pylist()], pa.string())
    return pa.DictionaryArray.from_arrays(encoded.indices, stand_ins)


def spread(starts: Whole, ends: Whole, counts: Whole) -> tuple[Whole, Whole, Whole]:
    """Records as pieces of a minute at most: row of origin, time in microseconds, whole steps.

    `starts`, `ends`: seconds since 1970, `starts <= ends`. A record of up to a minute is one piece. The
    pieces of a longer one lie in the minutes that it touches, each with the steps that fall due within it
    when they are walked evenly, rounded down in sum; all pieces together have its count.
    """
    first = starts // 60
    pieces = np.where(ends - starts > 60, -(-ends // 60) - first, 1)
    row = np.repeat(np.arange(len(starts)), pieces)
    nth = np.arange(len(row)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    start, end, count, duration = starts[row], ends[row], counts[row], np.maximum(ends - starts, 1)[row]
    begins = np.where(nth == 0, start, (first[row] + nth) * 60)
    stops = np.where(nth == pieces[row] - 1, end, (first[row] + nth + 1) * 60)
    due = np.where(nth == pieces[row] - 1, count, count * (stops - start) // duration)
    done = np.where(nth == 0, 0, count * (begins - start) // duration)
    return row, begins * SECOND, due - done


UNREADABLE: Final = np.iinfo(np.int64).min // 4
"""Stands for a time that is none: far from any, and differences do not overflow."""


def _seconds(text: str) -> int:
    """Seconds since 1970 of `2024-05-01 08:15:00 +0200`, or `UNREADABLE`."""
    try:
        moment = datetime.fromisoformat(text[:19] + text[19:].lstrip())
        return int(moment.timestamp()) if moment.tzinfo is not None else UNREADABLE
    except (ValueError, OverflowError):
        return UNREADABLE


class _Unsafe(Exception):
    """What the parser met is not to be read on."""


def _parse(steps: _StepCounts, piece: bytes, part: Part, *, last: bool = False) -> None:
    parser = steps.parser
    try:
        parser.Parse(piece, last)
    except expat.ExpatError as error:
        raise PermanentError(
            f"this is not well-formed XML: {expat.ErrorString(error.code)}",
            where=f"{part}, line {error.lineno}",
            mend=f"Export once more. {MEND}",
        ) from None
    except _Unsafe as unsafe:
        raise _unsafe(str(unsafe), part, parser.CurrentLineNumber) from None
    steps.fed += len(piece)
    if not last and steps.fed - parser.CurrentByteIndex > MAX_ELEMENT:
        raise _unsafe(f"an element takes more than {MAX_ELEMENT // MEBI} MiB", part, parser.CurrentLineNumber)


def _unsafe(what: str, part: Part, line: int) -> PermanentError:
    return PermanentError(
        what, where=f"{part}, line {line}", mend=f"No export has that; do not use it. {MEND}"
    )
