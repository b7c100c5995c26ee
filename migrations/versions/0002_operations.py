"""Outcomes of scores and calls, decisions about models, measures, alerts.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "alerts",
        sa.Column(
            "alert_id",
            sa.BigInteger(),
            sa.Identity(always=True),
            nullable=False,
            comment="Counts the alerts in the order of their opening.",
        ),
        sa.Column("alert_key", sa.Text(), nullable=False, comment="What is wrong."),
        sa.Column(
            "channel",
            sa.Text(),
            nullable=False,
            comment="By which it is told. An alert is open at most once at a time on each.",
        ),
        sa.Column("owner", sa.Text(), nullable=False, comment="Who is told."),
        sa.Column("severity", sa.Text(), nullable=False, comment="How urgent it is."),
        sa.Column("title", sa.Text(), nullable=False, comment="One line."),
        sa.Column(
            "detail", sa.Text(), nullable=False, comment="What was found; never anything of a patient."
        ),
        sa.Column("mend", sa.Text(), nullable=False, comment="The next step."),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False, comment="When it was first seen."),
        sa.Column(
            "last_seen_at", sa.DateTime(timezone=True), nullable=False, comment="When it was last seen."
        ),
        sa.Column("occurrences", sa.Integer(), nullable=False, comment="How often it was seen."),
        sa.Column("notified_at", sa.DateTime(timezone=True), nullable=True, comment="When it was told."),
        sa.Column(
            "recovered_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="When it was over; NULL while it is open.",
        ),
        sa.Column(
            "recovery_notified_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="When it was told that it was over.",
        ),
        sa.CheckConstraint("severity IN ('warning', 'critical')", name=op.f("ck_alerts_severity")),
        sa.PrimaryKeyConstraint("alert_id", name=op.f("pk_alerts")),
        comment="What went wrong, by which channel it was told, and when it was over.",
    )
    op.create_index(
        "ix_alerts_open",
        "alerts",
        ["alert_key", "channel"],
        unique=True,
        postgresql_where=sa.text("recovered_at IS NULL"),
    )
    op.create_table(
        "model_decisions",
        sa.Column(
            "decision_id",
            sa.BigInteger(),
            sa.Identity(always=True),
            nullable=False,
            comment="Counts the decisions in their order.",
        ),
        sa.Column("model_name", sa.Text(), nullable=False, comment="The model's name in the registry."),
        sa.Column(
            "model_version", sa.Integer(), nullable=False, comment="The model's version in the registry."
        ),
        sa.Column("decision", sa.Text(), nullable=False, comment="What was decided of this version."),
        sa.Column("reason", sa.Text(), nullable=False, comment="Why, in words."),
        sa.Column("decided_by", sa.Text(), nullable=False, comment="The gate, or who typed the command."),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=False, comment="When."),
        sa.Column(
            "champion_before",
            sa.Integer(),
            nullable=True,
            comment="The version that was champion until then, if any.",
        ),
        sa.Column(
            "champion_after",
            sa.Integer(),
            nullable=True,
            comment="The version that is champion from then on, if any.",
        ),
        sa.CheckConstraint(
            "decision IN ('promoted', 'refused', 'rolled_back')", name=op.f("ck_model_decisions_decision")
        ),
        sa.CheckConstraint("length(trim(decided_by)) > 0", name=op.f("ck_model_decisions_decided_by")),
        sa.CheckConstraint("length(trim(reason)) > 0", name=op.f("ck_model_decisions_reason")),
        sa.PrimaryKeyConstraint("decision_id", name=op.f("pk_model_decisions")),
        comment="Every decision about a model version, by the gate or by hand: append-only.",
    )
    op.create_index(
        "ix_model_decisions_model_name_decided_at",
        "model_decisions",
        ["model_name", "decided_at"],
        unique=False,
    )
    op.create_table(
        "monitoring_measures",
        sa.Column("model_name", sa.Text(), nullable=False, comment="The model's name in the registry."),
        sa.Column(
            "model_version", sa.Integer(), nullable=False, comment="The model's version in the registry."
        ),
        sa.Column(
            "measure", sa.Text(), nullable=False, comment="What was measured: psi, missing_rate, auroc..."
        ),
        sa.Column(
            "subject",
            sa.Text(),
            nullable=False,
            comment="Of what: a feature, score, tier, an arm; all for all.",
        ),
        sa.Column("period_start", sa.Date(), nullable=False, comment="First day of the scores measured."),
        sa.Column("period_end", sa.Date(), nullable=False, comment="Last day of the scores measured."),
        sa.Column("n", sa.Integer(), nullable=False, comment="Scores behind the value."),
        sa.Column(
            "events",
            sa.Integer(),
            nullable=True,
            comment="Outcomes among them, where the measure needs outcomes.",
        ),
        sa.Column("value", sa.Double(), nullable=True, comment="The value; NULL where it is undefined."),
        sa.Column("lower", sa.Double(), nullable=True, comment="Lower end of its 95 % interval."),
        sa.Column("upper", sa.Double(), nullable=True, comment="Upper end of its 95 % interval."),
        sa.Column("state", sa.Text(), nullable=False, comment="What the configured thresholds say of it."),
        sa.Column(
            "measured_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="When the row was made or last changed.",
        ),
        sa.CheckConstraint(
            "state IN ('good', 'warning', 'alarm', 'not_judged')", name=op.f("ck_monitoring_measures_state")
        ),
        sa.CheckConstraint("n >= 0", name=op.f("ck_monitoring_measures_n")),
        sa.CheckConstraint("period_start <= period_end", name=op.f("ck_monitoring_measures_period")),
        sa.PrimaryKeyConstraint(
            "model_name",
            "model_version",
            "measure",
            "subject",
            "period_start",
            "period_end",
            name=op.f("pk_monitoring_measures"),
        ),
        comment="Drift and performance of every model in use, one value a row.",
    )
    op.create_table(
        "outreach_calls",
        sa.Column("encounter_id", sa.Text(), nullable=False, comment="The discharge that was called about."),
        sa.Column("called_at", sa.DateTime(timezone=True), nullable=False, comment="When somebody called."),
        sa.Column("outcome", sa.Text(), nullable=False, comment="What came of the call."),
        sa.Column("source", sa.Text(), nullable=False, comment="The feed or the page it was entered on."),
        sa.Column(
            "ingested_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When the row arrived.",
        ),
        sa.CheckConstraint(
            "outcome IN ('called', 'declined', 'reached')", name=op.f("ck_outreach_calls_outcome")
        ),
        sa.PrimaryKeyConstraint("encounter_id", "called_at", name=op.f("pk_outreach_calls")),
        comment="Calls to patients on a list: called without an answer, reached, or declined.",
    )
    op.create_table(
        "readmission_score_outcomes",
        sa.Column(
            "score_date",
            sa.Date(),
            nullable=False,
            comment="The day on which the window of the list opens, at 06:00.",
        ),
        sa.Column(
            "encounter_id", sa.Text(), nullable=False, comment="The hospital stay, unique over all hospitals."
        ),
        sa.Column("patient_id", sa.Text(), nullable=False, comment="The patient, the same at every stay."),
        sa.Column(
            "discharged_at", sa.DateTime(timezone=True), nullable=False, comment="When the stay ended."
        ),
        sa.Column(
            "model_version", sa.Integer(), nullable=False, comment="The model's version in the registry."
        ),
        sa.Column("readmission_probability", sa.Double(), nullable=False, comment="As it stood on the list."),
        sa.Column("risk_tier", sa.Text(), nullable=False, comment="As it stood on the list."),
        sa.Column(
            "call_outcome",
            sa.Text(),
            nullable=True,
            comment="The furthest that a call got; NULL if nobody called.",
        ),
        sa.Column("readmitted_within_30_days", sa.Boolean(), nullable=False, comment="The outcome."),
        sa.CheckConstraint(
            "call_outcome IN ('called', 'declined', 'reached')",
            name=op.f("ck_readmission_score_outcomes_call_outcome"),
        ),
        sa.CheckConstraint(
            "risk_tier IN ('low', 'moderate', 'high', 'very_high')",
            name=op.f("ck_readmission_score_outcomes_risk_tier"),
        ),
        sa.CheckConstraint(
            "readmission_probability BETWEEN 0 AND 1",
            name=op.f("ck_readmission_score_outcomes_readmission_probability"),
        ),
        sa.PrimaryKeyConstraint("score_date", "encounter_id", name=op.f("pk_readmission_score_outcomes")),
        comment="Scores whose outcome is known, beside it: what prospective performance is measured on.",
    )
    op.create_index(
        "ix_readmission_score_outcomes_discharged_at",
        "readmission_score_outcomes",
        ["discharged_at"],
        unique=False,
    )


def downgrade() -> None:
    for table in (
        "readmission_score_outcomes",
        "outreach_calls",
        "monitoring_measures",
        "model_decisions",
        "alerts",
    ):
        op.drop_table(table)
