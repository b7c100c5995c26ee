"""Scores need their list: asked once a statement, where a foreign key asks once a row.

Revision ID: 0007
Revises: 0006
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_KEY = "fk_care_management_scores_score_date"
_BROKEN = (
    "ERRCODE = 'foreign_key_violation', SCHEMA = TG_TABLE_SCHEMA, TABLE = 'care_management_scores', "
    f"CONSTRAINT = '{_KEY}'"
)


def upgrade() -> None:
    op.drop_constraint(_KEY, "care_management_scores", type_="foreignkey")
    # As under a foreign key: the list stays locked until the scores are committed or gone.
    op.execute(
        f"""
        CREATE FUNCTION require_list() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE
            day date;
            is_there boolean;
        BEGIN
            FOR day IN SELECT DISTINCT score_date FROM written LOOP
                EXECUTE format(
                    'SELECT true FROM %I.outreach_lists WHERE score_date = $1 FOR KEY SHARE', TG_TABLE_SCHEMA
                ) INTO is_there USING day;
                IF is_there IS NULL THEN
                    RAISE EXCEPTION 'scores of a day without a list' USING {_BROKEN};
                END IF;
            END LOOP;
            RETURN NULL;
        END
        $$
        """
    )
    # Whoever wrote scores of a removed list had it locked, so they are committed and a snapshot of now has
    # them. Under a snapshot for the whole transaction that is not so.
    op.execute(
        f"""
        CREATE FUNCTION keep_list() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE
            gone date[];
            has_scores boolean;
        BEGIN
            EXECUTE format(
                'SELECT array_agg(r.score_date) FROM removed r
                WHERE NOT EXISTS (SELECT FROM %I.outreach_lists l WHERE l.score_date = r.score_date)',
                TG_TABLE_SCHEMA
            ) INTO gone;
            IF gone IS NULL THEN
                RETURN NULL;
            END IF;
            IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN
                RAISE EXCEPTION 'lists are removed at the isolation level read committed'
                USING ERRCODE = 'invalid_transaction_state';
            END IF;
            EXECUTE format(
                'SELECT EXISTS (SELECT FROM %I.care_management_scores WHERE score_date = ANY ($1))',
                TG_TABLE_SCHEMA
            ) INTO has_scores USING gone;
            IF has_scores THEN
                RAISE EXCEPTION 'a list that has scores' USING {_BROKEN};
            END IF;
            RETURN NULL;
        END
        $$
        """
    )
    op.execute(
        f"""
        CREATE FUNCTION keep_every_list() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE
            has_scores boolean;
        BEGIN
            EXECUTE format('SELECT EXISTS (SELECT FROM %I.care_management_scores)', TG_TABLE_SCHEMA)
            INTO has_scores;
            IF has_scores THEN
                RAISE EXCEPTION 'lists that have scores' USING {_BROKEN};
            END IF;
            RETURN NULL;
        END
        $$
        """
    )
    for event in ("INSERT", "UPDATE"):
        op.execute(
            f"CREATE TRIGGER require_list_{event.lower()} AFTER {event} ON care_management_scores "
            "REFERENCING NEW TABLE AS written FOR EACH STATEMENT EXECUTE FUNCTION require_list()"
        )
    for event in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER keep_list_{event.lower()} AFTER {event} ON outreach_lists "
            "REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION keep_list()"
        )
    op.execute(
        "CREATE TRIGGER keep_list_truncate AFTER TRUNCATE ON outreach_lists "
        "FOR EACH STATEMENT EXECUTE FUNCTION keep_every_list()"
    )


def downgrade() -> None:
    for event in ("truncate", "delete", "update"):
        op.execute(f"DROP TRIGGER keep_list_{event} ON outreach_lists")
    for event in ("update", "insert"):
        op.execute(f"DROP TRIGGER require_list_{event} ON care_management_scores")
    for name in ("keep_every_list", "keep_list", "require_list"):
        op.execute(f"DROP FUNCTION {name}()")
    op.create_foreign_key(_KEY, "care_management_scores", "outreach_lists", ["score_date"], ["score_date"])
