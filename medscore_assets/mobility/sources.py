"""What comes into the mobility family from outside, as Dagster's catalogue shows it.

Belongs here: a spec per source in the lake. Does not belong here: anything that Dagster computes.
"""

from __future__ import annotations

import dagster as dg
import pyarrow as pa

from medscore_assets import catalog
from medscore_assets.mobility.raw import DIAGNOSES, PATIENTS, RAW_STEPS, SIDE_EFFECTS, THERAPIES
from resources.lake import Dataset


def lake_metadata(dataset: Dataset) -> dict[str, dg.TableSchema | str]:
    """The standard metadata of an asset that is a data set of the lake."""
    return {"dagster/column_schema": _schema(dataset.schema), "folder": dataset.path}


def _schema(schema: pa.Schema) -> dg.TableSchema:
    return dg.TableSchema([dg.TableColumn(name=field.name, type=str(field.type)) for field in schema])


def _clinical(name: str, dataset: Dataset, description: str) -> dg.AssetSpec:
    return dg.AssetSpec(
        name,
        description=f"{description} Filled by feeds, or by: medscore demo steps",
        kinds={"parquet"},
        metadata=lake_metadata(dataset),
        **catalog.MOBILITY,
    )


raw_step_counts = dg.AssetSpec(
    "raw_step_counts",
    description="Step records as devices send them, by UTC day; late and dirty ones included. Filled by "
    "feeds and importers.",
    kinds={"parquet"},
    metadata=lake_metadata(RAW_STEPS),
    **catalog.MOBILITY,
)
CLINICAL_SOURCES = [
    _clinical("mobility_patients", PATIENTS, "Patients with birth date, sex and home zone."),
    _clinical("diagnoses", DIAGNOSES, "Diagnoses with the days on which they hold."),
    _clinical("therapies", THERAPIES, "Therapies with the days on which they hold."),
    _clinical("side_effects", SIDE_EFFECTS, "Side effects with the days on which they hold."),
]
SOURCES = [raw_step_counts, *CLINICAL_SOURCES]
