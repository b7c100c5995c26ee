"""Open Inference and MLflow: requests that their own parsers take, answers that ours reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from medscore_assets.wait_times.bands import ALL_BANDS
from medscore_assets.wait_times.http.client import RefusedAnswer
from medscore_assets.wait_times.running import run_models
from tests.wait_times.http_servers import Handler, model_at, saying, served, snapshot, statuses


def infer(handler: Handler, **changes: Any) -> None:
    """Answers in the schema of this project's own endpoint, to a request that it would take."""
    from serving.inference_schema import InferOutput, InferRequest, InferResponse

    asked = InferRequest.model_validate_json(handler.body)
    size = asked.inputs[0].shape[0]
    assert all(tensor.shape == [size] == [len(tensor.data)] for tensor in asked.inputs)
    waiting = next(tensor for tensor in asked.inputs if tensor.name == "waiting")
    outputs = {
        "wait_seconds": [600.0 * w for w in waiting.data],
        "p80_seconds": [1200.0 * w for w in waiting.data],
    }
    told = InferResponse(
        model_name="queue",
        model_version="3",
        id=asked.id,
        parameters={},
        outputs=[
            InferOutput(name=n, datatype="FP64", shape=[size, 1], data=list(d)) for n, d in outputs.items()
        ],
    )
    handler.send_json({**told.model_dump(), **changes})


def test_open_inference_gets_its_tensors_and_is_believed_by_name_and_version() -> None:
    inputs = [
        {"name": "band", "datatype": "BYTES", "shape": [-1]},
        {"name": "waiting", "datatype": "INT64", "shape": [-1]},
        {"name": "mean_wait_60_seconds", "datatype": "FP32", "shape": [-1]},
    ]
    metadata = {"name": "queue", "versions": ["3"], "platform": "x", "inputs": inputs, "outputs": []}
    path = "/v2/models/queue"
    with served({f"GET {path}": saying(metadata), f"POST {path}/infer": infer}) as script:
        entry = {"adapter": "open-inference", "model": "queue", "bands": list(ALL_BANDS)}
        (run,) = run_models([model_at(script.url, **entry)], snapshot(), {})
        sent = {tensor["name"]: tensor["data"] for tensor in script.requests[1].asked()["inputs"]}
        for wrong in ({"model_name": "other"}, {"model_version": None}, {"id": "another"}, {"outputs": []}):
            script.answers[f"POST {path}/infer"] = lambda handler, wrong=wrong: infer(handler, **wrong)
            with pytest.raises(RefusedAnswer):
                model_at(script.url, **entry).predict_all(snapshot(), {})
        script.answers[f"GET {path}"] = saying(
            {**metadata, "inputs": [{"name": "name", "datatype": "BYTES"}]}
        )
        with pytest.raises(RefusedAnswer, match="an input that there is not"):
            model_at(script.url, **entry).predict_all(snapshot(), {})
    assert sent == {
        "band": [*ALL_BANDS, *ALL_BANDS],
        # All posted, CTAS 2, 3, and 4 and 5; then the other facility.
        "waiting": [2, 1, 1, 0, 1, 0, 1, 0],
        "mean_wait_60_seconds": [4200.0, 3600.0, -1.0, 4800.0, -1.0, -1.0, -1.0, -1.0],
    }
    assert (run.version, run.error) == ("3.0.0", None)
    assert run.predictions.p50.tolist() == [[1200, 600, 600, 0], [600, 0, 600, 0]]
    np.testing.assert_array_equal(run.predictions.p80, run.predictions.p50 * 2)


def test_mlflow_gets_a_frame_that_it_can_parse() -> None:
    from mlflow.pyfunc.scoring_server import _split_data_and_params, infer_and_parse_data

    def invocations(handler: Handler) -> None:
        data, params = _split_data_and_params(handler.body.decode())
        frame = infer_and_parse_data(data)
        assert params is None
        frames.append(frame)
        records = [{"wait_seconds": 60.0 * w, "p80_seconds": 90.0 * w} for w in frame["waiting"]]
        handler.send_json({"predictions": records}, headers={"X-Model-Version": "7"})

    frames: list[Any] = []
    entry = {"adapter": "mlflow", "version": "7.0.0"}
    with served({"POST /invocations": invocations}) as script:
        (run,) = run_models([model_at(script.url, **entry)], snapshot(), {})
        known = model_at(script.url, adapter="mlflow", version="6.0.0", version_header="x-model-version")
        (stamped,) = run_models([known], snapshot(), {})
        script.answers["POST /invocations"] = saying({"predictions": [[2], [float("nan")]]})
        assert statuses(script, **entry, answers_in="minutes") == ["ok", "invalid"]
        minutes = model_at(script.url, **entry, answers_in="minutes").predict_all(snapshot(), {})
        for wrong in ({}, {"answers_in": "seconds", "version_header": "X-Model-Version"}):
            with pytest.raises(RefusedAnswer):
                model_at(script.url, **entry, **wrong).predict_all(snapshot(), {})
    frame = frames[0].set_index("facility_id")
    counts = ["waiting", "seen_60", "seen_120", "arrived_60", "left_120"]
    assert frame.loc["a", counts].tolist() == [2, 3, 4, 2, 1]
    assert frame.loc["a", "longest_waiting_seconds"] == 45 * 60
    assert frame.loc["a", "mean_wait_120_seconds"] == 77.5 * 60
    assert frame.loc["a", "local_hour"] == 10
    assert frame.loc["b", ["mean_wait_60_seconds", "mean_wait_240_seconds"]].isna().all()
    assert (run.version, run.predictions.p50[:, 0].tolist()) == ("7.0.0", [120, 60])
    assert (stamped.version, stamped.version_changed) == ("7.0.0", True)
    assert minutes.p50[0, 0] == 120
