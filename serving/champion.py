"""The model that scores: taken from the registry, checked, warmed up, and swapped while requests go on.

Belongs here: following the aliases `champion` and `challenger`, what is kept when a version is refused or
the registry is away, and the start from the local cache. Does not belong here: what makes a model's files
sound (`resources/artifacts.py`, `readmission/scoring.py`), and who becomes champion.

Starting from the cache: MLflow takes seconds to import. The champion's version and the hash of its manifest
are kept beside the cached files, with the time at which the registry last confirmed them. Within
`TRUSTED_FOR` of it the cached champion serves, every file verified, until the registry has answered.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from medscore_assets.contracts.contract import Matrix
from medscore_assets.contracts.fields import Whole
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.monitoring.metrics import sigmoid
from medscore_assets.readmission.scoring import MODEL, ReadmissionModel
from resources.artifacts import MANIFEST_FILE, read_verified, sha256
from resources.errors import IntegrityError, MedscoreError, PermanentError, TransientError
from resources.registry import CHALLENGER, CHAMPION, ModelRegistry
from serving.errors import Unavailable
from serving.metrics import Metrics

log = logging.getLogger("medscore.serving")

POLL_SECONDS = 2.0
TRUSTED_FOR = timedelta(minutes=15)
"""How long after its last confirmation a cached champion may serve before the registry has answered."""

POINTER_FILE = "champion.json"

_CONFIRM_EVERY_S = 60.0
_TRY_REFUSED_AGAIN_S = 30.0
_WARM_UP_ROWS = 64
_TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Serving:
    """A model that is ready to score, and its version."""

    model: ReadmissionModel
    version: int


@dataclass(frozen=True, slots=True)
class State:
    """What `/health/ready` tells of the model."""

    version: int | None
    confirmed: bool
    """Whether the registry has said since the start that this version is the champion."""
    registry: str
    """`ok`, or what is wrong with it."""
    refused: str | None
    """Which version under the alias was refused, and why; the one before it goes on."""


class Champions:
    """Follows the registry's aliases in a thread. `current` is one read of an attribute.

    `cache` is the folder in which the registry keeps the files of models. `challenger` is followed only
    with `shadow`.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        cache: Path,
        *,
        metrics: Metrics | None = None,
        shadow: bool = False,
        poll_seconds: float = POLL_SECONDS,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._registry = registry
        self._pointer = cache / MODEL / POINTER_FILE
        self._metrics = metrics or Metrics()
        self._aliases = (CHAMPION, CHALLENGER) if shadow else (CHAMPION,)
        self._poll_seconds = poll_seconds
        self._now = now
        self._serving: dict[str, Serving] = {}
        self._refused: dict[str, tuple[int, str, float]] = {}
        self._state = State(None, False, "has not answered yet", None)
        self._confirmed_at = float("-inf")
        self.stopped = threading.Event()
        """Set from when on nothing is followed any more."""
        self._thread: threading.Thread | None = None

    def current(self) -> Serving:
        """The champion. Raises `Unavailable` until one is loaded, checked and warmed up."""
        try:
            return self._serving[CHAMPION]
        except KeyError:
            raise Unavailable("No model is ready yet.") from None

    def challenger(self) -> Serving | None:
        """The challenger, if there is one and the service scores in its shadow."""
        return self._serving.get(CHALLENGER)

    def state(self) -> State:
        """How the last look at the registry went."""
        return self._state

    def start(self) -> None:
        """Take up the cached champion, if it may be trusted, and follow the registry from now on."""
        self._thread = threading.Thread(target=self._follow, name="champions", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop following. What is loaded stays loaded."""
        self.stopped.set()
        if self._thread is not None:
            self._thread.join(timeout=10)

    def _follow(self) -> None:
        self.take_cached()
        while True:
            self.look()
            if self.stopped.wait(self._poll_seconds):
                return

    def take_cached(self) -> None:
        """Serve the champion of the last run if the registry confirmed it recently and it is intact."""
        try:
            pointer = json.loads(self._pointer.read_bytes())
            age = self._now() - datetime.fromisoformat(pointer["confirmed_at"])
            version, registered = int(pointer["version"]), str(pointer["manifest_sha256"])
            if not timedelta(0) <= age <= TRUSTED_FOR:
                return
            directory = self._pointer.parent / str(version)
            read_verified(directory, {MANIFEST_FILE: registered})
            self._take(CHAMPION, _loaded(directory, version))
        except (OSError, ValueError, KeyError, TypeError, MedscoreError):
            # The registry decides, in a few seconds.
            log.info("cached champion not used")

    def look(self) -> None:
        """One look at the registry. Never raises: what is loaded goes on."""
        try:
            for alias in self._aliases:
                self._look_at(alias)
            registry = "ok"
        except TransientError as error:
            registry = error.what
        except PermanentError as error:
            registry = error.what
        except Exception as error:
            # Of MLflow or its database; the text may name addresses, the kind does not.
            registry = f"failed: {type(error).__name__}"
        if registry != self._state.registry:
            log.log(
                logging.INFO if registry == "ok" else logging.ERROR,
                "model registry",
                extra={"reason": registry},
            )
        self._metrics.registry_up.set(registry == "ok")
        self._tell(registry=registry)

    def _look_at(self, alias: str) -> None:
        version = self._registry.version_with(MODEL, alias)
        if version is None:
            self._absent(alias)
            return
        serving = self._serving.get(alias)
        if serving is None or serving.version != version:
            if self._was_just_refused(alias, version):
                return
            try:
                stored = self._registry.aliased(MODEL, alias)
                self._take(alias, _loaded(stored.directory, stored.version))
            except TransientError:
                raise
            except (PermanentError, ArithmeticError, ValueError) as error:
                self._refuse(alias, version, error)
                return
        else:
            self._refused.pop(alias, None)
        if alias == CHAMPION:
            self._confirm()

    def _absent(self, alias: str) -> None:
        if alias == CHALLENGER:
            self._serving.pop(alias, None)
            return
        raise PermanentError(
            "no version has the alias champion",
            where=f"registered model {MODEL}",
            mend=f"Train one: medscore train {MODEL}",
        )

    def _was_just_refused(self, alias: str, version: int) -> bool:
        refused = self._refused.get(alias)
        return (
            refused is not None
            and refused[0] == version
            and time.monotonic() - refused[2] < _TRY_REFUSED_AGAIN_S
        )

    def _take(self, alias: str, serving: Serving) -> None:
        self._serving[alias] = serving
        self._refused.pop(alias, None)
        self._metrics.model_version.labels(alias).set(serving.version)
        self._metrics.swaps.labels(alias).inc()
        log.info("model taken up", extra={"alias": alias, "version": serving.version})
        if alias == CHAMPION:
            self._confirmed_at = float("-inf")
            self._tell(version=serving.version)

    def _refuse(self, alias: str, version: int, error: Exception) -> None:
        what = error.what if isinstance(error, MedscoreError) else type(error).__name__
        known = self._refused.get(alias)
        self._refused[alias] = (version, what, time.monotonic())
        if known is None or known[0] != version:
            self._metrics.refusals.labels(alias).inc()
            log.error("model refused", extra={"alias": alias, "version": version, "reason": what})

    def _tell(self, **changes: Any) -> None:
        refused = self._refused.get(CHAMPION)
        told = f"version {refused[0]}: {refused[1]}" if refused else None
        self._state = replace(self._state, refused=told, **changes)

    def _confirm(self) -> None:
        """Remember for the next start that the registry stands behind what serves."""
        self._tell(confirmed=True)
        if time.monotonic() - self._confirmed_at < _CONFIRM_EVERY_S:
            return
        self._confirmed_at = time.monotonic()
        version = self._serving[CHAMPION].version
        try:
            manifest = (self._pointer.parent / str(version) / MANIFEST_FILE).read_bytes()
            pointer = {
                "version": version,
                "manifest_sha256": sha256(manifest),
                "confirmed_at": self._now().isoformat(),
            }
            beside = self._pointer.with_suffix(f".{os.getpid()}")
            beside.write_text(json.dumps(pointer), encoding="utf-8")
            beside.replace(self._pointer)
        except OSError as error:
            log.warning("champion not remembered", extra={"reason": type(error).__name__})


def _loaded(directory: Path, version: int) -> Serving:
    """The model of a directory, intact, under this contract, and warm."""
    model = ReadmissionModel.load(directory, READMISSION)
    warm_up(model)
    return Serving(model, version)


def warm_up(model: ReadmissionModel) -> None:
    """Score and explain rows from all over the contract, one by one, as requests will.

    XGBoost's first calls are slow. Raises `IntegrityError` if a row alone and among others differ, or if
    the contributions do not add up to the logit of the probability.
    """
    rows = _anybody(_WARM_UP_ROWS)
    together = model.explain(rows)
    added_up = sigmoid(together.baseline + together.contributions.sum(axis=1))
    alone = np.concatenate([model.explain(rows[i : i + 1]).probabilities for i in range(len(rows))])
    if not (np.abs(together.probabilities - added_up) <= _TOLERANCE).all():
        raise _unsound("its contributions do not add up to its probability")
    if not (alone == together.probabilities).all():
        raise _unsound("a row alone and among others have different probabilities")


def _anybody(rows: int) -> Matrix:
    """Encoded rows spread over what the contract allows, the same at every start."""
    most = [
        f.maximum if isinstance(f, Whole) else len(getattr(f, "categories", (False, True))) - 1
        for f in READMISSION.features
    ]
    least = [f.minimum if isinstance(f, Whole) else 0 for f in READMISSION.features]
    drawn = np.random.default_rng(0).integers(least, np.array(most) + 1, size=(rows, len(most)))
    return drawn.astype(np.float32)


def _unsound(what: str) -> IntegrityError:
    return IntegrityError(what, where="warm-up", mend=f"Train another version: medscore train {MODEL}")
