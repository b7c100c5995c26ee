"""What the API writes: scores, audit trail, keys, feedback.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("key_id", sa.Text(), nullable=False, comment="The open part of the key."),
        sa.Column("secret_sha256", sa.Text(), nullable=False, comment="Hash of the secret part."),
        sa.Column("client", sa.Text(), nullable=False, comment="Whose key it is."),
        sa.Column(
            "roles", postgresql.JSONB(astext_type=sa.Text()), nullable=False, comment="What it may do."
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, comment="When it was made."),
        sa.Column(
            "expires_at", sa.DateTime(timezone=True), nullable=False, comment="From when on it is refused."
        ),
        sa.Column(
            "revoked_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="When it was taken back, if it was.",
        ),
        sa.CheckConstraint("expires_at > created_at", name=op.f("ck_api_keys_expires_at")),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_api_keys")),
        comment="Keys for development; in production tokens are used.",
    )
    op.create_table(
        "audit_events",
        sa.Column(
            "sequence",
            sa.BigInteger(),
            autoincrement=False,
            nullable=False,
            comment="The place in the chain, from 1, no gaps.",
        ),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False, comment="When it happened."),
        sa.Column(
            "event",
            sa.Text(),
            nullable=False,
            comment="The FHIR AuditEvent as canonical JSON: ids, no values.",
        ),
        sa.Column(
            "previous_hash",
            sa.Text(),
            nullable=False,
            comment="The hash of the event before it.",
        ),
        sa.Column("hash", sa.Text(), nullable=False, comment="SHA-256 of previous_hash and event."),
        sa.PrimaryKeyConstraint("sequence", name=op.f("pk_audit_events")),
        sa.UniqueConstraint("hash", name=op.f("uq_audit_events_hash")),
        comment="Who saw, asked for or was refused what: append-only, each row chained to the one before.",
    )
    op.create_index("ix_audit_events_recorded_at", "audit_events", ["recorded_at"], unique=False)
    op.create_table(
        "cds_feedback",
        sa.Column("card_id", sa.Text(), nullable=False, comment="The card's UUID, which is the score's."),
        sa.Column("outcome", sa.Text(), nullable=False, comment="What the clinician did with it."),
        sa.Column("outcome_at", sa.DateTime(timezone=True), nullable=False, comment="When, by the client."),
        sa.Column(
            "accepted_suggestions",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="UUIDs of the suggestions taken.",
        ),
        sa.Column("override_code", sa.Text(), nullable=True, comment="The coded reason for an override."),
        sa.Column(
            "commented",
            sa.Boolean(),
            nullable=False,
            comment="Whether a comment came; free text is not kept.",
        ),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False, comment="When it came in."),
        sa.CheckConstraint("outcome IN ('accepted', 'overridden')", name=op.f("ck_cds_feedback_outcome")),
        sa.PrimaryKeyConstraint("card_id", "outcome", "outcome_at", name=op.f("pk_cds_feedback")),
        comment="What clinicians did with cards.",
    )
    op.create_table(
        "readmission_scores",
        sa.Column(
            "score_id", sa.Text(), nullable=False, comment="A UUID; also the card's and the assessment's."
        ),
        sa.Column("source", sa.Text(), nullable=False, comment="By which way it was asked for."),
        sa.Column("client", sa.Text(), nullable=False, comment="Who asked: issuer and subject, or key."),
        sa.Column(
            "idempotency_key",
            sa.Text(),
            nullable=True,
            comment="The client's name for its request; it scores once.",
        ),
        sa.Column("encounter_id", sa.Text(), nullable=True, comment="The stay, if the client named it."),
        sa.Column("patient_id", sa.Text(), nullable=True, comment="The patient, if the client named them."),
        sa.Column(
            "data_as_of",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="From when the features are, if the client said so.",
        ),
        sa.Column("patient_age", sa.Integer(), nullable=False, comment="Age at discharge."),
        sa.Column("length_of_stay_days", sa.Integer(), nullable=False, comment="Nights in hospital."),
        sa.Column(
            "num_prior_admissions_12m",
            sa.Integer(),
            nullable=False,
            comment="Hospital admissions in the 12 months before this one.",
        ),
        sa.Column(
            "num_chronic_conditions", sa.Integer(), nullable=False, comment="Active chronic conditions."
        ),
        sa.Column(
            "primary_diagnosis_group", sa.Text(), nullable=False, comment="Group of the principal diagnosis."
        ),
        sa.Column(
            "discharge_disposition", sa.Text(), nullable=False, comment="Where the patient is discharged to."
        ),
        sa.Column("insurance_type", sa.Text(), nullable=False, comment="The payer."),
        sa.Column(
            "emergency_admission",
            sa.Boolean(),
            nullable=False,
            comment="Whether the admission came through the emergency department.",
        ),
        sa.Column(
            "num_medications_at_discharge",
            sa.Integer(),
            nullable=False,
            comment="Medications prescribed at discharge.",
        ),
        sa.Column(
            "has_follow_up_scheduled",
            sa.Boolean(),
            nullable=False,
            comment="Whether a follow-up appointment is booked, at whatever date.",
        ),
        sa.Column(
            "features_sha256", sa.Text(), nullable=False, comment="Hash of the encoded features scored."
        ),
        sa.Column("readmission_probability", sa.Double(), nullable=False, comment="Calibrated, 30 days."),
        sa.Column(
            "risk_tier", sa.Text(), nullable=False, comment="From the stored probability, by the policy."
        ),
        sa.Column(
            "explanation",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="{baseline, factors: [{feature, value, contribution, direction, text}]}; in log-odds.",
        ),
        sa.Column(
            "recommended_actions",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="Texts, by the policy.",
        ),
        sa.Column("disclaimer", sa.Text(), nullable=False, comment="The policy's disclaimer, word for word."),
        sa.Column("model_name", sa.Text(), nullable=False, comment="The model's name in the registry."),
        sa.Column(
            "model_version", sa.Integer(), nullable=False, comment="The model's version in the registry."
        ),
        sa.Column(
            "contract_hash", sa.Text(), nullable=False, comment="The contract under which this was made."
        ),
        sa.Column(
            "policy_version", sa.Text(), nullable=False, comment="The version that the policy gives itself."
        ),
        sa.Column("policy_hash", sa.Text(), nullable=False, comment="The hash of the policy's rules."),
        sa.Column("scored_at", sa.DateTime(timezone=True), nullable=False, comment="When."),
        sa.CheckConstraint(
            "discharge_disposition IN ('home', 'home_with_care', 'skilled_nursing', 'rehab', 'other')",
            name=op.f("ck_readmission_scores_discharge_disposition"),
        ),
        sa.CheckConstraint(
            "insurance_type IN ('commercial', 'medicare', 'medicaid', 'dual_eligible', 'unknown')",
            name=op.f("ck_readmission_scores_insurance_type"),
        ),
        sa.CheckConstraint(
            "primary_diagnosis_group IN ('cardiac', 'respiratory', 'digestive', 'musculoskeletal', 'neurological', 'endocrine', 'other')",
            name=op.f("ck_readmission_scores_primary_diagnosis_group"),
        ),
        sa.CheckConstraint(
            "risk_tier IN ('low', 'moderate', 'high', 'very_high')",
            name=op.f("ck_readmission_scores_risk_tier"),
        ),
        sa.CheckConstraint(
            "source IN ('api', 'cds_hooks', 'inference', 'portal')", name=op.f("ck_readmission_scores_source")
        ),
        sa.CheckConstraint(
            "jsonb_array_length(recommended_actions) > 0",
            name=op.f("ck_readmission_scores_recommended_actions"),
        ),
        sa.CheckConstraint("length(disclaimer) > 0", name=op.f("ck_readmission_scores_disclaimer")),
        sa.CheckConstraint(
            "length_of_stay_days BETWEEN 0 AND 365", name=op.f("ck_readmission_scores_length_of_stay_days")
        ),
        sa.CheckConstraint(
            "num_chronic_conditions BETWEEN 0 AND 50",
            name=op.f("ck_readmission_scores_num_chronic_conditions"),
        ),
        sa.CheckConstraint(
            "num_medications_at_discharge BETWEEN 0 AND 100",
            name=op.f("ck_readmission_scores_num_medications_at_discharge"),
        ),
        sa.CheckConstraint(
            "num_prior_admissions_12m BETWEEN 0 AND 100",
            name=op.f("ck_readmission_scores_num_prior_admissions_12m"),
        ),
        sa.CheckConstraint("patient_age BETWEEN 0 AND 120", name=op.f("ck_readmission_scores_patient_age")),
        sa.CheckConstraint(
            "readmission_probability BETWEEN 0 AND 1",
            name=op.f("ck_readmission_scores_readmission_probability"),
        ),
        sa.PrimaryKeyConstraint("score_id", name=op.f("pk_readmission_scores")),
        sa.UniqueConstraint(
            "client", "idempotency_key", name=op.f("uq_readmission_scores_client_idempotency_key")
        ),
        comment="Every score that the API gave, as it was given.",
    )
    op.create_index(
        "ix_readmission_scores_encounter_id", "readmission_scores", ["encounter_id"], unique=False
    )
    op.create_index("ix_readmission_scores_scored_at", "readmission_scores", ["scored_at"], unique=False)
    op.create_table(
        "replayed_tokens",
        sa.Column("issuer", sa.Text(), nullable=False, comment="The token's issuer."),
        sa.Column("token_id", sa.Text(), nullable=False, comment="Its jti."),
        sa.Column(
            "expires_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="From when on it is refused by its age.",
        ),
        sa.PrimaryKeyConstraint("issuer", "token_id", name=op.f("pk_replayed_tokens")),
        comment="One-time tokens that were used, until they expire.",
    )
    op.create_index("ix_replayed_tokens_expires_at", "replayed_tokens", ["expires_at"], unique=False)
    op.create_table(
        "shadow_scores",
        sa.Column("score_id", sa.Text(), nullable=False, comment="The score that was given."),
        sa.Column(
            "model_version", sa.Integer(), nullable=False, comment="The model's version in the registry."
        ),
        sa.Column(
            "readmission_probability", sa.Double(), nullable=False, comment="What this version would say."
        ),
        sa.Column("scored_at", sa.DateTime(timezone=True), nullable=False, comment="When."),
        sa.CheckConstraint(
            "readmission_probability BETWEEN 0 AND 1", name=op.f("ck_shadow_scores_readmission_probability")
        ),
        sa.PrimaryKeyConstraint("score_id", "model_version", name=op.f("pk_shadow_scores")),
        comment="What a challenger says of the same requests; shown to nobody.",
    )
    op.execute(
        """
        CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF TG_OP = 'DELETE' AND current_setting('medscore.retention', true) = 'on' THEN
                RETURN NULL;
            END IF;
            RAISE EXCEPTION 'the table % is append-only', TG_TABLE_NAME USING ERRCODE = 'integrity_constraint_violation';
        END
        $$
        """
    )
    for table in ("audit_events", "model_decisions"):
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )


def downgrade() -> None:
    op.execute("DROP TRIGGER append_only ON model_decisions")
    for table in (
        "cds_feedback",
        "api_keys",
        "replayed_tokens",
        "audit_events",
        "shadow_scores",
        "readmission_scores",
    ):
        op.drop_table(table)
    op.execute("DROP FUNCTION refuse_change()")
