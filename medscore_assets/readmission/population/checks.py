"""Checks on the population report, as Dagster shows them beside each materialization.

Belongs here: what is asserted of the tables of a quarter, in counts. Does not belong here: mending.
Publishing refuses what does not add up before anything is written; these are the second, visible gate.
"""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from medscore_assets.failures import failures
from medscore_assets.partitions import quarter_of_partition
from medscore_assets.readmission.population import queries
from medscore_assets.readmission.population.assets import population_risk_summary
from medscore_assets.readmission.population.dimensions import CUBES
from medscore_assets.readmission.population.quarters import Quarter
from resources.warehouse import Warehouse


def unreconciled(warehouse: Warehouse, quarter: Quarter) -> list[str]:
    """The cubes, and `flow`, that do not add up to the members of the snapshot; empty if all do."""
    with warehouse.transaction() as connection:
        counted = int(connection.scalar(queries.members_counted(quarter)) or 0)
        reports = warehouse.read(queries.report(quarter), connection).to_pylist()
        totals = {r["cube"]: r for r in warehouse.read(queries.cube_totals(quarter), connection).to_pylist()}
        left_out = sum(warehouse.read(queries.exclusions(quarter), connection)["members"].to_pylist())
    if not reports or reports[0]["rows"] != counted:
        return ["snapshot"]
    expected = totals.get("total", {}) | {"members": counted}
    wrong = [cube for cube in CUBES if not _agrees(totals.get(cube, {}), expected)]
    in_flow = left_out + expected.get("index_discharges_scored", 0)
    return wrong + (["flow"] if in_flow != counted else [])


def _agrees(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    return all(found.get(name) == value for name, value in expected.items() if name != "cube")


def without_counterpart(warehouse: Warehouse, quarter: Quarter) -> int:
    """How many cells are computed and not published, or published and not computed."""
    (row,) = warehouse.read(queries.cells_side_by_side(quarter)).to_pylist()
    return int(row["computed"] + row["published"] - 2 * row["both"])


def small_counts(warehouse: Warehouse, quarter: Quarter) -> int:
    """How many published counts are of 1 to 10 people."""
    with warehouse.transaction() as connection:
        return int(connection.scalar(queries.small_published_counts(quarter)) or 0)


def _quarters(context: dg.AssetCheckExecutionContext) -> Sequence[Quarter]:
    return sorted(quarter_of_partition(key) for key in context.partition_keys)


@dg.asset_check(asset=population_risk_summary, blocking=True)
def every_member_is_counted(
    context: dg.AssetCheckExecutionContext, warehouse: dg.ResourceParam[Warehouse]
) -> dg.AssetCheckResult:
    """Every cube, and the flow of exclusions, add up to the members of the snapshot."""
    with failures():
        wrong = {
            quarter.key: found
            for quarter in _quarters(context)
            if (found := unreconciled(warehouse, quarter))
        }
    return dg.AssetCheckResult(passed=not wrong, metadata={"quarters_that_fail": wrong})


@dg.asset_check(asset=population_risk_summary, blocking=True)
def no_small_count_is_published(
    context: dg.AssetCheckExecutionContext, warehouse: dg.ResourceParam[Warehouse]
) -> dg.AssetCheckResult:
    """Every cell is published, and no published count is of 1 to 10 people."""
    with failures():
        found = {
            quarter.key: {
                "small_counts": small_counts(warehouse, quarter),
                "cells_without_counterpart": without_counterpart(warehouse, quarter),
            }
            for quarter in _quarters(context)
        }
    return dg.AssetCheckResult(
        passed=not any(count for counts in found.values() for count in counts.values()), metadata=found
    )


CHECKS = [every_member_is_counted, no_small_count_is_published]
