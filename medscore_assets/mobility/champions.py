"""The life of mobility models beside the registry: fitted, judged, decided about, and given their routes.

Belongs here: the order of reads and writes around `training.py`, `gate.py` and `promotion.py`. Does not
belong here: rules, fitting, plots (`shape_plots.py`), and Dagster.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from medscore_assets.contracts.mobility import MOBILITY
from medscore_assets.mobility.cohorts import COHORT_MODEL, COHORTS, GLOBAL_MODEL, NEW, ROUTED
from medscore_assets.mobility.drift_store import store_reference
from medscore_assets.mobility.evaluation import Choice, HeldOut
from medscore_assets.mobility.forecasts import HORIZONS
from medscore_assets.mobility.gate import CHALLENGER_FORECAST, CHAMPION_FORECAST, Gate, Verdict, judge
from medscore_assets.mobility.model import MobilityModel, model_name
from medscore_assets.mobility.publish import append_routes
from medscore_assets.mobility.training import Settings, fit_cohort, fit_global, judge_forecasts, judged_rows
from medscore_assets.mobility.training_rows import read_training_set
from medscore_assets.mobility.training_set import HELD_OUT_PATIENTS, LATER_DATES, TrainingSet
from medscore_assets.model_decisions import REFUSED, VERDICT_TAG, Decision, StoredVerdict
from medscore_assets.promotion import apply_verdict
from resources.errors import PermanentError
from resources.lake import Lake
from resources.registry import CHALLENGER, CHAMPION, ModelRegistry, StoredModel
from resources.warehouse import Warehouse

EXPLANATION = "explanation"
"""The folder of a version's run that holds its shape functions."""

RULE_OF_CHOICE = "rule of choice"
"""Who decided about a route, where nobody did by hand."""

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Fitted:
    """One registered challenger; `version` is None where there were too few rows, and `reason` says so."""

    name: str
    version: int | None
    rounds: int
    rows: int
    reason: str


@dataclass(frozen=True)
class Judged:
    """One horizon: what was decided of each model, and who serves each route."""

    horizon_days: int
    decisions: Mapping[str, Decision]
    """By the name in the registry; only models that were trained or serve."""
    choices: Mapping[str, Choice]
    """By route."""
    routes_changed: int


def fit(
    lake: Lake,
    registry: ModelRegistry,
    cohort: str,
    horizon_days: int,
    settings: Settings | None = None,
    *,
    tags: Mapping[str, str] | None = None,
) -> Fitted:
    """Fit the model of a cohort, or `global`, register it with its explanation, make it challenger.

    A cohort with too few rows gets no model, which is no error: naive forecasts or the global model serve.
    """
    name = model_name(cohort, horizon_days)
    data, _ = read_training_set(lake, horizon_days)
    how = settings or Settings()
    try:
        model = fit_global(data, how) if cohort == GLOBAL_MODEL else fit_cohort(data, cohort, how)
    except PermanentError as error:
        return Fitted(name, None, 0, 0, error.what)
    version = register(registry, model, tags=tags)
    store_reference(registry, version, model, data)
    manifest = model.manifest
    return Fitted(name, version, manifest.rounds, sum(manifest.rows.values()), "")


def register(registry: ModelRegistry, model: MobilityModel, *, tags: Mapping[str, str] | None = None) -> int:
    """Register a model with the plots of its shape functions, as challenger; its version."""
    from medscore_assets.mobility.shape_plots import write_shapes
    from resources.mlflow_store import files_flavor

    with tempfile.TemporaryDirectory(prefix="medscore-mobility-") as folder:
        files, plots = Path(folder) / "model", Path(folder) / EXPLANATION
        files.mkdir()
        model.save(files)
        version = registry.register(
            model.name,
            files,
            params=dict(model.manifest.parameters),
            metrics=dict(model.manifest.metrics),
            tags=tags,
            flavor=files_flavor,
        )
        plots.mkdir()
        write_shapes(model, plots)
        registry.attach(model.name, version, plots, EXPLANATION)
        registry.set_alias(model.name, version, CHALLENGER)
    return version


