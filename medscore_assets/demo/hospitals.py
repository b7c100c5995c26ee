"""Made-up contracted hospitals, laid out like the hospitals of the United States.

Belongs here: the declared marginals, and hospitals drawn from them. Does not belong here: members.

The marginals were computed from the Hospital Readmissions Reduction Program's file for fiscal year 2024
(Centers for Medicare & Medicaid Services, public domain; discharges of July 2019 to June 2022, Medicare
fee-for-service). A test computes them again from the file. No row of it is here, and no hospital is real.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

CONTRACTED = 420


@dataclass(frozen=True, slots=True)
class Division:
    """A Census division of the United States, as the file has it.

    `hospitals` with any row; `discharges` of the six conditions, where published;
    `observed_to_expected` readmissions of the hospitals that publish both.
    """

    name: str
    states: str
    hospitals: int
    discharges: int
    observed_to_expected: float


DIVISIONS = (
    Division("New England", "CT MA ME NH RI VT", 130, 131_283, 1.054),
    Division("Middle Atlantic", "NJ NY PA", 336, 276_369, 1.037),
    Division("East North Central", "IL IN MI OH WI", 478, 322_226, 1.017),
    Division("West North Central", "IA KS MN MO ND NE SD", 239, 135_286, 0.940),
    Division("South Atlantic", "DC DE FL GA MD NC SC VA WV", 550, 462_410, 1.014),
    Division("East South Central", "AL KY MS TN", 285, 144_942, 1.029),
    Division("West South Central", "AR LA OK TX", 493, 216_693, 1.010),
    Division("Mountain", "AZ CO ID MT NM NV UT WY", 238, 91_961, 0.939),
    Division("Pacific", "AK CA HI OR WA", 380, 195_805, 1.016),
)

VOLUME_SPREAD = 1.02
"""The standard deviation of the logarithm of a hospital's discharges."""

QUALITY_SPREAD = 0.092
"""The standard deviation of hospitals' true ratios of observed to expected readmissions around their
division's, by the method of moments: the spread of the ratios less what chance alone makes of it."""

READMISSION_RATES = {"cardiac": 0.183, "respiratory": 0.178, "musculoskeletal": 0.041}
"""Readmitted within 30 days, by diagnosis group: heart attack, heart failure and bypass; COPD and
pneumonia; hip and knee replacement. Nothing is drawn from them: a test says how near the demo's members of
65 and more come, whose musculoskeletal stays also have other reasons than planned replacements."""


_STREAMS = ("hospitals", "people", "quarter", "faults")


def stream(seed: int, what: str, *which: int) -> np.random.Generator:
    """Random numbers of their own for each thing that is drawn: `what` is of hospitals or members."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_STREAMS.index(what), *which)))


@dataclass(frozen=True, slots=True)
class Hospitals:
    """Contracted hospitals, one position each, those of a division side by side."""

    ids: tuple[str, ...]
    division: npt.NDArray[np.int64]
    """Positions in `DIVISIONS`."""
    effect: npt.NDArray[np.float64]
    """What the true risk of a readmission is multiplied with."""
    reach: npt.NDArray[np.float64]
    """Cumulative share of all volume: a uniform number finds its hospital by it."""


def draw_hospitals(seed: int, count: int = CONTRACTED) -> Hospitals:
    """`count` hospitals, at least one per division, the same for the same seed and count."""
    rng = stream(seed, "hospitals", count)
    division = np.repeat(np.arange(len(DIVISIONS)), _apportioned(count))
    centre = np.array([d.observed_to_expected for d in DIVISIONS])
    effect = centre[division] * np.exp(rng.normal(0, QUALITY_SPREAD, count))
    volume = np.exp(rng.normal(0, VOLUME_SPREAD, count))
    wanted = np.array([d.discharges for d in DIVISIONS], dtype=np.float64)
    in_division = np.bincount(division, volume)
    share = volume * (wanted / wanted.sum() / in_division)[division]
    reach = np.cumsum(share)
    reach /= reach[-1]
    return Hospitals(
        ids=tuple(f"DEMO-H{number:03d}" for number in range(1, count + 1)),
        division=division,
        effect=effect / np.average(effect, weights=share),
        reach=reach,
    )


def _apportioned(count: int) -> npt.NDArray[np.int64]:
    """Hospitals per division, by largest remainder, after one for each."""
    weights = np.array([d.hospitals for d in DIVISIONS], dtype=np.float64)
    quota = weights / weights.sum() * (count - len(DIVISIONS))
    whole = np.floor(quota).astype(np.int64)
    rest = count - len(DIVISIONS) - int(whole.sum())
    whole[np.argsort(whole - quota, kind="stable")[:rest]] += 1
    return np.asarray(whole + 1, dtype=np.int64)
