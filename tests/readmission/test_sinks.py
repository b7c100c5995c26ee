"""No patient and no score in any sink: a canary goes through every run, and every sink is searched for it.

The sinks: Dagster's events with their metadata, what a run prints and logs, what the command line prints and
leaves in its home, and what a training leaves in MLflow. The tables are where patients belong, and
`medscore outreach show` is there to show them.
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import sqlalchemy as sa
from psycopg import sql

from medscore_assets import tables
from medscore_assets.partitions import window
from medscore_assets.readmission.assets import care_management_scores
from medscore_assets.readmission.checks import CHECKS
from medscore_assets.readmission.policy import DEFAULT_FILE, load_policy
from medscore_assets.readmission.publish import Champion, publish_list
from medscore_assets.readmission.scoring import MODEL, ReadmissionModel
from medscore_assets.settings import PROJECT_ROOT
from resources.registry import ModelRegistry
from resources.warehouse import Warehouse
from tests.conftest import address_of, copied_database
from tests.readmission.records import clean_day, discharge, local
from tests.readmission.test_outreach import DAY, add, rows_of

REFUSED_DAY = "2026-03-03"
MARKS = ("CANARY", "2087-06-05", "7654321", "31337.25")
LISTED = {
    "encounter_id": "CANARY-E1",
    "patient_id": "CANARY-P1",
    "hospital_id": "CANARY-H1",
    "covered_until": date(2087, 6, 5),
}
BROKEN: list[dict[str, Any]] = [
    {"insurance_type": "CANARY-PAYER"},
    {"discharge_status": "CANARY-STATUS"},
    {"patient_age": 7654321},
    {"num_medications_at_discharge": 31337.25},
    {"patient_id": "CANARY-P9 "},
]


def a_day(broken: int) -> list[dict[str, Any]]:
    """Forty patients, every one of them a canary by name, and some broken rows with odd values."""
    rows = [
        row | {"patient_id": f"CANARY-{row['patient_id']}", "encounter_id": f"CANARY-{row['encounter_id']}"}
        for row in clean_day(DAY, 40)
    ]
    rows.append(discharge(5000, local(DAY), **LISTED))
    for number in range(broken):
        odd = BROKEN[number % len(BROKEN)]
        rows.append(discharge(6000 + number, local(DAY), encounter_id=f"CANARY-B{number}") | odd)
    return rows


def leaks(text: str, warehouse: Warehouse | None = None) -> list[str]:
    """The marks in a text, and the probabilities on the lists of the warehouse, by seven decimals or more."""
    found = [mark for mark in MARKS if mark in text]
    listed = rows_of(warehouse, tables.care_management_scores) if warehouse else []
    for row in listed:
        shown = f"{row['readmission_probability']:.12f}"[:9]
        found += re.findall(rf"(?<![\d.]){re.escape(shown)}\d*", text)
    return found


def execute(warehouse: Warehouse, statement: str) -> None:
    with warehouse.transaction() as connection:
        connection.execute(sa.text(statement))


def nothing(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run without a fault."""


def a_refusing_database(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL quotes the whole row that breaks a constraint in its error."""
    execute(
        warehouse,
        "ALTER TABLE care_management_scores ADD CHECK (encounter_id <> 'CANARY-E1' AND rank > 0)",
    )


def another_schema(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(warehouse, "ALTER TABLE care_management_scores RENAME disclaimer TO other")


def a_foreign_error(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that quotes the rows that it cannot handle, as pandas and Arrow do."""

    def build_list(events: pa.Table, *rest: Any, **options: Any) -> None:
        try:
            raise KeyError(events["patient_id"].to_pylist())
        except KeyError as error:
            raise ValueError(f"cannot handle {events.to_pylist()}") from error

    monkeypatch.setattr("medscore_assets.readmission.publish.build_list", build_list)


@pytest.mark.parametrize(
    ("broken", "fault", "succeeds"),
    [
        (2, nothing, True),
        (20, nothing, False),
        (2, a_refusing_database, False),
        (2, another_schema, False),
        (2, a_foreign_error, False),
    ],
)
def test_a_run_tells_nothing_about_anybody(
    warehouse: Warehouse,
    champion: ModelRegistry,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    broken: int,
    fault: Callable[[Warehouse, pytest.MonkeyPatch], None],
    succeeds: bool,
) -> None:
    add(warehouse, a_day(broken))
    fault(warehouse, monkeypatch)
    caplog.set_level(logging.INFO)
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [care_management_scores, *CHECKS],
            partition_key=DAY,
            resources={"warehouse": warehouse, "registry": champion, "policy_file": DEFAULT_FILE},
            instance=instance,
            raise_on_error=False,
        )
        events = instance.all_logs(result.run_id)
    assert result.success is succeeds
    assert len(events) > 5
    told = [*map(dg.serialize_value, events), *map(repr, events), caplog.text, *capfd.readouterr()]
    if fault is not another_schema:
        assert (len(rows_of(warehouse, tables.care_management_scores)) == 41) is succeeds
        assert leaks("\n".join(told), warehouse) == []
    assert leaks("\n".join(told)) == []


