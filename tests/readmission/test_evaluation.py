"""The held-out discharges of a model: its own test part, every model on the same rows, the subgroups."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.monitoring.evaluation import assess
from medscore_assets.monitoring.promotion import judge, load_gate
from medscore_assets.readmission.evaluation import BASELINES, CHAMPION_NAME, held_out, subgroups
from medscore_assets.readmission.policy import load_policy
from medscore_assets.readmission.scoring import MODEL
from medscore_assets.readmission.training import LACE_LIKE, LOGISTIC_REGRESSION, Trained, train
from resources.errors import PermanentError
from tests.readmission.training_sets import training_set

POLICY = load_policy()


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return training_set(4000)


@pytest.fixture(scope="module")
def fitted(table: pa.Table) -> Trained:
    return train(table, READMISSION, policy_hash=POLICY.hash)


def test_every_model_is_measured_on_the_test_part_as_training_did(table: pa.Table, fitted: Trained) -> None:
    shuffled = table.take(pa.array(np.random.default_rng(0).permutation(len(table))))
    cases = held_out(shuffled, fitted.model, fitted.model, POLICY)
    assert list(cases.probabilities) == [MODEL, CHAMPION_NAME, *BASELINES]
    found = assess(cases, resamples=0)
    for name in (MODEL, *BASELINES):
        expected = fitted.evaluations[name]
        measures = found.performance[name].measures
        assert (found.n, found.events) == (expected.n, expected.events)
        assert measures["auroc"].estimate == expected.auroc
        assert measures["brier"].estimate == expected.brier
    assert (cases.probabilities[MODEL] == cases.probabilities[CHAMPION_NAME]).all()


def test_without_a_champion_there_are_the_baselines(table: pa.Table, fitted: Trained) -> None:
    cases = held_out(table, fitted.model, None, POLICY)
    assert list(cases.probabilities) == [MODEL, LOGISTIC_REGRESSION, LACE_LIKE]


def test_subgroups_and_tiers_are_those_of_the_rows(table: pa.Table, fitted: Trained) -> None:
    test = table.filter(pc.equal(table["part"], "test")).sort_by("discharged_at")
    cases = held_out(table, fitted.model, None, POLICY)
    assert set(cases.groups) == {
        "age_band",
        "insurance_type",
        "primary_diagnosis_group",
        "emergency_admission",
        "discharge_disposition",
    }
    assert cases.groups["insurance_type"].tolist() == test["insurance_type"].to_pylist()
    emergency = ["yes" if flag else "no" for flag in test["emergency_admission"].to_pylist()]
    assert cases.groups["emergency_admission"].tolist() == emergency
    tiers = [POLICY.tier(p) for p in cases.probabilities[MODEL]]
    assert cases.tiers.tolist() == tiers
    assert list(cases.tier_edges.items()) == [
        ("low", 0.0),
        ("moderate", 0.2),
        ("high", 0.4),
        ("very_high", 0.6),
    ]
    same_patient = np.array(test["patient_id"].to_pylist())
    assert len(np.unique(cases.patients)) == len(np.unique(same_patient))


def test_age_bands_begin_where_they_say(table: pa.Table) -> None:
    ages = [0, 17, 18, 44, 45, 64, 65, 74, 75, 84, 85, 120]
    position = table.column_names.index("patient_age")
    aged = table.slice(0, len(ages)).set_column(position, "patient_age", pa.array(ages))
    bands = ("under 18", "18-44", "45-64", "65-74", "75-84", "85+")
    assert subgroups(aged)["age_band"].tolist() == [band for band in bands for _ in range(2)]


def test_sex_is_compared_where_it_is_known(table: pa.Table) -> None:
    assert "sex" not in subgroups(table)
    sexes = pa.array([None if n % 3 == 0 else "female" for n in range(len(table))], pa.string())
    found = subgroups(table.append_column("sex", sexes))["sex"]
    assert found[:3].tolist() == ["unknown", "female", "female"]


def test_other_data_than_the_model_s_own_are_refused(table: pa.Table, fitted: Trained) -> None:
    with pytest.raises(PermanentError, match="not the one that the model was trained on"):
        held_out(table.slice(1), fitted.model, None, POLICY)


def test_the_gate_can_judge_a_trained_model(table: pa.Table, fitted: Trained) -> None:
    gate = load_gate()
    measured = assess(
        held_out(table, fitted.model, fitted.model, POLICY), thresholds=gate.thresholds, resamples=100
    )
    against_itself = judge(measured, CHAMPION_NAME, BASELINES, gate)
    assert [c.passed for c in against_itself.checked if c.against] != []
    assert all(c.passed for c in against_itself.checked if c.against)
    assert judge(measured, None, BASELINES, gate).checked
