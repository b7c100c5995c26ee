from __future__ import annotations

import csv
import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medscore_assets.contracts.mobility import MOBILITY
from medscore_assets.mobility.baselines import EXPANDING, NAIVE
from medscore_assets.mobility.cohorts import NEW
from medscore_assets.mobility.conformal import Interval
from medscore_assets.mobility.evaluation import (
    NEW_PATIENTS,
    HeldOut,
    choose,
    measure,
    paired_difference,
)
from medscore_assets.mobility.training import Settings, fit_global, judge
from medscore_assets.mobility.training_set import (
    CALIBRATION,
    HELD_OUT_PATIENTS,
    LATER_DATES,
    Split,
    TrainingSet,
)
from tests.mobility.simulated import BEGUN, feature_table, last_day, simulated_steps

SETS = (LATER_DATES, HELD_OUT_PATIENTS)
FITABASE = "fitabase_dailyActivity_merged.csv.gz"


def test_the_measures_are_what_they_are_by_hand():
    steps = np.array([100.0, 200.0, 300.0, 400.0])
    forecast = np.array([110.0, 180.0, 300.0, 440.0])
    band = Interval(forecast - 15, forecast + 15, np.zeros(4, dtype=bool))
    found = measure(steps, forecast, np.array(["a", "a", "b", "b"]), band)
    assert (found.n, found.patients) == (4, 2)
    estimates = {name: value.estimate for name, value in found.measures.items()}
    assert estimates == pytest.approx(
        {"mae": 17.5, "rmse": np.sqrt(2100 / 4), "bias": 7.5, "coverage": 0.5, "width": 30.0}
    )
    # Two patients: every draw is of a alone, of b alone, or of both.
    assert (found.measures["mae"].lower, found.measures["mae"].upper) == (15.0, 20.0)


def test_days_of_one_patient_do_not_count_as_patients():
    random = np.random.default_rng(0)
    off = random.normal(0, 500, 60)
    steps = np.zeros(60 * 30)
    forecast = np.repeat(off, 30)
    clustered = measure(steps, forecast, np.repeat(np.arange(60), 30)).measures["mae"]
    alone = measure(steps, forecast, np.arange(1800)).measures["mae"]
    assert clustered.estimate == pytest.approx(alone.estimate)
    assert clustered.upper - clustered.lower > 4 * (alone.upper - alone.lower)


def test_a_difference_is_paired_so_that_hard_days_cancel_out():
    random = np.random.default_rng(0)
    steps = random.uniform(0, 20_000, 900)
    one = steps + random.choice([-1, 1], 900) * random.uniform(0, 5000, 900)
    other = steps + (one - steps) * 1.02
    patients = np.repeat(np.arange(90), 10)
    found = paired_difference(steps, one, other, patients)
    assert found.upper < 0
    assert found.estimate == pytest.approx(-0.02 * np.abs(one - steps).mean())
    apart = measure(steps, one, patients).measures["mae"], measure(steps, other, patients).measures["mae"]
    assert apart[0].upper > apart[1].lower


def _held_out(patients: int, gains: dict[str, dict[str, float]], seed: int = 0) -> HeldOut:
    """The naive forecast errs by 1,500 on average; a model by so much less (a share) in each set."""
    random = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), 14)
    steps = random.uniform(3000, 9000, len(patient))
    error = random.laplace(0, 1500, len(patient))
    in_set = {"later_dates": patient % 2 == 0, "held_out_patients": patient % 2 == 1}
    forecasts = {EXPANDING: steps + error, "yesterday": steps + 1.3 * error}
    for model, gain in gains.items():
        share = np.where(in_set["later_dates"], gain["later_dates"], gain["held_out_patients"])
        forecasts[model] = steps + error * (1 - share) + random.normal(0, 100, len(patient))
    return HeldOut(steps, patient, in_set, forecasts, {})


def _both(gain: float) -> dict[str, float]:
    return dict.fromkeys(SETS, gain)


