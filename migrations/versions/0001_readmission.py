"""The readmission family: source tables, training set, morning list.

Revision ID: 0001
Revises:
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "demo_ground_truth",
        sa.Column(
            "encounter_id", sa.Text(), nullable=False, comment="The hospital stay, unique over all hospitals."
        ),
        sa.Column(
            "probability", sa.Double(), nullable=False, comment="The probability the label was drawn with."
        ),
        sa.CheckConstraint("probability BETWEEN 0 AND 1", name=op.f("ck_demo_ground_truth_probability")),
        sa.PrimaryKeyConstraint("encounter_id", name=op.f("pk_demo_ground_truth")),
        comment="What the demo generator knows and no model may read: the ceiling of any model on demo data.",
    )
    op.create_table(
        "discharge_events",
        sa.Column(
            "event_id",
            sa.BigInteger(),
            sa.Identity(always=False),
            nullable=False,
            comment="Counts the rows in the order of their arrival.",
        ),
        sa.Column(
            "source", sa.Text(), nullable=False, comment="The feed: demo, uci-diabetes, a hospital's name."
        ),
        sa.Column(
            "encounter_id", sa.Text(), nullable=True, comment="The hospital stay, unique over all hospitals."
        ),
        sa.Column("patient_id", sa.Text(), nullable=True, comment="The patient, the same at every stay."),
        sa.Column("hospital_id", sa.Text(), nullable=True, comment="The discharging hospital."),
        sa.Column("admitted_at", sa.DateTime(timezone=True), nullable=True, comment="When the stay began."),
        sa.Column("discharged_at", sa.DateTime(timezone=True), nullable=True, comment="When the stay ended."),
        sa.Column(
            "discharge_status",
            sa.Text(),
            nullable=True,
            comment="How the stay ended, for eligibility only; never a feature.",
        ),
        sa.Column(
            "service_line",
            sa.Text(),
            nullable=True,
            comment="The kind of care given, for eligibility only; never a feature.",
        ),
        sa.Column(
            "deceased_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="When the patient died, if known.",
        ),
        sa.Column(
            "covered_until",
            sa.Date(),
            nullable=True,
            comment="Last day of the member's coverage; absent while it is open-ended.",
        ),
        sa.Column("patient_age", sa.Double(), nullable=True, comment="Age at discharge."),
        sa.Column("length_of_stay_days", sa.Double(), nullable=True, comment="Nights in hospital."),
        sa.Column(
            "num_prior_admissions_12m",
            sa.Double(),
            nullable=True,
            comment="Hospital admissions in the 12 months before this one.",
        ),
        sa.Column("num_chronic_conditions", sa.Double(), nullable=True, comment="Active chronic conditions."),
        sa.Column(
            "primary_diagnosis_group", sa.Text(), nullable=True, comment="Group of the principal diagnosis."
        ),
        sa.Column(
            "discharge_disposition", sa.Text(), nullable=True, comment="Where the patient is discharged to."
        ),
        sa.Column("insurance_type", sa.Text(), nullable=True, comment="The payer."),
        sa.Column(
            "emergency_admission",
            sa.Boolean(),
            nullable=True,
            comment="Whether the admission came through the emergency department.",
        ),
        sa.Column(
            "num_medications_at_discharge",
            sa.Double(),
            nullable=True,
            comment="Medications prescribed at discharge.",
        ),
        sa.Column(
            "has_follow_up_scheduled",
            sa.Boolean(),
            nullable=True,
            comment="Whether a follow-up appointment is booked, at whatever date.",
        ),
        sa.Column(
            "ingested_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When the row arrived. A later row of the same encounter corrects the earlier one.",
        ),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_discharge_events")),
        comment="Discharges as hospitals send them: append-only, unchecked, so that a bad row is kept and seen.",
    )
    op.create_index("ix_discharge_events_encounter_id", "discharge_events", ["encounter_id"], unique=False)
    op.create_index(
        "ix_discharge_events_listed_at",
        "discharge_events",
        [sa.literal_column("least(discharged_at, ingested_at)")],
        unique=False,
    )
    op.create_index("ix_discharge_events_patient_id", "discharge_events", ["patient_id"], unique=False)
    op.create_table(
        "inpatient_admissions",
        sa.Column(
            "encounter_id", sa.Text(), nullable=False, comment="The hospital stay, unique over all hospitals."
        ),
        sa.Column("patient_id", sa.Text(), nullable=False, comment="The patient, the same at every stay."),
        sa.Column("admitted_at", sa.DateTime(timezone=True), nullable=False, comment="When the stay began."),
        sa.Column("planned", sa.Boolean(), nullable=False, comment="Planned stays are no readmission (CMS)."),
        sa.Column("source", sa.Text(), nullable=False, comment="The feed."),
        sa.Column(
            "ingested_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When the row arrived.",
        ),
        sa.PrimaryKeyConstraint("encounter_id", name=op.f("pk_inpatient_admissions")),
        comment="Every acute inpatient stay that began, also those still open: tells who was readmitted.",
    )
    op.create_index(
        "ix_inpatient_admissions_patient_id_admitted_at",
        "inpatient_admissions",
        ["patient_id", "admitted_at"],
        unique=False,
    )
    op.create_table(
        "outreach_lists",
        sa.Column("score_date", sa.Date(), nullable=False, comment="The day on which the window opens."),
        sa.Column(
            "window_start",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="First discharge time on the list.",
        ),
        sa.Column(
            "window_end",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="First discharge time of the next list.",
        ),
        sa.Column("events", sa.Integer(), nullable=False, comment="Rows of discharge_events in the window."),
        sa.Column("superseded", sa.Integer(), nullable=False, comment="Rows that a later row corrected."),
        sa.Column("quarantined", sa.Integer(), nullable=False, comment="Rows that break the contract."),
        sa.Column("excluded", sa.Integer(), nullable=False, comment="Encounters that are not eligible."),
        sa.Column("scored", sa.Integer(), nullable=False, comment="Encounters on the list."),
        sa.Column(
            "admissions", sa.Integer(), nullable=False, comment="Admissions known when the list was made."
        ),
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
        sa.Column(
            "published_at", sa.DateTime(timezone=True), nullable=False, comment="When the list was last made."
        ),
        sa.CheckConstraint(
            "events = superseded + quarantined + excluded + scored", name=op.f("ck_outreach_lists_reconciles")
        ),
        sa.CheckConstraint("window_start < window_end", name=op.f("ck_outreach_lists_window")),
        sa.PrimaryKeyConstraint("score_date", name=op.f("pk_outreach_lists")),
        comment="One row per published morning list, also for a day on which nobody was discharged.",
    )
    op.create_table(
        "readmission_outcomes",
        sa.Column("encounter_id", sa.Text(), nullable=False, comment="The index stay."),
        sa.Column(
            "readmitted_within_30_days", sa.Boolean(), nullable=False, comment="As the source recorded it."
        ),
        sa.Column("source", sa.Text(), nullable=False, comment="The feed."),
        sa.Column(
            "recorded_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="From when on the outcome was known.",
        ),
        sa.PrimaryKeyConstraint("encounter_id", name=op.f("pk_readmission_outcomes")),
        comment="Outcomes of sources that give the label itself instead of the admissions behind it.",
    )
    op.create_table(
        "readmission_training_set",
        sa.Column(
            "encounter_id", sa.Text(), nullable=False, comment="The hospital stay, unique over all hospitals."
        ),
        sa.Column("patient_id", sa.Text(), nullable=False, comment="The patient, the same at every stay."),
        sa.Column(
            "discharged_at", sa.DateTime(timezone=True), nullable=False, comment="When the stay ended."
        ),
        sa.Column(
            "part", sa.Text(), nullable=False, comment="Which part of the split; a patient is in one only."
        ),
        sa.Column("readmitted_within_30_days", sa.Boolean(), nullable=False, comment="The label."),
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
            "contract_hash", sa.Text(), nullable=False, comment="The contract under which this was made."
        ),
        sa.CheckConstraint(
            "discharge_disposition IN ('home', 'home_with_care', 'skilled_nursing', 'rehab', 'other')",
            name=op.f("ck_readmission_training_set_discharge_disposition"),
        ),
        sa.CheckConstraint(
            "insurance_type IN ('commercial', 'medicare', 'medicaid', 'dual_eligible', 'unknown')",
            name=op.f("ck_readmission_training_set_insurance_type"),
        ),
        sa.CheckConstraint(
            "part IN ('train', 'validation', 'test')", name=op.f("ck_readmission_training_set_part")
        ),
        sa.CheckConstraint(
            "primary_diagnosis_group IN ('cardiac', 'respiratory', 'digestive', 'musculoskeletal', 'neurological', 'endocrine', 'other')",
            name=op.f("ck_readmission_training_set_primary_diagnosis_group"),
        ),
        sa.CheckConstraint(
            "length_of_stay_days BETWEEN 0 AND 365",
            name=op.f("ck_readmission_training_set_length_of_stay_days"),
        ),
        sa.CheckConstraint(
            "num_chronic_conditions BETWEEN 0 AND 50",
            name=op.f("ck_readmission_training_set_num_chronic_conditions"),
        ),
        sa.CheckConstraint(
            "num_medications_at_discharge BETWEEN 0 AND 100",
            name=op.f("ck_readmission_training_set_num_medications_at_discharge"),
        ),
        sa.CheckConstraint(
            "num_prior_admissions_12m BETWEEN 0 AND 100",
            name=op.f("ck_readmission_training_set_num_prior_admissions_12m"),
        ),
        sa.CheckConstraint(
            "patient_age BETWEEN 0 AND 120", name=op.f("ck_readmission_training_set_patient_age")
        ),
        sa.PrimaryKeyConstraint("encounter_id", name=op.f("pk_readmission_training_set")),
        comment="Index discharges with matured labels, as the champion's training run saw them.",
    )
    op.create_table(
        "care_management_scores",
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
        sa.Column("hospital_id", sa.Text(), nullable=False, comment="The discharging hospital."),
        sa.Column(
            "discharged_at", sa.DateTime(timezone=True), nullable=False, comment="When the stay ended."
        ),
        sa.Column(
            "rank",
            sa.Integer(),
            nullable=False,
            comment="1 is called first: probability, then time, then id.",
        ),
        sa.Column(
            "within_capacity",
            sa.Boolean(),
            nullable=False,
            comment="Whether the day's calls reach this rank.",
        ),
        sa.Column("readmission_probability", sa.Double(), nullable=False, comment="Calibrated, 30 days."),
        sa.Column(
            "risk_tier", sa.Text(), nullable=False, comment="From the stored probability, by the policy."
        ),
        sa.Column(
            "top_factors",
            postgresql.JSONB(),
            nullable=False,
            comment="[{feature, value, contribution, direction, text}]; contribution in log-odds.",
        ),
        sa.Column("recommended_actions", postgresql.JSONB(), nullable=False, comment="Texts, by the policy."),
        sa.Column("disclaimer", sa.Text(), nullable=False, comment="The policy's disclaimer, word for word."),
        sa.Column("model_name", sa.Text(), nullable=False, comment="The model's name in the registry."),
        sa.Column(
            "model_version", sa.Integer(), nullable=False, comment="The model's version in the registry."
        ),
        sa.Column(
            "policy_version", sa.Text(), nullable=False, comment="The version that the policy gives itself."
        ),
        sa.Column("policy_hash", sa.Text(), nullable=False, comment="The hash of the policy's rules."),
        sa.Column(
            "features_sha256", sa.Text(), nullable=False, comment="Hash of the encoded features scored."
        ),
        sa.Column(
            "scored_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="When this row was made; one that comes out the same keeps it.",
        ),
        sa.CheckConstraint(
            "risk_tier IN ('low', 'moderate', 'high', 'very_high')",
            name=op.f("ck_care_management_scores_risk_tier"),
        ),
        sa.CheckConstraint(
            "jsonb_array_length(recommended_actions) > 0",
            name=op.f("ck_care_management_scores_recommended_actions"),
        ),
        sa.CheckConstraint("length(disclaimer) > 0", name=op.f("ck_care_management_scores_disclaimer")),
        sa.CheckConstraint("rank >= 1", name=op.f("ck_care_management_scores_rank")),
        sa.CheckConstraint(
            "readmission_probability BETWEEN 0 AND 1",
            name=op.f("ck_care_management_scores_readmission_probability"),
        ),
        sa.ForeignKeyConstraint(
            ["score_date"], ["outreach_lists.score_date"], name=op.f("fk_care_management_scores_score_date")
        ),
        sa.PrimaryKeyConstraint("score_date", "encounter_id", name=op.f("pk_care_management_scores")),
        sa.UniqueConstraint("score_date", "rank", name=op.f("uq_care_management_scores_score_date_rank")),
        comment="The morning outreach list: who to call, in which order, why, and what to do.",
    )
    op.create_index(
        "ix_care_management_scores_patient_id", "care_management_scores", ["patient_id"], unique=False
    )
    op.create_table(
        "encounter_quarantine",
        sa.Column(
            "score_date",
            sa.Date(),
            nullable=False,
            comment="The day on which the window of the list opens, at 06:00.",
        ),
        sa.Column(
            "event_id",
            sa.BigInteger(),
            nullable=False,
            comment="Counts the rows in the order of their arrival.",
        ),
        sa.Column("field", sa.Text(), nullable=False, comment="The field whose rule was broken."),
        sa.Column("reason", sa.Text(), nullable=False, comment="Why, in one word."),
        sa.Column("encounter_id", sa.Text(), nullable=True, comment="As sent; may be missing."),
        sa.CheckConstraint(
            "reason IN ('missing', 'wrong_type', 'not_finite', 'not_whole', 'below_minimum', 'above_maximum', 'unknown_category', 'empty', 'before_admission', 'after_arrival', 'padded')",
            name=op.f("ck_encounter_quarantine_reason"),
        ),
        sa.ForeignKeyConstraint(
            ["event_id"], ["discharge_events.event_id"], name=op.f("fk_encounter_quarantine_event_id")
        ),
        sa.PrimaryKeyConstraint("score_date", "event_id", "field", name=op.f("pk_encounter_quarantine")),
        comment="Rows that broke the contract, field by field. The row itself stays in discharge_events.",
    )
    op.create_table(
        "outreach_exclusions",
        sa.Column(
            "score_date",
            sa.Date(),
            nullable=False,
            comment="The day on which the window of the list opens, at 06:00.",
        ),
        sa.Column(
            "encounter_id", sa.Text(), nullable=False, comment="The hospital stay, unique over all hospitals."
        ),
        sa.Column("reason", sa.Text(), nullable=False, comment="Why, in one word."),
        sa.CheckConstraint(
            "reason IN ('expired', 'hospice', 'transferred', 'left_against_advice', 'status_unknown', 'minor', 'service_line', 'deceased', 'not_covered', 'readmitted')",
            name=op.f("ck_outreach_exclusions_reason"),
        ),
        sa.ForeignKeyConstraint(
            ["score_date"], ["outreach_lists.score_date"], name=op.f("fk_outreach_exclusions_score_date")
        ),
        sa.PrimaryKeyConstraint("score_date", "encounter_id", name=op.f("pk_outreach_exclusions")),
        comment="Valid discharges that are not to be called, and why.",
    )
    op.execute(
        """
        CREATE VIEW outreach_patients AS
        SELECT DISTINCT ON (score_date, patient_id) *
        FROM care_management_scores
        ORDER BY score_date, patient_id, rank
        """
    )
    op.execute(
        "COMMENT ON VIEW outreach_patients IS 'The morning list by patient: the highest rank of each.'"
    )


def downgrade() -> None:
    op.execute("DROP VIEW outreach_patients")
    op.drop_table("outreach_exclusions")
    op.drop_table("encounter_quarantine")
    op.drop_table("care_management_scores")
    op.drop_table("readmission_training_set")
    op.drop_table("readmission_outcomes")
    op.drop_table("outreach_lists")
    op.drop_table("inpatient_admissions")
    op.drop_table("discharge_events")
    op.drop_table("demo_ground_truth")
