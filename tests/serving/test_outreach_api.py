"""The morning list for programs: pages, calls, roles, audit, and when a list is due."""

# ruff: noqa: F811
from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from medscore_assets import partitions
from medscore_assets.readmission.policy import DISCLAIMER
from serving import lists
from tests.serving.portal_site import (  # noqa: F401  fixtures
    BEFORE,
    DAY,
    ODD,
    QUOTED,
    SCRIPT,
    Site,
    closed_site,
    lists_database,
    minutes_ago,
    open_site,
)


@pytest.fixture(autouse=True)
def _no_calls(request: pytest.FixtureRequest) -> None:
    for name in {"open_site", "closed_site"} & set(request.fixturenames):
        request.getfixturevalue(name).forget_calls()


def as_role(site: Site, role: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {site.keys[role]}"}


def enter(site: Site, day: str = DAY, **body: Any) -> Any:
    return site.client.post(f"/v1/outreach/{day}/calls", json=body)


def test_a_list_is_given_as_it_was_published(open_site: Site) -> None:
    told = open_site.client.get(f"/v1/outreach/{DAY}", params={"limit": 1000}).json()
    stored = open_site.patients()
    assert told["disclaimer"] == DISCLAIMER
    assert told["header"]["score_date"] == DAY
    assert told["header"]["scored"] == len(stored) == len(told["patients"])
    assert told["header"]["quarantined"] == 1
    assert told["next_after_rank"] is None
    for given, row in zip(told["patients"], stored, strict=True):
        assert given["top_factors"] == json.loads(row["top_factors"])
        assert given["recommended_actions"] == json.loads(row["recommended_actions"])
        assert datetime.fromisoformat(given["discharged_at"]) == row["discharged_at"]
        assert given["disclaimer"] == DISCLAIMER
        for name in ("rank", "encounter_id", "patient_id", "readmission_probability", "risk_tier"):
            assert given[name] == row[name]
    assert {p["encounter_id"] for p in told["patients"]} >= set(ODD)
    assert all(told["header"][name] for name in ("contract_hash", "policy_hash", "model_version"))


def test_pages_follow_one_another_by_rank_and_miss_nobody(open_site: Site) -> None:
    after: int | None = 0
    ranks: list[int] = []
    while after is not None:
        asked = open_site.client.get("/v1/outreach/latest", params={"after_rank": after, "limit": 20})
        page = asked.json()
        assert len(page["patients"]) <= 20
        ranks += [p["rank"] for p in page["patients"]]
        after = page["next_after_rank"]
    assert ranks == list(range(1, len(open_site.patients()) + 1))
    exact = open_site.client.get(f"/v1/outreach/{DAY}", params={"limit": len(ranks)}).json()
    assert exact["next_after_rank"] is None


def test_a_day_without_a_list_is_404_and_names_the_days_that_have_one(open_site: Site) -> None:
    refused = open_site.client.get("/v1/outreach/2020-01-01")
    assert refused.status_code == 404
    assert f"{DAY}, {BEFORE}" in refused.json()["error"]["message"]
    assert open_site.client.get("/v1/outreach/yesterday").status_code == 422


def test_a_call_is_entered_once_and_corrected_by_its_time(open_site: Site) -> None:
    at = minutes_ago(10)
    for outcome in ("called", "called", "reached"):
        answer = enter(open_site, encounter_id=SCRIPT, outcome=outcome, called_at=at)
        assert (answer.status_code, answer.json()["outcome"]) == (200, outcome)
    assert open_site.calls() == [(SCRIPT, "reached", "api")]
    told = open_site.client.get(f"/v1/outreach/{DAY}", params={"limit": 1000}).json()
    (patient,) = (p for p in told["patients"] if p["encounter_id"] == SCRIPT)
    assert [c["outcome"] for c in patient["calls"]] == ["reached"]
    assert datetime.fromisoformat(patient["calls"][0]["called_at"]) == datetime.fromisoformat(at)


def test_a_call_without_a_time_is_now(open_site: Site) -> None:
    before = datetime.now(UTC)
    told = enter(open_site, encounter_id=QUOTED, outcome="declined").json()
    assert before <= datetime.fromisoformat(told["called_at"]) <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"encounter_id": SCRIPT, "outcome": "married"}, 422),
        ({"encounter_id": SCRIPT, "outcome": "reached", "mrn": "1"}, 422),
        ({"encounter_id": SCRIPT, "outcome": "reached", "called_at": "2026-03-02T10:00:00"}, 422),
        ({"encounter_id": SCRIPT, "outcome": "reached", "called_at": "2199-03-02T10:00:00Z"}, 422),
        ({"encounter_id": SCRIPT, "outcome": "reached", "called_at": "0001-01-01T00:00:00+14:00"}, 422),
        ({"encounter_id": "\0", "outcome": "reached"}, 422),
        ({"encounter_id": 7, "outcome": "reached"}, 422),
        ({"outcome": "reached"}, 422),
        ({"encounter_id": "E-nowhere", "outcome": "reached"}, 404),
    ],
)
def test_a_call_that_is_not_valid_or_not_on_the_list_stores_nothing(
    open_site: Site,
    body: dict[str, Any],
    status: int,
) -> None:
    refused = enter(open_site, **body)
    assert refused.status_code == status
    assert "E-nowhere" not in refused.text
    assert "married" not in refused.text
    assert open_site.calls() == []


