from __future__ import annotations

import json
from dataclasses import replace
from datetime import date

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings

from medscore_assets.contracts.measures import FeatureTable
from medscore_assets.contracts.mobility import MOBILITY
from medscore_assets.mobility.cohorts import COHORTS, NEW, Route
from medscore_assets.mobility.encoding import BASELINE, CALENDAR, UNSEEN, matrix_name
from medscore_assets.mobility.forecasting import forecast
from medscore_assets.mobility.model import MODEL_FILE, MobilityModel
from medscore_assets.mobility.reasons import reasons
from medscore_assets.mobility.terms import Terms, explicit_types
from medscore_assets.mobility.training import (
    Settings,
    continue_fit,
    fit_cohort,
    fit_global,
    validation_error,
)
from medscore_assets.mobility.training_set import (
    CALIBRATION,
    PARTS,
    TRAIN,
    VALIDATION,
    Split,
    TrainingSet,
    sampled,
    with_targets,
)
from medscore_assets.mobility.wording import words
from resources.errors import ContractViolation, IntegrityError, PermanentError
from tests.mobility.simulated import BEGUN, feature_table, last_day, simulated_steps

DAYS = 60
QUICK = Settings(max_rounds=15, max_bins=64, early_stopping_rounds=0, smoothing_rounds=5)
HORIZONS = (1, 7)
CODES = 4


@pytest.fixture(scope="module")
def tables():
    steps = simulated_steps(90, DAYS, seed=1)
    return {h: feature_table(steps, h, seed=1) for h in HORIZONS}


@pytest.fixture(scope="module")
def data(tables) -> dict[int, TrainingSet]:
    split = Split.of(BEGUN, last_day(DAYS))
    return {h: TrainingSet.of(tables[h], MOBILITY, h, split) for h in HORIZONS}


@pytest.fixture(scope="module")
def model(data) -> MobilityModel:
    return fit_global(data[1], QUICK, seed=3)


@pytest.fixture(scope="module")
def fitted():
    """An EBM with every kind of column: plain, skewed, whole, constant, never missing, categories."""
    from interpret.glassbox import ExplainableBoostingRegressor

    random = np.random.default_rng(0)
    x = random.normal(0, 3000, (2000, 7))
    x[:, 1] = np.exp(random.normal(0, 6, 2000))
    x[:, 2] = random.integers(0, 7, 2000)
    x[:, 3] = 800.0
    x[random.random(x.shape) < 0.1] = np.nan
    x[:, 4] = np.where(np.isnan(x[:, 4]), 0.0, x[:, 4])
    # The code 2 is on the list and does not occur.
    x[:, 5] = random.choice([0.0, 1.0, 3.0, np.nan], 2000)
    y = np.nan_to_num(x[:, 0]) + 500 * np.nan_to_num(x[:, 2]) + 900 * np.nan_to_num(x[:, 5]) + x[:, 4] / 7
    names = [f"x{n}" for n in range(7)]
    kinds = ["nominal" if n == 5 else "continuous" for n in range(7)]
    ebm = ExplainableBoostingRegressor(
        names, kinds, interactions=0, outer_bags=1, max_rounds=30, max_bins=200, n_jobs=1
    )
    with pytest.warns(UserWarning, match="Missing values"):
        ebm.fit(x, y)
    return ebm, Terms.of(ebm, {"x5": CODES})


def _interesting(terms: Terms) -> st.SearchStrategy[list[float]]:
    """Values on, just below and far beyond the cuts, missing ones, codes on and off the list."""
    columns = []
    for term in terms.terms:
        if term.cuts is None:
            columns.append(st.sampled_from([np.nan, UNSEEN, 0.0, 1.0, 2.0, 3.0, 9.0]))
            continue
        cuts = [*term.cuts.tolist(), *np.nextafter(term.cuts, -np.inf).tolist(), 0.0]
        columns.append(
            st.one_of(
                st.sampled_from(cuts),
                st.just(np.nan),
                st.floats(allow_nan=False),
                st.sampled_from([-0.0, 5e-324]),
            )
        )
    return st.tuples(*columns).map(list)


