"""The readmission family's questions to the warehouse.

Belongs here: SELECT statements over `tables.py`, with the time windows as parameters.
Does not belong here: their execution (assets, checks, sensors) and any writing.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from medscore_assets.readmission.outreach import Window
from medscore_assets.tables import (
    care_management_scores,
    discharge_events,
    inpatient_admissions,
    outreach_lists,
)

LISTED_AT = sa.func.coalesce(discharge_events.c.discharged_at, discharge_events.c.ingested_at)
"""The time that puts an event on a list. Without a discharge time it is seen on the day it came in."""


def _superseded() -> sa.ColumnElement[bool]:
    """Whether a later row of the same encounter, in whatever window, corrects this one."""
    later = discharge_events.alias("later")
    return sa.exists().where(
        later.c.encounter_id == discharge_events.c.encounter_id,
        sa.tuple_(later.c.ingested_at, later.c.event_id)
        > sa.tuple_(discharge_events.c.ingested_at, discharge_events.c.event_id),
    )


def events_of(window: Window) -> sa.Select[tuple[object, ...]]:
    """Every event of a window, with the column `superseded`."""
    return (
        sa.select(discharge_events, _superseded().label("superseded"))
        .where(LISTED_AT >= window.start, LISTED_AT < window.end)
        .order_by(discharge_events.c.event_id)
    )


def admissions_after(window: Window) -> sa.Select[tuple[object, ...]]:
    """Admissions between the window's start and end of patients discharged in the window."""
    patients = sa.select(discharge_events.c.patient_id).where(
        LISTED_AT >= window.start, LISTED_AT < window.end
    )
    return sa.select(inpatient_admissions).where(
        inpatient_admissions.c.patient_id.in_(patients),
        inpatient_admissions.c.admitted_at >= window.start,
        inpatient_admissions.c.admitted_at < window.end,
    )


def lists_out_of_date(since: datetime) -> sa.Select[tuple[object, ...]]:
    """Published lists whose window holds other events than when they were made.

    Columns: `score_date`, `events` and `superseded` as they are now.
    """
    now = (
        sa.select(
            sa.func.count().label("events"),
            sa.func.count().filter(_superseded()).label("superseded"),
        )
        .where(LISTED_AT >= outreach_lists.c.window_start, LISTED_AT < outreach_lists.c.window_end)
        .lateral("now")
    )
    return (
        sa.select(outreach_lists.c.score_date, now.c.events, now.c.superseded)
        .select_from(outreach_lists.join(now, sa.true()))
        .where(
            outreach_lists.c.window_end >= since,
            sa.or_(
                now.c.events != outreach_lists.c.events,
                now.c.superseded != outreach_lists.c.superseded,
            ),
        )
        .order_by(outreach_lists.c.score_date)
    )


def list_integrity(window: Window) -> sa.Select[tuple[object, ...]]:
    """One row about a published list: its header beside what the tables hold."""
    events = (
        sa.select(sa.func.count())
        .select_from(discharge_events)
        .where(LISTED_AT >= window.start, LISTED_AT < window.end)
        .scalar_subquery()
    )
    scores = care_management_scores
    ranked = (
        sa.select(
            sa.func.count().label("rows"),
            sa.func.coalesce(sa.func.max(scores.c.rank), 0).label("last_rank"),
            sa.func.count(scores.c.model_version.distinct()).label("model_versions"),
            sa.func.count(scores.c.policy_hash.distinct()).label("policies"),
        )
        .where(scores.c.score_date == window.score_date)
        .subquery()
    )
    header = outreach_lists
    return (
        sa.select(
            header.c.events,
            header.c.quarantined,
            header.c.superseded,
            header.c.scored,
            events.label("events_now"),
            ranked,
        )
        .select_from(header.join(ranked, sa.true()))
        .where(header.c.score_date == window.score_date)
    )
