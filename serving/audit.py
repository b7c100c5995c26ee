"""From an answer of the API to an event of the audit trail.

Belongs here: what the API says of a request, and its form as an AuditEvent. Does not belong here: the
event's form and the chain (`medscore_assets/audit.py`), and writing it (`journal.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from medscore_assets.audit import Occurrence, audit_event

if TYPE_CHECKING:
    from serving.access import Caller


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One answer or refusal: who, what, about whom, and with which result; identifiers only."""

    kind: str
    """One of `medscore_assets.audit.KINDS`."""
    outcome: str
    """success, refused or failed."""
    caller: Caller | None
    route: str
    """The route's template."""
    request_id: str
    encounter_id: str | None
    patient_id: str | None
    entity: str | None
    """The score's id, or the day of a list."""
    status: int
    occurred_at: datetime
    reason: str | None = None
    """A code, for refusals."""
    address: str | None = None
    """Where the request came from."""


def event_of(entry: AuditEntry) -> str:
    """The entry's AuditEvent as canonical JSON. Raises `KeyError` for an unknown kind or outcome."""
    caller = entry.caller
    return audit_event(
        Occurrence(
            kind=entry.kind,
            outcome=entry.outcome,
            recorded=entry.occurred_at,
            client=caller.client if caller else None,
            subject=caller.subject if caller else None,
            issuer=caller.issuer if caller else None,
            roles=tuple(caller.roles) if caller else (),
            purpose=caller.purpose if caller else None,
            address=entry.address,
            route=entry.route,
            status=entry.status,
            reason=entry.reason,
            request_id=entry.request_id,
            patient_id=entry.patient_id,
            encounter_id=entry.encounter_id,
            entity=entry.entity,
        )
    )
