"""The Open Inference Protocol v2 as a client that knows nothing but the protocol uses it."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from fastapi import FastAPI

from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.readmission.policy import DISCLAIMER
from medscore_assets.tables.serving import audit_events, readmission_scores
from resources.warehouse import Warehouse
from serving.champion import Champions
from serving.examples import FEATURES
from serving.inference import MAX_ROWS
from tests.serving.conftest import features

MODEL_PATH = "/v2/models/readmission"
SENTINEL = "SENTINEL-51c0"
_SAMPLES = {"INT64": 1, "BOOL": True}


def tensors(rows: list[dict[str, Any]], **changes: Any) -> list[dict[str, Any]]:
    """The rows as the protocol's inputs; `changes` are put into the tensor of that name."""
    kinds = {int: "INT64", str: "BYTES", bool: "BOOL"}
    inputs = [
        {
            "name": name,
            "shape": [len(rows)],
            "datatype": kinds[type(FEATURES[name])],
            "data": [row[name] for row in rows],
        }
        for name in READMISSION.feature_names
    ]
    return [{**tensor, **changes.get(str(tensor["name"]), {})} for tensor in inputs]


def infer(api: httpx.Client, inputs: list[dict[str, Any]], **more: Any) -> httpx.Response:
    return api.post(f"{MODEL_PATH}/infer", json={"inputs": inputs, **more})


def outputs_of(response: httpx.Response) -> dict[str, list[Any]]:
    assert response.status_code == 200, response.text
    return {output["name"]: output["data"] for output in response.json()["outputs"]}


def test_a_client_finds_its_way_from_the_metadata_alone(api: httpx.Client) -> None:
    assert api.get("/v2").json() == {"name": "medscore", "version": "1", "extensions": []}
    assert api.get("/v2/health/live").json() == {"live": True}
    assert api.get("/v2/health/ready").json() == {"ready": True}
    assert api.get(f"{MODEL_PATH}/ready").json() == {"name": "readmission", "ready": True}
    metadata = api.get(MODEL_PATH).json()
    (version,) = metadata["versions"]
    assert api.get(f"{MODEL_PATH}/versions/{version}").json() == metadata
    assert [tensor["name"] for tensor in metadata["inputs"]] == list(READMISSION.feature_names)
    assert all(tensor["shape"] == [-1] for tensor in metadata["inputs"] + metadata["outputs"])

    body = {
        "id": "17",
        "inputs": [
            {
                "name": tensor["name"],
                "datatype": tensor["datatype"],
                "shape": [1],
                "data": [_SAMPLES.get(tensor["datatype"], FEATURES[tensor["name"]])],
            }
            for tensor in metadata["inputs"]
        ],
    }
    answer = api.post(f"{MODEL_PATH}/versions/{version}/infer", json=body).json()

    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("readmission", version, "17")
    described = {tensor["name"]: tensor["datatype"] for tensor in metadata["outputs"]}
    for output in answer["outputs"]:
        assert output["datatype"] == described[output["name"]]
        assert output["shape"] == [1]
        assert len(output["data"]) == 1
    assert answer["parameters"]["disclaimer"] == DISCLAIMER
    assert all(isinstance(value, str | int | float | bool) for value in answer["parameters"].values())


def test_many_rows_give_what_each_alone_gives_in_their_order(api: httpx.Client) -> None:
    rows = [features(patient_age=age, num_prior_admissions_12m=age % 7) for age in range(20, 60)]

    together = outputs_of(infer(api, tensors(rows)))

    alone = [outputs_of(infer(api, tensors([row]))) for row in rows[:5]]
    assert together["probability"][:5] == [each["probability"][0] for each in alone]
    assert len(set(together["score_id"])) == len(rows)


def test_data_may_be_nested_and_of_a_shape_with_one_column(api: httpx.Client) -> None:
    rows = [features(), features(patient_age=30)]
    nested = [{**t, "shape": [2, 1], "data": [[value] for value in t["data"]]} for t in tensors(rows)]

    assert (
        outputs_of(infer(api, nested))["probability"] == outputs_of(infer(api, tensors(rows)))["probability"]
    )