def test_what_the_source_document_prints_would_be_found(
    warehouse: Warehouse, model: ReadmissionModel
) -> None:
    add(warehouse, a_day(0))
    publish_list(warehouse, window(DAY), lambda: Champion(model, 1), load_policy())
    probabilities = [r["readmission_probability"] for r in rows_of(warehouse, tables.care_management_scores)]
    printed = f"Top 10 risk scores: {sorted(probabilities, reverse=True)[:10]}"
    assert len(leaks(printed, warehouse)) >= 10
    assert leaks(f"Scored 41 patients\n{max(probabilities) * 1000}", warehouse) == []
    assert leaks("nobody: CANARY-P1, aged 7654321") == ["CANARY", "7654321"]


def database_text(url: str) -> str:
    """Every row of every table, as text."""
    with psycopg.connect(sa.make_url(url).set(drivername="postgresql").render_as_string(False)) as connection:
        names = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        rows: list[tuple[Any, ...]] = []
        for (name,) in names:
            rows += connection.execute(
                sql.SQL("SELECT t::text FROM {} AS t").format(sql.Identifier(name))
            ).fetchall()
    return "\n".join(row for (row,) in rows)


def files_text(folder: Path) -> str:
    """The bytes of every file under the folder, as text."""
    return "\n".join(f.read_bytes().decode("latin-1") for f in folder.rglob("*") if f.is_file())


COMMANDS = """
import sys
from medscore_assets.cli import main
for day in sys.argv[1:]:
    sys.argv = ["medscore", "outreach", "make", "--date", day]
    try:
        main()
    except SystemExit as end:
        print("ended with", end.code or 0)
"""


@pytest.mark.slow
def test_the_command_line_and_its_home_tell_nothing_about_anybody(
    warehouse: Warehouse, champion: ModelRegistry, postgres: str, tmp_path: Path
) -> None:
    add(warehouse, [*a_day(2), discharge(7000, local(REFUSED_DAY), **LISTED | {"encounter_id": "CANARY-E2"})])
    # PostgreSQL quotes the whole row that breaks a constraint in its error.
    execute(warehouse, f"ALTER TABLE care_management_scores ADD CHECK (score_date <> '{REFUSED_DAY}')")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MEDSCORE_", "DAGSTER_"))}
    with copied_database(postgres, "template1") as dagster:
        environment = clean | {
            "MEDSCORE_HOME": str(tmp_path),
            "MEDSCORE_DATABASE_URL": warehouse.engine.url.render_as_string(hide_password=False),
            "MEDSCORE_DAGSTER_DATABASE_URL": dagster,
            "MEDSCORE_MLFLOW_DATABASE_URL": address_of(postgres, "registry"),
        }
        done = subprocess.run(
            [sys.executable, "-c", COMMANDS, DAY, REFUSED_DAY],
            cwd=PROJECT_ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.split("\n")[-3:] == ["ended with 0", "ended with 1", ""], done.stderr
        assert "the database refuses the rows" in done.stderr
        stored = database_text(dagster)
    assert len(rows_of(warehouse, tables.care_management_scores)) == 41
    assert "care_management_scores" in stored
    for told in (done.stdout, done.stderr, stored, files_text(tmp_path)):
        assert leaks(told, warehouse) == []


@pytest.mark.slow
def test_a_training_leaves_nobody_in_mlflow(
    warehouse: Warehouse,
    demo_year: Any,
    postgres: str,
    empty_store: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    from medscore_assets.loading import Records, load
    from medscore_assets.readmission.model_assets import readmission_model, readmission_training_set
    from medscore_assets.readmission.sources import SOURCES

    named = [marked(table) for table in (demo_year.events, demo_year.admissions)]
    odd = discharge(1, local("2025-05-05"), encounter_id="CANARY-ODD") | {"insurance_type": "CANARY-PAYER"}
    load(warehouse, Records("demo", *named), replace=False)
    add(warehouse, [odd, discharge(2, local("2025-05-05"), patient_age=7654321)])
    caplog.set_level(logging.INFO)
    artifacts = tmp_path / "artifacts"
    with copied_database(postgres, empty_store) as store, dg.DagsterInstance.ephemeral() as instance:
        registry = ModelRegistry(store, artifacts=artifacts.as_uri(), cache=tmp_path / "cache")
        result = dg.materialize(
            [*SOURCES, readmission_training_set, readmission_model],
            resources={"warehouse": warehouse, "registry": registry, "policy_file": DEFAULT_FILE},
            instance=instance,
        )
        assert [v.version for v in registry.versions(MODEL)] == [1]
        stored, events = database_text(store), instance.all_logs(result.run_id)
    trained_on = warehouse.read(sa.select(tables.readmission_training_set.c.patient_id))["patient_id"]
    assert pc.all(pc.starts_with(trained_on, "CANARY")).as_py()
    files = files_text(artifacts)
    assert "data_fingerprint" in stored
    assert "data_fingerprint" in files
    for told in (stored, files, caplog.text, *capfd.readouterr(), *map(dg.serialize_value, events)):
        assert leaks(told) == []


def marked(table: pa.Table) -> pa.Table:
    """The table with every patient and every encounter a canary by name."""
    for name in ("patient_id", "encounter_id"):
        # A row without an id stays one.
        names = pc.binary_join_element_wise("CANARY", table[name], "-")
        table = table.set_column(table.schema.get_field_index(name), name, names)
    return table
