"""Training: what the trees may do, where they stop, how they are recalibrated, and that it repeats."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.monitoring.metrics import evaluate, logistic_fit, logit
from medscore_assets.readmission import training
from medscore_assets.readmission.scoring import MODEL
from medscore_assets.readmission.training import (
    LACE_LIKE,
    LOGISTIC_REGRESSION,
    Trained,
    data_fingerprint,
    lace_like_points,
    train,
)
from resources.errors import ContractViolation, PermanentError
from tests.readmission.training_sets import random_matrix, training_set, true_probability

POLICY_HASH = "a" * 64
MONOTONE = ("num_prior_admissions_12m", "num_chronic_conditions", "num_medications_at_discharge")


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return training_set(6000, seed=5)


@pytest.fixture(scope="module")
def trained(table: pa.Table) -> Trained:
    return train(table, READMISSION, policy_hash=POLICY_HASH, seed=7)


def part_of(table: pa.Table, name: str) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    rows = table.filter(pa.array([p == name for p in table["part"].to_pylist()]))
    return READMISSION.encode(rows).matrix, np.asarray(rows["readmitted_within_30_days"].to_pylist())


def test_the_model_comes_near_the_declared_truth(table: pa.Table, trained: Trained) -> None:
    test, labels = part_of(table, "test")
    best = evaluate(labels, true_probability(test)).auroc
    assert best is not None
    measured = trained.evaluations[MODEL]
    assert measured.n == len(labels) == 1200
    assert measured.auroc is not None
    assert measured.auroc > best - 0.02
    assert abs(measured.auroc - trained.metrics["auroc"]) < 1e-12


def test_baselines_are_measured_beside_it_on_the_same_discharges(trained: Trained) -> None:
    assert list(trained.evaluations) == [MODEL, LOGISTIC_REGRESSION, LACE_LIKE]
    assert {(e.n, e.events) for e in trained.evaluations.values()} == {
        (trained.evaluations[MODEL].n, trained.evaluations[MODEL].events)
    }
    assert trained.metrics["lace_like.auroc"] < trained.metrics["auroc"]
    assert trained.metrics["logistic_regression.auroc"] > 0.6


@pytest.mark.parametrize("name", MONOTONE)
def test_risk_never_falls_as_a_monotone_feature_rises(trained: Trained, name: str) -> None:
    position = READMISSION.feature_names.index(name)
    feature = READMISSION.features[position]
    sweep = np.arange(feature.minimum, feature.maximum + 1, dtype=np.float32)  # type: ignore[union-attr]
    for row in random_matrix(60, seed=11, whole_range=True):
        matrix = np.tile(row, (len(sweep), 1))
        matrix[:, position] = sweep
        assert (np.diff(trained.model.score(matrix)) >= 0).all()


def test_only_the_declared_features_are_constrained(trained: Trained) -> None:
    assert trained.parameters["monotone_constraints"] == "(0,0,1,1,0,0,0,0,1,0)"
    signs = zip(READMISSION.feature_names, READMISSION.monotone_constraints, strict=True)
    assert tuple(name for name, sign in signs if sign) == MONOTONE


def test_the_file_ends_at_the_best_round_and_holds_none_of_those_that_were_rejected() -> None:
    import xgboost as xgb

    noisy = training_set(1500, seed=3)
    stopped = train(noisy, READMISSION, policy_hash=POLICY_HASH, seed=7)
    names = list(READMISSION.feature_names)
    matrix, labels = part_of(noisy, "validation")
    grown = xgb.train(
        {**stopped.parameters, "seed": 7, "nthread": 1},
        xgb.DMatrix(*part_of(noisy, "train"), feature_names=names),
        training.MAX_ROUNDS[int(stopped.parameters["max_depth"])],
        evals=[(xgb.DMatrix(matrix, labels, feature_names=names), "validation")],
        early_stopping_rounds=training.STOP_AFTER,
        verbose_eval=False,
    )
    rounds = stopped.model.manifest.best_iteration + 1
    assert grown.num_boosted_rounds() > grown.best_iteration + 1 == rounds
    assert stopped.model.booster.num_boosted_rounds() == rounds
    kept = stopped.model.booster.inplace_predict(matrix, predict_type="margin")
    assert np.array_equal(
        kept, grown.inplace_predict(matrix, iteration_range=(0, rounds), predict_type="margin")
    )
    assert not np.array_equal(kept, grown.inplace_predict(matrix, predict_type="margin"))


def test_after_recalibration_validation_has_intercept_zero_and_slope_one(
    table: pa.Table, trained: Trained
) -> None:
    matrix, labels = part_of(table, "validation")
    fitted = logistic_fit(logit(trained.model.score(matrix)), labels)
    assert fitted == pytest.approx((0, 1), abs=1e-5)


def test_the_same_input_gives_the_same_bytes(table: pa.Table, trained: Trained) -> None:
    shuffled = table.take(pa.array(np.random.default_rng(1).permutation(len(table))))
    again = train(shuffled, READMISSION, policy_hash=POLICY_HASH, seed=7)
    assert again.model.serialized == trained.model.serialized
    without_time = {"trained_at"}
    assert again.model.manifest.model_dump(exclude=without_time) == trained.model.manifest.model_dump(
        exclude=without_time
    )


def test_the_fingerprint_is_of_the_content_not_of_its_order(table: pa.Table) -> None:
    shuffled = table.take(pa.array(np.random.default_rng(2).permutation(len(table))))
    assert data_fingerprint(shuffled.select(table.column_names[::-1])) == data_fingerprint(table)
    assert data_fingerprint(pa.concat_tables([table.slice(0, 10), table.slice(10)])) == data_fingerprint(
        table
    )
    assert data_fingerprint(table.slice(1)) != data_fingerprint(table)
    ages = table["patient_age"].to_pylist()
    older = [ages[0] + 1 if ages[0] < 90 else ages[0] - 1, *ages[1:]]
    position = table.column_names.index("patient_age")
    changed = table.set_column(position, "patient_age", pa.array(older))
    assert data_fingerprint(changed) != data_fingerprint(table)


def test_the_manifest_tells_where_the_model_is_from(trained: Trained, table: pa.Table) -> None:
    manifest = trained.model.manifest
    assert manifest.contract_hash == READMISSION.hash
    assert manifest.policy_hash == POLICY_HASH
    assert manifest.data_fingerprint == data_fingerprint(table)
    assert manifest.discharges == {"train": 3600, "validation": 1200, "test": 1200}
    assert manifest.packages["xgboost"].startswith("3.")
    assert manifest.trained_at.tzinfo is not None
    assert manifest.seed == 7
    assert manifest.metrics == trained.metrics
    text = json.dumps(json.loads(manifest.to_json()))
    assert "E-0000" not in text
    assert "P-0000" not in text


def test_trained_at_can_be_given() -> None:
    at = datetime(2026, 3, 2, tzinfo=UTC)
    made = train(training_set(900), READMISSION, policy_hash=POLICY_HASH, trained_at=at)
    assert made.model.manifest.trained_at == at


def test_a_feature_with_one_value_is_reported() -> None:
    made = train(training_set(1500, has_follow_up_scheduled=False), READMISSION, policy_hash=POLICY_HASH)
    assert made.model.manifest.constant_features == ("has_follow_up_scheduled",)


def test_the_logistic_baseline_does_not_read_an_order_into_codes() -> None:
    """Renumbering the categories of the input must leave its probabilities as they are."""
    parts = {name: part_of(training_set(3000, seed=9), name) for name in ("train", "validation", "test")}
    before = training._logistic_regression(parts, READMISSION)
    position = READMISSION.feature_names.index("primary_diagnosis_group")
    renumber = np.array([3, 6, 0, 5, 1, 4, 2], dtype=np.float32)
    for matrix, _ in parts.values():
        matrix[:, position] = renumber[matrix[:, position].astype(int)]
    assert np.abs(training._logistic_regression(parts, READMISSION) - before).max() < 1e-3


@pytest.mark.parametrize(
    ("stay", "emergency", "conditions", "prior", "points"),
    [
        (0, 0, 0, 0, 0),
        (1, 0, 0, 0, 1),
        (2, 0, 0, 0, 2),
        (3, 0, 0, 0, 3),
        (4, 0, 0, 0, 4),
        (6, 0, 0, 0, 4),
        (7, 0, 0, 0, 5),
        (13, 0, 0, 0, 5),
        (14, 0, 0, 0, 7),
        (0, 1, 0, 0, 3),
        (0, 0, 3, 0, 3),
        (0, 0, 4, 0, 5),
        (0, 0, 0, 3, 3),
        (0, 0, 0, 9, 4),
        (30, 1, 20, 9, 19),
    ],
)
def test_lace_like_points(stay: int, emergency: int, conditions: int, prior: int, points: int) -> None:
    row = np.zeros((1, len(READMISSION.features)), dtype=np.float32)
    for name, value in {
        "length_of_stay_days": stay,
        "emergency_admission": emergency,
        "num_chronic_conditions": conditions,
        "num_prior_admissions_12m": prior,
    }.items():
        row[0, READMISSION.feature_names.index(name)] = value
    assert lace_like_points(row, READMISSION).tolist() == [points]


def test_progress_is_told_to_its_end() -> None:
    told: list[tuple[str, int, int]] = []
    train(
        training_set(900),
        READMISSION,
        policy_hash=POLICY_HASH,
        progress=lambda doing, done, steps: told.append((doing, done, steps)),
    )
    done = [d for _, d, _ in told]
    assert done == sorted(done)
    assert told[-1][1] == told[-1][2]


def test_a_set_of_another_contract_is_refused(table: pa.Table) -> None:
    position = table.column_names.index("contract_hash")
    foreign = table.set_column(position, "contract_hash", pa.array(["b" * 64] * len(table)))
    with pytest.raises(ContractViolation, match=f"built under {'b' * 12}.*{READMISSION.hash[:12]}"):
        train(foreign, READMISSION, policy_hash=POLICY_HASH)


def test_an_invalid_row_is_refused_without_its_value(table: pa.Table) -> None:
    position = table.column_names.index("patient_age")
    ages = [977, *table["patient_age"].to_pylist()[1:]]
    with pytest.raises(ContractViolation, match="patient_age: above_maximum x1") as refused:
        train(table.set_column(position, "patient_age", pa.array(ages)), READMISSION, policy_hash=POLICY_HASH)
    assert "977" not in str(refused.value)


def test_one_outcome_only_is_refused(table: pa.Table) -> None:
    position = table.column_names.index("readmitted_within_30_days")
    nobody = table.set_column(position, "readmitted_within_30_days", pa.array([False] * len(table)))
    with pytest.raises(PermanentError, match="the train part"):
        train(nobody, READMISSION, policy_hash=POLICY_HASH)


def test_features_that_say_nothing_are_refused(table: pa.Table) -> None:
    """Without any signal the margin is one for all, and there is nothing to recalibrate."""
    same = table.slice(0, 1)
    constant = pa.table(
        {
            name: pa.concat_arrays([same[name].combine_chunks()] * len(table))
            if name in READMISSION.feature_names
            else table[name]
            for name in table.column_names
        }
    )
    with pytest.raises(PermanentError, match="no better than chance"):
        train(constant, READMISSION, policy_hash=POLICY_HASH)
