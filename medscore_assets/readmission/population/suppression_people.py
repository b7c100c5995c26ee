"""The people that a cell is made of, and the exchanges of them that a reader cannot see.

Belongs here: what adds up over cells, which columns are hidden together, what a person adds to a cell, what
can never be negative. Does not belong here: how cells share margins (`suppression_network.py`), which counts
are small (`suppression.py`).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medscore_assets.readmission.population.summary import COUNTS

AMOUNTS = ("expected_readmissions", "expected_matured")
COLUMNS = (*COUNTS, *AMOUNTS)
"""What adds up over cells. An amount is withheld with its denominator, and moves with it."""

Row = npt.NDArray[np.float64]
"""One number for each of `COLUMNS`."""

_CLOSURE = {
    "members": COUNTS,
    "members_scored": ("members_scored", "members_invalid"),
    "members_invalid": ("members_scored", "members_invalid"),
    "index_discharges_scored": COUNTS[4:],
    "matured": COUNTS[7:],
}
"""What is hidden together: the parts with their whole, and both parts of a shown whole."""

_RISKS_WITHIN_TIER = (0.0, 0.25, 0.5)
"""Where between the edges of a tier the risk of an exchanged person may lie."""


def row(**coefficients: float) -> Row:
    """A linear form over `COLUMNS`, by name."""
    return np.array([coefficients.get(name, 0.0) for name in COLUMNS])


def closure(column: str) -> int:
    """The columns that are hidden with this one, as bits by position in `COUNTS`."""
    return sum(1 << COUNTS.index(name) for name in _CLOSURE.get(column, (column,)))


@dataclass(frozen=True)
class Tiers:
    """The risks above which the tiers high and very high begin."""

    high: float
    very_high: float


def risk_bounds(tiers: Tiers | None) -> tuple[tuple[float, float], ...]:
    """Lowest and highest risk of a person below high, high, and very high, as far as the reader knows."""
    if tiers is None:
        return ((0.0, 1.0),) * 3
    return (0.0, tiers.high), (tiers.high, tiers.very_high), (tiers.very_high, 1.0)


def _people(tiers: Tiers | None, within: float) -> list[Row]:
    """Every kind of person a cell may hold: invalid or scored, discharged or not, by tier and outcome."""
    kinds = [
        row(members=1, members_invalid=1),
        row(members=1, members_invalid=1, index_discharges=1),
        row(members=1, members_scored=1),
    ]
    discharged = {"members": 1, "members_scored": 1, "index_discharges": 1, "index_discharges_scored": 1}
    for tier, (low, high) in enumerate(risk_bounds(tiers)):
        risk = low + within * (high - low)
        kinds += [
            row(
                **discharged,
                high_risk=tier >= 1,
                very_high_risk=tier >= 2,
                matured=outcome >= 1,
                observed_readmissions=outcome >= 2,
                expected_readmissions=risk,
                expected_matured=risk * (outcome >= 1),
            )
            for outcome in range(3)
        ]
    return kinds


def exchanges(tiers: Tiers | None) -> npt.NDArray[np.float64]:
    """What one exchange does to a cell: a person comes, goes, or is swapped for one of another kind.

    Of shape (exchanges, COLUMNS), each row with its reverse; those that touch the fewest columns first.
    Tier and outcome are never changed at once, since how they go together is not published.
    """
    found: dict[tuple[float, ...], None] = {}
    scored = COLUMNS.index("index_discharges_scored")
    amount = COLUMNS.index("expected_readmissions")
    for within in _RISKS_WITHIN_TIER:
        people = _people(tiers, within)
        changes = [*people]
        for one, other in itertools.combinations(people, 2):
            change = other - one
            if one[scored] and other[scored]:
                tier, outcome = change[5:7].any(), change[7:9].any()
                if tier and outcome:
                    continue
                if tier:  # The cell's expected readmissions are shown, and stay.
                    change[amount:] = 0.0
            changes.append(change)
        for change in changes:
            found[tuple(np.round(change, 9) + 0.0)] = None
            found[tuple(np.round(-change, 9) + 0.0)] = None
    rows = np.array([*found])
    return rows[np.argsort(np.count_nonzero(rows[:, : len(COUNTS)], axis=1), kind="stable")]


def never_negative(tiers: Tiers | None) -> npt.NDArray[np.float64]:
    """What is never negative, beyond differences of counts: risks lie within the edges of their tier."""
    (low, low_end), (high, high_end), (very, very_end) = risk_bounds(tiers)
    return np.array(
        [
            row(
                expected_readmissions=1,
                index_discharges_scored=-low,
                high_risk=low - high,
                very_high_risk=high - very,
            ),
            row(
                expected_readmissions=-1,
                index_discharges_scored=low_end,
                high_risk=high_end - low_end,
                very_high_risk=very_end - high_end,
            ),
            row(expected_matured=1),
            row(expected_matured=-1, matured=1),
            row(expected_readmissions=1, expected_matured=-1),
            row(expected_readmissions=-1, expected_matured=1, index_discharges_scored=1, matured=-1),
        ]
    )
