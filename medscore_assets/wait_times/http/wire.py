"""The native interface edwait/1: what is sent to a model, and what its answers must look like.

Belongs here: the bodies of GET /metadata and POST /predict, their strict reading, and the form of a version.
Does not belong here: transport (`client.py`), and when a model is asked (`base.py`).

No identifier of a patient or a visit is sent, and only the columns that the model asks for. Nothing that a
server wrote goes into an error or a message: it may hold what it was sent.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import orjson
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from medscore_assets.wait_times.bands import ALL_POSTED, UNKNOWN
from medscore_assets.wait_times.clock import as_datetime
from medscore_assets.wait_times.http.client import RefusedAnswer, where_of
from medscore_assets.wait_times.http.entry import HttpEntry
from medscore_assets.wait_times.prediction import LONGEST_SECONDS, Predictions, Status
from medscore_assets.wait_times.snapshot import MINUTE_US, Snapshot

UPPER_LEVEL = 0.8

Column = Literal["ended_at", "wait_seconds", "ctas", "since"]
Wait = Annotated[FiniteFloat, Field(ge=0, le=LONGEST_SECONDS)]
B = TypeVar("B", bound=BaseModel)

_VERSION = re.compile(r"(0|[1-9]\d{0,8})(?:\.(0|[1-9]\d{0,8}))?(?:\.(0|[1-9]\d{0,8}))?")
_STATUS = {"ok": Status.OK, "fallback": Status.FALLBACK, "no_data": Status.NO_DATA, "error": Status.ERROR}


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)


class Stamp(_Strict):
    """Which model answered."""

    name: str
    version: str


class Metadata(Stamp):
    """The answer to GET /metadata. Further fields may stand in it."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, hide_input_in_errors=True)

    api: Literal["edwait/1"]
    target: Literal["pia_wait_seconds"]
    start_event: Literal["arrival", "registration", "triage"] = "arrival"
    end_event: Literal["pia"] = "pia"
    quantiles: list[Annotated[float, Field(gt=0, lt=1)]] = [0.5]
    max_history_hours: Annotated[int, Field(ge=1)] | None = None
    columns: list[Column] = ["ended_at", "wait_seconds", "ctas", "since"]


class Row(_Strict):
    """The answer for one facility and band: seconds."""

    facility_id: str
    band: str = ALL_POSTED
    status: Literal["ok", "fallback", "no_data", "error"]
    wait_seconds: Wait | None = None
    quantiles: dict[Annotated[str, Field(pattern=r"^0\.\d{1,6}$")], Wait] = {}
    message: str | None = None
    """For the server's own log. It is not kept."""


class Answered(_Strict):
    """The answer to POST /predict. Its rows are read one by one, so that a wrong one costs itself only."""

    model: Stamp
    as_of: str
    predictions: Annotated[list[dict[str, Any]], Field(max_length=100_000)]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a model is to answer: one moment, its facilities and bands."""

    as_of: datetime
    facilities: tuple[str, ...]
    bands: tuple[str, ...]


def read(shape: type[B], content: Any, entry: HttpEntry, what: str) -> B:
    """The content in its shape. Raises `RefusedAnswer` that names the wrong fields, never what is in them."""
    try:
        return shape.model_validate(content)
    except ValidationError as error:
        raise refused(f"{what} is not of the form agreed on ({faults(error)})", entry) from None


def refused(what: str, entry: HttpEntry) -> RefusedAnswer:
    """An error about an answer that must not be used."""
    return RefusedAnswer(what, where=where_of(entry), mend="Correct the server; its answer is not used.")


def faults(error: ValidationError) -> str:
    """Which declared fields are wrong, and how. Names of fields that were made up are left out."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    told = [f"{_place(dict(e))}: {e['type']}" for e in found[:5]]
    return "; ".join(told)


def _place(fault: Mapping[str, Any]) -> str:
    if fault["type"] == "extra_forbidden":
        return "a field that there is not"
    # Further in are keys that the server made up.
    declared = fault["loc"][: 2 if fault["loc"][:1] == ("model",) else 1]
    return ".".join(map(str, declared)) or "the whole"


def version_of(version: str, entry: HttpEntry) -> str:
    """A version as three numbers; 3 and 3.1 are 3.0.0 and 3.1.0. Raises `RefusedAnswer` for anything else."""
    found = _VERSION.fullmatch(version)
    if found is None:
        raise refused("the model's version is not made of numbers, as 1.4.0", entry)
    return ".".join(part or "0" for part in found.groups())


