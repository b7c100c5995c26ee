"""The asset checks on a published list: what they find when the tables were changed behind its back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa

from medscore_assets.partitions import window
from medscore_assets.readmission.assets import care_management_scores
from medscore_assets.readmission.checks import CHECKS, contradictory, late_arrivals
from medscore_assets.readmission.policy import DEFAULT_FILE, load_policy
from medscore_assets.readmission.publish import Champion, publish_list
from medscore_assets.readmission.scoring import ReadmissionModel
from resources.registry import ModelRegistry
from resources.warehouse import Warehouse
from tests.readmission.records import clean_day, discharge, local
from tests.readmission.test_outreach import DAY, add

POLICY = load_policy()


@pytest.fixture
def listed(warehouse: Warehouse, model: ReadmissionModel) -> Warehouse:
    """A warehouse with the list of `DAY`, of twenty patients."""
    add(warehouse, clean_day(DAY, 20))
    publish_list(warehouse, window(DAY), lambda: Champion(model, 1), POLICY)
    return warehouse


def execute(warehouse: Warehouse, statement: str, **values: Any) -> None:
    with warehouse.transaction() as connection:
        connection.execute(sa.text(statement), values)


@pytest.fixture
def verdicts(warehouse: Warehouse, champion: ModelRegistry) -> Any:
    """Materializes the list of `DAY` and gives the verdict of every check that ran, by name."""

    def run() -> dict[str, dg.AssetCheckEvaluation]:
        result = dg.materialize(
            [care_management_scores, *CHECKS],
            partition_key=DAY,
            resources={"warehouse": warehouse, "registry": champion, "policy_file": DEFAULT_FILE},
            raise_on_error=False,
        )
        return {e.check_name: e for e in result.get_asset_check_evaluations()}

    return run


def test_a_tier_that_contradicts_its_probability_fails_the_list(warehouse: Warehouse, verdicts: Any) -> None:
    add(warehouse, clean_day(DAY, 20))
    assert verdicts()["tiers_follow_from_probabilities"].passed
    # Somebody's trigger, which the transaction that writes the list does not see.
    execute(
        warehouse,
        """
        CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN NEW.readmission_probability := 0.99; NEW.risk_tier := 'low'; RETURN NEW; END $$;
        CREATE TRIGGER spoil BEFORE INSERT ON care_management_scores
        FOR EACH ROW WHEN (NEW.rank = 1) EXECUTE FUNCTION spoil();
        DELETE FROM care_management_scores
        """,
    )
    verdict = verdicts()["tiers_follow_from_probabilities"]
    assert not verdict.passed
    assert verdict.blocking
    assert verdict.severity == dg.AssetCheckSeverity.ERROR
    assert verdict.metadata["days_that_fail"].value == [DAY]


@pytest.mark.parametrize(("edge", "tier"), [(0.4, "high"), (0.4000000001, "moderate"), (0.0, "moderate")])
def test_a_tier_is_compared_to_the_last_digit(listed: Warehouse, edge: float, tier: str) -> None:
    execute(listed, "DELETE FROM care_management_scores WHERE rank > 1")
    execute(
        listed,
        "UPDATE care_management_scores SET readmission_probability = :edge, risk_tier = :tier",
        edge=edge,
        tier=tier,
    )
    assert contradictory(listed, [DAY], POLICY) == [DAY]
    execute(listed, "UPDATE care_management_scores SET risk_tier = :tier", tier=POLICY.tier(edge))
    assert contradictory(listed, [DAY], POLICY) == []


def test_a_list_of_another_policy_is_judged_by_its_order(listed: Warehouse, tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(re.sub(r"(?m)^moderate = .*$", "moderate = 0.01", DEFAULT_FILE.read_text()))
    other = load_policy(file)
    assert contradictory(listed, [DAY], other) == []
    execute(
        listed,
        "UPDATE care_management_scores SET readmission_probability = 0.99, risk_tier = 'low' WHERE rank = 1",
    )
    execute(listed, "UPDATE care_management_scores SET risk_tier = 'moderate' WHERE rank = 2")
    assert contradictory(listed, [DAY], other) == [DAY]


def test_a_day_without_a_list_contradicts_nothing(warehouse: Warehouse) -> None:
    assert contradictory(warehouse, [DAY], POLICY) == []


@pytest.mark.parametrize(
    ("rows", "stale"),
    [
        ([discharge(500, local("2025-03-02"), ingested_at=local(DAY, 13))], 1),
        ([discharge(500, local("2026-01-10"), ingested_at=local(DAY, 13))], 1),
        ([discharge(500, local("2026-02-20"), ingested_at=local(DAY, 13))], 0),
        ([discharge(500, local("2025-03-02"))], 0),
        # A correction of what was known in time is no late arrival.
        (
            [
                discharge(500, local("2025-03-02")),
                discharge(500, local("2025-03-02"), ingested_at=local(DAY, 13)),
            ],
            0,
        ),
    ],
)
def test_a_discharge_with_a_wrong_past_year_is_seen_on_the_day_it_comes_in(
    listed: Warehouse, rows: Sequence[dict[str, Any]], stale: int
) -> None:
    add(listed, list(rows))
    assert late_arrivals(listed, [DAY]) == {DAY: stale}


def test_late_arrivals_warn_and_stop_nothing(warehouse: Warehouse, verdicts: Any) -> None:
    add(warehouse, [*clean_day(DAY, 5), discharge(500, local("2025-03-02"), ingested_at=local(DAY, 13))])
    verdict = verdicts()["discharges_arrive_in_time"]
    assert (verdict.passed, verdict.blocking) == (False, False)
    assert verdict.severity == dg.AssetCheckSeverity.WARN
    assert verdict.metadata["discharges"].value == 1
