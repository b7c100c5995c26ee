"""One `[[http]]` table of `models.toml`: a model that another server runs.

Belongs here: what may stand in the table, and its refusals. Does not belong here: the exchange itself
(`client.py`), and other tables of that file.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from medscore_assets.wait_times.bands import ALL_BANDS
from resources.errors import PermanentError

Adapter = Literal["native", "open-inference", "mlflow"]
Unit = Literal["seconds", "minutes"]

_TOKEN = re.compile(r"[\x21-\x7e]+")


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class HttpEntry(BaseModel):
    """Where a model answers, in which protocol, and how much patience it gets.

    Bounds of time in seconds, of answers in bytes, of history in hours before the tick.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
    url: str
    adapter: Adapter = "native"
    version: Annotated[str, Field(pattern=r"^(0|[1-9]\d{0,8})(\.(0|[1-9]\d{0,8})){2}$")] | None = None
    """Only for MLflow, whose answers say nothing about the model's version."""
    version_header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")] | None = None
    """Only for MLflow: a header of its answers that holds the version, set by whoever deploys it."""
    answers_in: Unit | None = None
    """Only for MLflow: the unit of bare numbers. Records name it in their fields."""
    model: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,128}$")] | None = None
    """Only for Open Inference: the model's name on that server, if it is not `name`."""
    bands: Annotated[tuple[str, ...], BeforeValidator(_tuple), Field(min_length=1)] = ("all_posted",)
    hours: Annotated[int, Field(ge=1, le=96)] = 24
    time_limit_seconds: Annotated[float, Field(ge=0.1, le=20)] = 5.0
    max_bytes: Annotated[int, Field(ge=1_000, le=10_000_000)] = 1_000_000
    token_env: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")] | None = None
    ca_file: str | None = None
    allow_http: bool = False

    @model_validator(mode="after")
    def _fits(self) -> Self:
        problem = _problem_of_url(self.url, self.allow_http) or self._problem_of_adapter()
        if problem:
            raise ValueError(problem)
        if unknown := [band for band in self.bands if band not in ALL_BANDS]:
            raise ValueError(f"bands: there is no band {', '.join(unknown)}")
        if len(set(self.bands)) < len(self.bands):
            raise ValueError("bands: each only once")
        return self

    def _problem_of_adapter(self) -> str | None:
        given = {
            "mlflow": [
                k for k in ("version", "version_header", "answers_in") if getattr(self, k) is not None
            ],
            "open-inference": ["model"] if self.model is not None else [],
        }
        for adapter, options in given.items():
            if options and self.adapter != adapter:
                return f"{', '.join(options)}: only for the adapter {adapter}"
        if self.adapter == "mlflow" and self.version is None:
            return "version: an MLflow server does not tell the model's; write it here"
        return None

    @property
    def root(self) -> str:
        """The address without a slash at its end."""
        return self.url.rstrip("/")

    @property
    def time_limit(self) -> timedelta:
        """The longest that one whole exchange may take."""
        return timedelta(seconds=self.time_limit_seconds)

    @property
    def key(self) -> str:
        """A hash of the server and the model on it, for state that is kept about them."""
        return hashlib.sha256(f"{self.adapter} {self.root} {self.model or self.name}".encode()).hexdigest()

    def token(self) -> str | None:
        """The secret of the environment. Raises `PermanentError` that names the variable if it is not set."""
        if self.token_env is None:
            return None
        token = os.environ.get(self.token_env, "")
        if not _TOKEN.fullmatch(token):
            raise PermanentError(
                f"the variable {self.token_env} holds no token",
                where=f"the HTTP model {self.name}",
                mend="Set it in the environment, without spaces, or remove token_env.",
            )
        return token


def read_entry(table: Mapping[str, Any]) -> HttpEntry:
    """The validated table. Raises `PermanentError` that names the wrong keys, never their values."""
    try:
        entry = HttpEntry.model_validate(dict(table))
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        raise PermanentError(
            "; ".join(f"{'.'.join(map(str, p['loc'])) or 'the table'}: {p['msg']}" for p in problems),
            where=f"the HTTP model {_name_of(table)}",
            mend="Correct these keys of its [[http]] table.",
        ) from None
    entry.token()
    if entry.ca_file is not None and not Path(entry.ca_file).is_file():
        raise PermanentError(
            "its ca_file is no file", where=f"the HTTP model {entry.name}", mend="Correct the path."
        )
    return entry


def _name_of(table: Mapping[str, Any]) -> str:
    name = table.get("name")
    return name if isinstance(name, str) and re.fullmatch(r"[a-z0-9_]{1,63}", name) else "without a name"


def _problem_of_url(url: str, allow_http: bool) -> str | None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return "url: is no address"
    if "@" in parts.netloc:
        return "url: must not hold a user or a password; use token_env"
    if parts.scheme not in ("https", "http") or not parts.hostname or not url.isascii() or " " in url:
        return "url: must be https://host/path"
    if parts.query or parts.fragment or "?" in url or "#" in url:
        return "url: must have no query and no fragment"
    if parts.scheme == "http" and not (allow_http and _is_loopback(parts)):
        return "url: must be https; http only with allow_http = true and to this machine"
    return None


def _is_loopback(parts: SplitResult) -> bool:
    host = parts.hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
