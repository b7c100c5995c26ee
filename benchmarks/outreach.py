"""The morning list against the source document's script: 800 discharges, scored and written.

    python -m benchmarks.outreach [--json PATH] [--rounds N]

Both run in this process on one embedded PostgreSQL and one booster, in turn; both open their connections
anew, as a process of the morning does. Before the measured day the warehouse holds a year of as many
discharges a day, with all admissions, vacuumed and analyzed; the script finds its rows there by reading the
whole table, because no index fits its condition. What the warm-up leaves in memory is frozen, so that
Python's collector visits it on neither side. Ours does what the daily run does: reads the policy, asks the
registry for the champion, checks its files and loads it while it reads the window, validates, decides who
is eligible, scores, ranks, explains, and replaces the list in one transaction. Without SHAP, which no
morning leaves out, is for the comparison: the document's script loads its joblib file, reads, encodes,
predicts and appends; it explains nothing. Imports are outside of the measure on both sides, and so is
Dagster.
"""

from __future__ import annotations

import gc
import itertools
import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo

import joblib
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
import typer

from benchmarks.document_batch import score_discharges
from benchmarks.harness import Report, paired, ratio, summary
from benchmarks.own_database import own_settings
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.database import prepare
from medscore_assets.definitions import default_resources
from medscore_assets.demo.discharges import DemoData, DemoPlan, discharges_between, generate
from medscore_assets.loading import Records, load
from medscore_assets.readmission.cohort import training_cohort
from medscore_assets.readmission.outreach import Window
from medscore_assets.readmission.policy import load_policy
from medscore_assets.readmission.publish import load_champion, publish_list
from medscore_assets.readmission.scoring import MODEL, MODEL_FILE
from medscore_assets.readmission.training import train
from medscore_assets.settings import Settings
from resources.registry import CHAMPION, ModelRegistry
from resources.warehouse import Warehouse

DISCHARGES = 800
TIMES_FASTER = 5.0


def main(
    json_path: Annotated[Path | None, typer.Option("--json")] = None,
    rounds: Annotated[int, typer.Option(min=3)] = 15,
) -> None:
    """Measures and reports; exits with 1 when a goal is missed."""
    with tempfile.TemporaryDirectory(prefix="medscore-benchmark-") as folder:
        report = _measure(own_settings(Path(folder)), rounds)
    raise typer.Exit(report.finish(json_path))


def _measure(settings: Settings, rounds: int) -> Report:
    report = Report(f"{DISCHARGES} discharges scored and written")
    databases = settings.databases()
    prepare(databases)
    resources = default_resources(settings)
    warehouse, registry = resources["warehouse"], resources["registry"]
    _register_demo_model(registry, load_policy().hash, settings.home / "trained")

    # The script asks for the 24 hours before now, so the window that both score is laid there.
    now = datetime.now(UTC)
    opened = now - timedelta(hours=23)
    day = discharges_between(DISCHARGES, opened, now, timezone=settings.timezone)
    _load(warehouse, _year_before(opened, settings.timezone), day)
    joblib_file = _joblib_model(registry, settings.home / "readmission_model.joblib")
    with warehouse.transaction() as connection:
        connection.execute(sa.text("CREATE SCHEMA document"))

    # Every run publishes the list of a new day, as mornings do; the script appends to one table.
    days = (date(2030, 1, 1) + timedelta(days=n) for n in itertools.count())

    def ours(explain: bool) -> None:
        window = Window(next(days), opened, now)
        fresh = default_resources(settings)
        policy = load_policy(fresh["policy_file"])
        with ThreadPoolExecutor(1) as loader:
            champion = loader.submit(load_champion, fresh["registry"])
            made = publish_list(fresh["warehouse"], window, champion.result, policy, explain=explain)
        assert made.counts["scored"] == DISCHARGES, made.counts
        fresh["warehouse"].close()

    def document() -> None:
        assert len(score_discharges(databases.warehouse, joblib_file, "document")) == DISCHARGES

    contenders = {"document": document, "ours": lambda: ours(False), "ours_with_shap": lambda: ours(True)}
    for run in contenders.values():
        run()
    gc.collect()
    gc.freeze()
    timings = paired(contenders, rounds)
    report.figures = {name: summary(runs) for name, runs in timings.items()}
    report.at_least(
        "document / ours, without SHAP", ratio(timings["document"], timings["ours"]), TIMES_FASTER, "times"
    )
    report.at_least(
        "document / ours, exact SHAP for every patient",
        ratio(timings["document"], timings["ours_with_shap"]),
        1.0,
        "times",
    )
    return report


def _year_before(opened: datetime, timezone: str) -> DemoData:
    """365 days of `DISCHARGES` a day on average, all told before the measured window opens."""
    last = opened.astimezone(ZoneInfo(timezone)).date() - timedelta(days=1)
    return generate(
        DemoPlan(
            first_day=last - timedelta(days=364),
            last_day=last,
            timezone=timezone,
            discharges_per_day=DISCHARGES,
        )
    )


def _load(warehouse: Warehouse, year: DemoData, day: DemoData) -> None:
    events, admissions = (
        pa.concat_tables([old, _renamed(new)])
        for old, new in ((year.events, day.events), (year.admissions, day.admissions))
    )
    load(warehouse, Records("demo", events, admissions), replace=False)
    with warehouse.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(sa.text("VACUUM ANALYZE"))


def _renamed(rows: pa.Table) -> pa.Table:
    """The rows with encounter ids of their own: two generated data sets count from 1."""
    position = rows.schema.get_field_index("encounter_id")
    ids = pc.binary_join_element_wise("MEASURED", rows["encounter_id"], "-")
    return rows.set_column(position, "encounter_id", ids)


def _register_demo_model(registry: ModelRegistry, policy_hash: str, folder: Path) -> None:
    """Trains on the demo plan of `medscore demo load` and makes the model champion."""
    demo = generate(DemoPlan(first_day=date(2025, 1, 1), last_day=date(2026, 7, 4)))
    no_outcomes = pa.table(
        {
            "encounter_id": pa.array([], pa.string()),
            "readmitted_within_30_days": pa.array([], pa.bool_()),
            "recorded_at": pa.array([], pa.timestamp("us", "UTC")),
        }
    )
    cohort = training_cohort(
        demo.events, demo.admissions, no_outcomes, as_of=datetime(2026, 7, 5, tzinfo=UTC)
    )
    train(cohort.table, READMISSION, policy_hash=policy_hash).model.save(folder)
    registry.set_alias(MODEL, registry.register(MODEL, folder), CHAMPION)


def _joblib_model(registry: ModelRegistry, file: Path) -> Path:
    """The champion's booster as the document keeps it: a pickled `XGBClassifier`."""
    from xgboost import XGBClassifier

    classifier = XGBClassifier()
    classifier.load_model(registry.champion(MODEL).directory / MODEL_FILE)
    joblib.dump(classifier, file)
    return file


if __name__ == "__main__":
    typer.run(main)
