"""The audit trail: events in FHIR's form, chained by hashes, and the proof that nobody changed them.

Belongs here: the AuditEvent (FHIR R4, IHE BALP, identifiers only), the chain, adding to it from a command,
reading it and verifying it. Does not belong here: the API's way to write it (`serving/journal.py`), and how
long it is kept (`maintenance.py`).

The hash of an event covers the event before it, so nothing in the middle can be changed, removed or moved
without a trace. Who can write to the database can still cut off the end, or compute all hashes anew: an
anchor (a place and its hash) that is kept elsewhere shows that.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from types import MappingProxyType
from typing import Any

import orjson
import sqlalchemy as sa

from medscore_assets.fhir_references import reference_to
from medscore_assets.tables.serving import audit_events
from resources.errors import PermanentError
from resources.warehouse import Warehouse

CHAIN_LOCK = "medscore audit chain"
"""Whoever adds to the chain holds this lock (`Warehouse.lock`) until the transaction ends."""

GENESIS = "0" * 64
"""What stands for the hash before the first event."""

KINDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "score": ("create", "C"),
        "read": ("read", "R"),
        "list": ("search-type", "R"),
        "feedback": ("create", "C"),
        "call": ("create", "C"),
        "refusal": ("operation", "E"),
        "login": ("operation", "E"),
        "audit-read": ("search-type", "R"),
        "access-change": ("update", "U"),
        "model-change": ("update", "U"),
    }
)
"""What can happen: FHIR's interaction and action of each."""

OUTCOMES: Mapping[str, str] = MappingProxyType({"success": "0", "refused": "4", "failed": "8"})
"""FHIR's audit-event-outcome of each outcome."""

_AUDIT_TYPES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "login": ("http://dicom.nema.org/resources/ontology/DCM", "110114"),
        "audit-read": ("http://dicom.nema.org/resources/ontology/DCM", "110101"),
        "access-change": ("http://dicom.nema.org/resources/ontology/DCM", "110113"),
    }
)
_REST = ("http://terminology.hl7.org/CodeSystem/audit-event-type", "rest")
_INTERACTION = "http://hl7.org/fhir/restful-interaction"
_DICOM = "http://dicom.nema.org/resources/ontology/DCM"
_ENTITY_TYPE = "http://terminology.hl7.org/CodeSystem/audit-entity-type"
_OBJECT_ROLE = "http://terminology.hl7.org/CodeSystem/object-role"
_BALP_ENTITY = "https://profiles.ihe.net/ITI/BALP/CodeSystem/BasicAuditEntityType"
_PARTICIPATION = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType"
_PURPOSE = "http://terminology.hl7.org/CodeSystem/v3-ActReason"
_KIND = "urn:medscore:audit-kind"
_SERVICE = "medscore"
_MACHINE = socket.gethostname() or "localhost"
_ROWS_PER_READ = 5_000
_PROBLEMS_TOLD = 100


@dataclass(frozen=True, slots=True)
class Occurrence:
    """What happened, in identifiers. `None` and empty parts do not appear in the event."""

    kind: str
    outcome: str
    recorded: datetime
    client: str | None = None
    subject: str | None = None
    issuer: str | None = None
    roles: tuple[str, ...] = ()
    purpose: str | None = None
    address: str | None = None
    route: str | None = None
    status: int | None = None
    reason: str | None = None
    request_id: str | None = None
    patient_id: str | None = None
    encounter_id: str | None = None
    entity: str | None = None


def audit_event(happened: Occurrence) -> str:
    """The FHIR R4 AuditEvent of an occurrence, as canonical JSON: keys sorted, no space, UTF-8."""
    interaction, action = KINDS[happened.kind]
    system, code = _AUDIT_TYPES.get(happened.kind, _REST)
    event: dict[str, Any] = {
        "resourceType": "AuditEvent",
        "type": {"system": system, "code": code},
        "subtype": [
            {"system": _INTERACTION, "code": interaction},
            {"system": _KIND, "code": happened.kind},
        ],
        "action": action,
        "recorded": happened.recorded.astimezone(UTC).isoformat(timespec="microseconds"),
        "outcome": OUTCOMES[happened.outcome],
        "agent": _agents(happened, reads=action == "R"),
        "source": {"observer": {"display": _SERVICE}, "site": _MACHINE},
        "entity": _entities(happened),
    }
    if happened.reason:
        event["outcomeDesc"] = happened.reason
    return orjson.dumps(event, option=orjson.OPT_SORT_KEYS).decode()


