"""From what was read about wait times to the answers.

Belongs here: which values an answer holds, and what it says of them. Does not belong here: queries
(`wait_times_reading.py`, `wait_times_comparing.py`), the answers' form (`wait_times_schema.py`), HTTP.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from medscore_assets.wait_times.assignment import Bootstrap, Pair
from medscore_assets.wait_times.bands import ALL_BANDS, ALL_POSTED
from medscore_assets.wait_times.showing import FRESH, Shown
from resources.warehouse import Warehouse
from serving import wait_times_comparing as comparing
from serving import wait_times_reading as stored
from serving import wait_times_schema as schema
from serving.wait_times_reading import Current, Posted, Question, Value
from serving.wait_times_words import (
    BAND_NAMES,
    DISCLAIMER,
    DISCLAIMER_ID,
    Language,
    range_text,
    without_wait,
)


def of_shown(
    warehouse: Warehouse, default: Bootstrap, question: Question, now: datetime
) -> schema.WaitAnswer:
    """What boards show now and showed in the window, as it is told at `now`."""
    found = _posted(warehouse, default, question.facilities, question.bands, now)
    places = [
        schema.WaitPlace(
            facility=facility,
            band=band,
            status=_status(value, current.answer.closed),
            closed=current.answer.closed,
            current=value and schema.value_answer(value, now),
            last_as_of=None if value else current.answer.as_of,
        )
        for (facility, band), current in found.places.items()
        for value in [current_value(current)]
    ]
    return _waits(places, stored.shown_values(warehouse, question), question, now, None)


def of_model(warehouse: Warehouse, pair: Pair, question: Question, now: datetime) -> schema.WaitAnswer:
    """What a model says now and said in the window, as it is told at `now`."""
    current = stored.model_current(warehouse, pair, now, question.facilities, question.bands)
    values = stored.model_values(warehouse, pair, question)
    last: dict[tuple[str, str], datetime] = {}
    for each in values:
        if each.wait_seconds is not None:
            last.setdefault((each.facility_id, each.band), each.as_of)
    places = [
        schema.WaitPlace(
            facility=facility,
            band=band,
            status=_status(value),
            closed=None,
            current=value and schema.value_answer(value, now),
            last_as_of=None if value else last.get((facility, band)),
        )
        for facility in question.facilities
        for band in question.bands
        for value in [current.get((facility, band))]
    ]
    return _waits(places, values, question, now, pair)


def _waits(
    places: list[schema.WaitPlace],
    values: Sequence[Value],
    question: Question,
    now: datetime,
    pair: Pair | None,
) -> schema.WaitAnswer:
    most = question.limit - 1
    there = any(value.wait_seconds is not None for value in values)
    is_current = any(place.current for place in places)
    return schema.WaitAnswer(
        status="ok" if is_current else "stale" if there else "not_available",
        model=pair.model if pair else None,
        version=pair.version if pair else None,
        places=places,
        values=[schema.value_answer(value, now) for value in values[:most]],
        truncated=len(values) > most,
        disclaimer=DISCLAIMER_ID,
    )


def _posted(
    warehouse: Warehouse, default: Bootstrap, facilities: Sequence[str], bands: Sequence[str], now: datetime
) -> Posted:
    return stored.posted(warehouse, now, default=default, facility_ids=facilities, bands=bands)


def current_value(current: Current) -> Value | None:
    """What is current, as a value; None where nothing is."""
    answer: Shown = current.answer
    if not answer.current or answer.pair is None or answer.as_of is None or answer.status is None:
        return None
    return Value(
        facility_id=answer.facility_id,
        band=answer.band,
        as_of=answer.as_of,
        tick=answer.as_of,
        status=answer.status,
        wait_seconds=answer.wait_seconds,
        p80_seconds=answer.p80_seconds,
        model=answer.pair.model,
        version=answer.pair.version,
        display=current.display,
        replaced=answer.replaced,
    )


def _status(value: Value | None, closed: str | None = None) -> Any:
    if closed is not None:
        return "closed"
    if value is None:
        return "not_available"
    return "fallback" if value.replaced else value.status


def _text(current: Current, language: Language) -> str:
    if current.display.code == "nothing":
        return without_wait(current.answer.closed, language)
    return range_text(current.display, language)


def of_models(warehouse: Warehouse, default: Bootstrap, now: datetime) -> schema.ModelsAnswer:
    """Every version that ever ran."""
    found = comparing.models(warehouse, now, default)
    return schema.ModelsAnswer(
        models=[
            schema.WaitModel(
                **row
                | {
                    name: [schema.PlaceName(facility=facility, band=band) for facility, band in row[name]]
                    for name in ("shown_at", "assigned_at")
                }
            )
            for row in found
        ]
    )


def of_performance(
    warehouse: Warehouse, places: tuple[list[str], list[str]], days: int, now: datetime
) -> schema.PerformanceAnswer:
    """How models did at facilities and bands over the last days."""
    found = comparing.performance(warehouse, now, days, *places)
    rows = [schema.WaitPerformance(facility=row.pop("facility_id"), **row) for row in found]
    return schema.PerformanceAnswer(days=days, rows=rows)


def feed(warehouse: Warehouse, default: Bootstrap, name: str, now: datetime) -> schema.WaitFeed:
    """What is shown at a facility that is known, with its words."""
    found = _posted(warehouse, default, [name], ALL_BANDS, now)
    facility, census = found.facilities[name], found.census.get(name)
    bands = []
    for (_, band), current in found.places.items():
        value = current_value(current)
        bands.append(
            schema.FeedBand(
                band=band,
                name=schema.words(BAND_NAMES[band]),
                status=_status(value, current.answer.closed),
                closed=current.answer.closed,
                as_of=value and value.as_of,
                p50_seconds=value and value.wait_seconds,
                p80_seconds=value and value.p80_seconds,
                displayed=value and schema.display_answer(value.display, value.p80_seconds),
                text=schema.words(lambda language, of=current: _text(of, language)),
                waiting=census and census.waiting[band],
                model=value and value.model,
                version=value and value.version,
            )
        )
    as_of = max((band.as_of for band in bands if band.as_of), default=None)
    oldest = min((band.as_of for band in bands if band.as_of), default=None)
    return schema.WaitFeed(
        facility=schema.facility_answer(facility),
        status=next(band.status for band in bands if band.band == ALL_POSTED),
        as_of=as_of,
        as_of_local=as_of and as_of.astimezone(ZoneInfo(facility.zone)),
        valid_until=oldest and oldest + FRESH,
        clock=schema.FeedClock(),
        bands=bands,
        in_treatment=census and census.in_treatment,
        counts_below=stored.SMALL,
        disclaimer=schema.FeedDisclaimer(id=DISCLAIMER_ID, text=schema.words(DISCLAIMER)),
    )
