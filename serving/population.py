"""The quarterly population report for programs: quarters, published cells, files.

Belongs here: request and answer of these routes. Does not belong here: reading (`population_reports.py`),
and what may be published (`readmission/population/suppression.py`).
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import AwareDatetime, BaseModel, Field, create_model
from starlette.responses import Response

from medscore_assets.readmission.policy import DISCLAIMER
from medscore_assets.readmission.population.dimensions import CUBES, DIMENSIONS
from medscore_assets.report.population.dictionary import COLUMNS, Column
from serving import population_reports as reports
from serving.access import Caller, requires
from serving.audit import AuditEntry
from serving.errors import ApiError, NotFound, Problem, Unprocessable, peer_of, responses, route_of
from serving.lists import reading
from serving.population_reports import Damaged, File, Row
from serving.service import service_of

router = APIRouter(tags=["population"])

MAY_READ = ("analyst", "steward")
"""Roles that may see the population report."""

MOST_QUARTERS = 40
WITHHELD = (
    "Counts of 1 to 10 people are withheld, with every figure from which one could be derived; they are null "
    "and named in suppressed_measures. Other figures that are null have a denominator of 0."
)
CONDITIONAL = (
    "Every risk is conditional on a discharge: the predicted probability that a patient who left hospital in "
    "the quarter is readmitted within 30 days. It is not a member's risk of going to hospital."
)
_TYPES = {".csv": "text/csv; charset=utf-8", ".parquet": "application/vnd.apache.parquet",
          ".pdf": "application/pdf"}  # fmt: skip
_OTHER_TYPE = "application/octet-stream"
_QUARTERS_TOLD = 8
_FORM = "1"
"""Of the answers; part of their ETag."""


class PopulationFile(BaseModel):
    """One file of a report. Its bytes have this SHA-256, or are not given."""

    name: str
    bytes: int
    sha256: str


class PopulationHeader(BaseModel):
    """What the figures of a quarter were computed from."""

    quarter: str
    version: Annotated[int, Field(ge=1)] = Field(
        description="Another one if members, model, contract or policy are others than before."
    )
    as_of: AwareDatetime = Field(description="What the frozen snapshot of the members knew.")
    rows: int = Field(description="Members in the snapshot.")
    input_fingerprint: str
    model_name: str
    model_version: str
    contract_hash: str
    policy_version: str
    policy_hash: str
    computed_at: AwareDatetime


class PopulationQuarter(PopulationHeader):
    """A quarter with a report, and its files if they are on this machine."""

    files: list[PopulationFile]


class QuartersAnswer(BaseModel):
    """The quarters that there are, newest first."""

    quarters: list[PopulationQuarter]


def _field(column: Column) -> tuple[Any, Any]:
    kinds: dict[str, Any] = {
        "count": int | None,
        "number": float | None,
        "flag": bool,
        "text": str,
        "list": list[str],
    }
    of = f" Of: {column.denominator}." if column.denominator else ""
    return kinds[column.kind], Field(description=f"{column.meaning} Unit: {column.unit}.{of}")


_CELL_FIELDS: dict[str, Any] = {c.name: _field(c) for c in COLUMNS if c.name not in ("quarter", "cube")}
PopulationCell: Any = create_model(
    "PopulationCell", __doc__="One cell; figures that are withheld are null.", **_CELL_FIELDS
)


class CellsAnswer(BaseModel):
    """The cells of one cube as they may be shown."""

    disclaimer: Literal[DISCLAIMER]  # type: ignore[valid-type]
    notes: list[str]
    header: PopulationHeader
    cube: str
    split_by: list[str]
    cells: list[PopulationCell]


Analyst = Annotated[Caller, Depends(requires(*MAY_READ))]
QuarterPath = Annotated[str, Path(description="The quarter, as 2026-Q3.", max_length=200)]
_CUBES = tuple(CUBES)
Cube = Literal[_CUBES]  # type: ignore[valid-type]


def _only(dimension: str) -> Any:
    return Query(description=f"Only cells of this {dimension}, if the cube is split by it.", max_length=500)


_VERSIONED = {
    "headers": {
        "ETag": {"description": "Of this version and question.", "schema": {"type": "string"}},
    }
}
_UNCHANGED: dict[int | str, dict[str, Any]] = {304: {"description": "The same as the ETag that was sent."}}
_REFUSALS = responses(401, 403, 404, 405, 422, 429, 500, 503)
_CELLS: dict[int | str, dict[str, Any]] = {
    200: {"model": CellsAnswer, "description": "The cells, in the order of their keys.", **_VERSIONED}
}
_QUARTERS: dict[int | str, dict[str, Any]] = {
    200: {"model": QuartersAnswer, "description": "The newest quarters."}
}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FILE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file as it was made.",
        "content": dict.fromkeys((*_TYPES.values(), _OTHER_TYPE), _BINARY),
        **_VERSIONED,
    }
}


@router.get(
    "/v1/population/quarters",
    summary="Quarters with a population report",
    response_model=None,
    responses=_QUARTERS | responses(401, 403, 405, 429, 500, 503),
)
async def quarters(request: Request, caller: Analyst) -> Response:
    """The quarters that were reported, newest first, with what they were computed from and their files."""
    told = await reading(_quarters, request)
    await record(request, caller, "list", None)
    return _json(told)


@router.get(
    "/v1/population/{quarter}/cells",
    summary="The cells of a cube",
    response_model=None,
    responses=_CELLS | _UNCHANGED | _REFUSALS,
)
async def cells(
    request: Request,
    caller: Analyst,
    quarter: QuarterPath,
    cube: Annotated[Cube, Query(description="What the members are split by.")] = "total",
    region: Annotated[str | None, _only("region")] = None,
    hospital_id: Annotated[str | None, _only("hospital")] = None,
    primary_diagnosis_group: Annotated[str | None, _only("diagnosis group")] = None,
    age_group: Annotated[str | None, _only("age group")] = None,
    sex: Annotated[str | None, _only("sex")] = None,
    insurance_type: Annotated[str | None, _only("insurance")] = None,
) -> Response:
    """Counts, risks, observed and expected readmissions by cell. What may not be shown is null."""
    values = (region, hospital_id, primary_diagnosis_group, age_group, sex, insurance_type)
    chosen = {name: text for name, text in zip(DIMENSIONS, values, strict=True) if text is not None}
    _require_split(cube, chosen)
    found = await report_of(request, quarter)
    tag = _tag(_header(found), cube, chosen)
    if unchanged(request, tag):
        await record(request, caller, "list", quarter, status=304)
        return Response(status_code=304, headers=_kept(tag))
    told = await reading(_cells, request, quarter, cube, chosen)
    # Read anew with its header: the version may have changed meanwhile.
    tag = _tag(told.header, cube, chosen)
    await record(request, caller, "list", quarter)
    return _json(told, _kept(tag))


@router.get(
    "/v1/population/{quarter}/files/{name}",
    summary="A file of a report",
    response_class=Response,
    response_model=None,
    responses=_FILE | _UNCHANGED | _REFUSALS,
)
async def file(
    request: Request,
    caller: Analyst,
    quarter: QuarterPath,
    name: Annotated[str, Path(description="As the quarters' answer names it.", max_length=200)],
) -> Response:
    """A CSV, the Parquet or the PDF, if its bytes are those that were made with the report."""
    return await file_answer(request, caller, quarter, name)


async def report_of(request: Request, quarter: str) -> Row:
    """The header of a quarter's report. Raises `NotFound`, which names the quarters that there are."""
    warehouse = service_of(request).warehouse
    parsed = reports.quarter_of(quarter)
    found = await reading(reports.header, warehouse, parsed) if parsed else None
    if found is None:
        raise NotFound(no_report(await reading(reports.headers, warehouse, _QUARTERS_TOLD)))
    return found


