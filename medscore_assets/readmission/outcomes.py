"""What became of the patients on past lists, and how good the scores were in the light of it.

Belongs here: joining outcomes and calls to scores, and prospective performance by month and by what was
done. Does not belong here: what a readmission is (`cohort.py`), the measures (`monitoring/`), any SQL.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, tzinfo

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from medscore_assets.monitoring.assessment import Interval
from medscore_assets.monitoring.drift import expected_performance
from medscore_assets.monitoring.measurement import ALL, Measurement
from medscore_assets.monitoring.robust import measures
from medscore_assets.monitoring.thresholds import NOT_JUDGED, Judged, State, Thresholds
from medscore_assets.readmission.cohort import FOLLOW_UP, arrived, labels
from medscore_assets.readmission.columns import (
    NOWHERE,
    Mask,
    as_integers,
    as_mask,
    as_micros,
    at,
    joined,
    local_days,
    positions_among,
    span,
    text_codes,
)
from medscore_assets.readmission.scoring import MODEL

CALL_OUTCOMES = ("called", "declined", "reached")
"""What comes of a call, by how far it got."""

NOT_CALLED = "not_called"


WITHIN, OVER = "within_capacity", "over_capacity"
PARTITIONS = ((NOT_CALLED, *CALL_OUTCOMES), (WITHIN, OVER))
"""Groups in which performance is measured; each row adds up to all."""

ARMS = (ALL, *(arm for partition in PARTITIONS for arm in partition))

PERFORMANCE = (
    "auroc",
    "brier",
    "observed_expected",
    "calibration_intercept",
    "calibration_slope",
    "expected_auroc_of_arm",
)
"""What is measured on outcomes, by month."""

JUDGED_AS_THEY_ARE: Mapping[str, Judged] = {
    "observed_expected": "observed_expected",
    "calibration_slope": "calibration_slope",
}
"""Measures with limits on the value itself; AUROC has them on its fall. The others have none: Brier score
and intercept change with how many are readmitted, and say nothing that these do not."""

PARADOX = (
    "A patient who is called may stay out of hospital because of the call. Then a good list makes its own "
    "scores look wrong: readmissions among those called fall below the risks stated, and AUROC falls with "
    "them (treatment paradox). The groups below are chosen by the score and by who could be reached; they "
    "differ in more than the call, so their outcomes must not be compared to tell what calls achieve. For "
    "that, a group chosen by chance would have to be left uncalled.",
    "In a month with calls the verdict therefore rests on those who were not called. Being selected by the "
    "score leaves their calibration as it is, but narrows their risks: their AUROC is compared with what "
    "these risks promise, and not with that of training. Who was readmitted before anybody could call is "
    "among them, which lifts their readmissions a little. In a month without calls the verdict rests on "
    "everybody.",
    "A model must not be retrained to fit outcomes that calls have changed: it would learn that the patients "
    "most in need of a call are at low risk.",
)
"""What every reader of performance after the start of calls must know."""


def matured_outcomes(
    scores: pa.Table,
    stays: pa.Table,
    admissions: pa.Table,
    outcomes: pa.Table,
    calls: pa.Table,
    as_of: datetime,
) -> pa.Table:
    """The scores whose outcome is known at `as_of`, in the shape of `readmission_score_outcomes`.

    `scores` holds columns of `care_management_scores`; `stays` the valid row of each encounter with its
    `deceased_at` and `covered_until`; the others are the source tables, of which only what had arrived
    counts. `as_of` is in the platform's zone. The label is that of the training set (`cohort.labels`).
    """
    position = positions_among(scores["encounter_id"], stays["encounter_id"])
    known = scores.filter(pa.array(position != NOWHERE))
    context = stays.select(["deceased_at", "covered_until"]).take(pa.array(position[position != NOWHERE]))
    index = known
    for name in context.column_names:
        index = index.append_column(name, context[name])
    found = labels(index, *arrived(admissions, outcomes, as_of), as_of)
    furthest = furthest_call(known, calls)
    rows = known.select(
        [
            "score_date",
            "encounter_id",
            "patient_id",
            "discharged_at",
            "model_version",
            "readmission_probability",
            "risk_tier",
        ]
    )
    rows = rows.append_column("call_outcome", furthest)
    rows = rows.append_column("readmitted_within_30_days", pa.array(found.readmitted))
    return rows.filter(pa.array(found.usable))


def furthest_call(scores: pa.Table, calls: pa.Table) -> pa.Array:
    """Per score how far the calls of its encounter got, in the 30 days from discharge; null without one.

    A call before the discharge was about something else, one after the 30 days can change no outcome.
    """
    place = positions_among(calls["encounter_id"], scores["encounter_id"])
    after = as_micros(calls["called_at"]) - at(as_micros(scores["discharged_at"]), place)
    counts = (place != NOWHERE) & (after >= 0) & (after < span(FOLLOW_UP))
    how_far = np.asarray(pc.index_in(joined(calls["outcome"]), value_set=pa.array(CALL_OUTCOMES)))
    furthest = np.full(len(scores), NOWHERE)
    np.maximum.at(furthest, place[counts], how_far[counts].astype(np.int64))
    return pa.array(CALL_OUTCOMES).take(pa.array(furthest, mask=furthest == NOWHERE))


@dataclass(frozen=True, slots=True)
class _Cases:
    """Scores of one model from one month, with what became of them; all of shape (n,)."""

    version: int
    first: date
    last: date
    events: Mask
    probabilities: npt.NDArray[np.float64]
    patients: npt.NDArray[np.int64]
    calls: npt.NDArray[np.str_]
    within_capacity: Mask

    def arm(self, arm: str) -> Mask:
        """Who belongs to one of `ARMS`."""
        if arm == ALL:
            return np.ones(len(self.events), dtype=bool)
        if arm in (WITHIN, OVER):
            return np.asarray(self.within_capacity == (arm == WITHIN))
        return np.asarray(self.calls == arm)

    def tells_most(self) -> str:
        """The arm that the verdict rests on: without the effect of calls if there were any."""
        return ALL if (self.calls == NOT_CALLED).all() else NOT_CALLED


def performance(
    matured: pa.Table,
    auroc_at_training: Mapping[int, float],
    thresholds: Thresholds,
    zone: tzinfo,
) -> list[Measurement]:
    """Prospective performance by model version, month of discharge (in `zone`) and arm.

    `matured` is `readmission_score_outcomes` with a column `within_capacity`; `auroc_at_training` is by
    model version. An arm without cases has no rows, and what one class leaves undefined has no value.
    Verdicts rest on one arm a month, see `PARADOX`.
    """
    return [
        measurement
        for cases in _months(matured, zone)
        for arm in ARMS
        for measurement in _of_arm(cases, arm, auroc_at_training.get(cases.version), thresholds)
    ]


def _months(matured: pa.Table, zone: tzinfo) -> Iterator[_Cases]:
    matured = matured.sort_by([("discharged_at", "ascending"), ("encounter_id", "ascending")])
    months = local_days(as_micros(matured["discharged_at"]), zone).astype("M8[M]")
    versions = as_integers(matured["model_version"])
    patients = text_codes(joined(matured["patient_id"]))
    calls = np.array(pc.fill_null(matured["call_outcome"], NOT_CALLED).to_pylist(), dtype=str)
    events, within = as_mask(matured["readmitted_within_30_days"]), as_mask(matured["within_capacity"])
    probabilities = np.asarray(joined(matured["readmission_probability"]))
    for version in np.unique(versions):
        for month in np.unique(months[versions == version]):
            of_month = (versions == version) & (months == month)
            yield _Cases(
                version=int(version),
                first=month.astype("M8[D]").item(),
                last=((month + 1).astype("M8[D]") - 1).item(),
                events=events[of_month],
                probabilities=probabilities[of_month],
                patients=patients[of_month],
                calls=calls[of_month],
                within_capacity=within[of_month],
            )


def _of_arm(
    cases: _Cases, arm: str, at_training: float | None, thresholds: Thresholds
) -> Iterator[Measurement]:
    chosen = cases.arm(arm)
    n, events = int(chosen.sum()), int(cases.events[chosen].sum())
    if not n:
        return
    found = measures(cases.events[chosen], cases.probabilities[chosen], cases.patients[chosen])
    promised = expected_performance(cases.probabilities[chosen]).auroc
    found["expected_auroc_of_arm"] = Interval(promised)
    base = at_training if arm == ALL else promised
    for measure in PERFORMANCE:
        value = found[measure]
        yield Measurement(
            MODEL,
            cases.version,
            measure,
            arm,
            cases.first,
            cases.last,
            n=n,
            events=events,
            value=value.estimate,
            lower=value.lower,
            upper=value.upper,
            state=(
                _state(measure, value, base, n, events, thresholds)
                if arm == cases.tells_most()
                else NOT_JUDGED
            ),
        )


def _state(
    measure: str, value: Interval, base: float | None, n: int, events: int, thresholds: Thresholds
) -> State:
    if measure == "auroc":
        if base is None or value.estimate is None:
            return NOT_JUDGED
        least, most = (None if end is None else base - end for end in (value.upper, value.lower))
        fall = base - value.estimate
        return thresholds.judge("auroc_fall", fall, n=n, events=events, interval=(least, most))
    rule = JUDGED_AS_THEY_ARE.get(measure)
    if rule is None:
        return NOT_JUDGED
    ends = (value.lower, value.upper)
    return thresholds.judge(rule, value.estimate, n=n, events=events, interval=ends)
