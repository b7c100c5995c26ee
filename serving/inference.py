"""The Open Inference Protocol v2 over the same scores, for clients that speak it already.

Belongs here: the protocol's routes, tensors in and out, and its form of metadata.
Does not belong here: how a score is made, stored and audited (`scores.py`); the form of its errors
(`errors.py`).

Only the champion is served, under its version. Each input is a tensor of one value a row. Tensors are JSON;
the extension for binary data is not offered.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Path, Request
from pydantic import ValidationError
from starlette.responses import Response

from medscore_assets.contracts.fields import Category, Feature, InvalidValue, Whole
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.readmission.policy import DISCLAIMER
from medscore_assets.readmission.scoring import MODEL
from serving import examples
from serving.access import Caller, requires
from serving.champion import Serving
from serving.errors import BadRequest, NotFound, Problem, Unprocessable, answers, problems_of, responses
from serving.health import readiness
from serving.inference_schema import (
    InferInput,
    InferRequest,
    InferResponse,
    ModelMetadata,
    ModelReady,
    Ready,
    ServerLive,
    ServerMetadata,
    TensorMetadata,
    V2Error,
)
from serving.openapi import json_body
from serving.readmission import MAY_SCORE
from serving.scores import Asked, Given, give_scores
from serving.service import service_of

router = APIRouter(tags=["open inference protocol v2"])

MAX_ROWS = 256
"""As many as the journal commits at once."""
_TOLD_PROBLEMS = 20

_INTEGERS = ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
_ACCEPTED = {"INT64": _INTEGERS, "BYTES": ("BYTES",), "BOOL": ("BOOL",)}


def _datatype(feature: Feature) -> str:
    if isinstance(feature, Whole):
        return "INT64"
    return "BYTES" if isinstance(feature, Category) else "BOOL"


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


_INPUTS = {feature.name: _datatype(feature) for feature in READMISSION.features}
_OUTPUTS: dict[str, tuple[str, Callable[[Given], Any]]] = {
    "probability": ("FP64", lambda given: given.score.probability),
    "risk_tier": ("BYTES", lambda given: given.score.tier),
    # Texts cannot hold lists, so these are JSON.
    "recommended_actions": ("BYTES", lambda given: _json(given.score.actions)),
    "score_id": ("BYTES", lambda given: given.score_id),
    "disclaimer": ("BYTES", lambda given: given.score.disclaimer),
    "explanation": ("BYTES", lambda given: _json(given.score.explanation)),
}
_ONLY_IF_ASKED = ("explanation",)

_ABSENT = responses(404, 405, 429, 500, 503, model=V2Error)
_READY = answers(ModelReady, "Not ready.", 503) | responses(404, 405, 429, 500, model=V2Error)
_REFUSALS = responses(400, 401, 403, 404, 405, 408, 413, 415, 422, 429, 500, 503, model=V2Error)
_INFERRED = answers(InferResponse, "The scores.") | _REFUSALS

_EXAMPLE = {
    "id": "request-1",
    "inputs": [
        {"name": name, "shape": [1], "datatype": datatype, "data": [examples.FEATURES[name]]}
        for name, datatype in _INPUTS.items()
    ],
}


@router.get("/v2", summary="What serves", responses=responses(405, 429, 500, model=V2Error))
async def server() -> ServerMetadata:
    """Name, version and extensions of the server."""
    return ServerMetadata(name="medscore", version="1", extensions=[])


@router.get(
    "/v2/health/live", summary="Whether the process answers", responses=responses(405, 500, model=V2Error)
)
async def live() -> ServerLive:
    """Always, if anything answers at all."""
    return ServerLive(live=True)


@router.get(
    "/v2/health/ready",
    summary="Whether it can score",
    responses=answers(Ready, "Not ready.", 503) | responses(405, 500, model=V2Error),
)
async def ready(request: Request, response: Response) -> Ready:
    """Whether database, audit and champion are good; 503 if not."""
    good = (await readiness(request.app)).ready
    response.status_code = 200 if good else 503
    return Ready(ready=good)


ModelName = Annotated[str, Path(description="The model's name.", examples=[MODEL])]


async def _of_model(request: Request, model: ModelName) -> Serving:
    """What serves the model named in the path."""
    return _served(request, model, None)


async def _of_version(request: Request, model: ModelName, version: str) -> Serving:
    """The version named in the path, which must be the one that serves."""
    return _served(request, model, version)


OfModel = Annotated[Serving, Depends(_of_model)]
OfVersion = Annotated[Serving, Depends(_of_version)]
MayScore = Annotated[Caller, Depends(requires(*MAY_SCORE))]


@router.get("/v2/models/{model}", summary="What the model takes and gives", responses=_ABSENT)
async def metadata(served: OfModel) -> ModelMetadata:
    """Inputs and outputs with datatypes and shapes, by the contract."""
    return _metadata(served)


@router.get(
    "/v2/models/{model}/versions/{version}", summary="What the version takes and gives", responses=_ABSENT
)
async def version_metadata(served: OfVersion) -> ModelMetadata:
    """Inputs and outputs with datatypes and shapes, by the contract."""
    return _metadata(served)


@router.get("/v2/models/{model}/ready", summary="Whether the model can score", responses=_READY)
async def model_ready(request: Request, response: Response, served: OfModel) -> ModelReady:
    """Whether the model can score; 503 if not."""
    return await _ready(request, response)


@router.get(
    "/v2/models/{model}/versions/{version}/ready",
    summary="Whether the version can score",
    responses=_READY,
)
async def version_ready(request: Request, response: Response, served: OfVersion) -> ModelReady:
    """Whether this version is the one that scores, and can; 503 if not."""
    return await _ready(request, response)


@router.post(
    "/v2/models/{model}/infer",
    summary="Score rows",
    response_model=None,
    responses=_INFERRED,
    openapi_extra=json_body(InferRequest, discharge=_EXAMPLE),
)
async def infer(request: Request, caller: MayScore, served: OfModel) -> Response:
    """The calibrated 30-day risk of up to 256 patients. Every row must be valid, or none is scored."""
    return await _infer(request, caller)


@router.post(
    "/v2/models/{model}/versions/{version}/infer",
    summary="Score rows with a version",
    response_model=None,
    responses=_INFERRED,
    openapi_extra=json_body(InferRequest, discharge=_EXAMPLE),
)
async def version_infer(request: Request, caller: MayScore, served: OfVersion) -> Response:
    """The same, refused unless this version is the one that serves."""
    # The very model that was looked at: by now the alias may have moved.
    return await _infer(request, caller, served)


def _metadata(served: Serving) -> ModelMetadata:
    return ModelMetadata(
        name=MODEL,
        versions=[str(served.version)],
        platform="xgboost_ubjson",
        inputs=[TensorMetadata(name=n, datatype=d, shape=[-1]) for n, d in _INPUTS.items()],
        outputs=[TensorMetadata(name=n, datatype=d, shape=[-1]) for n, (d, _) in _OUTPUTS.items()],
        parameters={"contract_hash": READMISSION.hash, "max_rows": MAX_ROWS, "disclaimer": DISCLAIMER},
    )


async def _ready(request: Request, response: Response) -> ModelReady:
    good = (await readiness(request.app)).ready
    response.status_code = 200 if good else 503
    return ModelReady(name=MODEL, ready=good)


async def _infer(request: Request, caller: Caller, serving: Serving | None = None) -> Response:
    asked, outputs, name = _read(request, await request.body())
    explain = "explanation" in outputs
    given = await give_scores(request, caller, asked, source="inference", explain=explain, serving=serving)
    answer = orjson.dumps(_answer(given, outputs, name))
    return Response(answer, headers={"Cache-Control": "no-store"}, media_type="application/json")


def _served(request: Request, model: str, version: str | None) -> Serving:
    """What serves. Raises `NotFound` for another model or version, `Unavailable` without one."""
    if model != MODEL:
        raise NotFound("There is no such model.")
    served = service_of(request).champions.current()
    if version not in (None, str(served.version)):
        raise NotFound("This version does not serve.")
    return served


def _read(request: Request, body: bytes) -> tuple[list[Asked], list[str], str | None]:
    """Rows, names of the outputs wanted, and the request's id."""
    if "inference-header-content-length" in request.headers:
        raise BadRequest("Tensors must be JSON; binary data is not supported.")
    try:
        found = InferRequest.model_validate_json(body)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
        raise BadRequest("This is not an inference request.", problems=problems_of(errors)) from None
    wanted = [output.name for output in found.outputs or ()]
    if any(name not in _OUTPUTS for name in wanted):
        raise BadRequest("An output is asked for that the model does not have.")
    columns = _columns(found.inputs)
    names = READMISSION.feature_names
    rows = [Asked(dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True)]
    return rows, wanted or [n for n in _OUTPUTS if n not in _ONLY_IF_ASKED], found.id


