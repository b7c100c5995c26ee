"""Wait times as Dagster assets: predictions, outcomes, performance, fitted parameters.

Belongs here: read through a resource, call one function, report in counts. Does not belong here: any rule,
any formula, any SQL.

None of them looks at the clock for what it is about: the moment is the schedule's, given in the run's
configuration, so that a run made late or again is about the same moment.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg

from medscore_assets import catalog, tables
from medscore_assets.failures import failures
from medscore_assets.wait_times.assignment import Bootstrap
from medscore_assets.wait_times.checks import TICK_CHECKS, tick_results
from resources.errors import PermanentError
from resources.warehouse import Warehouse

LATE = timedelta(minutes=35)
"""Two ticks, and the time that a run takes."""


class MomentConfig(dg.Config):
    """What the run is about."""

    as_of: str = ""
    """The moment as ISO 8601 with a zone, such as 2026-03-02T14:15:00+00:00."""

    def moment(self) -> datetime:
        """In UTC. Raises `PermanentError` where it is absent or has no zone."""
        try:
            found = datetime.fromisoformat(self.as_of)
        except ValueError:
            found = None
        if found is None or found.tzinfo is None:
            raise PermanentError(
                "the run does not say which moment it is about",
                where="configuration as_of",
                mend="Give as_of with a zone, such as 2026-03-02T14:15:00+00:00, or use: medscore waits tick",
            )
        return found.astimezone(UTC)


def at_moment(moment: datetime, *assets: str) -> dict[str, Any]:
    """The run configuration by which these assets are about a moment."""
    return {"ops": {name: {"config": {"as_of": moment.astimezone(UTC).isoformat()}} for name in assets}}


@dg.asset(
    deps=["ed_visits", "ed_facilities"],
    kinds={"postgres"},
    check_specs=TICK_CHECKS,
    freshness_policy=dg.FreshnessPolicy.time_window(fail_window=LATE),
    metadata=catalog.table_metadata(tables.wait_time_predictions),
    pool="wait_time_tick",
    **catalog.WAIT_TIMES,
)
def wait_time_predictions(
    context: dg.AssetExecutionContext,
    config: MomentConfig,
    warehouse: dg.ResourceParam[Warehouse],
    wait_models_file: dg.ResourceParam[Path],
    wait_bootstrap: dg.ResourceParam[Bootstrap],
) -> dg.MaterializeResult:
    """What every model says at one tick about every facility and triage band, by what was known at it.

    A model or facility that fails has rows that say so; the others are not touched. One transaction; the
    same tick again changes nothing.
    """
    from medscore_assets.wait_times.registry import load_models
    from medscore_assets.wait_times.tick import make_tick

    with failures():
        made = make_tick(
            warehouse,
            config.moment(),
            load_models(wait_models_file),
            default=wait_bootstrap,
            run_id=context.run.run_id,
        )
        checked = list(tick_results(warehouse, made))
    for model, what in made.problems.items():
        context.log.warning("%s: %s", model, what)
    return dg.MaterializeResult(metadata=made.metadata(), check_results=checked)


@dg.asset(
    deps=["ed_visits", "ed_facilities", wait_time_predictions],
    kinds={"postgres", "xgboost", "statsmodels"},
    metadata=catalog.table_metadata(tables.wait_time_model_parameters),
    pool="wait_time_fit",
    **catalog.WAIT_TIMES,
)
def wait_time_model_parameters(
    context: dg.AssetExecutionContext,
    config: MomentConfig,
    warehouse: dg.ResourceParam[Warehouse],
    wait_models_file: dg.ResourceParam[Path],
) -> dg.MaterializeResult:
    """What each model learns daily from the last six weeks, as they were known; numbers, never objects."""
    from medscore_assets.wait_times.fitting import fit
    from medscore_assets.wait_times.registry import load_models

    with failures():
        made = fit(warehouse, config.moment(), load_models(wait_models_file), run_id=context.run.run_id)
    for model, what in made.problems.items():
        context.log.warning("%s: %s", model, what)
    return dg.MaterializeResult(metadata=made.metadata())


@dg.asset(
    deps=["ed_visits", wait_time_predictions],
    kinds={"postgres"},
    metadata=catalog.table_metadata(tables.wait_time_outcomes),
    pool="wait_time_outcomes",
    **catalog.WAIT_TIMES,
)
def wait_time_outcomes(config: MomentConfig, warehouse: dg.ResourceParam[Warehouse]) -> dg.MaterializeResult:
    """Each patient beside the prediction that was on show on arriving, per model, seen or still waiting.

    A day is scored again while its patients wait, and when visits of it change, however late.
    """
    from medscore_assets.wait_times.scoring_outcomes import days_to_score, score_days

    with failures():
        until = config.moment()
        days = days_to_score(warehouse, until)
        changed = score_days(warehouse, days, until)
    return dg.MaterializeResult(
        metadata={
            "days_scored": len(changed),
            "facility_days_scored": len(days),
            "rows_changed": sum(changed.values()),
            "oldest_day": str(min(changed, default="")),
        }
    )


@dg.asset(
    deps=[wait_time_outcomes],
    kinds={"postgres"},
    metadata=catalog.table_metadata(tables.wait_time_performance),
    pool="wait_time_outcomes",
    **catalog.WAIT_TIMES,
)
def wait_time_performance(
    config: MomentConfig, warehouse: dg.ResourceParam[Warehouse]
) -> dg.MaterializeResult:
    """Loss, error, coverage, availability and steadiness of every model and of the board, day by day."""
    from medscore_assets.wait_times.scoring_outcomes import measure_days

    with failures():
        changed = measure_days(warehouse, config.moment())
    return dg.MaterializeResult(
        metadata={"days_measured": len(changed), "rows_changed": sum(changed.values())}
    )
