"""The tick: the same rows whenever it is made, errors as rows, and nobody in the way of another."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import sqlalchemy as sa

from medscore_assets import tables
from medscore_assets.alerting.ledger import Ledger
from medscore_assets.alerting.routing import load_routing
from medscore_assets.demo.emergency import SimulatedVisits, known_at
from medscore_assets.settings import Settings
from medscore_assets.wait_times import store
from medscore_assets.wait_times.model import Model
from medscore_assets.wait_times.registry import Registry, load_models
from medscore_assets.wait_times.snapshot import HISTORY, build_snapshot
from medscore_assets.wait_times.tick import silent_feeds
from medscore_assets.wait_times.troubles import DEAD_MAN, watch_waits
from medscore_assets.wait_times.visits import TIMES, Visits
from resources.errors import PermanentError
from resources.warehouse import Warehouse
from tests.wait_times.stored import EVERY, NOW, ODD, Hanging, Steady, tick, ticks

KEY = ["facility_id", "band", "model", "version"]


def rows(warehouse: Warehouse, as_of: datetime = NOW) -> pa.Table:
    table = tables.wait_time_predictions
    return warehouse.read(sa.select(table).where(table.c.as_of == as_of).order_by(*table.primary_key))


def test_the_warehouse_gives_the_versions_that_held_at_a_moment(
    waits: Warehouse, stored_visits: SimulatedVisits
) -> None:
    found = store.visits_known(waits, NOW, NOW - HISTORY)
    known = known_at(stored_visits.visits, NOW)
    known = known.filter(pc.is_null(known["superseded_at"]))
    began = pc.if_else(pc.is_null(known["arrival"]), known["recorded_at"], known["arrival"])
    expected = known.filter(pc.greater(began, pa.scalar(NOW - HISTORY, store.UTC_TIME)))

    order = [("facility_id", "ascending"), ("visit_id", "ascending"), ("recorded_at", "ascending")]
    assert found.num_rows > 500
    assert pc.any(pc.is_valid(found["superseded_at"])).as_py()
    for name in {*found.column_names} - {"superseded_at"}:
        assert found.sort_by(order)[name].to_pylist() == expected.sort_by(order)[name].to_pylist(), name


def test_a_tick_made_on_time_late_or_twice_gives_the_same_rows(waits: Warehouse, library: Registry) -> None:
    first = tick(waits, NOW, library, run_id="first")
    once = rows(waits)
    again = tick(waits, NOW, library, run_id="second")
    late = tick(waits, NOW, library, run_id="third", now=NOW + timedelta(days=2))

    assert (first.rows, first.written) == (3 * 4 * 5, 3 * 4 * 5)
    assert (again.written, late.written, late.replay) == (0, 0, True)
    assert rows(waits).equals(once)
    assert set(once["run_id"].to_pylist()) == {"first"}
    assert 0.5 < first.with_value / first.rows < 1
    has_value = pc.is_valid(once["wait_seconds"]).to_pylist()
    assert has_value == [status in ("ok", "fallback") for status in once["status"].to_pylist()]
    # Boards were blank at a tick that is made up for, and stay so in the record.
    missed = NOW - EVERY
    assert tick(waits, missed, library, now=missed + timedelta(hours=1)).with_value > 0
    assert waits.read(sa.select(tables.wait_time_displays.c.as_of).distinct())["as_of"].to_pylist() == [NOW]


def test_what_is_recorded_after_a_tick_does_not_change_it(waits: Warehouse, library: Registry) -> None:
    tick(waits, NOW, library)
    before = rows(waits)
    with waits.transaction() as connection:
        later = tables.ed_visits.c.recorded_at > NOW
        assert connection.execute(sa.delete(tables.ed_visits).where(later)).rowcount > 100
        connection.execute(sa.delete(tables.wait_time_predictions))
    tick(waits, NOW, library)
    same = [name for name in before.column_names if name != "latency_ms"]
    assert rows(waits).select(same).equals(before.select(same))


def test_a_prediction_with_a_value_is_not_replaced_by_one_without(
    waits: Warehouse, enable: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    models = load_models(enable("steady", "moving_average_60"))
    tick(waits, NOW, models)
    before = rows(waits)

    def failing(*_: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr(Steady, "predict", failing)
    monkeypatch.setattr(Model, "fingerprint", lambda self: "as before")
    with waits.transaction() as connection:
        connection.execute(sa.update(tables.wait_time_model_versions).values(fingerprint="as before"))
    made = tick(waits, NOW, models)
    assert "RuntimeError" in made.problems["steady 1.0.0"]
    assert rows(waits).equals(before)


def test_each_odd_model_has_error_rows_and_one_alert_and_the_others_are_saved(
    waits: Warehouse, enable: Callable[..., Path], settings: Settings
) -> None:
    alone = load_models(enable("steady", "moving_average_60"))
    all_of_them = enable(*ODD[:4], "steady", *ODD[4:], "moving_average_60")
    ledger = Ledger(waits, load_routing(settings))
    try:
        tick(waits, NOW, alone)
        expected = rows(waits)
        after = NOW + EVERY
        for moment in (NOW, after):
            made = tick(waits, moment, load_models(all_of_them))
            watch_waits(ledger, waits, now=moment)
    finally:
        Hanging.released.set()
    found = rows(waits)
    well = found.filter(pc.is_in(found["model"], pa.array(["steady", "moving_average_60"])))
    assert well.equals(expected)
    assert {name.split()[0] for name in made.problems} == set(ODD)
    statuses = found.group_by(["model"]).aggregate([("status", "distinct")])
    by_model = dict(zip(statuses["model"].to_pylist(), statuses["status_distinct"].to_pylist(), strict=True))
    assert {model: set(by_model[model]) for model in ODD} == {
        "raising": {"error"},
        "not_a_number": {"invalid"},
        "huge": {"invalid"},
        "hanging": {"timeout"},
        "changing": {"error"},
        "mutating": {"error"},
        "exiting": {"error"},
    }
    assert len(found) == len(set(zip(*(found[name].to_pylist() for name in KEY), strict=True)))
    assert "Smith" not in "".join(found["message"].to_pylist())

    opened = waits.read(sa.select(tables.alerts.c.alert_key, tables.alerts.c.occurrences)).to_pylist()
    assert sorted(a["alert_key"].split(":")[2].split()[0] for a in opened) == sorted(ODD)
    assert {a["occurrences"] for a in opened} == {2}
    tick(waits, after + EVERY, alone)
    watch_waits(ledger, waits, now=after + EVERY)
    assert ledger.open_keys() == []


def test_a_model_whose_code_changed_under_its_version_is_refused(
    waits: Warehouse, enable: Callable[..., Path]
) -> None:
    models = load_models(enable("steady", "moving_average_60"))
    tick(waits, NOW, models)
    with waits.transaction() as connection:
        table = tables.wait_time_model_versions
        connection.execute(sa.update(table).where(table.c.model == "steady").values(fingerprint="another"))
    made = tick(waits, NOW + EVERY, models)
    assert "raise the version" in made.problems["steady 1.0.0"]
    found = rows(waits, NOW + EVERY)
    status = found.filter(pc.equal(found["model"], "steady"))["status"].to_pylist()
    assert set(status) == {"error"}
    assert len(status) == 12
    assert made.with_value > 0


def test_nothing_for_two_ticks_is_told_once_and_its_end(
    waits: Warehouse, library: Registry, settings: Settings
) -> None:
    ledger = Ledger(waits, load_routing(settings))
    assert watch_waits(ledger, waits, now=NOW) == []
    tick(waits, NOW, library)
    assert watch_waits(ledger, waits, now=NOW + timedelta(minutes=30)) == []
    for minutes in (36, 40, 50):
        assert watch_waits(ledger, waits, now=NOW + timedelta(minutes=minutes)) == [DEAD_MAN]
    last = NOW + 4 * EVERY
    tick(waits, last, library)
    assert watch_waits(ledger, waits, now=last) == []
    found = waits.read(sa.select(tables.alerts.c.recovered_at)).to_pylist()
    assert found == [{"recovered_at": last}]


def test_a_feed_that_fell_silent_blanks_its_board_and_is_told(
    waits: Warehouse, library: Registry, settings: Settings
) -> None:
    c = tables.ed_visits.c
    with waits.transaction() as connection:
        gone = sa.and_(c.facility_id == "demo-ed-001", c.recorded_at > NOW - timedelta(hours=2, minutes=5))
        connection.execute(sa.delete(tables.ed_visits).where(gone))
    made = tick(waits, NOW, library)
    assert made.silent == ("demo-ed-001",)
    shown = tables.wait_time_displays.c
    blank = waits.read(sa.select(shown.facility_id).distinct().where(shown.code == "nothing"))
    assert blank["facility_id"].to_pylist() == ["demo-ed-001"]
    assert watch_waits(Ledger(waits, load_routing(settings)), waits, now=NOW) == ["waits:feed:demo-ed-001"]


def test_a_feed_without_registrations_is_silent_though_it_tells_of_those_who_are_there(
    waits: Warehouse, library: Registry
) -> None:
    c = tables.ed_visits.c
    with waits.transaction() as connection:
        gone = sa.and_(c.facility_id == "demo-ed-001", c.arrival > NOW - timedelta(hours=3))
        connection.execute(sa.delete(tables.ed_visits).where(gone))
    assert tick(waits, NOW, library).silent == ("demo-ed-001",)
    looks = tables.wait_time_facility_ticks.c
    here = sa.select(looks.newest_record).where(looks.facility_id == "demo-ed-001")
    assert waits.read(here)["newest_record"][0].as_py() > NOW - timedelta(minutes=30)


def test_silence_at_an_hour_at_which_nobody_comes_is_no_fault() -> None:
    at = NOW
    began = [at - timedelta(days=day, hours=6) for day in (1, 2, 3)]
    nothing = [None] * 3
    visits = Visits.of(
        pa.table(
            {
                "facility_id": ["ed"] * 3,
                "visit_id": ["a", "b", "c"],
                "ctas": [3] * 3,
                "scheduled": [False] * 3,
                **{
                    name: pa.array(began if name in ("recorded_at", "arrival") else nothing, store.UTC_TIME)
                    for name in TIMES
                },
            }
        )
    )
    snapshot = build_snapshot(visits, [("ed", began[0] + timedelta(hours=5))], {"ed": "UTC"})
    assert silent_feeds(snapshot) == ()
    assert silent_feeds(build_snapshot(visits, [("ed", at)], {"ed": "UTC"})) == ("ed",)


def test_a_tick_without_any_value_keeps_its_rows_and_fails(waits: Warehouse, library: Registry) -> None:
    early = datetime(2026, 3, 1, 12, tzinfo=UTC)
    with pytest.raises(PermanentError, match="no model has a value"):
        tick(waits, early, library)
    assert len(rows(waits, early)) == 60


@pytest.mark.parametrize("as_of", [NOW + timedelta(minutes=7), datetime(2026, 3, 12, 17)])  # noqa: DTZ001
def test_a_tick_is_at_a_quarter_of_an_hour_with_a_zone(
    waits: Warehouse, library: Registry, as_of: datetime
) -> None:
    with pytest.raises(PermanentError, match="quarter of an hour"):
        tick(waits, as_of, library)


def test_what_is_displayed_is_kept_and_does_not_flicker(waits: Warehouse, library: Registry) -> None:
    ticks(waits, 8, library)
    c = tables.wait_time_displays.c
    query = (
        sa.select(tables.wait_time_displays)
        .where(c.code != "nothing")
        .order_by(c.facility_id, c.band, c.as_of)
    )
    found = waits.read(query).to_pylist()
    assert len(found) > 40
    assert all(r["low_minutes"] % 15 == 0 < r["low_minutes"] <= r["high_minutes"] for r in found)
    model = np.array([r["wait_seconds"] / 60 for r in found])
    low = np.array([r["low_minutes"] for r in found])
    assert np.all(low >= model - 10.01)
    assert {r["model"] for r in found} <= {
        "moving_average_60",
        "queue_fluid",
        "life_table",
        "moving_average_120",
    }


def test_a_server_that_does_not_answer_is_left_alone_from_tick_to_tick(
    waits: Warehouse, enable: Callable[..., Path]
) -> None:
    file = enable("moving_average_60")
    http = '[[http]]\nname = "elsewhere"\nurl = "http://127.0.0.1:9"\nallow_http = true\n'
    file.write_text(f"{file.read_text()}\n{http}time_limit_seconds = 2\n")
    # Read anew at every tick, as every run does: what it knows of the server it has from the warehouse.
    made = [tick(waits, NOW + EVERY * place, load_models(file)) for place in range(5)]
    assert ["not asked after" in one.problems["elsewhere 0.0.0"] for one in made] == [False] * 4 + [True]
    (breaker,) = waits.read(sa.select(tables.wait_time_breakers)).to_pylist()
    assert (breaker["failures"], breaker["opened_at"]) == (4, NOW + 3 * EVERY)
    late = tick(waits, NOW + EVERY * 5, load_models(file), now=NOW + timedelta(days=1))
    assert late.problems == {}
    versions = waits.read(sa.select(tables.wait_time_model_versions.c.model))
    assert versions["model"].to_pylist() == ["moving_average_60"]
