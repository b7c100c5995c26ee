"""All models at one tick: each for itself, each with its deadline, none in the way of another.

Belongs here: calling models and containing what goes wrong in them. Does not belong here: which models there
are (`registry.py`), where the input comes from and where the output goes (`tick.py`).

A thread cannot be stopped from outside. One that hangs is left behind, its late answer is thrown away, and
its model is not called again before it has come to an end.
"""

from __future__ import annotations

import functools
import json
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeVar

import numpy as np
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from medscore_assets.wait_times.fingerprint import raised_in
from medscore_assets.wait_times.model import Fitted, History, Model, is_identity
from medscore_assets.wait_times.prediction import Predictions, Status
from medscore_assets.wait_times.snapshot import Snapshot
from medscore_assets.wait_times.validation import validated
from resources.errors import PermanentError

BUDGET = timedelta(seconds=20)
"""For all models at one tick."""
PATIENCE = timedelta(seconds=1)
"""So long a model has the processor for itself; then the next one begins beside it."""
FIT_BUDGET = timedelta(minutes=10)

Key = tuple[str, str]
"""Name and version."""
_Result = TypeVar("_Result")

_left_behind: dict[Key, threading.Thread] = {}


@dataclass(frozen=True, slots=True)
class ModelRun:
    """What one model made of a snapshot."""

    name: str
    version: str
    fingerprint: str
    """Empty where it could not be found."""
    predictions: Predictions
    """Checked; of the model's bands. After an error of the whole model every status says so."""
    latency_ms: float
    error: str | None = None
    """What went wrong with the model as a whole: a kind and a sentence, without any patient's value."""
    version_changed: bool = False
    """Another server answered, with another version than it was expected to have."""


@dataclass(frozen=True, slots=True)
class FitRun:
    """What one model learned."""

    name: str
    version: str
    parameters: dict[str, dict[str, Any]] | None
    """By facility, "" for all together; None where it learns nothing or failed."""
    seconds: float
    error: str | None = None


@dataclass(frozen=True, slots=True)
class _Answer:
    before: Key
    after: Key
    fingerprint: str
    predictions: Predictions
    version_changed: bool


class _Late(TimeoutError):
    """A deadline of this module is over; its text is its own."""


class _Call(Generic[_Result]):
    """One call in a thread of its own, with its own deadline."""

    def __init__(self, key: Key, limit: float, work: Callable[[float], _Result]) -> None:
        self.key, self.limit, self._work = key, limit, work
        self._future: Future[_Result] = Future()
        self.started: float | None = None
        self.seconds = 0.0

    def start(self, until: float) -> None:
        """Starts the thread, unless the time `until` is over or an earlier call of the model still hangs."""
        self.started = time.monotonic()
        earlier = _left_behind.get(self.key)
        if earlier is not None and earlier.is_alive():
            self._future.set_exception(_Late("it still hangs from an earlier call"))
        elif self.started >= until:
            self._future.set_exception(_Late("no time was left for it"))
        else:
            deadline = min(self.started + self.limit, until)
            self.limit = deadline - self.started
            self._thread = threading.Thread(
                target=self._run, args=(deadline,), name=f"model {self.key[0]}", daemon=True
            )
            self._thread.start()

    def _run(self, deadline: float) -> None:
        began = time.monotonic()
        try:
            # OpenMP counts by calling thread, so each model's own is told.
            with _libraries(len(sys.modules)).limit(limits=1, user_api="openmp"):
                result = self._work(deadline)
        except BaseException as error:
            self.seconds = time.monotonic() - began
            self._future.set_exception(error)
        else:
            self.seconds = time.monotonic() - began
            self._future.set_result(result)

    def wait(self, seconds: float) -> bool:
        """Waits at most so long; whether it has ended."""
        assert self.started is not None
        left = min(seconds, self.started + self.limit - time.monotonic())
        try:
            self._future.exception(timeout=max(left, 0))
        except TimeoutError:
            return False
        return True

    def outcome(self) -> _Result | BaseException:
        """The result or what was raised; TimeoutError for what is over the limit."""
        if not self.wait(self.limit):
            self.seconds = self.limit
            _left_behind[self.key] = self._thread
            return _Late(f"no answer within {self.limit:.1f} s")
        error = self._future.exception()
        return self._future.result() if error is None else error


