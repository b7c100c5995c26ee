"""What mobility's monitoring asks the warehouse, and the statements that join outcomes to forecasts.

Belongs here: SELECT statements and the join. Does not belong here: their execution, any formula.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, insert

from medscore_assets.tables import (
    mobility_days,
    mobility_forecast_days,
    mobility_forecast_outcomes,
    mobility_forecasts,
    monitoring_measures,
)

Query = sa.Select[Any]

OBSERVED = sa.table("observed_steps", sa.column("patient_id", sa.Text), sa.column("steps", sa.BigInteger))
"""The temporary table of one day's steps."""


JOIN_BY_HASH = sa.select(sa.func.set_config("enable_nestloop", "off", True))
"""Until the transaction ends."""


def observed_table() -> sa.Table:
    """The temporary table that a day's steps are copied into."""
    return sa.Table(
        OBSERVED.name,
        sa.MetaData(),
        sa.Column("patient_id", sa.Text),
        sa.Column("steps", sa.BigInteger),
        prefixes=["TEMPORARY"],
        postgresql_on_commit="DROP",
    )


def unjoined_days(since: date, horizons: tuple[int, ...]) -> Query:
    """Target days in `day`, from `since` on: their steps or their forecasts are newer than their outcomes."""
    d, o, f = mobility_days.c, mobility_forecast_outcomes.c, mobility_forecast_days.c
    forecast_days = [d.day - (horizon - 1) for horizon in horizons]
    joined = (
        sa.select(sa.func.max(o.joined_at))
        .where(o.target_day == d.day, o.forecast_day.in_(forecast_days))
        .scalar_subquery()
    )
    published = (
        sa.select(sa.func.max(f.published_at)).where(f.forecast_day.in_(forecast_days)).scalar_subquery()
    )
    newest = sa.func.greatest(d.made_at, published)
    return (
        sa.select(d.day)
        .where(d.day >= since, published.is_not(None), sa.or_(joined.is_(None), newest > joined))
        .order_by(d.day)
    )


def delete_unobserved(day: date, horizons: tuple[int, ...]) -> sa.Delete:
    """Outcomes of a target day whose forecast or steps are gone."""
    target, f, s = mobility_forecast_outcomes, mobility_forecasts.c, OBSERVED.c
    o = target.alias("joined")
    same_forecast = (
        (f.forecast_day == o.c.forecast_day)
        & (f.patient_id == o.c.patient_id)
        & (f.horizon_days == o.c.horizon_days)
    )
    # Outer joins, each of which can be hashed; of a NOT EXISTS over both tables the planner makes a loop.
    gone = (
        sa.select(o.c.forecast_day, o.c.patient_id, o.c.horizon_days)
        .select_from(
            o.outerjoin(OBSERVED, s.patient_id == o.c.patient_id).outerjoin(mobility_forecasts, same_forecast)
        )
        .where(
            o.c.target_day == day,
            o.c.forecast_day.in_(forecast_days(day, horizons)),
            s.patient_id.is_(None) | f.patient_id.is_(None),
        )
        .subquery()
    )
    return sa.delete(target).where(*(target.c[c.name] == gone.c[c.name] for c in target.primary_key))


def join_observed(day: date, horizons: tuple[int, ...]) -> sa.Insert:
    """Outcomes of a target day; a row that comes out the same stays as it is."""
    f = mobility_forecasts.c
    steps = sa.cast(OBSERVED.c.steps, sa.BigInteger)
    columns: dict[str, sa.ColumnElement[Any]] = {
        "forecast_day": f.forecast_day,
        "patient_id": f.patient_id,
        "horizon_days": f.horizon_days,
        "target_day": sa.literal(day, sa.Date),
        "cohort": f.cohort,
        "route": f.route,
        "serves": f.serves,
        "model_name": f.model_name,
        "model_version": f.model_version,
        "expected_steps": f.expected_steps,
        "observed_steps": steps,
        "error": f.expected_steps - steps,
        "covered": sa.and_(f.lower <= steps, steps <= f.upper),
        "joined_at": sa.func.clock_timestamp(),
    }
    # The day is named per horizon, so that the planner looks into its partitions alone.
    of_day = sa.or_(
        *(
            sa.and_(f.forecast_day == forecast_day, f.horizon_days == horizon)
            for horizon, forecast_day in zip(horizons, forecast_days(day, horizons), strict=True)
        )
    )
    rows = (
        sa.select(*(value.label(name) for name, value in columns.items()))
        .select_from(mobility_forecasts.join(OBSERVED, OBSERVED.c.patient_id == f.patient_id))
        .where(of_day)
    )
    target = mobility_forecast_outcomes
    put = insert(target).from_select(list(columns), rows, include_defaults=False)
    keys = [c.name for c in target.primary_key]
    compared = [name for name in columns if name not in (*keys, "joined_at")]
    return put.on_conflict_do_update(
        index_elements=keys,
        set_={name: put.excluded[name] for name in (*compared, "joined_at")},
        where=sa.or_(*(target.c[name].is_distinct_from(put.excluded[name]) for name in compared)),
    )


