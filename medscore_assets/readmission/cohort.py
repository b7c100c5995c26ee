"""Who may be called, who is an index discharge, what its outcome was, and in which part it is trained.

Belongs here: eligibility, the 30-day label, the maturity of labels, the split, all on whole Arrow tables.
Does not belong here: what a valid value is (`contracts/`), the model (`training.py`), reading and writing.

The label follows the CMS hospital-wide readmission measure where the data allow: an unplanned admission,
for whatever cause and to whatever hospital, that begins within 30 days after the index discharge. Only
the first admission in those days decides: after a planned one, a later unplanned one does not count. A
readmission may itself be an index discharge. Who dies within 30 days without coming back stays, as not
readmitted. Not in the data, so not done: the combination of stays that are one transfer, the exclusion of
same-day returns to the same hospital, and the 12 months of coverage before the stay.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from medscore_assets.contracts.contract import Checked
from medscore_assets.contracts.fields import Flag, Reason, Whole
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.readmission.columns import (
    NOWHERE,
    Mask,
    Positions,
    as_days,
    as_integers,
    as_mask,
    as_micros,
    at,
    joined,
    local_days,
    positions_among,
    shared_codes,
    span,
    text_codes,
    to_micros,
)
from resources.errors import PermanentError

EXCLUSIONS = (
    "expired",
    "hospice",
    "transferred",
    "left_against_advice",
    "status_unknown",
    "minor",
    "service_line",
    "deceased",
    "not_covered",
    "readmitted",
)
"""Why a valid discharge is not called and not an index discharge; the first that applies is given."""

PARTS = ("train", "validation", "test")
"""The parts of the training set, in the order of their use."""

FOLLOW_UP = timedelta(days=30)
"""Within this time after discharge an admission is a readmission."""

CLAIMS_LAG = timedelta(days=14)
"""How much later than it happened an admission may reach `inpatient_admissions`. Until follow-up and lag
have passed, "no admission seen" is not yet "not readmitted"."""

TEST_SHARE = 0.2
"""The latest discharges, as a share of all, that no fit and no choice may see."""

TRAIN_SHARE = 0.8
"""The share of the development patients that the model is fitted on; the others validate."""

ADULT_AGE = 18


def check_context(events: pa.Table) -> Checked:
    """The contract's word on the context of a table, and on the order of its times.

    Nobody is discharged before being admitted, nor a day or more after the row arrived.
    """
    checked = READMISSION.check_context(events)
    admitted, discharged = checked.fields.index("admitted_at"), checked.fields.index("discharged_at")
    both_there = (checked.reasons[:, [admitted, discharged]] == Reason.VALID).all(axis=1)
    if both_there.any():
        left = as_micros(events["discharged_at"])
        checked.reasons[both_there & (left < as_micros(events["admitted_at"])), discharged] = (
            Reason.BEFORE_ADMISSION
        )
        foretold = left >= as_micros(events["ingested_at"]) + span(timedelta(days=1))
        checked.reasons[both_there & foretold, discharged] = Reason.AFTER_ARRIVAL
    return checked


def eligibility(
    events: pa.Table, admissions: pa.Table, as_of: datetime, *, also_known: pa.Table | None = None
) -> npt.NDArray[np.str_]:
    """Why each discharge is not eligible at `as_of`, a time with a zone: shape (n,), '' where it is.

    `events` has a valid context (`check_context`), one row per encounter; its age may still be invalid.
    A patient is `readmitted` by another encounter of `admissions`, or of `also_known` (by default
    `events`), that began at or after this discharge and before `as_of`. `also_known` may hold rows that
    break the contract elsewhere: a stay that is in quarantine is a stay. Coverage is compared with the
    day of `as_of` in its zone; whoever is known to have died is excluded whenever that became known.
    """
    known = _known_admissions(events if also_known is None else also_known, admissions)
    if len(events):
        # Of a day's stays all but a few began before anybody was discharged.
        earliest = as_micros(events["discharged_at"]).min()
        known = known.filter(pa.array(as_micros(known["admitted_at"]) >= earliest))
    again = _first_admission_after(events, known)
    began = np.where(again == NOWHERE, np.iinfo(np.int64).max, at(as_micros(known["admitted_at"]), again))
    moment = np.full(len(events), to_micros(as_of))
    days = np.full(len(events), np.datetime64(as_of.date(), "D"))
    # A death is a death whenever it became known: a list made again late must not call the dead.
    died = as_mask(pc.is_valid(events["deceased_at"]))
    return _first_exclusion(events, died, days, readmitted=began < moment)


def _first_exclusion(
    events: pa.Table, died: Mask, day: npt.NDArray[np.datetime64], readmitted: Mask
) -> npt.NDArray[np.str_]:
    """The first of `EXCLUSIONS` that holds for each row, its coverage as of its own day."""
    status = events["discharge_status"]
    named = ("expired", "hospice", "transferred", "left_against_advice")
    holds = {name: as_mask(pc.equal(status, name)) for name in named}
    # Whatever is not known to be well ended is not called: an unlisted status, an unlisted service.
    holds["status_unknown"] = ~as_mask(pc.is_in(status, pa.array([*named, "routine"])))
    holds["minor"] = as_mask(
        pc.and_(pc.greater_equal(events["patient_age"], 0), pc.less(events["patient_age"], ADULT_AGE))
    )
    holds["service_line"] = ~as_mask(pc.equal(events["service_line"], "acute"))
    coverage = events["covered_until"]
    holds["deceased"] = died
    holds["not_covered"] = as_mask(pc.is_valid(coverage)) & (as_days(coverage) < day)
    holds["readmitted"] = readmitted
    codes = np.select([holds[name] for name in EXCLUSIONS], range(1, len(EXCLUSIONS) + 1), 0)
    reasons: npt.NDArray[np.str_] = np.array(["", *EXCLUSIONS])[codes]
    return reasons


def _known_admissions(events: pa.Table, admissions: pa.Table) -> pa.Table:
    """All stays that are known to have begun: the admissions, and the stays behind the discharges."""
    events = events.select(["encounter_id", "patient_id", "admitted_at"]).drop_null()
    columns = ["encounter_id", "patient_id", "admitted_at"]
    stays = [admissions.select(columns), events.select(columns)]
    return pa.concat_tables(stays, promote_options="permissive")


def _first_admission_after(index: pa.Table, admissions: pa.Table, planned: Mask | None = None) -> Positions:
    """Per index discharge the position of the patient's first other admission at or after it, or -1.

    Of several that begin at the same moment one that is not `planned` comes first.
    """
    if len(admissions) == 0:
        return np.full(len(index), NOWHERE, dtype=np.int64)
    index_patients, patients = shared_codes(index["patient_id"], admissions["patient_id"])
    index_stays, stays = shared_codes(index["encounter_id"], admissions["encounter_id"])
    moments, ranks = np.unique(
        np.concatenate([as_micros(index["discharged_at"]), as_micros(admissions["admitted_at"])]),
        return_inverse=True,
    )
    # One integer orders by patient and then by time: the rank of the time, not the time, or it overflows.
    wanted = index_patients * len(moments) + ranks[: len(index)]
    keys = patients * len(moments) + ranks[len(index) :]
    order = np.lexsort((keys,) if planned is None else (planned, keys))
    place = np.searchsorted(keys[order], wanted, side="left")
    order = np.append(order, NOWHERE)
    # The index stay itself may begin when it ends; step over it, however often it is listed.
    while (own := (order[place] != NOWHERE) & (stays[order[place]] == index_stays)).any():
        place[own] += 1
    found = order[place]
    return np.where((found != NOWHERE) & (patients[found] == index_patients), found, NOWHERE)


@dataclass(frozen=True, slots=True)
class TrainingCohort:
    """The training set and how it came about.

    `table` has the shape of `readmission_training_set`, by discharge time and encounter. The values of
    `flow` but the first, `events`, add up to it: each event was dropped for one reason or is in one
    part. `broken_rules` counts what was invalid, `{"insurance_type: missing": 3}`.
    """

    table: pa.Table
    flow: dict[str, int]
    broken_rules: dict[str, int]


@dataclass(slots=True)
class _Flow:
    """Filters a table step by step and keeps count of what each step dropped."""

    counts: dict[str, int] = field(default_factory=dict)

    def keep(self, table: pa.Table, kept: Mask, reason: str) -> pa.Table:
        self.counts[reason] = int((~kept).sum())
        return table.filter(pa.array(kept))


def training_cohort(
    events: pa.Table, admissions: pa.Table, outcomes: pa.Table, as_of: datetime
) -> TrainingCohort:
    """The index discharges with matured labels that were known at `as_of`, split for training.

    `events`, `admissions` and `outcomes` are the source tables; of each only what had arrived at `as_of`
    is used. Eligibility is judged as of each discharge, so with nothing that came later. Days of coverage
    are compared with days in the zone of `as_of`, as on the list: give it in the platform's zone. Raises
    `PermanentError` when a part of the split would be empty or hold one outcome only.
    """
    flow = _Flow({"events": len(events)})
    moment = to_micros(as_of)
    current = flow.keep(events, as_micros(events["ingested_at"]) <= moment, "arrived_later")
    current = flow.keep(current, _latest_per_encounter(current), "superseded")
    context = check_context(current)
    sound = flow.keep(current, context.valid, "invalid_context")
    discharged = as_micros(sound["discharged_at"])
    nobody = np.zeros(len(sound), dtype=bool)
    died = as_mask(pc.is_valid(sound["deceased_at"])) & (as_micros(sound["deceased_at"]) <= discharged)
    reasons = _first_exclusion(sound, died, local_days(discharged, as_of.tzinfo or UTC), nobody)
    for reason in EXCLUSIONS[:-1]:
        flow.counts[f"excluded_{reason}"] = int((reasons == reason).sum())
    eligible = sound.filter(pa.array(reasons == ""))
    features = READMISSION.encode(eligible)
    index = flow.keep(eligible, features.valid, "invalid_features")
    labelled = _labelled(flow, index, *arrived(admissions, outcomes, as_of), as_of)
    table = _split(flow, labelled)
    return TrainingCohort(table, flow.counts, dict(sorted({**context.counts(), **features.counts()}.items())))


def arrived(admissions: pa.Table, outcomes: pa.Table, as_of: datetime) -> tuple[pa.Table, pa.Table]:
    """The rows of both feeds that were there at `as_of`."""
    moment = to_micros(as_of)
    return (
        admissions.filter(pa.array(as_micros(admissions["ingested_at"]) <= moment)),
        outcomes.filter(pa.array(as_micros(outcomes["recorded_at"]) <= moment)),
    )


def _latest_per_encounter(events: pa.Table) -> Mask:
    """The last row of each encounter by arrival, then by key; a row without an encounter stands alone."""
    keys = as_integers(events["event_id"]) if "event_id" in events.column_names else np.arange(len(events))
    encounters = text_codes(joined(events["encounter_id"]))
    nameless = encounters == NOWHERE
    encounters[nameless] = len(events) + np.arange(int(nameless.sum()))
    order = np.lexsort((keys, as_micros(events["ingested_at"]), encounters))
    last = np.append(np.diff(encounters[order]) != 0, True)[: len(events)]
    kept = np.zeros(len(events), dtype=bool)
    kept[order[last]] = True
    return kept


def _labelled(
    flow: _Flow, index: pa.Table, admissions: pa.Table, outcomes: pa.Table, as_of: datetime
) -> pa.Table:
    """The index discharges whose label is known at `as_of`, with it in `readmitted_within_30_days`.

    An outcome that a source recorded wins. Without one, the admissions decide, if they cover this stay:
    a feed that does not list the index stay itself cannot be trusted to list the next one.
    """
    found = labels(index, admissions, outcomes, as_of)
    index = index.append_column("readmitted_within_30_days", pa.array(found.readmitted))
    index = flow.keep(index, found.matured, "label_not_matured")
    known = found.known[found.matured]
    index = flow.keep(index, known, "label_unknown")
    return flow.keep(index, found.followed[found.matured][known], "coverage_ended")


@dataclass(frozen=True, slots=True)
class Labels:
    """The outcome of each index discharge and whether it holds; all of shape (n,)."""

    readmitted: Mask
    matured: Mask
    """Whether follow-up, and for admissions the claims lag, have passed."""
    known: Mask
    """Whether some feed can have seen the outcome."""
    followed: Mask
    """Whether the patient was covered for as long as a readmission would have counted."""

    @property
    def usable(self) -> Mask:
        """Whether the outcome may be used."""
        return self.matured & self.known & self.followed


def labels(index: pa.Table, admissions: pa.Table, outcomes: pa.Table, as_of: datetime) -> Labels:
    """What is known at `as_of` of the outcomes of index discharges, from what had `arrived` by then.

    `index` needs encounter, patient, `discharged_at`, `deceased_at` and `covered_until`. The one answer for
    the training set and for the outcomes of scores: a model is measured by the label that it was fitted to.
    """
    age = to_micros(as_of) - as_micros(index["discharged_at"])
    position = positions_among(index["encounter_id"], outcomes["encounter_id"])
    recorded = position != NOWHERE
    listed = positions_among(index["encounter_id"], admissions["encounter_id"]) != NOWHERE
    readmitted = np.where(
        recorded,
        at(as_mask(outcomes["readmitted_within_30_days"]), position),
        unplanned_readmission(index, admissions),
    )
    return Labels(
        readmitted=readmitted.astype(bool),
        matured=age >= np.where(recorded, span(FOLLOW_UP), span(FOLLOW_UP + CLAIMS_LAG)),
        known=listed | recorded,
        followed=recorded | _covered_throughout(index, as_of.tzinfo or UTC),
    )


def unplanned_readmission(index: pa.Table, admissions: pa.Table) -> Mask:
    """Per index discharge, shape (n,): whether its first admission within 30 days is an unplanned one.

    The 30 days are 30 x 24 hours; an admission at their very end is outside.
    """
    planned = as_mask(admissions["planned"])
    first = _first_admission_after(index, admissions, planned)
    within = at(as_micros(admissions["admitted_at"]), first) - as_micros(index["discharged_at"]) < span(
        FOLLOW_UP
    )
    unplanned: Mask = (first != NOWHERE) & within & (at(planned, first) == 0)
    return unplanned


def _covered_throughout(index: pa.Table, zone: tzinfo) -> Mask:
    """Whether a readmission would have been seen: covered for 30 days, or until death within them."""
    end = as_micros(index["discharged_at"]) + span(FOLLOW_UP)
    died = as_mask(pc.is_valid(index["deceased_at"])) & (as_micros(index["deceased_at"]) < end)
    open_ended = as_mask(pc.is_null(index["covered_until"]))
    return open_ended | died | (as_days(index["covered_until"]) >= local_days(end, zone))


def _split(flow: _Flow, labelled: pa.Table) -> pa.Table:
    """The parts, later in time and grouped by patient.

    A patient belongs to the part of the latest index discharge. Test: the latest 20 % of all discharges,
    complete, as the model will meet them. Development: the discharges of patients who have none in the
    test period, if their label was known when that period began (an embargo of 30 days); of these
    patients a hash of the id puts 80 % in train and 20 % in validation, the same at every run.

    The reverse, dropping patients who are already known from the test, leaves a test of newcomers: people
    who are readmitted often are missing from it. On real records this alone costs .04 of AUROC (.62
    against .66) although the model is the same. The price of this way: such people are rarer in
    development than in the test, so that risks may come out a little low.
    """
    labelled = labelled.sort_by([("discharged_at", "ascending"), ("encounter_id", "ascending")])
    discharged = as_micros(labelled["discharged_at"])
    if not len(labelled):
        raise _unfit("test", 0)
    opens = discharged[min(int(np.ceil(len(discharged) * (1 - TEST_SHARE))), len(discharged) - 1)]
    test = discharged >= opens
    patients = text_codes(joined(labelled["patient_id"]))
    elsewhere = ~test & np.isin(patients, patients[test])
    embargoed = ~test & ~elsewhere & (discharged + span(FOLLOW_UP) > opens)
    train = _hashed_share(labelled["patient_id"]) < TRAIN_SHARE
    part = np.array(PARTS)[np.select([test, train], [2, 0], 1)]
    flow.counts["earlier_stay_of_test_patient"] = int(elsewhere.sum())
    flow.counts["embargoed"] = int(embargoed.sum())
    table = labelled.append_column("part", pa.array(part.tolist(), pa.string()))
    table = table.filter(pa.array(~(elsewhere | embargoed)))
    for name in PARTS:
        outcomes = table.filter(pc.equal(table["part"], name))["readmitted_within_30_days"]
        flow.counts[name] = len(outcomes)
        if pc.count_distinct(outcomes).as_py() < 2:
            raise _unfit(name, len(outcomes))
    return _in_shape(table)


def _unfit(part: str, discharges: int) -> PermanentError:
    outcome = "no discharges" if discharges == 0 else f"{discharges} discharges, all with the same outcome"
    return PermanentError(
        f"the {part} part of the training set has {outcome}",
        where="readmission_training_set",
        mend="Load more discharges, over a period that ends well before the newest record.",
    )


def _hashed_share(identifiers: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """A number in [0, 1) per identifier that depends on nothing else."""
    encoded = joined(identifiers).dictionary_encode()
    digests = [hashlib.sha256(text.encode()).digest() for text in encoded.dictionary.to_pylist()]
    shares = np.array([int.from_bytes(digest[:8], "big") / 2**64 for digest in digests])
    return shares[as_integers(encoded.indices)]


def _in_shape(table: pa.Table) -> pa.Table:
    """The columns of `readmission_training_set`, the features in their strict types."""
    strict = {Whole: pa.int64(), Flag: pa.bool_()}
    columns = {
        name: table[name]
        for name in ("encounter_id", "patient_id", "discharged_at", "part", "readmitted_within_30_days")
    }
    for feature in READMISSION.features:
        columns[feature.name] = table[feature.name].cast(strict.get(type(feature), pa.string()))
    columns["contract_hash"] = pa.repeat(pa.scalar(READMISSION.hash), len(table))
    return pa.table(columns)
