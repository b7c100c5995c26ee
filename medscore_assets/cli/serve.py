"""`medscore serve`: the API.

Belongs here: the command. Does not belong here: anything that it serves (`serving/`).
"""

from __future__ import annotations

import typer

from medscore_assets.settings import Settings


def serve() -> None:
    """Serve the API on MEDSCORE_API_HOST and MEDSCORE_API_PORT until Ctrl-C or SIGTERM."""
    from serving.run import run

    raise typer.Exit(run(Settings()))
