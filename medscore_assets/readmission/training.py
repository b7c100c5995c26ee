"""Fitting the readmission model and its two baselines on a training set.

Belongs here: choice of parameters, early stopping, recalibration, the baselines, the data's fingerprint.
Does not belong here: who is in the training set (`cohort.py`), scoring (`scoring.py`), the registry.

The parts have one use each: trees are grown on train; parameters, number of trees and recalibration are
chosen on validation; test is touched once, to measure. The trees are kept few and shallow on purpose:
on ten features deeper ones gain nothing that was measured, and exact reasons for everybody stay cheap.
"""

from __future__ import annotations

import hashlib
import io
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from medscore_assets.contracts.contract import Contract, Matrix
from medscore_assets.contracts.fields import Category, Whole
from medscore_assets.monitoring.drift import Reference, reference_of
from medscore_assets.monitoring.metrics import Evaluation, evaluate, logistic_fit, sigmoid
from medscore_assets.readmission.cohort import PARTS
from medscore_assets.readmission.scoring import (
    FORMAT,
    MODEL,
    MODEL_FILE,
    Manifest,
    Probabilities,
    ReadmissionModel,
    Recalibration,
)
from resources.artifacts import sha256
from resources.errors import ContractViolation, PermanentError

if TYPE_CHECKING:
    import xgboost as xgb

Labels = npt.NDArray[np.bool_]
Part = tuple[Matrix, Labels]
Parameters = dict[str, int | float | str]
Progress = Callable[[str, int, int], None]
"""Called as (what is being done, steps done, steps in all)."""

LOGISTIC_REGRESSION = "logistic_regression"
LACE_LIKE = "lace_like"

LIMITATIONS = (
    "has_follow_up_scheduled is an intervention: once coordinators act on the score, patients at high risk "
    "get more appointments, and a model trained on those records learns a follow-up to be less protective "
    "or even a risk (treatment paradox). Compare outcomes by whether the list led to a call.",
    "has_follow_up_scheduled says that an appointment is booked, not that it is within 7 days.",
    "num_prior_admissions_12m from a live feed and from claims differ by the weeks that claims lag.",
    "The probability holds for adults discharged alive from acute care to home or post-acute care.",
)
"""What every user of the model must know; registered with each version."""

MAX_ROUNDS = {2: 160, 3: 64}
"""Most trees per depth; early stopping may end before."""

LEARNING_RATES = (0.1, 0.25)
MIN_CHILD_WEIGHTS = (5.0, 20.0)
FIXED: Parameters = {
    "objective": "binary:logistic",
    "tree_method": "hist",
    "max_bin": 128,
    "reg_lambda": 5.0,
    "eval_metric": "logloss",
}
STOP_AFTER = 20
"""Rounds without a better validation loss before growing stops."""


@dataclass(frozen=True, slots=True)
class Trained:
    """A fitted model and how it did on the test part beside its baselines, by name."""

    model: ReadmissionModel
    evaluations: dict[str, Evaluation]
    validation_loss: dict[str, float]
    """Log loss on validation of every setting that was tried."""

    @property
    def parameters(self) -> Parameters:
        """The setting that was chosen."""
        return self.model.manifest.parameters

    @property
    def metrics(self) -> dict[str, float]:
        """Every defined measure: the model's by its own name, a baseline's as `lace_like.auroc`."""
        return self.model.manifest.metrics


@dataclass(frozen=True, slots=True)
class _Grown:
    booster: xgb.Booster
    parameters: Parameters
    loss: float


def train(
    training_set: pa.Table,
    contract: Contract,
    *,
    policy_hash: str,
    seed: int = 0,
    threads: int = 1,
    trained_at: datetime | None = None,
    progress: Progress = lambda doing, done, steps: None,
) -> Trained:
    """The model, its baselines and their measures, from a table like `readmission_training_set`.

    The same table, seed, threads and packages give the same `model.ubj`, byte for byte, whatever the
    order of the rows. Raises `ContractViolation` for an invalid row or a table of another
    contract, `PermanentError` if the trees find nothing that holds on validation.
    """
    table = in_training_order(training_set)
    parts = encoded_parts(table, contract)
    settings = _settings(contract)
    grown = []
    for done, parameters in enumerate(settings):
        progress("fitting trees", done, len(settings) + 2)
        grown.append(_grow(parts, contract, parameters, seed, threads))
    best = min(grown, key=lambda g: g.loss)
    recalibration = _recalibration(best.booster, parts["validation"])
    progress("fitting baselines", len(settings), len(settings) + 2)
    predicted = baseline_probabilities(parts, contract)
    model = _assembled(best, recalibration, table, parts, contract, policy_hash, seed, trained_at)
    test, labels = parts["test"]
    progress("measuring", len(settings) + 1, len(settings) + 2)
    evaluations = {name: evaluate(labels, p) for name, p in {MODEL: model.score(test), **predicted}.items()}
    progress("measured", len(settings) + 2, len(settings) + 2)
    losses = {_words(g.parameters): g.loss for g in grown}
    model = _with_metrics(model, evaluations).with_reference(_reference(model, table, test, contract))
    model = model.with_attribution()
    return Trained(model, evaluations, losses)


