"""Wait times in words, English and French: ranges, bands, and what is said beside them.

Belongs here: the texts that the API and the board share. Does not belong here: rounding (`display.py` of the
wait times) and pages.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from medscore_assets.wait_times.display import CAP_MINUTES, Displayed

Language = Literal["en", "fr"]
LANGUAGES: tuple[Language, ...] = ("en", "fr")

DISCLAIMER_ID = "wait-times-1"
"""Another one whenever the sentences below change."""

DISCLAIMER: Mapping[Language, str] = MappingProxyType(
    {
        "en": "An estimate of the time from arrival until a physician sees you, not of the whole visit. "
        "The sickest people are seen first. Times can change quickly and may be longer. "
        "Tell the nurse if you feel worse. In an emergency call 911.",
        "fr": "Estimation du temps entre l’arrivée et la première évaluation par un médecin, et non de la "
        "durée totale de la visite. Les personnes les plus malades sont vues en premier. Les temps "
        "peuvent changer rapidement et être plus longs. Avisez le personnel infirmier si votre état "
        "s’aggrave. En cas d’urgence, composez le 911.",
    }
)

NOT_AVAILABLE: Mapping[Language, str] = MappingProxyType(
    {
        "en": "Estimated wait times are not available right now. Please ask at the desk.",
        "fr": "Les temps d’attente estimés ne sont pas disponibles en ce moment. "
        "Veuillez vous renseigner à l’accueil.",
    }
)

CLOSED: Mapping[str, Mapping[Language, str]] = MappingProxyType(
    {
        "closed": {
            "en": "This emergency department is closed right now. Please ask at the desk. "
            "In an emergency call 911.",
            "fr": "Cette urgence est fermée en ce moment. Veuillez vous renseigner à l’accueil. "
            "En cas d’urgence, composez le 911.",
        },
        "redirected": {
            "en": "People are being sent to other emergency departments right now. Please ask at the desk.",
            "fr": "Les gens sont dirigés vers d’autres urgences en ce moment. "
            "Veuillez vous renseigner à l’accueil.",
        },
        "exceptional": {
            "en": "Because of an exceptional situation, no wait times can be given right now. "
            "Please ask at the desk.",
            "fr": "En raison d’une situation exceptionnelle, aucun temps d’attente ne peut être donné "
            "en ce moment. Veuillez vous renseigner à l’accueil.",
        },
        "not_measured": NOT_AVAILABLE,
    }
)
"""What is said instead of a wait that somebody took from the board, by cause."""

BAND_NAMES: Mapping[str, Mapping[Language, str]] = MappingProxyType(
    {
        "all_posted": {"en": "Most people (CTAS 3 to 5)", "fr": "La plupart des gens (ÉTG 3 à 5)"},
        "ctas_2": {"en": "Very urgent (CTAS 2)", "fr": "Très urgent (ÉTG 2)"},
        "ctas_3": {"en": "Urgent (CTAS 3)", "fr": "Urgent (ÉTG 3)"},
        "ctas_4_5": {"en": "Less urgent (CTAS 4 and 5)", "fr": "Moins urgent (ÉTG 4 et 5)"},
    }
)

_MORE_THAN: Mapping[Language, str] = {"en": "more than", "fr": "plus de"}
_ABOUT: Mapping[Language, str] = {"en": "about", "fr": "environ"}
_TO: Mapping[Language, str] = {"en": "to", "fr": "à"}
_EIGHT_IN_TEN: Mapping[Language, str] = {
    "en": "8 in 10 people are seen within {time}",
    "fr": "8 personnes sur 10 sont vues en {time} ou moins",
}


def duration(minutes: int) -> str:
    """Minutes as both languages write them: 45 min, 1 h, 1 h 30."""
    hours, rest = divmod(minutes, 60)
    if not hours:
        return f"{rest} min"
    return f"{hours} h {rest:02d}" if rest else f"{hours} h"


def without_wait(cause: str | None, language: Language) -> str:
    """What is said where no wait is shown: by the cause for which the board was closed, if it was."""
    return (NOT_AVAILABLE if cause is None else CLOSED[cause])[language]


def range_text(display: Displayed, language: Language) -> str:
    """The range: 1 h 30 to 2 h 15. Where nothing is shown, a sentence says so."""
    low, high = duration(display.low_minutes), duration(display.high_minutes)
    if display.code == "nothing":
        return NOT_AVAILABLE[language]
    if display.code == "above_cap":
        return f"{_MORE_THAN[language]} {duration(CAP_MINUTES)}"
    if display.code == "open_range":
        return f"{low} {_TO[language]} {_MORE_THAN[language]} {duration(CAP_MINUTES)}"
    if display.code == "about":
        return f"{_ABOUT[language]} {high}"
    return f"{low} {_TO[language]} {high}"


def eight_in_ten(display: Displayed, language: Language) -> str | None:
    """Within which time 8 in 10 are seen; None above the cap and where nothing is shown.

    Only for a prediction that has an 80th percentile: without one the range says nothing of it.
    """
    if display.code not in ("about", "range"):
        return None
    return _EIGHT_IN_TEN[language].format(time=duration(display.high_minutes))
