from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from medscore_assets.contracts.mobility import DISEASES
from medscore_assets.mobility.baselines import EXPANDING, NAIVE, forecasts, needed
from medscore_assets.mobility.cohorts import COHORTS, NEW, Route, cohort_of, cohorts_of, route, routed_as
from medscore_assets.mobility.conformal import Conformal


@pytest.mark.parametrize(
    ("diseases", "cohort"),
    [
        (["MS"], "MS"),
        (["RA", "PD"], "PD"),
        (["RA", "other", "PD", "MS"], "MS"),
        (["other", "RA"], "RA"),
        (["gout"], "other"),
        (["ms"], "other"),
        ([], "other"),
        ([None], "other"),
    ],
)
def test_of_several_diseases_the_first_by_priority_decides(diseases, cohort):
    assert cohort_of(diseases) == cohort


def test_the_cohorts_have_the_contracts_priority_and_its_unknown_disease_goes_to_other():
    assert DISEASES == (*COHORTS, "unknown")
    column = np.array(["PD", "unknown", None, "other", "MS", "gout"], dtype=object)
    assert cohorts_of(column).tolist() == ["PD", "other", "other", "other", "MS", "other"]


def test_new_patients_have_a_route_of_their_own_below_14_days():
    routed = routed_as(np.array(["MS", "MS", "other"]), np.array([13.0, 14.0, 1.0]))
    assert routed.tolist() == [NEW, "MS", NEW]


def test_without_an_evaluation_the_mean_to_date_serves_and_says_why():
    found = route({}, "PD", 1)
    assert (found.serves, found.conformal) == (EXPANDING, None)
    assert "nothing was evaluated" in found.reason
    one_day = Route(cohort="PD", horizon_days=1, serves="global", reason="better", conformal=None)
    assert route({"PD": one_day}, "PD", 1) is one_day
    assert route({"PD": one_day}, "PD", 7).serves == EXPANDING
    band = Conformal(coverage=0.9, quantile=1.1, typical_scale=2000.5, rows=100, patients=10)
    stored = one_day.model_copy(update={"conformal": band})
    assert Route.model_validate_json(stored.model_dump_json()) == stored


@pytest.mark.parametrize(("cohort", "serves"), [("MS", "a guess"), ("gout", "global"), (NEW, "cohort")])
def test_a_route_to_what_there_is_not_is_refused(cohort, serves):
    with pytest.raises(ValidationError):
        Route(cohort=cohort, horizon_days=1, serves=serves, reason="", conformal=None)


@pytest.mark.parametrize(
    ("horizon", "same_weekday"), [(1, "steps_lag_7"), (7, "steps_lag_1"), (3, "steps_lag_5")]
)
def test_the_naive_forecasts_read_the_days_that_they_name_or_the_mean_to_date(horizon, same_weekday):
    columns = {"baseline_mean": np.array([5.0, 6.0])}
    columns |= {f"steps_lag_{k}": np.array([100.0 + k, np.nan]) for k in range(1, 8)}
    columns["steps_mean_7"] = np.array([50.0, np.nan])
    found = forecasts(columns, horizon)
    assert set(found) == set(NAIVE)
    assert found["same_weekday_last_week"].tolist() == [columns[same_weekday][0], 6.0]
    assert found["yesterday"].tolist() == [101.0, 6.0]
    assert found["mean_7_days"].tolist() == [50.0, 6.0]
    assert found["combined_mean"].tolist() == [27.5, 6.0]
    assert found["expanding_mean"].tolist() == [5.0, 6.0]
    assert set(needed(horizon)) <= set(columns)
