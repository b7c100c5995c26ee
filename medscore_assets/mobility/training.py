"""Fitting mobility models, adding rounds to them, calibrating and judging them.

Belongs here: the settings of the EBM, which rows each step may see, what the manifest says.
Does not belong here: the rows and their parts (`training_set.py`), forecasting (`model.py`), the rule of
choice (`evaluation.py`), the registry.

The parts have one use each: terms are boosted on train, their number of rounds is chosen on validation,
intervals are calibrated on calibration, and the two held-out sets choose who serves. The target is relative
to the patient's mean to date, so that the terms need not learn who walks much. Only main effects: pairs cost
far more time than they gain, and reasons stay readable.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from medscore_assets.mobility.baselines import EXPANDING
from medscore_assets.mobility.cohorts import COHORT_MODEL, COHORTS, GLOBAL_MODEL, NEW, ROUTED
from medscore_assets.mobility.conformal import Conformal
from medscore_assets.mobility.evaluation import NEW_PATIENTS, Choice, HeldOut, choose
from medscore_assets.mobility.model import FORMAT, RELATIVE, Manifest, MobilityModel, model_name
from medscore_assets.mobility.terms import Terms, explicit_types
from medscore_assets.mobility.training_set import (
    CALIBRATION,
    HELD_OUT_PATIENTS,
    LATER_DATES,
    TRAIN,
    VALIDATION,
    TrainingSet,
)
from resources.errors import ContractViolation, PermanentError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from interpret.glassbox import ExplainableBoostingRegressor

Numbers = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

GLOBAL = GLOBAL_MODEL
"""What stands for the cohort in the manifest of the model of all patients."""

THREADS = 1
"""An EBM of one bag boosts on one thread: cohorts are fitted side by side in processes of their own."""

FEWEST_PATIENTS = 5
FEWEST_ROWS = 100
"""In train, below which no model is fitted."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How an EBM is boosted; see interpret's ExplainableBoostingRegressor for each."""

    max_bins: int = 256
    learning_rate: float = 0.1
    max_leaves: int = 3
    max_rounds: int = 1000
    early_stopping_rounds: int = 20
    """Without a better validation error, in rounds; 0 boosts all rounds."""
    smoothing_rounds: int = 0
    min_samples_leaf: int = 50
    outer_bags: int = 1


def fit_cohort(
    data: TrainingSet,
    cohort: str,
    settings: Settings = Settings(),
    *,
    seed: int = 0,
    trained_at: datetime | None = None,
) -> MobilityModel:
    """The EBM of one cohort, calibrated. The same rows, settings, seed and packages give the same bytes.

    Raises `PermanentError` for a cohort with too few patients or rows to fit.
    """
    if cohort not in COHORTS:
        raise ValueError(f"{cohort!r} is none of the cohorts {', '.join(COHORTS)}")
    return _fitted(data, cohort, settings, seed, trained_at)


def fit_global(
    data: TrainingSet,
    settings: Settings = Settings(),
    *,
    seed: int = 0,
    trained_at: datetime | None = None,
) -> MobilityModel:
    """The EBM of all patients, calibrated for every route; otherwise as `fit_cohort`."""
    return _fitted(data, GLOBAL, settings, seed, trained_at)


def continue_fit(
    model: MobilityModel,
    data: TrainingSet,
    rounds: int,
    *,
    seed: int = 0,
    trained_at: datetime | None = None,
) -> MobilityModel:
    """The model with more rounds, boosted on what it leaves unexplained, and calibrated anew.

    The added EBM has the model's bins, so that every score of the result is the sum of two scores. All
    the rounds are boosted, without early stopping: who asks for them decides by the validation error
    (`validation_error`) whether they were worth it. Raises `ContractViolation` if the data were encoded
    otherwise than the model's.
    """
    if data.encoding != model.encoding:
        raise ContractViolation(
            "the training rows have other columns, codes or another horizon than the model",
            where=f"mobility model {model.name}",
            mend="Continue on rows that were encoded with the model's own encoding.",
        )
    manifest = model.manifest
    settings = Settings(**_boosting(manifest.parameters))  # type: ignore[arg-type]
    rows = _rows(data, manifest.cohort)
    used = rows & np.isin(data.parts, (TRAIN, VALIDATION))
    more = {"max_rounds": rounds, "early_stopping_rounds": 0, "smoothing_rounds": 0}
    matrix = data.matrix[used]
    residual = _boosted(
        data,
        used,
        {**asdict(settings), **more},
        explicit_types(model.terms),
        # Other draws than those of the rounds before.
        seed + manifest.rounds,
        model.relative(matrix),
    )
    added = Terms.of(residual, _categories(data))
    of_part, patients = data.counts(rows)
    continued = manifest.model_copy(
        update={
            "rounds": manifest.rounds + rounds,
            "continued": manifest.continued + 1,
            "data_fingerprint": data.fingerprint,
            "rows": of_part,
            "patients": patients,
            "metrics": {},
            "trained_at": trained_at or datetime.now(UTC),
            "packages": package_versions(),
        }
    )
    return _calibrated(MobilityModel.of(model.terms + added, continued, model.encoding.contract), data)


