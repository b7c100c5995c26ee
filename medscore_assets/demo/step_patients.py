"""Made-up patients who wear step counters, and how active each is on a day.

Belongs here: who they are, their clinical history, and the steps that a day calls for, in numpy over a
block of patients at once. Does not belong here: records of devices (`steps.py`).

Everything is drawn per block of `BLOCK` patients from a stream of its own (seed, purpose, block, day), so
that a patient's history depends on no other block, on no other day, and not on how many patients there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from medscore_assets.mobility.raw import DIAGNOSES, PATIENTS, SIDE_EFFECTS, THERAPIES

Array = npt.NDArray[Any]

BLOCK = 1024
"""Patients that are drawn together."""

EPOCH = date(1970, 1, 1)
ZONES = ("America/New_York", "America/Chicago", "America/Los_Angeles", "Europe/London")
ZONE_SHARES = (0.80, 0.10, 0.08, 0.02)
DISEASES = ("MS", "PD", "RA", "other")
DISEASE_SHARES = (0.30, 0.25, 0.20, 0.25)
WITHOUT_HISTORY, WITH_SECOND_DIAGNOSIS, WITH_WATCH = 0.02, 0.06, 0.30
THERAPY_NAMES = {
    "MS": ("interferon beta", "ocrelizumab", "physiotherapy"),
    "PD": ("levodopa", "dopamine agonist", "physiotherapy"),
    "RA": ("methotrexate", "adalimumab", "physiotherapy"),
    "other": ("analgesic", "rehabilitation", "physiotherapy"),
}
SIDE_EFFECT_NAMES = ("fatigue", "nausea", "dizziness", "pain")

MEDIAN_STEPS = np.array([4200.0, 3800.0, 4600.0, 5600.0])
"""By disease, at the time of `REFERENCE_DAY`."""
SPREAD = 0.45
"""The standard deviation of the logarithm of a patient's baseline."""
TREND_PER_YEAR = np.array([-0.05, -0.08, -0.03, 0.0])
"""Of the logarithm, by disease."""
DAILY_NOISE, WEEKLY_NOISE = 0.28, 0.12
RAMP_DAYS = 60.0
"""How long a therapy takes to have its whole effect."""
PER_SEVERITY = -0.06
FEWEST_STEPS, MOST_STEPS = 40.0, 32_000.0

REFERENCE_DAY = (date(2025, 1, 1) - EPOCH).days
HISTORY_DAYS = 5000
"""Diagnoses lie within so many days before the reference day, or in the fifth of that after it."""

NOT_WORN = 0.04
"""Days without the device."""
RARE_WEEK = -2.26
"""A standard normal value below this (1.2 %) is a week without the device."""
NEVER = 100_000
"""Days after which nobody asks."""


@dataclass(frozen=True, slots=True)
class Block:
    """The first `n` patients of a block: arrays of shape (n,), or (n, k) with k periods each.

    Days are counted from 1970-01-01; a period ends the day before `ends`.
    """

    n: int
    ids: pa.Array
    birth: Array
    female: Array
    zone: Array
    watch: Array
    disease: Array
    diagnosed: Array
    second: Array
    second_from: Array
    baseline: Array
    weekday: Array
    season: Array
    trend: Array
    therapy_from: Array
    therapy_ends: Array
    therapy_effect: Array
    side_from: Array
    side_ends: Array
    side_kind: Array
    severity: Array


def stream(seed: int, purpose: str, *place: int) -> np.random.Generator:
    """The random numbers of one purpose at one place (block, day)."""
    word = int.from_bytes(purpose.encode().ljust(8)[:8], "big")
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence([seed, word, *place])))


