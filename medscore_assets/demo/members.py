"""Made-up members of an insurer, quarter by quarter: features of the last stay, discharges, outcomes.

Belongs here: who the members are, what a quarter brings them, and the faults of their records, in numpy
over many members at once. Does not belong here: hospitals (`hospitals.py`), the truth (`ground_truth.py`),
loading.

A member is the same person in every quarter: sex, home, hospital and conditions stay, age goes on, and the
payer changes with it; stays, outcomes and faults are drawn anew. Everybody has features, also without a
discharge in the quarter: those of the last stay, as claims tell it. Members come in blocks, each with random
numbers of its own, so that the first thousand members are the same however many follow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from medscore_assets.contracts.fields import Whole
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.demo.ground_truth import readmission_probability
from medscore_assets.demo.hospitals import DIVISIONS, Hospitals, draw_hospitals, stream
from medscore_assets.demo.patients import DIAGNOSES, Columns, take
from medscore_assets.readmission.population.quarters import Quarter

Numbers = npt.NDArray[np.float64]
Positions = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

SOURCE = "demo"
BLOCK = 32_768
EPOCH = Quarter(2026, 1)
"""The quarter in which members have the age that they are drawn with."""
OUTCOME_DAYS = 30
_HIGHEST_RISK = 0.95
TREATED_AWAY = 0.04
"""The share of members whose hospital may be anywhere, their own division included."""

DIRT: Mapping[str, float] = MappingProxyType(
    {
        "null_region": 0.002,
        "unknown_diagnosis": 0.001,
        "age_out_of_bounds": 0.0005,
        "stay_out_of_bounds": 0.0005,
        "not_a_number": 0.0003,
        "blank_hospital": 0.001,
        "null_index_discharge": 0.0005,
    }
)
"""The faults, and the share of members that have each; nobody has two."""
INVALID_DIRT = ("unknown_diagnosis", "age_out_of_bounds", "stay_out_of_bounds", "not_a_number")
"""The faults after which a row breaks the contract."""

_AGES = ((0, 0.22), (18, 0.23), (35, 0.19), (50, 0.19), (65, 0.10), (75, 0.05), (85, 0.02))
"""From which age on, and which share of members, roughly as in the United States."""
_OLDEST = 104
_BIRTHDAYS = np.array([*(first for first, _ in _AGES), _OLDEST], dtype=np.float64)
_FEMALE = ((0, 0.49), (50, 0.51), (65, 0.53), (75, 0.57), (85, 0.65))
_SEXES = ("female", "male")
_PAYERS = ("commercial", "medicare", "medicaid", "dual_eligible", "unknown")
_PAYER_SHARES = (
    (0, (0.55, 0.00, 0.40, 0.00, 0.05)),
    (18, (0.71, 0.03, 0.20, 0.02, 0.04)),
    (50, (0.73, 0.07, 0.13, 0.04, 0.03)),
    (65, (0.06, 0.79, 0.00, 0.13, 0.02)),
)
_DIAGNOSIS_SHARES = (
    (0, (0.03, 0.28, 0.12, 0.06, 0.08, 0.06, 0.37)),
    (18, (0.15, 0.09, 0.17, 0.12, 0.08, 0.11, 0.28)),
    (65, (0.30, 0.14, 0.11, 0.14, 0.08, 0.07, 0.16)),
)
_PLACES = ("home", "home_with_care", "skilled_nursing", "rehab", "other")
_PLACE_SHARES = (
    (0, (0.95, 0.03, 0.00, 0.01, 0.01)),
    (45, (0.82, 0.09, 0.04, 0.03, 0.02)),
    (65, (0.66, 0.15, 0.11, 0.05, 0.03)),
    (80, (0.50, 0.20, 0.19, 0.07, 0.04)),
)

_CATEGORIES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "primary_diagnosis_group": tuple(DIAGNOSES.tolist()),
        "discharge_disposition": _PLACES,
        "insurance_type": _PAYERS,
    }
)

_NOT_DIAGNOSES = ("cardac", "see notes", "99", "n/a")
_NOT_HOSPITALS = ("", " ")
_NOT_AGES = np.array([-1.0, 121.0, 131.0, 999.0])
_NOT_NIGHTS = np.array([-1.0, 366.0, 400.0, 9999.0])
_NOT_NUMBERS = np.full(4, np.nan)

SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("quarter", "member_id", "region", "hospital_id", "sex")),
        *(
            (
                f.name,
                pa.float64() if isinstance(f, Whole) else pa.string() if f.kind == "category" else pa.bool_(),
            )
            for f in READMISSION.features
        ),
        ("index_discharge", pa.bool_()),
        ("readmitted_within_30_days", pa.bool_()),
    ]
)
"""The columns of `member_features`."""


@dataclass(frozen=True, slots=True)
class _Draw:
    """What all blocks of a quarter share."""

    quarter: Quarter
    seed: int
    as_of: date
    hospitals: Hospitals


def members(
    count: int, quarter: Quarter, seed: int, *, as_of: date | None = None
) -> Iterator[pa.RecordBatch]:
    """`count` members of a quarter, in batches of up to 32,768 rows with the columns of `SCHEMA`.

    The same arguments give the same members, and more members begin with the same ones. Outcomes are
    known of discharges 30 days and more before `as_of`, by default the day after the quarter.
    """
    draw = _Draw(quarter, seed, as_of or quarter.last_day + timedelta(days=1), draw_hospitals(seed))
    for block, size in enumerate(_blocks(count)):
        yield _block(draw, block).slice(0, size)


def dirt_counts(count: int, quarter: Quarter, seed: int) -> dict[str, int]:
    """How many of these members have each fault of `DIRT`."""
    found = np.zeros(len(DIRT) + 1, dtype=np.int64)
    for block, size in enumerate(_blocks(count)):
        rng = stream(seed, "faults", block, _ordinal(quarter))
        found += np.bincount(_faults(rng)[:size], minlength=len(found))
    return dict(zip(DIRT, found.tolist(), strict=False))


def _blocks(count: int) -> Iterator[int]:
    """How many rows to take of each block."""
    for first in range(0, count, BLOCK):
        yield min(BLOCK, count - first)


def _ordinal(quarter: Quarter) -> int:
    return quarter.year * 4 + quarter.number


def _block(draw: _Draw, block: int) -> pa.RecordBatch:
    at = _ordinal(draw.quarter)
    people = _people(stream(draw.seed, "people", block), draw.hospitals, (at - _ordinal(EPOCH)) / 4)
    rng = stream(draw.seed, "quarter", block, at)
    columns = people | _stays(rng, people)
    return _table(draw, block, columns, *_outcomes(rng, draw, columns))


def _people(rng: np.random.Generator, hospitals: Hospitals, years_on: float) -> Columns:
    """What stays of a member, as of `years_on` after the epoch."""
    at_epoch = np.interp(rng.random(BLOCK), np.cumsum([0.0, *(share for _, share in _AGES)]), _BIRTHDAYS)
    frailty = rng.gamma(1.6, 1 / 1.6, BLOCK)
    chronic = rng.poisson(frailty * (0.12 + 0.036 * np.maximum(at_epoch - 28, 0))).clip(0, 18)
    sex_draw, payer_draw = rng.random(BLOCK), rng.random(BLOCK)
    age = np.floor(at_epoch + years_on).clip(0, _OLDEST).astype(np.int64)
    home = np.searchsorted(hospitals.reach, rng.random(BLOCK), side="right")
    away = np.searchsorted(hospitals.reach, rng.random(BLOCK), side="right")
    return {
        "patient_age": age,
        "frailty": frailty,
        "num_chronic_conditions": chronic,
        "region": hospitals.division[home],
        "hospital_id": np.where(rng.random(BLOCK) < TREATED_AWAY, away, home),
        "sex": (sex_draw >= _by_age(_FEMALE)[at_epoch.astype(np.int64)]).astype(np.int64),
        "insurance_type": _pick(payer_draw, _by_age(_PAYER_SHARES)[age]),
    }


def _discharge_probability(people: Columns) -> Numbers:
    """That a member has a qualifying index discharge in the quarter: 2.5 % on average."""
    logit = -5.15 + 0.026 * people["patient_age"] + 0.17 * people["num_chronic_conditions"]
    return np.asarray(1 / (1 + np.exp(-logit)) * (0.8 + 0.2 * people["frailty"]), dtype=np.float64)


def _stays(rng: np.random.Generator, people: Columns) -> Columns:
    """Whether there is an index discharge, and the features of the last stay; categories as positions."""
    age, chronic = people["patient_age"], people["num_chronic_conditions"]
    index_discharge = rng.random(BLOCK) < _discharge_probability(people)
    often = np.where(index_discharge, 0.15 + 0.07 * chronic, 0.0) + 0.05 + 0.04 * chronic
    diagnosis = _pick(rng.random(BLOCK), _by_age(_DIAGNOSIS_SHARES)[age])
    planned = rng.random(BLOCK) < np.where(DIAGNOSES[diagnosis] == "musculoskeletal", 0.6, 0.18)
    nights = np.exp(1.15 + 0.03 * chronic - 0.25 * planned + 0.6 * rng.standard_normal(BLOCK))
    return {
        "length_of_stay_days": np.rint(nights).clip(1, 90),
        "num_prior_admissions_12m": rng.poisson(people["frailty"] * often * np.where(planned, 0.5, 1.0)).clip(
            0, 20
        ),
        "primary_diagnosis_group": diagnosis,
        "discharge_disposition": _pick(rng.random(BLOCK), _by_age(_PLACE_SHARES)[age]),
        "emergency_admission": ~planned,
        "num_medications_at_discharge": rng.poisson(1.5 + 1.15 * chronic + 0.03 * age).clip(0, 45),
        "has_follow_up_scheduled": rng.random(BLOCK) < np.where(planned, 0.8, 0.55),
        "index_discharge": index_discharge,
    }


def _outcomes(rng: np.random.Generator, draw: _Draw, columns: Columns) -> tuple[Flags, Flags]:
    """Whether each member was readmitted, and whether that is known: the true risk times the hospital's."""
    days = (draw.quarter.last_day - draw.quarter.first_day).days + 1
    discharged = rng.integers(0, days, BLOCK)
    chance = rng.random(BLOCK)
    who = np.flatnonzero(columns["index_discharge"])
    features = take(columns, who)
    for name, words in _CATEGORIES.items():
        features[name] = np.array(words)[features[name]]
    risk = readmission_probability(features) * draw.hospitals.effect[features["hospital_id"]]
    readmitted = np.zeros(BLOCK, dtype=np.bool_)
    readmitted[who] = chance[who] < risk.clip(0, _HIGHEST_RISK)
    matured_days = (draw.as_of - draw.quarter.first_day).days - OUTCOME_DAYS
    return readmitted, columns["index_discharge"] & (discharged <= matured_days)


