"""One patient's expected steps, tomorrow or in a week, for programs.

Belongs here: request and answer of the route, and its entry in the audit. Does not belong here: where a
forecast comes from (`mobility_forecasts.py`).
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from starlette.responses import Response

from medscore_assets.mobility.stored import ForecastFlag, stored_reasons
from serving.access import Caller, requires
from serving.audit import AuditEntry
from serving.errors import Problem, Unprocessable, answers, peer_of, responses, route_of
from serving.lists import reading
from serving.mobility_forecasts import DISCLAIMER, Mobility, Told
from serving.readmission import Name
from serving.service import service_of

router = APIRouter(tags=["mobility"])

MAY_FORECAST = ("coordinator", "care-manager")
"""Roles that may see one patient's steps and forecasts."""


class MobilityInterval(BaseModel):
    """Where the day's steps shall lie on a share of days."""

    lower: Annotated[float, Field(ge=0)]
    upper: float
    level: Annotated[float, Field(gt=0, lt=1)] = Field(description="That share.")


class MobilityReason(BaseModel):
    """What one feature adds to the forecast."""

    feature: str
    value: float | int | str | None
    steps: int
    text: str = Field(description="In plain words.")


class MobilityExplanation(BaseModel):
    """Why the forecast is not the patient's mean: `baseline_steps` + all steps = `forecast_steps`."""

    baseline_steps: int = Field(description="Mean of the patient's days to date, rounded.")
    reasons: list[MobilityReason] = Field(description="The strongest first.")
    other_steps: int = Field(description="What all other features add.")
    raised_steps: int = Field(description="What raises a sum below 0 to 0 steps.")
    forecast_steps: int = Field(description="The forecast, rounded.")


class MobilityForecast(BaseModel):
    """The expected steps of one patient on one day."""

    model_config = ConfigDict(extra="forbid")

    patient_id: str
    horizon_days: int
    forecast_day: date = Field(description="The forecast knows what was before this day.")
    target_day: date = Field(description="The day whose steps are forecast.")
    expected_steps: Annotated[float, Field(ge=0)]
    interval: MobilityInterval | None = Field(description="Null where too few rows calibrate one.")
    computed: bool = Field(description="Made for this answer, since the day's forecasts are not there.")
    made_at: AwareDatetime
    stale: bool = Field(description="The forecast's day is before the day that was asked for.")
    age_days: int = Field(description="By so many days.")
    data_until: date = Field(description="The last day with data.")
    cohort: str
    route: str = Field(description="The cohort, or `new` for patients with few days.")
    serves: str = Field(description="`cohort` or `global` (models), or the name of a naive forecast.")
    route_reason: str = Field(description="Why this one serves, in words.")
    model_name: str | None
    model_version: str | None
    contract_hash: str
    explanation: MobilityExplanation
    notes: list[str] = Field(description="What is to be known of this forecast.")
    disclaimer: Literal[DISCLAIMER]  # type: ignore[valid-type]


_REFUSALS = responses(401, 403, 404, 405, 412, 422, 429, 500, 503)


@router.get(
    "/v1/mobility/forecast/{patient_id:path}",
    summary="One patient's expected steps",
    response_model=None,
    responses=answers(MobilityForecast, "The forecast.") | _REFUSALS,
)
async def forecast(
    request: Request,
    patient_id: Annotated[Name, Path(description="The patient, as in the lake.")],
    caller: Annotated[Caller, Depends(requires(*MAY_FORECAST))],
    horizon: Annotated[
        Literal["1", "7"], Query(description="1: the forecast's day; 7: six days later.")
    ] = "1",
    day: Annotated[
        date | None, Query(description="The newest forecast as of this day; by default as of today.")
    ] = None,
) -> Response:
    """The newest forecast: as the day's run stored it, else computed from the newest features.

    A 412 says which data are missing.
    """
    mobility = mobility_of(request)
    require_no_future(mobility, day)
    (told,) = await reading(mobility.forecasts, patient_id, day, (int(horizon),))
    await record(request, caller, told)
    body = orjson.dumps(answer_of(told).model_dump(mode="json"))
    return Response(body, headers={"Cache-Control": "no-store"}, media_type="application/json")


def mobility_of(request: Request) -> Mobility:
    """The application's forecasts of steps."""
    found: Mobility = request.app.state.mobility
    return found


def require_no_future(mobility: Mobility, day: date | None) -> None:
    """Raises `Unprocessable` for a day that has begun nowhere yet."""
    if day is not None and day > mobility.today() + timedelta(days=1):
        raise Unprocessable(problems=[Problem("query.day", "value_error", "is in the future")])


def answer_of(told: Told) -> MobilityForecast:
    """The answer for a forecast, whether it was stored or computed."""
    row, why = told.row, stored_reasons(told.row)
    limits = {name: row[name] for name in ("lower", "upper", "level")}
    return MobilityForecast(
        patient_id=row["patient_id"],
        horizon_days=told.horizon_days,
        forecast_day=told.forecast_day,
        target_day=told.target_day,
        expected_steps=row["expected_steps"],
        interval=None if row["lower"] is None else MobilityInterval(**limits),
        computed=told.computed,
        made_at=row["made_at"],
        stale=told.age_days > 0,
        age_days=max(told.age_days, 0),
        data_until=row["data_until"],
        cohort=row["cohort"],
        route=row["route"],
        serves=row["serves"],
        route_reason=row["route_reason"],
        model_name=row["model_name"],
        model_version=None if row["model_version"] is None else str(row["model_version"]),
        contract_hash=row["contract_hash"],
        explanation=MobilityExplanation(
            baseline_steps=why.baseline,
            reasons=[MobilityReason(**_fields(reason)) for reason in why.reasons],
            other_steps=why.other,
            raised_steps=why.raised,
            forecast_steps=why.forecast,
        ),
        notes=notes_of(told),
        disclaimer=DISCLAIMER,
    )


def notes_of(told: Told) -> list[str]:
    """What is to be known of a forecast, a sentence each."""
    said = {
        ForecastFlag.FEW_DAYS: "The patient has too few days for an interval of their own; it is as wide as "
        "the cohort's at least.",
        ForecastFlag.OLD_DATA: f"The last day with data is {told.row['data_until']}.",
        ForecastFlag.NO_INTERVAL: "There is no interval: too little data calibrates one.",
        ForecastFlag.AFTERWARDS: "It was made after its day was over, from what was known before that day.",
    }
    notes = [sentence for flag, sentence in said.items() if flag in told.flags]
    if told.age_days > 0:
        days = "1 day" if told.age_days == 1 else f"{told.age_days} days"
        notes.append(f"It is the newest there is, and {days} old.")
    return notes


async def record(request: Request, caller: Caller, told: Told) -> None:
    """Records that somebody saw a forecast. Raises `Unavailable` if that cannot be recorded."""
    entry = AuditEntry(
        kind="score" if told.computed else "read",
        outcome="success",
        caller=caller,
        route=route_of(request.scope),
        request_id=request.state.request_id,
        encounter_id=None,
        patient_id=told.row["patient_id"],
        entity=f"mobility forecast {told.forecast_day}",
        status=200,
        occurred_at=datetime.now(UTC),
        address=peer_of(request.scope),
    )
    await service_of(request).journal.record(entry)


def _fields(reason: Any) -> dict[str, Any]:
    return {name: getattr(reason, name) for name in ("feature", "value", "steps", "text")}
