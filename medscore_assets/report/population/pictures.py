"""Which figures a report has, each with its caption and the text for those who cannot see it.

Belongs here: choosing the cells of each figure, captions, alternative texts. Does not belong here: drawing
(`figures.py`, `funnel_figure.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medscore_assets.report import wording
from medscore_assets.report.population import figures
from medscore_assets.report.population.cells import Cell, Cubes, cut, ranked, shown
from medscore_assets.report.population.changes import Change
from medscore_assets.report.population.contents import PopulationReport
from medscore_assets.report.population.dictionary import UNKNOWN
from medscore_assets.report.population.funnel import Funnel
from medscore_assets.report.population.funnel_figure import funnel_plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DASHED = "The dashed line is the value of all members together."


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure, what stands below it, and what stands for it."""

    draw: Callable[[], Figure]
    caption: str
    alt: str


def pictures(
    report: PopulationReport, cubes: Cubes, placed: Funnel | None, changes: Sequence[Change]
) -> dict[str, Picture]:
    """The figures of the report by name. Those for which nothing is known are not among them."""
    names = report.names
    found = {
        "regions": _regions(cubes),
        "region_diagnosis": _map(cubes.region_diagnosis, "diagnosis group", names),
        "diagnoses": _diagnoses(cubes, names),
        "age_sex": _age_sex(cubes, names),
        "insurance": _insurance(cubes, names),
        "region_insurance": _map(cubes.region_insurance, "insurance", names),
        "funnel": _funnel(placed),
        "change": _change(report, changes),
    }
    return {name: picture for name, picture in found.items() if picture}


def _regions(cubes: Cubes) -> Picture | None:
    cells = ranked(cubes.regions, "mean_risk")
    if not cells:
        return None
    known = cubes.total.value("observed_to_expected") is not None
    caption = f"Regions by mean predicted risk of the scored index discharges, with 95 % intervals. {_DASHED}"
    caption += (
        " Right: observed by expected readmissions; the dotted line is 1." if known
        else " Observed readmissions are not known yet."
    )  # fmt: skip
    alt = "Ranked bars of the mean predicted risk by region: " + _listed(
        [(cut(c.key[0]), c.share("mean_risk")) for c in cells]
    )
    if known:
        alt += " Beside them observed by expected readmissions: " + _listed(
            [(cut(c.key[0]), c.number("observed_to_expected", 2)) for c in cells]
        )
    return Picture(lambda: figures.regions([(cut(c.key[0]), c) for c in cells], cubes.total), caption, alt)


def _map(cells: Sequence[Cell], what: str, names: Mapping[str, str]) -> Picture | None:
    if not cells:
        return None
    rows = _members(cell.key[0] for cell in cells)
    columns = _members(cell.key[1] for cell in cells)
    placed = {(rows.index(cell.key[0]), columns.index(cell.key[1])): cell for cell in cells}
    given = [(cell, v) for cell in cells if (v := cell.value("mean_risk")) is not None]
    alt = f"Heat map of the mean predicted risk by region and {what}. "
    if given:
        top, low = max(given, key=lambda g: g[1])[0], min(given, key=lambda g: g[1])[0]
        alt += " ".join(
            f"{word}: {cut(cell.key[0])}, {shown(cell.key[1], names)}, {cell.share('mean_risk')}."
            for word, cell in (("Highest", top), ("Lowest", low))
        )
    hidden = len([cell for cell in cells if "mean_risk" in cell.withheld])
    if hidden:
        alt += f" {hidden} of {len(cells)} fields are withheld."
    caption = (
        f"Mean predicted risk (%) by region and {what}: the darker, the higher. "
        "Hatched: withheld (small numbers); dash: no scored discharge."
    )
    labels = [cut(row) for row in rows]
    return Picture(lambda: figures.heat_map(labels, [shown(c, names) for c in columns], placed), caption, alt)