def test_a_version_that_is_asked_for_scores_although_the_champion_moves_meanwhile(
    api: httpx.Client, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    champions: Champions = app.state.service.champions
    was = champions.current()
    looks = iter((was,))
    monkeypatch.setattr(champions, "current", lambda: next(looks, replace(was, version=99)))

    path = f"{MODEL_PATH}/versions/{was.version}/infer"
    answer = api.post(path, json={"inputs": tensors([features()])})

    assert answer.json()["model_version"] == str(was.version)


def test_only_the_outputs_asked_for_are_given(api: httpx.Client) -> None:
    wanted = [{"name": "explanation"}, {"name": "probability"}]

    found = outputs_of(infer(api, tensors([features()]), outputs=wanted))

    assert list(found) == ["explanation", "probability"]
    assert len(json.loads(found["explanation"][0])) == len(READMISSION.features)


def test_every_row_is_stored_and_audited(api: httpx.Client, api_warehouse: Warehouse) -> None:
    found = outputs_of(infer(api, tensors([features(), features(patient_age=31)])))

    table = readmission_scores.c
    query = sa.select(table.source, table.readmission_probability).where(
        table.score_id.in_(found["score_id"])
    )
    stored = api_warehouse.read(query).to_pylist()
    assert {row["source"] for row in stored} == {"inference"}
    assert {row["readmission_probability"] for row in stored} == set(found["probability"])
    for score_id in found["score_id"]:
        events = api_warehouse.read(sa.select(audit_events).where(audit_events.c.event.contains(score_id)))
        assert len(events) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("patient_age", True),
        ("patient_age", "65"),
        ("patient_age", 65.5),
        ("patient_age", 10**30),
        ("patient_age", None),
        ("has_follow_up_scheduled", "no"),
        ("has_follow_up_scheduled", 1),
        ("primary_diagnosis_group", "cardac"),
        ("insurance_type", SENTINEL),
        ("patient_age", {SENTINEL: 1}),
    ],
)
def test_a_value_that_breaks_the_contract_is_refused_by_tensor_and_row(
    api: httpx.Client, name: str, value: Any
) -> None:
    response = infer(api, tensors([features(), features(**{name: value})]))

    assert response.status_code == 422
    assert list(response.json()) == ["error"]
    assert f"{name}[1]" in response.json()["error"]
    assert SENTINEL not in response.text


def test_a_nan_is_refused(api: httpx.Client) -> None:
    body = json.dumps({"inputs": tensors([features(patient_age=float("nan"))])})

    response = api.post(f"{MODEL_PATH}/infer", content=body, headers={"Content-Type": "application/json"})

    assert response.status_code in (400, 422)


@pytest.mark.parametrize(
    "inputs",
    [
        [],
        tensors([features()])[1:],
        tensors([features()]) + tensors([features()])[:1],
        [*tensors([features()]), {"name": SENTINEL, "shape": [1], "datatype": "INT64", "data": [1]}],
        tensors([features()], patient_age={"datatype": "FP32"}),
        tensors([features()], patient_age={"shape": [2]}),
        tensors([features()], patient_age={"shape": [1, 2]}),
        tensors([features()], patient_age={"shape": []}),
        tensors([features()], patient_age={"shape": [-1]}),
        tensors([features()], patient_age={"shape": [2], "data": [1, 2]}),
        tensors([features()], patient_age={"data": SENTINEL}),
        tensors([features()], patient_age={SENTINEL: SENTINEL}),
        [{**tensor, "shape": [0], "data": []} for tensor in tensors([features()])],
        tensors([features()] * (MAX_ROWS + 1)),
    ],
)
def test_what_is_not_the_protocol_is_a_400_in_its_form_without_an_echo(
    api: httpx.Client, inputs: list[dict[str, Any]]
) -> None:
    response = infer(api, inputs)

    assert response.status_code == 400
    assert isinstance(response.json()["error"], str)
    assert SENTINEL not in response.text


def test_an_unknown_output_is_a_400(api: httpx.Client) -> None:
    assert infer(api, tensors([features()]), outputs=[{"name": SENTINEL}]).status_code == 400


def test_binary_tensors_are_refused_rather_than_misread(api: httpx.Client) -> None:
    response = api.post(
        f"{MODEL_PATH}/infer",
        json={"inputs": tensors([features()])},
        headers={"Inference-Header-Content-Length": "17"},
    )

    assert response.status_code == 400


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/other",
        f"{MODEL_PATH}/versions/999",
        "/v2/models/other/ready",
        f"{MODEL_PATH}/versions/x/ready",
    ],
)
def test_another_model_or_version_is_a_404_in_the_protocols_form(api: httpx.Client, path: str) -> None:
    response = api.get(path)

    assert response.status_code == 404
    assert list(response.json()) == ["error"]


def test_inference_on_another_model_is_a_404(api: httpx.Client) -> None:
    body = {"inputs": tensors([features()])}

    assert api.post("/v2/models/other/infer", json=body).status_code == 404
    assert api.post(f"{MODEL_PATH}/versions/999/infer", json=body).status_code == 404


def test_a_refusal_is_audited_once(api: httpx.Client, api_warehouse: Warehouse) -> None:
    request_id = str(uuid.uuid4())

    api.post(f"{MODEL_PATH}/infer", json={"inputs": []}, headers={"X-Request-Id": request_id})

    events = api_warehouse.read(sa.select(audit_events).where(audit_events.c.event.contains(request_id)))
    assert len(events) == 1
