"""Wait times' jobs, sources, and what its assets ask for by name.

Belongs here: which assets run together. Does not belong here: when (`schedules/`, `sensors/`), and the
definitions that these are part of (`medscore_assets/definitions.py`).
"""

from typing import Any

import dagster as dg

from medscore_assets import catalog, tables
from medscore_assets.settings import Settings
from medscore_assets.wait_times.assets import (
    wait_time_model_parameters,
    wait_time_outcomes,
    wait_time_performance,
    wait_time_predictions,
)
from medscore_assets.wait_times.assignment import Bootstrap

TICK_JOB, FIT_JOB, SCORING_JOB = "wait_time_tick", "wait_time_fit", "wait_time_scoring"

SOURCES = [
    dg.AssetSpec(
        "ed_visits",
        description="Visits to emergency departments in all versions that were known. Filled by feeds and "
        "importers.",
        kinds={"postgres"},
        metadata=catalog.table_metadata(tables.ed_visits),
        **catalog.WAIT_TIMES,
    ),
    dg.AssetSpec(
        "ed_facilities",
        description="Emergency departments, with names and time zones. Filled by importers.",
        kinds={"postgres"},
        metadata=catalog.table_metadata(tables.ed_facilities),
        **catalog.WAIT_TIMES,
    ),
]

ASSETS = [
    *SOURCES,
    wait_time_predictions,
    wait_time_model_parameters,
    wait_time_outcomes,
    wait_time_performance,
]

JOBS = [
    dg.define_asset_job(
        TICK_JOB,
        selection=dg.AssetSelection.assets(wait_time_predictions),
        # Ahead of hours of training in the queue: the boards wait for it.
        tags={"dagster/priority": "10"},
        description="One tick: all models for all emergency departments, one step.",
    ),
    dg.define_asset_job(
        FIT_JOB,
        selection=dg.AssetSelection.assets(wait_time_model_parameters),
        description="The daily fit of the wait-time models.",
    ),
    dg.define_asset_job(
        SCORING_JOB,
        selection=dg.AssetSelection.assets(wait_time_outcomes, wait_time_performance),
        tags={"dagster/priority": "5"},
        description="Outcomes of wait-time predictions and the performance of each day.",
    ),
]


def wait_time_resources(settings: Settings) -> dict[str, Any]:
    """What wait times' assets ask for by name."""
    return {
        "wait_models_file": settings.wait_models_path,
        "wait_bootstrap": Bootstrap(settings.wait_model, settings.wait_model_version),
    }
