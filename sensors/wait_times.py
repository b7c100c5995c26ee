"""Tells people what is wrong with wait times: a model, a feed, a board, or that nothing is predicted at all.

Belongs here: looking every half minute. What is wrong: `medscore_assets/wait_times/troubles.py`; messages
leave through the ledger, which `sensors/alerts.py` delivers.
"""

import dagster as dg

from medscore_assets.alerting.ledger import Ledger
from medscore_assets.alerting.routing import load_routing
from medscore_assets.settings import Settings
from medscore_assets.wait_times.troubles import due_since, ticks_are_due, watch_waits
from resources.warehouse import Warehouse


def wait_time_sensor(settings: Settings) -> dg.SensorDefinition:
    """Looks at the newest tick and its age. It is on unless somebody switches it off: it only tells."""

    @dg.sensor(
        name="wait_time_troubles",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Raises and recovers alerts of wait-time models, feeds and boards, and of missing ticks.",
    )
    def wait_time_troubles(
        context: dg.SensorEvaluationContext, warehouse: dg.ResourceParam[Warehouse]
    ) -> dg.SkipReason:
        if not ticks_are_due(settings, context.instance):
            return dg.SkipReason("The schedule of ticks is off.")
        ledger, since = Ledger(warehouse, load_routing(settings)), due_since(context.instance)
        wrong = watch_waits(ledger, warehouse, since=since)
        return dg.SkipReason(f"Wrong now: {', '.join(wrong) or 'nothing'}.")

    return wait_time_troubles
