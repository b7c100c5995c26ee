"""What Dagster's catalogue says about every asset: owners, kinds, tables, columns.

Belongs here: metadata that is the same for all families, derived from the tables and contracts.
Does not belong here: numbers of one run; assets report them.
"""

from typing import Any

import dagster as dg
import sqlalchemy as sa

OWNERS = ["team:clinical-ml"]
READMISSION: dict[str, Any] = {"group_name": "readmission", "owners": OWNERS}
MOBILITY: dict[str, Any] = {"group_name": "mobility", "owners": OWNERS}
WAIT_TIMES: dict[str, Any] = {"group_name": "wait_times", "owners": OWNERS}


def table_schema(table: sa.Table) -> dg.TableSchema:
    """Dagster's column schema of a warehouse table, with its keys and check constraints."""
    keys = (c for c in table.constraints if isinstance(c, sa.UniqueConstraint | sa.PrimaryKeyConstraint))
    unique = {columns[0].name for key in keys if len(columns := list(key.columns)) == 1}
    checks = {
        str(c.name).removeprefix(f"ck_{table.name}_"): str(c.sqltext)
        for c in table.constraints
        if isinstance(c, sa.CheckConstraint)
    }
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=column.name,
                type=str(column.type).lower(),
                description=column.comment,
                constraints=dg.TableColumnConstraints(
                    nullable=bool(column.nullable),
                    unique=column.name in unique,
                    other=[checks[column.name]] if column.name in checks else [],
                ),
            )
            for column in table.columns
        ],
        constraints=dg.TableConstraints(
            other=[rule for name, rule in checks.items() if name not in table.columns]
        ),
    )


def table_metadata(table: sa.Table) -> dict[str, Any]:
    """The standard metadata of an asset that is a warehouse table."""
    return {"dagster/column_schema": table_schema(table), "dagster/table_name": table.name}
