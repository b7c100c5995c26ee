"""The wait-time family's tables: visits as they were known, predictions, outcomes, who is shown.

Belongs here: one `Table` per table. Does not belong here: the monthly partitions of predictions and
outcomes; who writes into a month makes it (`medscore_assets/wait_times/store.py`).

`ed_visits` has no rules beyond its types and keys: what a valid wait is, is decided when a visit is used,
and what is dropped is counted (`wait_times/visits.py`). Predictions are keyed by their moment first: a tick
is appended at one end of the index.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from medscore_assets.tables.common import TIMESTAMP, metadata, one_of
from medscore_assets.wait_times.bands import ALL_BANDS

WITH_VALUE = ("ok", "fallback")
WAIT_STATUSES = (*WITH_VALUE, "no_data", "error", "invalid", "timeout")
MODEL_KINDS = ("built_in", "plugin", "http")
ASSIGNMENT_ACTIONS = ("promoted", "rolled_back")
CLOSURE_CAUSES = ("closed", "redirected", "exceptional", "not_measured")
LONGEST_WAIT_S = 86_400

FACILITY = "The emergency department."
BAND = "The triage levels that the number is for."
MODEL = "The model's name."
VERSION = "The model's version, x.y.z; its parts are ordered as numbers."
AS_OF = "The moment of the tick: the prediction knows what was recorded until then."
RUN = "The Dagster run that wrote the row."
TYPICAL = "Half of those who arrive at as_of are seen within so many seconds."
P80 = "Eight in ten are seen within so many seconds; NULL where the model does not say."


def _facility() -> sa.Column[str]:
    return sa.Column("facility_id", sa.Text, primary_key=True, comment=FACILITY)


def _band() -> sa.Column[str]:
    return sa.Column("band", sa.Text, primary_key=True, comment=BAND)


def _model() -> tuple[sa.Column[str], sa.Column[str]]:
    return (
        sa.Column("model", sa.Text, primary_key=True, comment=MODEL),
        sa.Column("version", sa.Text, primary_key=True, comment=VERSION),
    )


ed_facilities = sa.Table(
    "ed_facilities",
    metadata,
    _facility(),
    sa.Column("name", sa.Text, nullable=False, comment="As people call it, in English."),
    sa.Column("name_fr", sa.Text, comment="In French; NULL where it has no other name."),
    sa.Column("zone", sa.Text, nullable=False, comment="The IANA name of its time zone."),
    sa.Column("region", sa.Text, comment="Where it is, as reports group it."),
    sa.CheckConstraint("facility_id <> ''", name="facility_id"),
    comment="Emergency departments whose waits are predicted.",
)

ed_visits = sa.Table(
    "ed_visits",
    metadata,
    sa.Column(
        "facility_id", sa.Text, sa.ForeignKey("ed_facilities.facility_id"), primary_key=True, comment=FACILITY
    ),
    sa.Column("visit_id", sa.Text, primary_key=True, comment="Opaque; unique within its facility."),
    sa.Column("recorded_at", TIMESTAMP, primary_key=True, comment="From when on this version was known."),
    sa.Column(
        "superseded_at", TIMESTAMP, comment="When a later version took its place; NULL: it is current."
    ),
    sa.Column("arrival", TIMESTAMP, comment="Start of the wait: registration or triage, the earlier."),
    sa.Column("triage_at", TIMESTAMP, comment="When triage was done."),
    sa.Column("ctas", sa.SmallInteger, comment="Triage level, 1 the sickest; NULL where unknown."),
    sa.Column("pia_at", TIMESTAMP, comment="Physician initial assessment: end of the wait."),
    sa.Column("left_at", TIMESTAMP, comment="When the patient left without being seen."),
    sa.Column("disposition_at", TIMESTAMP, comment="When it was decided where the patient goes."),
    sa.Column("scheduled", sa.Boolean, nullable=False, comment="Whether the visit had an appointment."),
    sa.Column("source", sa.Text, nullable=False, comment="The feed or file that told of it."),
    sa.CheckConstraint("ctas BETWEEN 1 AND 5", name="ctas"),
    sa.CheckConstraint("superseded_at > recorded_at", name="superseded_at"),
    comment="Visits in all versions that were known: what was known at a moment can be read later.",
)
sa.Index(
    "ix_ed_visits_current",
    ed_visits.c.facility_id,
    ed_visits.c.visit_id,
    unique=True,
    postgresql_where=ed_visits.c.superseded_at.is_(None),
)
sa.Index("ix_ed_visits_arrival", ed_visits.c.arrival, postgresql_where=ed_visits.c.superseded_at.is_(None))
sa.Index(
    "ix_ed_visits_superseded_at",
    ed_visits.c.superseded_at,
    postgresql_where=ed_visits.c.superseded_at.is_not(None),
)
sa.Index(
    "ix_ed_visits_superseded_arrival",
    ed_visits.c.arrival,
    postgresql_where=ed_visits.c.superseded_at.is_not(None),
)

wait_time_model_versions = sa.Table(
    "wait_time_model_versions",
    metadata,
    *_model(),
    sa.Column("fingerprint", sa.Text, nullable=False, comment="Hash of parameters and code."),
    sa.Column("parameters", JSONB, nullable=False, comment="What the version was declared with."),
    sa.Column("kind", sa.Text, nullable=False, comment="Where the model comes from."),
    sa.Column("baseline", sa.Boolean, nullable=False, comment="A yardstick: shown only where it is forced."),
    sa.Column("first_seen_at", TIMESTAMP, nullable=False, comment="When it first ran."),
    sa.CheckConstraint(one_of("kind", MODEL_KINDS), name="kind"),
    comment="Every version of a model that ever ran; another fingerprint under the same version is refused.",
)

wait_time_model_parameters = sa.Table(
    "wait_time_model_parameters",
    metadata,
    *_model(),
    sa.Column(
        "facility_id", sa.Text, primary_key=True, comment="The facility; empty: the model's for all of them."
    ),
    sa.Column(
        "fitted_at", TIMESTAMP, primary_key=True, comment="The fit knows what was recorded until then."
    ),
    sa.Column("parameters", JSONB, nullable=False, comment="What the fit gave; the model reads it."),
    sa.Column("run_id", sa.Text, nullable=False, comment=RUN),
    comment="Fitted parameters; a tick takes the newest that were fitted before it.",
)

wait_time_ticks = sa.Table(
    "wait_time_ticks",
    metadata,
    sa.Column("as_of", TIMESTAMP, primary_key=True, comment=AS_OF),
    sa.Column("started_at", TIMESTAMP, nullable=False, comment="When the run began that wrote it last."),
    sa.Column("finished_at", TIMESTAMP, nullable=False, comment="When its predictions were there."),
    sa.Column("input_newest", TIMESTAMP, comment="When the newest visit row was recorded that it knew."),
    sa.Column("visits", sa.Integer, nullable=False, comment="Visits that it was made from."),
    sa.Column("rows", sa.Integer, nullable=False, comment="Predictions, those without a value too."),
    sa.Column("with_value", sa.Integer, nullable=False, comment="Predictions with a value."),
    sa.Column("problems", JSONB, nullable=False, comment="{model: what is wrong with it}."),
    sa.Column("replay", sa.Boolean, nullable=False, comment="Made later than two ticks after as_of."),
    sa.Column("run_id", sa.Text, nullable=False, comment=RUN),
    sa.Column("code_version", sa.Text, nullable=False, comment="The version of MedScore that made it."),
    sa.CheckConstraint("with_value BETWEEN 0 AND rows", name="with_value"),
    comment="One row per tick that was made.",
)

wait_time_facility_ticks = sa.Table(
    "wait_time_facility_ticks",
    metadata,
    sa.Column("as_of", TIMESTAMP, primary_key=True, comment=AS_OF),
    _facility(),
    sa.Column("visits", sa.Integer, nullable=False, comment="Visits of the last four days."),
    sa.Column("waiting", JSONB, nullable=False, comment="{band: people who wait for a physician}."),
    sa.Column("in_treatment", sa.Integer, nullable=False, comment="People seen and not yet decided on."),
    sa.Column("newest_record", TIMESTAMP, comment="When the newest row of the facility was recorded."),
    sa.Column("stale_input", sa.Boolean, nullable=False, comment="Whether its feed had fallen silent."),
    sa.Column("dropped", JSONB, nullable=False, comment="{rule: visits that it dropped}."),
    comment="What each facility looked like at a tick: people waiting, freshness, rows dropped.",
)

wait_time_predictions = sa.Table(
    "wait_time_predictions",
    metadata,
    sa.Column("as_of", TIMESTAMP, primary_key=True, comment=AS_OF),
    _facility(),
    _band(),
    *_model(),
    sa.Column("wait_seconds", sa.Double, comment=TYPICAL),
    sa.Column("p80_seconds", sa.Double, comment=P80),
    sa.Column("raw_p80_seconds", sa.Double, comment="p80_seconds before calibration, where there was one."),
    sa.Column("status", sa.Text, nullable=False, comment="Whether there is a value, and if not, why."),
    sa.Column("message", sa.Text, nullable=False, comment="Why, in words; nothing of a patient."),
    sa.Column("latency_ms", sa.Double, nullable=False, comment="How long the model took for all facilities."),
    sa.Column("run_id", sa.Text, nullable=False, comment=RUN),
    sa.Index("ix_wait_time_predictions_facility_id", "facility_id", "band", "model", "version", "as_of"),
    sa.CheckConstraint(f"wait_seconds BETWEEN 0 AND {LONGEST_WAIT_S}", name="wait_seconds"),
    sa.CheckConstraint(f"p80_seconds BETWEEN wait_seconds AND {LONGEST_WAIT_S}", name="p80_seconds"),
    sa.CheckConstraint(one_of("band", ALL_BANDS), name="band"),
    sa.CheckConstraint(one_of("status", WAIT_STATUSES), name="status"),
    sa.CheckConstraint(f"({one_of('status', WITH_VALUE)}) = (wait_seconds IS NOT NULL)", name="value"),
    comment="What every model said at every tick, a partition per month of as_of.",
    postgresql_partition_by="RANGE (as_of)",
)

wait_time_outcomes = sa.Table(
    "wait_time_outcomes",
    metadata,
    sa.Column("arrival", TIMESTAMP, primary_key=True, comment="When the patient arrived."),
    _facility(),
    sa.Column("visit_id", sa.Text, primary_key=True, comment="The visit."),
    _band(),
    *_model(),
    sa.Column("as_of", TIMESTAMP, nullable=False, comment="The latest tick before the arrival."),
    sa.Column("p50_seconds", sa.Double, nullable=False, comment=TYPICAL),
    sa.Column("p80_seconds", sa.Double, comment=P80),
    sa.Column("actual_seconds", sa.Double, comment="The wait; NULL while waiting and for who left."),
    sa.Column("censored_at_seconds", sa.Double, comment="How long was waited so far, or until leaving."),
    sa.Column("left_unseen", sa.Boolean, nullable=False, comment="Left without being seen."),
    sa.Column("resolved_at", TIMESTAMP, comment="When the end was recorded; NULL while it is open."),
    sa.CheckConstraint(one_of("band", ALL_BANDS), name="band"),
    sa.CheckConstraint(
        "(actual_seconds IS NULL) <> (censored_at_seconds IS NULL)", name="actual_or_censored"
    ),
    comment="Each patient with the latest prediction before the arrival, a partition per month of arrival.",
    postgresql_partition_by="RANGE (arrival)",
)

_COUNTS = {
    "n": "Patients with a prediction who were seen.",
    "left_unseen": "Patients with a prediction who left unseen.",
    "known_misses": "Patients who still wait, past the posted wait.",
    "unresolved": "Patients who still wait, within the posted wait.",
    "ticks": "Values that were expected of the model.",
}
_MEASURES = {
    "pinball_50": "Mean pinball loss of the typical wait at one half, seconds.",
    "pinball_80": "Mean pinball loss of the posted wait at 0.8, seconds: what models are ranked by.",
    "mae": "Mean absolute error of the typical wait, seconds.",
    "bias": "Mean of typical wait minus wait, seconds.",
    "coverage_seen": "Share within the posted wait of those who were seen.",
    "coverage": "The same with known misses counted.",
    "coverage_lower": "The same with those who left counted as missed.",
    "coverage_upper": "The same with those counted as hits who left within the posted wait.",
    "mean_posted": "Mean of the posted wait, seconds.",
    "availability": "Share of the ticks' expected values that were there.",
    "mean_change": "Mean change of the typical wait from tick to tick, seconds.",
    "jumps": "Share of these changes above 30 minutes.",
}

wait_time_performance = sa.Table(
    "wait_time_performance",
    metadata,
    sa.Column("day", sa.Date, primary_key=True, comment="The facility's local day of arrivals."),
    _facility(),
    _band(),
    *_model(),
    *(sa.Column(name, sa.Integer, nullable=False, comment=says) for name, says in _COUNTS.items()),
    *(sa.Column(name, sa.Double, comment=says) for name, says in _MEASURES.items()),
    sa.Column("measured_at", TIMESTAMP, nullable=False, comment="When the row was made or last changed."),
    sa.CheckConstraint(one_of("band", ALL_BANDS), name="band"),
    comment="How each model did on each day, and the board itself, as the model board.",
)

wait_time_outcome_days = sa.Table(
    "wait_time_outcome_days",
    metadata,
    sa.Column("day", sa.Date, primary_key=True, comment="The facility's local day of arrivals."),
    _facility(),
    sa.Column("known_at", TIMESTAMP, nullable=False, comment="What was recorded until then is in it."),
    sa.Column("versions", sa.BigInteger, nullable=False, comment="Versions, superseded ones twice: grows."),
    sa.Column("open_patients", sa.Integer, nullable=False, comment="Patients whose wait had not ended."),
    sa.Column("measured", sa.Boolean, nullable=False, comment="Whether the day's performance rests on it."),
    comment="Until when the outcomes of a day are known; a visit that changes later opens it again.",
)

wait_time_displays = sa.Table(
    "wait_time_displays",
    metadata,
    sa.Column("as_of", TIMESTAMP, primary_key=True, comment=AS_OF),
    _facility(),
    _band(),
    sa.Column("model", sa.Text, comment="The model that was shown; NULL where nothing was."),
    sa.Column("version", sa.Text, comment="Its version."),
    sa.Column("wait_seconds", sa.Double, comment="What the model said."),
    sa.Column("p80_seconds", sa.Double, comment="What the model said."),
    sa.Column("low_minutes", sa.Integer, comment="Lower end as shown; NULL where nothing was."),
    sa.Column("high_minutes", sa.Integer, comment="Upper end as shown; NULL where nothing was."),
    sa.Column(
        "code", sa.Text, nullable=False, comment="Which sentence; it also tells what is above the cap."
    ),
    sa.Column("basis_p50_seconds", sa.Double, comment="The prediction that the shown range was chosen for."),
    sa.Column("basis_p80_seconds", sa.Double, comment="Likewise, eight in ten."),
    sa.Column("pending", sa.Boolean, nullable=False, comment="Another range waits for the next tick."),
    sa.Column("replaced", sa.Boolean, nullable=False, comment="Another model stood in for the assigned one."),
    sa.CheckConstraint(one_of("band", ALL_BANDS), name="band"),
    comment="What the boards were given at each tick.",
)

serving_assignments = sa.Table(
    "serving_assignments",
    metadata,
    sa.Column(
        "assignment_id",
        sa.BigInteger,
        sa.Identity(always=True),
        primary_key=True,
        comment="Counts the assignments; of a facility and band the last one holds.",
    ),
    sa.Column("facility_id", sa.Text, nullable=False, comment=FACILITY),
    sa.Column("band", sa.Text, nullable=False, comment=BAND),
    sa.Column("model", sa.Text, nullable=False, comment=MODEL),
    sa.Column("version", sa.Text, nullable=False, comment=VERSION),
    sa.Column("action", sa.Text, nullable=False, comment="By which command."),
    sa.Column("assigned_at", TIMESTAMP, nullable=False, comment="From when on it is shown."),
    sa.Column("assigned_by", sa.Text, nullable=False, comment="Who typed the command."),
    sa.Column("reason", sa.Text, nullable=False, comment="Why, in words."),
    sa.Column("forced", sa.Boolean, nullable=False, comment="Whether the evidence was overruled."),
    sa.Column("evidence", JSONB, comment="What the comparison with the one before said; NULL: none."),
    sa.Index("ix_serving_assignments_facility_id", "facility_id", "band", "assignment_id"),
    sa.CheckConstraint(one_of("band", ALL_BANDS), name="band"),
    sa.CheckConstraint(one_of("action", ASSIGNMENT_ACTIONS), name="action"),
    sa.CheckConstraint("length(trim(reason)) > 0", name="reason"),
    sa.CheckConstraint("length(trim(assigned_by)) > 0", name="assigned_by"),
    comment="Which model is shown where: append-only.",
)

board_closures = sa.Table(
    "board_closures",
    metadata,
    sa.Column(
        "closure_id",
        sa.BigInteger,
        sa.Identity(always=True),
        primary_key=True,
        comment="Counts the decisions; of a facility and band the last one holds.",
    ),
    sa.Column("facility_id", sa.Text, nullable=False, comment=FACILITY),
    sa.Column("band", sa.Text, nullable=False, comment=BAND),
    sa.Column("cause", sa.Text, comment="What the board says instead of a wait; NULL: it is open again."),
    sa.Column("decided_at", TIMESTAMP, nullable=False, comment="From when on it holds."),
    sa.Column("decided_by", sa.Text, nullable=False, comment="Who typed the command."),
    sa.Column("reason", sa.Text, nullable=False, comment="Why, in words."),
    sa.Index("ix_board_closures_facility_id", "facility_id", "band", "closure_id"),
    sa.CheckConstraint(one_of("band", ALL_BANDS), name="band"),
    sa.CheckConstraint(one_of("cause", CLOSURE_CAUSES), name="cause"),
    sa.CheckConstraint("length(trim(reason)) > 0", name="reason"),
    sa.CheckConstraint("length(trim(decided_by)) > 0", name="decided_by"),
    comment="Which boards show no wait, by whose decision, whatever models say: append-only.",
)

wait_time_breakers = sa.Table(
    "wait_time_breakers",
    metadata,
    sa.Column("url_hash", sa.Text, primary_key=True, comment="Hash of the server and the model on it."),
    sa.Column("version", sa.Text, nullable=False, comment="The version that answered last."),
    sa.Column("failures", sa.Integer, nullable=False, comment="Failed calls in a row."),
    sa.Column("opened_at", TIMESTAMP, comment="Since when it is left alone; NULL: it is called."),
    sa.CheckConstraint("failures >= 0", name="failures"),
    comment="Which HTTP models are left alone for a while.",
)