def _agents(happened: Occurrence, *, reads: bool) -> list[dict[str, Any]]:
    """Client, server and user. Who sends the data is the source (110153), who gets them the destination."""
    client_role, server_role = ("110152", "110153") if reads else ("110153", "110152")
    client: dict[str, Any] = {
        "type": {"coding": [{"system": _DICOM, "code": client_role}]},
        "who": {"identifier": {"value": happened.client}} if happened.client else {"display": "unknown"},
        "requestor": not happened.subject,
    }
    if happened.address:
        client["network"] = {"address": happened.address, "type": "2"}
    agents = [
        client,
        {
            "type": {"coding": [{"system": _DICOM, "code": server_role}]},
            "who": {"display": _SERVICE},
            "requestor": False,
            "network": {"address": _MACHINE, "type": "1"},
        },
    ]
    if happened.subject:
        named = {"system": happened.issuer} if happened.issuer else {}
        user: dict[str, Any] = {
            "type": {"coding": [{"system": _PARTICIPATION, "code": "IRCP"}]},
            "who": {"identifier": {**named, "value": happened.subject}},
            "requestor": True,
        }
        if happened.roles:
            user["role"] = [{"text": role} for role in sorted(happened.roles)]
        if happened.purpose:
            user["purposeOfUse"] = [{"coding": [{"system": _PURPOSE, "code": happened.purpose}]}]
        agents.append(user)
    return agents


def _entities(happened: Occurrence) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if happened.patient_id:
        found.append(_entity(reference_to("Patient", happened.patient_id), _ENTITY_TYPE, "1", role="1"))
    if happened.encounter_id:
        found.append(_entity(reference_to("Encounter", happened.encounter_id), _ENTITY_TYPE, "2", role="4"))
    if happened.entity:
        role = "3" if happened.kind in ("score", "read", "feedback") else "20"
        found.append(_entity({"identifier": {"value": happened.entity}}, _ENTITY_TYPE, "2", role=role))
    transaction = _entity(
        {"identifier": {"value": happened.request_id}} if happened.request_id else {"display": "no id"},
        _BALP_ENTITY,
        "XrequestId",
    )
    detail = [
        {"type": name, "valueString": str(value)}
        for name, value in (("route", happened.route), ("status", happened.status))
        if value
    ]
    if detail:
        transaction["detail"] = detail
    return [*found, transaction]


def _entity(what: dict[str, Any], system: str, code: str, role: str | None = None) -> dict[str, Any]:
    entity: dict[str, Any] = {"what": what, "type": {"system": system, "code": code}}
    if role:
        entity["role"] = {"system": _OBJECT_ROLE, "code": role}
    return entity


def chain_hash(previous_hash: str, event: str) -> str:
    """SHA-256 of the hash before and the event's text, in hexadecimal."""
    return hashlib.sha256((previous_hash + event).encode()).hexdigest()


def append(warehouse: Warehouse, connection: sa.Connection, happened: Occurrence) -> None:
    """Add one event to the chain, in the caller's transaction. Waits for whoever else is adding.

    Raises what `Warehouse.transaction` raises.
    """
    warehouse.lock(connection, CHAIN_LOCK, wait_s=10)
    c = audit_events.c
    head = connection.execute(sa.select(c.sequence, c.hash).order_by(c.sequence.desc()).limit(1)).first()
    sequence, previous = (head.sequence, head.hash) if head else (0, GENESIS)
    event = audit_event(happened)
    connection.execute(
        sa.insert(audit_events).values(
            sequence=sequence + 1,
            recorded_at=happened.recorded,
            event=event,
            previous_hash=previous,
            hash=chain_hash(previous, event),
        )
    )


@dataclass(frozen=True, slots=True)
class Anchor:
    """A place in the chain and its hash, kept where the database's users cannot write."""

    sequence: int
    hash: str

    @classmethod
    def parse(cls, text: str) -> Anchor:
        """From `SEQUENCE:HASH`. Raises `PermanentError` for anything else."""
        sequence, _, digest = text.strip().partition(":")
        if not (sequence.isascii() and sequence.isdigit() and len(digest) == 64):
            raise PermanentError(
                "the anchor is not of the form SEQUENCE:HASH",
                where="--anchor",
                mend="Give the anchor as medscore audit verify printed it.",
            )
        return cls(int(sequence), digest.lower())

    def __str__(self) -> str:
        return f"{self.sequence}:{self.hash}"


