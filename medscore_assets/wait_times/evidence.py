"""What speaks for a model, read from the warehouse: outcomes and availability beside those of who is shown.

Belongs here: which rows a comparison rests on. Does not belong here: the rule (`comparison.py`).
"""

from __future__ import annotations

from datetime import datetime, timedelta

import pyarrow.compute as pc

from medscore_assets.wait_times import store
from medscore_assets.wait_times.assignment import Pair
from medscore_assets.wait_times.attribution import localised
from medscore_assets.wait_times.comparison import Contender, Evidence, evidence
from medscore_assets.wait_times.scoring_outcomes import MENDED_FOR, outcomes_between
from resources.warehouse import Warehouse

LOOKED_BACK = MENDED_FOR - timedelta(days=1)
"""Outcomes of these days are kept up to date."""


def evidence_for(
    warehouse: Warehouse, facility_id: str, band: str, champion: Pair, challenger: Pair, until: datetime
) -> Evidence:
    """The challenger beside the champion on the patients that both predicted, over the last six weeks.

    Raises what `Warehouse.transaction` raises.
    """
    since, pairs = until - LOOKED_BACK, [champion, challenger]
    with warehouse.transaction() as connection:
        zones = store.facility_zones(warehouse, connection)
        outcomes = outcomes_between(
            warehouse, since, until, facilities=[facility_id], band=band, pairs=pairs, connection=connection
        )
        said = store.predictions_between(
            warehouse, since, until, facility_id=facility_id, pairs=pairs, connection=connection
        )
    said = said.filter(pc.equal(said["band"], band))
    of_days = localised(outcomes, zones)
    return evidence(Contender.of(of_days, said, *champion), Contender.of(of_days, said, *challenger))
