"""What the API gives as FHIR, and the page about the model that its answers link to.

Belongs here: the RiskAssessment of a stored score, the champion's model card. Does not belong here: the
mapping (`risk_assessment.py`) and what stands on the card (`medscore_assets/report`).
"""

from __future__ import annotations

import functools
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated

import orjson
import sqlalchemy as sa
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from medscore_assets.readmission.scoring import MODEL
from medscore_assets.tables.readmission import discharge_events
from resources.errors import MedscoreError, PermanentError, TransientError
from resources.registry import ModelRegistry
from resources.warehouse import Warehouse
from serving.access import Caller, requires
from serving.errors import NotFound, Unavailable, responses
from serving.lists import reading
from serving.readmission import MAY_SCORE, audit_read
from serving.risk_assessment import MEDIA_TYPE, risk_assessment
from serving.scores import stored_score
from serving.service import service_of

router = APIRouter(tags=["FHIR"])

_ATTACHED = "evaluation"
_PAGE, _CARD = "evaluation.html", "model_card.json"

ASKED_AGAIN_S = 30.0
"""After how long the registry is asked again for what it did not have: anybody may ask for the page."""


@router.get(
    "/v1/readmission/scores/{score_id}/risk-assessment",
    summary="A score as a FHIR R4 RiskAssessment",
    response_model=None,
    responses={
        200: {"content": {MEDIA_TYPE: {}}, "description": "The RiskAssessment."},
        **responses(401, 403, 404, 405, 422, 429, 500, 503),
    },
)
async def assessment(
    request: Request, score_id: uuid.UUID, caller: Annotated[Caller, Depends(requires(*MAY_SCORE))]
) -> Response:
    """A score that was given earlier, with its probability in percent, as FHIR has it."""
    warehouse = service_of(request).warehouse
    row = await reading(stored_score, warehouse, str(score_id))
    if row is None:
        raise NotFound()
    discharged_at = await reading(discharge_of, warehouse, row["encounter_id"], row["patient_id"])
    await audit_read(request, caller, row)
    return Response(
        orjson.dumps(risk_assessment(row, discharged_at)),
        headers={"Cache-Control": "no-store"},
        media_type=MEDIA_TYPE,
    )


def discharge_of(warehouse: Warehouse, encounter_id: str | None, patient_id: str | None) -> datetime | None:
    """When a stay ended, by the last record of it; None if no source has told.

    A client names stays as it likes: where it named a patient too, a record of another one is another stay's.
    """
    if encounter_id is None:
        return None
    events = discharge_events.c
    same = sa.true() if patient_id is None else events.patient_id == patient_id
    query = (
        sa.select(events.discharged_at)
        .where(events.encounter_id == encounter_id, same, events.discharged_at.is_not(None))
        .order_by(events.ingested_at.desc(), events.event_id.desc())
        .limit(1)
    )
    with warehouse.transaction() as connection:
        found: datetime | None = connection.execute(query).scalar()
    return found


class ModelCards:
    """The champion's evaluation page and model card, fetched from the registry once per version."""

    def __init__(self, registry: ModelRegistry) -> None:
        self._registry = registry
        self._kept: tuple[int, dict[str, bytes]] | None = None
        self._refused: tuple[int, float, Callable[[], MedscoreError]] | None = None
        self._one_at_a_time = threading.Lock()

    def file(self, version: int, name: str) -> bytes:
        """A file of a version's evaluation. Raises `PermanentError` or `TransientError` if there is none."""
        with self._one_at_a_time:
            if self._kept is None or self._kept[0] != version:
                self._require_unasked(version)
                try:
                    self._kept = version, self._fetched(version)
                except MedscoreError as error:
                    again = functools.partial(type(error), error.what, where=error.where, mend=error.mend)
                    self._refused = version, time.monotonic() + ASKED_AGAIN_S, again
                    raise
            return self._kept[1][name]

    def _require_unasked(self, version: int) -> None:
        """Raises what the registry said of this version a moment ago, if it refused it."""
        if self._refused is not None:
            refused, until, error = self._refused
            if refused == version and time.monotonic() < until:
                raise error()

    def _fetched(self, version: int) -> dict[str, bytes]:
        with tempfile.TemporaryDirectory(prefix="medscore-card-") as folder:
            found = self._registry.attached(MODEL, version, _ATTACHED, Path(folder))
            if absent := [each for each in (_PAGE, _CARD) if not (found / each).is_file()]:
                raise PermanentError(
                    f"version {version} has no {absent[0]}",
                    where=f"registered model {MODEL}",
                    mend="Judge it again: materialize readmission_evaluation.",
                )
            return {each: (found / each).read_bytes() for each in (_PAGE, _CARD)}


def _cards_of(request: Request) -> ModelCards:
    """The application's model cards, by its registry."""
    cards: ModelCards = request.app.state.model_cards
    return cards


async def _file(request: Request, name: str) -> bytes:
    version = service_of(request).champions.current().version
    try:
        return await reading(_cards_of(request).file, version, name)
    except TransientError:
        raise Unavailable() from None
    except (MedscoreError, OSError):
        raise NotFound("The model has no card.") from None


@router.get(
    "/model-card",
    summary="The champion's evaluation and model card, to read",
    response_model=None,
    responses={
        200: {"content": {"text/html": {}}, "description": "The page."},
        **responses(404, 405, 429, 500, 503),
    },
)
async def model_card_page(request: Request) -> Response:
    """What the model is for, how well it does, and where it must not be used. It tells of no patient."""
    # The page brings its own styles and figures, and no script.
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    return Response(
        await _file(request, _PAGE), headers={"Content-Security-Policy": policy}, media_type="text/html"
    )


@router.get(
    "/model-card.json",
    summary="The champion's model card",
    response_model=None,
    responses={200: {"description": "The card."}, **responses(404, 405, 429, 500, 503)},
)
async def model_card_json(request: Request) -> Response:
    """The elements of the CHAI model card."""
    return Response(await _file(request, _CARD), media_type="application/json")
