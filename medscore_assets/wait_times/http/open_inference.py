"""Models behind the Open Inference Protocol v2: KServe, MLServer, Triton, Seldon and others.

Belongs here: its metadata, its tensors, and what is read from its answers. Does not belong here: what the
columns mean (`features.py`).

A tensor has one value for each facility and band. JSON has no NaN, so a mean wait of nobody is sent as -1.
The outputs are known by their names: `wait_seconds`, and `p80_seconds` where the model has it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field

from medscore_assets.wait_times.http.base import Given, HttpModel
from medscore_assets.wait_times.http.client import Caller
from medscore_assets.wait_times.http.features import FEATURES, features
from medscore_assets.wait_times.http.rows import fill
from medscore_assets.wait_times.http.wire import Asked, read, refused, version_of
from medscore_assets.wait_times.snapshot import Snapshot

NOBODY = -1.0
_FITTING = {"BYTES": ("BYTES",), "INT64": ("INT64", "INT32", "FP32", "FP64"), "FP64": ("FP32", "FP64")}


class _Told(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, hide_input_in_errors=True)


class Tensor(_Told):
    """What the metadata say of one input."""

    name: str
    datatype: str


class ModelMetadata(_Told):
    """The answer to GET /v2/models/{model}. `inputs` may be empty where a server does not know them."""

    name: str
    inputs: Annotated[list[Tensor], Field(max_length=1000)] = []


class Output(_Told):
    """One output: flat data."""

    name: str
    datatype: Literal[
        "FP32", "FP64", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"
    ]
    shape: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=8)]
    data: Annotated[list[Any], Field(max_length=1_000_000)]


class Inferred(_Told):
    """The answer to POST .../infer. Both names are optional in the protocol and demanded here."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: Annotated[list[dict[str, Any]], Field(max_length=1000)]


class OpenInferenceModel(HttpModel):
    """Sends the tensors that the server's metadata ask for, all of them if they name none."""

    async def ask(self, caller: Caller, snapshot: Snapshot, asked: Asked, request_id: str) -> Given:
        wanted = self.entry.model or self.name
        path = f"/v2/models/{wanted}"
        metadata = read(ModelMetadata, (await caller.get(path)).content, self.entry, "the metadata")
        self.require_named(metadata.name, wanted)
        body = self._body(metadata, features(snapshot, asked.bands), request_id)
        answer = (await caller.post(f"{path}/infer", body, request_id)).content
        inferred = read(Inferred, answer, self.entry, "the answer")
        self.require_named(inferred.model_name, wanted)
        if inferred.id not in (None, request_id):
            raise refused("the answer belongs to another request", self.entry)
        size = len(asked.facilities) * len(asked.bands)
        predictions = fill(asked, self._values(inferred, "wait_seconds", size), self._upper(inferred, size))
        # The metadata list versions, of which the server may choose any.
        return Given(None, version_of(inferred.model_version, self.entry), predictions)

    def _body(self, metadata: ModelMetadata, columns: dict[str, list[Any]], request_id: str) -> bytes:
        types = {tensor.name: tensor.datatype for tensor in metadata.inputs} or dict(FEATURES)
        for name, datatype in types.items():
            if name not in FEATURES or datatype not in _FITTING[FEATURES[name]]:
                raise refused(
                    "the model asks for an input that there is not, or in a type that it does not have",
                    self.entry,
                )
        return orjson.dumps(
            {
                "id": request_id,
                "inputs": [
                    {
                        "name": name,
                        "shape": [len(columns[name])],
                        "datatype": datatype,
                        "data": [_cell(value, datatype) for value in columns[name]],
                    }
                    for name, datatype in types.items()
                ],
            }
        )

    def _upper(self, inferred: Inferred, size: int) -> list[Any]:
        named = any(output.get("name") == "p80_seconds" for output in inferred.outputs)
        return self._values(inferred, "p80_seconds", size) if named else [None] * size

    def _values(self, inferred: Inferred, name: str, size: int) -> list[Any]:
        found = [output for output in inferred.outputs if output.get("name") == name]
        if len(found) != 1:
            raise refused(f"the answer must have the output {name} once", self.entry)
        output = read(Output, found[0], self.entry, f"the output {name}")
        if output.shape[0] != size or any(more != 1 for more in output.shape[1:]) or len(output.data) != size:
            raise refused(f"the output {name} must have one value for each row", self.entry)
        return output.data


def _cell(value: Any, datatype: str) -> Any:
    if value is None:
        return NOBODY
    return float(value) if datatype in ("FP32", "FP64") else value