def in_training_order(training_set: pa.Table) -> pa.Table:
    """The rows by time and encounter: what is fitted on them is then the same whatever their order was."""
    return training_set.sort_by([("discharged_at", "ascending"), ("encounter_id", "ascending")])


def encoded_parts(table: pa.Table, contract: Contract) -> dict[str, Part]:
    """Encoded features and labels per part, in the order of the rows.

    Raises `ContractViolation` for an invalid row or a table of another contract, `PermanentError` for a
    part without both outcomes.
    """
    hashes = pc.unique(table["contract_hash"]).to_pylist()
    if hashes != [contract.hash]:
        found = ", ".join(h[:12] for h in hashes) or "nothing"
        raise ContractViolation(
            f"the training set was built under {found}, this code has {contract.hash[:12]}",
            where="readmission_training_set",
            mend="Materialize the training set again.",
        )
    matrix = contract.encode(table).require_valid("readmission_training_set")
    labels = np.asarray(table["readmitted_within_30_days"].combine_chunks())
    part = np.asarray(table["part"].to_pylist())
    found_parts = {name: (matrix[part == name], labels[part == name]) for name in PARTS}
    for name, (_, of_part) in found_parts.items():
        if len(set(of_part.tolist())) < 2:
            raise PermanentError(
                f"the {name} part has {len(of_part)} discharges and not both outcomes",
                where="readmission_training_set",
                mend="Load more discharges and materialize the training set again.",
            )
    return found_parts


def _settings(contract: Contract) -> list[Parameters]:
    monotone = "(" + ",".join(map(str, contract.monotone_constraints)) + ")"
    return [
        {
            **FIXED,
            "monotone_constraints": monotone,
            "max_depth": depth,
            "learning_rate": rate,
            "min_child_weight": weight,
        }
        for depth, rate, weight in itertools.product(MAX_ROUNDS, LEARNING_RATES, MIN_CHILD_WEIGHTS)
    ]


def _words(parameters: Parameters) -> str:
    chosen = ("max_depth", "learning_rate", "min_child_weight")
    return " ".join(f"{name}={parameters[name]}" for name in chosen)


def _grow(
    parts: dict[str, Part], contract: Contract, parameters: Parameters, seed: int, threads: int
) -> _Grown:
    """Boosts until validation gets no better and cuts the booster there, so that no caller has to know."""
    import xgboost as xgb

    names = list(contract.feature_names)
    data = {name: xgb.DMatrix(*parts[name], feature_names=names, nthread=threads) for name in PARTS[:2]}
    losses: dict[str, dict[str, list[float]]] = {}
    booster = xgb.train(
        {**parameters, "seed": seed, "nthread": threads, "verbosity": 0},
        data["train"],
        num_boost_round=MAX_ROUNDS[int(parameters["max_depth"])],
        evals=[(data["validation"], "validation")],
        early_stopping_rounds=STOP_AFTER,
        evals_result=losses,
        verbose_eval=False,
    )
    kept = booster[: booster.best_iteration + 1]
    kept.feature_names = names
    return _Grown(kept, parameters, min(losses["validation"]["logloss"]))


def _recalibration(booster: xgb.Booster, validation: Part) -> Recalibration:
    matrix, labels = validation
    fitted = logistic_fit(booster.inplace_predict(matrix, predict_type="margin"), labels)
    if fitted is None or fitted[1] <= 0:
        raise PermanentError(
            "the trees order the validation part no better than chance, or separate it fully",
            where="readmission model, recalibration",
            mend="Check the labels and features of the training set; load more discharges.",
        )
    return Recalibration(intercept=fitted[0], slope=fitted[1])


def _assembled(
    best: _Grown,
    recalibration: Recalibration,
    table: pa.Table,
    parts: dict[str, Part],
    contract: Contract,
    policy_hash: str,
    seed: int,
    trained_at: datetime | None,
) -> ReadmissionModel:
    serialized = bytes(best.booster.save_raw("ubj"))
    train_matrix = parts["train"][0]
    constant = (train_matrix == train_matrix[0]).all(axis=0)
    manifest = Manifest(
        format=FORMAT,
        model_name=MODEL,
        contract_name=contract.name,
        contract_hash=contract.hash,
        policy_hash=policy_hash,
        feature_names=contract.feature_names,
        best_iteration=best.booster.num_boosted_rounds() - 1,
        recalibration=recalibration,
        parameters=best.parameters,
        seed=seed,
        data_fingerprint=data_fingerprint(table),
        discharges={name: len(labels) for name, (_, labels) in parts.items()},
        constant_features=tuple(n for n, c in zip(contract.feature_names, constant, strict=True) if c),
        metrics={},
        trained_at=trained_at or datetime.now(UTC),
        packages=package_versions(),
        files={MODEL_FILE: sha256(serialized)},
    )
    return ReadmissionModel.from_bytes(serialized, manifest)


