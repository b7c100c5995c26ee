"""Models behind MLflow's scoring server: POST /invocations.

Belongs here: its data frame in JSON, and what is read from its predictions. Does not belong here: what
the columns mean (`features.py`), and the registry of models that MedScore itself trains.

The server does not say which model it runs (its /version is MLflow's own), so name and version stand in the
entry. Where whoever deploys it adds a header with the version, that header is believed, and demanded.
"""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from pydantic import BaseModel, ConfigDict, Field

from medscore_assets.wait_times.http.base import Given, HttpModel
from medscore_assets.wait_times.http.client import Answer, Caller
from medscore_assets.wait_times.http.features import features
from medscore_assets.wait_times.http.rows import fill
from medscore_assets.wait_times.http.wire import Asked, read, refused, version_of
from medscore_assets.wait_times.prediction import Predictions
from medscore_assets.wait_times.snapshot import Snapshot

_SECONDS = {"seconds": 1, "minutes": 60}


class Scored(BaseModel):
    """The answer to POST /invocations: records, or bare numbers."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, hide_input_in_errors=True)

    predictions: Annotated[list[Any], Field(max_length=1_000_000)]


class MLflowModel(HttpModel):
    """Sends `dataframe_split` with all columns; a model's signature takes those that it needs."""

    async def ask(self, caller: Caller, snapshot: Snapshot, asked: Asked, request_id: str) -> Given:
        columns = features(snapshot, asked.bands)
        rows = [list(row) for row in zip(*columns.values(), strict=True)]
        body = orjson.dumps({"dataframe_split": {"columns": list(columns), "data": rows}})
        answer = await caller.post("/invocations", body, request_id)
        promised = self.entry.version
        return Given(promised, self._version(answer), self._predictions(answer, asked))

    def _version(self, answer: Answer) -> str:
        header = self.entry.version_header
        if header is None:
            return str(self.entry.version)
        told = answer.headers.get(header.lower())
        if told is None:
            raise refused(f"the answer has no header {header}", self.entry)
        return version_of(told, self.entry)

    def _predictions(self, answer: Answer, asked: Asked) -> Predictions:
        told = read(Scored, answer.content, self.entry, "the answer").predictions
        if len(told) != len(asked.facilities) * len(asked.bands):
            raise refused("the answer must have one prediction for each row", self.entry)
        if all(isinstance(each, dict) for each in told):
            if any("wait_seconds" not in each for each in told):
                raise refused("a record has no wait_seconds", self.entry)
            return fill(asked, [r["wait_seconds"] for r in told], [r.get("p80_seconds") for r in told])
        if self.entry.answers_in is None:
            raise refused("bare numbers have no unit; write answers_in into the entry", self.entry)
        unit = _SECONDS[self.entry.answers_in]
        return fill(asked, [_times(value, unit) for value in told], [None] * len(told))


def _times(value: Any, unit: int) -> Any:
    if isinstance(value, list) and len(value) == 1:
        # A model with one output column gives a matrix.
        value = value[0]
    return value * unit if isinstance(value, int | float) and not isinstance(value, bool) else value
