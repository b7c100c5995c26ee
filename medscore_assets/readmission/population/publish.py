"""One quarter from the warehouse to the warehouse, in one transaction.

Belongs here: the order of reads and writes that makes a summary atomic, repeatable and safe to race, and
when it is a new version. Does not belong here: what is computed (`score_stream.py`, `summary.py`,
`suppression.py`), files (`files.py`) and Dagster (`assets.py`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import sqlalchemy as sa

from medscore_assets import tables
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.readmission.policy import Policy
from medscore_assets.readmission.population import queries, summary
from medscore_assets.readmission.population.quarters import Quarter
from medscore_assets.readmission.population.score_stream import reduce_members
from medscore_assets.readmission.population.suppression import Tiers, protect
from medscore_assets.readmission.scoring import ReadmissionModel
from resources.errors import PermanentError, TransientError
from resources.warehouse import Warehouse

if TYPE_CHECKING:
    import pandas as pd

    from medscore_assets.readmission.population.partial import Partial

SAME = (
    "rows",
    "input_fingerprint",
    "model_name",
    "model_version",
    "contract_hash",
    "policy_version",
    "policy_hash",
)
"""What a report is of. Where one of these differs from the stored report's, it is another version."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Summary:
    """What was written of a quarter."""

    header: Row
    """As in `population_reports`."""
    cells: pd.DataFrame
    """Every cell, small ones included: not to be shown."""
    published: pd.DataFrame
    """The cells as they may be shown."""
    exclusions: list[Row]


def publish_summary(
    warehouse: Warehouse,
    quarter: Quarter,
    model: ReadmissionModel,
    model_version: int,
    policy: Policy,
    progress: Callable[[int], None] = lambda rows: None,
) -> Summary:
    """Score a quarter's members and replace its cells.

    A lock per quarter is taken before the first read, so that of two runs at once the later one sees what
    the earlier one wrote. The same members under the same model, contract and policy are the same version,
    and no row changes. Raises `PermanentError` if there is no snapshot, it is empty, or anything does not
    add up to its number of members; what stood before then stands.
    """

    def scored(connection: sa.Connection, snapshot: Row) -> Partial:
        members = warehouse.stream(queries.members(quarter), connection)
        partial = reduce_members(members, model, policy, progress)
        require_as_loaded(quarter, snapshot, partial.rows)
        return partial

    return _publish(warehouse, quarter, scored, model, model_version, policy)


def publish_partial(
    warehouse: Warehouse,
    quarter: Quarter,
    partial: Partial,
    loaded_at: datetime,
    model: ReadmissionModel,
    model_version: int,
    policy: Policy,
) -> Summary:
    """Replace a quarter's cells by those of members that were scored elsewhere, as `publish_summary` would.

    `loaded_at` says which load of the quarter's members `partial` is of. Raises `TransientError` if
    another one has taken its place, and otherwise as `publish_summary`.
    """

    def scored(connection: sa.Connection, snapshot: Row) -> Partial:
        if snapshot["loaded_at"] != loaded_at:
            raise TransientError(
                f"the members of {quarter} were loaded again while they were being scored",
                where="member_snapshots",
                mend="Run the report again.",
            )
        # From here on nobody can exchange the snapshot before this transaction ends.
        counted = int(connection.scalar(queries.members_counted(quarter)) or 0)
        require_as_loaded(quarter, snapshot, counted)
        return partial

    return _publish(warehouse, quarter, scored, model, model_version, policy)


def _publish(
    warehouse: Warehouse,
    quarter: Quarter,
    scored: Callable[[sa.Connection, Row], Partial],
    model: ReadmissionModel,
    model_version: int,
    policy: Policy,
) -> Summary:
    with warehouse.transaction() as connection:
        warehouse.lock(connection, quarter_lock(quarter))
        snapshot = require_snapshot(warehouse, connection, quarter)
        partial = scored(connection, snapshot)
        summary.require_reconciled(partial, snapshot["rows"])
        header = {
            "quarter": quarter.key,
            "as_of": snapshot["as_of"],
            "rows": snapshot["rows"],
            "input_fingerprint": _fingerprint(partial, _header(warehouse, connection, quarter.previous)),
            "model_name": model.name,
            "model_version": model_version,
            "contract_hash": READMISSION.hash,
            "policy_version": policy.version,
            "policy_hash": policy.hash,
            "computed_at": datetime.now(UTC),
        }
        tiers = Tiers(policy.tiers.high, policy.tiers.very_high)
        return _write(warehouse, connection, quarter, partial, header, tiers)


