"""What was known about emergency departments at a moment, for many moments at once.

Belongs here: the one input of every model, built the same way for a live tick, a backtest and training.
Does not belong here: reading visits (`store.py`), the rules for valid waits (`visits.py`) and estimates.

Nothing that was recorded or that happened after the moment is in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from medscore_assets.wait_times.bands import BANDS
from medscore_assets.wait_times.clock import local_hours, moment
from medscore_assets.wait_times.visits import (
    NEVER,
    RULES,
    VALID,
    Floats,
    Ints,
    Mask,
    Times,
    Visits,
    broken_rule,
)
from resources.errors import PermanentError

if TYPE_CHECKING:
    import pandas as pd

HISTORY = timedelta(hours=96)
MINUTE_US = 60_000_000

_Scalar = TypeVar("_Scalar", bound=np.generic)


@dataclass(frozen=True)
class Snapshot:
    """Scenes: a facility at a moment.

    A live tick has one scene for each facility, all of one moment; a backtest has a day of ticks. Every model
    works on scenes, so both run the same code. The arrays are read-only: a model that writes raises.
    """

    facilities: tuple[str, ...]
    """Of each scene."""
    zones: tuple[str, ...]
    """The IANA time zone of each scene."""
    as_of: Times
    """The moment of each scene, datetime64[us] in UTC."""
    offsets: Ints
    """The rows of scene s are offsets[s]:offsets[s + 1], sorted by arrival. Of shape (scenes + 1,)."""
    arrived: Floats
    """Minutes from `as_of` to the start of each row's wait: 0 or less. From here the shape is (rows,)."""
    seen: Floats
    """Minutes from `as_of` to the PIA, 0 or less; NaN where none is known (yet)."""
    left: Floats
    """Likewise, leaving without being seen."""
    departed: Floats
    """Likewise, the disposition."""
    ctas: npt.NDArray[np.int8]
    """Triage levels, 0 where unknown."""
    rows: Ints
    """Which of the visits each row is."""
    newest_record: Times
    """Of each scene: when the newest of its visits was recorded, NaT without any."""
    dropped: Mapping[str, Mapping[str, int]]
    """By facility and rule, how many visits are left out at the facility's newest moment."""

    def __post_init__(self) -> None:
        for array in (self.as_of, self.offsets, self.arrived, self.seen, self.left, self.departed):
            array.flags.writeable = False
        for other in (self.ctas, self.rows, self.newest_record):
            other.flags.writeable = False

    def __len__(self) -> int:
        return len(self.facilities)

    @property
    def ticks(self) -> int:
        """How many different moments there are."""
        return len(np.unique(self.as_of))

    def scene(self) -> npt.NDArray[np.int32]:
        """The scene of each row."""
        return self._scene

    def completed(self) -> Mask:
        """Rows whose wait has ended with a physician."""
        return self._completed

    def waiting(self) -> Mask:
        """Rows who wait at the moment: neither seen nor gone as far as is known."""
        return self._waiting

    def in_band(self, code: str) -> Mask:
        """Rows of a band. Raises KeyError for a band that there is not."""
        return self._bands[code]

    def in_queue(self, code: str) -> Mask:
        """Rows who are as sick as a band or sicker: the queue in which its patients wait."""
        return BANDS[code].queues(self.ctas)

    def waits(self) -> Floats:
        """Minutes that each row waited, NaN without a PIA."""
        return self._waits

    def local_hour(self) -> npt.NDArray[np.int8]:
        """The local hour of the day, 0 to 23, of each scene."""
        return self.local_hours(np.zeros(len(self)), np.arange(len(self)))

    def local_hours(self, minutes: Floats, scene: npt.NDArray[Any]) -> npt.NDArray[np.int8]:
        """The local hour of the day at so many minutes from the moment of a scene; -1 where NaN."""
        nothing = np.isnan(minutes)
        shift = np.where(nothing, 0, minutes * MINUTE_US).round().astype(np.int64)
        times = (self.as_of.view(np.int64)[scene] + shift).view("datetime64[us]")
        names = sorted(set(self.zones))
        if len(names) == 1:
            hours = local_hours(times, names[0])
        else:
            zone = np.array([names.index(name) for name in self.zones])[scene]
            hours = np.zeros(len(times), dtype=np.int8)
            for number, name in enumerate(names):
                hours[zone == number] = local_hours(times[zone == number], name)
        return np.where(nothing, -1, hours).astype(np.int8)

    def only(self, scenes: Sequence[int] | npt.NDArray[Any]) -> Snapshot:
        """A part of it: these scenes, in this order."""
        wanted = np.asarray(scenes, dtype=np.int64)
        rows, of_scene = _ranges(self.offsets[wanted], self.offsets[wanted + 1])
        return Snapshot(
            facilities=tuple(self.facilities[scene] for scene in wanted),
            zones=tuple(self.zones[scene] for scene in wanted),
            as_of=self.as_of[wanted],
            offsets=_offsets(of_scene, len(wanted)),
            arrived=self.arrived[rows],
            seen=self.seen[rows],
            left=self.left[rows],
            departed=self.departed[rows],
            ctas=self.ctas[rows],
            rows=self.rows[rows],
            newest_record=self.newest_record[wanted],
            dropped=MappingProxyType(
                {name: self.dropped[name] for name in {self.facilities[scene] for scene in wanted}}
            ),
        )

    def frame(self, scene: int, band: str | None = None) -> pd.DataFrame:
        """The visits of a scene, all of them or those of a band, as a frame of its own that may be changed.

        Columns: arrival, seen, left, departed (times in UTC, NaT where nothing is known), ctas (0: unknown),
        wait_seconds (NaN without a PIA), waiting (bool). Sorted by arrival.
        """
        import pandas as pd

        rows: Any = slice(int(self.offsets[scene]), int(self.offsets[scene + 1]))
        if band is not None:
            rows = np.flatnonzero(self._bands[band][rows]) + rows.start
        return pd.DataFrame(
            {
                "arrival": self._times(scene, self.arrived[rows]),
                "seen": self._times(scene, self.seen[rows]),
                "left": self._times(scene, self.left[rows]),
                "departed": self._times(scene, self.departed[rows]),
                "ctas": self.ctas[rows].copy(),
                "wait_seconds": self._waits[rows] * 60,
                "waiting": self._waiting[rows].copy(),
            }
        )

    def _times(self, scene: int, minutes: Floats) -> pd.DatetimeIndex:
        import pandas as pd

        nothing = np.isnan(minutes)
        shift = np.where(nothing, 0, minutes * MINUTE_US).round().astype(np.int64)
        whole = np.where(nothing, NEVER, self.as_of.view(np.int64)[scene] + shift)
        return pd.DatetimeIndex(whole.view("datetime64[us]"), tz="UTC")

    @cached_property
    def _scene(self) -> npt.NDArray[np.int32]:
        return _read_only(np.repeat(np.arange(len(self), dtype=np.int32), np.diff(self.offsets)))

    @cached_property
    def _completed(self) -> Mask:
        return _read_only(~np.isnan(self.seen))

    @cached_property
    def _waiting(self) -> Mask:
        return _read_only(np.isnan(self.seen) & np.isnan(self.left) & np.isnan(self.departed))

    @cached_property
    def _waits(self) -> Floats:
        return _read_only(self.seen - self.arrived)

    @cached_property
    def _bands(self) -> dict[str, Mask]:
        return {code: _read_only(band.holds(self.ctas)) for code, band in BANDS.items()}


