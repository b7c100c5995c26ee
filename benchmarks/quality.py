"""How good the readmission model is, on public records and against the demo data's known ceiling.

    python -m benchmarks.quality [--json PATH]

Public records: the UCI set in MEDSCORE_TEST_DATA (by default ../shared/data), left out if absent. Demo
data: the plan of `medscore demo load` with five seeds, named before anything was measured; the ceiling
is the AUROC of the probability that the labels were drawn with. Every figure is of the test part: later
in time, patients that no fit has seen.
"""

from __future__ import annotations

import statistics
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pyarrow.compute as pc
import typer
from rich.progress import track

from benchmarks.harness import Report, console
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.demo import uci_diabetes
from medscore_assets.demo.discharges import DemoPlan, generate
from medscore_assets.monitoring.metrics import evaluate
from medscore_assets.readmission.cohort import training_cohort
from medscore_assets.readmission.scoring import MODEL
from medscore_assets.readmission.training import train
from medscore_assets.settings import PROJECT_ROOT, Settings

SEEDS = (1, 2, 3, 4, 5)
TIME = pa.timestamp("us", "UTC")
NO_OUTCOMES = pa.schema(
    [("encounter_id", pa.string()), ("readmitted_within_30_days", pa.bool_()), ("recorded_at", TIME)]
).empty_table()
NO_ADMISSIONS = pa.schema(
    [
        ("encounter_id", pa.string()),
        ("patient_id", pa.string()),
        ("admitted_at", TIME),
        ("planned", pa.bool_()),
        ("ingested_at", TIME),
    ]
).empty_table()


def main(json_path: Annotated[Path | None, typer.Option("--json")] = None) -> None:
    """Measures and reports; exits with 1 when a goal is missed."""
    report = Report("The readmission model's quality on later, unseen patients")
    folder = Settings().test_data or PROJECT_ROOT.parent / "shared" / "data"
    if (folder / "diabetic_data.csv.gz").exists():
        _public_records(report, folder)
    else:
        console.print(f"no public records at {folder}: left out")
    _demo(report)
    raise typer.Exit(report.finish(json_path))


def _public_records(report: Report, folder: Path) -> None:
    data = uci_diabetes.read(folder / "diabetic_data.csv.gz", folder / "IDs_mapping.csv")
    as_of = max(pc.max(data.events["ingested_at"]).as_py(), pc.max(data.outcomes["recorded_at"]).as_py())
    cohort = training_cohort(data.events, NO_ADMISSIONS, data.outcomes, as_of)
    trained = train(cohort.table, READMISSION, policy_hash="0" * 64)
    # What was imported, and what becomes of it on the way to train, validation and test.
    report.figures["uci_encounters"] = {"imported": len(data.events), **cohort.flow}
    report.figures["uci"] = {name: e.as_dict() for name, e in trained.evaluations.items()}
    measured = trained.evaluations[MODEL]
    report.at_least("UCI: AUROC", measured.auroc or 0.0, 0.65, "")
    report.within("UCI: calibration slope", measured.calibration_slope or 0.0, 0.9, 1.1, "")


def _demo(report: Report) -> None:
    gaps, slopes = [], []
    for seed in track(SEEDS, description="demo data", console=console, transient=True):
        demo = generate(DemoPlan(first_day=date(2025, 1, 1), last_day=date(2026, 7, 4), seed=seed))
        cohort = training_cohort(demo.events, demo.admissions, NO_OUTCOMES, datetime(2026, 7, 5, tzinfo=UTC))
        trained = train(cohort.table, READMISSION, policy_hash="0" * 64)
        measured, ceiling = trained.evaluations[MODEL], _ceiling(demo.truth, cohort.table)
        report.figures[f"demo, seed {seed}"] = {"ceiling": ceiling, **measured.as_dict()}
        gaps.append(ceiling - (measured.auroc or 0.0))
        slopes.append(measured.calibration_slope or 0.0)
    report.within("demo: AUROC below the ceiling, mean of five seeds", statistics.mean(gaps), -0.01, 0.01, "")
    report.within("demo: AUROC below the ceiling, largest of five", max(gaps), -0.01, 0.01, "")
    report.within("demo: calibration slope, smallest of five", min(slopes), 0.9, 1.1, "")
    report.within("demo: calibration slope, largest of five", max(slopes), 0.9, 1.1, "")


def _ceiling(truth: pa.Table, table: pa.Table) -> float:
    """AUROC of the true probabilities on the test part."""
    test = table.filter(pc.equal(table["part"], "test"))
    position = pc.index_in(test["encounter_id"], value_set=truth["encounter_id"].combine_chunks())
    known = truth["probability"].take(position)
    return evaluate(test["readmitted_within_30_days"].to_pylist(), known.to_pylist()).auroc or 0.0


if __name__ == "__main__":
    typer.run(main)
