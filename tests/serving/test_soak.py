"""A short run of the soak test: models swapped and PostgreSQL killed under steady requests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.harness import Report
from benchmarks.site import Site
from benchmarks.soak import judge
from benchmarks.soak_run import Plan, soak
from medscore_assets.readmission.scoring import ReadmissionModel
from resources.embedded_postgres import release


def shifted(model: ReadmissionModel, by: float) -> ReadmissionModel:
    """Another model: the same trees, recalibrated."""
    recalibration = model.manifest.recalibration
    changed = recalibration.model_copy(update={"intercept": recalibration.intercept + by})
    return replace(model, manifest=model.manifest.model_copy(update={"recalibration": changed}))


@pytest.mark.slow
@pytest.mark.faults
def test_swaps_and_a_killed_database_lead_to_no_wrong_lost_or_unaudited_answer(
    model: ReadmissionModel, homes: Path
) -> None:
    home = homes / "soak"
    home.mkdir()
    site = Site.prepare(home)
    report = Report("soak")
    try:
        models = [model, shifted(model, 0.2), shifted(model, -0.2)]
        judge(report, site, soak(site, models, Plan(seconds=17, per_second=20, training=False)))
    finally:
        site.warehouse.close()
        release(site.settings.postgres_directory)

    assert [goal for goal in report.goals if not goal.met] == []
    assert report.figures["answers_by_status"]["200"] > 100
