"""Wait times by API: what is shown to whom, never what is old, and no small count of people."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from medscore_assets.access_keys import ROLES
from medscore_assets.tables import wait_times as tables
from medscore_assets.wait_times.assignment import promote, rollback
from medscore_assets.wait_times.bands import ALL_BANDS
from medscore_assets.wait_times.tick import latest_tick
from resources.warehouse import Warehouse
from serving import wait_times_schema as schema
from serving.wait_times import MAY_COMPARE
from serving.wait_times_reading import SMALL, told_counts
from tests.conftest import copied_database
from tests.serving.conftest import running
from tests.serving.portal_site import make_key
from tests.serving.wait_site import (
    BUSY,
    DEFAULT,
    EARLIER,
    EMPTY,
    EVERY,
    FLUID,
    MEAN,
    OLD,
    P50,
    P80,
    SILENT,
    TICKS,
    Stored,
    fill,
)

SECRET = "XENTINEL"
COMPARED = ("/wait_time?model_name=fluid", "/wait_time/models", "/wait_time/performance")
OPEN = ("/wait_time", f"/wait_time/feed/{BUSY}")


@pytest.fixture(scope="module")
def stored(postgres: str, migrated_template: str) -> Iterator[Stored]:
    with copied_database(postgres, migrated_template) as url:
        warehouse = Warehouse(url)
        newest = latest_tick(datetime.now(UTC))
        fill(warehouse, newest)
        yield Stored(url, warehouse, newest)
        warehouse.close()


@pytest.fixture(scope="module")
def api(stored: Stored) -> Iterator[httpx.Client]:
    """Open on this machine, and not to the public."""
    with running(stored.site(), ready=False) as client:
        yield client


@contextmanager
def closed(stored: Stored, folder: Path, *, public: bool) -> Iterator[httpx.Client]:
    file = folder / "access.toml"
    file.write_text("api_keys = true\n")
    app = stored.site(access_file=file, wait_times_public=public)
    with running(app, ready=False) as client:
        yield client


def told(answer: httpx.Response) -> Any:
    """The body, which is JSON as browsers read it."""

    def refuse(name: str) -> None:
        raise AssertionError(name)

    assert answer.status_code == 200, answer.text
    return json.loads(answer.text, parse_constant=refuse)


def test_what_is_shown_is_the_default_models_latest_version_and_what_it_said_before(
    api: httpx.Client, stored: Stored
) -> None:
    answer = told(api.get("/wait_time", params={"facility": BUSY, "band": "all_posted"}))
    (place,) = answer["places"]
    current = place["current"]

    assert (answer["status"], place["status"]) == ("ok", "ok")
    assert (current["model"], current["version"]) == FLUID
    assert (current["wait_seconds"], current["p80_seconds"], current["fallback"]) == (P50, P80, False)
    assert datetime.fromisoformat(current["as_of"]) == stored.newest
    assert datetime.fromisoformat(current["valid_until"]) == stored.newest + 2 * EVERY
    assert current["displayed"] == {
        "low_minutes": 90,
        "high_minutes": 135,
        "code": "range",
        "text": {"en": "1 h 30 to 2 h 15", "fr": "1 h 30 à 2 h 15"},
        "eight_in_ten": {
            "en": "8 in 10 people are seen within 2 h 15",
            "fr": "8 personnes sur 10 sont vues en 2 h 15 ou moins",
        },
    }
    moments = [datetime.fromisoformat(value["as_of"]) for value in answer["values"]]
    assert moments == [stored.newest - EVERY * back for back in range(TICKS)]
    assert [value["stale"] for value in answer["values"]][::4] == [False, True]
    fewer = told(api.get("/wait_time", params={"facility": BUSY, "band": "all_posted", "limit": 2}))
    assert (fewer["values"], fewer["truncated"]) == (answer["values"][:2], True)


def test_a_window_is_taken_in_seconds_or_with_an_offset_and_its_ends_are_in_it(
    api: httpx.Client, stored: Stored
) -> None:
    first, last = stored.newest - 2 * EVERY, stored.newest - EVERY
    local = [moment.astimezone(datetime.now().astimezone().tzinfo) for moment in (first, last)]
    windows = [
        f"from_ts={first.timestamp():.0f}&to_ts={last.timestamp():.3f}",
        f"from_ts={first:%Y-%m-%dT%H:%M:%SZ}&to_ts={last:%Y-%m-%dT%H:%M}%2B00:00",
        f"from_ts={first.isoformat()}&to_ts={local[1].isoformat().replace('+', '%2B')}",
    ]
    for model in ("", "&model_name=mean"):
        found = [
            told(api.get(f"/wait_time?facility={BUSY}&band=ctas_3{model}&{w}"))["values"] for w in windows
        ]
        assert [datetime.fromisoformat(value["tick"]) for value in found[0]] == [last, first]
        assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(
    ("query", "where"),
    [
        ("from_ts=1767225600000", "query.from_ts"),
        ("to_ts=2026-01-01T00:00:00", "query.to_ts"),
        ("to_ts=NaN", "query.to_ts"),
        ("to_ts=-5", "query.to_ts"),
        ("to_ts=9999-12-31T23:59:59-23:59", "query.to_ts"),
        (f"to_ts={SECRET}", "query.to_ts"),
        ("from_ts=1767225600&to_ts=1767225599", "query.from_ts"),
        ("from_ts=1767225600&to_ts=1770000000", "query.from_ts"),
        ("limit=0", "query.limit"),
        ("limit=100000", "query.limit"),
        ("model_version=1.0.0", "query.model_version"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused_without_repeating_it(
    api: httpx.Client, query: str, where: str
) -> None:
    answer = api.get(f"/wait_time?{query}")

    assert answer.status_code == 422
    (problem,) = answer.json()["error"]["problems"]
    assert problem["location"] == where
    assert not [value for value in query.replace("&", "=").split("=")[1::2] if value in answer.text]


def test_what_is_not_there_is_a_404_and_what_has_no_rows_an_empty_answer(api: httpx.Client) -> None:
    unknown = ("model_name=none", "model_name=fluid&model_version=9.0.0", f"facility={SECRET}", "band=ctas_1")
    for query in unknown:
        answer = api.get(f"/wait_time?{query}")
        assert (answer.status_code, SECRET in answer.text) == (404, False), query
    assert api.get(f"/wait_time/feed/{SECRET}").status_code == 404

    for query in ("model_name=mean&facility=ed-empty", f"model_name=mean&facility={BUSY}&to_ts=1767225600"):
        answer = told(api.get(f"/wait_time?{query}"))
        assert answer["values"] == []
    assert told(api.get(f"/wait_time?model_name=mean&facility={EMPTY}"))["status"] == "not_available"
    shown = told(api.get(f"/wait_time?facility={EMPTY}"))
    assert shown["status"] == "not_available"
    assert [place["current"] for place in shown["places"]] == [None] * len(ALL_BANDS)


def test_a_name_without_a_version_is_its_latest_by_number(api: httpx.Client) -> None:
    latest = told(api.get(f"/wait_time?model_name=fluid&facility={BUSY}"))
    earlier = told(api.get(f"/wait_time?model_name=fluid&model_version=0.0.9&facility={BUSY}"))

    assert (latest["version"], latest["status"]) == ("0.0.10", "ok")
    assert {value["version"] for value in latest["values"]} == {"0.0.10"}
    assert {(v["status"], v["message"], v["wait_seconds"]) for v in earlier["values"]} == {
        ("error", "it raised", None)
    }
    assert earlier["status"] == "not_available"


@pytest.mark.parametrize("name", [OLD, SILENT, EMPTY])
def test_what_is_old_or_rests_on_a_silent_feed_is_never_current(api: httpx.Client, name: str) -> None:
    shown = told(api.get(f"/wait_time?facility={name}"))
    said = told(api.get(f"/wait_time?facility={name}&model_name=fluid"))
    feed = told(api.get(f"/wait_time/feed/{name}"))

    assert [place["current"] for place in shown["places"] + said["places"]] == [None] * 2 * len(ALL_BANDS)
    assert {place["status"] for place in shown["places"]} == {feed["status"]} == {"not_available"}
    assert not [v for v in shown["values"] if v["displayed"]]
    assert (said["status"] == "stale") == (name != EMPTY)
    assert (feed["as_of"], feed["valid_until"]) == (None, None)
    for band in feed["bands"]:
        assert (band["p50_seconds"], band["p80_seconds"], band["displayed"]) == (None, None, None)
        assert "not available" in band["text"]["en"]
        assert "pas disponibles" in band["text"]["fr"]


def test_a_promotion_holds_from_the_next_request_on_and_is_rolled_back(
    api: httpx.Client, stored: Stored
) -> None:
    def current() -> Any:
        places = told(api.get("/wait_time", params={"facility": BUSY, "band": "ctas_3"}))["places"]
        feed = told(api.get(f"/wait_time/feed/{BUSY}"))
        (band,) = (band for band in feed["bands"] if band["band"] == "ctas_3")
        assert (band["model"], band["displayed"]) == (
            places[0]["current"]["model"],
            places[0]["current"]["displayed"],
        )
        return places[0]["current"]

    why: Any = {"by": "tester", "reason": "to see it on the board", "default": DEFAULT}
    assert current()["model"] == "fluid"
    promote(stored.warehouse, BUSY, "ctas_3", MEAN, evidence=None, force=True, **why)
    promoted = current()
    # It has no eightieth percentile, so nothing is promised of it.
    assert (promoted["model"], promoted["displayed"]["eight_in_ten"]) == ("mean", None)
    assert promoted["displayed"]["text"]["en"] == "about 1 h 45"
    promote(stored.warehouse, BUSY, "ctas_3", EARLIER, evidence=None, force=True, **why)
    stands_in = current()
    assert (stands_in["version"], stands_in["fallback"], stands_in["replaced"]) == ("0.0.10", True, True)
    rollback(stored.warehouse, BUSY, "ctas_3", **why)
    rollback(stored.warehouse, BUSY, "ctas_3", **why)
    assert (current()["model"], current()["replaced"]) == ("fluid", False)


def test_the_range_is_the_one_that_the_board_was_given(api: httpx.Client, stored: Stored) -> None:
    """A small change is held back by the board; the API must not tell it before."""
    table = tables.wait_time_displays
    of_place = sa.and_(table.c.facility_id == BUSY, table.c.band == "ctas_2", table.c.as_of == stored.newest)
    with stored.warehouse.transaction() as connection:
        connection.execute(sa.update(table).where(of_place).values(low_minutes=75, high_minutes=120))
    answer = told(api.get(f"/wait_time?facility={BUSY}&band=ctas_2"))

    for value in (answer["places"][0]["current"], answer["values"][0]):
        assert (value["displayed"]["low_minutes"], value["displayed"]["high_minutes"]) == (75, 120)


def test_the_feed_may_be_kept_until_it_changes_and_withholds_small_counts(
    stored: Stored, tmp_path: Path
) -> None:
    address = f"/wait_time/feed/{BUSY}"
    with closed(stored, tmp_path, public=True) as client:
        first, again = client.get(address), client.get(address)
        same = client.get(address, headers={"If-None-Match": f'"other", {first.headers["ETag"]}'})
        other = client.get(address, headers={"If-None-Match": '"other"'})
    feed = told(first)

    assert first.content == again.content == other.content
    assert (same.status_code, same.content, same.headers["ETag"]) == (304, b"", first.headers["ETag"])
    rule, age = first.headers["Cache-Control"].split(", max-age=")
    assert (rule, first.headers["ETag"].startswith('"')) == ("public", True)
    assert 0 <= int(age) <= 60
    headline, *bands = feed["bands"]
    assert (feed["facility"]["name"]["fr"], feed["status"]) == ("ed-busy General", "ok")
    assert (headline["p50_seconds"], headline["text"]["fr"]) == (P50, "1 h 30 à 2 h 15")
    assert feed["as_of_local"][-6:] in ("-04:00", "-05:00")
    assert (headline["waiting"], [band["waiting"] for band in bands]) == (14, [None, 8, 6])
    assert (feed["in_treatment"], feed["counts_below"]) == (None, SMALL)
    assert feed["disclaimer"]["text"]["fr"]


def test_no_small_count_can_be_computed_from_those_that_are_told() -> None:
    for third, fourth, unknown in itertools.product(range(9), repeat=3):
        waiting = {"all_posted": third + fourth + unknown, "ctas_3": third, "ctas_4_5": fourth}
        counts, treated = told_counts({**waiting, "ctas_2": third}, fourth)
        parts = [counts["ctas_3"], counts["ctas_4_5"]]

        assert all(count is None or count >= SMALL for count in (*counts.values(), treated))
        assert parts.count(None) in (0, 2)
        if None not in parts:
            assert counts["all_posted"] == third + fourth + unknown
            assert unknown == 0 or unknown >= SMALL
        if third >= SMALL and fourth >= SMALL and unknown == 0:
            assert parts == [third, fourth]


def test_who_may_ask_what(stored: Stored, tmp_path: Path) -> None:
    keys = {role: make_key(stored.warehouse, role, datetime.now(UTC)) for role in ROLES}

    def statuses(client: httpx.Client, role: str | None, paths: tuple[str, ...]) -> set[int]:
        headers = {"Authorization": f"Bearer {keys[role]}"} if role else {}
        return {client.get(path, headers=headers).status_code for path in paths}

    for public in (False, True):
        with closed(stored, tmp_path, public=public) as client:
            assert statuses(client, None, OPEN) == ({200} if public else {401})
            assert statuses(client, None, COMPARED) == {401}
            for role in ROLES:
                assert statuses(client, role, OPEN) == {200}
                assert statuses(client, role, COMPARED) == ({200} if role in MAY_COMPARE else {403}), role
            kept = client.get(COMPARED[0], headers={"Authorization": f"Bearer {keys['analyst']}"}).headers
            assert kept["Cache-Control"].startswith("private")
            assert "Authorization" in kept["Vary"]


def test_connections_are_given_back(stored: Stored) -> None:
    app = stored.site()
    paths = [
        "/wait_time",
        "/wait_time?model_name=none",
        f"/wait_time/feed/{BUSY}",
        f"/wait_time?band={SECRET}",
    ]
    with running(app, ready=False) as client, ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda n: client.get(paths[n % 4]).status_code, range(200)))
        pool: Any = app.state.service.warehouse.engine.pool
        assert found == [200, 404, 200, 404] * 50
        assert pool.checkedout() == 0


def test_models_are_told_with_where_they_are_shown_and_how_they_did(
    api: httpx.Client, stored: Stored
) -> None:
    days = [(1, 100, 900.0, 0.7), (2, 300, 500.0, 0.9), (40, 100, 9e9, 0.0)]
    measured = [
        {"day": stored.newest.date() - timedelta(days=back), "facility_id": BUSY, "band": "ctas_3"}
        | {**MEAN._asdict(), "n": n, "left_unseen": 0, "known_misses": 0, "unresolved": 0, "ticks": 96}
        | {"pinball_80": loss, "coverage": coverage, "measured_at": stored.newest}
        for back, n, loss, coverage in days
    ]
    worse = [row | FLUID._asdict() | {"pinball_80": 1000.0} for row in measured]
    with stored.warehouse.transaction() as connection:
        connection.execute(sa.insert(tables.wait_time_performance), measured + worse)
    rows = told(api.get(f"/wait_time/performance?facility={BUSY}&band=ctas_3&days=28"))["rows"]
    models = told(api.get("/wait_time/models"))["models"]

    assert [(row["model"], row["n"], row["days"]) for row in rows] == [("mean", 400, 2), ("fluid", 400, 2)]
    assert rows[0]["pinball_80"] == pytest.approx(600)
    assert rows[0]["coverage"] == pytest.approx(0.85)
    assert rows[0]["mae"] is None
    assert [(m["model"], m["version"]) for m in models] == [EARLIER, FLUID, MEAN]
    assert {place["facility"] for place in models[1]["shown_at"]} == {BUSY}
    assert {place["facility"] for place in models[1]["assigned_at"]} >= {SILENT, OLD}
    assert [m["last_ok_as_of"] is None for m in models] == [True, False, False]
    assert models[0]["parameters"] == {"hours": 4}


@pytest.mark.parametrize("model", [schema.WaitAnswer, schema.WaitFeed])
def test_the_documents_examples_are_answers(model: Any, stored: Stored) -> None:
    example = model.model_config["json_schema_extra"]["example"]

    assert json.loads(model.model_validate(example).model_dump_json()) == example
    documented = stored.site().openapi()["paths"]
    for path in ("/wait_time", "/wait_time/models", "/wait_time/performance", "/wait_time/feed/{facility}"):
        statuses = set(documented[path]["get"]["responses"])
        assert statuses >= {"200", "304", "401", "403", "405", "429", "500", "503"}
