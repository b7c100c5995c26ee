"""One wait-time model against another: same patients, paired by day, and the rule of promotion.

Belongs here: matched patients, daily differences of pinball loss with an interval, the evidence that a
challenger must bring. Does not belong here: measures of one model (`evaluation.py`), who is shown
(`assignment.py`).

Patients of one day share its staff and its rush, so a day counts once, however many came. Days resemble
their neighbours a little: the interval has the variance of Newey and West over lags of three days, and never
less than that of days without ties.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from medscore_assets.wait_times.bands import ALL_POSTED
from medscore_assets.wait_times.columns import Integers, Numbers, codes, decoded, numbers
from medscore_assets.wait_times.evaluation import (
    NOMINAL,
    PAIR,
    availability,
    pinball,
    posted,
    score,
    stability,
)

FEWEST_DAYS = 28
FEWEST_PATIENTS = 1000
"""Below, a good fortnight is taken for a good model."""

MOST_OFF_NOMINAL = 0.03
"""How far a challenger's coverage may lie from 0.8."""

LAGS = 3
"""Days over which daily differences may resemble each other: 4 (n/100)^(2/9) for one to three months."""

_ONE_SIDED = 0.95

Verdict = Literal["better", "no difference"]


@dataclass(frozen=True, slots=True)
class Difference:
    """Pinball loss at 0.8, challenger minus champion, in seconds per patient; below 0 is better.

    `upper` is the one-sided 95 % bound; with `lower` it is a 90 % interval. None where undefined.
    """

    estimate: float | None
    lower: float | None = None
    upper: float | None = None


@dataclass(frozen=True)
class Contender:
    """One model version under comparison, and what is known of it over the period.

    `attributed` has the columns of `attribution.localised`, of this pair alone; `available` is its share of
    ticks with a value.
    """

    model: str
    version: str
    attributed: pa.Table
    available: float

    @classmethod
    def of(cls, attributed: pa.Table, predictions: pa.Table, model: str, version: str) -> Contender:
        """One pair out of tables of many; both tables of one and the same period, facilities and bands."""
        found = _of_pair(availability(predictions), model, version)
        available = float(found["availability"][0].as_py()) if len(found) else 0.0
        return cls(model, version, _of_pair(attributed, model, version), available)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What speaks for a challenger; `reasons` say what it lacks, none where the verdict is "better"."""

    days: int
    patients: int
    """Matched patients who were seen."""
    difference: Difference
    coverage: float | None
    """The challenger's, known misses counted, on all matched patients."""
    availability: float
    champion_coverage: float | None
    champion_availability: float
    verdict: Verdict
    reasons: tuple[str, ...]
    sentence: str


def matched(attributed: pa.Table) -> pa.Table:
    """The rows of patients for whom every compared pair has a value; per band, of the pairs it has at all.

    Without it a model that fails in the busy hours is compared on quiet ones.
    """
    if not len(attributed):
        return attributed
    pair = codes(attributed, PAIR)
    band = codes(attributed, ("band",))
    patient = codes(attributed, ("facility_id", "visit_id", "band"))
    pairs_in_band = _different_per(band, pair)[band]
    has = _different_per(patient, pair)[patient]
    return attributed.filter(pa.array(has == pairs_in_band))


def daily_differences(champion: pa.Table, challenger: pa.Table) -> pa.Table:
    """Per local day the patients seen that both pairs have, and the mean difference of their losses.

    Columns: `day`, `patients`, `difference` (pinball loss at 0.8, challenger minus champion, seconds per
    patient). Input: one pair each, with the columns of `attribution.localised`.
    """
    loss = [
        table.select([*_PATIENT, "day"])
        .append_column("loss", pa.array(pinball(numbers(table["actual_seconds"]), posted(table), NOMINAL)))
        .filter(pc.is_valid(table["actual_seconds"]))
        for table in (champion, challenger)
    ]
    ours = pa.table({name: decoded(loss[0][name]) for name in loss[0].column_names})
    theirs = pa.table({name: decoded(loss[1][name]) for name in (*_PATIENT, "loss")})
    both = ours.join(theirs, list(_PATIENT), join_type="inner", right_suffix="_challenger")
    both = both.append_column("difference", pc.subtract(both["loss_challenger"], both["loss"]))
    found = both.group_by("day").aggregate([("difference", "count"), ("difference", "mean")]).sort_by("day")
    return pa.table(
        {
            "day": found["day"],
            "patients": found["difference_count"],
            "difference": found["difference_mean"],
        }
    )


def mean_difference(daily: pa.Table) -> Difference:
    """The mean over patients of daily differences, with its 90 % interval blocked by day.

    `daily` as of `daily_differences`. None where there is nobody; no bounds with fewer than two days.
    """
    patients, difference = numbers(daily["patients"]), numbers(daily["difference"])
    if not patients.sum():
        return Difference(None)
    estimate = float(patients @ difference / patients.sum())
    days = len(patients)
    if days < 2:
        return Difference(estimate)
    # A day without patients has no part in the estimate, yet keeps its neighbours apart.
    day = daily["day"].cast(pa.date32()).cast(pa.int32()).to_numpy().astype(np.int64)
    influence = np.zeros(int(day.max() - day.min()) + 1)
    influence[day - day.min()] = patients * (difference - estimate) / patients.sum()
    spread = math.sqrt(days / (days - 1) * _long_run_variance(influence))
    reach = _student(days - 1) * spread
    return Difference(estimate, estimate - reach, estimate + reach)


