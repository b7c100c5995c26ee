"""Published cells as a report reads them: by cube, in order; what is withheld is not what is undefined.

Belongs here: checking and reading the frame, the printed form of a key or a figure.
Does not belong here: sentences (`findings.py`), plots, and deciding what may be shown.
"""

from __future__ import annotations

import functools
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from medscore_assets.monitoring.assessment import Interval
from medscore_assets.report import wording
from medscore_assets.report.population.dictionary import (
    ALL,
    COLUMNS,
    DIMENSION_NAMES,
    MEASURE_NAMES,
    UNKNOWN,
)
from resources.errors import PermanentError

if TYPE_CHECKING:
    import pandas as pd

TOTAL = "total"
WITHHELD = "withheld"
NONE = "\N{EN DASH}"
"""For a figure whose denominator is 0."""
LONGEST = 24
"""Characters of a key in a plot or table."""
_IDENTIFIER = re.compile("[a-z]+([_ ][a-z]+)*")
_ABSENT = "\N{WHITE SQUARE}"
_LIMITS = {
    "mean_risk": ("mean_risk_low", "mean_risk_high"),
    "observed_to_expected": ("oe_low", "oe_high"),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One published cell."""

    key: tuple[str, ...]
    """Values of the dimensions by which its cube is split, in the order of the columns."""
    figures: Mapping[str, float | None]
    withheld: frozenset[str]

    def value(self, measure: str) -> float | None:
        """A figure; None where it is withheld or has no denominator."""
        return self.figures[measure]

    def interval(self, measure: str) -> Interval:
        """A figure with its limits."""
        lower, upper = _LIMITS[measure]
        return Interval(self.figures[measure], self.figures[lower], self.figures[upper])

    def count(self, measure: str) -> str:
        """A count as it is printed."""
        found = self.value(measure)
        return self.missing(measure) if found is None else wording.thousands(round(found))

    def share(self, measure: str) -> str:
        """A share as it is printed."""
        found = self.value(measure)
        return self.missing(measure) if found is None else wording.percent(found)

    def number(self, measure: str, digits: int) -> str:
        """Any other number as it is printed, with groups of thousands."""
        found = self.value(measure)
        return self.missing(measure) if found is None else f"{found:,.{digits}f}"

    def limits(self, measure: str, *, as_percent: bool = False) -> str:
        """A figure with its limits as it is printed."""
        found = self.interval(measure)
        if found.estimate is None:
            return self.missing(measure)
        text = wording.interval(found, 1 if as_percent else 2, as_percent=as_percent)
        kept_back = WITHHELD if self.withheld & {*_LIMITS[measure]} else wording.NOT_DEFINED
        return text.replace(wording.NOT_DEFINED, kept_back)

    def missing(self, measure: str) -> str:
        """What stands in the place of a figure that is not there."""
        return WITHHELD if measure in self.withheld else NONE


def cubes(cells: pd.DataFrame) -> list[str]:
    """The names of the cubes in the frame, sorted."""
    return sorted({str(name) for name in cells["cube"]})


def split_by(cells: pd.DataFrame, cube: str) -> tuple[str, ...]:
    """The dimensions by which a cube is split."""
    found = cells[cells["cube"] == cube]
    return tuple(name for name in DIMENSION_NAMES if (found[name] != ALL).any())


def read(cells: pd.DataFrame, cube: str) -> list[Cell]:
    """The cells of a cube by key, `Unknown` last; none if the frame lacks the cube."""
    names = split_by(cells, cube)
    found = [_cell(row, names) for row in records(cells[cells["cube"] == cube])]
    return sorted(found, key=lambda cell: [(value == UNKNOWN, value) for value in cell.key])


def records(cells: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as mappings by column."""
    return cast("list[dict[str, Any]]", cells.to_dict("records"))


def ranked(cells: Sequence[Cell], measure: str) -> list[Cell]:
    """Cells of one dimension, the highest first; then those without the figure, then `Unknown`."""

    def place(cell: Cell) -> tuple[bool, bool, float, tuple[str, ...]]:
        value = cell.value(measure)
        return cell.key[0] == UNKNOWN, value is None, -(value or 0.0), cell.key

    return sorted(cells, key=place)


@dataclass(frozen=True, slots=True)
class Cubes:
    """The cubes that the pages use. One that the frame lacks is empty."""

    total: Cell
    regions: Sequence[Cell]
    hospitals: Sequence[Cell]
    diagnoses: Sequence[Cell]
    insurances: Sequence[Cell]
    region_diagnosis: Sequence[Cell]
    region_insurance: Sequence[Cell]
    age_group_sex: Sequence[Cell]

    @classmethod
    def read(cls, cells: pd.DataFrame) -> Cubes:
        """From checked cells."""
        names = (
            "region", "hospital", "primary_diagnosis_group", "insurance_type",
            "region_diagnosis", "region_insurance", "age_group_sex",
        )  # fmt: skip
        return cls(read(cells, TOTAL)[0], *(read(cells, name) for name in names))

    def of_largest_regions(self, most: int) -> Cubes:
        """The same with so many regions at most: those with the most scored discharges, and `Unknown`."""
        kept = {cell.key[0] for cell in ranked(self.regions, "index_discharges_scored")[:most]} | {UNKNOWN}
        regions, by_diagnosis, by_insurance = (
            [cell for cell in cells if cell.key[0] in kept]
            for cells in (self.regions, self.region_diagnosis, self.region_insurance)
        )
        return replace(self, regions=regions, region_diagnosis=by_diagnosis, region_insurance=by_insurance)


def _cell(row: Mapping[str, Any], names: Sequence[str]) -> Cell:
    figures = {name: _figure(row[name]) for name in MEASURE_NAMES}
    return Cell(tuple(str(row[name]) for name in names), figures, frozenset(row["suppressed_measures"]))


def _figure(value: Any) -> float | None:
    return float(value) if isinstance(value, Real) and math.isfinite(value) else None


def checked(cells: pd.DataFrame) -> pd.DataFrame:
    """The columns of the report in their order, rows by cube and key.

    Raises `PermanentError` where a column lacks, a key comes twice, the total is not there, or a figure is
    both named as withheld and given.
    """
    names = [column.name for column in COLUMNS]
    if lacking := [name for name in names if name not in cells.columns]:
        raise _refused(f"the columns {', '.join(lacking)} are not there")
    keys = ["cube", *DIMENSION_NAMES]
    found = cells[names].sort_values(keys, kind="stable", ignore_index=True)
    if bool(found.duplicated(keys).any()):
        raise _refused("a cell is there twice")
    if (found["cube"] == TOTAL).sum() != 1:
        raise _refused("there must be one cell of all members")
    for name in MEASURE_NAMES:
        named = found["suppressed_measures"].map(lambda withheld, name=name: name in withheld)
        if bool((named & found[name].notna()).any()):
            raise _refused(f"{name} is given where it must be withheld")
    return found


def _refused(what: str) -> PermanentError:
    return PermanentError(
        f"the published cells cannot be printed: {what}",
        where="population_risk_published",
        mend="Compute the quarter's summary again.",
    )


def printable(text: str) -> str:
    """A text with what a page cannot print replaced: controls by spaces, unknown signs by a box."""
    known = _known_signs()
    normal = unicodedata.normalize("NFC", text)
    spaced = "".join(" " if unicodedata.category(sign)[0] in "CZ" else sign for sign in normal)
    return " ".join("".join(sign if ord(sign) in known else _ABSENT for sign in spaced).split())


@functools.cache
def _known_signs() -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(str(fonts_folder() / "DejaVuSans.ttf")).get_charmap())


def fonts_folder() -> Path:
    """Where the fonts of matplotlib's wheel are: the same wherever it is installed."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"


def shown(value: str, names: Mapping[str, str]) -> str:
    """A value of a coded dimension as people read it: `dual_eligible` by its name, or as words."""
    text = printable(names.get(value, value))
    return cut(wording.words(text).capitalize() if _IDENTIFIER.fullmatch(text) else text)


def cut(text: str, longest: int = LONGEST) -> str:
    """A text of at most so many characters, cut in its middle, since names often differ at their ends."""
    text = printable(text)
    if len(text) <= longest:
        return text
    end = longest // 3
    return f"{text[: longest - end - 1].rstrip()}…{text[-end:].lstrip()}"
