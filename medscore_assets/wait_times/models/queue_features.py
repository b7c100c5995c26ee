"""What the boosted quantiles know about a queue at a moment, and the patients they learn from.

Belongs here: the features, the same for a tick and for training, and the training rows. Does not belong here:
the trees (`quantile_boosting.py`) and the counts behind the features (`queue_state.py`, `pace.py`).

Counts are given relative to the facility's usual pace, so that one pooled model serves large and small ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medscore_assets.wait_times.bands import ALL_BANDS, ALL_POSTED
from medscore_assets.wait_times.model import History
from medscore_assets.wait_times.models.pace import SLOT_MINUTES, Drain
from medscore_assets.wait_times.models.queue_state import QueueEvents
from medscore_assets.wait_times.snapshot import Snapshot

Numbers = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]

FEATURES = (
    "drain",
    "drain_all",
    "drain_sickest",
    "mean_elapsed",
    "mean_elapsed_all",
    "recent_wait",
    "recent_wait_all",
    "moved_1h",
    "moved_4h",
    "came_1h",
    "came_4h",
    "pace_now",
    "usual_pace",
    "hour",
    "band",
)
"""Times are in minutes, paces in patients an hour. `drain*` is how long the band's queue, everybody, or the
CTAS 1 and 2 take to drain; what moved and came is relative to the usual pace of those hours; `hour` is local,
`band` the place of the band."""

RECENT_MINUTES = 120.0
DRAIN = FEATURES.index("drain")


class QueueFeatures:
    """Features of queues on lines whose paces are known, at any moments."""

    def __init__(
        self,
        snapshot: Snapshot,
        events: QueueEvents,
        paces: Sequence[Mapping[str, Any]],
        minutes: float = 0.0,
    ):
        """Lines are the scenes of a snapshot, asked from `minutes` before their moment up to it."""
        self._snapshot, self._events = snapshot, events
        self._drain = Drain(snapshot, paces, minutes + 4 * 60.0)
        self._usual = np.array([float(np.mean(pace["by_hour"])) for pace in paces])

    def at(self, line: Places, minute: Numbers) -> dict[str, Numbers]:
        """Features per band, shape (n, features), at moments (n,) on lines (n,)."""
        events = self._events
        hour = self._snapshot.local_hours(minute, line).astype(np.float64)
        shared: dict[str, Numbers] = {"hour": hour, "usual_pace": self._usual[line]}
        for hours in (1, 4):
            within = hours * 60.0
            usual = self._drain.gone(line, minute - within, minute)
            shared[f"moved_{hours}h"] = events.removals(line, minute, within) / usual
            shared[f"came_{hours}h"] = events.arrivals(line, minute, within) / usual
        shared["pace_now"] = self._drain.gone(line, minute, minute + 60.0)
        waits = {band: events.recent_wait(band, line, minute, RECENT_MINUTES) for band in ALL_BANDS}
        queue = {band: events.waiting(band, line, minute) for band in ALL_BANDS}
        drain = {
            band: self._drain.minutes(band, line, minute, (waiting + 1).astype(np.float64))
            for band, (waiting, _) in queue.items()
        }
        shared["drain_all"], shared["drain_sickest"] = drain[ALL_POSTED], drain["ctas_2"]
        shared["mean_elapsed_all"], shared["recent_wait_all"] = queue[ALL_POSTED][1], waits[ALL_POSTED]
        found = {}
        for place, band in enumerate(ALL_BANDS):
            own = {
                "drain": drain[band],
                "mean_elapsed": queue[band][1],
                "recent_wait": waits[band],
                "band": np.full(len(line), float(place)),
            }
            values = shared | own
            found[band] = np.stack([values[name] for name in FEATURES], axis=1)
        return found


@dataclass(frozen=True)
class TrainingRows:
    """Features (n, features) at the tick before each patient's arrival, and the wait in minutes (n,)."""

    features: Numbers
    waits: Numbers


def training_rows(
    history: History, paces: Mapping[str, Mapping[str, Any]], days: int, settle_hours: float, most: int
) -> TrainingRows:
    """Everybody who was seen, once in the own band and once among all posted; at most about `most` rows.

    Patients of the last `settle_hours` are left out: of them only the short waits are known yet. Patients
    who left unseen are no rows, as scores are of those who were seen; the queue that they left is in the
    features. Where there are too many, every k-th patient is taken.
    """
    snapshot = history.snapshot
    usable = np.array([facility in paces for facility in snapshot.facilities], dtype=bool)
    flat = {"by_hour": [1.0] * 24, "share": {}}
    of_line = [paces.get(facility, flat) for facility in snapshot.facilities]
    minutes = min(days, history.days) * 24 * 60.0
    rows = np.flatnonzero(
        snapshot.completed()
        & usable[snapshot.scene()]
        & (snapshot.arrived > -minutes)
        & (snapshot.arrived < -settle_hours * 60)
        & (snapshot.ctas != 1)
    )
    rows = rows[:: max(1, -(-2 * len(rows) // most))]
    line = snapshot.scene()[rows].astype(np.int64)
    tick = np.floor(snapshot.arrived[rows] / SLOT_MINUTES) * SLOT_MINUTES
    events = QueueEvents.of_history(history)
    features = QueueFeatures(snapshot, events, of_line, minutes + SLOT_MINUTES).at(line, tick)
    parts, waits = [], []
    for band, values in features.items():
        inside = snapshot.in_band(band)[rows]
        parts.append(values[inside])
        waits.append(snapshot.waits()[rows][inside])
    return TrainingRows(np.concatenate(parts), np.concatenate(waits))