def _members(values: Iterable[str]) -> list[str]:
    """Distinct members of a dimension, `Unknown` last."""
    return sorted(set(values), key=lambda value: (value == UNKNOWN, value))


def _diagnoses(cubes: Cubes, names: Mapping[str, str]) -> Picture | None:
    cells = [(shown(c.key[0], names), c) for c in ranked(cubes.diagnoses, "expected_readmissions")]
    if not cells:
        return None
    alt = "Ranked bars of expected readmissions by diagnosis group: " + _listed(
        [(name, cell.number("expected_readmissions", 0)) for name, cell in cells]
    )
    caption = (
        "Expected readmissions within 30 days of the quarter's scored index discharges, by diagnosis group."
    )
    return Picture(lambda: figures.expected(cells), caption, alt)


def _age_sex(cubes: Cubes, names: Mapping[str, str]) -> Picture | None:
    cells = cubes.age_group_sex
    if not cells:
        return None
    ages, sexes = _members(c.key[0] for c in cells), _members(c.key[1] for c in cells)
    placed = {(ages.index(cell.key[0]), sexes.index(cell.key[1])): cell for cell in cells}
    alt = "Mean predicted risk by age and sex: " + _listed(
        [(f"{cut(c.key[0])} {shown(c.key[1], names)}", c.share("mean_risk")) for c in cells]
    )
    caption = "Mean predicted risk by age (years) and sex, with 95 % intervals."
    labels = [_years(age) for age in ages]
    return Picture(
        lambda: figures.age_and_sex(labels, [shown(s, names) for s in sexes], placed), caption, alt
    )


def _years(age: str) -> str:
    return cut(age) if age == UNKNOWN else f"{cut(age)} years"


def _insurance(cubes: Cubes, names: Mapping[str, str]) -> Picture | None:
    cells = [(shown(c.key[0], names), c) for c in ranked(cubes.insurances, "mean_risk")]
    if not cells:
        return None
    alt = "Ranked bars of the mean predicted risk by insurance: " + _listed(
        [(name, cell.share("mean_risk")) for name, cell in cells]
    )
    caption = f"Mean predicted risk by insurance, with 95 % intervals. {_DASHED}"
    return Picture(lambda: figures.bars(cells, cubes.total), caption, alt)


def _funnel(placed: Funnel | None) -> Picture | None:
    if placed is None:
        return None
    above, below = len(placed.above()), len(placed.below())
    caption = (
        f"{wording.thousands(len(placed.hospitals))} hospitals: observed by expected readmissions against "
        "expected readmissions, with exact Poisson limits. Line: ratio of all members together "
        f"({wording.number(placed.target, 2)}); dashed: 95 % limits, solid: 99.8 %; triangles: outside them; "
        "dotted area: counts of 1 to 10, which are withheld."
    )
    alt = (
        f"Funnel plot of {wording.thousands(len(placed.hospitals))} hospitals around the common ratio "
        f"{wording.number(placed.target, 2)}. {above} lie above and {below} below the 99.8 % limits; "
        "they are in the table that follows."
    )
    return Picture(lambda: funnel_plot(placed), caption, alt)


def _change(report: PopulationReport, changes: Sequence[Change]) -> Picture | None:
    before = report.previous
    if before is None or not changes:
        return None
    quarters = (before.quarter, report.header.quarter)
    caption = (
        f"Change from {quarters[0]} to {quarters[1]}: all members, regions, diagnosis groups. Left: mean "
        "predicted risk with the 95 % interval of its change; right, where known in both quarters: observed "
        "by expected readmissions."
    )
    alt = "Change of the mean predicted risk in percentage points: " + _listed(
        [
            (c.name, c.why if c.risk.estimate is None else wording.signed(c.risk.estimate * 100, 1))
            for c in changes
            if not c.heading
        ]
    )
    return Picture(lambda: figures.change(changes, quarters), caption, alt)


def _listed(found: Sequence[tuple[str, str]]) -> str:
    return "; ".join(f"{name} {value}" for name, value in found) + "."