def test_the_scores_are_those_of_interpret_bit_for_bit_for_one_row_and_for_many(fitted):
    ebm, terms = fitted

    @settings(max_examples=40, deadline=None)
    @given(st.lists(_interesting(terms), min_size=1, max_size=40))
    def holds(rows):
        few = np.array(rows)
        # Enough rows for the grid, which is another way to the same bins.
        many = np.tile(few, (300 // len(few) + 1, 1))
        expected = ebm.predict(few)
        assert terms.predict(few).tobytes() == expected.tobytes()
        assert terms.predict(many)[: len(few)].tobytes() == expected.tobytes()
        assert terms.predict(few[:1]).tobytes() == expected[:1].tobytes()
        total = np.full(len(few), terms.intercept)
        for added in terms.contributions(few).T:
            total += added
        assert total.tobytes() == expected.tobytes()

    holds()


def test_terms_come_back_from_their_text_to_the_last_bit_and_broken_text_is_refused(fitted):
    ebm, terms = fitted
    back = Terms.from_json(terms.to_json())
    assert back.intercept == terms.intercept
    for mine, theirs in zip(terms.terms, back.terms, strict=True):
        assert mine.scores.tobytes() == theirs.scores.tobytes()
        assert mine.weights.tobytes() == theirs.weights.tobytes()
        assert mine.cuts is theirs.cuts is None or mine.cuts.tobytes() == theirs.cuts.tobytes()
    assert np.allclose(terms.importances, ebm.term_importances())
    stored = json.loads(terms.to_json())
    stored["terms"][0]["scores"].pop()
    with pytest.raises(ValueError, match="x0 do not fit together"):
        Terms.from_json(json.dumps(stored).encode())
    stored["terms"][1]["scores"][0] = "exec"
    with pytest.raises(ValueError, match=r"terms\.1\.scores\.0"):
        Terms.from_json(json.dumps(stored).encode())


def test_a_stored_model_forecasts_the_same_and_a_changed_file_is_refused(model, data, tmp_path):
    model.save(tmp_path)
    loaded = MobilityModel.load(tmp_path, MOBILITY)
    matrix = data[1].matrix
    assert loaded.forecast(matrix).tobytes() == model.forecast(matrix).tobytes()
    assert loaded.manifest == model.manifest
    assert (model.forecast(matrix) >= 0).all()
    other = FeatureTable(MOBILITY.name, MOBILITY.revision + 1, MOBILITY.rules, MOBILITY.features)
    with pytest.raises(IntegrityError, match="trained under contract"):
        MobilityModel.load(tmp_path, other)
    content = (tmp_path / MODEL_FILE).read_bytes()
    (tmp_path / MODEL_FILE).write_bytes(content.replace(b"1", b"2", 1))
    with pytest.raises(IntegrityError, match="was changed"):
        MobilityModel.load(tmp_path, MOBILITY)


def test_one_row_is_forecast_as_among_many_and_what_is_no_row_is_refused(model, data):
    matrix = data[1].matrix[:400]
    together = model.forecast(matrix)
    alone = np.concatenate([model.forecast(matrix[n : n + 1]) for n in range(40)])
    assert alone.tobytes() == together[:40].tobytes()
    assert model.explain(matrix).steps.tobytes() == together.tobytes()
    place = model.manifest.feature_names.index(BASELINE)
    for value, fault in ((np.nan, "have no baseline_mean"), (np.inf, "infinite")):
        broken = matrix.copy()
        broken[3, place] = value
        with pytest.raises(ContractViolation, match=f"1 of 400 rows.*{fault}|1 of 400 rows {fault}"):
            model.forecast(broken)
    with pytest.raises(ContractViolation, match="float32"):
        model.forecast(matrix.astype(np.float32))


def test_the_same_rows_in_another_order_give_the_same_model(tables, data, model):
    shuffled = tables[1].take(np.random.default_rng(5).permutation(tables[1].num_rows))
    again = TrainingSet.of(shuffled, MOBILITY, 1, Split.of(BEGUN, last_day(DAYS)))
    assert again.fingerprint == data[1].fingerprint
    assert fit_global(again, QUICK, seed=3).serialized == model.serialized


def test_rounds_are_added_exactly_and_make_the_model_better(data, model, monkeypatch):
    from medscore_assets.mobility import training

    boosted = []
    real = training._boosted
    monkeypatch.setattr(training, "_boosted", lambda *a: boosted.append(real(*a)) or boosted[-1])
    more = continue_fit(model, data[1], rounds=15, seed=3)
    added = Terms.of(boosted[0], {name: len(v) for name, v in model.encoding.vocabulary.items()})
    assert added.predict(data[1].matrix).tobytes() == boosted[0].predict(data[1].matrix).tobytes()
    assert more.terms.intercept == model.terms.intercept + added.intercept
    for mine, plus, both in zip(model.terms.terms, added.terms, more.terms.terms, strict=True):
        assert (both.scores == mine.scores + plus.scores).all()
        assert mine.cuts is both.cuts is None or (mine.cuts == both.cuts).all()
    assert (more.manifest.rounds, more.manifest.continued) == (30, 1)
    used = data[1].parts == TRAIN
    squares = [((m.forecast(data[1].matrix) - data[1].steps)[used] ** 2).mean() for m in (model, more)]
    assert squares[1] < 0.97 * squares[0]
    assert validation_error(more, data[1]) != validation_error(model, data[1])
    assert more.manifest.conformal != model.manifest.conformal
    with pytest.raises(ContractViolation, match="another horizon"):
        continue_fit(model, data[7], rounds=5)


def test_a_model_that_is_continued_keeps_constant_and_missing_columns(fitted):
    from interpret.glassbox import ExplainableBoostingRegressor

    _, terms = fitted
    x = np.random.default_rng(1).normal(0, 3000, (300, 7))
    x[:, 5] = 1.0
    ebm = ExplainableBoostingRegressor(
        list(terms.feature_names), explicit_types(terms), interactions=0, outer_bags=1, max_rounds=2, n_jobs=1
    )
    ebm.fit(x, x[:, 0], init_score=terms.predict(x))
    total = terms + Terms.of(ebm, {"x5": CODES})
    assert np.allclose(total.predict(x), terms.predict(x) + ebm.predict(x) - 0.0, rtol=0, atol=1e-6)


def test_parts_share_no_target_and_no_held_out_patient(data):
    for h, of_horizon in data.items():
        known = of_horizon.parts != "held_out_patients"
        assert not set(of_horizon.patients[known]) & set(of_horizon.patients[~known])
        fits = {part: set(of_horizon.patients[of_horizon.parts == part]) for part in (TRAIN, VALIDATION)}
        assert not fits[TRAIN] & fits[VALIDATION]
        assert set(of_horizon.parts) == set(PARTS), h


def test_targets_of_training_rows_end_before_calibration_begins(tables):
    split = Split.of(BEGUN, last_day(DAYS))
    table = tables[7]
    data = TrainingSet.of(table, MOBILITY, 7, split)
    ordered = table.sort_by([("patient_id", "ascending"), ("day", "ascending")])
    target = np.asarray(ordered["day"]).astype("datetime64[D]") + 6
    assert target[np.isin(data.parts, (TRAIN, VALIDATION))].max() < np.datetime64(split.calibration_begins)
    calibration = target[data.parts == CALIBRATION]
    assert calibration.min() >= np.datetime64(split.calibration_begins)
    assert target[data.parts == "later_dates"].min() >= np.datetime64(split.test_begins) > calibration.max()


def test_the_calendar_is_the_target_days_and_texts_beyond_the_list_are_unseen(tables, data):
    at_one, at_seven = data[1], data[7]
    for name in CALENDAR:
        place = at_one.encoding.names.index(matrix_name(name))
        ordered = tables[1].sort_by([("patient_id", "ascending"), ("day", "ascending")])
        expected = np.asarray(ordered[name], dtype=float)
        assert np.allclose(at_one.matrix[:, place], expected, atol=1e-12), name
    row = tables[7].slice(0, 1).set_column(1, "day", pa.array([date(2024, 12, 30)]))
    names = at_seven.encoding.names
    encoded = at_seven.encoding.encode(row)[0]
    # Seven days on from Monday 30 December, both counted, is Sunday 5 January.
    assert [encoded[names.index(f"target_{n}")] for n in ("weekday", "month", "is_weekend")] == [6, 1, 1]
    therapy = row.set_column(row.column_names.index("therapy"), "therapy", pa.array(["never heard of"]))
    assert at_seven.encoding.encode(therapy)[0, names.index("therapy")] == UNSEEN
    absent = row.set_column(row.column_names.index("therapy"), "therapy", pa.array([None], pa.string()))
    assert np.isnan(at_seven.encoding.encode(absent)[0, names.index("therapy")])
    with pytest.raises(ContractViolation, match="another type"):
        at_seven.encoding.encode(row.set_column(row.column_names.index("therapy"), "therapy", pa.array([3])))


def test_targets_are_the_steps_of_the_target_day_and_rows_without_any_are_left_out():
    features = pa.table(
        {
            "patient_id": ["a", "a", "b"],
            "day": pa.array([date(2024, 2, 27), date(2024, 2, 28), date(2024, 2, 27)]),
        }
    )
    daily = pa.table(
        {
            "patient_id": ["a", "a", "b"],
            "day": pa.array([date(2024, 3, 4), date(2024, 2, 28), date(2024, 2, 27)]),
            "steps": pa.array([70, 10, 20], pa.int64()),
            "flags": pa.array([0, 0, 0], pa.int32()),
        }
    )
    # 28 February and six days on are 5 March: a leap year.
    at_seven = with_targets(features, daily, 7)
    assert at_seven.to_pylist() == [{"patient_id": "a", "day": date(2024, 2, 27), "target_steps": 70}]
    at_one = with_targets(features, daily, 1).sort_by("patient_id")
    assert at_one["target_steps"].to_pylist() == [10, 20]


def test_sampling_keeps_whole_patients_of_every_cohort(tables):
    table = tables[1]
    kept = sampled(table, most_rows=300)
    rows = dict(
        zip(*np.unique(table["patient_id"].to_numpy(zero_copy_only=False), return_counts=True), strict=True)
    )
    for patient, n in zip(
        *np.unique(kept["patient_id"].to_numpy(zero_copy_only=False), return_counts=True), strict=True
    ):
        assert rows[patient] == n
    diseases = kept["disease"].to_numpy(zero_copy_only=False)
    assert {"MS", "PD", "RA", "other", "unknown"} == set(diseases)
    assert 300 <= (diseases == "MS").sum() < 300 + DAYS


def test_reasons_add_up_to_forecast_minus_baseline_in_plain_words(model, data, tables):
    table = tables[1].sort_by([("patient_id", "ascending"), ("day", "ascending")]).slice(0, 300)
    # A model that takes far more than there is: the forecast is raised to 0 and says so.
    low = replace(model, terms=replace(model.terms, intercept=-50_000.0))
    for of_model in (model, low):
        explained = of_model.explain(data[1].matrix[:300])
        for row, found in enumerate(reasons(of_model, table, explained, count=4).rows()):
            told = sum(reason.steps for reason in found.reasons)
            assert found.baseline + told + found.other + found.raised == found.forecast
            assert found.forecast == round(explained.steps[row]) >= 0
            strength = [abs(reason.steps) for reason in found.reasons]
            assert strength == sorted(strength, reverse=True)
            assert (found.raised > 0) == (of_model is low)
    text = list(reasons(model, table, model.explain(data[1].matrix[:300])).rows())[40].reasons[0].text
    assert text.split(" because ")[0].lstrip("+-").replace(",", "").split() == [
        text.split()[0].lstrip("+-").replace(",", ""),
        "steps",
    ]


def test_every_feature_has_words_for_a_value_and_for_none():
    values = {"number": 1234.5, "whole": 2, "category": "MS", "label": "b"}
    for feature in MOBILITY.features:
        for value in (values[feature.kind], None) if feature.source != "calendar" else (1.0,):
            found = words(feature, value)
            assert found
            assert "{" not in found
            assert "None" not in found
    named = MOBILITY.by_name
    assert words(named["steps_mean_7"], 5120.4) == "the last 7 days had a mean of 5,120 steps"
    assert (
        words(named["baseline_deviation_lag_1"], -300.0)
        == "the last day was 300 steps below the mean to date"
    )
    assert words(named["therapy"], "none") == "there is no therapy"


def test_too_few_patients_are_not_fitted(data):
    few = replace(data[1], cohorts=np.where(data[1].patients < 3, "MS", "RA"))
    with pytest.raises(PermanentError, match="too few to fit"):
        fit_cohort(few, "MS", QUICK)


def test_every_row_is_forecast_by_its_route_alike_alone_and_among_many(model, data, tables):
    table = tables[1].slice(0, 1500)
    band = model.manifest.conformal["MS"]
    routes = {
        "MS": Route(cohort="MS", horizon_days=1, serves="cohort", reason="r", conformal=band),
        "PD": Route(cohort="PD", horizon_days=1, serves="global", reason="r", conformal=None),
        "RA": Route(cohort="RA", horizon_days=1, serves="yesterday", reason="r", conformal=band),
        NEW: Route(cohort=NEW, horizon_days=1, serves="global", reason="r", conformal=band),
    }
    of_ms = model.with_manifest(model_name="mobility-ms-1d", cohort="MS")
    models = {"global": model, "MS": of_ms}
    found = forecast(table, routes, models, 1)
    served = {key: set(found.serves[found.routes == key]) for key in (*COHORTS, NEW)}
    assert served == {
        "MS": {"mobility-ms-1d"},
        "PD": {"mobility-global-1d"},
        "RA": {"yesterday"},
        "other": {"expanding_mean"},
        NEW: {"mobility-global-1d"},
    }
    assert np.isnan(found.lower).tolist() == np.isin(found.routes, ["PD", "other"]).tolist()
    for row in (0, 1, 20, 700, 1499):
        alone = forecast(table.slice(row, 1), routes, models, 1)
        for name in ("steps", "lower", "upper", "unsure"):
            assert getattr(alone, name).tobytes() == getattr(found, name)[row : row + 1].tobytes(), name
        assert alone.serves == found.serves[row : row + 1]
        assert alone.reasons.listed == found.reasons.listed.slice(row, 1)
        assert list(alone.reasons.rows()) == [list(found.reasons.rows())[row]]
    for steps, told in zip(found.steps, found.reasons.rows(), strict=True):
        assert told.baseline + sum(r.steps for r in told.reasons) + told.other + told.raised == told.forecast
        assert told.forecast == np.rint(steps)
    with pytest.raises(PermanentError, match="the model of MS, which is not there"):
        forecast(table, routes, {"global": model}, 1)
