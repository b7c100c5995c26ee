"""Models behind the native interface edwait/1: GET /metadata, then POST /predict.

Belongs here: the order of the two calls and what they must agree on. Does not belong here: their bodies
(`wire.py`).
"""

from __future__ import annotations

from medscore_assets.wait_times.http.base import Given, HttpModel
from medscore_assets.wait_times.http.client import Caller
from medscore_assets.wait_times.http.wire import (
    Asked,
    Metadata,
    predict_body,
    read,
    read_predictions,
    version_of,
)
from medscore_assets.wait_times.snapshot import Snapshot


class NativeModel(HttpModel):
    """Asks for the metadata at every tick: a server that was replaced in between says so itself."""

    async def ask(self, caller: Caller, snapshot: Snapshot, asked: Asked, request_id: str) -> Given:
        entry = self.entry
        metadata = read(Metadata, (await caller.get("/metadata")).content, entry, "the metadata")
        self.require_named(metadata.name, self.name)
        promised = version_of(metadata.version, entry)
        hours = min(entry.hours, metadata.max_history_hours or entry.hours)
        body = predict_body(snapshot, entry, request_id, metadata.columns, hours)
        answer = await caller.post("/predict", body, request_id)
        stamp, predictions = read_predictions(answer.content, asked, entry)
        self.require_named(stamp.name, self.name)
        return Given(promised, version_of(stamp.version, entry), predictions)
