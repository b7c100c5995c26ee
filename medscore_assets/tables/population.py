"""The quarterly population report's tables: members as frozen per quarter, cells of every cube, the flow.

Belongs here: one `Table` per table; the features are derived from the contract.
Does not belong here: the partitions of `member_features`, one per quarter; who loads a snapshot makes its
partition (`medscore_assets/member_loading.py`).
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.tables.common import TIMESTAMP, column, metadata
from medscore_assets.tables.readmission import landing_columns

QUARTER = "The quarter, as 2026-Q3."
_FEATURES = set(READMISSION.feature_names)

member_features = sa.Table(
    "member_features",
    metadata,
    sa.Column("quarter", sa.Text, primary_key=True, comment=QUARTER),
    sa.Column("member_id", sa.Text, primary_key=True, comment="The member, the same in every quarter."),
    sa.Column("region", sa.Text, comment="Where the member lives: free text, in the demo a Census division."),
    sa.Column("hospital_id", sa.Text, comment="The hospital of the last stay."),
    sa.Column("sex", sa.Text, comment="As the insurer has it: female, male, or another word."),
    *(c for c in landing_columns(READMISSION) if c.name in _FEATURES),
    sa.Column(
        "index_discharge",
        sa.Boolean,
        comment="Whether the member had a qualifying index discharge in the quarter.",
    ),
    sa.Column(
        "readmitted_within_30_days",
        sa.Boolean,
        comment="The outcome of the index discharge; NULL until it is known, and without one.",
    ),
    comment="Members with the features of their last stay, a partition per quarter: unchecked, so that a "
    "bad row is kept and counted.",
    postgresql_partition_by="LIST (quarter)",
)

member_snapshots = sa.Table(
    "member_snapshots",
    metadata,
    sa.Column("quarter", sa.Text, primary_key=True, comment=QUARTER),
    sa.Column("as_of", TIMESTAMP, nullable=False, comment="What the members' source knew at this time."),
    sa.Column("source", sa.Text, nullable=False, comment="The feed: demo, an insurer's name."),
    sa.Column("rows", sa.BigInteger, nullable=False, comment="Members in the snapshot."),
    sa.Column(
        "loaded_at",
        TIMESTAMP,
        nullable=False,
        server_default=sa.func.now(),
        comment="When the snapshot was loaded.",
    ),
    sa.CheckConstraint("rows >= 0", name="rows"),
    comment="The frozen snapshot that a quarter is reported from; loaded anew, it is another one.",
)

population_reports = sa.Table(
    "population_reports",
    metadata,
    sa.Column("quarter", sa.Text, primary_key=True, comment=QUARTER),
    sa.Column(
        "version",
        sa.Integer,
        nullable=False,
        comment="Counts up when members, model, contract or policy are others than before.",
    ),
    sa.Column("as_of", TIMESTAMP, nullable=False, comment="The snapshot's."),
    sa.Column("rows", sa.BigInteger, nullable=False, comment="Members in the snapshot."),
    sa.Column(
        "input_fingerprint",
        sa.Text,
        nullable=False,
        comment="Of all values that the report depends on, whatever the order of the rows.",
    ),
    column("model_name", sa.Text, nullable=False),
    column("model_version", sa.Integer, nullable=False),
    column("contract_hash", sa.Text, nullable=False),
    column("policy_version", sa.Text, nullable=False),
    column("policy_hash", sa.Text, nullable=False),
    sa.Column("computed_at", TIMESTAMP, nullable=False, comment="When this version was computed."),
    sa.CheckConstraint("version >= 1", name="version"),
    sa.CheckConstraint("rows >= 0", name="rows"),
    comment="One row per quarter: what its cells were computed from.",
)

population_exclusions = sa.Table(
    "population_exclusions",
    metadata,
    sa.Column(
        "quarter", sa.Text, sa.ForeignKey(population_reports.c.quarter), primary_key=True, comment=QUARTER
    ),
    sa.Column("reason", sa.Text, primary_key=True, comment="Why, in one word; the first that holds."),
    sa.Column(
        "field", sa.Text, primary_key=True, comment="The field whose rule was broken; empty if none was."
    ),
    sa.Column("members", sa.BigInteger, nullable=False, comment="Members left out here."),
    sa.CheckConstraint("members >= 0", name="members"),
    comment="How all members come down to the scored index discharges; each member counts once.",
)

DIMENSION_COLUMNS = {
    "region": "Where the member lives.",
    "hospital_id": "The hospital.",
    "primary_diagnosis_group": READMISSION.fields["primary_diagnosis_group"].description,
    "age_group": "From patient_age: 0-17, 18-34, 35-49, 50-64, 65-74, 75-84, 85+.",
    "sex": "The member's sex.",
    "insurance_type": READMISSION.fields["insurance_type"].description,
}
"""What a cell is of. All: not split by it. Unknown: missing, blank, or not in the contract."""

COUNT_COLUMNS = {
    "members": "All members of the cell.",
    "members_scored": "Members whose row keeps the contract.",
    "members_invalid": "Members whose row breaks the contract; not scored.",
    "index_discharges": "Members with a qualifying index discharge in the quarter.",
    "index_discharges_scored": "Of these, scored: the population that all risks are of.",
    "high_risk": "Scored index discharges in the tier high or above.",
    "very_high_risk": "Scored index discharges in the tier very high.",
    "matured": "Scored index discharges whose outcome is known.",
    "observed_readmissions": "Readmissions among the matured.",
}

MEASURE_COLUMNS = {
    "mean_risk": "Mean predicted 30-day risk of the scored index discharges, 0 to 1.",
    "mean_risk_low": "Lower end of its 95 % interval.",
    "mean_risk_high": "Upper end of its 95 % interval.",
    "high_risk_share": "high_risk / index_discharges_scored.",
    "very_high_risk_share": "very_high_risk / index_discharges_scored.",
    "expected_readmissions": "Sum of the risks of the scored index discharges.",
    "expected_matured": "Sum of the risks of the matured.",
    "observed_to_expected": "observed_readmissions / expected_matured.",
    "oe_low": "Lower end of its exact 95 % interval (Poisson).",
    "oe_high": "Upper end of its exact 95 % interval (Poisson).",
    "member_mean_risk": "Mean risk if discharged, of all scored members: not a member's risk of admission.",
}
"""NULL where the denominator is 0."""


def _cell_columns(*, counts_required: bool) -> list[sa.Column[object]]:
    """A cell's key and figures."""
    quarter = sa.Column(
        "quarter", sa.Text, sa.ForeignKey(population_reports.c.quarter), primary_key=True, comment=QUARTER
    )
    return [
        quarter,
        sa.Column("cube", sa.Text, primary_key=True, comment="The cube, named for what it is split by."),
        *(
            sa.Column(name, sa.Text, primary_key=True, comment=f"{says} All if the cube is not split by it.")
            for name, says in DIMENSION_COLUMNS.items()
        ),
        *(
            sa.Column(name, sa.BigInteger, nullable=not counts_required, comment=says)
            for name, says in COUNT_COLUMNS.items()
        ),
        *(sa.Column(name, sa.Double, comment=says) for name, says in MEASURE_COLUMNS.items()),
    ]


