"""SHAP values by products of conditions: the same as XGBoost's own, whatever the trees."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xgboost as xgb
from hypothesis import given, settings
from hypothesis import strategies as st

from medscore_assets.contracts.contract import Matrix
from medscore_assets.readmission.attribution import Attribution
from medscore_assets.readmission.scoring import ReadmissionModel
from tests.readmission.training_sets import random_matrix

FEATURES = 6


def grown(seed: int, rounds: int, **parameters: Any) -> tuple[xgb.Booster, Matrix]:
    """A booster on random whole numbers, and rows that it has not seen, some on a threshold's edge."""
    random = np.random.default_rng(seed)
    x = random.integers(0, 12, (400, FEATURES)).astype(np.float32)
    risk = x[:, 0] + x[:, 1] * x[:, 2] / 6 - 2 * (x[:, 3] > 5) + random.normal(0, 2, len(x))
    data = xgb.DMatrix(x, label=(risk > np.median(risk)).astype(int))
    fixed = {"objective": "binary:logistic", "nthread": 1, "seed": seed}
    booster = xgb.train(fixed | parameters, data, rounds)
    return booster, random.integers(-1, 14, (200, FEATURES)).astype(np.float32)


def xgboosts_own(booster: xgb.Booster, matrix: Matrix) -> Any:
    return booster.predict(xgb.DMatrix(matrix, feature_names=booster.feature_names), pred_contribs=True)


@given(
    seed=st.integers(0, 10_000),
    depth=st.integers(1, 5),
    rounds=st.integers(1, 25),
    base_score=st.floats(0.05, 0.95),
    weight=st.sampled_from([0.0, 1.0, 20.0]),
)
@settings(max_examples=30, deadline=None)
def test_the_values_are_those_of_pred_contribs(
    seed: int, depth: int, rounds: int, base_score: float, weight: float
) -> None:
    booster, rows = grown(
        seed, rounds, max_depth=depth, base_score=base_score, min_child_weight=weight, learning_rate=0.4
    )
    expected = xgboosts_own(booster, rows)
    values = Attribution.of(booster).values(rows)
    # XGBoost adds in float32, so the difference grows with what is added.
    np.testing.assert_allclose(values, expected[:, :-1], rtol=0, atol=2e-6 * max(1.0, rounds / 5))


def test_a_model_of_the_family_is_explained_as_xgboost_would(model: ReadmissionModel) -> None:
    random = np.random.default_rng(1)
    rows = random.integers(0, 90, (1000, len(model.manifest.feature_names))).astype(np.float32)
    expected = xgboosts_own(model.booster, rows)[:, :-1] * model.manifest.recalibration.slope
    np.testing.assert_allclose(model.explain(rows).contributions, expected, rtol=0, atol=5e-6)


def test_a_row_alone_is_explained_as_among_others(model: ReadmissionModel) -> None:
    random = np.random.default_rng(2)
    rows = random.integers(0, 90, (300, len(model.manifest.feature_names))).astype(np.float32)
    together = model.explain(rows).contributions
    alone = np.concatenate([model.explain(row[None]).contributions for row in rows])
    np.testing.assert_allclose(alone, together, rtol=0, atol=1e-14)


def test_what_is_read_from_a_file_explains_as_what_was_worked_out(model: ReadmissionModel) -> None:
    matrix = random_matrix(300, seed=5)
    made = Attribution.of(model.booster)
    read = Attribution.from_bytes(made.to_bytes())
    assert np.array_equal(read.values(matrix), made.values(matrix))
    assert read.to_bytes() == made.to_bytes()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"\x80\x04N.", bytes(100)])
def test_what_is_no_attribution_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="not the file of an attribution"):
        Attribution.from_bytes(content)


def test_trees_without_a_split_explain_nothing() -> None:
    booster, rows = grown(0, 2, max_depth=2, min_split_loss=1e9)
    assert not Attribution.of(booster).values(rows).any()


def test_nobody_is_explained_by_an_empty_table(model: ReadmissionModel) -> None:
    width = len(model.manifest.feature_names)
    assert Attribution.of(model.booster).values(np.zeros((0, width), np.float32)).shape == (0, width)


def test_another_kind_of_booster_is_refused() -> None:
    linear, _ = grown(0, 2, booster="gblinear")
    with pytest.raises(ValueError, match="not an ensemble of trees with numeric splits"):
        Attribution.of(linear)


def test_splits_by_category_are_refused() -> None:
    random = np.random.default_rng(0)
    x = random.integers(0, 4, (300, 1)).astype(np.float32)
    data = xgb.DMatrix(x, label=(x[:, 0] % 2), feature_types=["c"], enable_categorical=True)
    booster = xgb.train({"objective": "binary:logistic", "max_cat_to_onehot": 1}, data, 3)
    with pytest.raises(ValueError, match="numeric splits"):
        Attribution.of(booster)