def test_a_call_belongs_to_the_list_of_its_day(open_site: Site) -> None:
    assert enter(open_site, BEFORE, encounter_id=SCRIPT, outcome="reached").status_code == 404
    assert open_site.calls() == []


def test_lists_and_calls_are_for_care_managers_only(closed_site: Site) -> None:
    body = {"encounter_id": SCRIPT, "outcome": "reached"}
    for role, status in (("care-manager", 200), ("coordinator", 403), ("analyst", 403), ("steward", 403)):
        headers = as_role(closed_site, role)
        assert closed_site.client.get("/v1/outreach/latest", headers=headers).status_code == status
        call = closed_site.client.post(f"/v1/outreach/{DAY}/calls", json=body, headers=headers)
        assert call.status_code == status
    bare = closed_site.client.get("/v1/outreach/latest")
    assert (bare.status_code, bare.content) == (401, b"")


def test_every_answer_and_refusal_is_audited_once(closed_site: Site) -> None:
    manager, analyst = as_role(closed_site, "care-manager"), as_role(closed_site, "analyst")
    address = f"/v1/outreach/{DAY}"
    body = {"encounter_id": SCRIPT, "outcome": "reached"}
    for ask in (
        lambda: closed_site.client.get(address, headers=manager),
        lambda: closed_site.client.get(address, headers=analyst),
        lambda: closed_site.client.get(address),
        lambda: closed_site.client.get("/v1/outreach/2020-01-01", headers=manager),
        lambda: closed_site.client.post(f"{address}/calls", json=body, headers=manager),
        lambda: closed_site.client.post(f"{address}/calls", json=body | {"x": 1}, headers=manager),
    ):
        before = len(closed_site.audited())
        ask()
        (event,) = closed_site.audited()[before:]
        assert "contribution" not in event
    called = next(e for e in reversed(closed_site.audited()) if '"0"' in e and "script" in e)
    assert "desk care-manager" in called


def test_a_list_is_due_when_the_assets_say_so_also_when_clocks_change() -> None:
    assert (lists.MORNING_HOUR, lists.READY_BY_HOUR) == (partitions.MORNING_HOUR, partitions.READY_BY_HOUR)
    zone, first = ZoneInfo(partitions.mornings().timezone), partitions.mornings().start.date()
    # 07:00 in New York is 12:00 or 11:00 UTC; the clocks change on 8 March and on 1 November.
    clock = [(10, 59), (11, 0), (11, 59), (12, 0), (23, 30)]
    for begun in (datetime(2026, 3, 6, tzinfo=UTC), datetime(2026, 10, 30, tzinfo=UTC)):
        for hour, minute in clock * 5:
            moment = begun.replace(hour=hour, minute=minute)
            closed = partitions.closed_mornings(1, until=moment - timedelta(hours=1))
            assert lists.due_day(moment, zone, first) == date.fromisoformat(closed[0])
            begun += timedelta(days=1) if (hour, minute) == clock[-1] else timedelta()
    assert lists.due_day(datetime(2020, 1, 1, tzinfo=UTC), zone, first) is None
