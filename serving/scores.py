"""Giving a score: scored, stored, audited, counted, and only then answered; the same for every way to ask.

Belongs here: what happens between a valid request and its answer, and the score as it is stored.
Does not belong here: the request's and the answer's form (the routes) and the score itself (`single.py`).
"""

from __future__ import annotations

import asyncio
import functools
import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import orjson
import sqlalchemy as sa
from fastapi import Request

from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.readmission.single import SingleScore
from medscore_assets.tables.serving import readmission_scores
from resources.warehouse import Warehouse
from serving.audit import AuditEntry
from serving.errors import peer_of, route_of
from serving.metrics import Metrics, metrics_of
from serving.service import Service, service_of

if TYPE_CHECKING:
    from serving.access import Caller
    from serving.champion import Serving

log = logging.getLogger("medscore.serving")

Source = Literal["api", "cds_hooks", "inference", "portal"]


@dataclass(frozen=True, slots=True)
class Asked:
    """One patient's features, valid by the contract, and what the client said beside them."""

    features: Mapping[str, Any]
    encounter_id: str | None = None
    patient_id: str | None = None
    data_as_of: datetime | None = None


@dataclass(frozen=True, slots=True)
class Given:
    """A score that was stored and audited under `score_id`, a UUID."""

    score_id: str
    scored_at: datetime
    asked: Asked
    score: SingleScore


async def give_score(
    request: Request,
    caller: Caller,
    asked: Asked,
    *,
    source: Source,
    explain: bool = True,
    idempotency_key: str | None = None,
    meanwhile: Callable[[Mapping[str, Any]], None] | None = None,
) -> Given:
    """The champion's score of one patient, after it was stored and audited.

    `meanwhile` is called with its row before that is so, to prepare what is said afterwards.
    Raises `Unavailable` (503) without a model or without an audit.
    """
    (given,) = await give_scores(
        request,
        caller,
        [asked],
        source=source,
        explain=explain,
        idempotency_key=idempotency_key,
        meanwhile=meanwhile,
    )
    return given


async def give_scores(
    request: Request,
    caller: Caller,
    asked: Sequence[Asked],
    *,
    source: Source,
    explain: bool = True,
    idempotency_key: str | None = None,
    meanwhile: Callable[[Mapping[str, Any]], None] | None = None,
    serving: Serving | None = None,
) -> list[Given]:
    """The scores of some patients, at least one, in their order; all or none are given.

    They are the champion's, or those of `serving`.
    """
    service, metrics = service_of(request), metrics_of(request)
    features = [each.features for each in asked]
    scores = await service.gathering.scores(features, explain=explain, serving=serving)
    at = datetime.now(UTC)
    given = [Given(str(uuid.uuid4()), at, *each) for each in zip(asked, scores, strict=True)]
    shadows = _shadow_rows(service, given, metrics)
    # One event a patient. Those of one request are queued together and so committed together.
    rows = [score_row(each, source, caller.client, idempotency_key) for each in given]
    recorded = [
        service.journal.record(
            _entry(request, caller, each),
            row,
            shadow,
            functools.partial(meanwhile, row) if meanwhile is not None else None,
        )
        for each, row, shadow in zip(given, rows, shadows, strict=True)
    ]
    if len(recorded) == 1:
        await recorded[0]
    else:
        await asyncio.gather(*recorded)
    for each in given:
        metrics.scored(source, each.score.tier)
    return given


def _entry(request: Request, caller: Caller, given: Given) -> AuditEntry:
    return AuditEntry(
        kind="score",
        outcome="success",
        caller=caller,
        route=route_of(request.scope),
        request_id=request.state.request_id,
        encounter_id=given.asked.encounter_id,
        patient_id=given.asked.patient_id,
        entity=given.score_id,
        status=200,
        occurred_at=given.scored_at,
        address=peer_of(request.scope),
    )


def _shadow_rows(
    service: Service, given: Sequence[Given], metrics: Metrics
) -> list[dict[str, Any]] | list[None]:
    """What the challenger says of the same patients. What is wrong with it never harms the answer."""
    challenger = service.champions.challenger()
    if challenger is None:
        return [None] * len(given)
    try:
        rows = [READMISSION.encode_row(each.asked.features) for each in given]
        probabilities = challenger.model.score(np.concatenate(rows)).tolist()
    except Exception as error:
        metrics.shadow_failures.inc()
        log.warning("shadow failed", extra={"version": challenger.version, "reason": type(error).__name__})
        return [None] * len(given)
    return [
        {
            "score_id": each.score_id,
            "model_version": challenger.version,
            "readmission_probability": probability,
            "scored_at": each.scored_at,
        }
        for each, probability in zip(given, probabilities, strict=True)
    ]


def score_row(given: Given, source: Source, client: str, idempotency_key: str | None) -> dict[str, Any]:
    """A given score as a row of `readmission_scores`, to be written as JSON by orjson."""
    score = given.score
    # Written once, for the row and for the answer.
    factors = orjson.Fragment(orjson.dumps(score.explanation)) if score.explanation else []
    return {
        "score_id": given.score_id,
        "source": source,
        "client": client,
        "idempotency_key": idempotency_key,
        "encounter_id": given.asked.encounter_id,
        "patient_id": given.asked.patient_id,
        "data_as_of": given.asked.data_as_of,
        **{name: given.asked.features[name] for name in READMISSION.feature_names},
        "features_sha256": score.features_sha256,
        "readmission_probability": score.probability,
        "risk_tier": score.tier,
        "explanation": {"baseline": score.baseline, "factors": factors},
        "recommended_actions": list(score.actions),
        "disclaimer": score.disclaimer,
        "model_name": score.model_name,
        "model_version": score.model_version,
        "contract_hash": score.contract_hash,
        "policy_version": score.policy_version,
        "policy_hash": score.policy_hash,
        "scored_at": given.scored_at,
    }


def stored_score(warehouse: Warehouse, score_id: str) -> dict[str, Any] | None:
    """A row of `readmission_scores`, its JSON as objects and its times in UTC; None if there is none."""
    return _first(warehouse, readmission_scores.c.score_id == score_id)


def stored_under(warehouse: Warehouse, client: str, idempotency_key: str) -> dict[str, Any] | None:
    """The row that a client's request of that name led to."""
    table = readmission_scores.c
    return _first(warehouse, sa.and_(table.client == client, table.idempotency_key == idempotency_key))


def _first(warehouse: Warehouse, condition: sa.ColumnElement[bool]) -> dict[str, Any] | None:
    with warehouse.transaction() as connection:
        found = connection.execute(sa.select(readmission_scores).where(condition)).mappings().first()
    if found is None:
        return None
    # The warehouse gives JSON as text, and times in the session's zone.
    read = {name: orjson.loads(found[name]) for name in ("explanation", "recommended_actions")}
    read |= {name: found[name].astimezone(UTC) for name in ("scored_at", "data_as_of") if found[name]}
    return {**found, **read}
