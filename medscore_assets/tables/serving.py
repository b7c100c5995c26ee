"""What the API writes: scores asked for one by one, the audit trail, and who may ask.

Belongs here: tables that only `serving/` writes. Does not belong here: lists (`readmission.py`).
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.readmission.policy import TIERS
from medscore_assets.tables.common import PROBABILITY, TIMESTAMP, column, metadata, one_of, probability_check
from medscore_assets.tables.readmission import feature_checks, feature_columns

SCORE_SOURCES = ("api", "cds_hooks", "inference", "portal")
FEEDBACK_OUTCOMES = ("accepted", "overridden")

readmission_scores = sa.Table(
    "readmission_scores",
    metadata,
    sa.Column("score_id", sa.Text, primary_key=True, comment="A UUID; also the card's and the assessment's."),
    sa.Column("source", sa.Text, nullable=False, comment="By which way it was asked for."),
    sa.Column("client", sa.Text, nullable=False, comment="Who asked: issuer and subject, or key."),
    sa.Column("idempotency_key", sa.Text, comment="The client's name for its request; it scores once."),
    sa.Column("encounter_id", sa.Text, comment="The stay, if the client named it."),
    sa.Column("patient_id", sa.Text, comment="The patient, if the client named them."),
    sa.Column("data_as_of", TIMESTAMP, comment="From when the features are, if the client said so."),
    *feature_columns(READMISSION),
    sa.Column("features_sha256", sa.Text, nullable=False, comment="Hash of the encoded features scored."),
    sa.Column("readmission_probability", PROBABILITY, nullable=False, comment="Calibrated, 30 days."),
    sa.Column("risk_tier", sa.Text, nullable=False, comment="From the stored probability, by the policy."),
    sa.Column(
        "explanation",
        JSONB,
        nullable=False,
        comment="{baseline, factors: [{feature, value, contribution, direction, text}]}; in log-odds.",
    ),
    sa.Column("recommended_actions", JSONB, nullable=False, comment="Texts, by the policy."),
    column("disclaimer", sa.Text, nullable=False),
    column("model_name", sa.Text, nullable=False),
    column("model_version", sa.Integer, nullable=False),
    column("contract_hash", sa.Text, nullable=False),
    column("policy_version", sa.Text, nullable=False),
    column("policy_hash", sa.Text, nullable=False),
    sa.Column("scored_at", TIMESTAMP, nullable=False, comment="When."),
    sa.Index("ix_readmission_scores_encounter_id", "encounter_id"),
    sa.Index("ix_readmission_scores_scored_at", "scored_at"),
    sa.UniqueConstraint("client", "idempotency_key"),
    probability_check("readmission_probability"),
    sa.CheckConstraint(one_of("risk_tier", TIERS), name="risk_tier"),
    sa.CheckConstraint(one_of("source", SCORE_SOURCES), name="source"),
    sa.CheckConstraint("length(disclaimer) > 0", name="disclaimer"),
    sa.CheckConstraint("jsonb_array_length(recommended_actions) > 0", name="recommended_actions"),
    *feature_checks(READMISSION),
    comment="Every score that the API gave, as it was given.",
)

shadow_scores = sa.Table(
    "shadow_scores",
    metadata,
    sa.Column("score_id", sa.Text, primary_key=True, comment="The score that was given."),
    column("model_version", sa.Integer, primary_key=True),
    sa.Column("readmission_probability", PROBABILITY, nullable=False, comment="What this version would say."),
    sa.Column("scored_at", TIMESTAMP, nullable=False, comment="When."),
    probability_check("readmission_probability"),
    comment="What a challenger says of the same requests; shown to nobody.",
)

audit_events = sa.Table(
    "audit_events",
    metadata,
    sa.Column(
        "sequence",
        sa.BigInteger,
        primary_key=True,
        autoincrement=False,
        comment="The place in the chain, from 1, no gaps.",
    ),
    sa.Column("recorded_at", TIMESTAMP, nullable=False, comment="When it happened."),
    sa.Column(
        "event", sa.Text, nullable=False, comment="The FHIR AuditEvent as canonical JSON: ids, no values."
    ),
    sa.Column("previous_hash", sa.Text, nullable=False, comment="The hash of the event before it."),
    sa.Column("hash", sa.Text, nullable=False, unique=True, comment="SHA-256 of previous_hash and event."),
    sa.Index("ix_audit_events_recorded_at", "recorded_at"),
    comment="Who saw, asked for or was refused what: append-only, each row chained to the one before.",
)

replayed_tokens = sa.Table(
    "replayed_tokens",
    metadata,
    sa.Column("issuer", sa.Text, primary_key=True, comment="The token's issuer."),
    sa.Column("token_id", sa.Text, primary_key=True, comment="Its jti."),
    sa.Column("expires_at", TIMESTAMP, nullable=False, comment="From when on it is refused by its age."),
    sa.Index("ix_replayed_tokens_expires_at", "expires_at"),
    comment="One-time tokens that were used, until they expire.",
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("key_id", sa.Text, primary_key=True, comment="The open part of the key."),
    sa.Column("secret_sha256", sa.Text, nullable=False, comment="Hash of the secret part."),
    sa.Column("client", sa.Text, nullable=False, comment="Whose key it is."),
    sa.Column("roles", JSONB, nullable=False, comment="What it may do."),
    sa.Column("created_at", TIMESTAMP, nullable=False, comment="When it was made."),
    sa.Column("expires_at", TIMESTAMP, nullable=False, comment="From when on it is refused."),
    sa.Column("revoked_at", TIMESTAMP, comment="When it was taken back, if it was."),
    sa.CheckConstraint("expires_at > created_at", name="expires_at"),
    comment="Keys for development; in production tokens are used.",
)

cds_feedback = sa.Table(
    "cds_feedback",
    metadata,
    sa.Column("card_id", sa.Text, primary_key=True, comment="The card's UUID, which is the score's."),
    sa.Column("outcome", sa.Text, primary_key=True, comment="What the clinician did with it."),
    sa.Column("outcome_at", TIMESTAMP, primary_key=True, comment="When, by the client."),
    sa.Column("accepted_suggestions", JSONB, nullable=False, comment="UUIDs of the suggestions taken."),
    sa.Column("override_code", sa.Text, comment="The coded reason for an override."),
    sa.Column(
        "commented", sa.Boolean, nullable=False, comment="Whether a comment came; free text is not kept."
    ),
    sa.Column("received_at", TIMESTAMP, nullable=False, comment="When it came in."),
    sa.CheckConstraint(one_of("outcome", FEEDBACK_OUTCOMES), name="outcome"),
    comment="What clinicians did with cards.",
)
