"""The answers about wait times, as JSON.

Belongs here: the models of the answers and their examples. Does not belong here: where values come from
(`wait_times_reading.py`), routes (`wait_times.py`).

Waits are in seconds, ranges on boards in minutes, times with their offset. NaN never stands in an answer.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from medscore_assets.tables.wait_times import CLOSURE_CAUSES
from medscore_assets.wait_times.bands import ALL_BANDS
from medscore_assets.wait_times.display import Code, Displayed
from medscore_assets.wait_times.showing import FRESH
from serving.wait_times_reading import SMALL, Facility, Value
from serving.wait_times_words import (
    DISCLAIMER,
    DISCLAIMER_ID,
    LANGUAGES,
    eight_in_ten,
    range_text,
)

Seconds = Annotated[float, Field(ge=0, le=86_400)]
Count = Annotated[int, Field(ge=SMALL)]
Rest = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Band = Literal[ALL_BANDS]  # type: ignore[valid-type]
Status = Literal["ok", "fallback", "not_available", "closed"]
Closed = Literal[CLOSURE_CAUSES]  # type: ignore[valid-type]


class Words(BaseModel):
    """The same in both languages."""

    en: str
    fr: str


class WaitDisplay(BaseModel):
    """What a board makes of a value: rounded up to 15 minutes, and held on to while it hardly changes."""

    low_minutes: Annotated[int, Field(ge=15, le=360)] = Field(description="Half are seen within it.")
    high_minutes: Annotated[int, Field(ge=15, le=360)] = Field(description="Eight in ten are.")
    code: Code = Field(description="open_range: the upper end is above 360; above_cap: both are.")
    text: Words
    eight_in_ten: Words | None = Field(description="Null above the cap, and where no model says.")


class WaitValue(BaseModel):
    """One number, and what is to be known of it."""

    facility: str
    band: Band
    as_of: AwareDatetime = Field(description="The prediction knows what was recorded until then.")
    tick: AwareDatetime = Field(description="When it was made, or given to boards.")
    valid_until: AwareDatetime = Field(description="Later it is not shown: two ticks.")
    stale: bool = Field(description="That time is over.")
    status: Literal["ok", "fallback", "no_data", "error", "invalid", "timeout", "not_available"]
    message: str = Field(description="Why there is no value, if somebody said.")
    wait_seconds: Seconds | None = Field(description="Half of those who arrive at as_of are seen within it.")
    p80_seconds: Seconds | None = Field(description="Eight in ten are.")
    displayed: WaitDisplay | None
    model: str | None
    version: str | None
    fallback: bool = Field(description="The model's own fall-back, or another model than the assigned one.")
    replaced: bool = Field(description="Another model stood in for the assigned one.")


class WaitPlace(BaseModel):
    """What holds at a facility for a band of triage levels."""

    facility: str
    band: Band
    status: Status
    closed: Closed | None = Field(description="Why somebody took the wait from the board, if so.")
    current: WaitValue | None = Field(description="Null where nothing may be shown as current.")
    last_as_of: AwareDatetime | None = Field(description="Of the last value, if it is not current.")


_VALUE: dict[str, Any] = {
    "facility": "ed-1",
    "band": "all_posted",
    "as_of": "2026-03-12T17:00:00Z",
    "tick": "2026-03-12T17:00:00Z",
    "valid_until": "2026-03-12T17:30:00Z",
    "stale": False,
    "status": "ok",
    "message": "",
    "wait_seconds": 4980.0,
    "p80_seconds": 7860.0,
    "displayed": {
        "low_minutes": 90,
        "high_minutes": 135,
        "code": "range",
        "text": {"en": "1 h 30 to 2 h 15", "fr": "1 h 30 à 2 h 15"},
        "eight_in_ten": {
            "en": "8 in 10 people are seen within 2 h 15",
            "fr": "8 personnes sur 10 sont vues en 2 h 15 ou moins",
        },
    },
    "model": "queue_fluid_calibrated",
    "version": "1.0.0",
    "fallback": False,
    "replaced": False,
}
_PLACE: dict[str, Any] = {
    "facility": "ed-1", "band": "all_posted", "status": "ok", "closed": None,
    "current": _VALUE, "last_as_of": None
}  # fmt: skip


class WaitAnswer(BaseModel):
    """What is shown, or what a model said."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "status": "ok",
                "model": None,
                "version": None,
                "places": [_PLACE],
                "values": [_VALUE],
                "truncated": False,
                "disclaimer": DISCLAIMER_ID,
            }
        }
    )

    status: Literal["ok", "stale", "not_available"] = Field(
        description="ok: something is current; stale: there are values, but none is; else not_available."
    )
    model: str | None = Field(description="Whose values these are; null: what is shown, of any model.")
    version: str | None
    places: list[WaitPlace] = Field(description="What holds at this moment, whatever the window.")
    values: list[WaitValue] = Field(description="The window's, newest first.")
    truncated: bool = Field(description="There are more than the limit.")
    disclaimer: str = Field(description="The id of the sentences that the feed has.")


