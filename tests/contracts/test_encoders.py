"""The two encoders agree bit for bit, and nothing invalid passes either of them."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medscore_assets.contracts.fields import Category, Feature, Flag, Reason, Whole
from medscore_assets.contracts.readmission import READMISSION
from resources.errors import ContractViolation
from tests.contracts.values import (
    NEVER_VALID,
    SOUND_ROW,
    TABLE_FORMS,
    any_rows,
    arrow_table,
    foreign,
    invalid,
    object_frame,
    sound_rows,
    valid,
)

FEATURES = READMISSION.features
each_feature = pytest.mark.parametrize("feature", FEATURES, ids=lambda f: f.name)


def row_verdict(row: dict[str, Any]) -> dict[str, str]:
    """The broken fields of one row with their reasons, as the single-row encoder sees them."""
    verdict = {}
    for feature in FEATURES:
        try:
            feature.code(row[feature.name])
        except ValueError as invalid_value:
            verdict[feature.name] = str(invalid_value)
    return verdict


@pytest.mark.parametrize("form", TABLE_FORMS)
@given(rows=st.lists(sound_rows(), min_size=1, max_size=6))
def test_valid_rows_encode_to_the_same_bytes_alone_and_in_every_kind_of_table(
    form: str, rows: list[dict[str, Any]]
) -> None:
    alone = np.concatenate([READMISSION.encode_row(row) for row in rows])
    together = READMISSION.encode(TABLE_FORMS[form](rows))
    assert alone.dtype == together.matrix.dtype == np.float32
    assert together.require_valid("test").tobytes() == alone.tobytes()
    assert together.valid.all()


@given(sound_rows())
def test_a_code_decodes_to_the_value_it_came_from(row: dict[str, Any]) -> None:
    codes = READMISSION.encode_row(row)[0]
    assert {f.name: f.decode(c) for f, c in zip(FEATURES, codes.tolist(), strict=True)} == row


@given(rows=st.lists(any_rows(), min_size=1, max_size=4))
def test_mixed_columns_get_the_reasons_of_single_rows(rows: list[dict[str, Any]]) -> None:
    encoded = READMISSION.encode(object_frame(rows))
    for number, row in enumerate(rows):
        found = {p.field: p.reason.label for p in encoded.problems() if p.row == number}
        assert found == row_verdict(row)
        assert encoded.valid[number] == (not found)
        if found:
            with pytest.raises(ContractViolation) as refusal:
                READMISSION.encode_row(row)
            assert all(f"{field}: {reason}" in str(refusal.value) for field, reason in found.items())
        else:
            assert READMISSION.encode_row(row).tobytes() == encoded.matrix[number].tobytes()


@each_feature
def test_no_invalid_value_passes_alone_or_in_a_column_of_objects(feature: Feature) -> None:
    values = [*NEVER_VALID, *foreign(feature)]
    rows = [SOUND_ROW | {feature.name: value} for value in values]
    encoded = READMISSION.encode(object_frame(rows))
    column = READMISSION.feature_names.index(feature.name)
    assert encoded.reasons[:, column].all()
    assert np.isnan(encoded.matrix[:, column]).all()
    for row in rows:
        with pytest.raises(ContractViolation, match=feature.name):
            READMISSION.encode_row(row)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("patient_age", None, Reason.MISSING),
        ("patient_age", float("nan"), Reason.MISSING),
        ("patient_age", pd.NA, Reason.MISSING),
        ("patient_age", True, Reason.WRONG_TYPE),
        ("patient_age", "65", Reason.WRONG_TYPE),
        ("patient_age", 65.0, Reason.WRONG_TYPE),
        ("patient_age", float("inf"), Reason.NOT_FINITE),
        ("patient_age", -1, Reason.BELOW_MINIMUM),
        ("patient_age", 121, Reason.ABOVE_MAXIMUM),
        ("num_prior_admissions_12m", 10**30, Reason.ABOVE_MAXIMUM),
        ("primary_diagnosis_group", "Cardiac", Reason.UNKNOWN_CATEGORY),
        ("primary_diagnosis_group", " cardiac", Reason.UNKNOWN_CATEGORY),
        ("primary_diagnosis_group", 0, Reason.WRONG_TYPE),
        ("insurance_type", pd.NaT, Reason.MISSING),
        ("emergency_admission", "no", Reason.WRONG_TYPE),
        ("emergency_admission", 1, Reason.WRONG_TYPE),
        ("has_follow_up_scheduled", None, Reason.MISSING),
    ],
)
def test_a_refusal_gives_the_reason(field: str, value: Any, reason: Reason) -> None:
    row = SOUND_ROW | {field: value}
    assert row_verdict(row) == {field: reason.label}
    [problem] = READMISSION.encode(object_frame([SOUND_ROW, row])).problems()
    assert (problem.row, problem.field, problem.reason) == (1, field, reason)


@each_feature
def test_a_null_in_a_typed_column_is_missing_and_spoils_no_other_row(feature: Feature) -> None:
    rows = [SOUND_ROW, SOUND_ROW | {feature.name: None}, SOUND_ROW]
    for form, build in TABLE_FORMS.items():
        encoded = READMISSION.encode(build(rows))
        assert encoded.counts() == {f"{feature.name}: missing": 1}, form
        assert encoded.valid.tolist() == [True, False, True], form


def test_a_column_of_the_wrong_type_is_refused_in_every_row() -> None:
    wrong = {
        Whole: (pa.array([True]), pa.array(["65"]), pa.array([b"65"]), pa.array([date(2024, 1, 1)])),
        Category: (pa.array([0]), pa.array([True]), pa.array([b"cardiac"]), pa.array([["cardiac"]])),
        Flag: (pa.array([1]), pa.array([1.0]), pa.array(["true"]), pa.array([b"1"])),
    }
    table = arrow_table([SOUND_ROW])
    for position, feature in enumerate(FEATURES):
        for column in wrong[type(feature)]:
            for form in (table.set_column(position, feature.name, column),):
                assert READMISSION.encode(form).counts() == {f"{feature.name}: wrong_type": 1}
                assert READMISSION.encode(form.to_pandas()).counts() == {f"{feature.name}: wrong_type": 1}


@given(st.lists(st.floats() | st.integers(-5, 130).map(float), min_size=1, max_size=8))
def test_a_float_column_passes_whole_numbers_within_bounds_only(values: list[float]) -> None:
    age = READMISSION.fields["patient_age"]
    codes, reasons = age.codes(pa.array(values, pa.float64()))
    for value, code, reason in zip(values, codes, reasons, strict=True):
        sound = value in range(121)
        assert (reason == Reason.VALID) == sound
        assert code == value if sound else np.isnan(code)


@pytest.mark.parametrize("feature", [f for f in FEATURES if isinstance(f, Whole)], ids=lambda f: f.name)
def test_the_bounds_of_a_typed_column_are_included_and_nothing_beyond(feature: Whole) -> None:
    low, high = feature.minimum, feature.maximum
    for column in (pa.array([low - 1, low, high, high + 1]), pa.array([low - 1.0, low, high, high + 1.0])):
        _, reasons = feature.codes(column)
        assert reasons.tolist() == [Reason.BELOW_MINIMUM, 0, 0, Reason.ABOVE_MAXIMUM]


@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 123), min_size=1, max_size=8))
def test_integers_of_any_size_never_wrap_into_the_bounds(values: list[int]) -> None:
    _, reasons = READMISSION.fields["patient_age"].codes(pa.array(values, pa.int64()))
    assert (reasons == 0).tolist() == [0 <= value <= 120 for value in values]


@pytest.mark.parametrize(
    "width", ["int8", "uint8", "int16", "int32", "uint32", "uint64", "Int8", "Sparse[int64]"]
)
def test_every_width_of_integer_encodes_alike(width: str) -> None:
    frame = arrow_table([SOUND_ROW]).to_pandas().astype({"patient_age": width})
    assert READMISSION.encode(frame).matrix.tobytes() == READMISSION.encode_row(SOUND_ROW).tobytes()


def test_a_column_that_arrow_does_not_know_is_refused_cell_by_cell() -> None:
    frame = arrow_table([SOUND_ROW]).to_pandas().astype({"patient_age": complex})
    assert READMISSION.encode(frame).counts() == {"patient_age: wrong_type": 1}


@given(row=sound_rows(), order=st.permutations(READMISSION.feature_names))
def test_the_order_of_a_frames_columns_does_not_matter(row: dict[str, Any], order: list[str]) -> None:
    expected = READMISSION.encode_row(row).tobytes()
    table = arrow_table([row]).select(order)
    assert READMISSION.encode(table).matrix.tobytes() == expected
    assert READMISSION.encode(table.to_pandas()).matrix.tobytes() == expected
    assert READMISSION.encode_row({name: row[name] for name in order}).tobytes() == expected


@each_feature
def test_an_absent_column_is_refused_by_name(feature: Feature) -> None:
    table = arrow_table([SOUND_ROW]).drop_columns([feature.name])
    for form in (table, table.to_pandas()):
        with pytest.raises(ContractViolation, match=f"lacks the columns {feature.name} "):
            READMISSION.encode(form)
    with pytest.raises(ContractViolation, match=f"{feature.name}: missing"):
        READMISSION.encode_row({k: v for k, v in SOUND_ROW.items() if k != feature.name})


def test_a_repeated_column_is_refused_by_name() -> None:
    table = arrow_table([SOUND_ROW]).append_column("patient_age", pa.array([30]))
    frame = pd.concat([arrow_table([SOUND_ROW]).to_pandas(), pd.DataFrame({"patient_age": [30]})], axis=1)
    for form in (table, frame):
        with pytest.raises(ContractViolation, match="repeats the columns patient_age"):
            READMISSION.encode(form)


def test_a_frame_with_any_index_encodes_by_position() -> None:
    rows = [SOUND_ROW | {"patient_age": age} for age in (20, 40, 60)]
    frame = object_frame(rows).set_index(pd.Index([7, 7, 3]))
    assert READMISSION.encode(frame).matrix[:, 0].tolist() == [20, 40, 60]
    assert READMISSION.encode(frame.infer_objects()).matrix[:, 0].tolist() == [20, 40, 60]


@pytest.mark.parametrize("form", TABLE_FORMS)
def test_an_empty_table_encodes_to_an_empty_matrix(form: str) -> None:
    empty = (
        TABLE_FORMS[form]([SOUND_ROW])[:0]
        if form != "arrow chunked"
        else pa.table({f.name: pa.chunked_array([], arrow_table([SOUND_ROW])[f.name].type) for f in FEATURES})
    )
    encoded = READMISSION.encode(empty)
    assert encoded.matrix.shape == (0, len(FEATURES))
    assert encoded.counts() == {}


@given(data=st.data())
def test_no_error_repeats_a_value(data: st.DataObject) -> None:
    feature = data.draw(st.sampled_from(FEATURES))
    sentinel = data.draw(st.sampled_from((f"SENTINEL-{feature.name[:3]}", 987654321, 98765.4321, "Jane Roe")))
    row = SOUND_ROW | {feature.name: sentinel}
    with pytest.raises(ContractViolation) as alone:
        READMISSION.encode_row(row)
    encoded = READMISSION.encode(object_frame([row]))
    with pytest.raises(ContractViolation) as together:
        encoded.require_valid("test")
    for error in (alone.value, together.value):
        assert str(sentinel) not in f"{error} {error!r} {error.__cause__!r} {error.__context__!r}"
        assert feature.name in str(error)
    assert str(sentinel) not in repr((encoded.counts(), list(encoded.problems())))


def test_counts_say_how_often_each_rule_broke() -> None:
    rows = [
        SOUND_ROW,
        SOUND_ROW | {"patient_age": 300},
        SOUND_ROW | {"patient_age": 400, "insurance_type": None},
    ]
    encoded = READMISSION.encode(arrow_table(rows))
    assert encoded.counts() == {"patient_age: above_maximum": 2, "insurance_type: missing": 1}
    with pytest.raises(
        ContractViolation, match=r"2 of 3 rows.*insurance_type: missing x1, patient_age: above_maximum x2"
    ):
        encoded.require_valid("test")


NAIVE = datetime(2024, 1, 4)  # noqa: DTZ001 - a time without a zone is what must be refused

SOUND_CONTEXT: dict[str, Any] = {
    "encounter_id": "E-1",
    "patient_id": "P-1",
    "hospital_id": "H-1",
    "admitted_at": datetime(2024, 1, 1, tzinfo=UTC),
    "discharged_at": datetime(2024, 1, 4, tzinfo=UTC),
    "discharge_status": "routine",
    "service_line": "acute",
    "deceased_at": None,
    "covered_until": None,
}


@pytest.mark.parametrize(
    ("changes", "broken"),
    [
        ({}, {}),
        ({"covered_until": date(2024, 2, 1), "deceased_at": datetime(2024, 1, 5, tzinfo=UTC)}, {}),
        ({"patient_id": None}, {"patient_id: missing": 1}),
        ({"patient_id": " \t\u2003"}, {"patient_id: empty": 1}),
        ({"discharged_at": None}, {"discharged_at: missing": 1}),
        ({"discharged_at": NAIVE}, {"discharged_at: wrong_type": 1}),
        ({"discharged_at": "2024-01-04"}, {"discharged_at: wrong_type": 1}),
        ({"deceased_at": NAIVE}, {"deceased_at: wrong_type": 1}),
        ({"covered_until": datetime(2024, 1, 4, tzinfo=UTC)}, {"covered_until: wrong_type": 1}),
        ({"discharge_status": "Routine"}, {"discharge_status: unknown_category": 1}),
    ],
)
def test_the_context_is_checked_alike_in_arrow_and_pandas(
    changes: dict[str, Any], broken: dict[str, int]
) -> None:
    row = SOUND_CONTEXT | changes
    assert READMISSION.check_context(pa.Table.from_pylist([row])).counts() == broken
    objects = pd.DataFrame({name: pd.Series([value], dtype=object) for name, value in row.items()})
    assert READMISSION.check_context(objects).counts() == broken


def test_every_whole_number_within_bounds_is_exact_in_float32() -> None:
    for feature in FEATURES:
        if isinstance(feature, Whole):
            assert max(abs(feature.minimum), abs(feature.maximum)) <= 2**24
            assert feature.minimum < feature.maximum


def test_names_and_categories_are_unique() -> None:
    assert len(READMISSION.fields) == len(READMISSION.context) + len(FEATURES)
    for feature in FEATURES:
        if isinstance(feature, Category):
            assert len(set(feature.categories)) == len(feature.categories)
            assert set(feature.phrases) == set(feature.categories)


@given(data=st.data())
def test_plain_words_exist_for_every_valid_value(data: st.DataObject) -> None:
    feature = data.draw(st.sampled_from(FEATURES))
    words = feature.words(data.draw(valid(feature)))
    assert words
    assert not {"{", "_"} & set(words)


@given(data=st.data())
def test_a_single_invalid_cell_is_the_only_one_blamed(data: st.DataObject) -> None:
    feature = data.draw(st.sampled_from(FEATURES))
    row = data.draw(sound_rows()) | {feature.name: data.draw(invalid(feature))}
    assert list(row_verdict(row)) == [feature.name]
