"""The three findings of the title page, and the sentence on what changed: chosen by rule, in plain sentences.

Belongs here: which region, hospital and diagnosis group is named, and the sentence with its number, interval
and denominator. Does not belong here: layout, plots, how a number is written (`wording.py`).

The rules are fixed so that nobody chooses what suits: of the regions above all members together, the highest
ratio; of the hospitals outside the 99.8 % limits, the least probable; the diagnosis group with the most
expected readmissions. Ties go to the first name. Where nothing stands out, this is said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medscore_assets.report import wording
from medscore_assets.report.population.cells import Cell, cut, shown
from medscore_assets.report.population.dictionary import UNKNOWN
from medscore_assets.report.population.funnel import ALARM, Funnel, Placed


@dataclass(frozen=True, slots=True)
class Finding:
    """A heading and what it rests on."""

    title: str
    text: str


def findings(
    total: Cell,
    regions: Sequence[Cell],
    hospitals: Funnel | None,
    diagnoses: Sequence[Cell],
    names: Mapping[str, str],
) -> list[Finding]:
    """The three findings: region, hospitals, diagnosis group."""
    return [_region(total, regions), _hospitals(total, hospitals), _diagnosis(total, diagnoses, names)]


def _region(total: Cell, regions: Sequence[Cell]) -> Finding:
    if total.value("observed_to_expected") is None:
        return _region_by_risk(total, regions)
    known = _known(regions, "observed_to_expected")
    overall = total.limits("observed_to_expected")
    if not known:
        return Finding("No region can be compared", "No region's figures may be shown or are known.")
    target = total.value("observed_to_expected") or 0.0
    above = [cell for cell in known if (cell.interval("observed_to_expected").lower or 0) > target]
    first = min(above or known, key=lambda c: (-(c.value("observed_to_expected") or 0), c.key))
    name = cut(first.key[0])
    figures = (
        f"{first.count('observed_readmissions')} readmissions where the model expects "
        f"{first.number('expected_matured', 1)}, {_ratio(first.limits('observed_to_expected'))}, "
        f"among {first.count('matured')} discharges with a known outcome"
    )
    if above:
        others = f"; {len(above)} of {len(known)} regions lie above it" if len(above) > 1 else ""
        return Finding(
            f"{name} has more readmissions than its patients' risks explain",
            f"{name}: {figures}; all members together are at {overall}{others}.",
        )
    return Finding(
        "No region stands out",
        f"The highest of {len(known)} regions, {name}, has {figures}; "
        f"that interval includes all members together, {overall}.",
    )


def _region_by_risk(total: Cell, regions: Sequence[Cell]) -> Finding:
    known = _known(regions, "mean_risk")
    target = total.value("mean_risk")
    if not known or target is None:
        return Finding("No region can be compared", "No region's figures may be shown or are known.")
    above = [cell for cell in known if (cell.interval("mean_risk").lower or 0) > target]
    first = min(above or known, key=lambda c: (-(c.value("mean_risk") or 0), c.key))
    name = cut(first.key[0])
    figures = (
        f"a mean predicted risk of {_in_brackets(first.limits('mean_risk', as_percent=True))} over "
        f"{first.count('index_discharges_scored')} discharges, all members together "
        f"{total.share('mean_risk')}; outcomes are not known yet"
    )
    if above:
        return Finding(f"{name} has the highest predicted risk", f"{name} has {figures}.")
    return Finding("No region stands out", f"The highest of {len(known)} regions, {name}, has {figures}.")


def _hospitals(total: Cell, found: Funnel | None) -> Finding:
    if found is None:
        known = total.value("observed_to_expected") is not None
        why = "no hospital's figures may be shown" if known else "no outcome of the quarter is known yet"
        return Finding(
            "No hospital can be compared",
            f"Observed and expected readmissions of hospitals cannot be set side by side: {why}.",
        )
    above, below = found.above(), found.below()
    many = wording.thousands(len(found.hospitals))
    chance = f"chance alone puts {found.by_chance_shown} on average"
    if not above and not below:
        return Finding(
            "No hospital stands out",
            f"All {many} hospitals that can be compared lie within the {wording.percent(ALARM)} limits of "
            f"chance around the ratio of all members together, {wording.number(found.target, 2)}.",
        )
    side, first = ("above", above[0]) if above else ("below", below[0])
    counted = f"{_hospitals_are(len(above))} above" if above else "No hospital is above"
    return Finding(
        f"{counted} and {len(below) or 'none'} below what chance explains",
        f"Of {many} hospitals that can be compared, {len(above) or 'none'} lie above and "
        f"{len(below) or 'none'} below the {wording.percent(ALARM)} limits, where {chance}; "
        f"furthest {side} is {_hospital(first)}.",
    )


def _hospitals_are(count: int) -> str:
    return "1 hospital is" if count == 1 else f"{wording.thousands(count)} hospitals are"


def _hospital(placed: Placed) -> str:
    cell = placed.cell
    return (
        f"{cut(placed.name)} with {cell.count('observed_readmissions')} readmissions of "
        f"{cell.count('matured')} discharges where {cell.number('expected_matured', 1)} were expected, "
        f"{_ratio(cell.limits('observed_to_expected'))}"
    )


def _diagnosis(total: Cell, diagnoses: Sequence[Cell], names: Mapping[str, str]) -> Finding:
    known = _known(diagnoses, "expected_readmissions")
    if not known:
        return Finding(
            "No diagnosis group can be named", "No diagnosis group's figures may be shown or are known."
        )
    first = min(known, key=lambda c: (-(c.value("expected_readmissions") or 0), c.key))
    name = shown(first.key[0], names)
    everybody, own = total.value("expected_readmissions"), first.value("expected_readmissions")
    share = f" ({wording.percent(own / everybody, 0)} of all)" if everybody and own is not None else ""
    return Finding(
        f"{name} diagnoses carry the most expected readmissions",
        f"{name}: {first.number('expected_readmissions', 0)} of {total.number('expected_readmissions', 0)} "
        f"expected readmissions{share}, from {first.count('index_discharges_scored')} discharges with a mean "
        f"predicted risk of {_in_brackets(first.limits('mean_risk', as_percent=True))}.",
    )


def _known(cells: Sequence[Cell], measure: str) -> list[Cell]:
    return [cell for cell in cells if cell.key[0] != UNKNOWN and cell.value(measure) is not None]


def _ratio(limits: str) -> str:
    return f"observed by expected {_in_brackets(limits)}"


def _in_brackets(limits: str) -> str:
    """`1.12 (1.06 to 1.18)` with the level of its interval."""
    return limits.replace("(", "(95 % interval ", 1) if " to " in limits else limits
