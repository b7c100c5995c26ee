"""The board in words, as people in a waiting room read them, in both languages.

Belongs here: the board's own texts, and from what is posted to its lines. Does not belong here: texts that
the API has as well (`serving/wait_times_words.py`), reading, the page and its refreshes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from medscore_assets.wait_times.bands import ALL_BANDS, ALL_POSTED
from medscore_assets.wait_times.display import CAP_MINUTES, Displayed
from medscore_assets.wait_times.showing import FRESH
from serving.wait_times_reading import SMALL, Current, Posted
from serving.wait_times_words import Language, duration, eight_in_ten, range_text, without_wait

_NBSP = "\N{NO-BREAK SPACE}"

_WORDS: Mapping[Language, Mapping[str, str]] = {
    "en": {
        "language": "English",
        "name": "{name} – Emergency",
        "title": "Estimated wait from arrival until a physician sees you",
        "all_posted": "Most people",
        "levels_all_posted": "triage levels 3 to 5",
        "ctas_2": "Very urgent",
        "levels_ctas_2": "triage level 2",
        "ctas_3": "Urgent",
        "levels_ctas_3": "triage level 3",
        "ctas_4_5": "Less urgent",
        "levels_ctas_4_5": "triage levels 4 and 5",
        "above_cap": "more than {cap}",
        "nothing": "not available",
        "closed": "closed, ask at the desk",
        "taken_away": "not available, ask at the desk",
        "beyond_open_range": "More than 2 in 10 people wait longer than {cap}",
        "beyond_above_cap": "More than half of the people wait longer than {cap}",
        "how_to_read": "Second time: 8 in 10 people are seen within it.",
        "waiting": "People waiting, levels 3 to 5",
        "in_treatment": "Being treated",
        "few": "fewer than {few}",
        "first": "The sickest people are seen first. Times can change quickly.",
        "worse": "Tell the nurse if you feel worse.",
        "as_of": "As of {time}",
        "clock": "{hour:02}:{minute:02}{nbsp}{zone}",
        "lost": "No connection. These times are from {time}.",
        "on_phone": "This page on your phone:",
        "both": "Both languages in turn",
    },
    "fr": {
        "language": "Français",
        "name": "{name} – Urgence",
        "title": "Attente estimée, de l’arrivée jusqu’à la rencontre avec un médecin",
        "all_posted": "La plupart des gens",
        "levels_all_posted": "niveaux de triage 3 à 5",
        "ctas_2": "Très urgent",
        "levels_ctas_2": "niveau de triage 2",
        "ctas_3": "Urgent",
        "levels_ctas_3": "niveau de triage 3",
        "ctas_4_5": "Moins urgent",
        "levels_ctas_4_5": "niveaux de triage 4 et 5",
        "above_cap": "plus de {cap}",
        "nothing": "non disponible",
        "closed": "fermé, demandez à l’accueil",
        "taken_away": "non disponible, demandez à l’accueil",
        "beyond_open_range": "Plus de 2 personnes sur 10 attendent plus de {cap}",
        "beyond_above_cap": "Plus de la moitié des gens attendent plus de {cap}",
        "how_to_read": "Second temps : 8 personnes sur 10 sont vues en cette durée ou moins.",
        "waiting": "En attente, niveaux 3 à 5",
        "in_treatment": "En traitement",
        "few": "moins de {few}",
        "first": "Les plus malades sont vus en premier. Les temps peuvent changer vite.",
        "worse": "Avisez le personnel infirmier si vous vous sentez plus mal.",
        "as_of": "À {time}",
        "clock": "{hour}{nbsp}h{nbsp}{minute:02} ({zone})",
        "lost": "Pas de connexion. Ces temps datent de {time}.",
        "on_phone": "Cette page sur votre téléphone :",
        "both": "Les deux langues en alternance",
    },
}

_FRENCH_ZONES = dict(
    zip(
        ("NST", "NDT", "AST", "ADT", "EST", "EDT", "CST", "CDT", "MST", "MDT", "PST", "PDT"),
        ("HNT", "HAT", "HNA", "HAA", "HNE", "HAE", "HNC", "HAC", "HNR", "HAR", "HNP", "HAP"),
        strict=True,
    )
)
"""Canada's zones by their English letters."""


@dataclass(frozen=True, slots=True)
class Line:
    """One band on the board."""

    band: str
    label: str
    levels: str
    figure: str
    spoken: str
    """The same for reading aloud."""
    within: str
    """The sentence on 8 in 10 people; empty where nothing is known of it."""
    known: bool


@dataclass(frozen=True, slots=True)
class Side:
    """The board in one language. Without `headline` and `lines` it is blank, and `blank` is what it says."""

    language: Language
    name: str
    title: str
    as_of: str
    headline: Line | None
    lines: Sequence[Line]
    how_to_read: str
    counts: Sequence[tuple[str, str]]
    """Label and number of people."""
    blank: str
    notes: Sequence[str]
    lost: str
    """What it says above times that it could not renew."""


@dataclass(frozen=True, slots=True)
class Board:
    """All that a facility's board shows, in each of its languages."""

    sides: Sequence[Side]
    valid_until: datetime | None
    """When its times are too old to stay; None where it has none."""


