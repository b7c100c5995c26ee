"""Faults that are put in are exactly those that were asked for, and the contract finds them."""

from __future__ import annotations

from datetime import date

import numpy as np
import pyarrow.compute as pc
import pytest

from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.demo.dirt import INVALID_KINDS, KINDS, spoil, spread
from medscore_assets.demo.discharges import day_of_discharges
from medscore_assets.readmission.cohort import check_context
from resources.errors import PermanentError

CLEAN = day_of_discharges(200, date(2026, 3, 2)).events


def refused(events: object) -> int:
    return int((~(check_context(events).valid & READMISSION.encode(events).valid)).sum())


@pytest.mark.parametrize("kind", INVALID_KINDS)
@pytest.mark.parametrize("count", [0, 1, 60, 200])
def test_exactly_so_many_rows_break_the_contract(kind: str, count: int) -> None:
    spoiled = spoil(CLEAN, {kind: count}, seed=1)
    assert len(spoiled.events) == 200
    assert refused(spoiled.events) == count
    assert spoiled.dirt["kind"].to_pylist() == [kind] * count


def test_a_duplicate_is_the_row_again() -> None:
    spoiled = spoil(CLEAN, {"exact_duplicate": 7}, seed=2)
    assert len(spoiled.events) == 207
    assert refused(spoiled.events) == 0
    assert spoiled.events[:200] == CLEAN
    added = spoiled.events[200:].to_pylist()
    clean = {row["encounter_id"]: row for row in CLEAN.to_pylist()}
    assert [clean[row["encounter_id"]] for row in added] == added


def test_a_correction_is_the_true_row_sent_later() -> None:
    spoiled = spoil(CLEAN, {"corrected_later": 40}, seed=3)
    assert len(spoiled.events) == 240
    clean = {row["encounter_id"]: row for row in CLEAN.to_pylist()}
    wrong = {row["encounter_id"]: row for row in spoiled.events[:200].to_pylist()}
    for row in spoiled.events[200:].to_pylist():
        first = clean[row["encounter_id"]]
        assert row["ingested_at"] > first["ingested_at"]
        assert row | {"ingested_at": first["ingested_at"]} == first
        assert wrong[row["encounter_id"]] != first
    assert 0 < refused(spoiled.events) < 40


def test_rows_that_were_not_hit_are_untouched_and_in_place() -> None:
    spoiled = spoil(CLEAN, spread(48), seed=4)
    hit = spoiled.dirt["encounter_id"]
    untouched = np.asarray(pc.invert(pc.is_in(CLEAN["encounter_id"], value_set=hit.combine_chunks())))
    assert untouched.sum() == 152
    assert spoiled.events[:200].filter(untouched) == CLEAN.filter(untouched)


def test_only_the_rows_named_are_hit() -> None:
    among = np.arange(200) < 10
    spoiled = spoil(CLEAN, {"out_of_bounds": 10}, seed=5, among=among)
    assert (~READMISSION.encode(spoiled.events).valid).tolist() == among.tolist()


def test_the_same_seed_hits_the_same_rows() -> None:
    assert spoil(CLEAN, spread(48), seed=6).events == spoil(CLEAN, spread(48), seed=6).events
    assert spoil(CLEAN, spread(48), seed=6).events != spoil(CLEAN, spread(48), seed=7).events


@pytest.mark.parametrize("total", [0, 1, 8, 11])
def test_faults_spread_evenly_over_the_kinds(total: int) -> None:
    counts = spread(total)
    assert sum(counts.values()) == total
    assert list(counts) == list(KINDS)
    assert max(counts.values()) - min(counts.values()) <= 1


def test_what_cannot_be_done_is_refused() -> None:
    with pytest.raises(PermanentError, match="unknown kinds of fault: typo"):
        spoil(CLEAN, {"typo": 1})
    with pytest.raises(PermanentError, match="201 faults do not fit into 200 rows"):
        spoil(CLEAN, {"null_required": 201})