def run_models(
    models: Sequence[Model],
    snapshot: Snapshot,
    fitted: Mapping[Key, Fitted],
    *,
    budget: timedelta = BUDGET,
) -> list[ModelRun]:
    """Predictions of every model, in their order; what fails is in its own run and nowhere else.

    `fitted` gives what the models learned, by name and version. Limits hold for one tick: a snapshot of n
    ticks has n times as long.
    """
    ticks = max(snapshot.ticks, 1)
    calls = [
        _Call(key, model.time_limit.total_seconds() * ticks, _predicting(model, snapshot, fitted))
        for model, key in ((model, _key(model)) for model in models)
    ]
    with _libraries(len(sys.modules)).limit(limits=1, user_api="blas"):
        _start(calls, [model.remote for model in models], time.monotonic() + budget.total_seconds() * ticks)
        return [_run_of(model, call, snapshot) for model, call in zip(models, calls, strict=True)]


def fit_models(models: Sequence[Model], history: History, *, budget: timedelta = FIT_BUDGET) -> list[FitRun]:
    """What every model learns from history, in their order. The budget holds for all of them together."""
    calls = [
        _Call(_key(model), model.fit_limit.total_seconds(), _fitting(model, history)) for model in models
    ]
    until = time.monotonic() + budget.total_seconds()
    runs = []
    with _libraries(len(sys.modules)).limit(limits=1, user_api="blas"):
        for call in calls:
            call.start(until)
            found = call.outcome()
            if isinstance(found, BaseException):
                runs.append(FitRun(*call.key, None, call.seconds, _said(found)))
            else:
                runs.append(FitRun(*call.key, found, call.seconds))
    return runs


@functools.lru_cache(maxsize=1)
def _libraries(modules: int) -> ThreadpoolController:
    """The libraries whose threads can be limited; looked for again after further `modules` were imported.

    Models compute on small arrays, which more threads than one make slower by a multiple.
    """
    return ThreadpoolController()


def _start(calls: Sequence[_Call[Any]], remote: Sequence[bool], until: float) -> None:
    """Starts those that wait for others at once, and the rest one after the other."""
    for call, at_once in zip(calls, remote, strict=True):
        if at_once:
            call.start(until)
    for call, at_once in zip(calls, remote, strict=True):
        if not at_once:
            call.start(until)
            call.wait(PATIENCE.total_seconds())


def _predicting(model: Model, snapshot: Snapshot, fitted: Mapping[Key, Fitted]) -> Callable[[float], _Answer]:
    def work(deadline: float) -> _Answer:
        before = model.identity()
        found = _in_parts(model, snapshot, fitted.get(before, {}), deadline)
        return _Answer(before, model.identity(), model.fingerprint(), found, model.version_changed)

    return work


def _fitting(model: Model, history: History) -> Callable[[float], dict[str, dict[str, Any]] | None]:
    def work(deadline: float) -> dict[str, dict[str, Any]] | None:
        model.identity()
        learned = model.fit(history)
        return None if learned is None else _through_json(learned, model.name)

    return work


def _in_parts(model: Model, snapshot: Snapshot, fitted: Fitted, deadline: float) -> Predictions:
    """Checked predictions; a batch that raises is halved until those that raise are alone."""
    if not len(snapshot):
        return Predictions.empty(0, model.bands)
    try:
        answer = model.predict_all(snapshot, fitted)
        return validated(answer, len(snapshot), model.bands, model.name)
    except Exception as error:
        if not model.retries_parts:
            raise
        if len(snapshot) < 2 or time.monotonic() >= deadline:
            return Predictions.without(len(snapshot), model.bands, Status.ERROR, raised_in(error))
    middle = len(snapshot) // 2
    parts = (range(middle), range(middle, len(snapshot)))
    return _joined([_in_parts(model, snapshot.only(part), fitted, deadline) for part in parts])