@lru_cache(maxsize=512)
def block(seed: int, index: int, n: int) -> Block:
    """The first `n` patients of block `index`."""
    rng = stream(seed, "patients", index)
    disease = rng.choice(4, size=BLOCK, p=DISEASE_SHARES)
    diagnosed = REFERENCE_DAY - HISTORY_DAYS + rng.integers(0, HISTORY_DAYS * 6 // 5, BLOCK)
    # Those of whom the clinic knows nothing have their history after all time.
    diagnosed = np.where(rng.random(BLOCK) < WITHOUT_HISTORY, diagnosed + NEVER, diagnosed)
    second = np.where(
        rng.random(BLOCK) < WITH_SECOND_DIAGNOSIS, (disease + rng.integers(1, 4, BLOCK)) % 4, -1
    )
    therapy_from = diagnosed[:, None] + np.cumsum(rng.integers(20, 1200, (BLOCK, 3)), axis=1)
    side_from = therapy_from[:, :2] + rng.integers(3, 120, (BLOCK, 2))
    drawn: dict[str, Array] = {
        "birth": REFERENCE_DAY - np.clip(rng.normal(58, 14, BLOCK), 18, 92) * 365.25,
        "female": rng.random(BLOCK) < 0.6,
        "zone": rng.choice(len(ZONES), size=BLOCK, p=ZONE_SHARES),
        "watch": rng.random(BLOCK) < WITH_WATCH,
        "disease": disease,
        "diagnosed": diagnosed,
        "second": second,
        "second_from": diagnosed + rng.integers(30, 2000, BLOCK),
        "baseline": np.log(MEDIAN_STEPS[disease]) + SPREAD * rng.standard_normal(BLOCK),
        "weekday": 0.08 * rng.standard_normal((BLOCK, 7)) + np.array([0, 0, 0, 0, 0.05, -0.05, -0.15]),
        "season": 0.10 + 0.05 * rng.standard_normal(BLOCK),
        "trend": TREND_PER_YEAR[disease] * rng.gamma(4.0, 0.25, BLOCK),
        "therapy_from": therapy_from,
        "therapy_ends": therapy_from + rng.integers(60, 1000, (BLOCK, 3)),
        "therapy_effect": 0.12 + 0.10 * rng.standard_normal((BLOCK, 3)),
        "side_from": side_from,
        "side_ends": side_from + rng.integers(5, 90, (BLOCK, 2)),
        "side_kind": rng.integers(0, len(SIDE_EFFECT_NAMES), (BLOCK, 2)),
        "severity": rng.integers(1, 4, (BLOCK, 2)),
    }
    ids = pa.array([f"demo-{i:07d}" for i in range(index * BLOCK, index * BLOCK + n)], pa.string())
    return Block(n=n, ids=ids, **{name: values[:n] for name, values in drawn.items()})


def steps_called_for(patients: Block, seed: int, index: int, day: date) -> Array:
    """Steps of a day, shape (n,), before anybody counts them; 0 where no device is worn all day."""
    number = (day - EPOCH).days
    rng, n = stream(seed, "day", index, number), patients.n
    noise, luck = rng.standard_normal(BLOCK)[:n], rng.random(BLOCK)[:n]
    week, into = divmod(number, 7)
    before = stream(seed, "week", index, week).standard_normal((2, BLOCK))[:, :n]
    after = stream(seed, "week", index, week + 1).standard_normal((2, BLOCK))[:, :n]
    season = np.cos(2 * np.pi * (day.timetuple().tm_yday - 190) / 365.25)
    logarithm = (
        patients.baseline
        + patients.weekday[:, day.weekday()]
        + patients.season * season
        + patients.trend * (number - REFERENCE_DAY) / 365.25
        + _therapies(patients, number)
        + PER_SEVERITY * (patients.severity * _active(patients.side_from, patients.side_ends, number)).sum(1)
        + WEEKLY_NOISE * (before[0] * (7 - into) + after[0] * into) / 7
        + DAILY_NOISE * noise
    )
    steps = np.clip(np.exp(logarithm), FEWEST_STEPS, MOST_STEPS)
    steps[(luck < NOT_WORN) | (before[1] < RARE_WEEK)] = 0
    return np.asarray(steps)


def clinical_tables(seed: int, patients: int, until: date) -> dict[str, pa.Table]:
    """The clinical tables by folder: nothing begins after `until`, and no end after it is known."""
    last = (until - EPOCH).days
    parts = [_clinical(block(seed, index, n), last) for index, n in blocks(patients)]
    return {name: pa.concat_tables([part[name] for part in parts]) for name in parts[0]}


def blocks(patients: int) -> list[tuple[int, int]]:
    """(index, how many of its patients there are) of the blocks that make up so many patients."""
    return [(index, min(BLOCK, patients - index * BLOCK)) for index in range(-(-patients // BLOCK))]


def _therapies(patients: Block, number: int) -> Array:
    ramp = np.clip((number - patients.therapy_from) / RAMP_DAYS, 0, 1)
    active = _active(patients.therapy_from, patients.therapy_ends, number)
    return np.asarray((patients.therapy_effect * ramp * active).sum(axis=1))


def _active(begins: Array, ends: Array, number: int) -> Array:
    return np.asarray((begins <= number) & (number < ends))


def _clinical(patients: Block, last: int) -> dict[str, pa.Table]:
    everybody = np.arange(patients.n)
    names = np.array([THERAPY_NAMES[disease] for disease in DISEASES])
    who = pa.table(
        {
            "patient_id": patients.ids,
            "birth_date": pa.array(patients.birth.astype(np.int32)).cast(pa.date32()),
            "sex": np.where(patients.female, "female", "male"),
            "zone": np.array(ZONES)[patients.zone],
        }
    ).cast(PATIENTS.schema)
    diagnoses = [
        _periods(patients, everybody[codes >= 0], begins[codes >= 0], None, last, disease=codes[codes >= 0])
        for codes, begins in ((patients.disease, patients.diagnosed), (patients.second, patients.second_from))
    ]
    diagnosed = pa.concat_tables(diagnoses)
    words = pa.array(np.array(DISEASES)[diagnosed["disease"].to_numpy()])
    therapies = _periods(
        patients,
        np.repeat(everybody, 3),
        patients.therapy_from.ravel(),
        patients.therapy_ends.ravel(),
        last,
        therapy=names[patients.disease].ravel(),
    )
    effects = _periods(
        patients,
        np.repeat(everybody, 2),
        patients.side_from.ravel(),
        patients.side_ends.ravel(),
        last,
        side_effect=np.array(SIDE_EFFECT_NAMES)[patients.side_kind.ravel()],
        severity=patients.severity.ravel(),
    )
    return {
        PATIENTS.path: who,
        DIAGNOSES.path: diagnosed.set_column(1, "disease", words).cast(DIAGNOSES.schema),
        THERAPIES.path: therapies.cast(THERAPIES.schema),
        SIDE_EFFECTS.path: effects.cast(SIDE_EFFECTS.schema),
    }


def _periods(
    patients: Block, who: Array, begins: Array, ends: Array | None, last: int, **columns: Array
) -> pa.Table:
    """Rows with validity dates, as far as they are known on the day `last`."""
    known = begins <= last
    begins = pa.array(begins[known].astype(np.int32)).cast(pa.date32())
    if ends is None:
        until = pa.nulls(len(begins), pa.date32())
    else:
        later = ends[known] > last
        until = pa.array(ends[known].astype(np.int32), mask=later).cast(pa.date32())
    return pa.table(
        {
            "patient_id": patients.ids.take(pa.array(who[known])),
            **{name: pa.array(values[known]) for name, values in columns.items()},
            "valid_from": begins,
            "valid_to": until,
        }
    )
