"""Which cohort a patient belongs to, and which forecast serves whom.

Belongs here: the cohorts, the rules for several diseases, none, an unknown one and new patients, routes.
Does not belong here: what a route rests on (`evaluation.py`), the diagnoses as of a day (`features.py`).

The rules, in this order:
1. A patient with fewer than `NEW_BELOW` valid days is new: the route `new`, where only the global model and
   the mean of all days to date compete, on rows of new patients.
2. Several diseases: the first of MS, PD, RA, else other. No disease, or one without a cohort: other, whose
   route is measured with such patients among its own and may be the global model.
3. A cohort without a route, as before its first evaluation: the mean of all days to date.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from medscore_assets.mobility.baselines import EXPANDING, NAIVE
from medscore_assets.mobility.conformal import Conformal

COHORTS = ("MS", "PD", "RA", "other")
"""Also the order of priority for a patient with several diseases."""

OTHER = COHORTS[-1]
NEW = "new"
"""The route of new patients; no cohort, no model of its own."""

ROUTED = (*COHORTS, NEW)

NEW_BELOW = 14
"""Valid days from which a patient's cohort serves."""

COHORT_MODEL = "cohort"
GLOBAL_MODEL = "global"

Names = npt.NDArray[np.str_]


class Route(BaseModel):
    """What serves a cohort at a horizon, why, and the interval that goes with it."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    cohort: str
    """One of `ROUTED`."""
    horizon_days: Annotated[int, Field(ge=1)]
    serves: str
    """`cohort`, `global`, or the name of a naive forecast."""
    reason: str
    conformal: Conformal | None
    """None where there were too few rows to calibrate on: forecasts then have no interval."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.cohort not in ROUTED or self.serves not in (COHORT_MODEL, GLOBAL_MODEL, *NAIVE):
            raise ValueError("the route names a cohort or a forecast that there is not")
        if self.cohort == NEW and self.serves == COHORT_MODEL:
            raise ValueError("new patients have no model of a cohort")
        return self


def cohort_of(diseases: Iterable[str | None]) -> str:
    """The cohort of a patient with these active diseases, any number of them."""
    active = set(diseases)
    return next((cohort for cohort in COHORTS if cohort in active), OTHER)


def cohorts_of(disease: npt.NDArray[np.object_]) -> Names:
    """The cohort per row, shape (n,), from each row's one disease; None and unseen names are other."""
    found = np.full(len(disease), OTHER)
    for cohort in COHORTS:
        found[disease == cohort] = cohort
    return found


def routed_as(cohorts: Names, valid_days: npt.NDArray[np.float64]) -> Names:
    """The route's key per row, shape (n,): the cohort, or `new` below `NEW_BELOW` valid days."""
    return np.where(valid_days >= NEW_BELOW, cohorts, NEW)


def route(routes: Mapping[str, Route], key: str, horizon_days: int) -> Route:
    """The route of a key; without one, the mean of all days to date, with that as the reason."""
    found = routes.get(key)
    if found is not None and found.horizon_days == horizon_days:
        return found
    return Route(
        cohort=key,
        horizon_days=horizon_days,
        serves=EXPANDING,
        reason=f"{NAIVE[EXPANDING]} serves: nothing was evaluated for these patients yet.",
        conformal=None,
    )


def title(model: str, cohort: str) -> str:
    """A model's name in sentences."""
    return "The global model" if model == GLOBAL_MODEL else f"The model of the cohort {cohort}"
