"""Which patients a number on the board is for.

Belongs here: the posted bands of triage levels, and which levels are served before them. Does not belong
here: who is in a band at a moment (`snapshot.py`) and the words of the board.

Triage follows CTAS: 1 (resuscitation) to 5 (non-urgent), 0 where it is unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

UNKNOWN = 0
"""The code of a triage level that nobody wrote down."""
LEVELS = range(6)


@dataclass(frozen=True, slots=True)
class Band:
    """The triage levels of one posted number."""

    code: str
    levels: frozenset[int]
    """Its patients' levels."""

    @property
    def served_first(self) -> frozenset[int]:
        """The levels that are as sick as the band's or sicker: the queue that its patients wait in."""
        return frozenset(level for level in LEVELS if level <= max(self.levels)) - self._unknown_elsewhere()

    def _unknown_elsewhere(self) -> frozenset[int]:
        return frozenset() if UNKNOWN in self.levels else frozenset({UNKNOWN})

    def holds(self, ctas: npt.NDArray[np.int8]) -> npt.NDArray[np.bool_]:
        """Which triage levels belong to the band: a mask like `ctas`."""
        return _TABLES[self.code][0][ctas]

    def queues(self, ctas: npt.NDArray[np.int8]) -> npt.NDArray[np.bool_]:
        """Which triage levels wait in the band's queue, `served_first`: a mask like `ctas`."""
        return _TABLES[self.code][1][ctas]


ALL_POSTED = "all_posted"
"""The headline: nobody with CTAS 1 or 2 waits as long as it says, so it leaves them out."""

BANDS: Mapping[str, Band] = MappingProxyType(
    {
        band.code: band
        for band in (
            Band(ALL_POSTED, frozenset({UNKNOWN, 3, 4, 5})),
            Band("ctas_2", frozenset({2})),
            Band("ctas_3", frozenset({3})),
            Band("ctas_4_5", frozenset({4, 5})),
        )
    }
)
"""The posted bands by code, the headline first. CTAS 1 is seen at once and never posted."""

ALL_BANDS = tuple(BANDS)


def in_band(ctas: npt.NDArray[np.int8], code: str) -> npt.NDArray[np.bool_]:
    """Which triage levels belong to a band: a mask like `ctas`. Raises KeyError for an unknown band."""
    return BANDS[code].holds(ctas)


def _mask(levels: frozenset[int]) -> npt.NDArray[np.bool_]:
    return np.isin(np.arange(len(LEVELS)), list(levels))


_TABLES = {code: (_mask(band.levels), _mask(band.served_first)) for code, band in BANDS.items()}
