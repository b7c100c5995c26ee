"""Tiers, actions and the policy file."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medscore_assets.contracts.fields import Category, Flag, Whole
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.readmission.policy import (
    DEFAULT_FILE,
    DISCLAIMER,
    TIERS,
    Policy,
    Score,
    load_policy,
    plain_percent,
)
from resources.errors import PermanentError

POLICY = load_policy()
EDGES = (0.2, 0.4, 0.6)


def feature_values(feature: Whole | Category | Flag) -> st.SearchStrategy[object]:
    """Every valid value of a feature."""
    match feature:
        case Whole():
            return st.integers(feature.minimum, feature.maximum)
        case Category():
            return st.sampled_from(feature.categories)
        case Flag():
            return st.booleans()


rows = st.fixed_dictionaries({f.name: feature_values(f) for f in READMISSION.features})
probabilities = st.floats(0, 1) | st.sampled_from(EDGES)


@pytest.mark.parametrize(
    ("probability", "tier"),
    [(0.0, "low"), (0.2, "low"), (0.4, "moderate"), (0.6, "high"), (1.0, "very_high")]
    + [(np.nextafter(edge, 1), tier) for edge, tier in zip(EDGES, TIERS[1:], strict=True)]
    + [(np.nextafter(edge, 0), tier) for edge, tier in zip(EDGES, TIERS, strict=False)],
)
def test_each_edge_belongs_to_the_tier_below(probability: float, tier: str) -> None:
    assert POLICY.tier(probability) == tier


def test_zero_has_a_tier_where_the_document_has_none() -> None:
    document = pd.cut([0.0], bins=[0, 0.2, 0.4, 0.6, 1.0], labels=list(TIERS))
    assert document.isna().all()
    assert POLICY.tier(0.0) == "low"


@given(st.lists(probabilities, min_size=1))
def test_one_value_and_a_column_get_the_same_tier(values: list[float]) -> None:
    column = [TIERS[i] for i in POLICY.tier_indices(values)]
    assert column == [POLICY.tier(v) for v in values]


def test_float32_is_compared_as_float64_so_that_tier_and_count_agree() -> None:
    value = np.float32(0.4)
    # The document's cut says "high" while its own count, `> 0.4` in float32, does not include it.
    assert pd.cut(np.array([value]), [0, 0.2, 0.4, 0.6, 1.0], labels=list(TIERS))[0] == "high"
    assert not (np.array([value]) > 0.4).any()
    assert POLICY.tier(value) == POLICY.tier(float(value)) == "high"


@pytest.mark.parametrize("bad", [float("nan"), -0.001, 1.001, float("inf")])
def test_what_is_no_probability_gets_no_tier(bad: float) -> None:
    with pytest.raises(ValueError, match="probability"):
        POLICY.tier_indices([0.5, bad])


@given(st.lists(st.tuples(rows, probabilities), min_size=1, max_size=5))
def test_high_risk_never_reads_standard_protocol(cases: list[tuple[dict[str, object], float]]) -> None:
    matrix = np.vstack([READMISSION.encode_row(row) for row, _ in cases])
    actions = POLICY.recommended_actions([p for _, p in cases], matrix)
    for (_, probability), codes, texts in zip(cases, matrix.tolist(), actions, strict=True):
        assert texts
        assert POLICY.actions_for(probability, codes) == texts
        if POLICY.tier(probability) in ("high", "very_high"):
            assert POLICY.standard.text not in texts
            assert "Follow-up call within 48 hours of discharge" in texts


def _actions(probability: float, **changes: object) -> tuple[str, ...]:
    row: dict[str, object] = {
        "patient_age": 70,
        "length_of_stay_days": 3,
        "num_prior_admissions_12m": 0,
        "num_chronic_conditions": 2,
        "primary_diagnosis_group": "cardiac",
        "discharge_disposition": "rehab",
        "insurance_type": "medicare",
        "emergency_admission": False,
        "num_medications_at_discharge": 3,
        "has_follow_up_scheduled": True,
    }
    return POLICY.recommended_actions([probability], READMISSION.encode_row(row | changes))[0]


def test_a_very_high_risk_patient_without_other_triggers_gets_an_action() -> None:
    assert "Standard discharge protocol appropriate" not in _actions(0.95)


def test_a_booked_follow_up_is_checked_for_its_date() -> None:
    assert "Confirm that the booked follow-up is within 7 days of discharge" in _actions(0.7)
    assert "Schedule follow-up appointment within 7 days of discharge" in _actions(
        0.7, has_follow_up_scheduled=False
    )


def test_actions_begin_where_tiers_begin() -> None:
    home = {"discharge_disposition": "home", "has_follow_up_scheduled": False}
    assert _actions(0.4, **home) == ("Standard discharge protocol appropriate",)
    assert "Evaluate need for home health services" in _actions(np.nextafter(0.4, 1), **home)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"num_medications_at_discharge": 9}, "Medication reconciliation review recommended"),
        ({"num_prior_admissions_12m": 2}, "Consider referral to care management program"),
    ],
)
def test_counts_trigger_at_any_risk(change: dict[str, object], text: str) -> None:
    assert text in _actions(0.01, **change)
    assert text not in _actions(0.01, **{k: v - 1 for k, v in change.items()})  # type: ignore[operator]


@given(probabilities)
def test_the_shown_percentage_never_contradicts_the_tier(probability: float) -> None:
    shown = float(POLICY.percent(probability).removesuffix(" %")) / 100
    assert POLICY.tier(round(shown, 6)) == POLICY.tier(probability)
    assert abs(shown - probability) <= 0.0011


def test_the_hash_follows_the_rules_and_not_the_layout(tmp_path: Path) -> None:
    text = DEFAULT_FILE.read_text()
    (tmp_path / "layout.toml").write_text(re.sub(r"(?m)^#.*$", "", text))
    (tmp_path / "rule.toml").write_text(text.replace("high = 0.4", "high = 0.35", 1))
    assert load_policy(tmp_path / "layout.toml").hash == POLICY.hash
    changed = load_policy(tmp_path / "rule.toml")
    assert changed.hash != POLICY.hash
    assert changed.tier(0.38) == "high"


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("high = 0.4", "high = 0.7", "tiers"),
        ("max_share = 0.10", "max_share = 10", "quarantine.max_share"),
        ('equals = "home"', 'equals = "hoem"', "discharge_disposition"),
        ('feature = "num_prior_admissions_12m"', 'feature = "prior"', "prior"),
        ("at_least = 9", 'at_least = "9"', "at_least"),
        ("daily_calls", "daily_call", "daily_call"),
        (
            'text = "Follow-up call within 48 hours of discharge"\nfrom_tier = "high"',
            'text = "x"\nfrom_tier = "very_high"',
            "high",
        ),
        ("version =", "version", "TOML"),
    ],
)
def test_a_wrong_policy_is_refused_and_the_entry_is_named(
    tmp_path: Path, old: str, new: str, named: str
) -> None:
    file = tmp_path / "policy.toml"
    text = DEFAULT_FILE.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(PermanentError, match=named) as refused:
        load_policy(file)
    assert str(file) in str(refused.value)


def test_a_policy_in_another_encoding_is_a_clear_error(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_bytes(DEFAULT_FILE.read_text(encoding="utf-8").replace("2026.1", "März").encode("latin-1"))
    with pytest.raises(PermanentError, match="not UTF-8"):
        load_policy(file)


def test_a_missing_policy_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="MEDSCORE_POLICY_FILE"):
        load_policy(tmp_path / "absent.toml")


@pytest.mark.parametrize(
    ("quarantined", "rows", "stops"),
    [
        (1, 800, False),
        (80, 800, False),
        (81, 800, True),
        (240, 800, True),
        (4, 10, False),
        (5, 10, True),
        (0, 0, False),
    ],
)
def test_how_many_broken_rows_stop_a_day(quarantined: int, rows: int, stops: bool) -> None:
    assert POLICY.quarantine.stops(quarantined, rows) is stops


def test_the_policy_model_is_closed() -> None:
    document = tomllib.loads(DEFAULT_FILE.read_text())
    assert Policy.model_validate(document) == POLICY


def test_the_disclaimer_is_the_documents_sentence() -> None:
    document = "This score is a decision-support tool. Clinical judgment should guide all care decisions."
    assert document == DISCLAIMER == POLICY.disclaimer


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Trust this score.",
        DISCLAIMER.lower(),
        DISCLAIMER.removesuffix("."),
        f"Nobody needs this: {DISCLAIMER}",
        f"{DISCLAIMER}..",
    ],
)
def test_a_policy_cannot_drop_or_alter_the_disclaimer(tmp_path: Path, text: str) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(DEFAULT_FILE.read_text().replace(f'"{DISCLAIMER}"', f'"{text}"'))
    with pytest.raises(PermanentError, match=r"not valid: disclaimer:"):
        load_policy(file)


def test_a_policy_may_add_to_the_disclaimer(tmp_path: Path) -> None:
    file, longer = tmp_path / "policy.toml", f"{DISCLAIMER} Ask the ward when in doubt."
    file.write_text(DEFAULT_FILE.read_text().replace(f'"{DISCLAIMER}"', f'"{longer}"'))
    assert load_policy(file).disclaimer == longer


def test_a_policy_without_a_disclaimer_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(re.sub(r"(?m)^disclaimer = .*$", "", DEFAULT_FILE.read_text()))
    with pytest.raises(PermanentError, match="disclaimer"):
        load_policy(file)


@pytest.mark.parametrize(
    ("probability", "tier"), [(0.99, "low"), (0.4, "high"), (0.1, "very_high"), (1.1, "very_high")]
)
def test_a_score_whose_tier_contradicts_its_probability_cannot_be_made(probability: float, tier: str) -> None:
    with pytest.raises(ValueError, match=r"readmission_probability|tier is not that of the probability"):
        Score(readmission_probability=probability, risk_tier=tier, edges=POLICY.tiers)  # type: ignore[arg-type]


@given(probabilities)
def test_a_score_is_sent_with_the_tier_of_the_policy(probability: float) -> None:
    sent = POLICY.scored(probability).model_dump()
    assert sent == {"readmission_probability": probability, "risk_tier": POLICY.tier(probability)}


def test_where_the_edges_are_not_known_a_percentage_is_simply_rounded() -> None:
    assert POLICY.percent(0.40004) == "40.1 %"
    assert plain_percent(0.40004) == "40.0 %"
