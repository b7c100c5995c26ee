"""Mobility: forecasts and their outcomes, routes, and what days of steps were made from.

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "mobility_days",
        sa.Column("day", sa.Date(), nullable=False, comment="The local day of steps."),
        sa.Column(
            "raw_files", sa.Integer(), nullable=False, comment="Raw files that its steps were made from."
        ),
        sa.Column("raw_fingerprint", sa.Text(), nullable=False, comment="Hash of the names of these files."),
        sa.Column("patients", sa.Integer(), nullable=False, comment="Patients with a row in daily_steps."),
        sa.Column(
            "made_at", sa.DateTime(timezone=True), nullable=False, comment="When its steps were last made."
        ),
        sa.CheckConstraint("patients >= 0", name=op.f("ck_mobility_days_patients")),
        sa.CheckConstraint("raw_files >= 0", name=op.f("ck_mobility_days_raw_files")),
        sa.PrimaryKeyConstraint("day", name=op.f("pk_mobility_days")),
        comment="What every day of daily_steps was made from; a day without raw files has 0 of them.",
    )
    op.create_table(
        "mobility_forecast_days",
        sa.Column(
            "forecast_day",
            sa.Date(),
            nullable=False,
            comment="The day of the features: the forecast knows what was before it.",
        ),
        sa.Column("patients", sa.Integer(), nullable=False, comment="Patients with features, each forecast."),
        sa.Column("rows", sa.Integer(), nullable=False, comment="Forecasts: patients times horizons."),
        sa.Column(
            "served",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="{route: {horizon: who serves, with its version}}.",
        ),
        sa.Column(
            "contract_hash", sa.Text(), nullable=False, comment="The contract under which this was made."
        ),
        sa.Column(
            "published_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="When the day was last published.",
        ),
        sa.CheckConstraint("patients >= 0", name=op.f("ck_mobility_forecast_days_patients")),
        sa.CheckConstraint("rows >= 0", name=op.f("ck_mobility_forecast_days_rows")),
        sa.PrimaryKeyConstraint("forecast_day", name=op.f("pk_mobility_forecast_days")),
        comment="One row per published day of forecasts, also for a day on which nobody has data.",
    )
    op.create_table(
        "mobility_forecast_outcomes",
        sa.Column(
            "forecast_day",
            sa.Date(),
            nullable=False,
            comment="The day of the features: the forecast knows what was before it.",
        ),
        sa.Column("patient_id", sa.Text(), nullable=False, comment="The patient, as in the lake."),
        sa.Column(
            "horizon_days",
            sa.SmallInteger(),
            autoincrement=False,
            nullable=False,
            comment="Days ahead: the forecast is of the steps of forecast_day + horizon_days - 1.",
        ),
        sa.Column("target_day", sa.Date(), nullable=False, comment="The day that was forecast."),
        sa.Column("cohort", sa.Text(), nullable=False, comment="The cohort of the patient's disease."),
        sa.Column(
            "route",
            sa.Text(),
            nullable=False,
            comment="The route that is taken: the cohort, or new for patients with too few days.",
        ),
        sa.Column(
            "serves",
            sa.Text(),
            nullable=False,
            comment="Who forecasts: cohort, global (models), or the name of a naive forecast.",
        ),
        sa.Column(
            "model_name",
            sa.Text(),
            nullable=True,
            comment="The model's name in the registry; NULL where a naive forecast serves.",
        ),
        sa.Column(
            "model_version",
            sa.Integer(),
            nullable=True,
            comment="The model's version in the registry; NULL where a naive forecast serves.",
        ),
        sa.Column("expected_steps", sa.Double(), nullable=False, comment="The forecast."),
        sa.Column(
            "observed_steps", sa.BigInteger(), nullable=False, comment="Steps of the day that was forecast."
        ),
        sa.Column("error", sa.Double(), nullable=False, comment="Forecast minus observed steps."),
        sa.Column(
            "covered",
            sa.Boolean(),
            nullable=True,
            comment="Whether the interval held them; NULL without an interval.",
        ),
        sa.Column(
            "joined_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="When the row was made or last changed.",
        ),
        sa.CheckConstraint("observed_steps >= 0", name=op.f("ck_mobility_forecast_outcomes_observed_steps")),
        sa.CheckConstraint(
            "target_day = forecast_day + horizon_days - 1",
            name=op.f("ck_mobility_forecast_outcomes_target_day"),
        ),
        sa.PrimaryKeyConstraint(
            "forecast_day", "patient_id", "horizon_days", name=op.f("pk_mobility_forecast_outcomes")
        ),
        comment="Forecasts whose day has steps by now, a partition per month of forecast_day.",
        postgresql_partition_by="RANGE (forecast_day)",
    )
    op.create_table(
        "mobility_forecasts",
        sa.Column(
            "forecast_day",
            sa.Date(),
            nullable=False,
            comment="The day of the features: the forecast knows what was before it.",
        ),
        sa.Column("patient_id", sa.Text(), nullable=False, comment="The patient, as in the lake."),
        sa.Column(
            "horizon_days",
            sa.SmallInteger(),
            autoincrement=False,
            nullable=False,
            comment="Days ahead: the forecast is of the steps of forecast_day + horizon_days - 1.",
        ),
        sa.Column("expected_steps", sa.Double(), nullable=False, comment="The forecast; never below 0."),
        sa.Column(
            "lower",
            sa.Double(),
            nullable=True,
            comment="Lower end of the interval; NULL where there is none.",
        ),
        sa.Column(
            "upper",
            sa.Double(),
            nullable=True,
            comment="Upper end of the interval; NULL where there is none.",
        ),
        sa.Column(
            "level", sa.Double(), nullable=True, comment="The share of days that such intervals shall hold."
        ),
        sa.Column("cohort", sa.Text(), nullable=False, comment="The cohort of the patient's disease."),
        sa.Column(
            "route",
            sa.Text(),
            nullable=False,
            comment="The route that is taken: the cohort, or new for patients with too few days.",
        ),
        sa.Column(
            "serves",
            sa.Text(),
            nullable=False,
            comment="Who forecasts: cohort, global (models), or the name of a naive forecast.",
        ),
        sa.Column(
            "model_name",
            sa.Text(),
            nullable=True,
            comment="The model's name in the registry; NULL where a naive forecast serves.",
        ),
        sa.Column(
            "model_version",
            sa.Integer(),
            nullable=True,
            comment="The model's version in the registry; NULL where a naive forecast serves.",
        ),
        sa.Column(
            "contract_hash", sa.Text(), nullable=False, comment="The contract under which this was made."
        ),
        sa.Column("baseline_mean", sa.Double(), nullable=False, comment="Mean steps of the days to date."),
        sa.Column(
            "data_until", sa.Date(), nullable=False, comment="The last day with data before forecast_day."
        ),
        sa.Column(
            "reasons",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="[[feature, value, steps], ...] strongest first; mobility/stored.py puts them in words.",
        ),
        sa.Column("other_steps", sa.Integer(), nullable=False, comment="What all other features add."),
        sa.Column(
            "raised_steps", sa.Integer(), nullable=False, comment="What raises a sum below 0 to 0 steps."
        ),
        sa.Column(
            "flags", sa.Integer(), nullable=False, comment="Bits of mobility/stored.py's ForecastFlag."
        ),
        sa.Column(
            "made_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="When made; a row that comes out the same keeps it.",
        ),
        sa.CheckConstraint(
            "(serves IN ('cohort', 'global')) = (model_version IS NOT NULL)",
            name=op.f("ck_mobility_forecasts_model"),
        ),
        sa.CheckConstraint(
            "cohort IN ('MS', 'PD', 'RA', 'other')", name=op.f("ck_mobility_forecasts_cohort")
        ),
        sa.CheckConstraint("route IN (cohort, 'new')", name=op.f("ck_mobility_forecasts_route")),
        sa.CheckConstraint("0 <= lower AND lower <= upper", name=op.f("ck_mobility_forecasts_interval")),
        sa.CheckConstraint("expected_steps >= 0", name=op.f("ck_mobility_forecasts_expected_steps")),
        sa.CheckConstraint("horizon_days >= 1", name=op.f("ck_mobility_forecasts_horizon_days")),
        sa.PrimaryKeyConstraint(
            "forecast_day", "patient_id", "horizon_days", name=op.f("pk_mobility_forecasts")
        ),
        comment="Forecast steps of every patient with data, a partition per month of forecast_day.",
        postgresql_partition_by="RANGE (forecast_day)",
    )
    op.create_table(
        "mobility_routes",
        sa.Column(
            "route_id",
            sa.BigInteger(),
            sa.Identity(always=True),
            nullable=False,
            comment="Counts the decisions; of a cohort and horizon the last one holds.",
        ),
        sa.Column("cohort", sa.Text(), nullable=False, comment="A cohort, or new."),
        sa.Column("horizon_days", sa.SmallInteger(), nullable=False, comment="Days ahead."),
        sa.Column(
            "serves",
            sa.Text(),
            nullable=False,
            comment="Who forecasts: cohort, global (models), or the name of a naive forecast.",
        ),
        sa.Column(
            "model_name",
            sa.Text(),
            nullable=True,
            comment="The model's name in the registry; NULL where a naive forecast serves.",
        ),
        sa.Column(
            "model_version",
            sa.Integer(),
            nullable=True,
            comment="The version that was judged and calibrated for it.",
        ),
        sa.Column("reason", sa.Text(), nullable=False, comment="Why, in words."),
        sa.Column(
            "route",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="The route with its interval (cohorts.Route).",
        ),
        sa.Column(
            "metrics",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="{candidate.set.measure: value} on held-out rows.",
        ),
        sa.Column(
            "contract_hash", sa.Text(), nullable=False, comment="The contract under which this was made."
        ),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=False, comment="When."),
        sa.Column(
            "decided_by", sa.Text(), nullable=False, comment="The rule of choice, or who typed the command."
        ),
        sa.CheckConstraint(
            "(serves IN ('cohort', 'global')) = (model_version IS NOT NULL)",
            name=op.f("ck_mobility_routes_model"),
        ),
        sa.CheckConstraint(
            "cohort IN ('MS', 'PD', 'RA', 'other', 'new')", name=op.f("ck_mobility_routes_cohort")
        ),
        sa.CheckConstraint("length(trim(reason)) > 0", name=op.f("ck_mobility_routes_reason")),
        sa.PrimaryKeyConstraint("route_id", name=op.f("pk_mobility_routes")),
        comment="Every decision about who serves a cohort at a horizon: append-only.",
    )
    op.create_index(
        "ix_mobility_routes_cohort_horizon_days",
        "mobility_routes",
        ["cohort", "horizon_days", "route_id"],
        unique=False,
    )


def downgrade() -> None:
    op.drop_index("ix_mobility_routes_cohort_horizon_days", table_name="mobility_routes")
    op.drop_table("mobility_routes")
    op.drop_table("mobility_forecasts")
    op.drop_table("mobility_forecast_outcomes")
    op.drop_table("mobility_forecast_days")
    op.drop_table("mobility_days")
