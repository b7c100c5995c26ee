"""The mobility family's tables: forecasts, what became of them, who serves whom, and what days rest on.

Belongs here: one `Table` per table. Does not belong here: the monthly partitions of forecasts and outcomes;
who publishes a day makes its partition (`medscore_assets/monthly.py`). Steps and features are files
of the lake (`resources/lake.py`).

Forecasts are keyed by day first: a day of 200,000 rows is appended at one end of the index, and a patient's
row of a day is one look into it.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from medscore_assets.mobility.cohorts import COHORT_MODEL, COHORTS, GLOBAL_MODEL, NEW, ROUTED
from medscore_assets.tables.common import TIMESTAMP, column, metadata, one_of

SERVES = "Who forecasts: cohort, global (models), or the name of a naive forecast."
ROUTE = "The route that is taken: the cohort, or new for patients with too few days."
HORIZON = "Days ahead: the forecast is of the steps of forecast_day + horizon_days - 1."
FORECAST_DAY = "The day of the features: the forecast knows what was before it."
MODEL = "The model's name in the registry; NULL where a naive forecast serves."
VERSION = "The model's version in the registry; NULL where a naive forecast serves."

_A_MODEL = f"(serves IN ('{COHORT_MODEL}', '{GLOBAL_MODEL}')) = (model_version IS NOT NULL)"

mobility_forecasts = sa.Table(
    "mobility_forecasts",
    metadata,
    sa.Column("forecast_day", sa.Date, primary_key=True, comment=FORECAST_DAY),
    sa.Column("patient_id", sa.Text, primary_key=True, comment="The patient, as in the lake."),
    sa.Column("horizon_days", sa.SmallInteger, primary_key=True, autoincrement=False, comment=HORIZON),
    sa.Column("expected_steps", sa.Double, nullable=False, comment="The forecast; never below 0."),
    sa.Column("lower", sa.Double, comment="Lower end of the interval; NULL where there is none."),
    sa.Column("upper", sa.Double, comment="Upper end of the interval; NULL where there is none."),
    sa.Column("level", sa.Double, comment="The share of days that such intervals shall hold."),
    sa.Column("cohort", sa.Text, nullable=False, comment="The cohort of the patient's disease."),
    sa.Column("route", sa.Text, nullable=False, comment=ROUTE),
    sa.Column("serves", sa.Text, nullable=False, comment=SERVES),
    sa.Column("model_name", sa.Text, comment=MODEL),
    sa.Column("model_version", sa.Integer, comment=VERSION),
    column("contract_hash", sa.Text, nullable=False),
    sa.Column("baseline_mean", sa.Double, nullable=False, comment="Mean steps of the days to date."),
    sa.Column("data_until", sa.Date, nullable=False, comment="The last day with data before forecast_day."),
    sa.Column(
        "reasons",
        JSONB,
        nullable=False,
        comment="[[feature, value, steps], ...] strongest first; mobility/stored.py puts them in words.",
    ),
    sa.Column("other_steps", sa.Integer, nullable=False, comment="What all other features add."),
    sa.Column("raised_steps", sa.Integer, nullable=False, comment="What raises a sum below 0 to 0 steps."),
    sa.Column("flags", sa.Integer, nullable=False, comment="Bits of mobility/stored.py's ForecastFlag."),
    sa.Column(
        "made_at", TIMESTAMP, nullable=False, comment="When made; a row that comes out the same keeps it."
    ),
    sa.CheckConstraint("expected_steps >= 0", name="expected_steps"),
    sa.CheckConstraint("horizon_days >= 1", name="horizon_days"),
    sa.CheckConstraint("0 <= lower AND lower <= upper", name="interval"),
    sa.CheckConstraint(one_of("cohort", COHORTS), name="cohort"),
    sa.CheckConstraint(f"route IN (cohort, '{NEW}')", name="route"),
    sa.CheckConstraint(_A_MODEL, name="model"),
    comment="Forecast steps of every patient with data, a partition per month of forecast_day.",
    postgresql_partition_by="RANGE (forecast_day)",
)

mobility_forecast_outcomes = sa.Table(
    "mobility_forecast_outcomes",
    metadata,
    sa.Column("forecast_day", sa.Date, primary_key=True, comment=FORECAST_DAY),
    sa.Column("patient_id", sa.Text, primary_key=True, comment="The patient, as in the lake."),
    sa.Column("horizon_days", sa.SmallInteger, primary_key=True, autoincrement=False, comment=HORIZON),
    sa.Column("target_day", sa.Date, nullable=False, comment="The day that was forecast."),
    sa.Column("cohort", sa.Text, nullable=False, comment="The cohort of the patient's disease."),
    sa.Column("route", sa.Text, nullable=False, comment=ROUTE),
    sa.Column("serves", sa.Text, nullable=False, comment=SERVES),
    sa.Column("model_name", sa.Text, comment=MODEL),
    sa.Column("model_version", sa.Integer, comment=VERSION),
    sa.Column("expected_steps", sa.Double, nullable=False, comment="The forecast."),
    sa.Column("observed_steps", sa.BigInteger, nullable=False, comment="Steps of the day that was forecast."),
    sa.Column("error", sa.Double, nullable=False, comment="Forecast minus observed steps."),
    sa.Column("covered", sa.Boolean, comment="Whether the interval held them; NULL without an interval."),
    sa.Column("joined_at", TIMESTAMP, nullable=False, comment="When the row was made or last changed."),
    sa.CheckConstraint("observed_steps >= 0", name="observed_steps"),
    sa.CheckConstraint("target_day = forecast_day + horizon_days - 1", name="target_day"),
    comment="Forecasts whose day has steps by now, a partition per month of forecast_day.",
    postgresql_partition_by="RANGE (forecast_day)",
)

mobility_routes = sa.Table(
    "mobility_routes",
    metadata,
    sa.Column(
        "route_id",
        sa.BigInteger,
        sa.Identity(always=True),
        primary_key=True,
        comment="Counts the decisions; of a cohort and horizon the last one holds.",
    ),
    sa.Column("cohort", sa.Text, nullable=False, comment="A cohort, or new."),
    sa.Column("horizon_days", sa.SmallInteger, nullable=False, comment="Days ahead."),
    sa.Column("serves", sa.Text, nullable=False, comment=SERVES),
    sa.Column("model_name", sa.Text, comment=MODEL),
    sa.Column("model_version", sa.Integer, comment="The version that was judged and calibrated for it."),
    sa.Column("reason", sa.Text, nullable=False, comment="Why, in words."),
    sa.Column("route", JSONB, nullable=False, comment="The route with its interval (cohorts.Route)."),
    sa.Column("metrics", JSONB, nullable=False, comment="{candidate.set.measure: value} on held-out rows."),
    column("contract_hash", sa.Text, nullable=False),
    sa.Column("decided_at", TIMESTAMP, nullable=False, comment="When."),
    sa.Column("decided_by", sa.Text, nullable=False, comment="The rule of choice, or who typed the command."),
    sa.Index("ix_mobility_routes_cohort_horizon_days", "cohort", "horizon_days", "route_id"),
    sa.CheckConstraint(one_of("cohort", ROUTED), name="cohort"),
    sa.CheckConstraint("length(trim(reason)) > 0", name="reason"),
    sa.CheckConstraint(_A_MODEL, name="model"),
    comment="Every decision about who serves a cohort at a horizon: append-only.",
)

mobility_days = sa.Table(
    "mobility_days",
    metadata,
    sa.Column("day", sa.Date, primary_key=True, comment="The local day of steps."),
    sa.Column("raw_files", sa.Integer, nullable=False, comment="Raw files that its steps were made from."),
    sa.Column("raw_fingerprint", sa.Text, nullable=False, comment="Hash of the names of these files."),
    sa.Column("patients", sa.Integer, nullable=False, comment="Patients with a row in daily_steps."),
    sa.Column("made_at", TIMESTAMP, nullable=False, comment="When its steps were last made."),
    sa.CheckConstraint("raw_files >= 0", name="raw_files"),
    sa.CheckConstraint("patients >= 0", name="patients"),
    comment="What every day of daily_steps was made from; a day without raw files has 0 of them.",
)

mobility_forecast_days = sa.Table(
    "mobility_forecast_days",
    metadata,
    sa.Column("forecast_day", sa.Date, primary_key=True, comment=FORECAST_DAY),
    sa.Column("patients", sa.Integer, nullable=False, comment="Patients with features, each forecast."),
    sa.Column("rows", sa.Integer, nullable=False, comment="Forecasts: patients times horizons."),
    sa.Column("served", JSONB, nullable=False, comment="{route: {horizon: who serves, with its version}}."),
    column("contract_hash", sa.Text, nullable=False),
    sa.Column("published_at", TIMESTAMP, nullable=False, comment="When the day was last published."),
    sa.CheckConstraint("patients >= 0", name="patients"),
    sa.CheckConstraint("rows >= 0", name="rows"),
    comment="One row per published day of forecasts, also for a day on which nobody has data.",
)
