"""The quarterly population report: members, their snapshots, cells, and the flow of exclusions.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "member_features",
        sa.Column("quarter", sa.Text(), nullable=False, comment="The quarter, as 2026-Q3."),
        sa.Column("member_id", sa.Text(), nullable=False, comment="The member, the same in every quarter."),
        sa.Column(
            "region",
            sa.Text(),
            nullable=True,
            comment="Where the member lives: free text, in the demo a Census division.",
        ),
        sa.Column("hospital_id", sa.Text(), nullable=True, comment="The hospital of the last stay."),
        sa.Column(
            "sex", sa.Text(), nullable=True, comment="As the insurer has it: female, male, or another word."
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
            "index_discharge",
            sa.Boolean(),
            nullable=True,
            comment="Whether the member had a qualifying index discharge in the quarter.",
        ),
        sa.Column(
            "readmitted_within_30_days",
            sa.Boolean(),
            nullable=True,
            comment="The outcome of the index discharge; NULL until it is known, and without one.",
        ),
        sa.PrimaryKeyConstraint("quarter", "member_id", name=op.f("pk_member_features")),
        comment="Members with the features of their last stay, a partition per quarter: unchecked, so that a bad row is kept and counted.",
        postgresql_partition_by="LIST (quarter)",
    )
    op.create_table(
        "member_snapshots",
        sa.Column("quarter", sa.Text(), nullable=False, comment="The quarter, as 2026-Q3."),
        sa.Column(
            "as_of",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="What the members' source knew at this time.",
        ),
        sa.Column("source", sa.Text(), nullable=False, comment="The feed: demo, an insurer's name."),
        sa.Column("rows", sa.BigInteger(), nullable=False, comment="Members in the snapshot."),
        sa.Column(
            "loaded_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When the snapshot was loaded.",
        ),
        sa.CheckConstraint("rows >= 0", name=op.f("ck_member_snapshots_rows")),
        sa.PrimaryKeyConstraint("quarter", name=op.f("pk_member_snapshots")),
        comment="The frozen snapshot that a quarter is reported from; loaded anew, it is another one.",
    )
    op.create_table(
        "population_reports",
        sa.Column("quarter", sa.Text(), nullable=False, comment="The quarter, as 2026-Q3."),
        sa.Column(
            "version",
            sa.Integer(),
            nullable=False,
            comment="Counts up when members, model, contract or policy are others than before.",
        ),
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=False, comment="The snapshot's."),
        sa.Column("rows", sa.BigInteger(), nullable=False, comment="Members in the snapshot."),
        sa.Column(
            "input_fingerprint",
            sa.Text(),
            nullable=False,
            comment="Of all values that the report depends on, whatever the order of the rows.",
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
            "computed_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="When this version was computed.",
        ),
        sa.CheckConstraint("rows >= 0", name=op.f("ck_population_reports_rows")),
        sa.CheckConstraint("version >= 1", name=op.f("ck_population_reports_version")),
        sa.PrimaryKeyConstraint("quarter", name=op.f("pk_population_reports")),
        comment="One row per quarter: what its cells were computed from.",
    )
    op.create_table(
        "population_exclusions",
        sa.Column("quarter", sa.Text(), nullable=False, comment="The quarter, as 2026-Q3."),
        sa.Column("reason", sa.Text(), nullable=False, comment="Why, in one word; the first that holds."),
        sa.Column(
            "field", sa.Text(), nullable=False, comment="The field whose rule was broken; empty if none was."
        ),
        sa.Column("members", sa.BigInteger(), nullable=False, comment="Members left out here."),
        sa.CheckConstraint("members >= 0", name=op.f("ck_population_exclusions_members")),
        sa.ForeignKeyConstraint(
            ["quarter"], ["population_reports.quarter"], name=op.f("fk_population_exclusions_quarter")
        ),
        sa.PrimaryKeyConstraint("quarter", "reason", "field", name=op.f("pk_population_exclusions")),
        comment="How all members come down to the scored index discharges; each member counts once.",
    )
    op.create_table(
        "population_risk_published",
        sa.Column("quarter", sa.Text(), nullable=False, comment="The quarter, as 2026-Q3."),
        sa.Column("cube", sa.Text(), nullable=False, comment="The cube, named for what it is split by."),
        sa.Column(
            "region",
            sa.Text(),
            nullable=False,
            comment="Where the member lives. All if the cube is not split by it.",
        ),
        sa.Column(
            "hospital_id",
            sa.Text(),
            nullable=False,
            comment="The hospital. All if the cube is not split by it.",
        ),
        sa.Column(
            "primary_diagnosis_group",
            sa.Text(),
            nullable=False,
            comment="Group of the principal diagnosis. All if the cube is not split by it.",
        ),
        sa.Column(
            "age_group",
            sa.Text(),
            nullable=False,
            comment="From patient_age: 0-17, 18-34, 35-49, 50-64, 65-74, 75-84, 85+. All if the cube is not split by it.",
        ),
        sa.Column(
            "sex", sa.Text(), nullable=False, comment="The member's sex. All if the cube is not split by it."
        ),
        sa.Column(
            "insurance_type",
            sa.Text(),
            nullable=False,
            comment="The payer. All if the cube is not split by it.",
        ),
        sa.Column("members", sa.BigInteger(), nullable=True, comment="All members of the cell."),
        sa.Column(
            "members_scored", sa.BigInteger(), nullable=True, comment="Members whose row keeps the contract."
        ),
        sa.Column(
            "members_invalid",
            sa.BigInteger(),
            nullable=True,
            comment="Members whose row breaks the contract; not scored.",
        ),
        sa.Column(
            "index_discharges",
            sa.BigInteger(),
            nullable=True,
            comment="Members with a qualifying index discharge in the quarter.",
        ),
        sa.Column(
            "index_discharges_scored",
            sa.BigInteger(),
            nullable=True,
            comment="Of these, scored: the population that all risks are of.",
        ),
        sa.Column(
            "high_risk",
            sa.BigInteger(),
            nullable=True,
            comment="Scored index discharges in the tier high or above.",
        ),
        sa.Column(
            "very_high_risk",
            sa.BigInteger(),
            nullable=True,
            comment="Scored index discharges in the tier very high.",
        ),
        sa.Column(
            "matured",
            sa.BigInteger(),
            nullable=True,
            comment="Scored index discharges whose outcome is known.",
        ),
        sa.Column(
            "observed_readmissions", sa.BigInteger(), nullable=True, comment="Readmissions among the matured."
        ),
        sa.Column(
            "mean_risk",
            sa.Double(),
            nullable=True,
            comment="Mean predicted 30-day risk of the scored index discharges, 0 to 1.",
        ),
        sa.Column("mean_risk_low", sa.Double(), nullable=True, comment="Lower end of its 95 % interval."),
        sa.Column("mean_risk_high", sa.Double(), nullable=True, comment="Upper end of its 95 % interval."),
        sa.Column(
            "high_risk_share", sa.Double(), nullable=True, comment="high_risk / index_discharges_scored."
        ),
        sa.Column(
            "very_high_risk_share",
            sa.Double(),
            nullable=True,
            comment="very_high_risk / index_discharges_scored.",
        ),
        sa.Column(
            "expected_readmissions",
            sa.Double(),
            nullable=True,
            comment="Sum of the risks of the scored index discharges.",
        ),
        sa.Column("expected_matured", sa.Double(), nullable=True, comment="Sum of the risks of the matured."),
        sa.Column(
            "observed_to_expected",
            sa.Double(),
            nullable=True,
            comment="observed_readmissions / expected_matured.",
        ),
        sa.Column(
            "oe_low", sa.Double(), nullable=True, comment="Lower end of its exact 95 % interval (Poisson)."
        ),
        sa.Column(
            "oe_high", sa.Double(), nullable=True, comment="Upper end of its exact 95 % interval (Poisson)."
        ),
        sa.Column(
            "member_mean_risk",
            sa.Double(),
            nullable=True,
            comment="Mean risk if discharged, of all scored members: not a member's risk of admission.",
        ),
        sa.Column(
            "suppressed", sa.Boolean(), nullable=False, comment="Whether any figure of the cell is withheld."
        ),
        sa.Column(
            "suppressed_measures",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="The names of the withheld figures, as a list; they are NULL.",
        ),
        sa.CheckConstraint(
            "jsonb_typeof(suppressed_measures) = 'array'",
            name=op.f("ck_population_risk_published_suppressed_measures"),
        ),
        sa.ForeignKeyConstraint(
            ["quarter"], ["population_reports.quarter"], name=op.f("fk_population_risk_published_quarter")
        ),
        sa.PrimaryKeyConstraint(
            "quarter",
            "cube",
            "region",
            "hospital_id",
            "primary_diagnosis_group",
            "age_group",
            "sex",
            "insurance_type",
            name=op.f("pk_population_risk_published"),
        ),
        comment="The cells as they may be shown: small ones withheld, and those that would give them away.",
    )
    op.create_table(
        "population_risk_summary",
        sa.Column("quarter", sa.Text(), nullable=False, comment="The quarter, as 2026-Q3."),
        sa.Column("cube", sa.Text(), nullable=False, comment="The cube, named for what it is split by."),
        sa.Column(
            "region",
            sa.Text(),
            nullable=False,
            comment="Where the member lives. All if the cube is not split by it.",
        ),
        sa.Column(
            "hospital_id",
            sa.Text(),
            nullable=False,
            comment="The hospital. All if the cube is not split by it.",
        ),
        sa.Column(
            "primary_diagnosis_group",
            sa.Text(),
            nullable=False,
            comment="Group of the principal diagnosis. All if the cube is not split by it.",
        ),
        sa.Column(
            "age_group",
            sa.Text(),
            nullable=False,
            comment="From patient_age: 0-17, 18-34, 35-49, 50-64, 65-74, 75-84, 85+. All if the cube is not split by it.",
        ),
        sa.Column(
            "sex", sa.Text(), nullable=False, comment="The member's sex. All if the cube is not split by it."
        ),
        sa.Column(
            "insurance_type",
            sa.Text(),
            nullable=False,
            comment="The payer. All if the cube is not split by it.",
        ),
        sa.Column("members", sa.BigInteger(), nullable=False, comment="All members of the cell."),
        sa.Column(
            "members_scored", sa.BigInteger(), nullable=False, comment="Members whose row keeps the contract."
        ),
        sa.Column(
            "members_invalid",
            sa.BigInteger(),
            nullable=False,
            comment="Members whose row breaks the contract; not scored.",
        ),
        sa.Column(
            "index_discharges",
            sa.BigInteger(),
            nullable=False,
            comment="Members with a qualifying index discharge in the quarter.",
        ),
        sa.Column(
            "index_discharges_scored",
            sa.BigInteger(),
            nullable=False,
            comment="Of these, scored: the population that all risks are of.",
        ),
        sa.Column(
            "high_risk",
            sa.BigInteger(),
            nullable=False,
            comment="Scored index discharges in the tier high or above.",
        ),
        sa.Column(
            "very_high_risk",
            sa.BigInteger(),
            nullable=False,
            comment="Scored index discharges in the tier very high.",
        ),
        sa.Column(
            "matured",
            sa.BigInteger(),
            nullable=False,
            comment="Scored index discharges whose outcome is known.",
        ),
        sa.Column(
            "observed_readmissions",
            sa.BigInteger(),
            nullable=False,
            comment="Readmissions among the matured.",
        ),
        sa.Column(
            "mean_risk",
            sa.Double(),
            nullable=True,
            comment="Mean predicted 30-day risk of the scored index discharges, 0 to 1.",
        ),
        sa.Column("mean_risk_low", sa.Double(), nullable=True, comment="Lower end of its 95 % interval."),
        sa.Column("mean_risk_high", sa.Double(), nullable=True, comment="Upper end of its 95 % interval."),
        sa.Column(
            "high_risk_share", sa.Double(), nullable=True, comment="high_risk / index_discharges_scored."
        ),
        sa.Column(
            "very_high_risk_share",
            sa.Double(),
            nullable=True,
            comment="very_high_risk / index_discharges_scored.",
        ),
        sa.Column(
            "expected_readmissions",
            sa.Double(),
            nullable=True,
            comment="Sum of the risks of the scored index discharges.",
        ),
        sa.Column("expected_matured", sa.Double(), nullable=True, comment="Sum of the risks of the matured."),
        sa.Column(
            "observed_to_expected",
            sa.Double(),
            nullable=True,
            comment="observed_readmissions / expected_matured.",
        ),
        sa.Column(
            "oe_low", sa.Double(), nullable=True, comment="Lower end of its exact 95 % interval (Poisson)."
        ),
        sa.Column(
            "oe_high", sa.Double(), nullable=True, comment="Upper end of its exact 95 % interval (Poisson)."
        ),
        sa.Column(
            "member_mean_risk",
            sa.Double(),
            nullable=True,
            comment="Mean risk if discharged, of all scored members: not a member's risk of admission.",
        ),
        sa.CheckConstraint(
            "0 <= members_scored AND 0 <= members_invalid AND 0 <= observed_readmissions AND observed_readmissions <= matured AND matured <= index_discharges_scored AND 0 <= very_high_risk AND very_high_risk <= high_risk AND high_risk <= index_discharges_scored AND index_discharges_scored <= index_discharges AND index_discharges <= members",
            name=op.f("ck_population_risk_summary_counts"),
        ),
        sa.CheckConstraint(
            "members = members_scored + members_invalid", name=op.f("ck_population_risk_summary_reconciles")
        ),
        sa.ForeignKeyConstraint(
            ["quarter"], ["population_reports.quarter"], name=op.f("fk_population_risk_summary_quarter")
        ),
        sa.PrimaryKeyConstraint(
            "quarter",
            "cube",
            "region",
            "hospital_id",
            "primary_diagnosis_group",
            "age_group",
            "sex",
            "insurance_type",
            name=op.f("pk_population_risk_summary"),
        ),
        comment="Every cell of every cube, unsuppressed: not to be shown. What may be is in population_risk_published.",
    )


def downgrade() -> None:
    for table in (
        "population_risk_summary",
        "population_risk_published",
        "population_exclusions",
        "population_reports",
        "member_snapshots",
        "member_features",
    ):
        op.drop_table(table)