def _columns(inputs: list[InferInput]) -> list[list[Any]]:
    """Per feature its values, all of one length and valid by the contract."""
    by_name = {tensor.name: tensor for tensor in inputs}
    if len(by_name) != len(inputs) or set(by_name) != set(_INPUTS):
        raise BadRequest(f"The inputs must be, once each: {', '.join(_INPUTS)}.")
    for name, datatype in _INPUTS.items():
        if by_name[name].datatype not in _ACCEPTED[datatype]:
            raise BadRequest(f"The datatype of {name} must be {datatype}.")
    columns = [_values(by_name[name]) for name in _INPUTS]
    rows = len(columns[0])
    if any(len(column) != rows for column in columns):
        raise BadRequest("The inputs have different numbers of rows.")
    if not 0 < rows <= MAX_ROWS:
        raise BadRequest(f"The number of rows must be from 1 to {MAX_ROWS}.")
    problems = list(_broken(columns))
    if problems:
        raise Unprocessable("Values are not valid by the contract.", problems=problems[:_TOLD_PROBLEMS])
    return columns


def _values(tensor: InferInput) -> list[Any]:
    flat = list(_flat(tensor.data))
    shape = tensor.shape
    if any(size != 1 for size in shape[1:]) or math.prod(shape) != len(flat):
        raise BadRequest(f"The shape of {tensor.name} must be [rows] or [rows, 1] and fit its data.")
    return flat


