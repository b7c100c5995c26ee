"""Local hours and days of moments in UTC, right on days when the clocks change.

Belongs here: the offset of a zone at many moments at once. Does not belong here: what an hour is good for.
"""

from __future__ import annotations

import functools
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from resources.errors import PermanentError

Times = npt.NDArray[np.datetime64]

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
_SLOT_US = HOUR_US // 4
"""No zone changes its clocks off a quarter of an hour."""
_SLOTS = 96
_MOST_DAYS = 20_000


def moment(time: datetime) -> np.datetime64:
    """A time that carries its zone as UTC, in microseconds. Raises PermanentError for one without a zone."""
    if time.tzinfo is None:
        raise PermanentError(
            "A time has no zone", where="wait times", mend="Give it in UTC or with the facility's zone."
        )
    return np.datetime64(time.astimezone(UTC).replace(tzinfo=None), "us")


def as_datetime(time: np.datetime64) -> datetime:
    """A moment in UTC as Python's datetime."""
    found: datetime = time.astype("datetime64[us]").item()
    return found.replace(tzinfo=UTC)


def local_times(times: Times, zone: str) -> Times:
    """The local clock at moments in UTC, datetime64[us] of any shape; NaT stays NaT."""
    utc = np.asarray(times).astype("datetime64[us]")
    known = ~np.isnat(utc)
    if not known.any():
        return utc
    whole = utc.view(np.int64)
    days = np.where(known, whole // DAY_US, 0)
    first = int(days[known].min())
    span = int(days[known].max()) - first + 1
    if span > _MOST_DAYS:
        raise PermanentError(
            "Times are decades apart", where="wait times", mend="Look for a year that was mistyped."
        )
    offsets = np.concatenate([_offsets(zone, first + day) for day in range(span)])
    slot = np.where(known, whole // _SLOT_US - first * _SLOTS, 0)
    return np.where(known, whole + offsets[slot], whole).view("datetime64[us]")


def local_hours(times: Times, zone: str) -> npt.NDArray[np.int8]:
    """The local hour of the day, 0 to 23, of moments in UTC; -1 for NaT."""
    local = local_times(times, zone)
    return np.where(np.isnat(local), -1, local.view(np.int64) % DAY_US // HOUR_US).astype(np.int8)


@functools.lru_cache(maxsize=16_384)
def _offsets(zone: str, day: int) -> npt.NDArray[np.int64]:
    """The offset from UTC, in microseconds, in each quarter of an hour of a day (in UTC, since 1970)."""
    start = datetime.fromtimestamp(day * 86_400, UTC)
    first, last = (_offset(zone, start + timedelta(days=days)) for days in (0, 1))
    if first == last:
        return np.full(_SLOTS, first, dtype=np.int64)
    quarters = [start + timedelta(minutes=15 * slot) for slot in range(_SLOTS)]
    return np.array([_offset(zone, quarter) for quarter in quarters], dtype=np.int64)


def _offset(zone: str, time: datetime) -> int:
    offset = time.astimezone(ZoneInfo(zone)).utcoffset()
    return 0 if offset is None else offset // timedelta(microseconds=1)