def validation_error(model: MobilityModel, data: TrainingSet) -> float:
    """Mean absolute error on the validation part in steps: what rounds and settings are chosen by."""
    rows = _rows(data, model.manifest.cohort) & (data.parts == VALIDATION)
    return float(np.abs(model.forecast(data.matrix[rows]) - data.steps[rows]).mean())


def judge(data: TrainingSet, key: str, models: Mapping[str, MobilityModel]) -> Choice:
    """Who serves a route, `key` being a cohort or `new`.

    `models` is by `cohort` and `global`; either may be absent. They read the matrix of `data`; for models
    with an encoding of their own see `judge_forecasts`.
    """
    needed = judged_rows(data)
    matrix = data.matrix[needed]
    forecasts = {name: _spread_out(model.forecast(matrix), needed) for name, model in models.items()}
    return judge_forecasts(data, key, forecasts)


def judged_rows(data: TrainingSet) -> Mask:
    """The rows that no model was fitted on: for calibration, and held out."""
    return np.asarray(np.isin(data.parts, (CALIBRATION, LATER_DATES, HELD_OUT_PATIENTS)))


def judge_forecasts(
    data: TrainingSet, key: str, models: Mapping[str, Numbers], refused: Mapping[str, str] | None = None
) -> Choice:
    """Who serves a route, from the models' forecasts of `judged_rows`, shape (n,), other rows being NaN.

    For new patients only the global model and the mean of all days to date compete. Candidates are measured
    on the rows that the route would serve. `refused` is why models do not compete, by `cohort` and `global`.
    """
    rows = data.of_route(key)
    calibration = data.parts == CALIBRATION
    naive = {EXPANDING: data.naive[EXPANDING]} if key == NEW else data.naive
    usable = {name: found for name, found in models.items() if not (key == NEW and name == COHORT_MODEL)}
    held_out = rows & np.isin(data.parts, (LATER_DATES, HELD_OUT_PATIENTS))
    forecasts = usable | naive
    conformal = {}
    for name, forecast in forecasts.items():
        own = _conformal(data, forecast, rows & calibration)
        # A model of one cohort says nothing of the others' days.
        everybody = None if name == COHORT_MODEL else _conformal(data, forecast, calibration)
        conformal[name] = own or everybody
    bands = {
        name: found.interval(forecasts[name][held_out], data.spread[held_out], data.valid_days[held_out])
        for name, found in conformal.items()
        if found is not None
    }
    compared = HeldOut(
        data.steps[held_out],
        data.patients[held_out],
        _sets(data.parts[held_out], key),
        {name: forecast[held_out] for name, forecast in forecasts.items()},
        bands,
    )
    return choose(compared, key, data.encoding.horizon_days, conformal, refused)


def package_versions() -> dict[str, str]:
    """Versions of what a model's bytes and numbers depend on."""
    from importlib.metadata import version
    from platform import python_version

    return {"python": python_version(), **{name: version(name) for name in ("interpret-core", "numpy")}}


