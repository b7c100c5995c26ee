"""Wait times for programs: what boards show, what models said, how they did, and an open feed.

Belongs here: the requests, and who may make them. Does not belong here: the answers (`wait_times_answers.py`)
and their form (`wait_times_schema.py`), reading (`wait_times_reading.py`), the board's page (`portal/`).

Waits and counts of people are no patient's data: reading them is not audited, refusals are. What is shown may
be read by anybody where the settings say so, and else by every role. What other models said is for those who
compare models: a number that nobody decided to show must not be taken for one that is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import BaseModel
from starlette.responses import Response

from medscore_assets.wait_times.assignment import Bootstrap, Pair, versions
from medscore_assets.wait_times.bands import ALL_BANDS
from resources.warehouse import Warehouse
from serving import wait_times_answers as answers
from serving import wait_times_reading as stored
from serving import wait_times_schema as schema
from serving.access import ROLES, requires
from serving.errors import NotFound, Problem, Unprocessable, responses
from serving.lists import reading
from serving.population import unchanged
from serving.service import Service, service_of
from serving.wait_times_moment import Moment
from serving.wait_times_reading import Question

router = APIRouter(tags=["wait times"])

MAY_COMPARE = ("analyst", "steward", "care-manager")
"""Roles that may see what models said that are not shown, and how they did."""

WINDOW = timedelta(hours=6)
LONGEST_WINDOW = timedelta(days=31)
MOST_VALUES = 5000
MAX_AGE_S = 30
"""How long an answer may be kept: a board asks as often."""

FacilityName = Annotated[str | None, Query(max_length=200, description="By default all of them.")]
BandName = Annotated[
    str | None, Query(max_length=200, description=f"One of {', '.join(ALL_BANDS)}; by default all of them.")
]


async def may_read(request: Request) -> bool:
    """Lets through who may read what is shown; whether everybody may, so that the answer may be shared."""
    service = service_of(request)
    asked = request.query_params
    if "model_name" in asked or "model_version" in asked:
        await service.access.require(request, *MAY_COMPARE)
        return False
    if not service.settings.wait_times_public:
        await service.access.require(request, *ROLES)
    return service.settings.wait_times_public


Shared = Annotated[bool, Depends(may_read)]
_COMPARES = [Depends(requires(*MAY_COMPARE))]

_KEPT: dict[str, Any] = {
    "headers": {"ETag": {"description": "Of this content.", "schema": {"type": "string"}}}
}
_UNCHANGED: dict[int | str, dict[str, Any]] = {304: {"description": "The same as the ETag that was sent."}}
_REFUSALS = responses(401, 403, 404, 405, 422, 429, 500, 503)


def _answer_of(model: type[BaseModel], description: str) -> dict[int | str, dict[str, Any]]:
    return {200: {"model": model, "description": description, **_KEPT}} | _UNCHANGED | _REFUSALS


@router.get(
    "/wait_time",
    summary="Waits as they are shown, or as a model said",
    response_model=None,
    responses=_answer_of(schema.WaitAnswer, "The waits."),
)
async def wait_time(
    request: Request,
    shared: Shared,
    facility: FacilityName = None,
    band: BandName = None,
    model_name: Annotated[
        str | None, Query(max_length=200, description="What this model said; needs a role.")
    ] = None,
    model_version: Annotated[
        str | None, Query(max_length=200, description="Of the model; by default its latest that ran.")
    ] = None,
    from_ts: Annotated[Moment | None, Query(description="By default six hours before to_ts.")] = None,
    to_ts: Annotated[Moment | None, Query(description="By default now.")] = None,
    limit: Annotated[int, Query(ge=1, le=MOST_VALUES, description="Values, at most.")] = 1000,
) -> Response:
    """Without a model: what boards show, by assignment, and in its place by the next model that has a value.

    `places` says what is current now, `values` what was in the window, its ends included. Where nothing is
    current there is no current value, never an old one.
    """
    now = datetime.now(UTC)
    first, last = _window(from_ts, to_ts, now)
    if model_version is not None and model_name is None:
        raise Unprocessable(problems=[Problem("query.model_version", "value_error", "needs a model_name")])
    service = service_of(request)
    places = await reading(_places, service.warehouse, facility, band)
    question = Question(*places, first, last, limit + 1)
    if model_name is None:
        body = await reading(answers.of_shown, service.warehouse, default_of(service), question, now)
    else:
        pair = await reading(_known_pair, service.warehouse, model_name, model_version)
        body = await reading(answers.of_model, service.warehouse, pair, question, now)
    ends = [place.current.valid_until for place in body.places if place.current]
    return _kept(request, body, shared, _age(ends, now))


@router.get(
    "/wait_time/models",
    summary="Models that ran",
    dependencies=_COMPARES,
    response_model=None,
    responses=_answer_of(schema.ModelsAnswer, "Every version of every model that ever ran."),
)
async def models(request: Request) -> Response:
    """Name, version, parameters, last value and where it is shown, of every version that ever ran."""
    service = service_of(request)
    body = await reading(answers.of_models, service.warehouse, default_of(service), datetime.now(UTC))
    return _kept(request, body, False, 0)


@router.get(
    "/wait_time/performance",
    summary="How models did",
    dependencies=_COMPARES,
    response_model=None,
    responses=_answer_of(schema.PerformanceAnswer, "By facility and band, the best first."),
)
async def performance(
    request: Request,
    facility: FacilityName = None,
    band: BandName = None,
    days: Annotated[int, Query(ge=1, le=400, description="Over so many days up to today.")] = 28,
) -> Response:
    """Each model by the patients that it had.

    Whether one is better than another, a comparison on the same patients says: `medscore waits promote`.
    """
    service = service_of(request)
    places = await reading(_places, service.warehouse, facility, band)
    body = await reading(answers.of_performance, service.warehouse, places, days, datetime.now(UTC))
    return _kept(request, body, False, 0)


@router.get(
    "/wait_time/feed/{facility}",
    summary="One facility's waits for sites and signs",
    response_model=None,
    responses=_answer_of(schema.WaitFeed, "The waits by band of triage levels."),
)
async def feed(
    request: Request,
    shared: Shared,
    facility: Annotated[str, Path(max_length=200, description="The facility's id.")],
) -> Response:
    """What the board shows, with its words in English and French. It may be kept until the next is due."""
    service = service_of(request)
    now = datetime.now(UTC)
    (name,), _ = await reading(_places, service.warehouse, facility, None)
    told = await reading(answers.feed, service.warehouse, default_of(service), name, now)
    return _kept(request, told, shared, _age([told.valid_until] if told.valid_until else [], now))


def default_of(service: Service) -> Bootstrap:
    """Who is shown where nobody was assigned."""
    return Bootstrap(service.settings.wait_model, service.settings.wait_model_version)


def _window(first: datetime | None, last: datetime | None, now: datetime) -> tuple[datetime, datetime]:
    last = last or now
    first = first or last - WINDOW
    if first > last:
        raise Unprocessable(problems=[Problem("query.from_ts", "value_error", "is after to_ts")])
    if last - first > LONGEST_WINDOW:
        told = f"is more than {LONGEST_WINDOW.days} days before to_ts"
        raise Unprocessable(problems=[Problem("query.from_ts", "value_error", told)])
    return first, last


def _places(warehouse: Warehouse, facility: str | None, band: str | None) -> tuple[list[str], list[str]]:
    """The facilities and bands that are asked for. Raises `NotFound` for an unknown one."""
    if band is not None and band not in ALL_BANDS:
        raise NotFound(f"There is no such band. There are: {', '.join(ALL_BANDS)}.")
    known = list(stored.facilities(warehouse))
    if facility is not None and facility not in known:
        raise NotFound("There is no such facility.")
    return known if facility is None else [facility], list(ALL_BANDS) if band is None else [band]


def _known_pair(warehouse: Warehouse, model: str, version: str | None) -> Pair:
    pair = Bootstrap(model, version).pair(versions(warehouse))
    if pair is None:
        raise NotFound("No such model and version has run. GET /wait_time/models names those that have.")
    return pair


def _age(ends: Sequence[datetime], now: datetime) -> int:
    """For how many seconds an answer may be kept: never beyond the end of a value in it."""
    return min([MAX_AGE_S, *(max(int((end - now).total_seconds()), 0) for end in ends)])


def _kept(request: Request, told: BaseModel, shared: bool, seconds: int) -> Response:
    """The answer with its ETag, or that it is the same as before."""
    body = orjson.dumps(told.model_dump(mode="json"))
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    if shared:
        headers = {"ETag": tag, "Cache-Control": f"public, max-age={seconds}"}
    else:
        kept = f"max-age={seconds}" if seconds else "no-cache"
        headers = {"ETag": tag, "Cache-Control": f"private, {kept}", "Vary": "Authorization, Cookie"}
    if unchanged(request, tag):
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type="application/json")