def _flat(data: list[Any]) -> Iterator[Any]:
    # Nested as deep as `limits.py` lets anything be.
    for item in data:
        if isinstance(item, list):
            yield from _flat(item)
        else:
            yield item


def _broken(columns: list[list[Any]]) -> Iterator[Problem]:
    for feature, column in zip(READMISSION.features, columns, strict=True):
        for row, value in enumerate(column):
            try:
                feature.code(value)
            except InvalidValue as invalid:
                label = invalid.reason.label
                yield Problem(f"{feature.name}[{row}]", label, label.replace("_", " "))


def _answer(given: list[Given], outputs: list[str], name: str | None) -> dict[str, Any]:
    score = given[0].score
    told: dict[str, Any] = {
        "model_name": score.model_name,
        "model_version": str(score.model_version),
        "parameters": {
            "disclaimer": score.disclaimer,
            "scored_at": given[0].scored_at.isoformat(),
            "contract_hash": score.contract_hash,
            "policy_version": score.policy_version,
            "policy_hash": score.policy_hash,
            "baseline": score.baseline,
        },
        "outputs": [
            {
                "name": output,
                "datatype": _OUTPUTS[output][0],
                "shape": [len(given)],
                "data": [_OUTPUTS[output][1](each) for each in given],
            }
            for output in outputs
        ],
    }
    return told if name is None else {**told, "id": name}
