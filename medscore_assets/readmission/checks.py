"""Checks on the readmission assets, as Dagster shows them beside each materialization.

Belongs here: what is asserted of a published table, in counts. Does not belong here: mending.
The contract itself is enforced before anything is written; these are the second, visible gate.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from medscore_assets.partitions import window
from medscore_assets.readmission import queries
from medscore_assets.readmission.assets import care_management_scores
from medscore_assets.readmission.policy import load_policy
from resources.warehouse import Warehouse

Integrity = dict[str, dict[str, Any]]
"""Per day the header of its list beside what the tables hold; empty for a day without a list."""


def integrity(warehouse: Warehouse, days: Sequence[str]) -> Integrity:
    """What the checks look at."""
    rows = {day: warehouse.read(queries.list_integrity(window(day))).to_pylist() for day in days}
    return {day: found[0] if found else {} for day, found in rows.items()}


def unaccounted(found: Integrity) -> list[str]:
    """The days whose tables do not hold what the list says, or whose counts do not add up."""
    return [
        day
        for day, row in found.items()
        if not row
        or row["scored"] != row["rows"]
        or row["excluded"] != row["exclusion_rows"]
        or row["quarantined"] != row["quarantine_rows"]
        or row["events"] != row["superseded"] + row["quarantined"] + row["excluded"] + row["scored"]
    ]


def mixed(found: Integrity) -> list[str]:
    """The days whose scores come from several models or policies, or whose ranks have a gap."""
    return [
        day
        for day, row in found.items()
        if not row or max(row["model_versions"], row["policies"]) > 1 or row["last_rank"] != row["rows"]
    ]


def _verdict(
    wrong: list[str], days: int, severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR
) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=not wrong, severity=severity, metadata={"days": days, "days_that_fail": wrong}
    )


@dg.asset_check(asset=care_management_scores, blocking=True)
def every_discharge_is_accounted_for(
    context: dg.AssetCheckExecutionContext, warehouse: dg.ResourceParam[Warehouse]
) -> dg.AssetCheckResult:
    """Each event is scored, excluded, quarantined or superseded, and the tables hold what the list says.

    Discharges that arrive after the list was made are no fault of it: the sensor re-opens the day.
    """
    found = integrity(warehouse, context.partition_keys)
    return _verdict(unaccounted(found), len(found))


@dg.asset_check(asset=care_management_scores, blocking=True)
def one_model_and_one_policy_per_list(
    context: dg.AssetCheckExecutionContext, warehouse: dg.ResourceParam[Warehouse]
) -> dg.AssetCheckResult:
    """All scores of a list come from one model version and one policy, ranked from 1 without a gap."""
    found = integrity(warehouse, context.partition_keys)
    return _verdict(mixed(found), len(found))


@dg.asset_check(asset=care_management_scores)
def quarantine_stays_small(
    context: dg.AssetCheckExecutionContext,
    warehouse: dg.ResourceParam[Warehouse],
    policy_file: dg.ResourceParam[Path],
) -> dg.AssetCheckResult:
    """Warns from half of the share of broken rows at which a day is no longer published."""
    limit = load_policy(policy_file).quarantine.max_share / 2
    found = integrity(warehouse, context.partition_keys)
    wrong = [
        day
        for day, row in found.items()
        if row and row["quarantined"] > limit * max(1, row["events"] - row["superseded"])
    ]
    return _verdict(wrong, len(found), dg.AssetCheckSeverity.WARN)


CHECKS = [every_discharge_is_accounted_for, one_model_and_one_policy_per_list, quarantine_stays_small]
