"""Reads visits from HL7 v2 ADT messages: what each message changes about a visit.

Belongs here: the messages, and where they say what (`hl7_adt.toml`). Does not belong here: how changes become
versions (`visit_changes.py`), and writing (`visit_loading.py`).

A file holds one message after the other, with or without batch headers and the bytes that frame messages on a
connection. A message is known from the time in MSH-7 on. Segments that no place of the mapping is in, such as
those that name the patient, are dropped before anything is parsed.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medscore_assets.wait_times.importers.records import (
    AHEAD,
    UNREADABLE,
    Readings,
    RefusedRow,
    Report,
    facility_zone,
    opaque_id,
    readings_of,
    refuse_future,
)
from medscore_assets.wait_times.importers.repeated_hour import RECORDED, choose
from medscore_assets.wait_times.importers.visit_changes import Change
from resources.errors import PermanentError

MAPPING_FILE = Path(__file__).with_name("hl7_adt.toml")
SOURCE = "hl7-adt"
ORDER: Final = {
    "registered_at": 0,
    "triage_at": 0,
    "pia_at": 1,
    "left_at": 2,
    "left_unless_seen": 2,
    "disposition_at": 2,
    RECORDED: 3,
}
"""Which of a message's times come first; some register first, and some triage."""
DELETED: Final = '""'
FRAMING = "\x0b\x1c"
_PLACE = r"^[A-Z][A-Z0-9]{2}-[1-9][0-9]?(\.[1-9][0-9]?)?$"


class Events(BaseModel):
    """Triggers of ADT messages, by what they mean."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    register_: list[str] = Field(alias="register")
    update: list[str]
    discharge: list[str]
    cancel: list[str]
    cancel_discharge: list[str]


class Places(BaseModel):
    """In which field, or component of it, a message says what."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    facility: str = Field(pattern=_PLACE)
    visit_number: str = Field(pattern=_PLACE)
    registered_at: str = Field(pattern=_PLACE)
    triage_at: str = Field(pattern=_PLACE)
    ctas: str = Field(pattern=_PLACE)
    pia_at: str = Field(pattern=_PLACE)
    left_at: str = Field(pattern=_PLACE)
    discharged_at: str = Field(pattern=_PLACE)
    discharge_disposition: str = Field(pattern=_PLACE)
    admission_type: str = Field(pattern=_PLACE)


class Codes(BaseModel):
    """Which codes mean that the patient left without being seen, and that the visit had an appointment."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    left_without_being_seen: list[str]
    scheduled: list[str]


class Observations(BaseModel):
    """Codes of OBX segments that say what a place could say."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    ctas: list[str] = []
    pia_at: list[str] = []
    left_at: list[str] = []


