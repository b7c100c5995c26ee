"""The contract's other forms accept and refuse what its encoders do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from medscore_assets.contracts.fields import Category, Whole
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.contracts.schemas import mlflow_signature, pandera_schema, request_model, require_frame
from resources.errors import ContractViolation
from tests.contracts.values import (
    LETTERS,
    NEVER_VALID,
    SOUND_ROW,
    any_rows,
    arrow_table,
    foreign,
    json_rows,
    object_frame,
    sound_rows,
)

Request = request_model(READMISSION)
pandera_pace = settings(max_examples=15)
"""Pandera takes some 50 ms for a frame."""
NAMES = list(READMISSION.feature_names)


def encodes(row: dict[str, Any]) -> bool:
    try:
        READMISSION.encode_row(row)
    except ContractViolation:
        return False
    return True


def is_accepted(row: dict[str, Any]) -> bool:
    try:
        Request.model_validate(row)
    except ValidationError:
        return False
    return True


def is_sound(frame: pd.DataFrame, *, encoded: bool = False) -> bool:
    try:
        require_frame(READMISSION, frame, where="test", encoded=encoded)
    except ContractViolation:
        return False
    return True


@given(json_rows())
def test_the_request_model_accepts_what_the_encoder_does_and_no_foreign_key(row: dict[str, Any]) -> None:
    assert is_accepted(row) == (encodes(row) and set(row) <= set(NAMES))


@given(json_rows())
def test_a_json_body_is_judged_like_the_parsed_object(row: dict[str, Any]) -> None:
    try:
        parsed = Request.model_validate_json(json.dumps(row))
    except ValidationError:
        assert not is_accepted(row)
    else:
        assert is_accepted(row)
        assert READMISSION.encode_row(parsed.model_dump()).tobytes() == READMISSION.encode_row(row).tobytes()


@pytest.mark.parametrize("feature", READMISSION.features, ids=lambda f: f.name)
def test_the_request_model_coerces_nothing(feature: Any) -> None:
    for value in (*NEVER_VALID, *foreign(feature), "\ud800"):
        assert not is_accepted(SOUND_ROW | {feature.name: value}), value


def test_a_refused_request_does_not_show_what_was_sent() -> None:
    sent = {name: f"SENTINEL-{name}" for name in NAMES} | {"mrn": "SENTINEL-mrn"}
    with pytest.raises(ValidationError) as refusal:
        Request.model_validate(sent)
    assert "SENTINEL" not in str(refusal.value) + repr(refusal.value)
    safe = refusal.value.errors(include_input=False, include_context=False, include_url=False)
    assert "SENTINEL" not in str(safe)
    assert {e["loc"][0] for e in safe} == set(sent)


def test_the_request_model_documents_bounds_categories_and_descriptions() -> None:
    schema = Request.model_json_schema()
    assert schema["additionalProperties"] is False
    assert schema["required"] == NAMES
    assert schema["x-contract-hash"] == READMISSION.hash
    for feature in READMISSION.features:
        described = schema["properties"][feature.name]
        assert described["description"] == feature.description
        if isinstance(feature, Whole):
            assert (described["minimum"], described["maximum"]) == (feature.minimum, feature.maximum)
        if isinstance(feature, Category):
            assert get_args(Request.model_fields[feature.name].annotation) == feature.categories


@pandera_pace
@given(st.lists(sound_rows(), min_size=1, max_size=5))
def test_pandera_accepts_valid_rows_raw_and_encoded(rows: list[dict[str, Any]]) -> None:
    typed = arrow_table(rows).to_pandas()
    assert is_sound(typed)
    assert is_sound(object_frame(rows).infer_objects())
    assert is_sound(pd.DataFrame(READMISSION.encode(typed).matrix, columns=NAMES), encoded=True)


@pandera_pace
@given(st.lists(any_rows(), min_size=1, max_size=3))
def test_a_frame_that_pandera_accepts_encodes(rows: list[dict[str, Any]]) -> None:
    objects = object_frame(rows)
    for frame in (objects, objects.infer_objects()):
        if is_sound(frame):
            assert READMISSION.encode(frame).valid.all()


@pandera_pace
@given(data=st.data())
def test_pandera_and_the_encoder_judge_typed_frames_alike(data: st.DataObject) -> None:
    row = dict(SOUND_ROW)
    for feature in data.draw(st.lists(st.sampled_from(READMISSION.features), max_size=3, unique=True)):
        if isinstance(feature, Whole):
            row[feature.name] = data.draw(
                st.integers(feature.minimum - 3, feature.maximum + 3) | st.integers(-(2**63), 2**63 - 1)
            )
        elif isinstance(feature, Category):
            row[feature.name] = data.draw(
                st.sampled_from(feature.categories) | st.none() | st.text(LETTERS, max_size=8)
            )
    frame = arrow_table([SOUND_ROW, row]).to_pandas()
    assert is_sound(frame) == READMISSION.encode(frame).valid.all()


def matrix_frame(**changes: float) -> pd.DataFrame:
    frame = pd.DataFrame(READMISSION.encode_row(SOUND_ROW), columns=NAMES)
    return frame.assign(**{name: np.float32(value) for name, value in changes.items()})


@pytest.mark.parametrize(
    "frame",
    [
        matrix_frame(patient_age=121),
        matrix_frame(patient_age=-1),
        matrix_frame(patient_age=0.5),
        matrix_frame(patient_age=float("nan")),
        matrix_frame(patient_age=float("inf")),
        matrix_frame(primary_diagnosis_group=7),
        matrix_frame(primary_diagnosis_group=-1),
        matrix_frame(primary_diagnosis_group=0.5),
        matrix_frame(emergency_admission=2),
        matrix_frame(has_follow_up_scheduled=0.7),
        matrix_frame()[NAMES[::-1]],
        matrix_frame()[[NAMES[1], NAMES[0], *NAMES[2:]]],
        matrix_frame().drop(columns=NAMES[-1]),
        matrix_frame().assign(another=np.float32(1)),
        matrix_frame().astype(np.float64),
        pd.concat([matrix_frame(), matrix_frame()[["patient_age"]]], axis=1),
    ],
)
def test_pandera_refuses_a_matrix_that_no_valid_row_gives(frame: pd.DataFrame) -> None:
    assert is_sound(matrix_frame(), encoded=True)
    assert not is_sound(frame, encoded=True)


def test_raw_columns_may_come_in_any_order_and_with_others() -> None:
    frame = arrow_table([SOUND_ROW]).to_pandas()
    assert is_sound(frame[NAMES[::-1]].assign(encounter_id="E-1"))
    assert not is_sound(pd.concat([frame, frame[["patient_age"]]], axis=1))


def test_the_refusal_of_a_frame_names_column_and_check_and_no_value() -> None:
    bad = SOUND_ROW | {"patient_age": 987654321, "primary_diagnosis_group": "SENTINEL"}
    with pytest.raises(ContractViolation) as refusal:
        require_frame(READMISSION, arrow_table([SOUND_ROW, bad, bad]).to_pandas(), where="the training set")
    error = refusal.value
    assert "patient_age: in_range(0, 120) x2" in str(error)
    assert "primary_diagnosis_group: is_known_category x2" in str(error)
    everything = f"{error} {error!r} {error.__cause__!r} {error.__context__!r}"
    assert not any(value in everything for value in ("SENTINEL", "987654321"))
    frame = arrow_table([SOUND_ROW]).to_pandas().drop(columns="insurance_type")
    with pytest.raises(ContractViolation, match="insurance_type: column_in_dataframe x1"):
        require_frame(READMISSION, frame, where="test")


def test_schemas_follow_the_contract_in_names_and_order() -> None:
    for encoded in (False, True):
        schema = pandera_schema(READMISSION, encoded=encoded)
        assert list(schema.columns) == NAMES
        assert not any(column.nullable for column in schema.columns.values())
    assert pandera_schema(READMISSION) is pandera_schema(READMISSION)
    assert request_model(READMISSION) is Request


def test_mlflow_takes_the_encoded_columns_by_name_and_refuses_raw_values() -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.models.utils import _enforce_schema

    signature = mlflow_signature(READMISSION)
    assert signature.inputs.input_names() == NAMES
    frame = matrix_frame()
    assert list(_enforce_schema(frame[NAMES[::-1]], signature.inputs).columns) == NAMES
    with pytest.raises(MlflowException):
        _enforce_schema(arrow_table([SOUND_ROW]).to_pandas(), signature.inputs)
    with pytest.raises(MlflowException):
        _enforce_schema(frame.drop(columns="patient_age"), signature.inputs)


def test_importing_the_forms_loads_no_heavy_library() -> None:
    program = (
        "import sys, medscore_assets.contracts.schemas\n"
        "print([m for m in ('pandera', 'mlflow', 'dagster', 'sqlalchemy', 'fastapi') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.strip() == "[]"


def test_arrow_rows_of_the_warehouse_pass_as_they_are() -> None:
    frame = pa.concat_tables([arrow_table([SOUND_ROW])] * 3).to_pandas()
    require_frame(READMISSION, frame, where="test")
