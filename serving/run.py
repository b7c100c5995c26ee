"""The process that serves the API.

Belongs here: the server's settings, and on which address it may listen without access control.
Does not belong here: the application (`app.py`).
"""

from __future__ import annotations

import gc
import logging
import sys
import threading

import uvicorn
from starlette.middleware.trustedhost import TrustedHostMiddleware

from medscore_assets.settings import Settings
from serving.app import create_app
from serving.champion import Champions
from serving.logs import configure
from serving.protocol import Together
from serving.service import Service

log = logging.getLogger("medscore.serving")

DRAIN_SECONDS = 20
"""How long requests in flight may take after the process was asked to stop."""

KEEP_ALIVE_SECONDS = 75
"""Longer than the usual proxy's, so that the proxy is the one who closes."""

_SWITCH_SECONDS = 0.001
"""How long the thread that asks the registry may keep a request waiting for the interpreter."""

_LOOPBACK_NAMES = ["localhost", "127.0.0.1", "[::1]"]


def run(settings: Settings) -> int:
    """Serve until SIGTERM or Ctrl-C, then finish what was begun.

    Returns the exit code if it could not start; else the signal ends the process, after all was finished.
    Raises `PermanentError` before listening if access would be open on another address than loopback.
    """
    configure()
    _import_xgboost()
    app = create_app(settings)
    service: Service = app.state.service
    if service.access.open:
        # Nobody's web page may reach an open service by giving this machine another name.
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=_LOOPBACK_NAMES, www_redirect=False)
    sys.setswitchinterval(_SWITCH_SECONDS)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host=settings.api_host,
            port=settings.api_port,
            loop="uvloop",
            http=Together,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )
    )
    service.journal.under_way = lambda: len(server.server_state.tasks)
    log.info(
        f"MedScore API on http://{settings.api_host}:{settings.api_port}, {service.access.says}; "
        f"shadow scoring {'on' if settings.shadow else 'off'}"
    )
    threading.Thread(target=_settle, args=(service.champions,), daemon=True).start()
    server.run()
    return 0 if server.started else 1


def _import_xgboost() -> None:
    """Import XGBoost without the estimators that it makes where scikit-learn is: half of a start's time."""
    absent = "sklearn" not in sys.modules
    if absent:
        # What Python takes for a module that cannot be imported.
        sys.modules["sklearn"] = None  # type: ignore[assignment]
    import xgboost  # noqa: F401

    if absent:
        del sys.modules["sklearn"]


def _settle(champions: Champions) -> None:
    """Once everything is loaded, take it from the garbage collector, whose full runs take long."""
    while not champions.state().confirmed:
        if champions.stopped.wait(1):
            return
    gc.collect()
    gc.freeze()
