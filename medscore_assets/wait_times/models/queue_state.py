"""What queues look like at many moments at once: who waits and for how long, who came and who left lately.

Belongs here: counts of events on a line by running sums. Does not belong here: how fast queues move
(`pace.py`) and what is made of it (`queue_fluid.py`, `quantile_boosting.py`).

A tick and months of training ask the same questions. Each line is a clock of its own: a scene of a tick,
asked at minute 0, or a facility's history, asked at thousands of minutes. Somebody waits from when the
arrival was on record until the end of the wait was, so that a model is trained on what it will see.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from medscore_assets.wait_times.bands import BANDS, UNKNOWN
from medscore_assets.wait_times.model import History
from medscore_assets.wait_times.snapshot import MINUTE_US, Snapshot
from medscore_assets.wait_times.visits import Visits

Numbers = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_SPAN = 1e7
"""Minutes between the clocks of two lines; no history is as long."""


class Running:
    """Events on lines in order: how many there were until a minute, and the sum of something about them."""

    def __init__(self, line: Places, minute: Numbers, of: Numbers | None = None):
        key = line * _SPAN + minute
        # Stable sorting is fast where much is in order already, as arrivals are.
        order = np.argsort(key, kind="stable")
        self._key = key[order]
        self._sum = None if of is None else np.concatenate([[0.0], np.cumsum(of[order])])

    def count(self, line: Places, until: Numbers) -> Places:
        """Events up to and with a minute, on this line and all before it: only differences mean something."""
        return np.searchsorted(self._key, line * _SPAN + until, side="right")

    def start(self, line: Places) -> Places:
        """The count before the first event of a line."""
        return np.searchsorted(self._key, line * _SPAN - _SPAN / 2)

    def total(self, place: Places) -> Numbers:
        """The sum over the events up to a count."""
        assert self._sum is not None
        found: Numbers = self._sum[place]
        return found


@dataclass(frozen=True)
class QueueEvents:
    """Visits on lines, shape (visits,), minutes on the line's clock: what happened and when it was on record.

    `ended` is when somebody was seen or left, infinite while waiting; `came_known` and `ended_known` are when
    each was on record, `triage_known` when both the arrival and the triage level were.
    """

    line: Places
    came: Numbers
    came_known: Numbers
    triage_known: Numbers
    ended: Numbers
    ended_known: Numbers
    seen: Mask
    ctas: npt.NDArray[np.int8]

    @classmethod
    def of_scenes(cls, snapshot: Snapshot, minutes: float = 24 * 60.0) -> Self:
        """A line for each scene, by what was known at its minute 0.

        No earlier time than `minutes` before may be asked about.
        """
        ended = _ended(snapshot)
        rows = np.flatnonzero(ended > -minutes)
        came, ended = snapshot.arrived[rows], ended[rows]
        line = snapshot.scene()[rows].astype(np.int64)
        return cls(line, came, came, came, ended, ended, snapshot.completed()[rows], snapshot.ctas[rows])

    def queues(self, band: str) -> Mask:
        """Visits in the queue of a band."""
        return BANDS[band].queues(self.ctas)

    @classmethod
    def of_history(cls, history: History) -> Self:
        """A line for each facility, on which any past minute may be asked."""
        snapshot = history.snapshot
        line = snapshot.scene().astype(np.int64)
        now = snapshot.as_of.view(np.int64)[line]
        came, triage, ended = _on_record(history.visits, snapshot.rows)
        came_known = np.maximum(snapshot.arrived, (came - now) / MINUTE_US)
        end = _ended(snapshot)
        return cls(
            line=line,
            came=snapshot.arrived,
            came_known=came_known,
            triage_known=np.maximum(came_known, (triage - now) / MINUTE_US),
            ended=end,
            ended_known=np.where(np.isinf(end), np.inf, np.maximum(end, (ended - now) / MINUTE_US)),
            seen=snapshot.completed(),
            ctas=snapshot.ctas,
        )

    def waiting(self, band: str, line: Places, minute: Numbers) -> tuple[Places, Numbers]:
        """How many wait in a band's queue (the band and the sicker), and their mean minutes so far.

        Shape (n,) each, as `line` and `minute`; the mean is 0 where nobody waits.
        """
        inside = self.queues(band)
        # Whose level nobody knows yet waits with everybody, and in no other queue.
        joined = self.came_known if UNKNOWN in BANDS[band].served_first else self.triage_known
        gone = inside & np.isfinite(self.ended_known)
        came = Running(self.line[inside], joined[inside], self.came[inside])
        left = Running(self.line[gone], np.maximum(self.ended_known, joined)[gone], self.came[gone])
        came_at, left_at = came.count(line, minute), left.count(line, minute)
        came_from, left_from = came.start(line), left.start(line)
        number = (came_at - came_from) - (left_at - left_from)
        arrivals = came.total(came_at) - came.total(came_from) - left.total(left_at) + left.total(left_from)
        elapsed = np.where(number > 0, minute - arrivals / np.maximum(number, 1), 0.0)
        return number, elapsed

    def arrivals(self, line: Places, minute: Numbers, within: float) -> Places:
        """How many came in the last `within` minutes, as far as was on record; shape (n,)."""
        everybody = np.ones(len(self.line), dtype=bool)
        return self._recent(everybody, self.came, self.came_known, line, minute, within)[0]

    def removals(self, line: Places, minute: Numbers, within: float) -> Places:
        """How many were seen or left in the last `within` minutes, as far as was on record; shape (n,)."""
        ended = np.isfinite(self.ended)
        return self._recent(ended, self.ended, self.ended_known, line, minute, within)[0]

    def recent_wait(self, band: str, line: Places, minute: Numbers, within: float) -> Numbers:
        """Mean minutes waited by those of a band seen in the last `within` minutes, NaN if none; (n,)."""
        inside = BANDS[band].holds(self.ctas) & self.seen
        number, total = self._recent(inside, self.ended, self.ended_known, line, minute, within)
        mean: Numbers = np.divide(total, number, out=np.full(len(number), np.nan), where=number > 0)
        return mean

    def _recent(
        self, chosen: Mask, happened: Numbers, known: Numbers, line: Places, minute: Numbers, within: float
    ) -> tuple[Places, Numbers]:
        """Count, and sum of waits, of events of the last minutes that were on record."""
        # What was put on record later than that was never among the last minutes while it was known.
        rows = np.flatnonzero(chosen)
        rows = rows[(known[rows] - happened[rows]) < within]
        waits = np.where(np.isfinite(self.ended[rows]), self.ended[rows] - self.came[rows], 0.0)
        until = Running(self.line[rows], known[rows], waits)
        before = Running(self.line[rows], happened[rows], waits)
        last, first = until.count(line, minute), before.count(line, minute - within)
        return last - first, until.total(last) - before.total(first)


def _ended(snapshot: Snapshot) -> Numbers:
    """When each wait ended, in minutes; infinite while it lasts."""
    end = np.fmin(np.fmin(snapshot.seen, snapshot.left), snapshot.departed)
    return np.where(np.isnan(end), np.inf, end)


def _on_record(visits: Visits, rows: Places) -> list[Places]:
    """Of the visits of versions `rows`: when the arrival, the triage level and the end were first on record.

    Microseconds since 1970; where no version has one, when the version itself was recorded.
    """
    recorded = visits.recorded_at.view(np.int64)
    ends = ~(np.isnat(visits.pia_at) & np.isnat(visits.left_at) & np.isnat(visits.disposition_at))
    order = np.lexsort((recorded, visits.visit))
    number = visits.visit[order]
    found = []
    for has in (~np.isnat(visits.arrival), visits.ctas != UNKNOWN, ends):
        kept = has[order]
        some, first = np.unique(number[kept], return_index=True)
        times = recorded[order][kept][first]
        wanted = visits.visit[rows]
        at = np.minimum(np.searchsorted(some, wanted), max(len(some) - 1, 0))
        known = (some[at] == wanted) if len(some) else np.zeros(len(rows), dtype=bool)
        found.append(np.where(known, times[at] if len(some) else 0, recorded[rows]))
    return found