def build_snapshot(
    visits: Visits,
    scenes: Sequence[tuple[str, datetime]],
    zones: Mapping[str, str],
    history: timedelta = HISTORY,
) -> Snapshot:
    """What was known in each scene (facility, moment), of visits that began within `history` before it.

    `zones` gives the time zone of each facility. A version of a visit counts if it held at the moment, and
    what it says about later times is left out. Raises PermanentError for a moment without a zone, or for a
    facility without one.
    """
    facilities = tuple(facility for facility, _ in scenes)
    moments = {time: moment(time) for time in {time for _, time in scenes}}
    as_of = np.array([moments[time] for _, time in scenes], dtype="datetime64[us]")
    now = as_of.view(np.int64)
    rows, scene = _ranges(*_windows(visits, facilities, now, history))
    now_of_row = now[scene]
    held = np.flatnonzero(_held(visits, rows, now_of_row))
    rows, scene, now_of_row = rows[held], scene[held], now_of_row[held]

    arrived, seen, left, departed = (
        _minutes(times, rows, now_of_row)
        for times in (visits.arrival, visits.pia_at, visits.left_at, visits.disposition_at)
    )
    broken = broken_rule(visits.scheduled[rows], arrived, seen, left, departed)
    twins = np.where(np.isnan(seen), -1, visits.twins[rows])
    _mark_duplicates(broken, scene, visits.overlapping[rows], -visits.recorded_at.view(np.int64)[rows])
    _mark_duplicates(broken, scene, twins, np.arange(len(rows)))
    valid = np.flatnonzero(broken == VALID)
    return Snapshot(
        facilities=facilities,
        zones=tuple(_zone(zones, facility) for facility in facilities),
        as_of=as_of,
        offsets=_offsets(scene[valid], len(facilities)),
        arrived=arrived[valid],
        seen=seen[valid],
        left=left[valid],
        departed=departed[valid],
        ctas=visits.ctas[rows[valid]],
        rows=rows[valid],
        newest_record=_newest(visits.recorded_at[rows], _offsets(scene, len(facilities))),
        dropped=_dropped(broken, _offsets(scene, len(facilities)), facilities, now),
    )


