"""The mobility contract: what changes its hash, what its schema refuses, and that nothing is left out."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandera.errors import SchemaErrors

from docs.generate import mobility_features_page
from medscore_assets.contracts.measures import FeatureTable, Measure, Window
from medscore_assets.contracts.mobility import MOBILITY
from medscore_assets.mobility.feature_set import FORMULAS
from resources.errors import ContractViolation

FIRST = MOBILITY.features[0]


def _with(feature: Measure) -> FeatureTable:
    """The contract with another first feature."""
    return replace(MOBILITY, features=(feature, *MOBILITY.features[1:]))


@pytest.mark.parametrize(
    "change",
    [
        {"name": "steps_yesterday"},
        {"window": Window(2, 2)},
        {"statistic": "mean"},
        {"unit": "km"},
        {"source": "another"},
        {"nullable": False},
        {"maximum": 1.0},
        {"kind": "whole"},
    ],
)
def test_a_change_of_a_declaration_changes_the_hash(change: dict[str, Any]) -> None:
    assert _with(replace(FIRST, **change)).hash != MOBILITY.hash


def test_order_rules_and_revision_change_the_hash_and_wording_does_not() -> None:
    assert replace(MOBILITY, features=MOBILITY.features[::-1]).hash != MOBILITY.hash
    assert replace(MOBILITY, revision=2).hash != MOBILITY.hash
    assert replace(MOBILITY, rules=(*MOBILITY.rules[1:], ("max_daily_steps", 1))).hash != MOBILITY.hash
    assert _with(replace(FIRST, description="Said otherwise.")).hash == MOBILITY.hash


def _row(**changes: Any) -> pa.Table:
    """A valid row, with some cells changed."""
    defaults = {"number": 0.0, "whole": 1, "label": "none"}
    row = {f.name: f.categories[0] if f.categories else defaults[f.kind] for f in MOBILITY.features}
    row |= {"patient_id": "p", "day": date(2026, 1, 1)} | changes
    return pa.Table.from_pylist([row], schema=MOBILITY.schema.remove_metadata())


def test_a_valid_row_passes_and_nulls_pass_where_they_are_declared() -> None:
    MOBILITY.require(_row(), where="the test")
    MOBILITY.require(_row(**{f.name: None for f in MOBILITY.features if f.nullable}), where="the test")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"steps_lag_1": -1.0}, "steps_lag_1: at_least_minimum x1"),
        ({"steps_mean_7": 1e6}, "steps_mean_7: at_most_maximum x1"),
        ({"steps_std_7": float("nan")}, "steps_std_7: is_not_nan x1"),
        ({"disease": "ALS"}, "disease: is_known_category x1"),
        ({"days_since_data": None}, "days_since_data: not_nullable x1"),
        ({"patient_id": None}, "patient_id: not_nullable x1"),
    ],
)
def test_the_schema_refuses_and_names_the_column_and_not_the_value(
    changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(ContractViolation, match=named) as refused:
        MOBILITY.require(_row(**changes), where="the test")
    assert "ALS" not in str(refused.value)


def test_a_patient_and_day_may_be_there_once_and_columns_only_in_their_order() -> None:
    twice = pa.concat_tables([_row(), _row()])
    with pytest.raises(ContractViolation):
        MOBILITY.require(twice, where="the test")
    with pytest.raises(ContractViolation):
        MOBILITY.require(_row().select(MOBILITY.columns[::-1]), where="the test")
    shuffled = _row().select(MOBILITY.columns[::-1])
    MOBILITY.require(MOBILITY.conform(shuffled, where="the test"), where="the test")


OF_EACH_SORT = replace(
    MOBILITY,
    features=tuple(
        {(f.kind, f.nullable, f.minimum, bool(f.categories)): f for f in MOBILITY.features}.values()
    ),
)
CELLS = {
    "number": st.sampled_from([None, 0.0, 1.0, -1.0, 1e9, float("nan"), float("inf")]),
    "whole": st.sampled_from([None, 0, 1, 6, 12, -1, 10_000]),
    "label": st.sampled_from([None, "none", ""]),
}


@st.composite
def changed_rows(draw: st.DrawFn) -> pa.Table:
    """A few rows in any order, some twice, with a cell or two of any value."""
    keys = st.fixed_dictionaries(
        {"patient_id": st.sampled_from(["p", "q", ""]), "day": st.dates(date(2026, 1, 1), date(2026, 1, 3))}
    )
    rows = []
    for key in draw(st.lists(keys, min_size=1, max_size=4)):
        cells = {}
        for feature in draw(st.lists(st.sampled_from(OF_EACH_SORT.features), max_size=2)):
            known = [None, "ALS", *feature.categories]
            values = st.sampled_from(known) if feature.categories else CELLS[feature.kind]
            cells[feature.name] = draw(values)
        rows.append(_row(**key, **cells))
    return pa.concat_tables(rows).select(OF_EACH_SORT.columns)


@settings(max_examples=50)
@given(changed_rows())
def test_the_quick_look_passes_exactly_what_pandera_passes_of_rows_in_order(table: pa.Table) -> None:
    in_order = [("day", "ascending"), ("patient_id", "ascending")]
    for rows, ordered in ((table, False), (table.sort_by(in_order), True)):
        frame = rows.to_pandas(types_mapper=pd.ArrowDtype)
        try:
            OF_EACH_SORT.pandera_schema.validate(frame, lazy=True)
            passes = True
        except SchemaErrors:
            passes = False
        assert OF_EACH_SORT.surely_holds(rows) <= passes
        if ordered:
            assert OF_EACH_SORT.surely_holds(rows) == passes


def test_conform_names_an_absent_column_and_one_that_does_not_fit() -> None:
    with pytest.raises(ContractViolation, match="lacks the columns steps_lag_1"):
        MOBILITY.conform(_row().drop_columns(["steps_lag_1"]), where="the test")
    place = MOBILITY.columns.index("weekday")
    fraction = _row().set_column(place, "weekday", pa.array([1.5]))
    with pytest.raises(ContractViolation, match="weekday"):
        MOBILITY.conform(fraction, where="the test")


def test_there_are_more_than_40_features_each_with_a_formula_and_a_line_in_the_docs() -> None:
    assert len(set(MOBILITY.feature_names)) == len(MOBILITY.features) > 40
    gathered = {"weekday", "month", "is_weekend", "year_sin", "year_cos", "wear_minutes_lag_1"}
    assert {f.statistic for f in MOBILITY.features} == gathered | FORMULAS.keys()
    page = mobility_features_page()
    assert all(f"`{name}`" in page for name in MOBILITY.feature_names)
    assert MOBILITY.hash in page
    assert all(f.description.endswith(".") and f.window.words for f in MOBILITY.features)
