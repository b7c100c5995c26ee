"""Who forecasts on demand: the routes that hold and the champions that they name, kept and followed.

Belongs here: when they are taken up, and what goes on when others cannot be had. Does not belong here: which
routes and champions hold (`medscore_assets/mobility/forecasts.py`), who may ask (`mobility.py`).

Most forecasts are read, not computed. So nobody polls: the first one that is computed takes the models up,
and later ones have a thread look, once `FOLLOWED_S` are over, whether others hold by now.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from medscore_assets.mobility.forecasts import Serving, serving_state
from resources.errors import MedscoreError
from resources.registry import ModelRegistry
from resources.warehouse import Warehouse
from serving.errors import Unavailable

log = logging.getLogger("medscore.serving")

FOLLOWED_S = 2.0
"""How long what was found may pass for what holds."""

_TRY_AGAIN_S = 30.0
"""How long models that cannot be had are not asked for again."""


class MobilityModels:
    """The routes and models in use. Safe to share between threads."""

    def __init__(self, warehouse: Warehouse, registry: ModelRegistry) -> None:
        self._warehouse = warehouse
        self._registry = registry
        self._guard = threading.Lock()
        self._serving: Serving | None = None
        self._state: tuple[Any, ...] = ()
        self._look_at = float("-inf")

    def current(self) -> Serving:
        """What serves. Without any route, that is the mean of the days to date for everybody.

        Raises `Unavailable` while a model that a route names was never had.
        """
        if self._serving is None:
            with self._guard:
                if self._serving is None and time.monotonic() >= self._look_at:
                    self.look()
            if self._serving is None:
                raise Unavailable("No mobility model is ready yet.")
        elif time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + FOLLOWED_S
            threading.Thread(target=self._look_alone, name="mobility-models", daemon=True).start()
        return self._serving

    def _look_alone(self) -> None:
        if self._guard.acquire(blocking=False):
            try:
                self.look()
            finally:
                self._guard.release()

    def look(self) -> None:
        """One look at routes and registry. Never raises: what is taken up goes on."""
        wait = _TRY_AGAIN_S
        try:
            state = serving_state(self._warehouse, self._registry)
            if self._serving is None or state != self._state:
                self._serving, self._state = Serving.present(self._warehouse, self._registry), state
                log.info("mobility models taken up")
            wait = FOLLOWED_S
        except MedscoreError as error:
            log.error("mobility models refused", extra={"reason": error.what})
        except Exception as error:
            # Of MLflow or its database; the text may name addresses, the kind does not.
            log.error("mobility models refused", extra={"reason": type(error).__name__})
        self._look_at = time.monotonic() + wait