def _zone(zones: Mapping[str, str], facility: str) -> str:
    if facility not in zones:
        raise PermanentError(
            "A facility has no time zone", where=f"facility {facility}", mend="Give it one in ed_facilities."
        )
    return zones[facility]


def _windows(visits: Visits, facilities: tuple[str, ...], now: Ints, history: timedelta) -> tuple[Ints, Ints]:
    """Of each scene: the first of its visits' versions, and the one after the last."""
    first, after = np.zeros(len(facilities), np.int64), np.zeros(len(facilities), np.int64)
    code = {name: number for number, name in enumerate(visits.facilities)}
    scene_code = np.array([code.get(name, -1) for name in facilities], dtype=np.int64)
    earliest = now - history // timedelta(microseconds=1)
    for number in np.unique(scene_code[scene_code >= 0]):
        at = np.flatnonzero(scene_code == number)
        start = visits.starts[number]
        keys = visits.sorted_by[start : visits.starts[number + 1]]
        first[at] = start + np.searchsorted(keys, earliest[at], side="right")
        after[at] = start + np.searchsorted(keys, now[at], side="right")
    return first, after


def _ranges(first: Ints, after: Ints) -> tuple[Ints, npt.NDArray[np.int32]]:
    """The whole numbers of first[0]:after[0], first[1]:after[1] and so on, and of which range each is."""
    lengths = after - first
    of = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    begins = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) + np.repeat(first - begins, lengths), of


def _offsets(scene: npt.NDArray[np.int32], scenes: int) -> Ints:
    """The place of the first row of each scene, and the one after the last; scenes of rows ascend."""
    return np.searchsorted(scene, np.arange(scenes + 1, dtype=np.int32)).astype(np.int64)


def _held(visits: Visits, rows: Ints, now: Ints) -> Mask:
    until = visits.superseded_at.view(np.int64)[rows]
    held: Mask = (visits.recorded_at.view(np.int64)[rows] <= now) & ((until == NEVER) | (until > now))
    return held


def _minutes(times: Times, rows: Ints, now: Ints) -> Floats:
    """Minutes from the moment, NaN where nothing is known or where it lies ahead."""
    whole = times.view(np.int64)[rows]
    minutes = (whole - now) / MINUTE_US
    np.copyto(minutes, np.nan, where=(whole == NEVER) | (whole > now))
    return minutes


def _mark_duplicates(
    broken: npt.NDArray[np.int8], scene: npt.NDArray[np.int32], group: Ints, order: Ints
) -> None:
    """Of the valid rows of a group (-1: none) in a scene, marks all but the first in `order`."""
    at = np.flatnonzero((group >= 0) & (broken == VALID))
    if len(at):
        at = at[np.lexsort((order[at], group[at], scene[at]))]
        again = (group[at][1:] == group[at][:-1]) & (scene[at][1:] == scene[at][:-1])
        broken[at[1:][again]] = RULES.index("duplicate") + 1


def _newest(recorded: Times, offsets: Ints) -> Times:
    found = np.full(len(offsets) - 1, NEVER, dtype=np.int64)
    some = np.diff(offsets) > 0
    if some.any():
        found[some] = np.maximum.reduceat(recorded.view(np.int64), offsets[:-1][some])
    return found.view("datetime64[us]")


def _dropped(
    broken: npt.NDArray[np.int8], offsets: Ints, facilities: tuple[str, ...], now: Ints
) -> Mapping[str, Mapping[str, int]]:
    newest: dict[str, int] = {}
    for scene, facility in enumerate(facilities):
        if facility not in newest or now[scene] > now[newest[facility]]:
            newest[facility] = scene
    found = {}
    for facility, scene in newest.items():
        counts = np.bincount(broken[offsets[scene] : offsets[scene + 1]], minlength=len(RULES) + 1)
        found[facility] = {rule: int(counts[number + 1]) for number, rule in enumerate(RULES)}
    return MappingProxyType(found)


def _read_only(array: npt.NDArray[_Scalar]) -> npt.NDArray[_Scalar]:
    array.flags.writeable = False
    return array
