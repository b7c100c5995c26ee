"""How all members come down to the scored index discharges, in lines that add up.

Belongs here: the lines of the flow, and joining small counts with others so that none of 1 to 10 people is
printed or follows from what is. Does not belong here: counting (the summary), layout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medscore_assets.report import wording
from medscore_assets.report.population.cells import WITHHELD, Cell, printable
from resources.errors import PermanentError

if TYPE_CHECKING:
    import pandas as pd

NO_DISCHARGE = "no_index_discharge"
NOT_RECORDED = "index_discharge_not_recorded"
_UNDISCHARGED = {
    NO_DISCHARGE: "no index discharge in the quarter",
    NOT_RECORDED: "not recorded whether there was an index discharge",
}
_SCORED = "index_discharges_scored"
_OTHERS = "other reasons, each of few members"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the flow. Lines of depth 1 are parts of the line of depth 0 before them."""

    label: str
    members: int | None
    """None where it is withheld."""
    depth: int = 0

    @property
    def shown(self) -> str:
        """The number as it is printed."""
        return WITHHELD if self.members is None else wording.thousands(self.members)


@dataclass(frozen=True, slots=True)
class _Part:
    label: str
    members: int


def flow(exclusions: pd.DataFrame, rows: int, total: Cell, names: Mapping[str, str]) -> list[Line]:
    """All members, those left out, and the scored index discharges.

    The first line is the sum of the others of depth 0.
    `exclusions` has the columns `reason`, `field` and `members`; where a field's rule was broken, `field` is
    not empty. `total` is the published cell of all members: what is withheld there is not printed here.
    Raises `PermanentError` if the exclusions do not lead from `rows` to the scored index discharges.
    """
    invalid, undischarged = _parts(exclusions, names)
    left = rows - _sum(invalid) - _sum(undischarged)
    scored = total.value(_SCORED)
    if left < 0 or (scored is not None and left != round(scored)):
        raise PermanentError(
            f"the flow of members does not add up: {rows} members less those left out are not the scored",
            where="population_exclusions",
            mend="Compute the quarter's summary again.",
        )
    everybody = Line("All members of the snapshot", rows)
    if _SCORED in total.withheld or wording.is_small(left):
        return [everybody, Line("Left out", None), Line("Index discharges scored", None)]
    known = not total.withheld & {"members_invalid", "members_scored"}
    return [everybody, *_left_out(invalid, undischarged, known), Line("Index discharges scored", left)]


def _parts(exclusions: pd.DataFrame, names: Mapping[str, str]) -> tuple[list[_Part], list[_Part]]:
    invalid: list[_Part] = []
    undischarged = dict.fromkeys(_UNDISCHARGED, 0)
    rows = zip(exclusions["reason"], exclusions["field"], exclusions["members"], strict=True)
    for reason, field, members in sorted((str(r), str(f or ""), int(m)) for r, f, m in rows):
        if reason in undischarged and not field:
            undischarged[reason] += members
        elif members:
            named = names.get(field, wording.words(field))
            said = names.get(reason, wording.words(reason))
            invalid.append(_Part(printable(f"{named}: {said}" if field else said), members))
    return invalid, [_Part(_UNDISCHARGED[reason], found) for reason, found in undischarged.items()]


def _left_out(invalid: Sequence[_Part], undischarged: Sequence[_Part], known: bool) -> list[Line]:
    """`known`: whether the published total tells the members whose row is invalid."""
    if not known or wording.is_small(_sum(invalid)) or wording.is_small(_sum(undischarged)):
        together = _sum(invalid) + _sum(undischarged)
        why = "no index discharge, not recorded, or a value that breaks the model's contract"
        return [Line(f"Left out: {why}", None if wording.is_small(together) else together)]
    lines = []
    if _sum(invalid):
        lines.append(Line("Left out: a value that breaks the model's contract", _sum(invalid)))
        lines += [Line(part.label, part.members, 1) for part in _joined(invalid, _OTHERS)]
    either = ", or ".join(part.label for part in undischarged)
    lines += [Line(f"Left out: {part.label}", part.members) for part in _joined(undischarged, either)]
    return lines


def _joined(parts: Sequence[_Part], label: str) -> list[_Part]:
    """The parts with the small ones, and as many of the next as it takes, made one, so that the sum stays.

    Who knows which parts were joined, and that each has a member, must be left with more than a small
    number for each: the members beyond the first of every joined part are `SMALLEST_COUNT` - 1 or more.
    """
    rising = sorted((part for part in parts if part.members), key=lambda part: (part.members, part.label))
    joined = [part for part in rising if wording.is_small(part.members)]
    others = rising[len(joined) :]
    while joined and others and (len(joined) < 2 or _sum(joined) - len(joined) < wording.SMALLEST_COUNT - 1):
        joined.append(others.pop(0))
    shown = [*others, _Part(label, _sum(joined))] if joined else others
    return sorted(shown, key=lambda part: (part.label == label, -part.members, part.label))


def _sum(parts: Sequence[_Part]) -> int:
    return sum(part.members for part in parts)
