"""Boards that are blanked by hand.

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "board_closures",
        sa.Column(
            "closure_id",
            sa.BigInteger(),
            sa.Identity(always=True),
            nullable=False,
            comment="Counts the decisions; of a facility and band the last one holds.",
        ),
        sa.Column("facility_id", sa.Text(), nullable=False, comment="The emergency department."),
        sa.Column("band", sa.Text(), nullable=False, comment="The triage levels that the number is for."),
        sa.Column(
            "cause",
            sa.Text(),
            nullable=True,
            comment="What the board says instead of a wait; NULL: it is open again.",
        ),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=False, comment="From when on it holds."),
        sa.Column("decided_by", sa.Text(), nullable=False, comment="Who typed the command."),
        sa.Column("reason", sa.Text(), nullable=False, comment="Why, in words."),
        sa.CheckConstraint(
            "band IN ('all_posted', 'ctas_2', 'ctas_3', 'ctas_4_5')", name=op.f("ck_board_closures_band")
        ),
        sa.CheckConstraint(
            "cause IN ('closed', 'redirected', 'exceptional', 'not_measured')",
            name=op.f("ck_board_closures_cause"),
        ),
        sa.CheckConstraint("length(trim(decided_by)) > 0", name=op.f("ck_board_closures_decided_by")),
        sa.CheckConstraint("length(trim(reason)) > 0", name=op.f("ck_board_closures_reason")),
        sa.PrimaryKeyConstraint("closure_id", name=op.f("pk_board_closures")),
        comment="Which boards show no wait, by whose decision, whatever models say: append-only.",
    )
    op.create_index(
        "ix_board_closures_facility_id", "board_closures", ["facility_id", "band", "closure_id"], unique=False
    )
    op.execute(
        "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON board_closures "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )


def downgrade() -> None:
    op.drop_index("ix_board_closures_facility_id", table_name="board_closures")
    op.drop_table("board_closures")