def decide(
    lake: Lake, warehouse: Warehouse, registry: ModelRegistry, gate: Gate, horizon_days: int
) -> Judged:
    """Judge the challengers of a horizon, promote or refuse them, and choose who serves each route."""
    data, table = read_training_set(lake, horizon_days)
    decisions = {}
    for cohort in (*COHORTS, GLOBAL_MODEL):
        made = _decide(warehouse, registry, gate, data, table, cohort)
        if made is not None:
            decisions[made.model_name] = made
    champions = _champions(registry, horizon_days)
    forecasts = {of: _forecasts(stored.model, data, table) for of, stored in champions.items()}
    refused = {
        of: decisions[name].reason
        for of in (*COHORTS, GLOBAL_MODEL)
        if (name := model_name(of, horizon_days)) in decisions and decisions[name].decision == REFUSED
    }
    choices = {
        key: judge_forecasts(data, key, _of_route(key, forecasts), _of_route(key, refused)) for key in ROUTED
    }
    now = datetime.now(UTC)
    entered = append_routes(warehouse, [_route_row(c, champions, now) for c in choices.values()])
    return Judged(horizon_days, decisions, choices, entered)


def compare(lake: Lake, registry: ModelRegistry, horizon_days: int) -> dict[str, Choice]:
    """What every candidate errs by on the rows that no model was fitted on, by route; nothing is decided.

    Of each model the champion competes, else its newest version, which the gate may have refused. Routes
    without such rows are left out. Raises `PermanentError` before anything was trained.
    """
    data, table = read_training_set(lake, horizon_days)
    models = _champions(registry, horizon_days)
    for of in (*COHORTS, GLOBAL_MODEL):
        versions = [] if of in models else registry.versions(model_name(of, horizon_days))
        loaded = _loaded(registry.stored(versions[0].name, versions[0].version)) if versions else None
        if loaded is not None:
            models[of] = loaded
    forecasts = {of: _forecasts(stored.model, data, table) for of, stored in models.items()}
    held_out = set(data.routes[np.isin(data.parts, (LATER_DATES, HELD_OUT_PATIENTS))].tolist())
    return {key: judge_forecasts(data, key, _of_route(key, forecasts)) for key in ROUTED if key in held_out}