def no_report(there: list[Row]) -> str:
    """The sentence for a quarter without a report; it names the quarters that have one."""
    if not there:
        return "No quarter was reported yet. To make a report: medscore population report"
    return f"There is no report of that quarter. There are: {', '.join(row['quarter'] for row in there)}."


async def file_answer(request: Request, caller: Caller, quarter: str, name: str) -> Response:
    """A file of a report, for the API and the page. Raises `NotFound`, and `ApiError` if it is damaged."""
    found = await report_of(request, quarter)
    home = service_of(request).settings.home
    there = await reading(reports.files, home, found)
    if name not in there:
        raise NotFound(_no_file(there))
    chosen = there[name]
    headers = _kept(f'"{chosen.sha256}"') | {
        "Content-Disposition": f'attachment; filename="{saved_as(found, name)}"',
        "X-Content-Type-Options": "nosniff",
    }
    if unchanged(request, headers["ETag"]):
        await record(request, caller, "read", quarter, status=304)
        return Response(status_code=304, headers=headers)
    try:
        content = await reading(reports.content, home, found, chosen)
    except Damaged as damaged:
        raise ApiError(str(damaged), code="file_damaged") from None
    await record(request, caller, "read", quarter)
    return Response(content, headers=headers, media_type=media_type(name))