class PlaceName(BaseModel):
    """A facility and a band of triage levels."""

    facility: str
    band: Band


class WaitModel(BaseModel):
    """One version of a model that ran."""

    model: str
    version: str
    kind: Literal["built_in", "plugin", "http"]
    baseline: bool = Field(description="A yardstick: shown only where it is forced.")
    parameters: dict[str, Any]
    fingerprint: str
    first_seen_at: AwareDatetime
    last_ok_as_of: AwareDatetime | None = Field(description="Null: not within 24 hours.")
    shown_at: list[PlaceName] = Field(description="Where its value is shown at this moment.")
    assigned_at: list[PlaceName] = Field(description="Where it should be shown.")


class ModelsAnswer(BaseModel):
    """Every version that ever ran, by name, the latest version of a name last."""

    models: list[WaitModel]


class WaitPerformance(BaseModel):
    """How a model did at a facility for a band: means over patients, waits in seconds."""

    facility: str
    band: Band
    model: str = Field(description="`board` is what was displayed, whichever model it came from.")
    version: str
    days: Rest = Field(description="Local days with patients who were seen.")
    n: Rest = Field(description="Patients with a prediction who were seen.")
    left_unseen: Rest
    known_misses: Rest = Field(description="Patients who still wait, past the posted wait.")
    unresolved: Rest = Field(description="Patients who still wait, within it.")
    ticks: Rest = Field(description="Values that were expected.")
    pinball_50: float | None
    pinball_80: float | None = Field(description="What models are ranked by: the lower, the better.")
    mae: float | None
    bias: float | None = Field(description="Above 0: too long was posted.")
    coverage_seen: Share | None
    coverage: Share | None = Field(description="Share within the posted wait; 0.8 is right.")
    coverage_lower: Share | None = Field(description="Who left unseen counted as missed.")
    coverage_upper: Share | None = Field(description="Who left within the posted wait counted as hit.")
    mean_posted: float | None
    availability: Share | None
    mean_change: float | None = Field(description="From tick to tick.")
    jumps: Share | None = Field(description="Share of changes above 30 minutes.")


class PerformanceAnswer(BaseModel):
    """The leaderboard: by facility and band, the best first. Each model by the patients that it had."""

    days: int
    rows: list[WaitPerformance]


class FeedFacility(BaseModel):
    """An emergency department, as people call it."""

    id: str
    name: Words
    zone: str


class FeedBand(BaseModel):
    """The wait of one band of triage levels, as boards show it."""

    band: Band
    name: Words
    status: Status
    closed: Closed | None = Field(description="Why somebody took the wait from the board, if so.")
    as_of: AwareDatetime | None
    p50_seconds: Seconds | None
    p80_seconds: Seconds | None
    displayed: WaitDisplay | None
    text: Words = Field(description="The range, or a sentence that there is none.")
    waiting: Count | None = Field(description="People waiting; null: unknown, or withheld as too few.")
    model: str | None
    version: str | None


