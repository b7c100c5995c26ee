"""A model that another server runs, as the engine sees it: one exchange for all facilities of a tick.

Belongs here: what all protocols share: the breaker, the stamp of name and version, what a failure is.
Does not belong here: a protocol (`native.py`, `open_inference.py`, `mlflow_scoring.py`) and transport
(`client.py`).
"""

from __future__ import annotations

import hashlib
import json
import uuid
from abc import abstractmethod
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar

import numpy as np

from medscore_assets.wait_times.clock import as_datetime
from medscore_assets.wait_times.http.breaker import Breaker
from medscore_assets.wait_times.http.client import Caller, Unreachable, exchange, where_of
from medscore_assets.wait_times.http.entry import HttpEntry
from medscore_assets.wait_times.http.wire import Asked, refused
from medscore_assets.wait_times.model import BatchModel, Fitted
from medscore_assets.wait_times.prediction import Predictions
from medscore_assets.wait_times.snapshot import Snapshot
from resources.errors import PermanentError

NEVER_SEEN = "0.0.0"
"""The version of a server that has not answered yet."""
_SLACK = timedelta(seconds=1)
"""So that a late server is the exchange's error, which says more than the engine's."""


@dataclass(frozen=True, slots=True)
class Given:
    """What a server answered."""

    promised: str | None
    """The version that it named before it answered, None where the protocol has no such promise."""
    version: str
    """The version that the answer is stamped with."""
    predictions: Predictions


class HttpModel(BatchModel):
    """Asks one server. Its version is the one that the last answer was stamped with.

    `breaker` and `expect` carry what is known from one tick to the next: see `prepared`.
    """

    replayable: ClassVar[bool] = False
    retries_parts: ClassVar[bool] = False
    remote: ClassVar[bool] = True

    def __init__(self, entry: HttpEntry) -> None:
        self.entry = entry
        self.name = entry.name
        self.version = entry.version or NEVER_SEEN
        self.bands = entry.bands
        self.time_limit = entry.time_limit + _SLACK
        self.breaker = Breaker()
        self.version_changed = False
        """Whether the last answer had another version than the server had said, or than was expected."""

    def expect(self, version: str) -> None:
        """Takes note of the version that answered in an earlier tick; error rows are filed under it."""
        if self.entry.version is None:
            self.version = version

    def parameters(self) -> dict[str, Any]:
        """How the model is asked. Not where: a server may move, and its address is nobody's business."""
        entry = self.entry
        return {"adapter": entry.adapter, "hours": entry.hours, "model": entry.model or entry.name}

    def fingerprint(self) -> str:
        """SHA-256 of how the model is asked: its code is the server's, known by its version only."""
        told = json.dumps([self.name, self.parameters(), list(self.bands)], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()

    def predict_all(self, snapshot: Snapshot, fitted: Fitted) -> Predictions:
        """One exchange for all facilities. Raises `TooSlow`, `Unreachable` or `RefusedAnswer`.

        After three failed exchanges in a row the server is left alone for a while: `Unreachable` as well.
        """
        if not len(snapshot):
            return Predictions.empty(0, self.bands)
        asked = self._asked(snapshot)
        self._require_closed(asked)
        answered = self.version_changed = False
        try:
            given = exchange(self.entry, lambda caller: self.ask(caller, snapshot, asked, str(uuid.uuid4())))
            answered = True
        finally:
            self.breaker = self.breaker.after(answered=answered, at=asked.as_of)
        self.version_changed = given.version != (given.promised or given.version) or (
            self.version not in (NEVER_SEEN, given.version)
        )
        self.version = given.version
        given.predictions.stamp = (self.name, given.version)
        return given.predictions

    @abstractmethod
    async def ask(self, caller: Caller, snapshot: Snapshot, asked: Asked, request_id: str) -> Given:
        """The exchange in the server's protocol."""

    def require_named(self, told: str, wanted: str) -> None:
        """Raises `RefusedAnswer` where another model than the wanted one answers."""
        if told != wanted:
            raise refused("another model answers here than the entry names", self.entry)

    def _asked(self, snapshot: Snapshot) -> Asked:
        if len(np.unique(snapshot.as_of)) > 1 or len(set(snapshot.facilities)) < len(snapshot):
            raise PermanentError(
                "a server is asked about one moment at a time",
                where=where_of(self.entry),
                mend="Leave HTTP models out of what replays the past.",
            )
        return Asked(as_datetime(snapshot.as_of[0]), snapshot.facilities, self.bands)

    def _require_closed(self, asked: Asked) -> None:
        if not self.breaker.allows(asked.as_of):
            again = self.breaker.asks_again_at
            raise Unreachable(
                f"not asked after {self.breaker.failures} failures in a row, until {again:%H:%M} UTC",
                where=where_of(self.entry),
                mend="Look into the server's log.",
            )