def _faults(rng: np.random.Generator) -> Positions:
    """Per member the position of the fault in `DIRT`, or one past the last for none."""
    return np.searchsorted(np.cumsum(list(DIRT.values())), rng.random(BLOCK), side="right").astype(np.int64)


def _table(draw: _Draw, block: int, columns: Columns, outcome: Flags, known: Flags) -> pa.RecordBatch:
    """Rows of `member_features`, with the faults in them."""
    rng = stream(draw.seed, "faults", block, _ordinal(draw.quarter))
    faults, which = _faults(rng), rng.integers(0, 4, BLOCK)
    hit = {kind: np.asarray(faults == position) for position, kind in enumerate(DIRT)}

    def texts(name: str, words: tuple[str, ...], kind: str = "", wrong: tuple[str, ...] = ()) -> pa.Array:
        positions = columns[name]
        if wrong:
            positions = np.where(hit[kind], len(words) + which % len(wrong), positions)
        return pa.array([*words, *wrong], pa.string()).take(pa.array(positions))

    def numbers(name: str, kind: str, wrong: Numbers) -> pa.Array:
        # from_pandas=False keeps NaN as NaN.
        return pa.array(np.where(hit[kind], wrong[which], columns[name]), pa.float64(), from_pandas=False)

    divisions = tuple(d.name for d in DIVISIONS)
    recorded = ~hit["null_index_discharge"]
    arrays = {
        "quarter": pa.repeat(pa.scalar(draw.quarter.key), BLOCK),
        "member_id": _ids(np.arange(block * BLOCK + 1, (block + 1) * BLOCK + 1)),
        "region": pa.array(divisions).take(pa.array(columns["region"], mask=hit["null_region"])),
        "hospital_id": texts("hospital_id", draw.hospitals.ids, "blank_hospital", _NOT_HOSPITALS),
        "sex": texts("sex", _SEXES),
        **{name: texts(name, words) for name, words in _CATEGORIES.items()},
        "primary_diagnosis_group": texts(
            "primary_diagnosis_group",
            _CATEGORIES["primary_diagnosis_group"],
            "unknown_diagnosis",
            _NOT_DIAGNOSES,
        ),
        "patient_age": numbers("patient_age", "age_out_of_bounds", _NOT_AGES),
        "length_of_stay_days": numbers("length_of_stay_days", "stay_out_of_bounds", _NOT_NIGHTS),
        "num_medications_at_discharge": numbers("num_medications_at_discharge", "not_a_number", _NOT_NUMBERS),
        "index_discharge": pa.array(columns["index_discharge"], mask=~recorded),
        "readmitted_within_30_days": pa.array(outcome, mask=~(known & recorded)),
    }
    return pa.record_batch(
        [arrays[f.name] if f.name in arrays else pa.array(columns[f.name]).cast(f.type) for f in SCHEMA],
        schema=SCHEMA,
    )


def _ids(numbers: Positions) -> pa.Array:
    padded = pc.utf8_lpad(pa.array(numbers).cast(pa.string()), 9, "0")
    return pc.binary_join_element_wise("DEMO-M", padded, "")


def _by_age(bands: tuple[tuple[int, object], ...]) -> Numbers:
    """A row per year of age; shares of several options are cumulated."""
    firsts = [first for first, _ in bands]
    values = np.array([shares for _, shares in bands], dtype=np.float64)
    if values.ndim == 2:
        values = np.cumsum(values, axis=1)
        values[:, -1] = np.inf
    return np.asarray(values[np.searchsorted(firsts, np.arange(_OLDEST + 1), side="right") - 1])


def _pick(chance: Numbers, cumulated: Numbers) -> Positions:
    """One option per row of cumulated shares (n, options)."""
    return np.asarray((chance[:, None] >= cumulated).sum(axis=1), dtype=np.int64)
