"""One thousand demo patients by every way to a score: the list, the API and the inference protocol agree."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest

from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.demo.discharges import DemoData
from medscore_assets.partitions import window
from medscore_assets.readmission.outreach import build_list
from medscore_assets.readmission.policy import load_policy
from medscore_assets.readmission.scoring import ReadmissionModel
from medscore_assets.readmission.single import score_each, score_one
from serving.inference import MAX_ROWS

ROWS = 1000
NAMES = READMISSION.feature_names
POLICY = load_policy()


@pytest.fixture(scope="session")
def golden(demo_year: DemoData, model: ReadmissionModel) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Features of a thousand clean demo discharges, each with its row of the list."""
    events = demo_year.events
    clean = events.filter(
        pa.array(READMISSION.encode(events).valid & READMISSION.check_context(events).valid)
    )
    # The demo's feed corrects some stays and readmits some patients: here each row is a stay of its own.
    some = clean.slice(0, 2 * ROWS)
    for column, prefix in (("patient_id", "P"), ("encounter_id", "E")):
        names = pa.array([f"{prefix}-{number:06d}" for number in range(len(some))])
        some = some.set_column(some.schema.get_field_index(column), column, names)
    day = window("2025-06-01")
    made = build_list(
        some.append_column("event_id", pa.array(range(len(some)), pa.int64())).append_column(
            "superseded", pa.array(np.zeros(len(some), dtype=bool))
        ),
        demo_year.admissions.slice(0, 0),
        window=day,
        model=model,
        model_version=1,
        policy=POLICY,
        scored_at=datetime.now(UTC),
    )
    listed = {row["encounter_id"]: row for row in made.scores.to_pylist()}
    found = [
        ({name: row[name] for name in NAMES}, listed[row["encounter_id"]])
        for row in some.to_pylist()
        if row["encounter_id"] in listed
    ][:ROWS]
    assert len(found) == ROWS
    assert {row["risk_tier"] for _, row in found} >= {"low", "moderate", "high"}
    return found


def test_the_scorer_says_of_one_patient_what_the_list_says_bit_for_bit(
    golden: list[tuple[dict[str, Any], dict[str, Any]]], model: ReadmissionModel
) -> None:
    for features, listed in golden:
        score = score_one(features, model, 1, POLICY)
        assert score.probability == listed["readmission_probability"]
        assert score.tier == listed["risk_tier"]
        assert json.dumps(list(score.actions)) == listed["recommended_actions"]
        assert as_listed(score.top_factors) == listed["top_factors"]
        assert score.features_sha256 == listed["features_sha256"]
        assert (score.policy_version, score.policy_hash) == (listed["policy_version"], listed["policy_hash"])
        assert score.disclaimer == listed["disclaimer"]


def as_listed(factors: Any) -> str:
    """Reasons as the list stores them."""
    names = ("feature", "value", "contribution", "direction", "text")
    return json.dumps([{name: getattr(f, name) for name in names} for f in factors])


def test_ten_contributions_and_the_baseline_add_up_to_the_logit_for_every_patient(
    golden: list[tuple[dict[str, Any], dict[str, Any]]], model: ReadmissionModel
) -> None:
    for score in score_each([features for features, _ in golden], model, 1, POLICY):
        assert len(score.explanation) == len(NAMES)
        total = score.baseline + sum(f.contribution for f in score.explanation)
        assert total == pytest.approx(np.log(score.probability / (1 - score.probability)), abs=1e-4)


def test_a_contribution_that_rounds_to_nothing_is_neutral_and_no_reason(model: ReadmissionModel) -> None:
    from medscore_assets.readmission.reasons import factors, top_factors
    from medscore_assets.readmission.scoring import Explained

    contributions = np.zeros((1, 10))
    contributions[0, 3], contributions[0, 5] = -0.25, -4e-7
    matrix = np.zeros((1, 10), dtype=np.float32)
    explained = Explained(np.array([0.5]), contributions, 0.0)

    (found,) = factors(matrix, explained)

    assert found[0].direction == "lowers"
    assert {f.direction for f in found[1:]} == {"neutral"}
    assert "does not change the risk" in found[1].text
    assert "-0.0" not in json.dumps([f.contribution for f in found])
    assert as_listed(found[:1]) == top_factors(matrix, explained, 3)[0]


def test_the_api_says_of_a_thousand_patients_what_the_list_says(
    golden: list[tuple[dict[str, Any], dict[str, Any]]], api: httpx.Client
) -> None:
    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(lambda row: api.post("/v1/readmission/predict", json=row[0]), golden))
    for (_, listed), response in zip(golden, responses, strict=True):
        answer = response.json()
        assert answer["readmission_probability"] == listed["readmission_probability"]
        assert answer["risk_tier"] == listed["risk_tier"]
        assert answer["recommended_actions"] == json.loads(listed["recommended_actions"])
        reasons = [f for f in answer["explanation"] if f["direction"] != "neutral"][: POLICY.top_factors]
        assert reasons == json.loads(listed["top_factors"])


def test_the_inference_protocol_says_of_a_thousand_patients_what_the_list_says(
    golden: list[tuple[dict[str, Any], dict[str, Any]]], api: httpx.Client
) -> None:
    datatypes = {t["name"]: t["datatype"] for t in api.get("/v2/models/readmission").json()["inputs"]}
    for start in range(0, ROWS, MAX_ROWS):
        part = golden[start : start + MAX_ROWS]
        inputs = [
            {
                "name": name,
                "datatype": datatypes[name],
                "shape": [len(part)],
                "data": [features[name] for features, _ in part],
            }
            for name in NAMES
        ]
        outputs = [
            {"name": name} for name in ("probability", "risk_tier", "recommended_actions", "explanation")
        ]
        response = api.post("/v2/models/readmission/infer", json={"inputs": inputs, "outputs": outputs})
        told = {output["name"]: output["data"] for output in response.json()["outputs"]}
        for i, (_, listed) in enumerate(part):
            assert told["probability"][i] == listed["readmission_probability"]
            assert told["risk_tier"][i] == listed["risk_tier"]
            assert json.loads(told["recommended_actions"][i]) == json.loads(listed["recommended_actions"])
            reasons = [f for f in json.loads(told["explanation"][i]) if f["direction"] != "neutral"]
            assert reasons[: POLICY.top_factors] == json.loads(listed["top_factors"])
