"""How good forecasts are on held-out rows, and which of them serves a cohort at a horizon.

Belongs here: error, coverage and width with intervals, paired differences, the rule of choice.
Does not belong here: making forecasts (`model.py`, `baselines.py`), who is held out (`training_set.py`).

Patients are drawn with replacement and bring all their days along, since days of one patient resemble each
other; all candidates meet the same draws, so that differences are paired. Every measure is a ratio of sums
over patients: a draw weighs patients, never rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medscore_assets.mobility.baselines import NAIVE
from medscore_assets.mobility.cohorts import COHORT_MODEL, GLOBAL_MODEL, Route, title
from medscore_assets.mobility.conformal import Conformal
from medscore_assets.mobility.conformal import Interval as Band
from medscore_assets.mobility.training_set import HELD_OUT_PATIENTS, LATER_DATES
from medscore_assets.monitoring.assessment import Interval
from medscore_assets.monitoring.resampling import Draws, interval

Numbers = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

NEW_PATIENTS = "new_patients"
SETS = {
    LATER_DATES: "later dates",
    HELD_OUT_PATIENTS: "held-out patients",
    NEW_PATIENTS: "new patients",
}
"""The sets that a model must win, with their names in sentences: the first two, for new patients the third.

New patients of later dates are few by nature, and no model was fitted on most of them: theirs is one set.
"""

FEWEST_PATIENTS = 20
"""In each set. With fewer, percentiles of draws of patients are too narrow to trust a model to them."""

DRAWS = 1000
SEED = 0


@dataclass(frozen=True, slots=True)
class Measured:
    """One forecast on one set of rows: `mae`, `rmse`, `bias` and, with a band, `coverage` and `width`.

    All but `coverage`, a share, are in steps; `bias` is forecast minus steps.
    """

    n: int
    patients: int
    measures: Mapping[str, Interval]


@dataclass(frozen=True)
class HeldOut:
    """Rows of one cohort and horizon that no candidate was fitted or calibrated on.

    Arrays have the shape (n,). `in_set` marks the rows of each set that is to be won; sets may overlap.
    `forecasts` and `bands` are by candidate: `cohort`, `global`, and the naive ones by name.
    """

    steps: Numbers
    patients: npt.NDArray[np.generic]
    in_set: Mapping[str, Mask]
    forecasts: Mapping[str, Numbers]
    bands: Mapping[str, Band]

    def measured(self, candidate: str, of_set: str) -> Measured:
        """One candidate on one set."""
        rows = self.in_set[of_set]
        band = self.bands.get(candidate)
        part = Band(band.lower[rows], band.upper[rows], band.unsure[rows]) if band else None
        return measure(self.steps[rows], self.forecasts[candidate][rows], self.patients[rows], part)

    def difference(self, one: str, other: str, of_set: str) -> Interval:
        """Mean absolute error of one candidate minus that of another, in steps; below 0 is better."""
        rows = self.in_set[of_set]
        forecasts = (self.forecasts[one][rows], self.forecasts[other][rows])
        return paired_difference(self.steps[rows], *forecasts, self.patients[rows])

    def best(self, candidates: Iterable[str], of_sets: Iterable[str]) -> str:
        """The candidate of least mean absolute error over the rows of some sets; the first one in a tie."""
        rows = np.logical_or.reduce([self.in_set[of_set] for of_set in of_sets])

        def error(candidate: str) -> float:
            errors = np.abs(self.forecasts[candidate][rows] - self.steps[rows])
            return float(errors.mean()) if len(errors) else 0.0

        return min(candidates, key=error)

    def patients_in(self, of_set: str) -> int:
        """How many patients a set has."""
        return len(np.unique(self.patients[self.in_set[of_set]]))


@dataclass(frozen=True)
class Choice:
    """Who serves, and what it rests on."""

    route: Route
    measured: Mapping[str, Mapping[str, Measured]]
    """Candidate -> set -> measures."""
    differences: Mapping[str, Mapping[str, Interval]]
    """Model -> set -> its mean absolute error minus that of the best naive forecast of the set."""
    rivals: Mapping[str, str]
    """Set -> its best naive forecast."""

    def metrics(self) -> dict[str, float]:
        """Every defined estimate by `candidate.set.measure`."""
        return {
            f"{candidate}.{of_set}.{name}": value.estimate
            for candidate, sets in self.measured.items()
            for of_set, found in sets.items()
            for name, value in found.measures.items()
            if value.estimate is not None
        }


def measure(steps: Numbers, forecast: Numbers, patients: npt.ArrayLike, band: Band | None = None) -> Measured:
    """Errors of forecasts, arrays of shape (n,), with intervals over patients drawn anew."""
    error = forecast - steps
    columns = {"mae": np.abs(error), "rmse": error**2, "bias": error}
    if band is not None:
        columns |= {"coverage": band.holds(steps).astype(np.float64), "width": band.upper - band.lower}
    totals = _Totals.of(np.column_stack(list(columns.values())), patients)
    estimates, drawn = totals.means()
    found = {}
    for place, name in enumerate(columns):
        form = np.sqrt if name == "rmse" else np.asarray
        found[name] = interval(float(form(estimates[place])), form(drawn[place]))
    return Measured(len(steps), len(totals.rows), found)


def paired_difference(steps: Numbers, one: Numbers, other: Numbers, patients: npt.ArrayLike) -> Interval:
    """Mean absolute error of `one` minus that of `other`, in steps, both under the same draws."""
    gain = np.abs(one - steps) - np.abs(other - steps)
    estimates, drawn = _Totals.of(gain[:, np.newaxis], patients).means()
    return interval(float(estimates[0]), drawn[0])


def choose(
    held_out: HeldOut,
    cohort: str,
    horizon_days: int,
    conformal: Mapping[str, Conformal | None],
    refused: Mapping[str, str] | None = None,
) -> Choice:
    """The candidate that serves a cohort at a horizon; the same for the same rows.

    The best naive forecast serves, by mean absolute error on later dates where there are any: it was fitted
    to nobody, so unseen patients are no test of it. A model serves instead if it beats all of them: on every
    set, with at least `FEWEST_PATIENTS` patients, the upper end of the 95 % interval of the paired difference
    from the set's best naive forecast must be below 0. Of two such models the one
    with the lower error serves, the global one in a tie. The figures are of the rows that chose, so
    slightly kind to the chosen. `refused` says why models do not compete, for the reason in words.
    """
    sets = tuple(held_out.in_set)
    naive = [name for name in NAIVE if name in held_out.forecasts]
    models = [name for name in (GLOBAL_MODEL, COHORT_MODEL) if name in held_out.forecasts]
    rivals = {of_set: held_out.best(naive, [of_set]) for of_set in sets}
    differences = {
        model: {of_set: held_out.difference(model, rivals[of_set], of_set) for of_set in sets}
        for model in models
    }
    few = {of_set: n for of_set in sets if (n := held_out.patients_in(of_set)) < FEWEST_PATIENTS}
    better = [] if few else [model for model in models if _wins(differences[model])]
    later = LATER_DATES in sets and held_out.in_set[LATER_DATES].any()
    serves = held_out.best(better, sets) if better else held_out.best(naive, [LATER_DATES] if later else sets)
    route = Route(
        cohort=cohort,
        horizon_days=horizon_days,
        serves=serves,
        reason=_reason(serves, cohort, differences, rivals, few, refused or {}),
        conformal=conformal.get(serves),
    )
    measured = {
        name: {of_set: held_out.measured(name, of_set) for of_set in held_out.in_set}
        for name in held_out.forecasts
    }
    return Choice(route, measured, differences, rivals)


@dataclass(frozen=True, slots=True)
class _Totals:
    """Sums of columns per patient, shape (patients, columns), and the rows behind them, (patients,)."""

    sums: Numbers
    rows: Numbers

    @classmethod
    def of(cls, columns: Numbers, patients: npt.ArrayLike) -> _Totals:
        different, patient = np.unique(np.asarray(patients), return_inverse=True)
        sums = [np.bincount(patient, weights=column, minlength=len(different)) for column in columns.T]
        rows = np.bincount(patient, minlength=len(different)).astype(np.float64)
        return cls(np.column_stack(sums), rows)

    def means(self) -> tuple[Numbers, Numbers]:
        """Each column's mean over rows, shape (columns,), and the same in each draw, (columns, draws)."""
        patients = len(self.rows)
        if not patients:
            undefined = np.full(self.sums.shape[1], np.nan)
            return undefined, np.empty((len(undefined), 0))
        draws = Draws(np.arange(patients), patients, DRAWS, SEED)
        drawn = [self.sums.T @ weights / (self.rows @ weights) for weights in draws.weights()]
        estimates = self.sums.sum(axis=0) / self.rows.sum()
        return estimates, np.hstack(drawn) if drawn else np.empty((len(estimates), 0))


