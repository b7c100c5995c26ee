"""The warehouse's tables, as SQLAlchemy Core sees them.

Belongs here: one `Table` per table, with keys, check constraints and comments, a module per family.
Does not belong here: queries and writes (assets and `resources.warehouse`), and the creation of tables:
Alembic does that (`migrations/`), and a test compares the two.
"""

from medscore_assets.tables.common import SAYS, metadata
from medscore_assets.tables.mobility import (
    mobility_days,
    mobility_forecast_days,
    mobility_forecast_outcomes,
    mobility_forecasts,
    mobility_routes,
)
from medscore_assets.tables.operations import alerts, model_decisions, monitoring_measures
from medscore_assets.tables.population import (
    member_features,
    member_snapshots,
    population_exclusions,
    population_reports,
    population_risk_published,
    population_risk_summary,
)
from medscore_assets.tables.readmission import (
    care_management_scores,
    demo_ground_truth,
    discharge_events,
    encounter_quarantine,
    feature_checks,
    feature_columns,
    inpatient_admissions,
    landing_columns,
    outreach_calls,
    outreach_exclusions,
    outreach_lists,
    readmission_outcomes,
    readmission_score_outcomes,
    readmission_training_set,
)
from medscore_assets.tables.serving import (
    api_keys,
    audit_events,
    cds_feedback,
    readmission_scores,
    replayed_tokens,
    shadow_scores,
)

__all__ = [
    "SAYS",
    "alerts",
    "api_keys",
    "audit_events",
    "care_management_scores",
    "cds_feedback",
    "demo_ground_truth",
    "discharge_events",
    "encounter_quarantine",
    "feature_checks",
    "feature_columns",
    "inpatient_admissions",
    "landing_columns",
    "member_features",
    "member_snapshots",
    "metadata",
    "mobility_days",
    "mobility_forecast_days",
    "mobility_forecast_outcomes",
    "mobility_forecasts",
    "mobility_routes",
    "model_decisions",
    "monitoring_measures",
    "outreach_calls",
    "outreach_exclusions",
    "outreach_lists",
    "population_exclusions",
    "population_reports",
    "population_risk_published",
    "population_risk_summary",
    "readmission_outcomes",
    "readmission_score_outcomes",
    "readmission_scores",
    "readmission_training_set",
    "replayed_tokens",
    "shadow_scores",
]