@pytest.mark.parametrize(
    ("patients", "gains", "serves"),
    [
        (200, {"cohort": _both(0.10), "global": _both(0.06)}, "cohort"),
        (200, {"cohort": _both(0.06), "global": _both(0.10)}, "global"),
        (200, {"cohort": _both(-0.02), "global": _both(0.05)}, "global"),
        (200, {"cohort": _both(-0.02), "global": _both(-0.05)}, EXPANDING),
        (200, {"cohort": {"later_dates": 0.2, "held_out_patients": -0.02}}, EXPANDING),
        (200, {"cohort": {"later_dates": -0.02, "held_out_patients": 0.2}}, EXPANDING),
        (33, {"cohort": _both(0.2), "global": _both(0.2)}, EXPANDING),
        (200, {}, EXPANDING),
    ],
)
def test_a_model_serves_only_where_it_surely_beats_the_best_naive_forecast_on_both_sets(
    patients, gains, serves
):
    held_out = _held_out(patients, gains)
    found = choose(held_out, "MS", 1, {})
    assert found.route.serves == serves
    assert choose(_held_out(patients, gains), "MS", 1, {}) == found
    assert set(found.measured) == set(held_out.forecasts)
    assert found.metrics()["expanding_mean.later_dates.mae"] > 0


def test_without_a_model_the_naive_forecast_that_is_best_on_later_dates_serves():
    held_out = _held_out(33, {})
    error = held_out.forecasts[EXPANDING] - held_out.steps
    # Better over all, but worse on later dates.
    share = np.where(held_out.in_set[HELD_OUT_PATIENTS], 0.2, 1.1)
    held_out.forecasts["yesterday"] = held_out.steps + share * error
    assert choose(held_out, "MS", 1, {}).route.serves == EXPANDING
    # New patients have no later dates.
    new = replace(held_out, in_set={NEW_PATIENTS: np.full(len(error), True)})
    assert choose(new, "new", 1, {}).route.serves == "yesterday"


def test_a_model_must_beat_on_each_set_the_naive_forecast_that_is_best_there():
    held_out = _held_out(200, {"global": _both(0.1)})
    # Worse over all, but better than the model on held-out patients.
    error = held_out.forecasts[EXPANDING] - held_out.steps
    share = np.where(held_out.in_set[HELD_OUT_PATIENTS], 0.8, 1.5)
    held_out.forecasts["yesterday"] = held_out.steps + share * error
    found = choose(held_out, "MS", 1, {})
    assert found.rivals == {LATER_DATES: EXPANDING, HELD_OUT_PATIENTS: "yesterday"}
    assert found.route.serves == EXPANDING
    assert "from that of the last day on held-out patients" in found.route.reason


def test_a_model_that_is_better_by_chance_at_most_does_not_serve():
    found = choose(_held_out(100, {"global": _both(0.005)}), "MS", 1, {})
    assert all(difference.estimate < 0 for difference in found.differences["global"].values())
    assert found.differences["global"][LATER_DATES].upper > 0
    assert found.route.serves == EXPANDING


def test_equal_models_are_decided_for_the_global_one():
    held_out = _held_out(200, {"global": _both(0.1)})
    held_out.forecasts["cohort"] = held_out.forecasts["global"]
    assert choose(held_out, "MS", 1, {}).route.serves == "global"


def test_the_reason_says_what_was_compared_with_what():
    won = choose(_held_out(200, {"cohort": _both(0.1)}), "MS", 1, {}).route.reason
    assert won.startswith("The model of the cohort MS serves: a mean absolute error that differs by -")
    assert "the mean of all days to date" in won
    assert "on later dates" in won
    assert "on held-out patients" in won
    few = choose(_held_out(33, {"cohort": _both(0.1)}), "MS", 1, {}).route.reason
    assert few.startswith("The mean of all days to date serves: 17 patients")
    lost = choose(_held_out(200, {"cohort": _both(-0.1)}), "MS", 1, {}).route.reason
    assert "no model is surely better" in lost
    nobody = _held_out(200, {})
    assert choose(nobody, "MS", 1, {}).route.reason.endswith("no model was trained.")
    refused = choose(nobody, "MS", 1, {}, {"cohort": "Too few patients."}).route.reason
    assert refused.endswith("passed no model. The model of the cohort MS was refused: Too few patients.")


