"""Checks on the readmission assets, as Dagster shows them beside each materialization.

Belongs here: what is asserted of a published table, in counts. Does not belong here: mending.
The contract itself is enforced before anything is written; these are the second, visible gate.
"""

from pathlib import Path
from typing import Any

import dagster as dg

from medscore_assets.partitions import window
from medscore_assets.readmission import queries
from medscore_assets.readmission.assets import care_management_scores
from medscore_assets.readmission.policy import load_policy
from resources.warehouse import Warehouse


def _integrity(context: dg.AssetCheckExecutionContext, warehouse: Warehouse) -> dict[str, dict[str, Any]]:
    """Per day of the run the header of its list beside what the tables hold."""
    found: dict[str, dict[str, Any]] = {}
    for day in context.partition_keys:
        rows = warehouse.read(queries.list_integrity(window(day))).to_pylist()
        found[day] = rows[0] if rows else {}
    return found


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
    """Each event of the window is scored, excluded, quarantined or superseded, and the table agrees."""
    found = _integrity(context, warehouse)
    wrong = [
        day
        for day, row in found.items()
        if not row or row["events"] != row["events_now"] or row["scored"] != row["rows"]
    ]
    return _verdict(wrong, len(found))


@dg.asset_check(asset=care_management_scores, blocking=True)
def one_model_and_one_policy_per_list(
    context: dg.AssetCheckExecutionContext, warehouse: dg.ResourceParam[Warehouse]
) -> dg.AssetCheckResult:
    """All scores of a list come from one model version and one policy, ranked from 1 without a gap."""
    found = _integrity(context, warehouse)
    wrong = [
        day
        for day, row in found.items()
        if not row or max(row["model_versions"], row["policies"]) > 1 or row["last_rank"] != row["rows"]
    ]
    return _verdict(wrong, len(found))


@dg.asset_check(asset=care_management_scores)
def quarantine_stays_small(
    context: dg.AssetCheckExecutionContext,
    warehouse: dg.ResourceParam[Warehouse],
    policy_file: dg.ResourceParam[Path],
) -> dg.AssetCheckResult:
    """Warns from half of the share of broken rows at which a day is no longer published."""
    limit = load_policy(policy_file).quarantine.max_share / 2
    found = _integrity(context, warehouse)
    wrong = [
        day
        for day, row in found.items()
        if row and row["quarantined"] > limit * max(1, row["events"] - row["superseded"])
    ]
    return _verdict(wrong, len(found), dg.AssetCheckSeverity.WARN)


CHECKS = [every_discharge_is_accounted_for, one_model_and_one_policy_per_list, quarantine_stays_small]