def evidence(champion: Contender, challenger: Contender) -> Evidence:
    """Whether a challenger may be promoted: "better" only if every condition of the module's rule holds.

    At least `FEWEST_DAYS` days and `FEWEST_PATIENTS` matched patients who were seen; the one-sided 95 %
    bound of the difference in pinball loss below 0; coverage at most `MOST_OFF_NOMINAL` from nominal; as
    available as the champion. Otherwise "no difference", with the reasons.
    """
    ours, theirs = _matched_pair(champion, challenger)
    daily = daily_differences(ours, theirs)
    days, patients = len(daily), int(pc.sum(daily["patients"]).as_py() or 0)
    difference = mean_difference(daily)
    coverage = _coverage(theirs)
    reasons = tuple(
        reason
        for reason in (
            _too_few(days, FEWEST_DAYS, "days"),
            _too_few(patients, FEWEST_PATIENTS, "patients"),
            _not_shown(difference),
            _off_nominal(coverage),
            _less_available(champion, challenger),
        )
        if reason
    )
    verdict: Verdict = "no difference" if reasons else "better"
    return Evidence(
        days=days,
        patients=patients,
        difference=difference,
        coverage=coverage,
        availability=challenger.available,
        champion_coverage=_coverage(ours),
        champion_availability=champion.available,
        verdict=verdict,
        reasons=reasons,
        sentence=_sentence(champion, challenger, difference, days, patients, reasons),
    )


_PATIENT = ("facility_id", "visit_id", "band")


def _matched_pair(champion: Contender, challenger: Contender) -> tuple[pa.Table, pa.Table]:
    both = pa.concat_tables([_undictionaried(champion.attributed), _undictionaried(challenger.attributed)])
    rows = matched(both)
    return (
        _of_pair(rows, champion.model, champion.version),
        _of_pair(rows, challenger.model, challenger.version),
    )


def _long_run_variance(influence: Numbers) -> float:
    """Of a sum of daily contributions, shape (days,), that may resemble those of the days before."""
    alone = float(influence @ influence)
    ties = sum(
        2 * (1 - lag / (LAGS + 1)) * float(influence[lag:] @ influence[:-lag])
        for lag in range(1, min(LAGS, len(influence) - 1) + 1)
    )
    return max(alone, alone + ties)


def _student(freedom: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, _ONE_SIDED))


def _coverage(attributed: pa.Table) -> float | None:
    if not len(attributed):
        return None
    value: float | None = score(attributed)["coverage"][0].as_py()
    return value


def _too_few(there: int, needed: int, what: str) -> str:
    return "" if there >= needed else f"{there} {what} are too few: {needed} are needed"


def _not_shown(difference: Difference) -> str:
    if difference.upper is not None and difference.upper < 0:
        return ""
    if difference.lower is not None and difference.lower > 0:
        return "its pinball loss is higher"
    return "its pinball loss is not shown to be lower"


def _off_nominal(coverage: float | None) -> str:
    if coverage is None:
        return "its coverage is not known"
    # Rounded, since 0.83 - 0.8 is more than 0.03 in floats.
    if round(abs(coverage - NOMINAL), 9) <= MOST_OFF_NOMINAL:
        return ""
    points = 100 * MOST_OFF_NOMINAL
    return f"its coverage is {coverage:.1%}, more than {points:g} points from {NOMINAL:.0%}"


def _less_available(champion: Contender, challenger: Contender) -> str:
    if challenger.available >= champion.available:
        return ""
    return f"it had a value at {challenger.available:.1%} of ticks, the champion at {champion.available:.1%}"


def _sentence(
    champion: Contender,
    challenger: Contender,
    difference: Difference,
    days: int,
    patients: int,
    reasons: tuple[str, ...],
) -> str:
    names = [f"{pair.model} {pair.version}" for pair in (challenger, champion)]
    if difference.estimate is None:
        return f"No difference between {names[0]} and {names[1]}: {'; '.join(reasons)}."
    found = f"{difference.estimate:+.0f} s per patient"
    if difference.lower is not None and difference.upper is not None:
        found += f" (90 % interval {difference.lower:+.0f} to {difference.upper:+.0f})"
    on = f"over {days} days and {patients} patients"
    if not reasons:
        return f"{names[0]} is better than {names[1]} {on}: pinball loss {found}."
    return f"No difference between {names[0]} and {names[1]} {on}, {found}: {'; '.join(reasons)}."


def _of_pair(table: pa.Table, model: str, version: str) -> pa.Table:
    is_model = pc.equal(table["model"].cast(pa.string()), model)
    return table.filter(pc.and_(is_model, pc.equal(table["version"].cast(pa.string()), version)))


def _undictionaried(table: pa.Table) -> pa.Table:
    return pa.table({name: decoded(table[name]) for name in table.column_names})


def _different_per(group: Integers, value: Integers) -> Integers:
    """How many different values each group has, shape (groups,); both numbered without gaps."""
    width = int(value.max()) + 1
    return np.bincount(np.unique(group * width + value) // width)


def leaderboard(attributed: pa.Table, predictions: pa.Table, band: str = ALL_POSTED) -> pa.Table:
    """Every pair that has a band on the same patients of it, the lowest pinball loss at 0.8 first.

    Columns: what `score`, `availability` and `stability` say per model and version. Bands are not pooled,
    since a model need not have all of them.
    """
    of_band = [
        table.filter(pc.equal(decoded(table["band"]), pa.scalar(band))) for table in (attributed, predictions)
    ]
    found = score(matched(of_band[0]))
    for more in (availability(of_band[1]), stability(of_band[1])):
        found = found.join(more, list(PAIR), join_type="left outer")
    return found.sort_by([("pinball_80", "ascending"), *((name, "ascending") for name in PAIR)])
