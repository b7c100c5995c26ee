"""Measured values as people read them: numbers, intervals, counts that may not be shown.

Belongs here: how a value, an interval or a measure's name is put into words, and which small counts stay
hidden. Does not belong here: sentences about one report (`evaluation_page.py`) and anything measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

from medscore_assets.monitoring.assessment import Flagged, Interval, Subgroup, TierOutcome
from medscore_assets.monitoring.resampling import net_benefit_name

NOT_DEFINED = "not defined"
"""Stands wherever a measure has no value, as with one outcome only."""

SMALLEST_COUNT = 11
"""Counts from 1 to one below this could point to persons and are not shown."""

HIDDEN = f"fewer than {SMALLEST_COUNT}"
NOT_SHOWN = "not shown"
"""For a count that is large enough, but from which a hidden one could be derived."""

MINUS = "\u2212"


@dataclass(frozen=True, slots=True)
class Measure:
    """How one measure is shown: its name, its decimals, and what it says in plain words."""

    label: str
    digits: int
    meaning: str


NET_BENEFIT_AT = {net_benefit_name(percent / 100): percent / 100 for percent in range(1, 100)}
"""The thresholds of net benefits by the names of these measures."""

MEASURES = {
    "auroc": Measure("AUROC", 3, "chance that of two cases the one with the outcome has the higher risk"),
    "auprc": Measure("AUPRC", 3, "average precision; to be compared with the outcome rate"),
    "brier": Measure("Brier score", 4, "mean squared error of the risks; lower is better"),
    "scaled_brier": Measure("Scaled Brier score", 3, "1 is perfect, 0 is the outcome rate for everybody"),
    "calibration_in_the_large": Measure(
        "Observed less predicted", 4, "mean risk; above 0 the risks are too low, below 0 too high"
    ),
    "observed_expected": Measure("Observed by expected", 3, "1 is right; above 1 the risks are too low"),
    "error_in_the_large": Measure(
        "Distance of observed from predicted", 4, "of the mean risks, without sign; lower is better"
    ),
    "calibration_intercept": Measure(
        "Calibration intercept", 3, "in log-odds; above 0 the risks are too low, below 0 too high"
    ),
    "calibration_slope": Measure("Calibration slope", 3, "1 is right; below 1 the risks are too extreme"),
    "eavg": Measure("Eavg", 4, "mean distance between risk and smoothed observed rate"),
    "e90": Measure("E90", 4, "nine of ten cases are closer to the smoothed observed rate"),
    "emax": Measure("Emax", 4, "largest distance between risk and smoothed observed rate"),
    "mean_predicted": Measure("Mean predicted risk", 4, "over all cases"),
    "mean_observed": Measure("Observed rate", 4, "share of cases with the outcome"),
}


def measure(name: str) -> Measure:
    """How a measure is shown; one that is not listed is shown by its own name."""
    known = MEASURES.get(name)
    if known is not None:
        return known
    if (at := NET_BENEFIT_AT.get(name)) is not None:
        return Measure(f"Net benefit at {threshold(at)}", 4, "see usefulness; higher is better")
    return Measure(words(name), 4, "")


def words(name: str) -> str:
    """An identifier as words: `treat_all` becomes `treat all`."""
    return name.replace("_", " ")


def is_defined(value: float | None) -> TypeGuard[float]:
    """Whether there is a number to show."""
    return value is not None and math.isfinite(value)


def number(value: float | None, digits: int = 3) -> str:
    """A number with a true minus sign, or `not defined`. What rounds to zero has no sign."""
    if not is_defined(value):
        return NOT_DEFINED
    shown = f"{value:.{digits}f}"
    if float(shown) == 0:
        shown = shown.removeprefix("-")
    return shown.replace("-", MINUS)


def signed(value: float | None, digits: int = 3) -> str:
    """As `number`, with a plus sign above zero."""
    shown = number(value, digits)
    return f"+{shown}" if is_defined(value) and float(shown.replace(MINUS, "-")) > 0 else shown


def percent(value: float | None, digits: int = 1) -> str:
    """A share of 1 as a percentage."""
    return f"{number(value * 100, digits)} %" if is_defined(value) else NOT_DEFINED


def threshold(value: float) -> str:
    """A threshold as it is spoken of: `10 %`, `12.5 %`."""
    return f"{value * 100:g} %"


def interval(found: Interval, digits: int = 3, *, as_percent: bool = False, sign: bool = False) -> str:
    """`0.712 (0.701 to 0.723)`; `not defined` without an estimate, and it is said when limits lack."""
    if not is_defined(found.estimate):
        return NOT_DEFINED
    shown = signed if sign else number
    factor = 100 if as_percent else 1
    estimate, lower, upper = (
        shown(value * factor if is_defined(value) else None, digits)
        for value in (found.estimate, found.lower, found.upper)
    )
    unit = " %" if as_percent else ""
    if not (is_defined(found.lower) and is_defined(found.upper)):
        return f"{estimate}{unit} (interval {NOT_DEFINED})"
    return f"{estimate}{unit} ({lower} to {upper})"


def thousands(count: int) -> str:
    """A whole number with thin groups: `71,518`."""
    return f"{count:,}"


def is_small(count: int) -> bool:
    """Whether a count may not be shown: above 0 and below `SMALLEST_COUNT`."""
    return 0 < count < SMALLEST_COUNT


def hidden(small: Sequence[bool], sizes: Sequence[int]) -> list[bool]:
    """Which of the counts that add up to a known sum stay hidden.

    All `small` ones, and as many of the smallest others that are not zero as it takes so that neither a
    single one nor a small sum follows from what is shown.
    """
    mask = list(small)
    others = sorted((size, n) for n, size in enumerate(sizes) if not mask[n] and size > 0)
    for _, n in others:
        kept_back = [size for size, masked in zip(sizes, mask, strict=True) if masked]
        if not kept_back or (len(kept_back) > 1 and not is_small(sum(kept_back))):
            break
        mask[n] = True
    return mask


def counts(values: Sequence[int]) -> list[str]:
    """Counts that add up to a known sum, as they may be shown."""
    mask = hidden([is_small(value) for value in values], values)
    return [
        thousands(value) if not masked else HIDDEN if is_small(value) else NOT_SHOWN
        for value, masked in zip(values, mask, strict=True)
    ]


def shown_subgroups(subgroups: Sequence[Subgroup]) -> list[bool]:
    """Per subgroup whether its numbers may be shown.

    Hidden are groups in which the cases, those with the outcome or those without are few, and, attribute
    by attribute, the one from which a single hidden group would follow.
    """
    shown = [True] * len(subgroups)
    for attribute in dict.fromkeys(group.attribute for group in subgroups):
        places = [n for n, group in enumerate(subgroups) if group.attribute == attribute]
        found = [subgroups[n].performance for n in places]
        small = [any(map(is_small, (p.n, p.events, p.n - p.events))) for p in found]
        for place, masked in zip(places, hidden(small, [p.n for p in found]), strict=True):
            shown[place] = not masked
    return shown


def shown_tiers(tiers: Sequence[TierOutcome]) -> list[bool]:
    """Per tier whether its numbers may be shown; the rule of `shown_subgroups`."""
    small = []
    for tier in tiers:
        rate = tier.observed.estimate
        events = round(rate * tier.n) if is_defined(rate) else 0
        small.append(any(map(is_small, (tier.n, events, tier.n - events))))
    return [not masked for masked in hidden(small, [tier.n for tier in tiers])]


def by_threshold(workload: Sequence[Flagged]) -> list[Flagged]:
    """Each threshold once, rising; where a tier begins at it, under the tier's name."""
    distinct = {flagged.threshold: flagged for flagged in workload}
    return [distinct[at] for at in sorted(distinct)]