population_risk_summary = sa.Table(
    "population_risk_summary",
    metadata,
    *_cell_columns(counts_required=True),
    sa.CheckConstraint("members = members_scored + members_invalid", name="reconciles"),
    sa.CheckConstraint(
        "0 <= members_scored AND 0 <= members_invalid AND 0 <= observed_readmissions"
        " AND observed_readmissions <= matured AND matured <= index_discharges_scored"
        " AND 0 <= very_high_risk AND very_high_risk <= high_risk AND high_risk <= index_discharges_scored"
        " AND index_discharges_scored <= index_discharges AND index_discharges <= members",
        name="counts",
    ),
    comment="Every cell of every cube, unsuppressed: not to be shown. What may be is in "
    "population_risk_published.",
)

population_risk_published = sa.Table(
    "population_risk_published",
    metadata,
    *_cell_columns(counts_required=False),
    sa.Column(
        "suppressed", sa.Boolean, nullable=False, comment="Whether any figure of the cell is withheld."
    ),
    sa.Column(
        "suppressed_measures",
        JSONB,
        nullable=False,
        comment="The names of the withheld figures, as a list; they are NULL.",
    ),
    sa.CheckConstraint("jsonb_typeof(suppressed_measures) = 'array'", name="suppressed_measures"),
    comment="The cells as they may be shown: small ones withheld, and those that would give them away.",
)
