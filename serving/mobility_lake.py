"""What the API reads of the lake: one patient's newest features and days of steps.

Belongs here: which files those are, and the newest features kept in memory. Does not belong here: what
features and steps are (`medscore_assets/mobility`), forecasts (`mobility_forecasts.py`), HTTP.

The functions are synchronous; routes run them in threads.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from medscore_assets.mobility.daily import DAILY_STEPS
from medscore_assets.mobility.forecasts import PATIENT_FEATURES, features_of
from medscore_assets.mobility.raw import PATIENTS
from resources.errors import PermanentError
from resources.lake import Dataset, Lake

if TYPE_CHECKING:
    pass

LOOKED_AT_S = 5.0
"""How long a listing of the lake, and a file that was read, may pass for the newest."""

_KEPT_DAYS = 2
"""Days of features in memory: 40 MB each for 100,000 patients."""

_LOOK_BACK = 14
"""Days that are looked for one by one before the whole lake is listed."""

_RECENT = 7
"""Days of steps in which somebody without features and clinical data is looked for."""

_OF_A_DAY = ["day", "steps", "wear_minutes", "flags"]

ONE_DAY = timedelta(days=1)


@dataclass(slots=True)
class _Kept:
    """The features of a day, from files that were so when they were looked at."""

    stamp: tuple[Any, ...]
    table: pa.Table
    looked_at: float


@dataclass(frozen=True, slots=True)
class History:
    """Some days of a patient."""

    rows: dict[date, dict[str, Any]]
    """Day, steps, wear minutes and flags by day; days without data are absent."""
    unread: dict[date, PermanentError]
    """Days whose file cannot be read, and why."""


class PatientLake:
    """One patient's rows of a lake that is opened when it is first needed. Safe to share between threads.

    Methods raise `PermanentError` naming the file if one is damaged, `TransientError` if the lake cannot
    be reached.
    """

    def __init__(self, opening: Callable[[], Lake]) -> None:
        self._opening = opening
        self._lake: Lake | None = None
        self._guard = threading.Lock()
        self._kept: OrderedDict[date, _Kept] = OrderedDict()
        self._newest: dict[date, tuple[date | None, float]] = {}

    @property
    def lake(self) -> Lake:
        """The lake."""
        if self._lake is None:
            self._lake = self._opening()
        return self._lake

    def newest_day(self, until: date) -> date | None:
        """The newest day up to `until` for which there are features."""
        known = self._newest.get(until)
        if known is not None and time.monotonic() - known[1] < LOOKED_AT_S:
            return known[0]
        found = self._look_for(until)
        self._newest = {until: (found, time.monotonic())}
        return found

    def _look_for(self, until: date) -> date | None:
        back = (until - n * ONE_DAY for n in range(_LOOK_BACK))
        near = next((day for day in back if self.lake.files(PATIENT_FEATURES, day)), None)
        if near is not None:
            return near
        return max((day for day in self.lake.days(PATIENT_FEATURES) if day <= until), default=None)

    def features(self, day: date, patient_id: str) -> pa.Table | None:
        """The patient's row of features of a day, if there is one."""
        with self._guard:
            table = self._table(day)
        if table is None:
            return None
        place = pc.index(table["patient_id"], pa.scalar(patient_id, table["patient_id"].type)).as_py()
        return None if place < 0 else table.slice(place, 1)

    def _table(self, day: date) -> pa.Table | None:
        """The features of a day, read again once their files are others."""
        kept = self._kept.get(day)
        if kept is not None and time.monotonic() - kept.looked_at < LOOKED_AT_S:
            return kept.table
        names = self.lake.files(PATIENT_FEATURES, day)
        if not names:
            self._kept.pop(day, None)
            return None
        stamp = _stamp(self.lake.local(names))
        if kept is None or kept.stamp != stamp:
            kept = _Kept(stamp, features_of(self.lake, day), 0.0)
        kept.looked_at = time.monotonic()
        self._kept[day] = kept
        self._kept.move_to_end(day)
        while len(self._kept) > _KEPT_DAYS:
            self._kept.popitem(last=False)
        return kept.table

    def history(self, patient_id: str, first: date, last: date) -> History:
        """The patient's days of steps from `first` to `last`. A damaged file costs its own day alone."""
        days = [first + n * ONE_DAY for n in range((last - first).days + 1)]
        names = {day: self.lake.files(DAILY_STEPS, day) for day in days}
        try:
            everything = [name for day in days for name in names[day]]
            rows = self._rows(DAILY_STEPS, everything, patient_id, _OF_A_DAY)
            return History({row["day"]: row for row in rows}, {})
        except PermanentError:
            found = History({}, {})
        for day in days:
            try:
                rows = self._rows(DAILY_STEPS, names[day], patient_id, _OF_A_DAY)
                found.rows.update((row["day"], row) for row in rows)
            except PermanentError as error:
                found.unread[day] = error
        return found

    def knows(self, patient_id: str, day: date) -> bool:
        """Whether the lake holds the patient at all: in the clinical data, or in the days before `day`."""
        if self._rows(PATIENTS, self.lake.files(PATIENTS), patient_id, ["patient_id"]):
            return True
        return bool(self.history(patient_id, day - _RECENT * ONE_DAY, day).rows)

    def _rows(
        self, dataset: Dataset, names: list[str], patient_id: str, columns: list[str]
    ) -> list[dict[str, Any]]:
        """Some columns of the rows of one patient, read from files in parallel."""
        from pyarrow import dataset as files

        if not names:
            return []
        self.lake.check(dataset, names)
        with self.lake.reading(dataset, names):
            opened = files.dataset(self.lake.local(names), schema=dataset.schema, format="parquet")
            mine = files.field("patient_id") == patient_id
            found: list[dict[str, Any]] = opened.to_table(columns, filter=mine).to_pylist()
        return found


def _stamp(paths: list[str]) -> tuple[Any, ...]:
    """What tells a file from the one that replaces it."""
    return tuple((path, (s := os.stat(path)).st_mtime_ns, s.st_size, s.st_ino) for path in paths)
