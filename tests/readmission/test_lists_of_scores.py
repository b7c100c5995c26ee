"""Scores and their lists belong together: what the triggers refuse, whoever writes and in whatever order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from resources.errors import PermanentError
from resources.warehouse import Warehouse

DAY, NEXT = "2026-03-08", "2026-03-09"
KEY = "fk_care_management_scores_score_date"
LIST = sa.text(
    """
    INSERT INTO outreach_lists
    SELECT :day, '2026-03-08 11:00Z', '2026-03-09 11:00Z', 1, 0, 0, 0, 1, 0, 'm', 1, 'c', 'p', 'h', now()
    """
)
SCORE = sa.text(
    """
    INSERT INTO care_management_scores (
        score_date, encounter_id, patient_id, hospital_id, discharged_at, rank, within_capacity,
        readmission_probability, risk_tier, top_factors, recommended_actions, disclaimer, model_name,
        model_version, policy_version, policy_hash, features_sha256, scored_at
    )
    SELECT :day, 'e', 'p', 'h', now(), 1, true, 0.1,
        'low', '[]', '["call"]', 'd', 'm', 1, 'p', 'h', 'f', now()
    """
)
REMOVALS = (
    f"DELETE FROM outreach_lists WHERE score_date = '{DAY}'",
    f"UPDATE outreach_lists SET score_date = '{NEXT}'",
    "TRUNCATE outreach_lists, outreach_exclusions",
)


@pytest.fixture
def listed(warehouse: Warehouse) -> Warehouse:
    """A warehouse with one list of one score."""
    with warehouse.transaction() as connection:
        connection.execute(LIST, {"day": DAY})
        connection.execute(SCORE, {"day": DAY})
    return warehouse


def test_scores_of_a_day_without_a_list_are_refused(listed: Warehouse) -> None:
    with pytest.raises(PermanentError, match=KEY), listed.transaction() as connection:
        connection.execute(SCORE, {"day": NEXT})
    with pytest.raises(PermanentError, match=KEY), listed.transaction() as connection:
        connection.execute(sa.text(f"UPDATE care_management_scores SET score_date = '{NEXT}'"))


@pytest.mark.parametrize("removal", REMOVALS)
def test_a_list_stays_as_long_as_it_has_scores(listed: Warehouse, removal: str) -> None:
    with pytest.raises(PermanentError, match=KEY), listed.transaction() as connection:
        connection.execute(sa.text(removal))
    with listed.transaction() as connection:
        connection.execute(sa.text("DELETE FROM care_management_scores"))
        connection.execute(sa.text(removal))
    with listed.transaction() as connection:
        assert (
            connection.scalar(sa.text(f"SELECT count(*) FROM outreach_lists WHERE score_date = '{DAY}'")) == 0
        )


def test_a_list_is_not_removed_under_a_snapshot_that_may_lack_its_scores(listed: Warehouse) -> None:
    with listed.transaction() as connection:
        connection.execute(LIST, {"day": NEXT})
    with pytest.raises(PermanentError), listed.transaction() as connection:
        connection.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        connection.execute(sa.text(f"DELETE FROM outreach_lists WHERE score_date = '{NEXT}'"))


@pytest.mark.faults
@pytest.mark.parametrize("removal", REMOVALS)
@pytest.mark.parametrize("scores_first", [True, False])
def test_of_scores_and_the_removal_of_their_list_at_once_one_is_refused(
    warehouse: Warehouse, removal: str, scores_first: bool
) -> None:
    with warehouse.transaction() as connection:
        connection.execute(LIST, {"day": DAY})
    work: list[Callable[[sa.Connection], object]] = [
        lambda connection: connection.execute(SCORE, {"day": DAY}),
        lambda connection: connection.execute(sa.text(removal)),
    ]
    first, second = work if scores_first else work[::-1]
    refused: list[Exception] = []

    def run() -> None:
        try:
            with warehouse.transaction() as connection:
                second(connection)
        except PermanentError as error:
            refused.append(error)

    other = threading.Thread(target=run)
    with warehouse.transaction() as connection:
        first(connection)
        other.start()
        blocked = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        give_up = time.monotonic() + 10
        while not connection.scalar(blocked):
            other.join(0.01)
            assert other.is_alive(), "it waited for nobody"
            assert time.monotonic() < give_up
    other.join()
    assert KEY in str(refused[0])
