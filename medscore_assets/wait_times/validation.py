"""The one check that every predicted number passes, whoever made it.

Belongs here: what counts as a wait. Does not belong here: calling models (`running.py`) and what is plausible
over time (the checks of the predictions).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from medscore_assets.wait_times.bands import ALL_BANDS
from medscore_assets.wait_times.prediction import HAS_VALUE, LONGEST_SECONDS, Predictions, Status
from resources.errors import PermanentError

LONGEST_MESSAGE = 200

_NOT_FINITE = "not a finite number"
_NEGATIVE = "below 0 s"
_TOO_LONG = f"above {LONGEST_SECONDS:,} s"


def validated(answer: object, scenes: int, bands: Sequence[str], name: str) -> Predictions:
    """A model's answer as copies that can be relied on.

    Numbers are finite, from 0 to 86,400 s and p50 <= p80 (crossed quantiles are sorted); where a model gave
    anything else the status is `invalid` and there is no number. Raises PermanentError where the answer is
    not of the shape (scenes, bands) at all.
    """
    if not isinstance(answer, Predictions):
        raise _unusable(name, f"a {type(answer).__name__} instead of Predictions")
    if tuple(answer.bands) != tuple(bands) or not set(bands) <= set(ALL_BANDS):
        raise _unusable(name, "other bands than its own")
    shape = (scenes, len(bands))
    status = np.array(answer.status)
    if status.shape != shape or status.dtype.kind not in "iu":
        raise _unusable(name, "no status for each scene and band")
    p50, p80 = (_numbers(array, shape, name) for array in (answer.p50, answer.p80))
    raw = None if answer.raw_p80 is None else _numbers(answer.raw_p80, shape, name)

    found = Predictions(
        bands=tuple(bands),
        p50=p50,
        p80=p80,
        status=status.astype(np.uint8),
        messages=_messages(answer.messages, shape),
        stamp=answer.stamp,
    )
    for place, reason in _faults(found, status).items():
        found.fail(*place, Status.INVALID, reason)
    value = found.has_value()
    found.p50[~value] = found.p80[~value] = np.nan
    crossed = value & (found.p80 < found.p50)
    found.p50[crossed], found.p80[crossed] = found.p80[crossed], found.p50[crossed]
    if raw is not None:
        found.raw_p80 = np.where(value & np.isfinite(raw), np.clip(raw, 0, LONGEST_SECONDS), np.nan)
    return found


def _faults(found: Predictions, status: npt.NDArray[np.integer]) -> dict[tuple[int, int], str]:
    """What is wrong with each number that claims to be one, by scene and band."""
    claims = np.isin(status, HAS_VALUE)
    reasons: dict[tuple[int, int], str] = {}
    for quantile, values, may_lack in (("wait", found.p50, False), ("p80", found.p80, True)):
        unknown = np.isnan(values) & (not may_lack)
        for reason, wrong in (
            (_NOT_FINITE, unknown | np.isinf(values)),
            (_NEGATIVE, values < 0),
            (_TOO_LONG, values > LONGEST_SECONDS),
        ):
            for scene, band in np.argwhere(claims & wrong).tolist():
                reasons.setdefault((scene, band), f"{quantile}: {reason}")
    for scene, band in np.argwhere((status < 0) | (status > max(Status))).tolist():
        reasons[scene, band] = "an unknown status"
    return reasons


def _numbers(array: object, shape: tuple[int, int], name: str) -> npt.NDArray[np.float64]:
    try:
        found = np.array(array, dtype=np.float64)
    except (TypeError, ValueError):
        raise _unusable(name, "what is no number") from None
    if found.shape != shape:
        raise _unusable(name, "not one number for each scene and band")
    return found


def _messages(messages: object, shape: tuple[int, int]) -> dict[tuple[int, int], str]:
    if not isinstance(messages, dict):
        return {}
    return {
        place: text[:LONGEST_MESSAGE]
        for place, text in messages.items()
        if _within(place, shape) and isinstance(text, str) and text
    }


def _within(place: object, shape: tuple[int, int]) -> bool:
    if not (isinstance(place, tuple) and len(place) == 2):
        return False
    scene, band = place
    whole = isinstance(scene, int | np.integer) and isinstance(band, int | np.integer)
    return whole and bool(0 <= scene < shape[0] and 0 <= band < shape[1])


def _unusable(name: str, what: str) -> PermanentError:
    return PermanentError(f"The model answered with {what}", where=name, mend="Mend its predict_all.")