def _joined(parts: Sequence[Predictions]) -> Predictions:
    first = np.cumsum([0, *(len(part.status) for part in parts)])
    raw = [np.full_like(part.p80, np.nan) if part.raw_p80 is None else part.raw_p80 for part in parts]
    return Predictions(
        bands=parts[0].bands,
        p50=np.concatenate([part.p50 for part in parts]),
        p80=np.concatenate([part.p80 for part in parts]),
        status=np.concatenate([part.status for part in parts]),
        messages={
            (scene + int(shift), band): text
            for shift, part in zip(first[:-1], parts, strict=True)
            for (scene, band), text in part.messages.items()
        },
        raw_p80=np.concatenate(raw) if any(part.raw_p80 is not None for part in parts) else None,
        stamp=next((part.stamp for part in parts if part.stamp is not None), None),
    )


def _run_of(model: Model, call: _Call[_Answer], snapshot: Snapshot) -> ModelRun:
    found = call.outcome()
    if isinstance(found, BaseException):
        status = Status.TIMEOUT if isinstance(found, TimeoutError) else Status.ERROR
        return _failed(model, call, snapshot, status, _said(found))
    stamp = found.predictions.stamp if model.remote else None
    if model.remote and stamp is None and len(snapshot):
        return _failed(model, call, snapshot, Status.ERROR, "it answered without a name and a version")
    if stamp is None and found.before != found.after:
        return _failed(model, call, snapshot, Status.ERROR, "its name or version changed while it ran")
    if stamp is not None and not (is_identity(*stamp) and stamp[0] == found.before[0]):
        return _failed(model, call, snapshot, Status.ERROR, "it answered with another name or no version")
    predictions = found.predictions
    errors = predictions.status == Status.ERROR
    return ModelRun(
        *(stamp or found.before),
        fingerprint=found.fingerprint,
        predictions=predictions,
        latency_ms=call.seconds * 1000,
        error=next(iter(predictions.messages.values()), "error") if errors.size and errors.all() else None,
        version_changed=stamp is not None and found.version_changed,
    )


def _failed(model: Model, call: _Call[_Answer], snapshot: Snapshot, status: Status, message: str) -> ModelRun:
    return ModelRun(
        *call.key,
        fingerprint=_fingerprint(model),
        predictions=Predictions.without(len(snapshot), model.bands, status, message),
        latency_ms=call.seconds * 1000,
        error=message,
    )


def _fingerprint(model: Model) -> str:
    try:
        return model.fingerprint()
    except Exception:
        return ""


def _key(model: Model) -> Key:
    """Name and version, or what there is instead."""
    try:
        return model.identity()
    except Exception:
        return type(model).__name__, ""


def _said(error: BaseException) -> str:
    """A sentence without a patient's value: what this module raised itself, else the kind and the place."""
    return str(error) if isinstance(error, _Late) else raised_in(error)


def _through_json(learned: object, name: str) -> dict[str, dict[str, Any]]:
    """Parameters as they come back from where they are stored. Raises PermanentError for others."""
    try:
        found = json.loads(json.dumps(learned, allow_nan=False))
    except (TypeError, ValueError):
        raise _unstorable(name, "they do not fit into JSON") from None
    if not isinstance(found, dict) or not all(isinstance(part, dict) for part in found.values()):
        raise _unstorable(name, "they are not a dict for each facility")
    return found


def _unstorable(name: str, why: str) -> PermanentError:
    return PermanentError(f"What the model learned cannot be stored: {why}", where=name, mend="Mend its fit.")
