"""A quarter from the warehouse to the warehouse: versions, refusals, and what stands when one fails."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest
import sqlalchemy as sa

from medscore_assets import tables
from medscore_assets.readmission.policy import load_policy
from medscore_assets.readmission.population import queries, summary
from medscore_assets.readmission.population.checks import small_counts, unreconciled, without_counterpart
from medscore_assets.readmission.population.dimensions import CUBES
from medscore_assets.readmission.population.publish import Summary, publish_summary
from medscore_assets.readmission.population.score_stream import reduce_members
from medscore_assets.readmission.scoring import ReadmissionModel
from resources.errors import PermanentError
from resources.warehouse import Warehouse
from tests.readmission.population.members import AS_OF, QUARTER, load, many_members

POLICY = load_policy()
WRITTEN = (
    tables.population_reports,
    tables.population_exclusions,
    tables.population_risk_summary,
    tables.population_risk_published,
)


def publish(warehouse: Warehouse, model: ReadmissionModel, **other: Any) -> Summary:
    return publish_summary(
        warehouse, other.get("quarter", QUARTER), model, other.get("version", 1), other.get("policy", POLICY)
    )


def contents(warehouse: Warehouse) -> dict[str, list[tuple[Any, ...]]]:
    """Every row with PostgreSQL's own mark of when it was written."""
    with warehouse.transaction() as connection:
        return {
            table.name: sorted(
                map(repr, connection.execute(sa.select(table, sa.text("xmin::text, ctid::text"))))
            )
            for table in WRITTEN
        }


def test_the_same_members_again_change_no_row_and_others_are_another_version(
    warehouse: Warehouse, model: ReadmissionModel
) -> None:
    members = many_members(600, hospitals=2)
    load(warehouse, members)
    made = publish(warehouse, model)
    assert made.header["version"] == 1
    assert unreconciled(warehouse, QUARTER) == []
    assert (small_counts(warehouse, QUARTER), without_counterpart(warehouse, QUARTER)) == (0, 0)
    assert (made.cells[list(summary.COUNTS)] == 0).any(axis=None)
    before = contents(warehouse)
    assert len(before["population_risk_summary"]) == len(made.cells)

    load(
        warehouse,
        pa.concat_tables([members.slice(250), members.slice(0, 250)]),
        as_of=AS_OF + timedelta(1),
    )
    assert publish(warehouse, model).header["version"] == 1
    assert contents(warehouse) == before, "the order of the rows is no other input"

    stricter = POLICY.model_copy(update={"version": "other", "daily_calls": 1})
    assert publish(warehouse, model, policy=stricter).header["version"] == 2
    assert publish(warehouse, model, version=2, policy=stricter).header["version"] == 3
    load(warehouse, members.slice(1))
    assert publish(warehouse, model, version=2, policy=stricter).header["version"] == 4


def test_a_quarter_that_is_compared_with_another_report_is_another_version(
    warehouse: Warehouse, model: ReadmissionModel
) -> None:
    for quarter in (QUARTER, QUARTER.previous):
        load(warehouse, many_members(400), quarter=quarter)
    assert publish(warehouse, model).header["input_fingerprint"].endswith(" after none")
    publish(warehouse, model, quarter=QUARTER.previous)
    again = publish(warehouse, model).header
    assert again["version"] == 2
    assert again["input_fingerprint"].endswith(" after 2026-Q2 v1")


def test_a_quarter_without_members_or_with_others_than_were_loaded_is_refused(
    warehouse: Warehouse, model: ReadmissionModel
) -> None:
    with pytest.raises(PermanentError, match=r"no members are loaded for 2026-Q3.*--quarter 2026-Q3"):
        publish(warehouse, model)
    load(warehouse, many_members(0))
    with pytest.raises(PermanentError, match=r"holds no members.*--replace"):
        publish(warehouse, model)
    load(warehouse, many_members(300))
    publish(warehouse, model)
    before = contents(warehouse)
    with warehouse.transaction() as connection:
        connection.execute(
            sa.delete(tables.member_features).where(tables.member_features.c.member_id == "M0000007")
        )
    with pytest.raises(PermanentError, match=r"loaded with 300 members and holds 299"):
        publish(warehouse, model)
    assert contents(warehouse) == before
    assert unreconciled(warehouse, QUARTER) == ["snapshot"]


def test_sums_that_do_not_add_up_are_not_published_and_the_check_finds_them(
    warehouse: Warehouse, model: ReadmissionModel
) -> None:
    members = many_members(500)
    partial = reduce_members(iter(members.to_batches()), model, POLICY)
    summary.require_reconciled(partial, 500)
    lost = next(iter(partial.groups["hospital"]))
    del partial.groups["hospital"][lost]
    with pytest.raises(PermanentError, match="of 500 members hospital adds up to"):
        summary.require_reconciled(partial, 500)

    load(warehouse, members)
    publish(warehouse, model)
    cell = tables.population_risk_summary.c
    with warehouse.transaction() as connection:
        connection.execute(
            sa.update(tables.population_risk_summary)
            .where(cell.cube == "sex", cell.sex == "male")
            .values(members=cell.members + 1, members_invalid=cell.members_invalid + 1)
        )
    assert unreconciled(warehouse, QUARTER) == ["sex"]


def test_only_what_the_report_needs_is_read(warehouse: Warehouse) -> None:
    load(warehouse, many_members(10))
    (batch,) = warehouse.stream(queries.members(QUARTER))
    assert "member_id" not in batch.schema.names
    assert set(CUBES) >= {"total", "hospital", "region_diagnosis"}
