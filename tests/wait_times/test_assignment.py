"""Who is shown: evidence or force, one row and one audit event a change, and who stands in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from medscore_assets import audit, tables
from medscore_assets.wait_times.assignment import (
    Assignment,
    Bootstrap,
    Pair,
    assignments,
    by_version,
    known_pair,
    promote,
    rollback,
    versions,
)
from medscore_assets.wait_times.comparison import Difference, Evidence
from medscore_assets.wait_times.models.calibrated import calibrated
from medscore_assets.wait_times.models.moving_average import MovingAverage60
from medscore_assets.wait_times.registry import Registry
from medscore_assets.wait_times.showing import Shown, shown
from resources.errors import PermanentError
from resources.warehouse import Warehouse
from tests.conftest import copied_database
from tests.wait_times.stored import DEFAULT, EVERY, NOW, tick

ED, BAND = "demo-ed-001", "all_posted"
MA60, FLUID, TABLE = (Pair(name, "1.0.0") for name in ("moving_average_60", "queue_fluid", "life_table"))
DOCUMENT = Pair("document_moving_average", "1.0.0")
BETTER = Evidence(
    days=30,
    patients=2000,
    difference=Difference(-100.0, -150.0, -50.0),
    coverage=0.8,
    availability=1.0,
    champion_coverage=0.7,
    champion_availability=1.0,
    verdict="better",
    reasons=(),
    sentence="It is better.",
)
NONE = replace(BETTER, verdict="no difference", reasons=("few",), sentence="No difference: few.")


@pytest.fixture
def ticked(waits: Warehouse, library: Registry) -> Warehouse:
    tick(waits, NOW, library)
    return waits


@pytest.fixture(scope="module")
def untouched(postgres: str, waits_template: str, library: Registry) -> Iterator[Warehouse]:
    """The same for tests that change nothing."""
    with copied_database(postgres, waits_template) as url:
        opened = Warehouse(url)
        tick(opened, NOW, library)
        yield opened
        opened.close()


def assign(warehouse: Warehouse, pair: Pair, **options: Any) -> Assignment:
    values = {"by": "ann", "reason": "it has done better for weeks", "evidence": BETTER, "default": DEFAULT}
    return promote(warehouse, ED, BAND, pair, **values | {"now": NOW} | options)


def at(warehouse: Warehouse, moment: datetime = NOW, default: Bootstrap = DEFAULT) -> Shown:
    return shown(warehouse, moment, default=default, facilities=[ED], bands=[BAND])[ED, BAND]


def test_a_promotion_is_shown_at_once_is_audited_and_rolls_back(ticked: Warehouse) -> None:
    assert at(ticked).pair == MA60
    assign(ticked, FLUID)
    assert at(ticked).pair == FLUID
    assert at(ticked, NOW - timedelta(seconds=1)).pair is None
    assign(ticked, TABLE, now=NOW + timedelta(minutes=1))
    assert at(ticked, NOW + timedelta(minutes=1)).pair == TABLE
    back = [
        rollback(ticked, ED, BAND, by="bob", reason="it misleads at night", default=DEFAULT, now=NOW + after)
        for after in (timedelta(minutes=2), timedelta(minutes=3))
    ]
    assert [made.pair for made in back] == [FLUID, MA60]
    assert at(ticked, NOW + timedelta(minutes=3)).pair == MA60
    with pytest.raises(PermanentError, match="no pair was shown before"):
        rollback(ticked, ED, BAND, by="bob", reason="once more, please", default=DEFAULT)

    made = assignments(ticked, ED, BAND)
    assert [(a.pair, a.action, a.assigned_by) for a in made] == [
        (FLUID, "promoted", "ann"),
        (TABLE, "promoted", "ann"),
        (FLUID, "rolled_back", "bob"),
        (MA60, "rolled_back", "bob"),
    ]
    assert made[0].as_dict()["evidence"]["difference"]["upper"] == -50.0
    reader = audit.Occurrence("audit-read", "success", NOW)
    told = [entry["event"] for entry in audit.events(ticked, reader)]
    assert len(told) == 4
    assert f"{ED}/{BAND}: moving_average_60 1.0.0" in str(told[0])
    assert audit.verify(ticked).intact


@pytest.mark.parametrize(
    ("pair", "options", "why"),
    [
        (FLUID, {"evidence": NONE}, "No difference: few"),
        (FLUID, {"evidence": None}, "nothing is known of queue_fluid"),
        (DOCUMENT, {}, "is a baseline"),
        (MA60, {}, "is shown already"),
        (Pair("queue_fluid", "9.9.9"), {}, "no version 9.9.9"),
        (Pair("crystal_ball", "1.0.0"), {}, "no model crystal_ball has run"),
        (FLUID, {"now": NOW + timedelta(minutes=31)}, "has had no value for 30 minutes"),
        (FLUID, {"reason": "why not"}, "a reason of at least"),
        (FLUID, {"by": " "}, "the name of who makes it"),
    ],
)
def test_a_promotion_is_refused_without_evidence_reason_or_name(
    untouched: Warehouse, pair: Pair, options: dict[str, Any], why: str
) -> None:
    with pytest.raises(PermanentError, match=why):
        assign(untouched, pair, **options)
    assert assignments(untouched) == []
    assert audit.verify(untouched).count == 0


def test_force_overrules_the_evidence_and_says_so(ticked: Warehouse) -> None:
    made = assign(ticked, DOCUMENT, evidence=NONE, force=True)
    assert (made.forced, made.as_dict()["evidence"]["sentence"]) == (True, "No difference: few.")
    assert at(ticked).pair == DOCUMENT


def test_assignments_cannot_be_changed(ticked: Warehouse) -> None:
    assign(ticked, FLUID)
    for change in ("UPDATE serving_assignments SET model = 'x'", "DELETE FROM serving_assignments"):
        with pytest.raises(PermanentError), ticked.transaction() as connection:
            connection.execute(sa.text(change))
    assert len(assignments(ticked)) == 1


def without_values(warehouse: Warehouse, *pairs: Pair) -> None:
    c = tables.wait_time_predictions.c
    with warehouse.transaction() as connection:
        gone = {"wait_seconds": None, "p80_seconds": None, "status": "error"}
        of_pairs = sa.tuple_(c.model, c.version).in_([tuple(pair) for pair in pairs])
        connection.execute(sa.update(tables.wait_time_predictions).where(of_pairs).values(gone))


def test_the_best_of_the_others_stands_in_but_never_a_baseline(ticked: Warehouse) -> None:
    pairs = {MA60: 900.0, FLUID: 300.0, TABLE: 200.0, DOCUMENT: 100.0}
    with ticked.transaction() as connection:
        for pair, loss in pairs.items():
            row = {"day": NOW.date(), "facility_id": ED, "band": BAND, "model": pair.model}
            row |= {"version": pair.version, "pinball_80": loss, "measured_at": NOW, "n": 60}
            row |= dict.fromkeys(("left_unseen", "known_misses", "unresolved", "ticks"), 0)
            connection.execute(sa.insert(tables.wait_time_performance).values(row))
    without_values(ticked, MA60)
    found = at(ticked)
    assert (found.assigned, found.pair, found.replaced, found.current) == (MA60, TABLE, True, True)
    without_values(ticked, TABLE)
    assert at(ticked).pair == FLUID
    without_values(ticked, FLUID, Pair("moving_average_120", "1.0.0"))
    nobody = at(ticked)
    assert (nobody.pair, nobody.current) == (None, False)


def test_who_stands_in_tells_of_eight_in_ten_only_if_calibrated(ticked: Warehouse) -> None:
    assign(ticked, TABLE)
    chosen = at(ticked)
    assert (chosen.pair, chosen.replaced, chosen.p80_seconds is None) == (TABLE, False, False)
    assign(ticked, FLUID, now=NOW + timedelta(minutes=1))
    others = [pair for pair in versions(ticked) if pair != TABLE]
    without_values(ticked, *others)
    raw = at(ticked, NOW + timedelta(minutes=1))
    assert (raw.pair, raw.replaced, raw.wait_seconds) == (TABLE, True, chosen.wait_seconds)
    assert raw.p80_seconds is None
    # Nobody chose a model either where the settings' one never ran.
    nobodys = shown(ticked, NOW, default=Bootstrap("crystal_ball"), facilities=[ED], bands=["ctas_3"])
    assert [(s.pair, s.replaced, s.p80_seconds) for s in nobodys.values()] == [(TABLE, False, None)]

    name = calibrated(MovingAverage60()).name.replace("moving_average_60", TABLE.model)
    with ticked.transaction() as connection:
        for table in (tables.wait_time_predictions, tables.wait_time_model_versions):
            connection.execute(sa.update(table).where(table.c.model == TABLE.model).values(model=name))
    corrected = at(ticked, NOW + timedelta(minutes=1))
    assert (corrected.pair, corrected.p80_seconds) == (Pair(name, "1.0.0"), chosen.p80_seconds)


def test_a_value_is_shown_for_two_ticks_and_then_called_stale(untouched: Warehouse) -> None:
    fresh, stale = at(untouched, NOW + 2 * EVERY), at(untouched, NOW + 2 * EVERY + timedelta(seconds=1))
    assert (fresh.pair, fresh.current, fresh.as_of) == (MA60, True, NOW)
    assert (stale.pair, stale.current, stale.wait_seconds) == (MA60, False, fresh.wait_seconds)


def test_the_settings_name_a_model_or_a_version_of_it(untouched: Warehouse) -> None:
    known = [*versions(untouched), Pair("queue_fluid", "1.0.9"), Pair("queue_fluid", "1.0.10")]
    assert Bootstrap("queue_fluid").pair(known) == known_pair(known, "queue_fluid") == known[-1]
    assert Bootstrap("queue_fluid", "1.0.9").pair(known) == known[-2]
    assert Bootstrap("crystal_ball").pair(known) is None
    assert sorted(known, key=by_version)[-1].model == "queue_fluid"
    assert at(untouched, default=Bootstrap("crystal_ball")).pair is not None