def forecast_days(day: date, horizons: tuple[int, ...]) -> list[date]:
    """The day whose forecast at each horizon is of this target day."""
    return [day - timedelta(days=horizon - 1) for horizon in horizons]


def newest_outcome() -> Query:
    """The last target day with outcomes in `target_day`; NULL if there is none."""
    return sa.select(sa.func.max(mobility_forecast_outcomes.c.target_day).label("target_day"))


def errors(first: date, last: date, longest_horizon: int, *, by_day: bool) -> Query:
    """Sums over patients of the outcomes of some target days, per route, horizon and who served it.

    With `by_day` per target day too. A column's sums s and its rows n become the moments s, ss, sn, n, nn.
    """
    o = mobility_forecast_outcomes.c
    group: list[sa.ColumnElement[Any]] = [o.route, o.horizon_days, o.serves, o.model_name, o.model_version]
    if by_day:
        group.append(o.target_day)
    inside = o.covered.is_not(None)
    sums: dict[str, sa.ColumnElement[Any]] = {
        "n": sa.literal(1),
        "absolute": sa.func.abs(o.error),
        "squared": o.error * o.error,
        "covered": sa.cast(sa.case((o.covered, 1), else_=0), sa.Double),
        "with_interval": sa.case((inside, 1), else_=0),
    }
    rows_of_days = (
        # The partitions' own key, so that the others are passed over.
        o.target_day.between(first, last),
        o.forecast_day.between(first - timedelta(days=longest_horizon - 1), last),
    )
    # A patient has one row a day, which is its sum then.
    added = [(value if by_day else sa.func.sum(value)).label(name) for name, value in sums.items()]
    of_patients = sa.select(*group, *added).where(*rows_of_days)
    if not by_day:
        of_patients = of_patients.group_by(*group, o.patient_id)
    of_patient = of_patients.subquery()
    p = of_patient.c
    keys = [p[column.name] for column in group]
    moments = [
        moment
        for name, rows in (("absolute", p.n), ("squared", p.n), ("covered", p.with_interval))
        for moment in _moments(name, p[name], sa.cast(rows, sa.Double))
    ]
    return sa.select(
        *keys,
        sa.func.count().label("patients"),
        sa.cast(sa.func.sum(p.n), sa.BigInteger).label("rows"),
        *moments,
    ).group_by(*keys)


def _moments(name: str, s: sa.ColumnElement[Any], n: sa.ColumnElement[Any]) -> list[sa.ColumnElement[Any]]:
    products = {"s": s, "ss": s * s, "sn": s * n, "n": n, "nn": n * n}
    return [sa.func.sum(value).label(f"{name}_{moment}") for moment, value in products.items()]


def error_cells(
    server: tuple[str, int, str, str | None, int | None],
    first: date,
    last: date,
    longest_horizon: int,
    edges: Sequence[float],
) -> Query:
    """How many errors of a server's forecasts of some target days fall into each `cell` between edges.

    A value on an edge belongs to the cell below it, as in `monitoring.drift.NumberBins`. `width_bucket` puts
    it into the one above, so that everything is mirrored.
    """
    o = mobility_forecast_outcomes.c
    mirrored = sa.cast(sa.literal([-edge for edge in reversed(edges)], ARRAY(sa.Double)), ARRAY(sa.Double))
    cell = (sa.literal(len(edges)) - sa.func.width_bucket(-o.error, mirrored)).label("cell")
    known = zip((o.route, o.horizon_days, o.serves, o.model_name, o.model_version), server, strict=True)
    columns: list[sa.ColumnElement[Any]] = [cell, sa.func.count().label("rows")]
    return (
        sa.select(*columns)
        .where(
            *(column.is_not_distinct_from(value) for column, value in known),
            o.target_day.between(first, last),
            o.forecast_day.between(first - timedelta(days=longest_horizon - 1), last),
        )
        .group_by(sa.text("1"))
    )


def patients_by_day() -> Query:
    """Of each local day of steps the `patients` with any, in the order of the days."""
    d = mobility_days.c
    return sa.select(d.day, d.patients).order_by(d.day)


def measurements(prefix: str, since: date) -> Query:
    """What was measured of models whose name begins so, of periods that end from a day on."""
    m = monitoring_measures
    return (
        sa.select(*(c for c in m.c if c.name != "measured_at"))
        .where(m.c.model_name.startswith(prefix, autoescape=True), m.c.period_end >= since)
        .order_by(m.c.period_end, m.c.period_start, m.c.model_name, m.c.measure, m.c.subject)
    )
