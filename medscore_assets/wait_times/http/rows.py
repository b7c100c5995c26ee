"""Answers that are numbers in the order of the rows: a facility at a time and, within it, its bands.

Belongs here: reading them one by one. Does not belong here: protocols, and what is sent (`features.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medscore_assets.wait_times.http.wire import Asked, put
from medscore_assets.wait_times.prediction import Predictions, Status


def fill(asked: Asked, typical: Sequence[Any], upper: Sequence[Any]) -> Predictions:
    """Predictions from the typical wait and the one for eight in ten, in seconds; None is no data.

    Both have one value for each facility and band. What is no number is invalid, and nothing else with it.
    """
    found = Predictions.empty(len(asked.facilities), asked.bands)
    for row, (p50, p80) in enumerate(zip(typical, upper, strict=True)):
        at = divmod(row, len(asked.bands))
        if not (p50 is None or _is_number(p50)) or not (p80 is None or _is_number(p80)):
            found.fail(*at, Status.INVALID, "not a wait (no number)")
        elif p50 is not None:
            put(found, at, float(p50), None if p80 is None else float(p80))
    return found


def _is_number(value: Any) -> bool:
    # A whole number may be too long for a float.
    return isinstance(value, float) or (
        isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1e15
    )