def media_type(name: str) -> str:
    """The media type of a file by its ending."""
    return next((kind for ending, kind in _TYPES.items() if name.endswith(ending)), _OTHER_TYPE)


def saved_as(report: Row, name: str) -> str:
    """The name under which a browser keeps a file: of two quarters both can lie in one folder."""
    safe = "".join(sign if sign.isascii() and (sign.isalnum() or sign in "._-") else "_" for sign in name)
    return f"{report['quarter']}_v{report['version']}_{safe}"


def unchanged(request: Request, tag: str) -> bool:
    """Whether the client has this already."""
    sent = (each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(","))
    return any(each in (tag, "*") for each in sent)


async def record(
    request: Request, caller: Caller, kind: str, quarter: str | None, *, status: int = 200
) -> None:
    """Records that aggregates were read; they name nobody. Raises `Unavailable` if that fails."""
    entry = AuditEntry(
        kind=kind,
        outcome="success",
        caller=caller,
        route=route_of(request.scope),
        request_id=request.state.request_id,
        encounter_id=None,
        patient_id=None,
        entity=f"population report {quarter}" if quarter else "population reports",
        status=status,
        occurred_at=datetime.now(UTC),
        address=peer_of(request.scope),
    )
    await service_of(request).journal.record(entry)


def _quarters(request: Request) -> QuartersAnswer:
    service = service_of(request)
    found = reports.headers(service.warehouse, MOST_QUARTERS)
    return QuartersAnswer(
        quarters=[
            PopulationQuarter(
                **_header(row).model_dump(), files=_files(reports.files(service.settings.home, row))
            )
            for row in found
        ]
    )


def _files(found: dict[str, File]) -> list[PopulationFile]:
    return [PopulationFile(name=f.name, bytes=f.bytes, sha256=f.sha256) for f in found.values()]


def _cells(request: Request, quarter: str, cube: str, chosen: dict[str, str]) -> CellsAnswer:
    parsed = reports.quarter_of(quarter)
    found = reports.cells(service_of(request).warehouse, parsed, (cube,)) if parsed else None
    if found is None:
        raise NotFound(no_report([]))
    header, rows = found
    return CellsAnswer(
        disclaimer=DISCLAIMER,
        notes=[WITHHELD, CONDITIONAL],
        header=_header(header),
        cube=cube,
        split_by=list(CUBES[cube]),
        cells=[
            PopulationCell(**row) for row in rows if all(row[name] == text for name, text in chosen.items())
        ],
    )


def _header(row: Row) -> PopulationHeader:
    return PopulationHeader(**row | {"model_version": str(row["model_version"])})


def _require_split(cube: str, chosen: dict[str, str]) -> None:
    others = [name for name in chosen if name not in CUBES[cube]]
    if others:
        told = "the cube is not split by this"
        raise Unprocessable(problems=[Problem(f"query.{name}", "value_error", told) for name in others])


def _no_file(there: dict[str, File]) -> str:
    if not there:
        return "The files of this report are not on this machine, or not made yet."
    return f"There is no such file. There are: {', '.join(there)}."


def _tag(report: PopulationHeader, cube: str, chosen: dict[str, str]) -> str:
    question = orjson.dumps([_FORM, report.model_dump(), cube, chosen], option=orjson.OPT_SORT_KEYS)
    return f'"{report.quarter}.{report.version}.{hashlib.sha256(question).hexdigest()[:32]}"'


def _kept(tag: str) -> dict[str, str]:
    """May be kept by the client alone, and is asked for again each time."""
    return {"ETag": tag, "Cache-Control": "private, no-cache", "Vary": "Authorization, Cookie"}


def _json(told: BaseModel, headers: dict[str, str] | None = None) -> Response:
    body = orjson.dumps(told.model_dump(mode="json"))
    return Response(body, headers=headers or {"Cache-Control": "no-store"}, media_type="application/json")
