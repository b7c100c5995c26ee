"""The scorer: one probability on every path, reasons that add up, and models that are refused."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medscore_assets.contracts.contract import Contract, Matrix
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.monitoring.metrics import logit
from medscore_assets.readmission.margin import _library, margins, on_one_thread
from medscore_assets.readmission.policy import load_policy
from medscore_assets.readmission.scoring import (
    ATTRIBUTION_FILE,
    MODEL_FILE,
    REFERENCE_FILE,
    ReadmissionModel,
    Recalibration,
)
from medscore_assets.readmission.training import train
from resources.artifacts import MANIFEST_FILE, sha256
from resources.errors import ContractViolation, IntegrityError
from tests.readmission.training_sets import random_matrix, training_set


@pytest.fixture(scope="module")
def fitted() -> ReadmissionModel:
    return train(training_set(4000, seed=21), READMISSION, policy_hash="a" * 64).model


@pytest.fixture
def saved(fitted: ReadmissionModel, tmp_path: Path) -> Path:
    fitted.save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture(scope="module")
def golden() -> Matrix:
    return np.vstack([random_matrix(900, seed=1), random_matrix(100, seed=2, whole_range=True)])


def test_a_thousand_rows_have_one_probability_on_every_path(
    fitted: ReadmissionModel, golden: Matrix, saved: Path
) -> None:
    """In bulk, one by one, explained, reversed, on two threads, after saving: the same bits."""
    bulk = fitted.score(golden)
    assert bulk.dtype == np.float64
    assert bulk.shape == (1000,)
    paths = {
        "one by one": np.concatenate([fitted.score(golden[n : n + 1]) for n in range(len(golden))]),
        "explained": fitted.explain(golden).probabilities,
        "explained one by one": np.concatenate(
            [fitted.explain(golden[n : n + 1]).probabilities for n in range(200)]
            + [fitted.explain(golden[200:]).probabilities]
        ),
        "reversed": fitted.score(golden[::-1])[::-1],
        "column-major": fitted.score(np.asfortranarray(golden)),
        "two threads": ReadmissionModel.load(saved, READMISSION, threads=2).score(golden),
    }
    tiers = load_policy().tier_indices(bulk)
    for path, probabilities in paths.items():
        assert np.array_equal(probabilities, bulk), path
        assert np.array_equal(load_policy().tier_indices(probabilities), tiers), path


def test_the_row_encoder_leads_to_the_probability_of_the_table_encoder(fitted: ReadmissionModel) -> None:
    table = training_set(300, seed=4)
    bulk = fitted.score(READMISSION.encode(table).matrix)
    for row, expected in zip(table.select(list(READMISSION.feature_names)).to_pylist(), bulk, strict=True):
        assert fitted.score(READMISSION.encode_row(row))[0] == expected


def test_baseline_and_contributions_add_up_to_the_logit(fitted: ReadmissionModel, golden: Matrix) -> None:
    explained = fitted.explain(golden)
    assert explained.contributions.dtype == np.float64
    assert explained.contributions.shape == (1000, len(READMISSION.features))
    total = explained.baseline + explained.contributions.sum(axis=1)
    assert np.abs(total - logit(explained.probabilities)).max() <= 1e-4
    assert np.abs(1 / (1 + np.exp(-total)) - explained.probabilities).max() <= 1e-6


def test_recalibration_bends_the_log_odds_and_nothing_else(fitted: ReadmissionModel, golden: Matrix) -> None:
    plain = Recalibration(intercept=0.0, slope=1.0)
    bent = Recalibration(intercept=-0.4, slope=1.7)

    def with_recalibration(recalibration: Recalibration) -> ReadmissionModel:
        manifest = fitted.manifest.model_copy(update={"recalibration": recalibration})
        return ReadmissionModel.from_bytes(fitted.serialized, manifest)

    raw, recalibrated = with_recalibration(plain), with_recalibration(bent)
    assert np.allclose(
        logit(recalibrated.score(golden)), -0.4 + 1.7 * logit(raw.score(golden)), rtol=0, atol=1e-9
    )
    order = np.argsort(raw.score(golden), kind="stable")
    assert (np.diff(recalibrated.score(golden)[order]) >= 0).all()
    assert np.allclose(
        recalibrated.explain(golden).contributions, 1.7 * raw.explain(golden).contributions, atol=1e-12
    )


def test_probabilities_differ_and_stay_inside_0_and_1(fitted: ReadmissionModel, golden: Matrix) -> None:
    probabilities = fitted.score(golden)
    assert ((probabilities > 0) & (probabilities < 1)).all()
    assert np.ptp(probabilities) > 0.2


def test_nobody_gets_no_score(fitted: ReadmissionModel) -> None:
    nobody = np.empty((0, len(READMISSION.features)), dtype=np.float32)
    assert fitted.score(nobody).shape == (0,)
    explained = fitted.explain(nobody)
    assert explained.probabilities.shape == (0,)
    assert explained.contributions.shape == nobody.shape
    assert np.isfinite(explained.baseline)


def test_the_margin_is_the_one_that_xgboost_gives(fitted: ReadmissionModel, golden: Matrix) -> None:
    for rows in (golden, golden[:1], golden[7:64]):
        expected = fitted.booster.inplace_predict(rows, predict_type="margin")
        found = margins(fitted.booster, rows)
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert np.array_equal(found, expected)


def test_what_xgboost_refuses_is_said_with_its_reason(fitted: ReadmissionModel, golden: Matrix) -> None:
    with pytest.raises(RuntimeError, match="Number of columns"):
        margins(fitted.booster, np.ascontiguousarray(golden[:3, :4]))


def test_what_is_loaded_on_one_thread_leaves_the_others_as_many_as_before(saved: Path) -> None:
    openmp = _library()
    before = openmp.omp_get_max_threads()
    with on_one_thread():
        assert openmp.omp_get_max_threads() == 1
    ReadmissionModel.load(saved, READMISSION)
    assert openmp.omp_get_max_threads() == before


def test_threads_share_a_model(fitted: ReadmissionModel, golden: Matrix) -> None:
    bulk = fitted.score(golden)
    with ThreadPoolExecutor(8) as pool:
        scored = list(pool.map(lambda n: fitted.explain(golden[n : n + 1]).probabilities[0], range(400)))
    assert np.array_equal(scored, bulk[:400])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("method", ["score", "explain"])
def test_a_code_that_is_no_number_is_refused_not_taken_for_missing(
    fitted: ReadmissionModel, golden: Matrix, value: float, method: str
) -> None:
    broken = golden[:5].copy()
    broken[3, 4] = value
    with pytest.raises(ContractViolation, match="1 of 5 rows"):
        getattr(fitted, method)(broken)


@pytest.mark.parametrize(
    "bend",
    [
        lambda m: m.astype(np.float64),
        lambda m: m[:, :-1],
        lambda m: m[0],
        lambda m: np.hstack([m, m[:, :1]]),
    ],
    ids=["float64", "a column short", "one dimension", "a column over"],
)
def test_a_matrix_of_another_shape_or_type_is_refused(
    fitted: ReadmissionModel, golden: Matrix, bend: Any
) -> None:
    with pytest.raises(ContractViolation, match="not float32"):
        fitted.score(bend(golden))


# --- files -------------------------------------------------------------------------------------------


def rewrite(directory: Path, **changes: Any) -> None:
    """Change entries of a manifest as somebody with an editor would."""
    file = directory / MANIFEST_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_saved_model_is_the_same_model(fitted: ReadmissionModel, saved: Path, golden: Matrix) -> None:
    loaded = ReadmissionModel.load(saved, READMISSION)
    assert loaded.manifest == fitted.manifest
    assert loaded.serialized == fitted.serialized
    assert loaded.baseline == fitted.baseline
    assert np.array_equal(loaded.score(golden), fitted.score(golden))


def test_nothing_in_the_directory_is_a_pickle(saved: Path) -> None:
    assert sorted(f.name for f in saved.iterdir()) == sorted(
        [ATTRIBUTION_FILE, MANIFEST_FILE, MODEL_FILE, REFERENCE_FILE]
    )
    # Universal Binary JSON opens with a brace; a pickle with the byte 0x80.
    assert (saved / MODEL_FILE).read_bytes()[:1] == b"{"
    json.loads((saved / MANIFEST_FILE).read_text())


def test_another_contract_is_refused_with_both_hashes(saved: Path) -> None:
    narrower = replace(READMISSION.features[0], maximum=119)
    other = Contract("readmission", READMISSION.context, (narrower, *READMISSION.features[1:]))  # type: ignore[arg-type]
    with pytest.raises(IntegrityError, match=f"{READMISSION.hash[:12]}, this code has .*{other.hash[:12]}"):
        ReadmissionModel.load(saved, other)


def test_a_changed_model_file_is_refused_by_name(saved: Path) -> None:
    content = bytearray((saved / MODEL_FILE).read_bytes())
    content[len(content) // 2] ^= 1
    (saved / MODEL_FILE).write_bytes(content)
    with pytest.raises(IntegrityError, match=rf"file {MODEL_FILE} was changed"):
        ReadmissionModel.load(saved, READMISSION)


def test_reasons_come_from_the_file_and_without_it_from_the_trees(
    fitted: ReadmissionModel, saved: Path, golden: Matrix
) -> None:
    listed = json.loads((saved / MANIFEST_FILE).read_text())["files"]
    assert ReadmissionModel.load(saved, READMISSION).attribution is not None
    del listed[ATTRIBUTION_FILE]
    rewrite(saved, files=listed)
    without = ReadmissionModel.load(saved, READMISSION)
    assert without.attribution is None
    assert np.array_equal(without.explain(golden).contributions, fitted.explain(golden).contributions)


def test_reasons_that_cannot_be_read_are_refused(saved: Path) -> None:
    (saved / ATTRIBUTION_FILE).write_bytes(b"no array")
    listed = json.loads((saved / MANIFEST_FILE).read_text())["files"]
    rewrite(saved, files=listed | {ATTRIBUTION_FILE: sha256(b"no array")})
    with pytest.raises(IntegrityError, match=f"{ATTRIBUTION_FILE} is not readable"):
        ReadmissionModel.load(saved, READMISSION)


def test_an_absent_file_is_refused_by_name(saved: Path) -> None:
    (saved / MODEL_FILE).unlink()
    with pytest.raises(IntegrityError, match=f"file {MODEL_FILE} cannot be read"):
        ReadmissionModel.load(saved, READMISSION)
    (saved / MANIFEST_FILE).unlink()
    with pytest.raises(IntegrityError, match=r"no manifest\.json"):
        ReadmissionModel.load(saved, READMISSION)


def swapped() -> list[str]:
    first, second, *others = READMISSION.feature_names
    return [second, first, *others]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"format": "medscore-readmission/99"}, "format is 'medscore-readmission/99'"),
        ({"format": None}, "format is None"),
        ({"contract_hash": "0" * 64}, "under contract readmission 000000000000"),
        ({"contract_name": "mobility"}, "under contract mobility"),
        ({"feature_names": swapped()}, "features are not the contract's, in its order"),
        ({"feature_names": list(READMISSION.feature_names[:-1])}, "features are not the contract's"),
        ({"files": {}}, "does not list model.ubj"),
        ({"files": {"../model.ubj": "0" * 64}}, "entries are not valid: files"),
        ({"best_iteration": 0}, "does not end at its manifest's best iteration"),
        ({"recalibration": {"intercept": 0.0, "slope": -1.0}}, "entries are not valid: recalibration.slope"),
        ({"recalibration": {"intercept": 0.0, "slope": "1"}}, "entries are not valid: recalibration.slope"),
        ({"surprise": 1}, "entries are not valid: surprise"),
        ({"seed": None}, "entries are not valid: seed"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused_and_says_why(
    saved: Path, changes: dict[str, Any], complaint: str
) -> None:
    rewrite(saved, **changes)
    with pytest.raises(IntegrityError, match=complaint):
        ReadmissionModel.load(saved, READMISSION)


@pytest.mark.parametrize("text", ["", "no JSON", "[]", '{"format": '])
def test_a_manifest_that_is_no_manifest_is_refused(saved: Path, text: str) -> None:
    (saved / MANIFEST_FILE).write_text(text)
    with pytest.raises(IntegrityError, match=r"manifest"):
        ReadmissionModel.load(saved, READMISSION)


def test_a_booster_with_its_columns_in_another_order_is_refused(
    fitted: ReadmissionModel, saved: Path
) -> None:
    """Even when somebody has put the right hash of the wrong file into the manifest."""
    booster = ReadmissionModel.from_bytes(fitted.serialized, fitted.manifest).booster
    booster.feature_names = swapped()
    content = bytes(booster.save_raw("ubj"))
    (saved / MODEL_FILE).write_bytes(content)
    rewrite(saved, files={MODEL_FILE: sha256(content)})
    with pytest.raises(IntegrityError, match="features are not its manifest's, in their order"):
        ReadmissionModel.load(saved, READMISSION)


def test_a_file_that_is_no_booster_is_refused(saved: Path) -> None:
    (saved / MODEL_FILE).write_bytes(b"{ no model")
    rewrite(saved, files={MODEL_FILE: sha256(b"{ no model")})
    with pytest.raises(IntegrityError, match="not readable as XGBoost"):
        ReadmissionModel.load(saved, READMISSION)
