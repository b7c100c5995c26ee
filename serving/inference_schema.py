"""The bodies of the Open Inference Protocol v2, as its specification names them.

Belongs here: their shape. Does not belong here: what is done with them (`inference.py`).
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Parameters = dict[str, str | int | float | bool]


class V2Error(BaseModel):
    """The protocol's form of refusals."""

    error: str


class ServerMetadata(BaseModel):
    """What serves."""

    name: str
    version: str
    extensions: list[str]


class ServerLive(BaseModel):
    """Whether the process answers."""

    live: bool


class Ready(BaseModel):
    """Whether it can score."""

    ready: bool


class ModelReady(Ready):
    """Whether a model can score."""

    name: str


class TensorMetadata(BaseModel):
    """One tensor of a model; -1 stands for any number of rows."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """What a model takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    parameters: Parameters


class InferInput(BaseModel):
    """One input: `data` flat or nested, one value a row."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)

    name: str
    shape: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=8)]
    datatype: str
    data: list[Any]
    parameters: dict[str, Any] | None = None


class InferRequestedOutput(BaseModel):
    """One output that the client wants."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)

    name: str
    parameters: dict[str, Any] | None = None


class InferRequest(BaseModel):
    """Rows to score. Without `outputs` all are given but the explanation."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)

    id: Annotated[str, Field(max_length=200)] | None = None
    parameters: dict[str, Any] | None = None
    inputs: Annotated[list[InferInput], Field(min_length=1, max_length=64)]
    outputs: Annotated[list[InferRequestedOutput], Field(max_length=64)] | None = None


class InferOutput(BaseModel):
    """One output."""

    name: str
    datatype: str
    shape: list[int]
    data: list[float | str]


class InferResponse(BaseModel):
    """The scores of the rows, in their order. `parameters` hold the disclaimer and the versions."""

    model_name: str
    model_version: str
    id: str | None = None
    parameters: Parameters
    outputs: list[InferOutput]
