"""A published population report as a person reads it: words, filters, order, lengths of bars.

Belongs here: everything between published rows and the template. Does not belong here: HTTP and the database.

What is withheld has no value here either: it is neither compared nor drawn.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import tzinfo
from typing import Any
from urllib.parse import urlencode

from medscore_assets.readmission import policy
from medscore_assets.readmission.population.dimensions import CUBES, UNKNOWN, rank
from medscore_assets.readmission.population.quarters import Quarter
from medscore_assets.report import wording
from medscore_assets.report.model_card import load_texts
from medscore_assets.report.population.cells import WITHHELD, Cell
from medscore_assets.report.population.dictionary import MEASURE_NAMES
from serving.population_reports import File, Row, Step

TABS = {
    "region": "Region",
    "primary_diagnosis_group": "Diagnosis group",
    "age_group": "Age",
    "sex": "Sex",
    "insurance_type": "Insurance",
    "hospital": "Hospital",
    "region_diagnosis": "Region by diagnosis",
    "region_insurance": "Region by insurance",
    "age_group_sex": "Age by sex",
}
DIMENSION_NAMES = {
    "region": "Region",
    "hospital_id": "Hospital",
    "primary_diagnosis_group": "Diagnosis group",
    "age_group": "Age",
    "sex": "Sex",
    "insurance_type": "Insurance",
}
COLUMN_NAMES = {
    "members": "Members",
    "index_discharges_scored": "Discharges scored",
    "mean_risk": "Mean 30-day risk",
    "high_risk_share": "High or very high",
    "expected_readmissions": "Expected",
    "observed_readmissions": "Observed*",
    "expected_matured": "Expected*",
    "observed_to_expected": "Observed by expected*",
}
_INTERVALS = ("mean_risk", "observed_to_expected")
_SHARES = ("mean_risk", "high_risk_share")
_AMOUNTS = ("expected_readmissions", "expected_matured")
_CODED = ("primary_diagnosis_group", "sex", "insurance_type")
_SHOWN = frozenset(COLUMN_NAMES)
_MOST_CHOICES = 40
"""Members of a dimension that are chosen from a list; of more, a part of the name is typed."""
_MOST_ROWS = 200
_FARTHEST_RATIO = 2.0
"""Right end of the logarithmic scale of observed by expected; the left end is its inverse, the middle 1."""
_KEY = "key"


@dataclass(frozen=True, slots=True)
class View:
    """What is shown of a report. Every field may stand in an address: none names a person."""

    cube: str = "region"
    only: Mapping[str, str] = field(default_factory=dict)
    """By dimension: the member, or a part of its name where there are many."""
    sort: str = _KEY
    down: bool = True
    everything: bool = False

    @classmethod
    def of(cls, said: Mapping[str, str]) -> View:
        """The view that was asked for; what is not known is as if it had not been said."""
        cube = said.get("cube", "") if said.get("cube") in TABS else "region"
        only = {name: said[name].strip()[:200] for name in CUBES[cube] if said.get(name, "").strip()}
        sort = said.get("sort", "") if said.get("sort") in COLUMN_NAMES else _KEY
        return cls(cube, only, sort, said.get("order") != "up", said.get("rows") == "all")

    def query(self, **changes: Any) -> str:
        """The view as the end of an address."""
        view = replace(self, **changes)
        said = {"cube": view.cube, **view.only}
        if view.sort != _KEY:
            said |= {"sort": view.sort, "order": "down" if view.down else "up"}
        if view.everything:
            said["rows"] = "all"
        return f"?{urlencode(said)}"

    def of_cube(self, cube: str) -> str:
        """The address's end for another cube; filters stay where it is split by the same."""
        return self.query(cube=cube, only={n: v for n, v in self.only.items() if n in CUBES[cube]})

    def sorted_by(self, column: str) -> str:
        """The address's end for a click on a column: the highest first, or the other way round."""
        return self.query(sort=column, down=not self.down if self.sort == column else True)

    def direction(self, column: str) -> str:
        """What assistive tools are told of a column's order."""
        return "none" if self.sort != column else "descending" if self.down else "ascending"


