"""The readmission family's questions to the warehouse.

Belongs here: SELECT statements over `tables.py`, with the time windows as parameters.
Does not belong here: their execution (assets, checks, sensors) and any writing.
"""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa

from medscore_assets.readmission.outreach import Window
from medscore_assets.tables import (
    care_management_scores,
    discharge_events,
    encounter_quarantine,
    inpatient_admissions,
    outreach_exclusions,
    outreach_lists,
)

LISTED_AT = sa.func.least(discharge_events.c.discharged_at, discharge_events.c.ingested_at)
"""The time that puts an event on a list: its discharge; without one, or with one in the future, the day
on which it came in. (In PostgreSQL the least passes over what is absent.)"""


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
    # As an array, which the index looks up in one go, where a join would descend it patient by patient.
    among = sa.func.array(patients.scalar_subquery(), type_=sa.ARRAY(sa.Text))
    return sa.select(inpatient_admissions).where(
        inpatient_admissions.c.patient_id == sa.any_(among),
        inpatient_admissions.c.admitted_at >= window.start,
        inpatient_admissions.c.admitted_at < window.end,
    )


def window_state(window: Window) -> sa.Select[tuple[object, ...]]:
    """What a window holds now beside what its list was made from; one row.

    Columns: `events`, `superseded`, `admissions` now, and the same with `listed_` before them, which are
    NULL while the window has no list.
    """
    within = sa.and_(LISTED_AT >= window.start, LISTED_AT < window.end)
    now = (
        sa.select(sa.func.count().label("events"), sa.func.count().filter(_superseded()).label("superseded"))
        .select_from(discharge_events)
        .where(within)
        .subquery()
    )
    admissions = sa.select(sa.func.count()).select_from(admissions_after(window).subquery()).scalar_subquery()
    header = outreach_lists
    return sa.select(
        now,
        admissions.label("admissions"),
        header.c.events.label("listed_events"),
        header.c.superseded.label("listed_superseded"),
        header.c.admissions.label("listed_admissions"),
    ).select_from(now.outerjoin(header, header.c.score_date == window.score_date))


def stale_arrivals(window: Window, older_than: timedelta) -> sa.Select[int]:
    """One row: `rows` that came in during the window with a discharge that long before it.

    A correction of an encounter that was known already is not one of them.
    """
    earlier = discharge_events.alias("earlier")
    known = sa.exists().where(
        earlier.c.encounter_id == discharge_events.c.encounter_id,
        sa.tuple_(earlier.c.ingested_at, earlier.c.event_id)
        < sa.tuple_(discharge_events.c.ingested_at, discharge_events.c.event_id),
    )
    return (
        sa.select(sa.func.count().label("rows"))
        .select_from(discharge_events)
        .where(
            discharge_events.c.ingested_at >= window.start,
            discharge_events.c.ingested_at < window.end,
            LISTED_AT < window.start - older_than,
            ~known,
        )
    )


def listed_tiers(window: Window) -> sa.Select[tuple[object, ...]]:
    """The probability, tier and policy hash of every score of a window's list, highest probability first."""
    scores = care_management_scores.c
    return (
        sa.select(scores.readmission_probability, scores.risk_tier, scores.policy_hash)
        .where(scores.score_date == window.score_date)
        .order_by(scores.readmission_probability.desc(), scores.rank)
    )


def list_integrity(window: Window) -> sa.Select[tuple[object, ...]]:
    """The header of a window's list beside what the tables hold; no row while there is no list."""
    scores, header = care_management_scores, outreach_lists
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
    excluded = (
        sa.select(sa.func.count())
        .select_from(outreach_exclusions)
        .where(outreach_exclusions.c.score_date == window.score_date)
    )
    quarantined = sa.select(sa.func.count(encounter_quarantine.c.event_id.distinct())).where(
        encounter_quarantine.c.score_date == window.score_date
    )
    return (
        sa.select(
            header.c.events,
            header.c.superseded,
            header.c.quarantined,
            header.c.excluded,
            header.c.scored,
            excluded.scalar_subquery().label("exclusion_rows"),
            quarantined.scalar_subquery().label("quarantine_rows"),
            ranked,
        )
        .select_from(header.join(ranked, sa.true()))
        .where(header.c.score_date == window.score_date)
    )