def _of_route(key: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """What there is of the two models that compete for a route, by `global` and `cohort`."""
    competing = (
        {GLOBAL_MODEL: GLOBAL_MODEL} if key == NEW else {GLOBAL_MODEL: GLOBAL_MODEL, COHORT_MODEL: key}
    )
    return {name: found[of] for name, of in competing.items() if of in found}


@dataclass(frozen=True)
class _Loaded:
    name: str
    version: int
    model: MobilityModel


def _champions(registry: ModelRegistry, horizon_days: int) -> dict[str, _Loaded]:
    """The champions of a horizon under this contract, by cohort and `global`."""
    found = {}
    for of in (*COHORTS, GLOBAL_MODEL):
        name = model_name(of, horizon_days)
        if registry.version_with(name, CHAMPION) is not None:
            loaded = _loaded(registry.champion(name))
            if loaded is not None:
                found[of] = loaded
    return found


def _loaded(stored: StoredModel) -> _Loaded | None:
    """None for a version of another contract, which can forecast nothing here."""
    if stored.tags.get("contract_hash") != MOBILITY.hash:
        return None
    return _Loaded(stored.name, stored.version, MobilityModel.load(stored.directory, MOBILITY))


def _decide(
    warehouse: Warehouse,
    registry: ModelRegistry,
    gate: Gate,
    data: TrainingSet,
    table: pa.Table,
    cohort: str,
) -> Decision | None:
    name = model_name(cohort, data.encoding.horizon_days)
    version, champion = registry.version_with(name, CHALLENGER), registry.version_with(name, CHAMPION)
    if version is None and champion is None:
        return None
    if version is not None and version != champion:
        stored = registry.stored(name, version)
        if not _still_holds(stored, champion, gate):
            reigning = None if champion is None else _loaded(registry.stored(name, champion))
            verdict = _verdict(stored, reigning, gate, data, table, cohort)
            registry.log_metrics(name, version, {f"gate.{n}": v for n, v in verdict.metrics.items()})
            registry.tag(
                name,
                version,
                {
                    VERDICT_TAG: StoredVerdict(
                        verdict.promote,
                        verdict.reasons,
                        champion,
                        gate.hash,
                        data.fingerprint,
                        compared=reigning is not None,
                    ).to_tag()
                },
            )
    return apply_verdict(warehouse, registry, name, gate.hash)


def _still_holds(stored: StoredModel, champion: int | None, gate: Gate) -> bool:
    verdict = StoredVerdict.of(stored.tags)
    return verdict is not None and (verdict.against, verdict.gate_hash) == (champion, gate.hash)


def _verdict(
    stored: StoredModel,
    reigning: _Loaded | None,
    gate: Gate,
    data: TrainingSet,
    table: pa.Table,
    cohort: str,
) -> Verdict:
    challenger = MobilityModel.load(stored.directory, MOBILITY)
    rows = np.isin(data.parts, (LATER_DATES, HELD_OUT_PATIENTS))
    # What the model would serve: days of new patients have a route of their own.
    rows &= (data.routes != NEW) if cohort == GLOBAL_MODEL else data.of_route(cohort)
    forecasts = {CHALLENGER_FORECAST: _forecasts(challenger, data, table)[rows]}
    if reigning is not None:
        forecasts[CHAMPION_FORECAST] = _forecasts(reigning.model, data, table)[rows]
    forecasts |= {name: found[rows] for name, found in data.naive.items()}
    held_out = HeldOut(
        data.steps[rows],
        data.patients[rows],
        {of_set: np.asarray(data.parts[rows] == of_set) for of_set in (LATER_DATES, HELD_OUT_PATIENTS)},
        forecasts,
        _bands(challenger, forecasts[CHALLENGER_FORECAST], data, rows),
    )
    return judge(held_out, gate)


def _bands(
    model: MobilityModel, forecast: Numbers, data: TrainingSet, rows: npt.NDArray[np.bool_]
) -> dict[str, Any]:
    """The challenger's intervals by the quantile of each row's route; none if a route has none."""
    from medscore_assets.mobility.conformal import Interval

    lower, upper = np.full(len(forecast), np.nan), np.full(len(forecast), np.nan)
    flags = np.zeros(len(forecast), dtype=np.bool_)
    routes, spread, days = data.routes[rows], data.spread[rows], data.valid_days[rows]
    for key in np.unique(routes).tolist():
        conformal = model.manifest.conformal.get(key)
        if conformal is None:
            return {}
        mine = routes == key
        found = conformal.interval(forecast[mine], spread[mine], days[mine])
        lower[mine], upper[mine], flags[mine] = found.lower, found.upper, found.unsure
    return {CHALLENGER_FORECAST: Interval(lower, upper, flags)}


def _forecasts(model: MobilityModel, data: TrainingSet, table: pa.Table) -> Numbers:
    """A model's forecasts of the rows that none was fitted on, by its own encoding; NaN elsewhere."""
    found = np.full(table.num_rows, np.nan)
    rows = judged_rows(data)
    found[rows] = model.forecast(model.encoding.encode(table.filter(pa.array(rows))))
    return found


def _route_row(choice: Choice, champions: Mapping[str, _Loaded], now: datetime) -> dict[str, Any]:
    route = choice.route
    of = {COHORT_MODEL: route.cohort, GLOBAL_MODEL: GLOBAL_MODEL}.get(route.serves)
    served = None if of is None else champions[of]
    return {
        "cohort": route.cohort,
        "horizon_days": route.horizon_days,
        "serves": route.serves,
        "model_name": served.name if served else None,
        "model_version": served.version if served else None,
        "reason": route.reason,
        "route": json.loads(route.model_dump_json()),
        "metrics": choice.metrics(),
        "contract_hash": MOBILITY.hash,
        "decided_at": now,
        "decided_by": RULE_OF_CHOICE,
    }


def names(cohorts: Sequence[str] = (*COHORTS, GLOBAL_MODEL)) -> list[str]:
    """The names in the registry of the models of cohorts, at every horizon."""
    return [model_name(cohort, horizon) for cohort in cohorts for horizon in HORIZONS]