class FeedDisclaimer(BaseModel):
    """To be told with every wait."""

    id: str = Field(description="Another one whenever the text changes.")
    text: Words


class FeedClock(BaseModel):
    """What is waited for."""

    starts: Literal["arrival"] = "arrival"
    ends: Literal["physician_initial_assessment"] = "physician_initial_assessment"


_FEED_BAND: dict[str, Any] = {
    "band": "all_posted",
    "name": {"en": "Most people (CTAS 3 to 5)", "fr": "La plupart des gens (ÉTG 3 à 5)"},
    "status": "ok",
    "closed": None,
    "as_of": "2026-03-12T17:00:00Z",
    "p50_seconds": 4980.0,
    "p80_seconds": 7860.0,
    "displayed": _VALUE["displayed"],
    "text": {"en": "1 h 30 to 2 h 15", "fr": "1 h 30 à 2 h 15"},
    "waiting": 14,
    "model": "queue_fluid_calibrated",
    "version": "1.0.0",
}


class WaitFeed(BaseModel):
    """One facility's waits for sites and signs: the same until the next tick, or until they are too old."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "facility": {"id": "ed-1", "name": {"en": "General", "fr": "Général"}, "zone": "UTC"},
                "status": "ok",
                "as_of": "2026-03-12T17:00:00Z",
                "as_of_local": "2026-03-12T17:00:00Z",
                "valid_until": "2026-03-12T17:30:00Z",
                "clock": {"starts": "arrival", "ends": "physician_initial_assessment"},
                "bands": [_FEED_BAND],
                "in_treatment": 9,
                "counts_below": SMALL,
                "disclaimer": {"id": DISCLAIMER_ID, "text": {"en": DISCLAIMER["en"], "fr": DISCLAIMER["fr"]}},
            }
        }
    )

    facility: FeedFacility
    status: Status = Field(description="The headline's.")
    as_of: AwareDatetime | None = Field(description="Of the newest wait; null without any.")
    as_of_local: AwareDatetime | None = Field(description="The same with the facility's offset.")
    valid_until: AwareDatetime | None = Field(description="Later none of the waits may be shown.")
    clock: FeedClock
    bands: list[FeedBand]
    in_treatment: Count | None = Field(description="People seen by a physician and still there; likewise.")
    counts_below: int = Field(description="Counts below it are withheld.")
    disclaimer: FeedDisclaimer


def words(of: Any) -> Words:
    """A text of both languages, from a mapping or from a function of the language."""
    return Words(**{language: of(language) if callable(of) else of[language] for language in LANGUAGES})


def display_answer(display: Displayed, p80_seconds: float | None) -> WaitDisplay | None:
    """The range, its words, and what 8 in 10 may expect; None where nothing is shown."""
    if display.code == "nothing":
        return None
    promised = p80_seconds is not None and eight_in_ten(display, "en") is not None
    return WaitDisplay(
        low_minutes=display.low_minutes,
        high_minutes=display.high_minutes,
        code=display.code,
        text=words(lambda language: range_text(display, language)),
        eight_in_ten=words(lambda language: eight_in_ten(display, language)) if promised else None,
    )


def value_answer(value: Value, at: datetime) -> WaitValue:
    """A value as it is told at `at`."""
    return WaitValue(
        facility=value.facility_id,
        band=value.band,
        as_of=value.as_of,
        tick=value.tick,
        valid_until=value.as_of + FRESH,
        stale=value.stale(at),
        status=value.status,
        message=value.message,
        wait_seconds=value.wait_seconds,
        p80_seconds=value.p80_seconds,
        displayed=display_answer(value.display, value.p80_seconds),
        model=value.model,
        version=value.version,
        fallback=value.replaced or value.status == "fallback",
        replaced=value.replaced,
    )


def facility_answer(facility: Facility) -> FeedFacility:
    """A facility by its names."""
    name = Words(en=facility.name, fr=facility.name_fr)
    return FeedFacility(id=facility.facility_id, name=name, zone=facility.zone)
