"""The batched filters against statsmodels, series by series."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
import pytest
from threadpoolctl import threadpool_limits

from medscore_assets.wait_times.model import History
from medscore_assets.wait_times.models.arima import ARIMA, autocorrelation, forecast, yule_walker
from medscore_assets.wait_times.models.binned import binned_means, fitting_series
from medscore_assets.wait_times.models.ets import ETS, smoothed
from medscore_assets.wait_times.models.life_table import period_quantiles
from tests.wait_times.conftest import Simulated

Numbers = npt.NDArray[np.float64]


def with_gaps(series: Numbers, share: float, seed: int = 5) -> Numbers:
    return np.where(np.random.default_rng(seed).random(series.shape) < share, np.nan, series)


def close(ours: float, theirs: float) -> bool:
    """Within three minutes or one per cent, in seconds."""
    return abs(ours - theirs) <= max(180.0, 0.01 * abs(theirs))


def test_smoothing_is_what_statsmodels_gives(simulated: Simulated) -> None:
    from statsmodels.tsa.exponential_smoothing.ets import ETSModel

    fitted = ETS().fit(simulated.history)
    assert set(fitted) == set(simulated.facilities)
    snapshot = simulated.snapshot()
    series = binned_means(snapshot, ("all_posted", "ctas_2"))
    assert np.isnan(series).any()
    for scene, facility in enumerate(snapshot.facilities):
        alpha = fitted[facility]["alpha"]
        for own in series[scene]:
            known = own[~np.isnan(own)]
            model = ETSModel(known, initialization_method="known", initial_level=known.mean())
            theirs = float(np.asarray(model.smooth([alpha]).forecast(1))[0])
            assert smoothed(own, np.array(alpha)) == pytest.approx(theirs, rel=1e-9)


def test_the_fitted_smoothing_has_the_least_errors_one_step_ahead(simulated: Simulated) -> None:
    fitted = ETS().fit(simulated.history)
    for facility, series in fitting_series(simulated.history).items():
        known = series[~np.isnan(series)]

        def errors(alpha: float, known: Numbers = known) -> float:
            level, total = known.mean(), 0.0
            for value in known:
                total += (value - level) ** 2
                level += alpha * (value - level)
            return total

        best = min(errors(alpha) for alpha in np.linspace(0.01, 0.99, 99))
        assert errors(fitted[facility]["alpha"]) <= best * 1.001


def test_the_autoregression_is_what_a_kalman_filter_gives(simulated: Simulated) -> None:
    from statsmodels.tsa.arima import model as reference

    phi = {name: np.array(own["phi"]) for name, own in ARIMA().fit(simulated.history).items()}
    snapshot = simulated.snapshot()
    series = binned_means(snapshot, ("all_posted", "ctas_4_5"))
    ours = forecast(series, np.array([phi[name] for name in snapshot.facilities]))
    assert np.isnan(series).any()
    for scene, facility in enumerate(snapshot.facilities):
        for band in range(2):
            own = series[scene, band]
            model = reference.ARIMA(own, order=(5, 0, 0), trend="c")
            result = model.filter([np.nanmean(own), *phi[facility], np.nanvar(own)])
            assert close(ours[scene, band], float(result.forecast(1)[0]))


@pytest.mark.parametrize("gaps", [0.0, 0.3])
def test_coefficients_are_found_again_with_and_without_empty_hours(gaps: float) -> None:
    true = np.array([0.5, 0.0, 0.2, 0.0, 0.1])
    noise = np.random.default_rng(3).normal(size=6_000)
    series = np.zeros(6_000)
    for at in range(5, 6_000):
        series[at] = true @ series[at - 5 : at][::-1] + noise[at]
    np.testing.assert_allclose(yule_walker(with_gaps(series + 40, gaps), 5), true, atol=0.06)


def test_without_gaps_the_coefficients_are_those_of_the_fit_by_yule_walker(simulated: Simulated) -> None:
    from statsmodels.tsa.arima import model as reference

    series = next(iter(fitting_series(simulated.history).values()))
    full = np.where(np.isnan(series), np.nanmean(series), series)
    model = reference.ARIMA(full, order=(5, 0, 0), trend="n")
    with threadpool_limits(1, user_api="blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        centred = reference.ARIMA(full - full.mean(), order=(5, 0, 0), trend="n")
        theirs = centred.fit(method="yule_walker").params[:5]
    assert model.k_ar == 5
    np.testing.assert_allclose(yule_walker(full, 5), theirs, atol=0.02)


def test_autocorrelations_solve_the_equations_of_the_autoregression() -> None:
    from statsmodels.tsa.arima_process import arma_acf

    phi = np.array([[0.4, 0.1, 0.0, -0.2, 0.15], [0.9, 0.0, 0.0, 0.0, 0.0]])
    found = autocorrelation(phi, 24)
    for row in range(2):
        np.testing.assert_allclose(found[row], arma_acf(np.r_[1, -phi[row]], [1], lags=25), atol=1e-9)


def test_a_forecast_takes_the_place_of_each_hour_that_is_missing() -> None:
    phi = np.array([[0.8, 0.0, 0.0, 0.0, 0.0]])
    series = np.full((1, 1, 40), 100.0)
    series[0, 0, ::2] = 140.0
    series[0, 0, -2:] = np.nan
    mean = np.nanmean(series)
    last = series[0, 0, -3]
    assert forecast(series, phi)[0, 0] == pytest.approx(mean + 0.8**3 * (last - mean), rel=1e-4)


def test_the_life_table_is_that_of_survival_analysis() -> None:
    from statsmodels.duration.survfunc import SurvfuncRight

    luck = np.random.default_rng(11)
    number, groups = 400, 5
    group = luck.integers(0, groups, number)
    arrived = -luck.uniform(0, 300, number).round()
    ended = np.minimum(arrived + luck.exponential(90, number).round() + 1, 0.0)
    event = (luck.random(number) < 0.7) & (ended < 0)
    ours = period_quantiles(group, arrived, ended, event, groups, 120.0, (0.3, 0.5), 1)
    inside = ended > -120
    for own in range(groups):
        rows = inside & (group == own)
        entry = np.maximum(-120 - arrived[rows], 0.0)
        table = SurvfuncRight((ended - arrived)[rows], event[rows].astype(int), entry=entry)
        for place, level in enumerate((0.3, 0.5)):
            below = np.flatnonzero(table.surv_prob <= 1 - level + 1e-9)
            theirs = table.surv_times[below[0]] if len(below) else np.nan
            np.testing.assert_allclose(ours[place, own], theirs)


def test_series_that_are_too_short_constant_or_empty_are_left_to_the_defaults(simulated: Simulated) -> None:
    history = simulated.history
    short = History(
        history.visits,
        history.as_of,
        (*history.facilities, "unheard-of"),
        {**history.zones, "unheard-of": "America/Toronto"},
        days=1,
    )
    assert "unheard-of" not in ETS().fit(short)
    assert ARIMA().fit(short) == {}
    for filtered in (
        smoothed(np.full(96, np.nan), np.array(0.3)),
        forecast(np.full((1, 1, 96), np.nan), np.ones((1, 5)) / 9),
    ):
        assert np.isnan(filtered).all()
    constant = np.full((1, 1, 96), 1_800.0)
    assert smoothed(constant, np.array([[0.3]])) == pytest.approx(1_800)
    assert forecast(constant, np.array([ARIMA.default_phi])) == pytest.approx(1_800)
