"""Sums and figures of members, beside the same computed row by row and with pandas."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from medscore_assets.contracts.fields import InvalidValue
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.readmission.policy import load_policy
from medscore_assets.readmission.population import accumulate, summary
from medscore_assets.readmission.population.accumulate import Accumulator
from medscore_assets.readmission.population.dimensions import AGE_GROUPS, ALL, CUBES, DIMENSIONS, UNKNOWN
from medscore_assets.readmission.population.partial import RISK_UNITS, Partial
from medscore_assets.readmission.population.score_once import ScoreOnce
from medscore_assets.readmission.population.score_stream import read_ahead, reduce_members
from medscore_assets.readmission.scoring import ReadmissionModel
from resources.errors import ContractViolation, PermanentError
from tests.readmission.population.members import Row, as_table, many_members, member_rows

POLICY = load_policy()


def reduced(model: ReadmissionModel, *batches: pa.Table) -> Partial:
    accumulator = Accumulator(model, POLICY)
    for batch in batches:
        accumulator.add(batch)
    return accumulator.partial()


def first_problem(row: Row) -> tuple[str, str] | None:
    for feature in READMISSION.features:
        value = row[feature.name]
        try:
            if isinstance(value, float) and math.isfinite(value):
                if not value.is_integer():
                    return "not_whole", feature.name
                value = int(value)
            feature.code(value)
        except InvalidValue as invalid:
            return invalid.reason.label, feature.name
    return None


def by_hand(row: Row, model: ReadmissionModel) -> dict[str, Any]:
    """What a member adds to every cell that it is in, computed alone."""
    problem = first_problem(row)
    whole = {k: int(v) if isinstance(v, float) and math.isfinite(v) else v for k, v in row.items()}
    risk = 0.0 if problem else float(model.score(READMISSION.encode_row(whole))[0])
    rounded = round(risk * RISK_UNITS) / RISK_UNITS
    index, outcome = row["index_discharge"] is True, row["readmitted_within_30_days"]
    counted = index and problem is None
    texts = {
        name: row[name] if row[name] and row[name].strip() == row[name] and row[name] != "All" else UNKNOWN
        for name in ("region", "hospital_id", "sex")
    }
    age, diagnosis, insurance = (
        row[name] for name in ("patient_age", "primary_diagnosis_group", "insurance_type")
    )
    sound_age = age is not None and age == age and 0 <= age <= 120 and float(age).is_integer()
    return texts | {
        "age_group": [g for g, lowest in AGE_GROUPS.items() if age >= lowest][-1] if sound_age else UNKNOWN,
        "primary_diagnosis_group": diagnosis if diagnosis in ("cardiac", "respiratory", "other") else UNKNOWN,
        "insurance_type": insurance if insurance in ("commercial", "medicare") else UNKNOWN,
        "problem": problem,
        "index_discharge": {True: "yes", False: "no", None: "not recorded"}[row["index_discharge"]],
        "members": 1,
        "members_scored": int(problem is None),
        "members_invalid": int(problem is not None),
        "index_discharges": int(index),
        "index_discharges_scored": int(counted),
        "high_risk": int(counted and POLICY.tier(risk) in ("high", "very_high")),
        "very_high_risk": int(counted and POLICY.tier(risk) == "very_high"),
        "matured": int(counted and outcome is not None),
        "observed_readmissions": int(counted and outcome is True),
        "risk": rounded * counted,
        "risk_squared": rounded**2 * counted,
        "risk_matured": rounded * (counted and outcome is not None),
        "member_risk": rounded * (problem is None),
    }


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(member_rows(), min_size=1, max_size=25))
def test_every_cell_is_what_pandas_makes_of_rows_scored_one_by_one(
    model: ReadmissionModel, rows: list[Row]
) -> None:
    partial = reduced(model, as_table(rows))
    summary.require_reconciled(partial, len(rows))
    cells = summary.cells(partial)
    alone = pd.DataFrame([by_hand(row, model) for row in rows])
    for cube, dimensions in CUBES.items():
        found = cells[cells["cube"] == cube].set_index(list(dimensions or ["cube"])).sort_index()
        assert (found[[d for d in DIMENSIONS if d not in dimensions]] == ALL).all(axis=None)
        wanted = figures(alone.assign(cube="total").groupby(list(dimensions or ["cube"]), dropna=False))
        assert found.index.tolist() == wanted.index.tolist()
        for name in summary.COUNTS:
            assert found[name].tolist() == wanted[name].tolist(), name
        for name in summary.MEASURES:
            np.testing.assert_allclose(found[name], wanted[name], rtol=1e-4, atol=2e-5, err_msg=name)
    valid = alone[alone["problem"].isna()]["index_discharge"].tolist()
    flow = Counter(p for p in alone["problem"].tolist() if isinstance(p, tuple))
    flow["no_index_discharge", ""] = valid.count("no")
    flow["index_discharge_not_recorded", ""] = valid.count("not recorded")
    assert partial.exclusions == +flow


def figures(groups: Any) -> pd.DataFrame:
    """What a cell holds, of rows that were counted one by one."""
    found = groups[[*summary.COUNTS, "risk", "risk_squared", "risk_matured", "member_risk"]].sum()
    n, observed = found["index_discharges_scored"].replace(0, np.nan), found["observed_readmissions"]
    expected = found["risk_matured"].replace(0.0, np.nan)
    mean = found["risk"] / n
    half = 1.96 * np.sqrt((found["risk_squared"] - n * mean**2).clip(0) / (n - 1).replace(0, np.nan) / n)
    return found.assign(
        mean_risk=mean,
        mean_risk_low=(mean - half).clip(0, 1),
        mean_risk_high=(mean + half).clip(0, 1),
        high_risk_share=found["high_risk"] / n,
        very_high_risk_share=found["very_high_risk"] / n,
        expected_readmissions=found["risk"],
        expected_matured=found["risk_matured"],
        observed_to_expected=observed / expected,
        # With no degree of freedom SciPy says NaN; the limit is 0.
        oe_low=np.nan_to_num(stats.chi2.ppf(0.025, 2 * observed)) / 2 / expected,
        oe_high=stats.chi2.ppf(0.975, 2 * observed + 2) / 2 / expected,
        member_mean_risk=found["member_risk"] / found["members_scored"].replace(0, np.nan),
    )


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(member_rows(), min_size=1, max_size=30), data=st.data())
def test_neither_order_nor_batches_nor_merging_changes_a_byte(
    model: ReadmissionModel, rows: list[Row], data: st.DataObject
) -> None:
    whole = reduced(model, as_table(rows))
    shuffled = data.draw(st.permutations(rows))
    cut = data.draw(st.integers(0, len(rows)))
    first, second = as_table(shuffled[:cut]), as_table(shuffled[cut:])
    assert reduced(model, first, second).to_bytes() == whole.to_bytes()
    parts = [Partial.from_bytes(reduced(model, part).to_bytes()) for part in (second, first)]
    merged = parts[0].merged(parts[1])
    assert merged.to_bytes() == whole.to_bytes()
    pd.testing.assert_frame_equal(summary.cells(merged), summary.cells(whole), check_exact=True)


@settings(max_examples=25, deadline=None)
@given(row=member_rows(), data=st.data())
def test_a_fingerprint_changes_with_whatever_the_report_depends_on(
    model: ReadmissionModel, row: Row, data: st.DataObject
) -> None:
    other = data.draw(member_rows())
    first, second = (reduced(model, as_table([r])) for r in (row, other))
    same = first.groups.keys() == second.groups.keys() and first.to_bytes() == second.to_bytes()
    if first.fingerprint == second.fingerprint:
        assert same
    changed = data.draw(st.sampled_from(["region", "index_discharge", "readmitted_within_30_days"]))
    flipped = row | {changed: "Elsewhere" if changed == "region" else row[changed] is not True}
    assert reduced(model, as_table([flipped])).fingerprint != first.fingerprint


def test_rows_that_no_tree_tells_apart_are_scored_once_and_to_the_last_bit(model: ReadmissionModel) -> None:
    chance = np.random.default_rng(5)
    highest = [getattr(f, "maximum", len(getattr(f, "categories", "ab")) - 1) for f in READMISSION.features]
    rows = np.stack([chance.integers(0, h + 1, 20_000) for h in highest], axis=1).astype(np.float32)
    # Most members are in a narrow range, where kinds repeat.
    rows[5_000:, :4] = np.minimum(rows[5_000:, :4], [90, 6, 3, 5])
    alone = model.score(rows)
    for remembered in (1 << 20, 1 << 10, 2):
        once = ScoreOnce(model, remembered)
        for start in range(0, len(rows), 3_000):
            found = once.score(rows[start : start + 3_000])
            assert found.tobytes() == alone[start : start + 3_000].tobytes()


def test_the_sum_of_risks_is_that_of_the_scorer_to_the_last_bit(model: ReadmissionModel) -> None:
    members = many_members(5_000, dirty=0.0)
    alone = model.score(READMISSION.encode(members).require_valid("test"))
    units = sum(round(p * RISK_UNITS) for p in alone.tolist())
    partial = reduced(model, *(members.slice(n, 700) for n in range(0, len(members), 700)))
    (total,) = summary.cells(partial).query("cube == 'total'").to_dict("records")
    assert total["member_mean_risk"] == units / RISK_UNITS / len(members)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (lambda t: t.drop_columns(["sex"]), PermanentError, "sex"),
        (lambda t: t.set_column(0, "region", [[1.0]]), PermanentError, "region"),
        (lambda t: t.drop_columns(["patient_age"]), ContractViolation, "patient_age"),
    ],
)
def test_members_without_a_column_are_refused_by_its_name(
    model: ReadmissionModel, change: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        reduced(model, change(many_members(1)))


def test_a_column_of_persons_is_no_dimension(
    model: ReadmissionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accumulate, "MOST_MEMBERS", 10)
    with pytest.raises(PermanentError, match="more than 10 different values") as refused:
        reduced(model, many_members(100))
    assert "H0" not in str(refused.value)


def test_sums_of_another_version_are_refused() -> None:
    for content in (b"", Partial().to_bytes()[:-3], b"\x78\x9c"):
        with pytest.raises(PermanentError, match="not the partial sums"):
            Partial.from_bytes(content)


def test_what_reading_raises_is_raised_and_reading_ends_when_scoring_fails(model: ReadmissionModel) -> None:
    closed = []

    def batches(fail_at: int) -> Any:
        try:
            for number in range(100):
                if number == fail_at:
                    raise ConnectionError("lost")
                yield many_members(1).to_batches()[0]
        finally:
            closed.append(fail_at)

    with pytest.raises(ConnectionError):
        reduce_members(batches(3), model, POLICY)
    ahead = read_ahead(batches(1000))
    next(ahead)
    ahead.close()
    assert closed == [3, 1000]
    assert reduce_members(iter(many_members(250).to_batches(max_chunksize=100)), model, POLICY).rows == 250
