"""What the source document's encoding does wrong, shown on its own code, and what the contract does.

`encode_dataframe` and `Request` below are copied from the document, so that each test fails if the
contract behaved like them.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
from pydantic import BaseModel, Field, ValidationError

from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.contracts.schemas import request_model
from resources.errors import ContractViolation
from tests.contracts.values import SOUND_ROW, object_frame

MAPS = {
    "primary_diagnosis_group": {
        "cardiac": 0, "respiratory": 1, "digestive": 2,
        "musculoskeletal": 3, "neurological": 4, "endocrine": 5, "other": 6,
    },
    "discharge_disposition": {"home": 0, "home_with_care": 1, "skilled_nursing": 2, "rehab": 3, "other": 4},
    "insurance_type": {"commercial": 0, "medicare": 1, "medicaid": 2, "dual_eligible": 3},
}  # fmt: skip


def encode_dataframe(df: pd.DataFrame) -> pd.DataFrame:
    encoded = df.copy()
    for column, codes in MAPS.items():
        encoded[column] = encoded[column].map(codes)
    encoded["emergency_admission"] = encoded["emergency_admission"].astype(int)
    encoded["has_follow_up_scheduled"] = encoded["has_follow_up_scheduled"].astype(int)
    return encoded[list(READMISSION.feature_names)]


class Request(BaseModel):
    patient_age: int = Field(..., ge=0, le=120)
    length_of_stay_days: int = Field(..., ge=0, le=365)
    num_prior_admissions_12m: int = Field(..., ge=0)
    num_chronic_conditions: int = Field(..., ge=0)
    primary_diagnosis_group: Literal[
        "cardiac", "respiratory", "digestive", "musculoskeletal", "neurological", "endocrine", "other"
    ]
    discharge_disposition: Literal["home", "home_with_care", "skilled_nursing", "rehab", "other"]
    insurance_type: Literal["commercial", "medicare", "medicaid", "dual_eligible"]
    emergency_admission: bool
    num_medications_at_discharge: int = Field(..., ge=0)
    has_follow_up_scheduled: bool


Strict = request_model(READMISSION)


def with_one(**changes: Any) -> list[dict[str, Any]]:
    """Three sound rows and a fourth that is changed."""
    return [SOUND_ROW, SOUND_ROW, SOUND_ROW, SOUND_ROW | changes]


def test_on_sound_rows_the_codes_are_the_documents() -> None:
    frame = object_frame([SOUND_ROW]).infer_objects()
    theirs = encode_dataframe(frame).to_numpy(dtype=np.float32)
    assert READMISSION.encode(frame).matrix.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("value", ["Cardiac", " cardiac", "cardac", None])
def test_an_unknown_category_becomes_nan_and_is_scored_there_and_refused_here(value: str | None) -> None:
    frame = object_frame(with_one(primary_diagnosis_group=value))
    theirs = encode_dataframe(frame)
    assert theirs["primary_diagnosis_group"].isna().tolist() == [False, False, False, True]
    ours = READMISSION.encode(frame)
    assert ours.valid.tolist() == [True, True, True, False]


def test_one_null_flag_stops_all_rows_there_and_one_row_here() -> None:
    rows = with_one(emergency_admission=None)
    with pytest.raises((TypeError, ValueError)):
        encode_dataframe(object_frame(rows))
    nullable = object_frame(rows).astype({"emergency_admission": "boolean"})
    with pytest.raises((TypeError, ValueError)):
        encode_dataframe(nullable)
    for frame in (object_frame(rows), nullable):
        assert READMISSION.encode(frame).counts() == {"emergency_admission: missing": 1}


def test_a_text_for_a_flag_stops_all_rows_there_and_one_row_here() -> None:
    frame = object_frame(with_one(has_follow_up_scheduled="f"))
    with pytest.raises(ValueError, match="invalid literal"):
        encode_dataframe(frame)
    assert READMISSION.encode(frame).counts() == {"has_follow_up_scheduled: wrong_type": 1}


@pytest.mark.parametrize(("sent", "stored"), [(0.7, 0), (2, 2)])
def test_a_number_for_a_flag_is_cut_or_kept_there_and_refused_here(sent: float, stored: int) -> None:
    frame = object_frame(with_one(emergency_admission=sent))
    assert encode_dataframe(frame)["emergency_admission"].iloc[3] == stored
    assert READMISSION.encode(frame).counts() == {"emergency_admission: wrong_type": 1}


def test_bounds_of_the_api_do_not_hold_in_the_batch_there_and_do_here() -> None:
    row = SOUND_ROW | {"patient_age": 300, "length_of_stay_days": 1000}
    with pytest.raises(ValidationError):
        Request(**row)
    assert encode_dataframe(object_frame([row]))["patient_age"].iloc[0] == 300
    with pytest.raises(ValidationError):
        Strict(**row)
    broken = {"patient_age: above_maximum": 1, "length_of_stay_days: above_maximum": 1}
    assert READMISSION.encode(object_frame([row])).counts() == broken


def test_swapped_columns_shift_the_values_there_and_are_taken_by_name_here() -> None:
    swapped = ["length_of_stay_days", "patient_age", *READMISSION.feature_names[2:]]
    frame = object_frame([SOUND_ROW]).infer_objects()[swapped]
    # The batch job takes `features[feature_cols].values`: whoever swaps that list swaps the model's input.
    values = frame.assign(**{c: frame[c].map(m) for c, m in MAPS.items()})[swapped].to_numpy(dtype=np.float32)
    assert values[0, :2].tolist() == [4, 71]
    assert READMISSION.encode(frame).matrix[0, :2].tolist() == [71, 4]


@pytest.mark.parametrize(
    ("field", "value", "stored"),
    [
        ("patient_age", True, 1),
        ("patient_age", "65", 65),
        ("patient_age", 65.0, 65),
        ("emergency_admission", "no", False),
        ("emergency_admission", 0, False),
        ("num_prior_admissions_12m", 10**30, 10**30),
    ],
)
def test_a_lax_request_is_coerced_there_and_refused_here(field: str, value: Any, stored: Any) -> None:
    row = SOUND_ROW | {field: value}
    assert getattr(Request(**row), field) == stored
    with pytest.raises(ValidationError):
        Strict(**row)
    with pytest.raises(ContractViolation):
        READMISSION.encode_row(row)


def test_an_unknown_key_is_dropped_there_and_refused_here() -> None:
    row = SOUND_ROW | {"mrn": "12345", "diagnosis_group": "cardiac"}
    Request(**row)
    with pytest.raises(ValidationError) as refusal:
        Strict(**row)
    assert {error["loc"] for error in refusal.value.errors()} == {("mrn",), ("diagnosis_group",)}


def test_the_refusal_echoes_the_input_there_and_hides_it_here() -> None:
    row = SOUND_ROW | {"patient_age": "SENTINEL"}
    with pytest.raises(ValidationError) as theirs:
        Request(**row)
    assert "SENTINEL" in str(theirs.value)
    with pytest.raises(ValidationError) as ours:
        Strict(**row)
    assert "SENTINEL" not in str(ours.value)


def test_a_payer_that_nobody_recorded_is_nan_there_and_a_code_here() -> None:
    row = SOUND_ROW | {"insurance_type": "unknown"}
    assert np.isnan(encode_dataframe(object_frame([row]))["insurance_type"].iloc[0])
    assert READMISSION.encode(object_frame([row])).matrix[0, 6] == 4


@pytest.mark.parametrize("status", ["expired", "hospice", "transferred", "left_against_advice", "unknown"])
def test_how_a_stay_ended_has_a_code_of_its_own(status: str) -> None:
    assert status not in MAPS["discharge_disposition"]
    assert READMISSION.fields["discharge_status"].code(status) > 0
