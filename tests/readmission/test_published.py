"""Published lists, read back: the scores of an encounter over time, and how a probability is told."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

from medscore_assets.partitions import window
from medscore_assets.readmission.policy import DEFAULT_FILE, load_policy
from medscore_assets.readmission.publish import Champion, publish_list
from medscore_assets.readmission.published import published_list, score_history
from medscore_assets.readmission.scoring import ReadmissionModel
from resources.warehouse import Warehouse
from tests.readmission.records import clean_day, discharge, local
from tests.readmission.test_outreach import DAY, add

POLICY = load_policy()
NEXT_DAY = "2026-03-03"


def test_the_scores_of_an_encounter_are_linked_and_say_what_changed(
    warehouse: Warehouse, model: ReadmissionModel
) -> None:
    first = discharge(1, local(DAY), num_prior_admissions_12m=0)
    add(warehouse, [first, discharge(2, local(DAY))])
    publish_list(warehouse, window(DAY), lambda: Champion(model, 1), POLICY)
    (alone,) = score_history(warehouse, "E-000001")
    assert (alone.model_version, alone.features_changed) == (1, False)
    assert alone.risk_tier == POLICY.tier(alone.readmission_probability)

    # Corrected onto the next day's list, with other features; the first list stays as it was called.
    corrected = first | {
        "discharged_at": local(NEXT_DAY),
        "ingested_at": local(NEXT_DAY, 13),
        "num_prior_admissions_12m": 9,
    }
    add(warehouse, [corrected])
    publish_list(warehouse, window(NEXT_DAY), lambda: Champion(model, 2), POLICY)
    before, after = score_history(warehouse, "E-000001")
    assert before == alone
    assert (str(before.score_date), str(after.score_date)) == (DAY, NEXT_DAY)
    assert before.scored_at < after.scored_at
    assert (after.model_version, after.features_changed) == (2, True)
    assert after.features_sha256 != before.features_sha256
    assert after.readmission_probability > before.readmission_probability


def test_the_same_features_on_another_day_are_told_as_such(
    warehouse: Warehouse, model: ReadmissionModel
) -> None:
    first = discharge(1, local(DAY))
    add(warehouse, [first])
    publish_list(warehouse, window(DAY), lambda: Champion(model, 1), POLICY)
    moved = first | {"discharged_at": local(NEXT_DAY), "ingested_at": local(NEXT_DAY) + timedelta(hours=1)}
    add(warehouse, [moved])
    publish_list(warehouse, window(NEXT_DAY), lambda: Champion(model, 1), POLICY)
    before, after = score_history(warehouse, "E-000001")
    assert not after.features_changed
    assert after.readmission_probability == before.readmission_probability


def test_an_encounter_without_a_score_has_no_history(warehouse: Warehouse) -> None:
    assert score_history(warehouse, "E-404") == []


def test_percentages_are_told_by_the_rules_of_the_list(
    warehouse: Warehouse, model: ReadmissionModel, tmp_path: Path
) -> None:
    add(warehouse, clean_day(DAY, 2))
    publish_list(warehouse, window(DAY), lambda: Champion(model, 1), POLICY)
    shown = published_list(warehouse, None, 5)
    assert shown.percent(0.40004, POLICY) == "40.1 %"
    file = tmp_path / "policy.toml"
    file.write_text(re.sub(r"(?m)^high = .*$", "high = 0.35", DEFAULT_FILE.read_text()))
    today = load_policy(file)
    assert today.percent(0.35004) == "35.1 %"
    assert shown.percent(0.35004, today) == "35.0 %"
