"""The PDF: what stands on its pages as plain values, and typesetting them.

Belongs here: figures with captions and alternative texts, tables as texts, the call of Typst. Does not belong
here: layout and standing prose (`templates/population.typ`), choosing findings, drawing.

Everything reaches the template as one JSON value, so that no text from data is read as markup or code. Fonts
are those in the wheels of Typst and matplotlib, embedded; the creation date is the snapshot's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

from medscore_assets.report import wording
from medscore_assets.report.population import cells as published
from medscore_assets.report.population.cells import Cell, Cubes, cut, ranked, shown
from medscore_assets.report.population.changes import Change, compared, heading, pairs, sentence
from medscore_assets.report.population.contents import Header, ModelSummary, PopulationReport
from medscore_assets.report.population.findings import findings
from medscore_assets.report.population.flow import Line
from medscore_assets.report.population.funnel import Funnel, Placed, funnel

if TYPE_CHECKING:
    import pandas as pd
    import typst
    from matplotlib.figure import Figure

TEMPLATE = Path(__file__).parents[1] / "templates" / "population.typ"
STANDARD: Final = "ua-1"
"""PDF/UA-1: tagged, titled, in a language, every figure with an alternative text."""
MOST_OUTLIERS = 12
"""Rows of the table of outliers on each side."""
MOST_REGIONS = 30
"""As many as a page holds."""

Content = dict[str, Any]


def pdf(report: PopulationReport, cells: pd.DataFrame, lines: Sequence[Line]) -> bytes:
    """The report as PDF/UA-1; the same report gives the same bytes.

    `cells` are those of the report, checked; `lines` are the flow's.
    """
    return compiled(typesetter(content(report, cells, lines)), report)


def compiled(pages: typst.Compiler, report: PopulationReport) -> bytes:
    """The pages as PDF/UA-1, dated by the snapshot."""
    made = pages.compile(
        format="pdf", pdf_standards=[STANDARD], timestamp=int(report.header.as_of.timestamp())
    )
    if not isinstance(made, bytes):
        raise TypeError("Typst gave no PDF")
    return made


def typesetter(found: Content) -> typst.Compiler:
    """Typst with the template and the content, and no font but those that are shipped."""
    import typst

    return typst.Compiler(
        TEMPLATE.read_bytes(),
        font_paths=typst.Fonts(include_system_fonts=False, font_paths=[published.fonts_folder()]),
        ignore_system_fonts=True,
        sys_inputs={"content": json.dumps(found, ensure_ascii=False, sort_keys=True)},
    )


def content(report: PopulationReport, cells: pd.DataFrame, lines: Sequence[Line]) -> Content:
    """What stands on the pages."""
    cubes = Cubes.read(cells)
    placed = funnel(cubes.hospitals, cubes.total.value("observed_to_expected"))
    three = findings(cubes.total, cubes.regions, placed, cubes.diagnoses, report.names)
    many, cubes = len(cubes.regions), cubes.of_largest_regions(MOST_REGIONS)
    changes, said = _changes(report, cubes)
    found: Content = {
        **_header(report.header),
        "findings": [{"title": each.title, "text": each.text} for each in three],
        "key": _key_figures(cubes.total),
        "matured": cubes.total.value("observed_to_expected") is not None,
        "change": said,
        "new_model": _other_model(report),
        "figures": _figures(report, cubes, placed, changes),
        "regions_shown": "" if many <= MOST_REGIONS else f"{MOST_REGIONS} of {many}",
        "regions": [_region_row(cell) for cell in ranked(cubes.regions, "mean_risk")],
        "diagnoses": [_diagnosis_row(cell, report.names) for cell in _by_expected(cubes)],
        "funnel": _funnel(placed),
        "flow": [{"label": x.label, "members": x.shown, "depth": x.depth} for x in lines],
        "withheld": _withheld(cells),
        "model": _model(report.model),
    }
    return {name: _unbroken(each) for name, each in found.items()}


def _unbroken(value: Any) -> Any:
    """The same with no line break before a percent sign."""
    if isinstance(value, str):
        return value.replace(" %", "\u00a0%")
    if isinstance(value, Mapping):
        return {name: each if name == "svg" else _unbroken(each) for name, each in value.items()}
    return [_unbroken(each) for each in value] if isinstance(value, list) else value


def _header(header: Header) -> Content:
    year, number = header.quarter.split("-Q")
    at = header.as_of.astimezone(ZoneInfo(header.zone))
    first, last = header.first_day, header.last_day
    return {
        "quarter": f"Q{number} {year}",
        "quarter_key": header.quarter,
        "period": f"{first.day} {first:%B} to {last.day} {last:%B} {last.year}",
        "version": str(header.version),
        "as_of": f"{at.day} {at:%B %Y, %H:%M} ({header.zone})",
        "rows": wording.thousands(header.rows),
        "fingerprint": published.printable(header.input_fingerprint),
        "model_name": published.printable(f"{header.model_name}, version {header.model_version}"),
        "contract_hash": published.printable(header.contract_hash),
        "policy": published.printable(header.policy_version),
        "policy_hash": published.printable(header.policy_hash),
        "disclaimer": published.printable(header.disclaimer),
        "high": wording.threshold(header.high_above),
        "very_high": wording.threshold(header.very_high_above),
    }


def _key_figures(total: Cell) -> list[Content]:
    return [
        {"label": "members in the snapshot", "value": total.count("members"), "note": "all rows"},
        {
            "label": "index discharges scored",
            "value": total.count("index_discharges_scored"),
            "note": f"of {total.count('index_discharges')} discharges",
        },
        {
            "label": "mean predicted risk",
            "value": total.share("mean_risk"),
            "note": _between(total.limits("mean_risk", as_percent=True)),
        },
        {
            "label": "high or very high risk",
            "value": total.share("high_risk_share"),
            "note": f"{total.count('high_risk')} discharges",
        },
        {
            "label": "observed by expected",
            "value": total.number("observed_to_expected", 2)
            if total.value("observed_to_expected") is not None else "not known",
            "note": _between(total.limits("observed_to_expected"))
            if total.value("observed_to_expected") is not None else "outcomes not matured",
        },
    ]  # fmt: skip


def _between(limits: str) -> str:
    return f"95 %: {limits.split('(')[1].rstrip(')')}" if " to " in limits else ""


def _by_expected(cubes: Cubes) -> list[Cell]:
    return ranked(cubes.diagnoses, "expected_readmissions")


def _region_row(cell: Cell) -> list[str]:
    return [cut(cell.key[0]), *_risk_columns(cell), *_outcome_columns(cell)]


def _risk_columns(cell: Cell) -> list[str]:
    return [
        cell.count("index_discharges_scored"),
        cell.limits("mean_risk", as_percent=True),
        cell.share("high_risk_share"),
        cell.number("expected_readmissions", 0),
    ]


def _outcome_columns(cell: Cell) -> list[str]:
    return [cell.count("observed_readmissions"), cell.number("expected_matured", 0),
            cell.limits("observed_to_expected")]  # fmt: skip


def _diagnosis_row(cell: Cell, names: Mapping[str, str]) -> list[str]:
    return [shown(cell.key[0], names), *_risk_columns(cell), *_outcome_columns(cell)]


def _funnel(found: Funnel | None) -> Content | None:
    if found is None:
        return None
    high, low = found.above(), found.below()
    return {
        "placed": wording.thousands(len(found.hospitals)),
        "withheld": wording.thousands(found.withheld),
        "without": wording.thousands(found.without),
        "target": wording.number(found.target, 2),
        "by_chance": found.by_chance_shown,
        "above": [_outlier(each) for each in high[:MOST_OUTLIERS]],
        "below": [_outlier(each) for each in low[:MOST_OUTLIERS]],
        "more_above": max(len(high) - MOST_OUTLIERS, 0),
        "more_below": max(len(low) - MOST_OUTLIERS, 0),
        "count_above": len(high),
        "count_below": len(low),
    }


def _outlier(placed: Placed) -> list[str]:
    cell = placed.cell
    return [cut(placed.name, 34), cell.count("matured"), cell.share("mean_risk"),
            cell.count("observed_readmissions"), cell.number("expected_matured", 1),
            cell.limits("observed_to_expected")]  # fmt: skip


def _withheld(cells: pd.DataFrame) -> Content:
    return {"cells": wording.thousands(len(cells)), "some": wording.thousands(int(cells["suppressed"].sum()))}


def _model(found: ModelSummary | None) -> Content | None:
    if found is None:
        return None
    texts = {
        "What it is": found.summary,
        "Made for": found.intended_use,
        "Patients": found.population,
        "Not for": found.out_of_scope,
        "Biases": found.biases,
        "Measured on": found.testing_data,
    }
    metrics = [[published.printable(label), wording.interval(value)] for label, value in found.metrics]
    return {
        "texts": [[label, published.printable(text)] for label, text in texts.items()],
        "metrics": metrics,
        "released": published.printable(found.released),
    }


def _other_model(report: PopulationReport) -> str:
    before = report.previous
    if before is None:
        return ""
    parts = [
        f"{what} {then} then, {now} in this report"
        for what, then, now in (
            ("model version", before.model_version, report.header.model_version),
            ("policy", before.policy_version, report.header.policy_version),
        )
        if then != now
    ]
    return published.printable("; ".join(parts))


def _changes(report: PopulationReport, cubes: Cubes) -> tuple[list[Change], str]:
    if report.previous is None:
        return [], "There is no report of the quarter before to compare with."
    before = Cubes.read(published.checked(report.previous.cells))
    total = compared("All members", cubes.total, before.total)
    changes = [total, heading("Regions")]
    changes += [compared(cut(now.key[0]), now, then) for now, then in pairs(cubes.regions, before.regions)]
    changes.append(heading("Diagnosis groups"))
    changes += [
        compared(shown(now.key[0], report.names), now, then)
        for now, then in pairs(cubes.diagnoses, before.diagnoses)
    ]
    return changes, sentence(total, report.previous.quarter)


def _figures(
    report: PopulationReport, cubes: Cubes, placed: Funnel | None, changes: Sequence[Change]
) -> dict[str, Content]:
    from medscore_assets.report.population import figures
    from medscore_assets.report.population.pictures import pictures

    with figures.drawing():
        return {
            name: {"svg": figures.svg(_drawn(picture.draw)), "alt": picture.alt, "caption": picture.caption}
            for name, picture in pictures(report, cubes, placed, changes).items()
        }


def _drawn(draw: Callable[[], Figure]) -> Figure:
    return draw()