class AdtMapping(BaseModel):
    """Where the messages of one interface say what."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    events: Events
    places: Places
    codes: Codes
    observations: Observations = Observations()
    facilities: dict[str, str] = {}

    def segments(self) -> frozenset[str]:
        """The names of all segments that are looked into."""
        places = self.places.model_dump().values()
        return frozenset({"MSH", "EVN", "OBX", *(place.partition("-")[0] for place in places)})


def load_mapping(path: Path = MAPPING_FILE) -> AdtMapping:
    """A mapping of a TOML file. Raises `PermanentError` that names what is wrong with it."""
    try:
        return AdtMapping.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        found = str(error)
    except ValidationError as error:
        first = error.errors()[0]
        found = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    raise PermanentError(
        f"the mapping cannot be used: {found}", where=str(path), mend=f"Start from a copy of {MAPPING_FILE}."
    )


def read_messages(
    path: Path, mapping: AdtMapping, zones: Mapping[str, ZoneInfo], report: Report, *, now: datetime
) -> Iterator[Change]:
    """What each ADT message of a file changes, in the order of the file.

    `zones` are those of the known facilities. Messages of other kinds are counted as ignored, those that
    cannot be taken as refused, at the line on which they begin. Raises `PermanentError` if the file cannot
    be read or holds no message.
    """
    found = False
    for line, segments in _messages(path, mapping.segments()):
        found = True
        try:
            change = _change(_Message.parsed(segments), mapping, zones, report, now)
        except RefusedRow as refused:
            report.refuse(refused, f"{path.name}:{line}")
            continue
        if isinstance(change, str):
            report.ignore(change)
            continue
        report.taken += 1
        yield change
    if not found:
        raise PermanentError(
            "there is no HL7 message", where=path.name, mend="Give a file whose messages begin with MSH."
        )


def is_hl7(path: Path) -> bool:
    """Whether a file holds HL7 messages, by how it begins."""
    try:
        with path.open("rb") as file:
            begin = file.read(64).lstrip(b"\xef\xbb\xbf\x0b \t\r\n")
    except OSError as error:
        raise PermanentError(
            f"the file cannot be read ({type(error).__name__})", where=str(path), mend="Give a readable file."
        ) from None
    return begin[:4] in (b"MSH|", b"FHS|", b"BHS|") or begin[:3] == b"MSH"


def _messages(path: Path, wanted: frozenset[str]) -> Iterator[tuple[int, list[str]]]:
    """The line on which each message begins, and its segments that are wanted."""
    start, segments = 0, list[str]()
    try:
        # Universal newlines: segments end with a carriage return, and in files often otherwise.
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            for number, line in enumerate(file, start=1):
                text = line.strip(FRAMING + "\r\n")
                name = text[:3]
                if name == "MSH" and segments:
                    yield start, segments
                    segments = []
                if name == "MSH":
                    start = number
                if name in wanted and (segments or name == "MSH"):
                    segments.append(text)
    except OSError as error:
        raise PermanentError(
            f"the file cannot be read ({type(error).__name__})", where=str(path), mend="Give a readable file."
        ) from None
    if segments:
        yield start, segments


@dataclass(frozen=True, slots=True)
class _Message:
    """A parsed message, asked by place."""

    parsed_: Any

    @classmethod
    def parsed(cls, segments: list[str]) -> _Message:
        import hl7

        try:
            return cls(hl7.parse("\r".join(segments)))
        except Exception:
            # The library raises many kinds, and quotes the message in some.
            raise RefusedRow("MSH", "the message cannot be parsed") from None

    def text(self, place: str) -> str:
        """What stands at a place; empty if nothing does. `DELETED` says that what is known shall go."""
        segment, _, rest = place.partition("-")
        field, _, component = rest.partition(".")
        try:
            found = self.parsed_.extract_field(segment, 1, int(field), 1, int(component or 1))
        except (LookupError, ValueError):
            return ""
        return str(found or "").strip()

    def observation(self, codes: list[str]) -> tuple[str, str]:
        """Value and time of the last OBX segment with one of the codes; empty if there is none."""
        value, at = "", ""
        for segment in self.parsed_:
            if str(segment[0]) == "OBX" and _component(segment, 3) in codes:
                value, at = _component(segment, 5), _component(segment, 14)
        return value, at


def _component(segment: Any, field: int) -> str:
    """The first component of a field of a segment."""
    if len(segment) <= field:
        return ""
    found = segment[field]
    while not isinstance(found, str) and len(found):
        found = found[0]
    return str(found).strip()


def _change(
    message: _Message, mapping: AdtMapping, zones: Mapping[str, ZoneInfo], report: Report, now: datetime
) -> Change | str:
    """What a message changes, or of which ignored kind it is."""
    kind, trigger = message.text("MSH-9.1"), message.text("MSH-9.2") or message.text("EVN-1")
    events = mapping.events
    known = (*events.register_, *events.update, *events.discharge, *events.cancel, *events.cancel_discharge)
    if kind != "ADT" or trigger not in known:
        return f"{kind or 'unknown'} {trigger}".strip() if len(kind + trigger) <= 8 else "other"
    sender = message.text(mapping.places.facility)
    facility = mapping.facilities.get(sender, sender)
    zone = facility_zone(facility, zones)
    number = message.text(mapping.places.visit_number)
    if not number:
        raise RefusedRow(mapping.places.visit_number, "the number of the visit is missing")
    recorded = _moment(message.text("MSH-7"), zone, "MSH-7")
    if recorded is None:
        raise RefusedRow("MSH-7", "the time of the message is missing")
    told = {} if trigger in events.cancel else _told(message, mapping, zone)
    times = {name: found for name, found in told.items() if isinstance(found, tuple)}
    chosen = choose(times | {RECORDED: recorded}, ORDER, now + AHEAD)
    refuse_future(chosen.times[RECORDED], now)
    told |= {name: chosen.times[name] for name in times}
    if trigger in events.cancel_discharge:
        told |= {"disposition_at": None, "left_at": None}
    chosen.count(report)
    return Change(
        facility,
        opaque_id(facility, number),
        chosen.times[RECORDED],
        told,
        cancelled=trigger in events.cancel,
        others=chosen.others,
    )


def _told(message: _Message, mapping: AdtMapping, zone: ZoneInfo) -> dict[str, Any]:
    """The fields of a visit that a message tells, times as `Readings`; None where it takes one away."""
    places, told = mapping.places, dict[str, Any]()
    for name in ("registered_at", "triage_at", "pia_at", "left_at"):
        place = getattr(places, name)
        if text := message.text(place):
            told[name] = _moment(text, zone, place)
    for name in ("pia_at", "left_at"):
        value, at = message.observation(getattr(mapping.observations, name))
        if name not in told and (value or at):
            told[name] = _moment(value or at, zone, "OBX-5")
    value, at = message.observation(mapping.observations.ctas)
    if text := message.text(places.ctas) or value:
        told["ctas"] = _level(text, places.ctas if message.text(places.ctas) else "OBX-5")
    if value and at and "triage_at" not in told:
        told["triage_at"] = _moment(at, zone, "OBX-14")
    if text := message.text(places.discharged_at):
        ended = _moment(text, zone, places.discharged_at)
        unseen = message.text(places.discharge_disposition) in mapping.codes.left_without_being_seen
        told["left_unless_seen" if unseen else "disposition_at"] = ended
    if text := message.text(places.admission_type):
        told["scheduled"] = text in mapping.codes.scheduled
    return told


def _level(text: str, place: str) -> int | None:
    if text == DELETED:
        return None
    if text not in ("1", "2", "3", "4", "5"):
        raise RefusedRow(place, "the triage level is not 1, 2, 3, 4 or 5")
    return int(text)


def _moment(text: str, zone: ZoneInfo, place: str) -> Readings | None:
    """What an HL7 time with minutes can mean; None if it is to be taken away, or absent."""
    import hl7

    if text in ("", DELETED):
        return None
    digits = text.partition("+")[0].partition("-")[0]
    try:
        # The library ends where it finds no more digits, and takes a date for its midnight.
        if len(digits.partition(".")[0]) < len("202601011230") or not text.isascii():
            raise RefusedRow(place, "the time has no minutes")
        found = hl7.parse_datetime(text)
    except ValueError:
        raise RefusedRow(place, UNREADABLE) from None
    if found is None:
        raise RefusedRow(place, UNREADABLE)
    return readings_of(found, zone, place)
