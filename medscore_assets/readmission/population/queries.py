"""The population report's questions to the warehouse.

Belongs here: SELECT statements over `tables/population.py`, with the quarter as parameter.
Does not belong here: their execution (assets, checks, commands) and any writing.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from medscore_assets.readmission.population.accumulate import COLUMNS
from medscore_assets.readmission.population.quarters import Quarter
from medscore_assets.readmission.population.summary import COUNTS, KEY
from medscore_assets.tables import (
    member_features,
    member_snapshots,
    population_exclusions,
    population_reports,
    population_risk_published,
    population_risk_summary,
)


def snapshot(quarter: Quarter) -> sa.Select[Any]:
    """At most one row: what is loaded of a quarter."""
    return sa.select(member_snapshots).where(member_snapshots.c.quarter == quarter.key)


def members(quarter: Quarter) -> sa.Select[Any]:
    """What the report needs of every member, and no more: who it is is not among it."""
    return sa.select(*(member_features.c[name] for name in COLUMNS)).where(
        member_features.c.quarter == quarter.key
    )


def members_counted(quarter: Quarter) -> sa.Select[Any]:
    """How many members the snapshot holds."""
    return (
        sa.select(sa.func.count())
        .select_from(member_features)
        .where(member_features.c.quarter == quarter.key)
    )


def report(quarter: Quarter) -> sa.Select[Any]:
    """At most one row: what a quarter's cells were computed from."""
    return sa.select(population_reports).where(population_reports.c.quarter == quarter.key)


def newest_report() -> sa.Select[Any]:
    """At most one row: the latest quarter with a report."""
    return sa.select(population_reports.c.quarter).order_by(population_reports.c.quarter.desc()).limit(1)


def published(quarter: Quarter, cube: str | None = None) -> sa.Select[Any]:
    """The cells as they may be shown, of one cube or of all, by key."""
    chosen = population_risk_published.c
    query = sa.select(population_risk_published).where(chosen.quarter == quarter.key)
    if cube is not None:
        query = query.where(chosen.cube == cube)
    return query.order_by(*(chosen[name] for name in KEY))


def exclusions(quarter: Quarter) -> sa.Select[Any]:
    """How many members were left out, and why."""
    chosen = population_exclusions.c
    return (
        sa.select(chosen.reason, chosen.field, chosen.members)
        .where(chosen.quarter == quarter.key)
        .order_by(chosen.members.desc(), chosen.reason, chosen.field)
    )


def cube_totals(quarter: Quarter) -> sa.Select[Any]:
    """Per cube the sums that every cube must agree on."""
    cell = population_risk_summary.c
    counted = ("members", "members_scored", "index_discharges", "index_discharges_scored", "matured")
    return (
        sa.select(
            cell.cube, *(sa.cast(sa.func.sum(cell[name]), sa.BigInteger).label(name) for name in counted)
        )
        .where(cell.quarter == quarter.key)
        .group_by(cell.cube)
        .order_by(cell.cube)
    )


def cells_side_by_side(quarter: Quarter) -> sa.Select[int, int, int]:
    """One row: how many cells are computed, how many published, and how many of both have the same key."""
    computed, shown = population_risk_summary, population_risk_published
    same = sa.and_(*(computed.c[name] == shown.c[name] for name in ("quarter", *KEY)))

    def count(table: sa.FromClause, quarters: sa.Column[str]) -> sa.ScalarSelect[int]:
        return sa.select(sa.func.count()).select_from(table).where(quarters == quarter.key).scalar_subquery()

    return sa.select(
        count(computed, computed.c.quarter).label("computed"),
        count(shown, shown.c.quarter).label("published"),
        count(computed.join(shown, same), computed.c.quarter).label("both"),
    )


def small_published_counts(quarter: Quarter) -> sa.Select[Any]:
    """How many published counts are of 1 to 10 people."""
    cell = population_risk_published.c
    small = sum((sa.func.count().filter(cell[name].between(1, 10)) for name in COUNTS), start=sa.literal(0))
    return sa.select(small).where(cell.quarter == quarter.key)
