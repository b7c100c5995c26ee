"""The portal: the pages that care managers and coordinators work with, rendered on the server.

Belongs here: the router of all pages. Does not belong here: anything that a page does (its module), and
what is true of lists and scores (`serving/lists.py`, `serving/scores.py`).
"""

from __future__ import annotations

from fastapi import APIRouter

from serving.portal import (
    board_page,
    list_page,
    login_page,
    mobility_page,
    patient_page,
    population_page,
    waits_monitor_page,
    web,
)

router = APIRouter(include_in_schema=False)
router.include_router(login_page.router)
router.include_router(list_page.router)
router.include_router(patient_page.router)
router.include_router(population_page.router)
router.include_router(mobility_page.router)
router.include_router(board_page.router)
router.include_router(waits_monitor_page.router)
# Its last route takes every other path below /portal.
router.include_router(web.router)
