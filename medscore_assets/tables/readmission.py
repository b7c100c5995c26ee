"""The readmission family's tables: what hospitals send, the training set, the morning list, its outcomes.

Belongs here: one `Table` per table; contract columns are derived from the contract.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from medscore_assets.contracts.contract import Contract
from medscore_assets.contracts.fields import Category, Day, Field, Flag, Moment, Reason, Whole
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.readmission.cohort import EXCLUSIONS, PARTS
from medscore_assets.readmission.outcomes import CALL_OUTCOMES
from medscore_assets.readmission.policy import TIERS
from medscore_assets.tables.common import (
    PROBABILITY,
    SAYS,
    TIMESTAMP,
    column,
    metadata,
    one_of,
    probability_check,
)


def _sql_type(field: Field) -> sa.types.TypeEngine[object]:
    match field:
        case Whole():
            return sa.Integer()
        case Flag():
            return sa.Boolean()
        case Moment():
            return TIMESTAMP
        case Day():
            return sa.Date()
        case _:
            return sa.Text()


def landing_columns(contract: Contract) -> list[sa.Column[object]]:
    """Every field of the contract, nullable and unchecked: a dirty row must land to be seen.

    Counts land as they are sent: an integer column would round 2.7 to a plausible 3.
    """
    return [
        sa.Column(f.name, sa.Double() if isinstance(f, Whole) else _sql_type(f), comment=f.description)
        for f in contract.fields.values()
    ]


def feature_columns(contract: Contract) -> list[sa.Column[object]]:
    """The features, required."""
    return [sa.Column(f.name, _sql_type(f), nullable=False, comment=f.description) for f in contract.features]


def feature_checks(contract: Contract) -> list[sa.CheckConstraint]:
    """The features' bounds and categories as check constraints."""
    checks = []
    for field in contract.features:
        if isinstance(field, Whole):
            rule = f"{field.name} BETWEEN {field.minimum} AND {field.maximum}"
        elif isinstance(field, Category):
            rule = one_of(field.name, field.categories)
        else:
            continue
        checks.append(sa.CheckConstraint(rule, name=field.name))
    return checks


discharge_events = sa.Table(
    "discharge_events",
    metadata,
    column("event_id", sa.BigInteger, sa.Identity(always=False), primary_key=True),
    sa.Column("source", sa.Text, nullable=False, comment="The feed: demo, uci-diabetes, a hospital's name."),
    *landing_columns(READMISSION),
    sa.Column(
        "ingested_at",
        TIMESTAMP,
        nullable=False,
        server_default=sa.func.now(),
        comment="When the row arrived. A later row of the same encounter corrects the earlier one.",
    ),
    comment="Discharges as hospitals send them: append-only, unchecked, so that a bad row is kept and seen.",
)
sa.Index(
    "ix_discharge_events_listed_at",
    sa.func.least(discharge_events.c.discharged_at, discharge_events.c.ingested_at),
)
sa.Index("ix_discharge_events_encounter_id", discharge_events.c.encounter_id)
sa.Index("ix_discharge_events_patient_id", discharge_events.c.patient_id)

inpatient_admissions = sa.Table(
    "inpatient_admissions",
    metadata,
    sa.Column("encounter_id", sa.Text, primary_key=True, comment=SAYS["encounter_id"]),
    sa.Column("patient_id", sa.Text, nullable=False, comment=SAYS["patient_id"]),
    sa.Column("admitted_at", TIMESTAMP, nullable=False, comment="When the stay began."),
    sa.Column("planned", sa.Boolean, nullable=False, comment="Planned stays are no readmission (CMS)."),
    sa.Column("source", sa.Text, nullable=False, comment="The feed."),
    column("ingested_at", TIMESTAMP, nullable=False, server_default=sa.func.now()),
    sa.Index("ix_inpatient_admissions_patient_id_admitted_at", "patient_id", "admitted_at"),
    comment="Every acute inpatient stay that began, also those still open: tells who was readmitted.",
)