def _wins(differences: Mapping[str, Interval]) -> bool:
    return all(found.upper is not None and found.upper < 0 for found in differences.values())


def _reason(
    serves: str,
    cohort: str,
    differences: Mapping[str, Mapping[str, Interval]],
    rivals: Mapping[str, str],
    few: Mapping[str, int],
    refused: Mapping[str, str],
) -> str:
    """Why this candidate serves, in words for people; no row's value in it."""
    if serves not in NAIVE:
        return f"{title(serves, cohort)} serves: {_compared(differences[serves], rivals)}."
    begun = f"{NAIVE[serves]} serves"
    if not differences and refused:
        told = " ".join(f"{title(model, cohort)} was refused: {why}" for model, why in refused.items())
        return f"{begun}: the gate passed no model. {told}"
    if not differences:
        return f"{begun}: no model was trained."
    if few:
        counts = " and ".join(f"{n} patients in {SETS[of_set]}" for of_set, n in few.items())
        return f"{begun}: {counts} are too few to trust a model, at least {FEWEST_PATIENTS} are needed."
    compared = "; ".join(
        f"{title(model, cohort)} has {_compared(found, rivals)}" for model, found in differences.items()
    )
    return f"{begun}: no model is surely better. {compared}."


def _compared(differences: Mapping[str, Interval], rivals: Mapping[str, str]) -> str:
    parts = [
        f"{_signed(found)} from that of {_lower_first(NAIVE[rivals[of_set]])} on {SETS[of_set]}"
        for of_set, found in differences.items()
    ]
    return f"a mean absolute error that differs by {' and by '.join(parts)}"


def _signed(found: Interval) -> str:
    if found.estimate is None:
        return "an unknown number of steps"
    if found.lower is None or found.upper is None:
        return f"{found.estimate:+,.0f} steps (no interval)"
    return f"{found.estimate:+,.0f} steps (95 % interval {found.lower:+,.0f} to {found.upper:+,.0f})"


def _lower_first(words: str) -> str:
    return words[:1].lower() + words[1:]
