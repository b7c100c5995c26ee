"""One patient's score over HTTP: what is taken, what is refused without an echo, and what is answered."""

from __future__ import annotations

import json
import math
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from pydantic import ValidationError

from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.readmission.policy import DISCLAIMER, load_policy
from medscore_assets.tables.serving import audit_events, readmission_scores
from resources.warehouse import Warehouse
from serving.examples import REQUEST, RESPONSE
from serving.readmission import ReadmissionRequest, ReadmissionResponse
from tests.serving.conftest import features

PREDICT = "/v1/readmission/predict"
SENTINEL = "SENTINEL-7f3a"


def predict(api: httpx.Client, body: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The answer to a valid request."""
    response = api.post(PREDICT, json=body, **more)
    assert response.status_code == 200, response.text
    return dict(response.json())


def post_raw(api: httpx.Client, body: str) -> Any:
    return api.post(PREDICT, content=body, headers={"Content-Type": "application/json"})


def test_the_documented_request_gives_the_documented_answer_and_its_provenance(api: httpx.Client) -> None:
    answer = predict(api, REQUEST)

    ReadmissionResponse.model_validate_json(json.dumps(answer), strict=True)
    assert uuid.UUID(answer["score_id"])
    assert answer["model_name"] == "readmission"
    assert answer["model_version"] == "1"
    assert answer["contract_hash"] == READMISSION.hash
    assert (answer["policy_version"], answer["policy_hash"]) == (load_policy().version, load_policy().hash)
    assert answer["disclaimer"] == DISCLAIMER
    assert (answer["encounter_id"], answer["patient_id"]) == (REQUEST["encounter_id"], REQUEST["patient_id"])
    assert datetime.fromisoformat(answer["data_as_of"]) == datetime.fromisoformat(REQUEST["data_as_of"])
    assert abs(datetime.now(UTC) - datetime.fromisoformat(answer["scored_at"])) < timedelta(minutes=1)


def test_the_examples_are_bodies_that_the_models_take() -> None:
    ReadmissionRequest.model_validate_json(json.dumps(REQUEST))
    ReadmissionResponse.model_validate_json(json.dumps(RESPONSE))


def test_all_ten_contributions_and_the_baseline_add_up_to_the_logit_of_the_probability(
    api: httpx.Client,
) -> None:
    answer = predict(api, features())

    assert sorted(f["feature"] for f in answer["explanation"]) == sorted(READMISSION.feature_names)
    total = answer["baseline"] + sum(f["contribution"] for f in answer["explanation"])
    p = answer["readmission_probability"]
    assert total == pytest.approx(math.log(p / (1 - p)), abs=1e-4)
    for factor in answer["explanation"]:
        sign = {"raises": 1, "lowers": -1, "neutral": 0}[factor["direction"]]
        assert math.copysign(1, factor["contribution"]) * bool(factor["contribution"]) == sign
        assert factor["value"] == features()[factor["feature"]]
        assert factor["text"]


def test_without_explanation_all_else_stands(api: httpx.Client) -> None:
    explained = predict(api, features())
    bare = predict(api, features(), params={"explain": "false"})

    assert "explanation" not in bare
    for name in ("readmission_probability", "risk_tier", "recommended_actions", "disclaimer", "baseline"):
        assert bare[name] == explained[name]


@pytest.mark.parametrize(
    ("changes", "location"),
    [
        ({"patient_age": True}, "patient_age"),
        ({"patient_age": "65"}, "patient_age"),
        ({"patient_age": 65.0}, "patient_age"),
        ({"patient_age": 121}, "patient_age"),
        ({"patient_age": -1}, "patient_age"),
        ({"patient_age": None}, "patient_age"),
        ({"num_prior_admissions_12m": 10**30}, "num_prior_admissions_12m"),
        ({"length_of_stay_days": 366}, "length_of_stay_days"),
        ({"has_follow_up_scheduled": "no"}, "has_follow_up_scheduled"),
        ({"emergency_admission": 1}, "emergency_admission"),
        ({"primary_diagnosis_group": "cardac"}, "primary_diagnosis_group"),
        ({"primary_diagnosis_group": "Cardiac"}, "primary_diagnosis_group"),
        ({"insurance_type": SENTINEL}, "insurance_type"),
        ({"encounter_id": ""}, "encounter_id"),
        ({"encounter_id": " E-1"}, "encounter_id"),
        ({"encounter_id": "E\u0000-1"}, "encounter_id"),
        ({"patient_id": 17}, "patient_id"),
        ({"patient_id": "P" * 201}, "patient_id"),
        ({"data_as_of": "2026-03-02T09:15:00"}, "data_as_of"),
        ({"data_as_of": 1772442900}, "data_as_of"),
        ({"data_as_of": SENTINEL}, "data_as_of"),
        ({"data_as_of": "9999-12-31T23:59:59Z"}, "data_as_of"),
        ({"data_as_of": "0001-01-01T00:00:00+14:00"}, "data_as_of"),
    ],
)
def test_what_the_contract_does_not_allow_is_refused_by_its_name(
    api: httpx.Client, changes: dict[str, Any], location: str
) -> None:
    response = api.post(PREDICT, json=features(**changes))

    assert response.status_code == 422
    assert [p["location"] for p in response.json()["error"]["problems"]] == [location]
    assert SENTINEL not in response.text


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e400", "1e30"])
def test_a_number_that_is_none_is_refused(api: httpx.Client, value: str) -> None:
    body = json.dumps(features()).replace('"patient_age": 78', f'"patient_age": {value}')
    assert value in body

    response = post_raw(api, body)

    assert response.status_code in (400, 422)
    assert "error" in response.json()


def test_an_unknown_key_is_refused_and_neither_it_nor_its_value_is_repeated(api: httpx.Client) -> None:
    response = api.post(PREDICT, json=features(**{f"mrn {SENTINEL}": SENTINEL}))

    assert response.status_code == 422
    assert response.json()["error"]["problems"] == [
        {
            "location": "(unknown key)",
            "type": "extra_forbidden",
            "message": "Extra inputs are not permitted",
        }
    ]


@pytest.mark.parametrize("name", ["disclaimer", "risk_tier", "readmission_probability"])
def test_nobody_sets_what_the_service_says(api: httpx.Client, name: str) -> None:
    assert api.post(PREDICT, json=features(**{name: "low"})).status_code == 422


def test_a_missing_field_is_named_and_the_others_are_not_repeated(api: httpx.Client) -> None:
    body = features(encounter_id=SENTINEL)
    del body["patient_age"]

    response = api.post(PREDICT, json=body)

    assert response.status_code == 422
    assert response.json()["error"]["problems"][0]["location"] == "patient_age"
    assert SENTINEL not in response.text


@pytest.mark.parametrize("body", ["", "{", SENTINEL, "\x00", "[1, 2", '"\\ud800"'])
def test_what_is_not_json_is_a_400_without_an_echo(api: httpx.Client, body: str) -> None:
    response = post_raw(api, body)

    assert response.status_code == 400
    assert response.json()["error"]["code"] == "malformed"
    assert SENTINEL not in response.text


@pytest.mark.parametrize("body", ["null", "[]", "17", '"text"'])
def test_json_that_is_no_object_is_a_422(api: httpx.Client, body: str) -> None:
    assert post_raw(api, body).status_code == 422


def test_high_risk_is_never_told_that_the_standard_protocol_will_do(api: httpx.Client) -> None:
    standard = load_policy().standard.text
    told = 0
    for medications in (0, 8, 40, 100):
        for booked in (False, True):
            answer = predict(
                api,
                features(
                    num_prior_admissions_12m=20,
                    num_chronic_conditions=20,
                    num_medications_at_discharge=medications,
                    has_follow_up_scheduled=booked,
                    discharge_disposition="rehab",
                ),
            )
            if answer["risk_tier"] in ("high", "very_high"):
                told += 1
                assert standard not in answer["recommended_actions"]
                assert any("7 days" in action for action in answer["recommended_actions"])
    assert told


def test_probability_and_tier_cannot_contradict_each_other(api: httpx.Client) -> None:
    answer = predict(api, features())
    policy = load_policy()

    assert answer["risk_tier"] == policy.tier(answer["readmission_probability"])
    with pytest.raises(ValidationError):
        type(policy.scored(0.5))(readmission_probability=0.99, risk_tier="low", edges=policy.tiers)


def test_the_schema_requires_the_disclaimer_word_for_word() -> None:
    schema = ReadmissionResponse.model_json_schema()

    assert schema["properties"]["disclaimer"]["const"] == DISCLAIMER
    assert "disclaimer" in schema["required"]


def test_the_score_is_stored_as_it_was_given_and_audited_once(
    api: httpx.Client, api_warehouse: Warehouse
) -> None:
    request_id = str(uuid.uuid4())
    answer = predict(api, REQUEST, headers={"X-Request-Id": request_id})

    (row,) = api_warehouse.read(
        sa.select(readmission_scores).where(readmission_scores.c.score_id == answer["score_id"])
    ).to_pylist()
    assert row["readmission_probability"] == answer["readmission_probability"]
    assert json.loads(row["recommended_actions"]) == answer["recommended_actions"]
    assert json.loads(row["explanation"])["factors"] == answer["explanation"]
    assert {name: row[name] for name in READMISSION.feature_names} == features()
    assert row["source"] == "api"
    events = audited(api_warehouse, answer["score_id"])
    assert len(events) == 1
    assert request_id in events[0]


def audited(warehouse: Warehouse, text: str) -> list[str]:
    """Audit events in which something stands."""
    query = sa.select(audit_events.c.event).where(audit_events.c.event.contains(text))
    return list(warehouse.read(query)["event"].to_pylist())


def test_a_score_is_read_again_as_it_was_given_and_the_reading_is_audited(
    api: httpx.Client, api_warehouse: Warehouse
) -> None:
    given = predict(api, REQUEST)

    read = api.get(f"/v1/readmission/scores/{given['score_id']}")

    assert read.status_code == 200
    assert read.json() == given
    assert len(audited(api_warehouse, given["score_id"])) == 2


def test_a_score_that_does_not_exist_is_a_404_and_audited(
    api: httpx.Client, api_warehouse: Warehouse
) -> None:
    request_id = str(uuid.uuid4())

    response = api.get(f"/v1/readmission/scores/{uuid.uuid4()}", headers={"X-Request-Id": request_id})

    assert response.status_code == 404
    assert len(audited(api_warehouse, request_id)) == 1


def test_an_id_that_is_none_is_refused_without_an_echo(api: httpx.Client) -> None:
    response = api.get(f"/v1/readmission/scores/{SENTINEL}")

    assert response.status_code == 422
    assert SENTINEL not in response.text
    assert "`" not in response.text


def test_a_refusal_is_audited_once_under_its_request_id(api: httpx.Client, api_warehouse: Warehouse) -> None:
    request_id = str(uuid.uuid4())

    api.post(PREDICT, json=features(patient_age=500), headers={"X-Request-Id": request_id})

    assert len(audited(api_warehouse, request_id)) == 1


def test_the_same_key_gives_the_same_score_and_another_body_a_conflict(api: httpx.Client) -> None:
    key = {"Idempotency-Key": str(uuid.uuid4())}
    first = predict(api, REQUEST, headers=key)

    assert predict(api, REQUEST, headers=key) == first
    other = api.post(PREDICT, json={**REQUEST, "patient_age": 79}, headers=key)
    assert other.status_code == 409
    other = api.post(PREDICT, json={**REQUEST, "encounter_id": "E-other"}, headers=key)
    assert other.status_code == 409


@pytest.mark.parametrize("first", [True, False])
def test_a_key_gives_its_score_with_or_without_an_explanation(api: httpx.Client, first: bool) -> None:
    key = {"Idempotency-Key": str(uuid.uuid4())}
    asked = {explain: {"explain": str(explain).lower()} for explain in (True, False)}
    given = {
        explain: predict(api, REQUEST, headers=key, params=asked[explain]) for explain in (first, not first)
    }

    assert len(given[True].pop("explanation")) == len(READMISSION.features)
    assert given[True] == given[False]


def test_a_key_whose_score_was_stored_without_an_explanation_gives_none_where_it_is_asked_for(
    api: httpx.Client, api_warehouse: Warehouse
) -> None:
    key = {"Idempotency-Key": str(uuid.uuid4())}
    score_id = predict(api, REQUEST, headers=key)["score_id"]
    table = readmission_scores.c
    with api_warehouse.transaction() as connection:
        bare = sa.update(readmission_scores).where(table.score_id == score_id)
        connection.execute(bare.values(explanation={"baseline": -1.0, "factors": []}))

    assert api.post(PREDICT, json=REQUEST, headers=key).status_code == 409
    assert predict(api, REQUEST, headers=key, params={"explain": "false"})["score_id"] == score_id


def test_one_key_sent_many_times_at_once_scores_once(api: httpx.Client) -> None:
    key = {"Idempotency-Key": str(uuid.uuid4())}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: predict(api, REQUEST, headers=key), range(16)))

    assert len({answer["score_id"] for answer in answers}) == 1


def test_the_same_question_without_a_key_is_another_score(api: httpx.Client) -> None:
    assert predict(api, REQUEST)["score_id"] != predict(api, REQUEST)["score_id"]


def test_an_answer_is_not_kept_by_anybody_in_between(api: httpx.Client) -> None:
    assert api.post(PREDICT, json=features()).headers["cache-control"] == "no-store"
