"""What the routes work with: one object per application, at `request.app.state.service`.

Belongs here: the parts of the service by name. Does not belong here: making them (`app.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastapi import Request

from medscore_assets.readmission.policy import Policy
from medscore_assets.settings import Settings
from resources.warehouse import Warehouse
from serving.champion import Champions
from serving.gathering import Gathering

if TYPE_CHECKING:
    from serving.access import Access
    from serving.journal import Journal


@dataclass(slots=True)
class Service:
    """The parts that the routes share."""

    settings: Settings
    warehouse: Warehouse
    """Synchronous, for reads off the hot path: `await run_in_threadpool(...)`."""
    champions: Champions
    journal: Journal
    access: Access
    policy: Callable[[], Policy]
    """The rules in force; they are read again when their file changes."""
    gathering: Gathering = field(init=False)
    """Scores with the champion, requests of the same moment in one call."""

    def __post_init__(self) -> None:
        self.gathering = Gathering(self.champions, self.policy, lambda: self.journal.together)


def service_of(request: Request) -> Service:
    """The application's service."""
    service: Service = request.app.state.service
    return service