readmission_outcomes = sa.Table(
    "readmission_outcomes",
    metadata,
    sa.Column("encounter_id", sa.Text, primary_key=True, comment="The index stay."),
    sa.Column("readmitted_within_30_days", sa.Boolean, nullable=False, comment="As the source recorded it."),
    sa.Column("source", sa.Text, nullable=False, comment="The feed."),
    sa.Column("recorded_at", TIMESTAMP, nullable=False, comment="From when on the outcome was known."),
    comment="Outcomes of sources that give the label itself instead of the admissions behind it.",
)

demo_ground_truth = sa.Table(
    "demo_ground_truth",
    metadata,
    column("encounter_id", sa.Text, primary_key=True),
    sa.Column(
        "probability", PROBABILITY, nullable=False, comment="The probability the label was drawn with."
    ),
    probability_check("probability"),
    comment="What the demo generator knows and no model may read: the ceiling of any model on demo data.",
)

readmission_training_set = sa.Table(
    "readmission_training_set",
    metadata,
    column("encounter_id", sa.Text, primary_key=True),
    column("patient_id", sa.Text, nullable=False),
    column("discharged_at", TIMESTAMP, nullable=False),
    sa.Column("part", sa.Text, nullable=False, comment="Which part of the split; a patient is in one only."),
    sa.Column("readmitted_within_30_days", sa.Boolean, nullable=False, comment="The label."),
    *feature_columns(READMISSION),
    column("contract_hash", sa.Text, nullable=False),
    sa.CheckConstraint(one_of("part", PARTS), name="part"),
    *feature_checks(READMISSION),
    comment="Index discharges with matured labels, as the champion's training run saw them.",
)

outreach_lists = sa.Table(
    "outreach_lists",
    metadata,
    sa.Column("score_date", sa.Date, primary_key=True, comment="The day on which the window opens."),
    sa.Column("window_start", TIMESTAMP, nullable=False, comment="First discharge time on the list."),
    sa.Column("window_end", TIMESTAMP, nullable=False, comment="First discharge time of the next list."),
    sa.Column("events", sa.Integer, nullable=False, comment="Rows of discharge_events in the window."),
    sa.Column("superseded", sa.Integer, nullable=False, comment="Rows that a later row corrected."),
    sa.Column("quarantined", sa.Integer, nullable=False, comment="Rows that break the contract."),
    sa.Column("excluded", sa.Integer, nullable=False, comment="Encounters that are not eligible."),
    sa.Column("scored", sa.Integer, nullable=False, comment="Encounters on the list."),
    sa.Column("admissions", sa.Integer, nullable=False, comment="Admissions known when the list was made."),
    column("model_name", sa.Text, nullable=False),
    column("model_version", sa.Integer, nullable=False),
    column("contract_hash", sa.Text, nullable=False),
    column("policy_version", sa.Text, nullable=False),
    column("policy_hash", sa.Text, nullable=False),
    sa.Column("published_at", TIMESTAMP, nullable=False, comment="When the list was last made."),
    sa.CheckConstraint("events = superseded + quarantined + excluded + scored", name="reconciles"),
    sa.CheckConstraint("window_start < window_end", name="window"),
    comment="One row per published morning list, also for a day on which nobody was discharged.",
)

care_management_scores = sa.Table(
    "care_management_scores",
    metadata,
    # Triggers keep scores and lists together as a foreign key would, but ask once a statement instead of once
    # a row: adding a day's 800 takes half the time.
    column("score_date", sa.Date, primary_key=True, info={"references": ("outreach_lists",)}),
    column("encounter_id", sa.Text, primary_key=True),
    column("patient_id", sa.Text, nullable=False),
    column("hospital_id", sa.Text, nullable=False),
    column("discharged_at", TIMESTAMP, nullable=False),
    sa.Column(
        "rank", sa.Integer, nullable=False, comment="1 is called first: probability, then time, then id."
    ),
    sa.Column(
        "within_capacity", sa.Boolean, nullable=False, comment="Whether the day's calls reach this rank."
    ),
    sa.Column("readmission_probability", PROBABILITY, nullable=False, comment="Calibrated, 30 days."),
    sa.Column("risk_tier", sa.Text, nullable=False, comment="From the stored probability, by the policy."),
    sa.Column(
        "top_factors",
        JSONB,
        nullable=False,
        comment="[{feature, value, contribution, direction, text}]; contribution in log-odds.",
    ),
    sa.Column("recommended_actions", JSONB, nullable=False, comment="Texts, by the policy."),
    column("disclaimer", sa.Text, nullable=False),
    column("model_name", sa.Text, nullable=False),
    column("model_version", sa.Integer, nullable=False),
    column("policy_version", sa.Text, nullable=False),
    column("policy_hash", sa.Text, nullable=False),
    sa.Column("features_sha256", sa.Text, nullable=False, comment="Hash of the encoded features scored."),
    sa.Column(
        "scored_at",
        TIMESTAMP,
        nullable=False,
        comment="When this row was made; one that comes out the same keeps it.",
    ),
    sa.UniqueConstraint("score_date", "rank"),
    sa.Index("ix_care_management_scores_patient_id", "patient_id"),
    probability_check("readmission_probability"),
    sa.CheckConstraint(one_of("risk_tier", TIERS), name="risk_tier"),
    sa.CheckConstraint("rank >= 1", name="rank"),
    sa.CheckConstraint("length(disclaimer) > 0", name="disclaimer"),
    sa.CheckConstraint("jsonb_array_length(recommended_actions) > 0", name="recommended_actions"),
    comment="The morning outreach list: who to call, in which order, why, and what to do.",
)
care_management_scores.add_is_dependent_on(outreach_lists)

