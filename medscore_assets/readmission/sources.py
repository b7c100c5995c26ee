"""What comes into the readmission family from outside, as Dagster's catalogue shows it.

Belongs here: a spec per source table. Does not belong here: anything that Dagster computes.
"""

from __future__ import annotations

import dagster as dg

from medscore_assets import catalog, tables
from medscore_assets.contracts.readmission import READMISSION

discharge_events = dg.AssetSpec(
    "discharge_events",
    description="Discharges as hospitals send them; dirty rows included. Filled by feeds and importers.",
    kinds={"postgres"},
    metadata=catalog.table_metadata(tables.discharge_events),
    code_version=READMISSION.hash,
    **catalog.READMISSION,
)
inpatient_admissions = dg.AssetSpec(
    "inpatient_admissions",
    description="Acute inpatient stays that began, also those still open. Filled by feeds and importers.",
    kinds={"postgres"},
    metadata=catalog.table_metadata(tables.inpatient_admissions),
    **catalog.READMISSION,
)
readmission_outcomes = dg.AssetSpec(
    "readmission_outcomes",
    description="Outcomes from sources that record the label itself. Filled by importers.",
    kinds={"postgres"},
    metadata=catalog.table_metadata(tables.readmission_outcomes),
    **catalog.READMISSION,
)
SOURCES = [discharge_events, inpatient_admissions, readmission_outcomes]
