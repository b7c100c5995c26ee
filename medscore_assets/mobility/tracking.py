"""How forecasts do as the days come: error and coverage with intervals, and the rise since promotion.

Belongs here: measures from sums over patients, the rule by which a rise is a reason to train.
Does not belong here: the sums (`monitoring_queries.py`), the limits (`monitoring/thresholds.toml`), drift.

Every measure is a ratio of sums over patients, who bring all their days along; its interval is that of a
ratio estimator with patients as clusters (linearised, Student's t), which needs moments of the sums only.

The rule: over the last `ROLLING_DAYS` target days, of forecasts by who serves the route today, the mean
absolute error is compared with the one on which the route was decided (the same cohort, horizon and server,
on later dates). The rise is at alarm when it is above 10 % and none of its interval is below 5 %, from at
least `FEWEST_PATIENTS` patients and the thresholds' number of outcomes: a few patients' bad days, or chance,
are no alarm. What was measured at promotion counts as known exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

from medscore_assets.mobility.cohorts import NEW
from medscore_assets.mobility.evaluation import FEWEST_PATIENTS, NEW_PATIENTS
from medscore_assets.mobility.model import model_name
from medscore_assets.mobility.training_set import LATER_DATES
from medscore_assets.monitoring.assessment import Interval
from medscore_assets.monitoring.measurement import Measurement
from medscore_assets.monitoring.thresholds import NOT_JUDGED, State, Thresholds

ROLLING_DAYS = 14
MAE, RMSE, COVERAGE, RISE = "mae", "rmse", "coverage", "forecast_error_rise"
OUTCOMES = (MAE, RMSE, COVERAGE, RISE)
"""What is measured on forecasts whose day has steps."""


@dataclass(frozen=True, slots=True)
class Served:
    """Who serves a route at a horizon, and what it is measured against."""

    route: str
    """A cohort, or `new`."""
    horizon_days: int
    serves: str
    """`cohort`, `global`, or the name of a naive forecast."""
    model_name: str | None
    model_version: int | None
    mae_at_promotion: float | None
    """On which the route was decided, in steps."""
    level: float | None
    """The share of days that its intervals shall hold."""

    @property
    def key(self) -> tuple[str, int, str, str | None, int | None]:
        """What its forecasts are told by."""
        return (self.route, self.horizon_days, self.serves, self.model_name, self.model_version)

    @property
    def measured_as(self) -> tuple[str, int]:
        """Name and version in `monitoring_measures`."""
        return measured_as(self.serves, self.horizon_days, self.model_name, self.model_version)


def measured_as(
    serves: str, horizon_days: int, registered: str | None, version: int | None
) -> tuple[str, int]:
    """A server's name and version in `monitoring_measures`; a naive forecast has its name, and version 0."""
    if registered is None or version is None:
        return model_name(serves, horizon_days), 0
    return registered, version


def promoted_error(metrics: dict[str, float], serves: str, route: str) -> float | None:
    """The mean absolute error on which a route was decided, from the metrics kept with it."""
    of_set = NEW_PATIENTS if route == NEW else LATER_DATES
    return metrics.get(f"{serves}.{of_set}.mae")


@dataclass(frozen=True, slots=True)
class Moments:
    """Of one column's sums over patients s and their days n: the sums of s, s*s, s*n, n and n*n."""

    s: float
    ss: float
    sn: float
    n: float
    nn: float

    def ratio(self, patients: int) -> Interval:
        """Sum of s by sum of n with its 95 % interval; without one for fewer than two patients."""
        if self.n <= 0:
            return Interval(None)
        estimate = self.s / self.n
        if patients < 2:
            return Interval(estimate)
        from scipy.special import stdtrit

        # The sum of (s - estimate * n)^2 over patients; rounding may leave it a little below 0.
        spread = max(0.0, self.ss - 2 * estimate * self.sn + estimate**2 * self.nn)
        half = float(stdtrit(patients - 1, 0.975)) * math.sqrt(spread * patients / (patients - 1)) / self.n
        return Interval(estimate, estimate - half, estimate + half)


