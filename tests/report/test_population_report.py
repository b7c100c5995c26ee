"""The population report's files: same bytes, whole, honest about what is withheld, safe with any text."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from medscore_assets.report.evaluation_report import EvaluationReport
from medscore_assets.report.population import ModelSummary, PopulationReport, write_report
from medscore_assets.report.population import cells as published
from medscore_assets.report.population.cells import WITHHELD, Cell, Cubes
from medscore_assets.report.population.dictionary import COLUMNS, MEASURE_NAMES
from medscore_assets.report.population.document import compiled, content, typesetter
from medscore_assets.report.population.findings import findings
from medscore_assets.report.population.flow import flow
from medscore_assets.report.population.funnel import ALARM, funnel, limits
from medscore_assets.report.population.tables import cube_csv, parquet
from resources.errors import PermanentError
from tests.report.population_cells import CUBES, discharges, population_report

N = 6000

_AGAIN = """
import sys
from pathlib import Path
from typing import Any
from medscore_assets.report.population import write_report
from tests.report.population_cells import discharges, population_report
write_report(Path(sys.argv[1]), population_report(discharges({n}, 40), discharges({n}, 40, seed=2)))
"""


@pytest.fixture(scope="module")
def quarter() -> PopulationReport:
    """A quarter with outliers and withheld cells, and the one before."""
    return population_report(discharges(N, 40), discharges(N, 40, seed=2))


@pytest.fixture(scope="module")
def files(quarter: PopulationReport, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """That quarter's files."""
    folder = tmp_path_factory.mktemp("population") / "v1"
    return folder, write_report(folder, quarter)