encounter_quarantine = sa.Table(
    "encounter_quarantine",
    metadata,
    column("score_date", sa.Date, primary_key=True),
    column("event_id", sa.BigInteger, sa.ForeignKey(discharge_events.c.event_id), primary_key=True),
    column("field", sa.Text, primary_key=True),
    column("reason", sa.Text, nullable=False),
    sa.Column("encounter_id", sa.Text, comment="As sent; may be missing."),
    sa.CheckConstraint(one_of("reason", tuple(r.label for r in Reason if r)), name="reason"),
    comment="Rows that broke the contract, field by field. The row itself stays in discharge_events.",
)

outreach_exclusions = sa.Table(
    "outreach_exclusions",
    metadata,
    column("score_date", sa.Date, sa.ForeignKey(outreach_lists.c.score_date), primary_key=True),
    column("encounter_id", sa.Text, primary_key=True),
    column("reason", sa.Text, nullable=False),
    sa.CheckConstraint(one_of("reason", EXCLUSIONS), name="reason"),
    comment="Valid discharges that are not to be called, and why.",
)

outreach_calls = sa.Table(
    "outreach_calls",
    metadata,
    sa.Column("encounter_id", sa.Text, primary_key=True, comment="The discharge that was called about."),
    sa.Column("called_at", TIMESTAMP, primary_key=True, comment="When somebody called."),
    sa.Column("outcome", sa.Text, nullable=False, comment="What came of the call."),
    sa.Column("source", sa.Text, nullable=False, comment="The feed or the page it was entered on."),
    column("ingested_at", TIMESTAMP, nullable=False, server_default=sa.func.now()),
    sa.CheckConstraint(one_of("outcome", CALL_OUTCOMES), name="outcome"),
    comment="Calls to patients on a list: called without an answer, reached, or declined.",
)

readmission_score_outcomes = sa.Table(
    "readmission_score_outcomes",
    metadata,
    column("score_date", sa.Date, primary_key=True),
    column("encounter_id", sa.Text, primary_key=True),
    column("patient_id", sa.Text, nullable=False),
    column("discharged_at", TIMESTAMP, nullable=False),
    column("model_version", sa.Integer, nullable=False),
    sa.Column("readmission_probability", PROBABILITY, nullable=False, comment="As it stood on the list."),
    sa.Column("risk_tier", sa.Text, nullable=False, comment="As it stood on the list."),
    sa.Column("call_outcome", sa.Text, comment="The furthest that a call got; NULL if nobody called."),
    sa.Column("readmitted_within_30_days", sa.Boolean, nullable=False, comment="The outcome."),
    probability_check("readmission_probability"),
    sa.CheckConstraint(one_of("risk_tier", TIERS), name="risk_tier"),
    sa.CheckConstraint(one_of("call_outcome", CALL_OUTCOMES), name="call_outcome"),
    sa.Index("ix_readmission_score_outcomes_discharged_at", "discharged_at"),
    comment="Scores whose outcome is known, beside it: what prospective performance is measured on.",
)