def _reference(model: ReadmissionModel, table: pa.Table, test: Matrix, contract: Contract) -> Reference:
    """What drift is judged against: the test part, whole as patients come and unknown to the trees."""
    discharged = table.filter(pc.equal(table["part"], PARTS[-1]))["discharged_at"]
    ends = pc.min_max(discharged).as_py()
    return reference_of(test, contract, model.score(test), ends["min"], ends["max"])


def _with_metrics(model: ReadmissionModel, evaluations: dict[str, Evaluation]) -> ReadmissionModel:
    metrics: dict[str, float] = {}
    for name, evaluation in evaluations.items():
        metrics |= evaluation.as_dict("" if name == MODEL else f"{name}.")
    return replace(model, manifest=model.manifest.model_copy(update={"metrics": metrics}))


def baseline_probabilities(parts: dict[str, Part], contract: Contract) -> dict[str, Probabilities]:
    """Test probabilities of what the trees must beat, fitted on the same train part."""
    return {
        LOGISTIC_REGRESSION: _logistic_regression(parts, contract),
        LACE_LIKE: _lace_like(parts, contract),
    }


def _logistic_regression(parts: dict[str, Part], contract: Contract) -> Probabilities:
    """Categories as one column each, never by their codes, which have no order; counts standardised."""
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    of_kind = {
        kind: [n for n, feature in enumerate(contract.features) if isinstance(feature, kind)]
        for kind in (Category, Whole)
    }
    columns = ColumnTransformer(
        [
            ("categories", OneHotEncoder(handle_unknown="ignore"), of_kind[Category]),
            ("counts", StandardScaler(), of_kind[Whole]),
        ],
        remainder="passthrough",
    )
    fitted = make_pipeline(columns, LogisticRegression(max_iter=1000)).fit(*parts["train"])
    probabilities: Probabilities = fitted.predict_proba(parts["test"][0])[:, 1].astype(np.float64)
    return probabilities


def _lace_like(parts: dict[str, Part], contract: Contract) -> Probabilities:
    """The LACE-like points as a probability, by a logistic fit of one variable on the train part."""
    matrix, labels = parts["train"]
    fitted = logistic_fit(lace_like_points(matrix, contract), labels)
    if fitted is None:
        return np.full(len(parts["test"][0]), labels.mean())
    return sigmoid(fitted[0] + fitted[1] * lace_like_points(parts["test"][0], contract))


def lace_like_points(matrix: Matrix, contract: Contract) -> npt.NDArray[np.float64]:
    """Points, shape (n,), after the LACE index (van Walraven et al., CMAJ 2010), 0 to 19.

    Length of stay: 1 day 1, 2 days 2, 3 days 3, 4-6 days 4, 7-13 days 5, from 14 days 7. Acute admission:
    3. Two terms are not in the data and are stood in for, hence "like": the count of chronic conditions
    for the Charlson score (its points from 4 on: 5), and admissions of the past 12 months for visits to
    the emergency department in the past 6, at most 4.
    """
    column = {name: matrix[:, n].astype(np.float64) for n, name in enumerate(contract.feature_names)}
    stay = np.array([0, 1, 2, 3, 4, 5, 7])[
        np.searchsorted([1, 2, 3, 4, 7, 14], column["length_of_stay_days"], side="right")
    ]
    conditions = column["num_chronic_conditions"]
    comorbidity = np.where(conditions >= 4, 5, conditions)
    visits = np.minimum(column["num_prior_admissions_12m"], 4)
    points: npt.NDArray[np.float64] = stay + 3 * column["emergency_admission"] + comorbidity + visits
    return points


def data_fingerprint(table: pa.Table) -> str:
    """SHA-256 of a training set's content: rows by encounter, columns by name, whatever their order."""
    table = table.sort_by([("encounter_id", "ascending")]).select(sorted(table.column_names))
    text = io.BytesIO()
    pyarrow.csv.write_csv(table, text)
    return hashlib.sha256(text.getbuffer()).hexdigest()


def package_versions() -> dict[str, str]:
    """Versions of what a model's bytes and numbers depend on."""
    from importlib.metadata import version
    from platform import python_version

    packages = ("xgboost", "numpy", "scikit-learn", "statsmodels", "pyarrow")
    return {"python": python_version(), **{name: version(name) for name in packages}}
