"""The daily fit: each model learns from what was on record, and its parameters are kept.

Belongs here: reading history for a fit and keeping what it gave. Does not belong here: learning (`models/`),
and its containment (`running.py`). A backtest gives models the same history (`backtest.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa

from medscore_assets.wait_times import store
from medscore_assets.wait_times.attribution import attribute
from medscore_assets.wait_times.backtest import LEARNING_DAYS, OUTCOME_COLUMNS, OUTCOME_DAYS, on_record
from medscore_assets.wait_times.model import History, Identity
from medscore_assets.wait_times.registry import Registry, locked
from medscore_assets.wait_times.running import FIT_BUDGET, fit_models
from medscore_assets.wait_times.snapshot import HISTORY
from medscore_assets.wait_times.visits import Visits
from resources.errors import PermanentError
from resources.warehouse import Warehouse


@dataclass(frozen=True)
class Fit:
    """What a fit gave."""

    fitted_at: datetime
    rows: int
    """Parameters kept: one row per model and facility."""
    seconds: Mapping[str, float]
    """By model that learns or failed to."""
    problems: Mapping[str, str]
    """By model what went wrong; what it learned before holds on."""

    def metadata(self) -> dict[str, Any]:
        """As Dagster shows it."""
        return {
            "fitted_at": self.fitted_at.isoformat(),
            "dagster/row_count": self.rows,
            "seconds": {name: round(seconds, 2) for name, seconds in self.seconds.items()},
            "problems": dict(self.problems),
        }


def fit(
    warehouse: Warehouse,
    fitted_at: datetime,
    registry: Registry,
    *,
    run_id: str,
    budget: timedelta = FIT_BUDGET,
) -> Fit:
    """Let every model learn from what was on record at `fitted_at` (with a zone), and keep what it did.

    A model that fails keeps what it learned before, and stops no other. Raises `PermanentError` without
    facilities, or if every model failed; else what `Warehouse.transaction` raises.
    """
    models, refused = locked(registry.models, store.known_fingerprints(warehouse))
    learning = [model for model in models if not model.remote]
    wanted = {pair for model in learning for pair in model.outcomes_of()}
    runs = fit_models(learning, history_of(warehouse, fitted_at, wanted), budget=budget)
    learned = {(run.name, run.version): run.parameters for run in runs if run.parameters is not None}
    problems = {failure.name: failure.reason for failure in (*registry.failures, *refused)}
    problems |= {f"{run.name} {run.version}": run.error for run in runs if run.error is not None}
    rows = store.save_parameters(warehouse, learned, fitted_at, run_id)
    if runs and all(run.error is not None for run in runs):
        raise PermanentError(
            "no model could learn: " + "; ".join(f"{name}: {what}" for name, what in problems.items()),
            where="wait_time_model_parameters",
            mend="What the models learned before holds on. Mend the first of them.",
        )
    told = {run.name: run.seconds for run in runs if run.error is not None or run.parameters is not None}
    return Fit(fitted_at, rows, told, problems)


def history_of(
    warehouse: Warehouse, at: datetime, outcomes_of: Collection[Identity], days: int = LEARNING_DAYS
) -> History:
    """What was on record at `at` (with a zone) of the `days` before, with the outcomes of some models.

    Raises `PermanentError` without facilities.
    """
    zones = store.facility_zones(warehouse)
    if not zones:
        raise PermanentError(
            "there is no facility", where="ed_facilities", mend="Import visits, or run: medscore demo visits"
        )
    since = at - timedelta(days=days) - HISTORY
    visits = Visits.of(store.visits_with_versions(warehouse, at, since))
    return History(
        visits=on_record(visits, at, since),
        as_of=at,
        facilities=tuple(zones),
        zones=zones,
        days=days,
        outcomes=_outcomes(warehouse, visits, at, outcomes_of) if outcomes_of else None,
        # Of before, so that a fit of the same moment again gives the same.
        earlier=store.fitted_parameters(warehouse, at - timedelta(microseconds=1)),
    )


def _outcomes(warehouse: Warehouse, visits: Visits, at: datetime, of: Collection[Identity]) -> pa.Table:
    since = at - timedelta(days=OUTCOME_DAYS)
    said = store.predictions_between(warehouse, since, at, pairs=sorted(of))
    found = attribute(visits, said, at, since)
    renamed = ["facility" if name == "facility_id" else name for name in found.column_names]
    return found.rename_columns(renamed).select(list(OUTCOME_COLUMNS))