def _fitted(
    data: TrainingSet, cohort: str, settings: Settings, seed: int, trained_at: datetime | None
) -> MobilityModel:
    rows = _rows(data, cohort)
    of_part, patients = data.counts(rows)
    if patients[TRAIN] < FEWEST_PATIENTS or of_part[TRAIN] < FEWEST_ROWS:
        raise PermanentError(
            f"{patients[TRAIN]} patients with {of_part[TRAIN]} rows are too few to fit a model, at least "
            f"{FEWEST_PATIENTS} and {FEWEST_ROWS} are needed",
            where=f"mobility model of {cohort}, horizon {data.encoding.horizon_days} days",
            mend="Import more patients or days; until then naive forecasts serve this cohort.",
        )
    used = rows & np.isin(data.parts, (TRAIN, VALIDATION))
    kinds = ["nominal" if name in data.encoding.vocabulary else "continuous" for name in data.encoding.names]
    ebm = _boosted(data, used, asdict(settings), kinds, seed, None)
    manifest = Manifest(
        format=FORMAT,
        model_name=model_name(cohort, data.encoding.horizon_days),
        contract_name=data.encoding.contract.name,
        contract_hash=data.encoding.contract.hash,
        cohort=cohort,
        horizon_days=data.encoding.horizon_days,
        target=RELATIVE,
        feature_names=data.encoding.names,
        vocabulary=dict(data.encoding.vocabulary),
        conformal={},
        parameters=asdict(settings),
        rounds=math.ceil(int(np.max(ebm.best_iteration_)) / len(data.encoding.names)),
        continued=0,
        seed=seed,
        threads=THREADS,
        data_fingerprint=data.fingerprint,
        rows=of_part,
        patients=patients,
        metrics={},
        trained_at=trained_at or datetime.now(UTC),
        packages=package_versions(),
        files={},
    )
    terms = Terms.of(ebm, _categories(data))
    return _calibrated(MobilityModel.of(terms, manifest, data.encoding.contract), data)


def _boosted(
    data: TrainingSet,
    rows: Mask,
    settings: Mapping[str, int | float],
    feature_types: Sequence[Sequence[float] | str],
    seed: int,
    init_score: Numbers | None,
) -> ExplainableBoostingRegressor:
    from interpret.glassbox import ExplainableBoostingRegressor

    fits_on = np.where(data.parts[rows] == TRAIN, 1, -1).astype(np.int8)
    bags = np.tile(fits_on[:, np.newaxis], (1, int(settings["outer_bags"])))
    ebm = ExplainableBoostingRegressor(
        feature_names=list(data.encoding.names),
        feature_types=list(feature_types),
        interactions=0,
        n_jobs=THREADS,
        random_state=seed,
        **settings,
    )
    with warnings.catch_warnings():
        # Missing values have a bin of their own, also in a column of nothing else: lags of short histories.
        warnings.filterwarnings("ignore", message="Missing values detected")
        warnings.filterwarnings("ignore", message="All-NaN slice encountered")
        ebm.fit(data.matrix[rows], data.steps[rows] - data.baseline[rows], bags=bags, init_score=init_score)
    return ebm


def _calibrated(model: MobilityModel, data: TrainingSet) -> MobilityModel:
    cohort = model.manifest.cohort
    keys: Iterable[str] = ROUTED if cohort == GLOBAL else (cohort,)
    calibration = data.parts == CALIBRATION
    forecast = _spread_out(model.forecast(data.matrix[calibration]), calibration)
    found = {key: _conformal(data, forecast, calibration & data.of_route(key)) for key in keys}
    return model.with_manifest(conformal={key: value for key, value in found.items() if value is not None})


def _conformal(data: TrainingSet, forecast: Numbers, rows: Mask) -> Conformal | None:
    return Conformal.fitted(
        data.steps[rows], forecast[rows], data.spread[rows], data.valid_days[rows], data.patients[rows]
    )


def _sets(parts: npt.NDArray[np.str_], key: str) -> dict[str, Mask]:
    """The sets that a model must win on a route, as masks over held-out rows."""
    if key == NEW:
        return {NEW_PATIENTS: np.ones(len(parts), dtype=np.bool_)}
    return {of_set: np.asarray(parts == of_set) for of_set in (LATER_DATES, HELD_OUT_PATIENTS)}


def _spread_out(values: Numbers, rows: Mask) -> Numbers:
    """Values of some rows at their places among all, NaN elsewhere."""
    found = np.full(len(rows), np.nan)
    found[rows] = values
    return found


def _rows(data: TrainingSet, cohort: str) -> Mask:
    return np.ones(len(data.steps), dtype=np.bool_) if cohort == GLOBAL else data.of_cohort(cohort)


def _categories(data: TrainingSet) -> dict[str, int]:
    return {name: len(texts) for name, texts in data.encoding.vocabulary.items()}


def _boosting(parameters: Mapping[str, int | float | str]) -> dict[str, int | float | str]:
    return {name: parameters[name] for name in asdict(Settings())}