def _digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def test_another_process_with_another_zone_language_and_hash_seed_writes_the_same_bytes(
    files: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    folder, digests = files
    environment = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Kolkata", "LANG": "de_DE.UTF-8"}
    subprocess.run(
        [sys.executable, "-c", _AGAIN.format(n=N), str(tmp_path)], check=True, env=environment, timeout=300
    )
    assert _digests(tmp_path) == _digests(folder) == digests
    assert len(digests) == len(CUBES) + 5


def test_the_manifest_vouches_for_every_other_file(files: tuple[Path, dict[str, str]]) -> None:
    folder, digests = files
    manifest = json.loads((folder / "manifest.json").read_text())
    found = {
        p.name: {"sha256": hashlib.sha256(p.read_bytes()).hexdigest(), "bytes": p.stat().st_size}
        for p in folder.iterdir()
        if p.name != "manifest.json"
    }
    assert manifest["files"] == found
    assert {name: entry["sha256"] for name, entry in found.items()} == {
        name: digest for name, digest in digests.items() if name != "manifest.json"
    }
    assert manifest["compared_with"] == {"quarter": "2026-Q2", "version": 1}


def test_csv_and_parquet_hold_the_published_cells_and_nothing_more(
    quarter: PopulationReport, files: tuple[Path, dict[str, str]]
) -> None:
    folder, _ = files
    given = quarter.cells.set_index(["cube", *published.DIMENSION_NAMES])
    tidy = pq.read_table(folder / "population_2026-Q3.parquet").to_pandas()
    assert list(tidy.columns) == [column.name for column in COLUMNS]
    assert len(tidy) == len(given)
    for cube, names in CUBES.items():
        text = (folder / f"{cube}.csv").read_bytes()
        assert b"\r" not in text
        rows = list(csv.DictReader(io.StringIO(text.decode())))
        assert len(rows) == (quarter.cells["cube"] == cube).sum()
        for row in rows:
            key = (cube, *(row.get(name, "All") for name in published.DIMENSION_NAMES))
            assert set(names) <= set(row)
            cell = given.loc[key]
            assert [row[name] for name in cell["suppressed_measures"]] == [""] * len(
                cell["suppressed_measures"]
            )
            assert row["suppressed_measures"] == ";".join(cell["suppressed_measures"])
            for name in MEASURE_NAMES:
                assert row[name] == "" if pd.isna(cell[name]) else float(row[name]) == float(cell[name])


def test_every_column_of_every_file_is_explained(files: tuple[Path, dict[str, str]]) -> None:
    folder, _ = files
    rows = list(csv.DictReader(io.StringIO((folder / "columns.csv").read_text())))
    explained = {row["name"] for row in rows if row["unit"] and row["meaning"]}
    for cube in CUBES:
        header = next(csv.reader(io.StringIO((folder / f"{cube}.csv").read_text())))
        assert set(header) <= explained


def test_the_pdf_is_tagged_titled_in_a_language_and_embeds_its_fonts(
    files: tuple[Path, dict[str, str]],
) -> None:
    pdf = (files[0] / "population_2026-Q3.pdf").read_bytes()
    for mark in (
        b"/StructTreeRoot",
        b"/Marked true",
        b"/Lang(en-US)",
        b"pdfuaid:part",
        b"/DisplayDocTitle true",
    ):
        assert mark in pdf.replace(b" (", b"("), mark
    assert b"Readmission risk of members, Q3 2026" in pdf
    assert b"D:20261001060000" in pdf
    assert pdf.count(b"/S/Figure") == pdf.count(b"/Alt") == 8
    assert pdf.count(b"/S/H1") == 9
    assert pdf.count(b"/Type/FontDescriptor") == pdf.count(b"/FontFile")


_HOSTILE = ("#panic()", "*x* _y_ $z^2$ <b>", '#sys.inputs "\\u{41}" ]', "=1+1", "山\u202e\nend", "@ref // no")


@pytest.fixture(scope="module")
def odd(report: EvaluationReport) -> PopulationReport:
    """Texts that mean something to typesetters, no outcomes, no earlier quarter, a cube all withheld."""
    drawn = discharges(N, 40, matured=0)
    places = sorted(set(drawn["region"]) - {"Unknown"})
    drawn["region"] = drawn["region"].replace(dict(zip(places, _HOSTILE, strict=False)))
    drawn["hospital_id"] = [
        f"{_HOSTILE[int(name[1:]) % 6]}{name}" + "x" * 60 for name in drawn["hospital_id"]
    ]
    # This region stands out, so that the title page names it.
    drawn.loc[drawn["region"] == "#panic()", "risk"] = 0.5
    made = population_report(drawn, model=ModelSummary.from_card(report.card().to_json()))
    hidden = made.cells["cube"] == "region_diagnosis"
    made.cells.loc[hidden, list(MEASURE_NAMES)] = pd.NA
    made.cells.loc[hidden, "suppressed_measures"] = pd.Series(
        [list(MEASURE_NAMES)] * int(hidden.sum()), index=made.cells.index[hidden]
    )
    return made


@pytest.fixture(scope="module")
def pages(odd: PopulationReport) -> dict[str, Any]:
    """What stands on the pages of that report."""
    cells = published.checked(odd.cells)
    total = published.read(cells, published.TOTAL)[0]
    return content(odd, cells, flow(odd.exclusions, odd.header.rows, total, odd.names))


def test_texts_from_data_are_printed_and_never_run(odd: PopulationReport, pages: dict[str, Any]) -> None:
    assert compiled(typesetter(pages), odd)
    headings = json.loads(typesetter(pages).query("heading", field="body"))
    assert headings[1]["text"] == "#panic() has the highest predicted risk"
    svg = pages["figures"]["regions"]["svg"]
    assert all(text in svg for text in ("#panic()", "*x* _y_ $z^2$ &lt;b&gt;", "□ end"))
    cells = published.checked(odd.cells)
    regions = cube_csv(cells, "region").decode()
    assert "'=1+1" in regions
    assert "'@ref" in regions
    tidy = pq.read_table(io.BytesIO(parquet(cells)), columns=["region"])
    assert set(_HOSTILE) <= set(tidy["region"].to_pylist())


def test_a_quarter_without_outcomes_or_an_earlier_one_says_so(pages: dict[str, Any]) -> None:
    assert "no outcome of the quarter is known yet" in pages["findings"][1]["text"]
    assert pages["change"] == "There is no report of the quarter before to compare with."
    assert pages["funnel"] is None
    assert pages["matured"] is False
    assert {"funnel", "change"}.isdisjoint(pages["figures"])


def test_withheld_figures_reach_no_page(
    quarter: PopulationReport, odd: PopulationReport, pages: dict[str, Any]
) -> None:
    fields = int((odd.cells["cube"] == "region_diagnosis").sum())
    assert f"{fields} of {fields} fields are withheld" in pages["figures"]["region_diagnosis"]["alt"]
    assert {row[0]: row for row in pages["regions"]}["Unknown"][3] == WITHHELD
    cubes = Cubes.read(published.checked(quarter.cells))
    placed = funnel(cubes.hospitals, cubes.total.value("observed_to_expected"))
    small = {cell.key[0] for cell in cubes.hospitals if "observed_readmissions" in cell.withheld}
    assert placed is not None
    assert small
    assert not {hospital.name for hospital in placed.hospitals} & small
    assert placed.withheld == len(small)


def test_the_models_card_is_summed_up(pages: dict[str, Any]) -> None:
    assert "AUROC" in [label for label, _ in pages["model"]["metrics"]]
    assert any("nor for ranking hospitals" in text for _, text in pages["model"]["texts"])
    with pytest.raises(PermanentError, match="model card"):
        ModelSummary.from_card("{}")


def test_cells_that_contradict_themselves_are_not_printed(quarter: PopulationReport, tmp_path: Path) -> None:
    leaking = quarter.cells.copy()
    at = leaking.index[leaking["suppressed"]][0]
    leaking.loc[at, leaking.loc[at, "suppressed_measures"][0]] = 3
    with pytest.raises(PermanentError, match="must be withheld"):
        write_report(tmp_path / "none", replace(quarter, cells=leaking))
    twice = pd.concat([quarter.cells, quarter.cells.iloc[[5]]])
    with pytest.raises(PermanentError, match="twice"):
        write_report(tmp_path / "none", replace(quarter, cells=twice))
    assert not (tmp_path / "none").exists()


def _cell(name: str, observed: int, expected: float, *, risk: float = 0.15, n: int = 1000) -> Cell:
    """A cell whose ratio has an interval of a tenth on each side."""
    ratio = observed / expected
    figures: dict[str, float | None] = dict.fromkeys(MEASURE_NAMES)
    figures |= {
        "index_discharges_scored": n, "matured": n, "mean_risk": risk, "mean_risk_low": risk - 0.01,
        "mean_risk_high": risk + 0.01, "expected_readmissions": expected, "expected_matured": expected,
        "observed_readmissions": observed, "observed_to_expected": ratio, "oe_low": ratio - 0.1,
        "oe_high": ratio + 0.1,
    }  # fmt: skip
    return Cell((name,), figures, frozenset())


def test_the_findings_name_what_stands_out_by_rule() -> None:
    total = _cell("All", 1000, 1000)
    # The highest ratio is of a region that may be chance; Unknown is no region.
    chance = _cell("A", 115, 100)
    chance = replace(chance, figures={**chance.figures, "oe_low": 0.95})
    regions = [chance, _cell("B", 112, 100), _cell("C", 100, 100), _cell("Unknown", 300, 100)]
    hospitals = [
        _cell("H1", 150, 100),
        _cell("H2", 60, 100),
        _cell("H3", 105, 100),
        _cell("Unknown", 400, 100),
    ]
    diagnoses = [_cell("cardiac", 90, 400), _cell("other", 90, 300), _cell("Unknown", 1, 900)]
    found = findings(total, regions, funnel(hospitals, 1.0), diagnoses, {})
    assert found[0].text.startswith(
        "B: 112 readmissions where the model expects 100.0, observed by expected 1.12"
    )
    assert "95 % interval 1.02 to 1.22" in found[0].text
    assert found[1].title == "1 hospital is above and 1 below what chance explains"
    assert "Of 3 hospitals" in found[1].text
    assert "furthest above is H1 with 150 readmissions of 1,000 discharges" in found[1].text
    assert found[2].text.startswith("Cardiac: 400 of 1,000 expected readmissions (40 % of all)")


def test_nothing_stands_out_where_all_is_chance() -> None:
    total = _cell("All", 1000, 1000)
    regions = [_cell("A", 104, 100), _cell("B", 98, 100)]
    found = findings(total, regions, funnel([_cell("H1", 104, 100)], 1.0), [], {})
    assert found[0].title == "No region stands out"
    assert "1.04 (95 % interval 0.94 to 1.14)" in found[0].text
    assert found[1].title == "No hospital stands out"
    assert found[2].title == "No diagnosis group can be named"


def test_the_funnels_limits_and_its_judgement_agree() -> None:
    lower, upper = limits(1.1, ALARM, 200)
    for expected in (8.0, 30.0, 120.0):
        top = float(np.interp(expected, upper[0], upper[1])) * expected
        bottom = float(np.interp(expected, lower[0], lower[1])) * expected
        for count, outside in (
            (int(np.floor(top)), False), (int(np.floor(top)) + 1, True),
            (int(np.ceil(bottom)), False), (int(np.ceil(bottom)) - 1, True),
        ):  # fmt: skip
            if count < 0:
                continue
            found = funnel([_cell("H", count, expected)], 1.1)
            assert found is not None
            assert found.hospitals[0].outside(ALARM) == outside, (expected, count)


@pytest.mark.parametrize("small", [1, 4, 10])
def test_the_flow_adds_up_and_shows_no_count_of_few(small: int) -> None:
    parts = [
        ("missing", "patient_age", small), ("padded", "patient_age", 3), ("above_maximum", "patient_age", 60),
        ("no_index_discharge", "", 5000), ("index_discharge_not_recorded", "", small),
    ]  # fmt: skip
    exclusions = pd.DataFrame(parts, columns=["reason", "field", "members"])
    rows = 8000 + sum(part[2] for part in parts)
    total = Cell((), {**dict.fromkeys(MEASURE_NAMES), "index_discharges_scored": 8000}, frozenset())
    lines = flow(exclusions, rows, total, {})
    assert lines[0].members == rows == sum(line.members or 0 for line in lines[1:] if line.depth == 0)
    assert sum(line.members or 0 for line in lines if line.depth == 1) == 63 + small
    assert all((line.members or 0) > 10 for line in lines)
    with pytest.raises(PermanentError, match="does not add up"):
        flow(exclusions, rows + 1, total, {})
    withheld = replace(total, withheld=frozenset({"members_invalid"}))
    assert len(flow(exclusions, rows, withheld, {})) == 3
