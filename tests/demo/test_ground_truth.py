"""The declared probability: monotone where it says so, and defined for every valid row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from medscore_assets.contracts.fields import Category, Whole
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.demo import ground_truth
from medscore_assets.demo.ground_truth import readmission_probability
from tests.contracts.values import SOUND_ROW, sound_rows

MONOTONE = ("num_prior_admissions_12m", "num_chronic_conditions", "num_medications_at_discharge")


@given(sound_rows())
def test_every_valid_row_has_a_probability(row: dict[str, object]) -> None:
    [probability] = readmission_probability({name: np.array([value]) for name, value in row.items()})
    assert 0 < probability < 1


@pytest.mark.parametrize("name", MONOTONE)
@given(row=sound_rows())
def test_the_probability_never_falls_when_a_count_rises(name: str, row: dict[str, object]) -> None:
    feature = READMISSION.fields[name]
    assert isinstance(feature, Whole)
    sweep = np.arange(feature.minimum, feature.maximum + 1)
    columns = {other: np.repeat(np.array([value]), len(sweep)) for other, value in row.items()}
    risk = readmission_probability(columns | {name: sweep})
    assert (np.diff(risk) >= 0).all()
    assert risk[-1] > risk[0]


def test_the_monotone_counts_are_those_of_the_contract() -> None:
    signs = dict(zip(READMISSION.feature_names, READMISSION.monotone_constraints, strict=True))
    assert {name for name, sign in signs.items() if sign == 1} == set(MONOTONE)


def test_every_category_of_the_contract_has_a_declared_effect() -> None:
    effects = {
        "primary_diagnosis_group": ground_truth.DIAGNOSIS,
        "discharge_disposition": ground_truth.DISPOSITION,
        "insurance_type": ground_truth.INSURANCE,
    }
    categories = {f.name: f.categories for f in READMISSION.features if isinstance(f, Category)}
    assert {name: tuple(effect) for name, effect in effects.items()} == categories


def test_a_chronic_condition_weighs_more_after_a_cardiac_stay() -> None:
    def logit(**changes: object) -> float:
        [p] = readmission_probability({k: np.array([v]) for k, v in (SOUND_ROW | changes).items()})
        return float(np.log(p / (1 - p)))

    def step(diagnosis: str) -> float:
        higher = logit(primary_diagnosis_group=diagnosis, num_chronic_conditions=4)
        return higher - logit(primary_diagnosis_group=diagnosis, num_chronic_conditions=3)

    assert step("cardiac") == pytest.approx(
        step("digestive") + ground_truth.CHRONIC_CONDITION_OF_HEART_OR_LUNG
    )
