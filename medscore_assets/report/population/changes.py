"""What changed since the previous quarter, from published figures only.

Belongs here: the change of a cell with its interval, and the sentence of the title page. Does not belong
here: plots and layout.

The two quarters' means are taken as independent, so that the width of the change's interval is the root of
the summed squares. Figures withheld in either quarter have no change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from medscore_assets.monitoring.assessment import Interval
from medscore_assets.report import wording
from medscore_assets.report.population.cells import Cell


@dataclass(frozen=True, slots=True)
class Change:
    """A cell of this quarter against the same cell of the one before."""

    name: str
    risk: Interval
    """Mean predicted risk, this quarter less the one before; without an estimate where `why` says so."""
    ratio_before: float | None
    ratio: float | None
    """Observed by expected readmissions, where both are known."""
    why: str = ""
    heading: bool = False
    """Whether this is but the name of those that follow."""


def compared(name: str, cell: Cell, before: Cell | None) -> Change:
    """The change of one cell."""
    if before is None:
        return Change(name, Interval(None), None, None, "not in the quarter before")
    ratios = (before.value("observed_to_expected"), cell.value("observed_to_expected"))
    return Change(name, _difference(cell, before), *ratios, why=_why(cell, before))


def _difference(cell: Cell, before: Cell) -> Interval:
    since, then = cell.interval("mean_risk"), before.interval("mean_risk")
    if since.estimate is None or then.estimate is None:
        return Interval(None)
    change = since.estimate - then.estimate
    if None in (since.lower, since.upper, then.lower, then.upper):
        return Interval(change)
    half = math.hypot(_half(since), _half(then))
    return Interval(change, change - half, change + half)


def _half(found: Interval) -> float:
    return ((found.upper or 0.0) - (found.lower or 0.0)) / 2


def _why(cell: Cell, before: Cell) -> str:
    figures = {"mean_risk", "observed_to_expected"}
    return "withheld" if figures & (cell.withheld | before.withheld) else "no cases"


def sentence(found: Change, quarter: str) -> str:
    """What happened to all members together."""
    risk = found.risk
    if risk.estimate is None:
        return f"No change of the mean predicted risk since {quarter} can be given ({found.why})."
    size = wording.interval(
        Interval(*(None if v is None else v * 100 for v in (risk.estimate, risk.lower, risk.upper))),
        1,
        sign=True,
    )
    certain = risk.lower is not None and risk.upper is not None
    within = certain and (risk.lower or 0) <= 0 <= (risk.upper or 0)
    chance = "; the interval includes zero" if within else ""
    return f"Since {quarter} the mean predicted risk changed by {size} percentage points{chance}."


def pairs(cells: Sequence[Cell], before: Sequence[Cell]) -> list[tuple[Cell, Cell | None]]:
    """Each cell with the one of the same key."""
    by_key = {cell.key: cell for cell in before}
    return [(cell, by_key.get(cell.key)) for cell in cells]


def heading(name: str) -> Change:
    """A row that names the group of rows after it."""
    return Change(name, Interval(None), None, None, heading=True)
