"""What a model behind a general scoring protocol is given: one row of figures for each facility and band.

Belongs here: the columns, their types and how they follow from a snapshot. Does not belong here: the
protocols (`open_inference.py`, `mlflow_scoring.py`), and the native interface, which sends waits (`wire.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from medscore_assets.wait_times.clock import as_datetime
from medscore_assets.wait_times.snapshot import Snapshot

FEATURES: Mapping[str, str] = MappingProxyType(
    {
        "facility_id": "BYTES",
        "band": "BYTES",
        "as_of": "BYTES",
        "local_hour": "INT64",
        "waiting": "INT64",
        "longest_waiting_seconds": "FP64",
        "arrived_60": "INT64",
        "seen_60": "INT64",
        "seen_120": "INT64",
        "seen_240": "INT64",
        "left_120": "INT64",
        "mean_wait_60_seconds": "FP64",
        "mean_wait_120_seconds": "FP64",
        "mean_wait_240_seconds": "FP64",
    }
)
"""By column, the datatype in the words of the Open Inference Protocol.

The number in a name is the window before the moment, in minutes. `waiting` and `longest_waiting_seconds`
are of the band's patients who wait (0 if nobody does), a mean wait is of those whose wait ended in the
window.
"""


def features(snapshot: Snapshot, bands: tuple[str, ...]) -> dict[str, list[Any]]:
    """The columns of `FEATURES`: a row for each scene and, within it, each band. A mean of nobody is None."""
    shape = (len(snapshot), len(bands))
    found: dict[str, npt.NDArray[Any]] = {
        "facility_id": np.repeat(np.array(snapshot.facilities, dtype=object), len(bands)),
        "band": np.tile(np.array(bands, dtype=object), len(snapshot)),
        "as_of": np.repeat(np.array([_text(time) for time in snapshot.as_of], dtype=object), len(bands)),
        "local_hour": np.repeat(snapshot.local_hour(), len(bands)),
    }
    by_band = [_of_band(snapshot, snapshot.in_band(band)) for band in bands]
    for name in FEATURES:
        if name not in found:
            found[name] = np.stack([each[name] for each in by_band], axis=1).reshape(shape[0] * shape[1])
    return {name: _plain(found[name]) for name in FEATURES}


def _of_band(snapshot: Snapshot, band: npt.NDArray[np.bool_]) -> dict[str, npt.NDArray[Any]]:
    """The figures of each scene."""
    waiting = band & snapshot.waiting()
    longest = np.zeros(len(snapshot))
    np.maximum.at(longest, snapshot.scene()[waiting], -snapshot.arrived[waiting] * 60)
    found: dict[str, npt.NDArray[Any]] = {
        "waiting": _count(snapshot, waiting),
        "longest_waiting_seconds": longest,
        "arrived_60": _count(snapshot, band & _within(snapshot.arrived, 60)),
        "left_120": _count(snapshot, band & _within(snapshot.left, 120)),
    }
    for minutes in (60, 120, 240):
        seen = band & _within(snapshot.seen, minutes)
        number = _count(snapshot, seen)
        total = np.bincount(
            snapshot.scene()[seen], weights=snapshot.waits()[seen] * 60, minlength=len(snapshot)
        )
        found[f"seen_{minutes}"] = number
        found[f"mean_wait_{minutes}_seconds"] = np.where(number > 0, total / np.maximum(number, 1), np.nan)
    return found


def _within(minutes: npt.NDArray[np.float64], window: int) -> npt.NDArray[np.bool_]:
    # NaN is in no window.
    return minutes > -window


def _count(snapshot: Snapshot, rows: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    return np.bincount(snapshot.scene()[rows], minlength=len(snapshot))


def _plain(values: npt.NDArray[Any]) -> list[Any]:
    return [None if isinstance(value, float) and value != value else value for value in values.tolist()]


def _text(time: np.datetime64) -> str:
    return as_datetime(time).strftime("%Y-%m-%dT%H:%M:%SZ")
