"""What the board makes of a prediction: a range in quarters of an hour that does not flicker.

Belongs here: rounding, the cap, and when a shown range changes. Does not belong here: words and languages
(the board), which model is shown, and whether a prediction is too old.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]
Minutes = npt.NDArray[np.int64]

STEP_MINUTES = 15
CAP_MINUTES = 360
"""Above it the board says "more than 6 hours"."""
STEADY_MINUTES = 10
"""A smaller change is shown only if it is still there at the next tick."""
NOTHING = -1
"""Minutes where nothing is shown."""

Code = Literal["nothing", "about", "range", "open_range", "above_cap"]
"""Which sentence: "about {high}", "{low} to {high}", "{low} to more than {high}", "more than {high}"."""


@dataclass(frozen=True, slots=True)
class Displayed:
    """What is shown, and what the next tick needs to know about it."""

    low_minutes: int
    """NOTHING or 15, 30, ... up to CAP_MINUTES. Half of the patients are seen within it."""
    high_minutes: int
    """Likewise, 8 in 10 patients."""
    code: Code
    basis_p50: float = np.nan
    """Seconds that were predicted when the shown range was chosen."""
    basis_p80: float = np.nan
    pending: bool = False
    """The last tick already gave another range, too close to be shown at once."""


def displayed(p50: float, p80: float | None = None, previous: Displayed | None = None) -> Displayed:
    """The range to show for a prediction in seconds (NaN: none), after what was shown at the tick before.

    Both ends are rounded up to 15 minutes, so that it is never 0. A shown range stays until the prediction
    differs by more than 10 minutes from the one that it was chosen for, or has given another range at two
    ticks in a row.
    """
    shown = _Shown.nothing(1) if previous is None else _Shown.of(previous)
    shown.step(np.array([p50]), np.array([np.nan if p80 is None else p80]))
    low, high = int(shown.low[0]), int(shown.high[0])
    return Displayed(
        min(low, CAP_MINUTES),
        min(high, CAP_MINUTES),
        _code(low, high),
        float(shown.p50[0]),
        float(shown.p80[0]),
        bool(shown.pending[0]),
    )


def displayed_series(p50: Numbers, p80: Numbers) -> tuple[Minutes, Minutes]:
    """What was shown at consecutive ticks: low and high minutes of shape (ticks, series).

    Seconds in the same shape, NaN where there was no prediction; NOTHING where nothing was shown. What is
    above the cap is CAP_MINUTES + 15, so that it can be told from the cap.
    """
    shown = _Shown.nothing(p50.shape[1])
    low, high = (np.full(p50.shape, NOTHING, dtype=np.int64) for _ in range(2))
    for tick in range(len(p50)):
        shown.step(p50[tick], p80[tick])
        low[tick], high[tick] = shown.low, shown.high
    return low, high


@dataclass(slots=True)
class _Shown:
    """What is shown for several series; arrays of shape (series,)."""

    low: Minutes
    high: Minutes
    p50: Numbers
    p80: Numbers
    pending: npt.NDArray[np.bool_]

    @classmethod
    def nothing(cls, series: int) -> _Shown:
        """Before the first tick."""
        none = np.full(series, NOTHING, dtype=np.int64)
        unknown = np.full(series, np.nan)
        return cls(none, none.copy(), unknown, unknown.copy(), np.zeros(series, dtype=bool))

    @classmethod
    def of(cls, previous: Displayed) -> _Shown:
        """As it was left by the tick before."""
        beyond = CAP_MINUTES + STEP_MINUTES
        low = beyond if previous.code == "above_cap" else previous.low_minutes
        high = beyond if previous.code in ("above_cap", "open_range") else previous.high_minutes
        return cls(
            np.array([low]),
            np.array([high]),
            np.array([previous.basis_p50]),
            np.array([previous.basis_p80]),
            np.array([previous.pending]),
        )

    def step(self, p50: Numbers, p80: Numbers) -> None:
        """Goes on to the next tick, in place."""
        p80 = np.where(np.isnan(p80), p50, np.maximum(p50, p80))
        low, high = _rounded(p50), _rounded(p80)
        other = (low != self.low) | (high != self.high)
        far = np.abs(p50 - self.p50) > STEADY_MINUTES * 60
        far |= np.abs(p80 - self.p80) > STEADY_MINUTES * 60
        from_or_to_nothing = (low == NOTHING) | (self.low == NOTHING)
        change = other & (far | self.pending | from_or_to_nothing)
        self.low, self.high = np.where(change, low, self.low), np.where(change, high, self.high)
        self.p50, self.p80 = np.where(change, p50, self.p50), np.where(change, p80, self.p80)
        self.pending = other & ~change


def _rounded(seconds: Numbers) -> Minutes:
    """Up to the next 15 minutes, at least 15, at most one step above the cap; NOTHING for NaN."""
    known = ~np.isnan(seconds)
    steps = np.ceil(np.where(known, seconds, 0) / 60 / STEP_MINUTES)
    minutes = np.clip(steps, 1, CAP_MINUTES // STEP_MINUTES + 1) * STEP_MINUTES
    return np.where(known, minutes, NOTHING).astype(np.int64)


def _code(low: int, high: int) -> Code:
    if low == NOTHING:
        return "nothing"
    if low > CAP_MINUTES:
        return "above_cap"
    if high > CAP_MINUTES:
        return "open_range"
    return "about" if low == high else "range"
