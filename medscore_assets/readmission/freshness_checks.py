"""Checks that hold or fail by the clock, whether or not anything ran.

Belongs here: the list that is due, and the feeds that still deliver. Checks on what a run published:
`checks.py`.
"""

from datetime import UTC, datetime, timedelta

import dagster as dg
import sqlalchemy as sa

from medscore_assets.alerting.due_lists import missing_list_alert
from medscore_assets.readmission.assets import care_management_scores
from medscore_assets.readmission.sources import discharge_events, inpatient_admissions
from medscore_assets.settings import Settings
from medscore_assets.tables import metadata
from resources.warehouse import Warehouse


@dg.asset_check(asset=care_management_scores)
def list_exists_by_seven(warehouse: dg.ResourceParam[Warehouse]) -> dg.AssetCheckResult:
    """The list of the last morning that is due by now, 07:00 local time, is there.

    It is looked at by the clock and after every list that is made: a morning on which nothing ran fails
    no run, and a list that comes later than that ends the failure.
    """
    missing = missing_list_alert(warehouse)
    if missing is None:
        return dg.AssetCheckResult(passed=True)
    return dg.AssetCheckResult(
        passed=False,
        description=f"{missing.title}. {missing.mend}",
        metadata={"what": missing.title, "mend": missing.mend},
    )


def newest_arrivals(warehouse: Warehouse, table: sa.Table) -> dict[str, datetime]:
    """Per source of a landing table when its newest row came in. What claims to come in later is no sign."""
    query = (
        sa.select(table.c.source, sa.func.max(table.c.ingested_at).label("newest"))
        .where(table.c.ingested_at <= sa.func.now())
        .group_by(table.c.source)
    )
    return {row["source"]: row["newest"] for row in warehouse.read(query).to_pylist()}


def silent_feeds(arrivals: dict[str, datetime], silence: timedelta, now: datetime) -> list[str]:
    """The feeds whose newest row is older than `silence`, in the order of their names."""
    return sorted(source for source, newest in arrivals.items() if newest < now - silence)


def feed_check(settings: Settings, source: dg.AssetSpec) -> dg.AssetChecksDefinition:
    """The check `source_is_fresh` of one landing table, by the settings' period."""
    table = metadata.tables[source.key.to_user_string()]
    silence = timedelta(hours=settings.source_silence_hours)
    once_loaded = {name.strip() for name in settings.unwatched_sources.split(",")}

    @dg.asset_check(
        asset=source.key,
        name="source_is_fresh",
        description=f"Every feed of {table.name} delivered within {settings.source_silence_hours} hours. A "
        "feed that stopped is named, also while others go on.",
    )
    def source_is_fresh(warehouse: dg.ResourceParam[Warehouse]) -> dg.AssetCheckResult:
        found = newest_arrivals(warehouse, table)
        watched = {name: newest for name, newest in found.items() if name not in once_loaded}
        silent = silent_feeds(watched, silence, datetime.now(UTC))
        # Some of the patients are missing if one feed stopped, all of them if every feed did.
        every = len(silent) == len(watched)
        return dg.AssetCheckResult(
            passed=not silent,
            severity=dg.AssetCheckSeverity.ERROR if every else dg.AssetCheckSeverity.WARN,
            description=_sentence(silent, table.name, settings) if silent else None,
            metadata={
                "newest_arrival": {name: newest.isoformat() for name, newest in sorted(found.items())},
                "silent": silent,
                "not_watched": sorted(once_loaded & set(found)),
            },
        )

    return source_is_fresh


def _sentence(silent: list[str], table: str, settings: Settings) -> str:
    return (
        f"{', '.join(silent)} delivered nothing to {table} for {settings.source_silence_hours} hours. "
        "Look at the feed; if its records were loaded once, name it in MEDSCORE_UNWATCHED_SOURCES."
    )


def freshness_checks(settings: Settings) -> list[dg.AssetChecksDefinition]:
    """All of them."""
    feeds = [feed_check(settings, source) for source in (discharge_events, inpatient_admissions)]
    return [list_exists_by_seven, *feeds]


READINESS = dg.AssetSelection.checks(
    dg.AssetCheckKey(care_management_scores.key, "list_exists_by_seven"),
    dg.AssetCheckKey(discharge_events.key, "source_is_fresh"),
    dg.AssetCheckKey(inpatient_admissions.key, "source_is_fresh"),
)
"""What the job `readmission_readiness` evaluates."""