@dataclass(frozen=True, slots=True)
class Bar:
    """A point with its interval, on a scale of 0 to 100; without limits both are None."""

    point: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of a row: as text, with a second line, and drawn. `withheld` figures have no value."""

    column: str
    text: str
    note: str
    withheld: bool
    bar: Bar | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """One cell of the cube."""

    key: tuple[str, ...]
    figures: list[Figure]


@dataclass(frozen=True, slots=True)
class Filter:
    """A box to filter by a dimension; with `choices`, value and words, it is a list."""

    name: str
    label: str
    chosen: str
    choices: list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Table:
    """The cells of a cube under a view."""

    title: str
    dimensions: list[str]
    lines: list[Line]
    found: int
    """Cells that match the filter; `lines` holds the first of them."""
    of: int
    withheld: int
    """Of the cells that match: those of which a figure of these columns is withheld."""
    filters: list[Filter]


@dataclass(frozen=True, slots=True)
class Headline:
    """One number of the page's head."""

    label: str
    value: str
    note: str


def table(rows: Sequence[Row], view: View) -> Table:
    """The cells of the view's cube, filtered and in order."""
    dimensions = CUBES[view.cube]
    filters = [_filter(name, rows, view) for name in dimensions]
    chosen = [row for row in rows if all(_matches(row, each) for each in filters)]
    highest = max((row["mean_risk_high"] or row["mean_risk"] or 0.0 for row in rows), default=0.0) or 1.0
    ordered = _in_order(chosen, dimensions, view)
    shown = ordered if view.everything else ordered[:_MOST_ROWS]
    return Table(
        title=_title(view, filters),
        dimensions=[DIMENSION_NAMES[name] for name in dimensions],
        lines=[_line(cell_of(row, dimensions), dimensions, highest) for row in shown],
        found=len(chosen),
        of=len(rows),
        withheld=sum(not _SHOWN.isdisjoint(row["suppressed_measures"]) for row in chosen),
        filters=filters,
    )


def cell_of(row: Row, dimensions: Sequence[str]) -> Cell:
    """A published row as the report's files read it."""
    figures = {name: None if row[name] is None else float(row[name]) for name in MEASURE_NAMES}
    return Cell(tuple(row[name] for name in dimensions), figures, frozenset(row["suppressed_measures"]))


def headlines(total: Row) -> list[Headline]:
    """The numbers of all members together."""
    cell = cell_of(total, ())
    ratio = cell.value("observed_to_expected")
    known = ratio is not None or "observed_to_expected" in cell.withheld
    return [
        Headline("Members", cell.count("members"), "in the quarter’s snapshot"),
        Headline(
            "Discharges scored",
            cell.count("index_discharges_scored"),
            f"of {cell.count('index_discharges')} index discharges",
        ),
        Headline("Mean 30-day risk", cell.share("mean_risk"), _limits(cell, "mean_risk")),
        Headline(
            "High or very high risk",
            cell.share("high_risk_share"),
            f"{cell.count('high_risk')} discharges, {cell.count('very_high_risk')} of them very high",
        ),
        Headline("Expected readmissions", cell.number("expected_readmissions", 0), "the sum of the risks"),
        Headline(
            "Observed by expected",
            cell.number("observed_to_expected", 2) if known else "not known",
            _limits(cell, "observed_to_expected") if known else "no outcome of the quarter is known yet",
        ),
    ]


def facts(header: Row, zone: tzinfo) -> dict[str, str]:
    """What stands under the page's title."""
    quarter = Quarter.parse(header["quarter"])
    first, last = quarter.first_day, quarter.last_day
    return {
        "title": f"Q{quarter.number} {quarter.year}",
        "period": f"{first.day} {first:%B} to {last.day} {last:%B} {last.year}",
        "as_of": moment(header["as_of"], zone),
        "computed": moment(header["computed_at"], zone),
    }


def moment(value: Any, zone: tzinfo) -> str:
    """A time in the platform's zone: `2 March 2026, 14:05`."""
    local = value.astimezone(zone)
    return f"{local.day} {local:%B %Y, %H:%M}"


def downloads(files: Mapping[str, File]) -> list[tuple[File, str, str]]:
    """The files with what is in them and their size, the ones for reading first."""

    def place(file: File) -> tuple[int, str]:
        kind = file.name.rpartition(".")[2]
        first = ("pdf", "parquet").index(kind) if kind in ("pdf", "parquet") else 2
        return (3 if file.name in ("flow.csv", "columns.csv") else first), file.name

    return [(file, _contents(file.name), _size(file.bytes)) for file in sorted(files.values(), key=place)]


def flow_lines(steps: Sequence[Step]) -> list[tuple[Step, str]]:
    """The steps of the flow with their number as it is printed."""
    return [(step, WITHHELD if step.members is None else wording.thousands(step.members)) for step in steps]


