"""Models behind HTTP: any language, any server, one table of `models.toml` each.

Belongs here: making models from such tables, and what a tick carries to the next. Does not belong here: the
engine, which runs them as it runs all others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from medscore_assets.wait_times.http.base import NEVER_SEEN, HttpModel
from medscore_assets.wait_times.http.breaker import Breaker
from medscore_assets.wait_times.http.entry import HttpEntry, read_entry
from medscore_assets.wait_times.http.mlflow_scoring import MLflowModel
from medscore_assets.wait_times.http.native import NativeModel
from medscore_assets.wait_times.http.open_inference import OpenInferenceModel
from medscore_assets.wait_times.model import Model

__all__ = ["NEVER_SEEN", "Breaker", "HttpEntry", "HttpModel", "breakers_of", "http_models", "prepare"]

_ADAPTERS: Mapping[str, type[HttpModel]] = {
    "native": NativeModel,
    "open-inference": OpenInferenceModel,
    "mlflow": MLflowModel,
}


def http_models(entries: Iterable[Mapping[str, Any]]) -> list[Model]:
    """A model for each `[[http]]` table. Nothing is asked yet.

    Raises `PermanentError` that names the model and the wrong keys, or the variable of a token that is not
    set.
    """
    found = [read_entry(table) for table in entries]
    return [_ADAPTERS[entry.adapter](entry) for entry in found]


def prepare(models: Iterable[Model], versions: Mapping[str, str], breakers: Mapping[str, Breaker]) -> None:
    """Before a tick: tells HTTP models what earlier ticks left behind.

    `versions` holds by name the version that answered last, `breakers` the state by `HttpEntry.key`.
    """
    for model in _of_http(models):
        model.breaker = breakers.get(model.entry.key, Breaker())
        if model.name in versions:
            model.expect(versions[model.name])


def breakers_of(models: Iterable[Model]) -> dict[str, Breaker]:
    """After a tick: the states to be kept, by `HttpEntry.key`."""
    return {model.entry.key: model.breaker for model in _of_http(models)}


def _of_http(models: Iterable[Model]) -> list[HttpModel]:
    return [model for model in models if isinstance(model, HttpModel)]