@dataclass(frozen=True, slots=True)
class ChainProblem:
    """Where the chain is broken, and how: changed, unlinked, gap, time, beginning, cut or anchor."""

    sequence: int
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Verified:
    """What a verification found.

    `count` events from `first` to `last`; `head` is the anchor to keep; `problems` holds the first hundred
    of `problem_count`. `first` is above 1 where old events were removed after their time.
    """

    count: int
    first: int | None
    last: int | None
    head: Anchor | None
    problems: tuple[ChainProblem, ...]
    problem_count: int

    @property
    def intact(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problem_count


def verify(warehouse: Warehouse, since: datetime | None = None, anchors: tuple[Anchor, ...] = ()) -> Verified:
    """Check every event from `since` (default: from the beginning), as one snapshot, in batches.

    Raises what `Warehouse.transaction` raises.
    """
    check = _Check({anchor.sequence: anchor for anchor in anchors})
    with warehouse.transaction() as connection:
        connection.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
        for row in _rows(connection, since):
            check.see(row)
    return check.result(partial=since is not None)


def _rows(connection: sa.Connection, since: datetime | None) -> Iterator[Any]:
    c = audit_events.c
    query = sa.select(c.sequence, c.recorded_at, c.event, c.previous_hash, c.hash).order_by(c.sequence)
    if since is not None:
        start = sa.select(sa.func.min(c.sequence)).where(c.recorded_at >= since).scalar_subquery()
        # With the one before, so that the first link is checked too; none at all if nothing is so young.
        before = sa.select(sa.func.max(c.sequence)).where(c.sequence < start).scalar_subquery()
        query = query.where(c.sequence >= sa.func.coalesce(before, start))
    yield from connection.execution_options(yield_per=_ROWS_PER_READ).execute(query)


class _Check:
    """The state of one pass over the chain, in the order of the sequence."""

    def __init__(self, anchors: Mapping[int, Anchor]) -> None:
        self._anchors = anchors
        self._count = 0
        self._first: int | None = None
        self._last: Anchor | None = None
        self._problems: list[ChainProblem] = []
        self._problem_count = 0

    def see(self, row: Any) -> None:
        """Check one event against itself, against the one before and against its anchor."""
        sequence = row.sequence
        if self._last is None:
            self._first = sequence
            self._see_first(row)
        elif sequence != self._last.sequence + 1:
            missing = sequence - self._last.sequence - 1
            self._found(sequence, "gap", f"{missing} events before it are missing")
        elif row.previous_hash != self._last.hash:
            self._found(sequence, "unlinked", "it does not follow the event before it")
        if row.hash != chain_hash(row.previous_hash, row.event):
            self._found(sequence, "changed", "its text is not the one that was hashed")
        if _recorded(row.event) != row.recorded_at:
            self._found(sequence, "time", "its time is not the one in its text")
        anchor = self._anchors.get(sequence)
        if anchor is not None and anchor.hash != row.hash:
            self._found(sequence, "anchor", "it is not the event of the anchor")
        self._count += 1
        self._last = Anchor(sequence, row.hash)

    def _see_first(self, row: Any) -> None:
        before = self._anchors.get(row.sequence - 1)
        expected = GENESIS if row.sequence == 1 else before.hash if before else row.previous_hash
        if row.sequence < 1 or row.previous_hash != expected:
            self._found(row.sequence, "beginning", "the chain does not begin with it")

    def _found(self, sequence: int, kind: str, text: str) -> None:
        self._problem_count += 1
        if len(self._problems) < _PROBLEMS_TOLD:
            self._problems.append(ChainProblem(sequence, kind, text))

    def result(self, *, partial: bool) -> Verified:
        """What was found. In a partial pass an anchor after the last event means nothing if none was seen."""
        last = self._last.sequence if self._last else 0
        if self._count or not partial:
            for anchor in self._anchors.values():
                if anchor.sequence > last:
                    self._found(anchor.sequence, "cut", f"the chain ends at {last}, before the anchor")
        return Verified(
            count=self._count,
            first=self._first,
            last=self._last.sequence if self._last else None,
            head=self._last,
            problems=tuple(self._problems),
            problem_count=self._problem_count,
        )


def _recorded(event: str) -> datetime | None:
    try:
        return datetime.fromisoformat(orjson.loads(event)["recorded"])
    except (ValueError, KeyError, TypeError):
        return None


def events(
    warehouse: Warehouse,
    reader: Occurrence,
    *,
    patient_id: str | None = None,
    since: datetime | None = None,
    limit: int = 1_000,
) -> list[dict[str, Any]]:
    """The newest events, newest first, as `{"sequence", "event"}`; of one patient if one is named.

    That they were read is added to the chain, as `reader`, before any is returned. Raises what
    `Warehouse.transaction` raises.
    """
    c = audit_events.c
    query = sa.select(c.sequence, c.event).order_by(c.sequence.desc())
    if since is not None:
        query = query.where(c.recorded_at >= since)
    forms = [] if patient_id is None else _forms_of(patient_id)
    if forms:
        # Narrows down in the database; whether it is the patient's is looked at in the parsed event.
        texts = (orjson.dumps(form, option=orjson.OPT_SORT_KEYS).decode()[1:-1] for form in forms)
        query = query.where(sa.or_(*(sa.func.strpos(c.event, text) > 0 for text in texts)))
    with warehouse.transaction() as connection:
        rows = connection.execution_options(yield_per=_ROWS_PER_READ).execute(query)
        parsed = ({"sequence": r.sequence, "event": orjson.loads(r.event)} for r in rows)
        found = list(islice((e for e in parsed if not forms or _is_about(e["event"], forms)), limit))
    with warehouse.transaction() as connection:
        append(warehouse, connection, reader)
    return found


def _forms_of(patient_id: str) -> list[dict[str, Any]]:
    """How events may refer to a patient: by reference whatever the name, or as `reference_to` does."""
    by_reference = {"reference": f"Patient/{patient_id}"}
    other = reference_to("Patient", patient_id)
    return [by_reference] if other == by_reference else [by_reference, other]


def _is_about(event: Mapping[str, Any], forms: Sequence[Mapping[str, Any]]) -> bool:
    return any(entity.get("what") in forms for entity in event.get("entity", ()))
