"""What monitoring asks the warehouse: scores and what became of them, windows of days, measurements.

Belongs here: SELECT statements. Does not belong here: their execution, any writing, any formula.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

import sqlalchemy as sa

from medscore_assets.contracts.contract import Contract
from medscore_assets.readmission.outcomes import PERFORMANCE
from medscore_assets.readmission.outreach import Window
from medscore_assets.readmission.queries import LISTED_AT
from medscore_assets.tables import (
    care_management_scores,
    discharge_events,
    inpatient_admissions,
    monitoring_measures,
    outreach_calls,
    outreach_lists,
    readmission_outcomes,
    readmission_score_outcomes,
)

Query = sa.Select[Any]


def known_until() -> Query:
    """The latest arrival of a row that tells outcomes, in `known_until`: the "now" of labels."""
    admissions = sa.select(sa.func.max(inpatient_admissions.c.ingested_at)).scalar_subquery()
    outcomes = sa.select(sa.func.max(readmission_outcomes.c.recorded_at)).scalar_subquery()
    return sa.select(sa.func.greatest(admissions, outcomes).label("known_until"))


def scores_until(moment: datetime) -> Query:
    """Scores of discharges up to a moment, without reasons and texts."""
    s = care_management_scores.c
    return sa.select(
        s.score_date,
        s.encounter_id,
        s.patient_id,
        s.discharged_at,
        s.model_version,
        s.readmission_probability,
        s.risk_tier,
    ).where(s.discharged_at <= moment)


def stays_scored() -> Query:
    """Per encounter that is on a list its latest row's `deceased_at` and `covered_until`."""
    e = discharge_events.c
    listed = sa.select(care_management_scores.c.encounter_id)
    return _latest((e.encounter_id, e.deceased_at, e.covered_until), e.encounter_id.in_(listed))


def admissions() -> Query:
    """Every admission, as labels need it."""
    a = inpatient_admissions.c
    return sa.select(a.encounter_id, a.patient_id, a.admitted_at, a.planned, a.ingested_at)


def recorded_outcomes() -> Query:
    """Every outcome that a source recorded itself."""
    o = readmission_outcomes.c
    return sa.select(o.encounter_id, o.readmitted_within_30_days, o.recorded_at)


def calls() -> Query:
    """Every call."""
    c = outreach_calls.c
    return sa.select(c.encounter_id, c.called_at, c.outcome)


def outcomes_with_capacity() -> Query:
    """`readmission_score_outcomes` with whether the day's calls reached the patient's rank."""
    o, s = readmission_score_outcomes, care_management_scores
    same = (o.c.score_date == s.c.score_date) & (o.c.encounter_id == s.c.encounter_id)
    return sa.select(o, s.c.within_capacity).select_from(o.join(s, same))


def newest_list() -> Query:
    """The day of the newest list in `score_date`; NULL if there is none."""
    return sa.select(sa.func.max(outreach_lists.c.score_date).label("score_date"))


def oldest_list_and_month(model_name: str) -> Query:
    """The day of the oldest list in `score_date`, and of a model's performance the first `period_start`."""
    m = monitoring_measures.c
    months = sa.select(sa.func.min(m.period_start)).where(
        m.model_name == model_name, m.measure.in_(PERFORMANCE)
    )
    return sa.select(
        sa.select(sa.func.min(outreach_lists.c.score_date)).scalar_subquery().label("score_date"),
        months.scalar_subquery().label("period_start"),
    )


def features_listed(contract: Contract, first: date, last: date) -> Query:
    """The features, as sent, of everybody on the lists of some days, both included."""
    s = care_management_scores.c
    listed = sa.select(s.encounter_id).where(s.score_date >= first, s.score_date <= last)
    features = tuple(discharge_events.c[name] for name in contract.feature_names)
    return _latest(features, discharge_events.c.encounter_id.in_(listed))


def _latest(columns: tuple[sa.Column[Any], ...], where: sa.ColumnElement[bool]) -> Query:
    """Columns of the latest row of each encounter."""
    e = discharge_events.c
    place = sa.func.row_number().over(
        partition_by=e.encounter_id, order_by=(e.ingested_at.desc(), e.event_id.desc())
    )
    rows = sa.select(*columns, place.label("place")).where(where).subquery()
    return sa.select(*(rows.c[column.name] for column in columns)).where(rows.c.place == 1)


def scores_listed(model_version: int, first: date, last: date) -> Query:
    """Probability, tier and policy of one version's scores on the lists of some days, both included."""
    s = care_management_scores.c
    return sa.select(s.readmission_probability, s.risk_tier, s.policy_hash).where(
        s.score_date >= first, s.score_date <= last, s.model_version == model_version
    )


def missing_in(contract: Contract, first: Window, last: Window) -> Query:
    """One row: how many `rows` the feed sent for the lists of some days, and per feature how many lack it."""
    return _missing(contract).where(LISTED_AT >= first.start, LISTED_AT < last.end)


def missing_between(contract: Contract, begins: datetime, ends: datetime, known_at: datetime) -> Query:
    """The same of the discharges between two moments, as they were known at a third."""
    e = discharge_events.c
    return _missing(contract).where(
        e.discharged_at >= begins, e.discharged_at <= ends, e.ingested_at <= known_at
    )


def _missing(contract: Contract) -> Query:
    counts = []
    for name in contract.feature_names:
        column = discharge_events.c[name]
        empty: sa.ColumnElement[bool] = sa.false()
        if isinstance(column.type, sa.Double):
            empty = column == sa.cast("NaN", sa.Double())
        elif isinstance(column.type, sa.Text):
            empty = sa.func.trim(column) == ""
        counts.append(sa.func.count().filter(sa.or_(column.is_(None), empty)).label(name))
    columns: list[sa.ColumnElement[Any]] = [sa.func.count().label("rows"), *counts]
    return sa.select(*columns).select_from(discharge_events)


def measurements(model_name: str) -> Query:
    """Everything measured of a model, without the time of measuring."""
    m = monitoring_measures
    return (
        sa.select(*(c for c in m.c if c.name != "measured_at"))
        .where(m.c.model_name == model_name)
        .order_by(m.c.period_end, m.c.period_start, m.c.measure, m.c.subject)
    )