def quarter_lock(quarter: Quarter) -> str:
    """The name of the lock that whoever changes the report of a quarter holds."""
    return f"{tables.population_reports.name}/{quarter}"


def require_snapshot(warehouse: Warehouse, connection: sa.Connection | None, quarter: Quarter) -> Row:
    """The snapshot's row. Raises `PermanentError` if the quarter has none, or one without members."""
    found = warehouse.read(queries.snapshot(quarter), connection).to_pylist()
    if not found or not found[0]["rows"]:
        raise PermanentError(
            f"the snapshot of {quarter} holds no members"
            if found
            else f"no members are loaded for {quarter}",
            where="member_snapshots",
            mend="Load the quarter's members (for demo members: medscore demo members"
            f" --quarter {quarter}{' --replace' if found else ''}).",
        )
    return dict(found[0])


def require_as_loaded(quarter: Quarter, snapshot: Row, counted: int) -> None:
    """Raises `PermanentError` if a snapshot does not hold as many members as were loaded."""
    if counted != snapshot["rows"]:
        raise PermanentError(
            f"{quarter} was loaded with {snapshot['rows']:,} members and holds {counted:,}",
            where="member_features",
            mend="Load the quarter's members again, with --replace.",
        )


def _header(warehouse: Warehouse, connection: sa.Connection, quarter: Quarter) -> Row | None:
    found = warehouse.read(queries.report(quarter), connection).to_pylist()
    return dict(found[0]) if found else None


def _fingerprint(partial: Partial, previous: Row | None) -> str:
    """Of the members, and of the report that the quarter is compared with."""
    return f"{partial.fingerprint:016x} {compared_with(previous)}"


def compared_with(previous: Row | None) -> str:
    """How a fingerprint ends: the report of the quarter before, or that there is none."""
    return f"after {previous['quarter']} v{previous['version']}" if previous else "after none"


def _write(
    warehouse: Warehouse,
    connection: sa.Connection,
    quarter: Quarter,
    partial: Partial,
    header: Row,
    tiers: Tiers,
) -> Summary:
    stored = _header(warehouse, connection, quarter)
    same = stored is not None and all(stored[name] == header[name] for name in SAME)
    if stored is not None and same:
        header = stored
    else:
        header["version"] = 1 + (stored["version"] if stored else 0)
    cells = summary.cells(partial)
    published = protect(cells, tiers)
    left_out = summary.exclusions(partial)
    contents = {
        tables.population_exclusions: pa.Table.from_pylist(left_out, _EXCLUSIONS),
        tables.population_risk_summary: _as_rows(cells, tables.population_risk_summary),
        tables.population_risk_published: _as_rows(published, tables.population_risk_published),
    }

    def replace(table: sa.Table, rows: pa.Table) -> int:
        rows = rows.append_column("quarter", pa.array([quarter.key] * len(rows), pa.string()))
        return warehouse.replace(connection, table, rows, table.c.quarter == quarter.key)

    def replace_header() -> None:
        kept = {name: value for name, value in header.items() if name != "quarter"}
        replace(tables.population_reports, pa.Table.from_pylist([kept]))

    replace_header()
    changed = sum([replace(table, rows) for table, rows in contents.items()])
    if same and changed:
        # The same input came out differently: this software computes otherwise than the one before.
        header |= {"version": header["version"] + 1, "computed_at": datetime.now(UTC)}
        replace_header()
    return Summary(header, cells, published, left_out)


_EXCLUSIONS = pa.schema([("reason", pa.string()), ("field", pa.string()), ("members", pa.int64())])


def _as_rows(cells: pd.DataFrame, table: sa.Table) -> pa.Table:
    """The cells in the table's columns; what is not a number is NULL."""
    columns: dict[str, pa.Array] = {}
    for column in table.columns:
        if column.name == "quarter":
            continue
        values = cells[column.name]
        match column.type:
            case sa.Text():
                columns[column.name] = pa.array(values.tolist(), pa.string())
            case sa.BigInteger():
                columns[column.name] = pa.Array.from_pandas(values.astype("Int64"), type=pa.int64())
            case sa.Double():
                columns[column.name] = pa.Array.from_pandas(values.astype("Float64"), type=pa.float64())
            case sa.Boolean():
                columns[column.name] = pa.array(values.tolist(), pa.bool_())
            case _:
                columns[column.name] = pa.array([json.dumps(list(v)) for v in values], pa.string())
    return pa.table(columns)