def board_of(posted: Posted, facility_id: str, languages: Sequence[Language]) -> Board:
    """The board of a facility of `posted`. Raises KeyError for one that is not in it."""
    here = {band: found for (name, band), found in posted.places.items() if name == facility_id}
    current = {band: found for band, found in here.items() if found.display.code != "nothing"}
    closed = {band: found.answer.closed for band, found in here.items() if found.answer.closed}
    as_of = min((found.answer.as_of for found in current.values() if found.answer.as_of), default=None)
    sides = [_side(posted, facility_id, current, closed, as_of, language) for language in languages]
    return Board(sides, as_of + FRESH if as_of else None)


def blank_board(posted: Posted, facility_id: str, languages: Sequence[Language]) -> Board:
    """The same without any time: what is shown when the last times are too old."""
    return board_of(Posted(posted.facilities, {}, {}), facility_id, languages)


def words_of(language: Language) -> Mapping[str, str]:
    """The board's own texts."""
    return _WORDS[language]


def figure(display: Displayed, language: Language) -> str:
    """A range as the board has it, which does not break: `1 h 30 – 2 h 15`, `about 45 min`."""
    if display.code == "nothing":
        return _WORDS[language]["nothing"]
    if display.code == "range":
        low, high = _unbroken(duration(display.low_minutes)), _unbroken(duration(display.high_minutes))
        return f"{low} – {high}"
    if display.code == "open_range":
        low = _unbroken(duration(display.low_minutes))
        return f"{low} – {_WORDS[language]['above_cap'].format(cap=_unbroken(duration(CAP_MINUTES)))}"
    return _unbroken(range_text(display, language))


def _side(
    posted: Posted,
    facility_id: str,
    current: Mapping[str, Current],
    closed: Mapping[str, str],
    as_of: datetime | None,
    language: Language,
) -> Side:
    words, facility = _WORDS[language], posted.facilities[facility_id]
    at = _clock(as_of, facility.zone, language) if as_of else ""
    lines = [_line(current.get(band), band, closed.get(band), language) for band in ALL_BANDS]
    ranges = [
        found
        for found in current.values()
        if found.display.code == "range" and found.answer.p80_seconds is not None
    ]
    headline = next((line for line in lines if line.band == ALL_POSTED), None)
    has_headline = ALL_POSTED in current or (ALL_POSTED in closed and current)
    cause = closed.get(ALL_POSTED)
    return Side(
        language=language,
        name=words["name"].format(name=facility.name_fr if language == "fr" else facility.name),
        title=words["title"],
        as_of=words["as_of"].format(time=at) if at else "",
        headline=headline if has_headline else None,
        lines=[line for line in lines if line.band != ALL_POSTED] if current else [],
        how_to_read=words["how_to_read"] if ranges else "",
        counts=_counts(posted, facility_id, words) if current else [],
        blank=without_wait(cause, language),
        # Nobody is seen first where nobody is seen.
        notes=(words["worse"],) if cause == "closed" and not current else (words["first"], words["worse"]),
        lost=words["lost"].format(time=at) if at else "",
    )


def _line(found: Current | None, band: str, closed: str | None, language: Language) -> Line:
    words = _WORDS[language]
    if found is None:
        nothing = words["nothing" if closed is None else "closed" if closed == "closed" else "taken_away"]
        return Line(band, words[band], words[f"levels_{band}"], nothing, nothing, "", known=False)
    display = found.display
    within = ""
    if found.answer.p80_seconds is not None:
        sentence = eight_in_ten(display, language)
        beyond = words.get(f"beyond_{display.code}", "").format(cap=_unbroken(duration(CAP_MINUTES)))
        within = _unbroken_times(sentence, display) if sentence else beyond
    text, spoken = figure(display, language), range_text(display, language)
    return Line(band, words[band], words[f"levels_{band}"], text, spoken, within, known=True)


def _counts(posted: Posted, facility_id: str, words: Mapping[str, str]) -> list[tuple[str, str]]:
    census = posted.census.get(facility_id)
    if census is None:
        return []
    few = words["few"].format(few=SMALL)
    # Not the sum over all bands: beside the counts of the open feed it would tell the small ones.
    counted = {"waiting": census.waiting.get(ALL_POSTED), "in_treatment": census.in_treatment}
    return [(words[name], few if people is None else str(people)) for name, people in counted.items()]


def _unbroken(text: str) -> str:
    return text.replace(" ", _NBSP)


def _unbroken_times(sentence: str, display: Displayed) -> str:
    time = duration(display.high_minutes)
    return sentence.replace(time, _unbroken(time))


def _clock(at: datetime, zone: str, language: Language) -> str:
    local = at.astimezone(ZoneInfo(zone))
    letters = local.tzname() or ""
    if not letters.isalpha():
        letters = f"UTC{local:%z}"
    elif language == "fr":
        letters = _FRENCH_ZONES.get(letters, letters)
    return _WORDS[language]["clock"].format(hour=local.hour, minute=local.minute, nbsp=_NBSP, zone=letters)