def test_a_cohort_with_something_to_learn_is_served_by_a_model_with_a_calibrated_interval():
    table = feature_table(simulated_steps(150, 50, seed=4), 1, seed=4, first=14)
    # One cohort, so that each set has patients enough.
    table = table.set_column(table.column_names.index("disease"), "disease", [["PD"] * table.num_rows])
    data = TrainingSet.of(table, MOBILITY, 1, Split.of(BEGUN, last_day(50)))
    quick = Settings(max_rounds=40, max_bins=32, early_stopping_rounds=10, smoothing_rounds=0)
    model = fit_global(data, quick)
    found = judge(data, "PD", {"global": model})
    assert found.route.serves == "global"
    for of_set in SETS:
        measures = found.measured["global"][of_set].measures
        assert 0.85 < measures["coverage"].estimate < 0.95
        assert measures["mae"].estimate < found.measured[EXPANDING][of_set].measures["mae"].estimate
    assert found.route.conformal == model.manifest.conformal["PD"]
    # Intervals are calibrated on the rows of the route alone.
    halved = replace(data, routes=np.where(data.patients % 2, "PD", "RA"))
    of_route = (halved.parts == CALIBRATION) & (halved.routes == "PD")
    assert judge(halved, "PD", {"global": model}).route.conformal.rows == of_route.sum()
    # Nobody was calibrated for: the whole calibration part stands in.
    assert judge(data, "MS", {"global": model}).route.serves in NAIVE
    assert judge(data, NEW, {"global": model, "cohort": model}).measured.keys() == {"global", EXPANDING}


def _iso(day: str) -> str:
    month, day_of_month, year = day.split("/")
    return f"{year}-{month:0>2}-{day_of_month:0>2}"


def _fitabase(file: Path) -> tuple[np.ndarray, list[str]]:
    """Steps of the recorded people, shape (people, days). A day of 0 steps is a day without the device."""
    with gzip.open(file, "rt") as lines:
        rows = [(r["Id"], _iso(r["ActivityDate"]), int(r["TotalSteps"])) for r in csv.DictReader(lines)]
    people, days = sorted({row[0] for row in rows}), sorted({row[1] for row in rows})
    steps = np.full((len(people), len(days)), np.nan)
    for person, day, count in rows:
        steps[people.index(person), days.index(day)] = count or np.nan
    return steps, people


@pytest.mark.parametrize("horizon", [1, 7])
def test_real_people_are_served_no_worse_than_by_the_best_naive_forecast(shared_data, horizon):
    steps, people = _fitabase(shared_data / FITABASE)
    table = feature_table(steps, horizon, ids=people)
    table = table.set_column(table.column_names.index("disease"), "disease", [["unknown"] * table.num_rows])
    data = TrainingSet.of(table, MOBILITY, horizon, Split.of(BEGUN, last_day(steps.shape[1])))
    model = fit_global(data, Settings(max_rounds=60, max_bins=32, smoothing_rounds=10))
    for key, fewest in (("other", 20), (NEW, 10)):
        found = judge(data, key, {"global": model})
        rows = data.of_route(key) & np.isin(data.parts, SETS)
        assert rows.sum() >= fewest
        errors = {name: np.abs(values[rows] - data.steps[rows]).mean() for name, values in data.naive.items()}
        errors["global"] = np.abs(model.forecast(data.matrix[rows]) - data.steps[rows]).mean()
        compared = errors if key != NEW else {name: errors[name] for name in (EXPANDING, "global")}
        assert errors[found.route.serves] <= min(v for name, v in compared.items() if name != "global")
        # 33 people are too few to trust a model to, whatever it says of them.
        assert found.route.serves in NAIVE
        assert "too few" in found.route.reason