def predict_body(
    snapshot: Snapshot, entry: HttpEntry, request_id: str, columns: Collection[str], hours: int
) -> bytes:
    """The JSON of POST /predict: who was seen in the last `hours`, and who waits, of every facility.

    A model that does not ask for triage levels gets the patients of the headline's band only.
    """
    rows = np.ones(len(snapshot.arrived), bool) if "ctas" in columns else snapshot.in_band(ALL_POSTED)
    ended = rows & snapshot.completed() & (np.nan_to_num(snapshot.seen, nan=-np.inf) > -60 * hours)
    waits = _listed(
        snapshot,
        ended,
        {
            "ended_at": lambda at: _times(snapshot, snapshot.seen, at),
            "wait_seconds": lambda at: (snapshot.waits()[at] * 60).round().tolist(),
            "ctas": lambda at: _levels(snapshot, at),
        },
        columns,
    )
    waiting = _listed(
        snapshot,
        rows & snapshot.waiting(),
        {
            "since": lambda at: _times(snapshot, snapshot.arrived, at),
            "ctas": lambda at: _levels(snapshot, at),
        },
        columns,
    )
    return orjson.dumps(
        {
            "as_of": time_text(as_datetime(snapshot.as_of[0])),
            "request_id": request_id,
            "bands": entry.bands,
            "facilities": [
                {"facility_id": facility, "waits": waits[scene], "waiting": waiting[scene]}
                for scene, facility in enumerate(snapshot.facilities)
            ],
        }
    )


def time_text(time: datetime) -> str:
    """A time in UTC to the second, as 2025-01-01T12:00:00Z."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def read_predictions(content: Any, asked: Asked, entry: HttpEntry) -> tuple[Stamp, Predictions]:
    """Who answered, and what, of an answer to POST /predict.

    A row whose values are wrong is invalid. Raises `RefusedAnswer` where the answer as a whole cannot be
    trusted: no name or version, another moment, a facility or band that was not asked for, the same twice.
    """
    answered = read(Answered, content, entry, "the answer")
    if not _is(answered.as_of, asked.as_of):
        raise refused("the answer is for another moment", entry)
    found = Predictions.without(
        len(asked.facilities), asked.bands, Status.ERROR, "The server left it out of its answer."
    )
    scenes = {name: scene for scene, name in enumerate(asked.facilities)}
    places = {code: place for place, code in enumerate(asked.bands)}
    done = set()
    for row in answered.predictions:
        band = row.get("band", ALL_POSTED)
        try:
            at = scenes[row["facility_id"]], places[band]
        except (KeyError, TypeError):
            raise refused("the answer is about a facility or a band that was not asked for", entry) from None
        if at in done:
            raise refused("the answer has a facility and band twice", entry)
        done.add(at)
        _take(found, at, row)
    return answered.model, found


def _take(found: Predictions, at: tuple[int, int], content: dict[str, Any]) -> None:
    try:
        row = Row.model_validate(content)
    except ValidationError as error:
        found.fail(*at, Status.INVALID, f"not a wait ({faults(error)})"[:200])
        return
    status = _STATUS[row.status]
    if status is Status.ERROR:
        found.fail(*at, status, "The server says that it failed here.")
    elif status is Status.NO_DATA:
        found.fail(*at, status)
    elif row.wait_seconds is None:
        found.fail(*at, Status.INVALID, "not a wait (wait_seconds: missing)")
    else:
        upper = next((v for level, v in row.quantiles.items() if float(level) == UPPER_LEVEL), None)
        put(found, at, row.wait_seconds, upper, status)


def put(
    found: Predictions, at: tuple[int, int], typical: float, upper: float | None, status: Status = Status.OK
) -> None:
    """Enters one value, in seconds."""
    found.p50[at], found.p80[at] = typical, np.nan if upper is None else upper
    found.status[at] = status
    found.messages.pop(at, None)


def _is(told: str, as_of: datetime) -> bool:
    try:
        return datetime.fromisoformat(told) == as_of
    except (ValueError, TypeError):
        return False


def _listed(
    snapshot: Snapshot, which: npt.NDArray[np.bool_], cells: Mapping[str, Any], columns: Collection[str]
) -> list[list[dict[str, Any]]]:
    """Of each scene the rows as JSON's objects; none if no column but the triage level is asked for."""
    names = [name for name in cells if name in columns]
    if names in ([], ["ctas"]):
        return [[] for _ in snapshot.facilities]
    at = np.flatnonzero(which)
    values = zip(*(cells[name](at) for name in names), strict=True)
    rows = [dict(zip(names, row, strict=True)) for row in values]
    bounds = np.searchsorted(at, snapshot.offsets)
    return [rows[start:end] for start, end in itertools.pairwise(bounds.tolist())]


def _times(snapshot: Snapshot, minutes: npt.NDArray[np.float64], at: npt.NDArray[np.int64]) -> list[str]:
    shift = (minutes[at] * MINUTE_US).round().astype("timedelta64[us]")
    times = (snapshot.as_of[snapshot.scene()[at]] + shift).astype("datetime64[s]")
    texts: list[str] = np.datetime_as_string(times, timezone="UTC").tolist()
    return texts


def _levels(snapshot: Snapshot, at: npt.NDArray[np.int64]) -> list[int | None]:
    return [None if level == UNKNOWN else level for level in snapshot.ctas[at].tolist()]
