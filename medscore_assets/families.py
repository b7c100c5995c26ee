"""The model families, as what all of them are run by sees them.

Belongs here: per family its names in the registry and in Dagster, how a stored version is loaded, and where
its newest result stands. Does not belong here: anything that a family computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa

from medscore_assets import tables
from medscore_assets.contracts.mobility import MOBILITY
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.mobility.cohorts import COHORTS, GLOBAL_MODEL
from medscore_assets.mobility.forecasts import HORIZONS
from medscore_assets.mobility.model import MobilityModel, model_name
from medscore_assets.readmission.scoring import MODEL, ReadmissionModel
from resources.errors import PermanentError


@dataclass(frozen=True, slots=True)
class Family:
    """One model family."""

    name: str
    """In the registry."""
    load: Callable[[Path], object]
    """Loads a version's directory, or raises `IntegrityError` if it is damaged or of another contract."""
    champion_asset: str
    """The asset whose materializations are the decisions about the family's versions."""
    judge_again: str
    """What makes the verdict on a challenger anew."""
    scoring_job: str
    """The job that scores one partition with the champion."""
    newest_result: sa.Select[Any]
    """At most one row: `partition_key`, `model_version` and `published_at` of the newest result."""


def family(name: str) -> Family:
    """The family of that name. Raises `PermanentError` if there is none."""
    found = FAMILIES.get(name)
    if found is None:
        raise PermanentError(
            f"there is no model family {name}", where="--name", mend=f"Choose one of: {', '.join(FAMILIES)}."
        )
    return found


_LISTS = tables.outreach_lists.c

_NO_RESULT: list[sa.Label[Any]] = [
    sa.literal("").label("partition_key"),
    sa.literal(0).label("model_version"),
    sa.func.now().label("published_at"),
]
_STANDS = sa.select(*_NO_RESULT).where(sa.false())
"""No result to make again: a published forecast stands, and another champion serves from the next day on."""


def _mobility(name: str) -> Family:
    return Family(
        name=name,
        load=lambda directory: MobilityModel.load(directory, MOBILITY),
        champion_asset="mobility_routes",
        judge_again="Judge it again: materialize mobility_routes.",
        scoring_job="mobility_daily",
        newest_result=_STANDS,
    )


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        name: _mobility(name)
        for name in (model_name(of, days) for of in (*COHORTS, GLOBAL_MODEL) for days in HORIZONS)
    }
    | {
        MODEL: Family(
            name=MODEL,
            load=lambda directory: ReadmissionModel.load(directory, READMISSION),
            champion_asset="readmission_champion",
            judge_again="Judge it again: materialize readmission_evaluation, then readmission_champion.",
            scoring_job="readmission_outreach",
            newest_result=sa.select(
                sa.cast(_LISTS.score_date, sa.Text).label("partition_key"),
                _LISTS.model_version,
                _LISTS.published_at,
            )
            .order_by(_LISTS.score_date.desc())
            .limit(1),
        )
    }
)