def words(dimension: str, value: str) -> str:
    """A member of a dimension as people read it."""
    if dimension not in _CODED or value == UNKNOWN:
        return value
    named = _names().get(value, wording.words(value))
    return named[:1].upper() + named[1:]


@functools.cache
def _names() -> Mapping[str, str]:
    return dict(load_texts(policy.DEFAULT_FILE.with_name("model_card.toml")).names)


def _filter(name: str, rows: Sequence[Row], view: View) -> Filter:
    members = sorted({row[name] for row in rows}, key=lambda member: rank(name, member))
    choices = [(member, words(name, member)) for member in members] if len(members) <= _MOST_CHOICES else []
    return Filter(name, DIMENSION_NAMES[name], view.only.get(name, ""), choices)


def _matches(row: Row, by: Filter) -> bool:
    if by.choices:
        return by.chosen in ("", row[by.name])
    return by.chosen.casefold() in row[by.name].casefold()


def _in_order(rows: Sequence[Row], dimensions: Sequence[str], view: View) -> list[Row]:
    """By the column; cells without the figure come last, in the order of their keys."""
    by_key = sorted(rows, key=lambda row: [rank(name, row[name]) for name in dimensions])
    if view.sort == _KEY:
        return by_key
    known = [row for row in by_key if row[view.sort] is not None]
    sign = -1 if view.down else 1
    return sorted(known, key=lambda row: sign * row[view.sort]) + [r for r in by_key if r[view.sort] is None]


def _title(view: View, filters: Sequence[Filter]) -> str:
    chosen = [f"{f.label.lower()} {words(f.name, f.chosen)}" for f in filters if f.chosen]
    return TABS[view.cube] + (f": {', '.join(chosen)}" if chosen else "")


def _line(cell: Cell, dimensions: Sequence[str], highest: float) -> Line:
    key = tuple(words(name, member) for name, member in zip(dimensions, cell.key, strict=True))
    return Line(key, [_figure(cell, column, highest) for column in COLUMN_NAMES])


def _figure(cell: Cell, column: str, highest: float) -> Figure:
    return Figure(
        column,
        text=_text(cell, column),
        note=_note(cell, column),
        withheld=column in cell.withheld,
        bar=_bar(cell, column, highest),
    )


def _text(cell: Cell, column: str) -> str:
    if column in _SHARES:
        return cell.share(column)
    if column == "observed_to_expected":
        return cell.number(column, 2)
    return cell.number(column, 1) if column in _AMOUNTS else cell.count(column)


def _note(cell: Cell, column: str) -> str:
    if cell.value(column) is None:
        return ""
    if column == "high_risk_share":
        return cell.count("high_risk")
    return _limits(cell, column) if column in _INTERVALS else ""


def _limits(cell: Cell, column: str) -> str:
    """`11.9 to 12.7 %`, or why it is not given."""
    as_percent = column in _SHARES
    _, bracket, limits = cell.limits(column, as_percent=as_percent).partition("(")
    unit = " %" if as_percent and " to " in limits else ""
    return limits.rstrip(")") + unit if bracket else ""


def _bar(cell: Cell, column: str, highest: float) -> Bar | None:
    """`highest` is the right end of the scale of risks."""
    value = cell.value(column)
    if column not in _INTERVALS or value is None:
        return None
    found = cell.interval(column)

    def at(number: float) -> float:
        return _of_risk(number, highest) if column == "mean_risk" else _of_ratio(number)

    if found.lower is None or found.upper is None:
        return Bar(at(value), None, None)
    return Bar(at(value), at(found.lower), at(found.upper))


def _of_risk(risk: float, highest: float) -> float:
    return round(min(risk / highest, 1.0) * 100, 1)


def _of_ratio(ratio: float) -> float:
    if ratio <= 1 / _FARTHEST_RATIO:
        return 0.0
    return round(min(50 + 50 * math.log(ratio, _FARTHEST_RATIO), 100.0), 1)


def _contents(name: str) -> str:
    stem, _, kind = name.rpartition(".")
    if kind == "pdf":
        return "The report to hand over"
    if kind == "parquet":
        return "All cells in one table, for programs"
    known = {"columns": "What each column means", "flow": "From all members to the scored discharges"}
    return known.get(stem) or {"total": "All members together", **TABS}.get(stem, wording.words(stem))


def _size(count: int) -> str:
    return f"{max(round(count / 1000), 1):,} kB"