@dataclass(frozen=True, slots=True)
class Errors:
    """Outcomes of one route, horizon and server over some target days, as sums over patients."""

    route: str
    horizon_days: int
    serves: str
    model_name: str | None
    model_version: int | None
    first: date
    last: date
    patients: int
    rows: int
    absolute: Moments
    squared: Moments
    covered: Moments
    """Of the rows with an interval alone."""

    def measures(self) -> dict[str, Interval]:
        """`mae` and `rmse` in steps, `coverage` as a share."""
        mean_square = self.squared.ratio(self.patients)
        coverage = self.covered.ratio(self.patients)
        ends = (coverage.lower, coverage.upper)
        lower, upper = (None if end is None else min(max(end, 0.0), 1.0) for end in ends)
        return {
            MAE: self.absolute.ratio(self.patients),
            RMSE: Interval(
                *(_root(end) for end in (mean_square.estimate, mean_square.lower, mean_square.upper))
            ),
            COVERAGE: Interval(coverage.estimate, lower, upper),
        }


def of_days(errors: Iterable[Errors]) -> list[Measurement]:
    """What each day's forecasts were worth: shown, never judged, since days differ."""
    return [_measured(of, name, found, NOT_JUDGED) for of in errors for name, found in of.measures().items()]


def of_window(
    errors: Iterable[Errors], served: Iterable[Served], thresholds: Thresholds
) -> list[Measurement]:
    """The rolling window of who serves today, judged. Routes without outcomes of theirs are left out."""
    found = []
    today = {s.key: s for s in served}
    for of in errors:
        server = today.get((of.route, of.horizon_days, of.serves, of.model_name, of.model_version))
        if server is None:
            continue
        measures = of.measures()
        rise = _rise(measures[MAE], server.mae_at_promotion)
        enough = of.patients >= FEWEST_PATIENTS
        judged: dict[str, State] = {RISE: NOT_JUDGED, COVERAGE: NOT_JUDGED}
        if enough:
            judged[RISE] = thresholds.judge(
                "forecast_error_rise", rise.estimate, n=of.rows, interval=(rise.lower, rise.upper)
            )
            gap = _gap(measures[COVERAGE], server.level)
            judged[COVERAGE] = thresholds.judge(
                "coverage_gap", gap.estimate, n=of.rows, interval=(gap.lower, gap.upper)
            )
        for name, value in {**measures, RISE: rise}.items():
            found.append(_measured(of, name, value, judged.get(name, NOT_JUDGED)))
    return found


def _rise(error: Interval, promoted: float | None) -> Interval:
    if not promoted or error.estimate is None:
        return Interval(None)
    ends = (error.estimate, error.lower, error.upper)
    return Interval(*(None if end is None else end / promoted - 1 for end in ends))


def _gap(coverage: Interval, level: float | None) -> Interval:
    """How far coverage is off its level, and on its own side; an end beyond the level is below 0."""
    if level is None or coverage.estimate is None:
        return Interval(None)
    side = 1.0 if coverage.estimate >= level else -1.0
    ends = [None if end is None else side * (end - level) for end in (coverage.lower, coverage.upper)]
    lower, upper = ends if side > 0 else ends[::-1]
    return Interval(side * (coverage.estimate - level), lower, upper)


def _root(value: float | None) -> float | None:
    return None if value is None else math.sqrt(max(value, 0.0))


def _measured(of: Errors, name: str, value: Interval, state: State) -> Measurement:
    return Measurement(
        *measured_as(of.serves, of.horizon_days, of.model_name, of.model_version),
        name,
        of.route,
        of.first,
        of.last,
        n=of.rows,
        events=None,
        value=value.estimate,
        lower=value.lower,
        upper=value.upper,
        state=state,
    )
