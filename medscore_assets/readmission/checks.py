"""Checks on the readmission assets, as Dagster shows them beside each materialization.

Belongs here: what is asserted of a published table, in counts. Does not belong here: mending.
The contract itself is enforced before anything is written; these are the second, visible gate.
"""

import itertools
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg

from medscore_assets.partitions import window
from medscore_assets.readmission import queries
from medscore_assets.readmission.assets import care_management_scores
from medscore_assets.readmission.policy import TIERS, Policy, load_policy
from resources.warehouse import Warehouse

STALE_AFTER = timedelta(days=45)
"""Longer than any feed or correction takes: a discharge that comes in so late is no news."""

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


def contradictory(warehouse: Warehouse, days: Sequence[str], policy: Policy) -> list[str]:
    """The days on which a stored tier is not that of its stored probability.

    The edges of a policy that is no longer in force are not known: of its lists only the order is looked
    at, that no lower probability has a higher tier.
    """
    return [
        day
        for day in days
        if not _tiers_follow(warehouse.read(queries.listed_tiers(window(day))).to_pylist(), policy)
    ]


def _tiers_follow(scores: Sequence[dict[str, Any]], policy: Policy) -> bool:
    tiers = [TIERS.index(score["risk_tier"]) for score in scores]
    if any(lower > higher for higher, lower in itertools.pairwise(tiers)):
        return False
    return all(
        score["risk_tier"] == policy.tier(score["readmission_probability"])
        for score in scores
        if score["policy_hash"] == policy.hash
    )


def late_arrivals(warehouse: Warehouse, days: Sequence[str]) -> dict[str, int]:
    """Per day how many discharges came in on it that are older than `STALE_AFTER`."""
    found = {day: warehouse.read(queries.stale_arrivals(window(day), STALE_AFTER)) for day in days}
    return {day: int(rows["rows"][0].as_py()) for day, rows in found.items()}


def _verdict(
    wrong: list[str],
    days: int,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
    **counts: int,
) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=not wrong, severity=severity, metadata={"days": days, "days_that_fail": wrong, **counts}
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


@dg.asset_check(asset=care_management_scores, blocking=True)
def tiers_follow_from_probabilities(
    context: dg.AssetCheckExecutionContext,
    warehouse: dg.ResourceParam[Warehouse],
    policy_file: dg.ResourceParam[Path],
) -> dg.AssetCheckResult:
    """Every stored tier is the one that the policy gives to the stored probability."""
    days = context.partition_keys
    return _verdict(contradictory(warehouse, days, load_policy(policy_file)), len(days))


@dg.asset_check(asset=care_management_scores)
def discharges_arrive_in_time(
    context: dg.AssetCheckExecutionContext, warehouse: dg.ResourceParam[Warehouse]
) -> dg.AssetCheckResult:
    """Warns of discharges that came in on the day, for the first time, with a discharge weeks before.

    They are on the list of their discharge day, which nobody looks at any more: a feed that wrote a wrong
    year, or one that was connected late. Records that were loaded as history are meant to be there.
    """
    found = late_arrivals(warehouse, context.partition_keys)
    wrong = [day for day, rows in found.items() if rows]
    return _verdict(wrong, len(found), dg.AssetCheckSeverity.WARN, discharges=sum(found.values()))


CHECKS = [
    every_discharge_is_accounted_for,
    one_model_and_one_policy_per_list,
    tiers_follow_from_probabilities,
    quarantine_stays_small,
    discharges_arrive_in_time,
]
