"""The warehouse's tables: declared and migrated alike, and each column explained."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from medscore_assets import tables
from medscore_assets.catalog import table_schema
from medscore_assets.contracts.fields import Category
from medscore_assets.contracts.readmission import READMISSION
from resources.errors import PermanentError
from resources.warehouse import Warehouse


def test_the_migrations_make_what_the_tables_declare(database: str) -> None:
    # A plain engine: the warehouse's reads JSON as text, which SQLAlchemy's reflection does not expect.
    with sa.create_engine(database, poolclass=sa.NullPool).connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, tables.metadata) == []


def test_the_migrated_checks_are_the_declared_ones(warehouse: Warehouse) -> None:
    inspector = sa.inspect(warehouse.engine)
    for table in tables.metadata.sorted_tables:
        declared = {str(c.name) for c in table.constraints if isinstance(c, sa.CheckConstraint)}
        assert {c["name"] for c in inspector.get_check_constraints(table.name)} == declared


@pytest.mark.parametrize("table", tables.metadata.sorted_tables, ids=str)
def test_every_table_and_column_says_what_it_is(table: sa.Table) -> None:
    assert table.comment
    assert [c.name for c in table.columns if not c.comment] == []


@pytest.mark.parametrize(
    ("table", "row"),
    [
        (tables.readmission_training_set, {"insurance_type": "Medicare"}),
        (tables.readmission_training_set, {"patient_age": 121}),
        (tables.readmission_training_set, {"part": "holdout"}),
        (tables.care_management_scores, {"risk_tier": "extreme"}),
        (tables.care_management_scores, {"readmission_probability": 1.01}),
        (tables.care_management_scores, {"disclaimer": ""}),
        (tables.care_management_scores, {"disclaimer": None}),
        (tables.care_management_scores, {"recommended_actions": []}),
        (tables.care_management_scores, {"rank": 0}),
    ],
    ids=lambda value: value.name if isinstance(value, sa.Table) else str(value),
)
def test_the_database_itself_refuses_what_no_row_may_hold(
    warehouse: Warehouse, table: sa.Table, row: dict[str, Any]
) -> None:
    with (
        pytest.raises(PermanentError, match=f"{table.name}.*{next(iter(row))}"),
        warehouse.transaction() as c,
    ):
        c.execute(sa.text("SET LOCAL session_replication_role = replica"))
        c.execute(sa.insert(table).values({**_row(table), **row}))


def test_a_sound_row_is_taken(warehouse: Warehouse) -> None:
    with warehouse.transaction() as connection:
        connection.execute(sa.text("SET LOCAL session_replication_role = replica"))
        for table in (tables.readmission_training_set, tables.care_management_scores):
            connection.execute(sa.insert(table).values(_row(table)))


def _row(table: sa.Table) -> dict[str, Any]:
    """A row that keeps every rule of its table."""
    samples: dict[type, Any] = {
        sa.Text: "x",
        sa.Integer: 1,
        sa.Boolean: True,
        sa.Double: 0.5,
        sa.DateTime: "2026-03-02 12:00+00",
        sa.Date: "2026-03-02",
    }
    row = {
        c.name: next((v for kind, v in samples.items() if isinstance(c.type, kind)), ["x"])
        for c in table.columns
    }
    categories = {f.name: f.categories[0] for f in READMISSION.features if isinstance(f, Category)}
    known = {"part": "train", "risk_tier": "low", **categories}
    return row | {name: value for name, value in known.items() if name in row}


def test_only_a_column_that_is_a_key_of_its_own_is_called_unique() -> None:
    unique = {c.name for c in table_schema(tables.care_management_scores).columns if c.constraints.unique}
    assert unique == set()
    assert [c.name for c in table_schema(tables.outreach_lists).columns if c.constraints.unique] == [
        "score_date"
    ]
