"""What holds or fails by the clock: the list that is due, and feeds that stopped."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from medscore_assets.partitions import closed_mornings, window
from medscore_assets.readmission.assets import care_management_scores
from medscore_assets.readmission.freshness_checks import READINESS, freshness_checks
from medscore_assets.readmission.policy import load_policy
from medscore_assets.readmission.publish import Champion, publish_list
from medscore_assets.readmission.scoring import ReadmissionModel
from medscore_assets.readmission.sources import discharge_events, inpatient_admissions
from medscore_assets.settings import Settings
from resources.warehouse import Warehouse
from tests.readmission.records import admission, discharge
from tests.readmission.test_outreach import add

Found = dict[tuple[str, str], dg.AssetCheckEvaluation]

LIST = ("care_management_scores", "list_exists_by_seven")
DISCHARGES = ("discharge_events", "source_is_fresh")
ADMISSIONS = ("inpatient_admissions", "source_is_fresh")


@pytest.fixture
def look(warehouse: Warehouse, settings: Settings) -> Callable[[], Found]:
    """Runs the job of the checks; nothing is materialized."""
    job = dg.define_asset_job("readmission_readiness", selection=READINESS)
    defs = dg.Definitions(
        assets=[discharge_events, inpatient_admissions, care_management_scores],
        asset_checks=freshness_checks(settings),
        jobs=[job],
        resources={"warehouse": warehouse, "registry": None, "policy_file": None},
    )

    def run() -> Found:
        with dg.DagsterInstance.ephemeral() as instance:
            result = defs.resolve_job_def(job.name).execute_in_process(
                instance=instance, raise_on_error=False
            )
        assert result.success
        return {(e.asset_key.to_user_string(), e.check_name): e for e in result.get_asset_check_evaluations()}

    return run


def text_of(evaluation: dg.AssetCheckEvaluation) -> str:
    return f"{evaluation.description} {evaluation.metadata}"


def test_a_list_that_is_due_and_absent_is_an_error_until_it_is_there(
    warehouse: Warehouse, model: ReadmissionModel, look: Callable[[], Found]
) -> None:
    (due,) = closed_mornings(1, until=datetime.now(UTC) - timedelta(hours=1))
    found = look()
    assert set(found) == {LIST, DISCHARGES, ADMISSIONS}
    assert not found[LIST].passed
    assert found[LIST].severity == dg.AssetCheckSeverity.ERROR
    assert f"medscore outreach make --date {due}" in text_of(found[LIST])
    # Also a list of nobody is a list, and one that comes late ends the error.
    publish_list(warehouse, window(due), lambda: Champion(model, 1), load_policy())
    assert look()[LIST].passed


def test_a_feed_that_stopped_is_named_while_others_go_on(
    warehouse: Warehouse, settings: Settings, look: Callable[[], Found]
) -> None:
    now = datetime.now(UTC)
    limit = timedelta(hours=settings.source_silence_hours)

    def came(number: int, source: str, ago: timedelta) -> dict[str, Any]:
        return discharge(number, now - timedelta(days=3), source=source, ingested_at=now - ago)

    minute = timedelta(minutes=1)
    add(
        warehouse,
        [
            came(1, "north", limit * 5),
            came(2, "north", limit - minute),
            came(3, "south", limit + minute),
            # Loaded once, long ago.
            came(4, "uci-diabetes", limit * 9),
            # A clock that is wrong is no sign of life.
            came(5, "south", -limit),
        ],
        [admission("A-1", "P-1", now - limit - minute)],
    )
    found = look()
    assert not found[DISCHARGES].passed
    assert found[DISCHARGES].severity == dg.AssetCheckSeverity.WARN
    assert found[DISCHARGES].metadata["silent"].value == ["south"]
    assert found[DISCHARGES].metadata["not_watched"].value == ["uci-diabetes"]
    assert str(found[DISCHARGES].description).startswith("south delivered nothing")
    # Nobody delivers admissions any more: all of them are missing.
    assert not found[ADMISSIONS].passed
    assert found[ADMISSIONS].severity == dg.AssetCheckSeverity.ERROR

    add(warehouse, [came(6, "south", minute)], [admission("A-2", "P-1", now - minute)])
    found = look()
    assert found[DISCHARGES].passed
    assert found[ADMISSIONS].passed
