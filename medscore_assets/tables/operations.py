"""What all model families are run by: decisions about models, what is measured of them, alerts.

Belongs here: tables in which a family is a value, never a column. Does not belong here: scores.
"""

from __future__ import annotations

import sqlalchemy as sa

from medscore_assets.tables.common import TIMESTAMP, column, metadata, one_of

DECISIONS = ("promoted", "refused", "rolled_back")
STATES = ("good", "warning", "alarm", "not_judged")
SEVERITIES = ("warning", "critical")

model_decisions = sa.Table(
    "model_decisions",
    metadata,
    sa.Column(
        "decision_id",
        sa.BigInteger,
        sa.Identity(always=True),
        primary_key=True,
        comment="Counts the decisions in their order.",
    ),
    column("model_name", sa.Text, nullable=False),
    column("model_version", sa.Integer, nullable=False),
    sa.Column("decision", sa.Text, nullable=False, comment="What was decided of this version."),
    sa.Column("reason", sa.Text, nullable=False, comment="Why, in words."),
    sa.Column("decided_by", sa.Text, nullable=False, comment="The gate, or who typed the command."),
    sa.Column("decided_at", TIMESTAMP, nullable=False, comment="When."),
    sa.Column("champion_before", sa.Integer, comment="The version that was champion until then, if any."),
    sa.Column("champion_after", sa.Integer, comment="The version that is champion from then on, if any."),
    sa.Index("ix_model_decisions_model_name_decided_at", "model_name", "decided_at"),
    sa.CheckConstraint(one_of("decision", DECISIONS), name="decision"),
    sa.CheckConstraint("length(trim(reason)) > 0", name="reason"),
    sa.CheckConstraint("length(trim(decided_by)) > 0", name="decided_by"),
    comment="Every decision about a model version, by the gate or by hand: append-only.",
)

monitoring_measures = sa.Table(
    "monitoring_measures",
    metadata,
    column("model_name", sa.Text, primary_key=True),
    column("model_version", sa.Integer, primary_key=True),
    sa.Column("measure", sa.Text, primary_key=True, comment="What was measured: psi, missing_rate, auroc..."),
    sa.Column(
        "subject", sa.Text, primary_key=True, comment="Of what: a feature, score, tier, an arm; all for all."
    ),
    sa.Column("period_start", sa.Date, primary_key=True, comment="First day of the scores measured."),
    sa.Column("period_end", sa.Date, primary_key=True, comment="Last day of the scores measured."),
    sa.Column("n", sa.Integer, nullable=False, comment="Scores behind the value."),
    sa.Column("events", sa.Integer, comment="Outcomes among them, where the measure needs outcomes."),
    sa.Column("value", sa.Double, comment="The value; NULL where it is undefined."),
    sa.Column("lower", sa.Double, comment="Lower end of its 95 % interval."),
    sa.Column("upper", sa.Double, comment="Upper end of its 95 % interval."),
    sa.Column("state", sa.Text, nullable=False, comment="What the configured thresholds say of it."),
    sa.Column("measured_at", TIMESTAMP, nullable=False, comment="When the row was made or last changed."),
    sa.CheckConstraint(one_of("state", STATES), name="state"),
    sa.CheckConstraint("period_start <= period_end", name="period"),
    sa.CheckConstraint("n >= 0", name="n"),
    comment="Drift and performance of every model in use, one value a row.",
)

alerts = sa.Table(
    "alerts",
    metadata,
    sa.Column(
        "alert_id",
        sa.BigInteger,
        sa.Identity(always=True),
        primary_key=True,
        comment="Counts the alerts in the order of their opening.",
    ),
    sa.Column("alert_key", sa.Text, nullable=False, comment="What is wrong."),
    sa.Column(
        "channel",
        sa.Text,
        nullable=False,
        comment="By which it is told. An alert is open at most once at a time on each.",
    ),
    sa.Column("owner", sa.Text, nullable=False, comment="Who is told."),
    sa.Column("severity", sa.Text, nullable=False, comment="How urgent it is."),
    sa.Column("title", sa.Text, nullable=False, comment="One line."),
    sa.Column("detail", sa.Text, nullable=False, comment="What was found; never anything of a patient."),
    sa.Column("mend", sa.Text, nullable=False, comment="The next step."),
    sa.Column("opened_at", TIMESTAMP, nullable=False, comment="When it was first seen."),
    sa.Column("last_seen_at", TIMESTAMP, nullable=False, comment="When it was last seen."),
    sa.Column("occurrences", sa.Integer, nullable=False, comment="How often it was seen."),
    sa.Column("notified_at", TIMESTAMP, comment="When it was told."),
    sa.Column("recovered_at", TIMESTAMP, comment="When it was over; NULL while it is open."),
    sa.Column("recovery_notified_at", TIMESTAMP, comment="When it was told that it was over."),
    sa.CheckConstraint(one_of("severity", SEVERITIES), name="severity"),
    comment="What went wrong, by which channel it was told, and when it was over.",
)
sa.Index(
    "ix_alerts_open",
    alerts.c.alert_key,
    alerts.c.channel,
    unique=True,
    postgresql_where=alerts.c.recovered_at.is_(None),
)
