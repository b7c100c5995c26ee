"""The stay of a score and the stays before it: when they were, and which of them are one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.examples import FEATURES
from serving.fhir_mapping import Mapped, NotScored, Underivable
from tests.serving.fhir_bundles import (
    NOW,
    bundle,
    encounter,
    of_class,
    prefetch_of,
)
from tests.serving.fhir_reading import (
    Prefetch,
    mapped,
    missing,
    row,
    stay_with,
)


@pytest.fixture
def values() -> Prefetch:
    """The prefetch of the documented example."""
    return prefetch_of(FEATURES)


# Stay


@pytest.mark.parametrize(
    ("start", "end", "nights"),
    [
        ("2026-02-27T23:59:00-05:00", "2026-02-28T00:01:00-05:00", 1),
        ("2026-02-27T08:00:00-05:00", "2026-02-27T20:00:00-05:00", 0),
        # Already the next day in UTC, not yet in the hospital.
        ("2026-02-27T22:00:00-05:00", "2026-02-28T03:30:00Z", 0),
        ("2026-02-20", "2026-02-28", 8),
        ("2025-10-31T12:00:00-04:00", "2025-11-03T12:00:00-05:00", 3),
    ],
)
def test_the_length_of_stay_is_the_nights_by_the_hospitals_calendar(
    values: Prefetch, start: str, end: str, nights: int
) -> None:
    values["encounters"] = bundle(values["encounter"])
    assert row(stay_with(values, period={"start": start, "end": end}))["length_of_stay_days"] == nights


@pytest.mark.parametrize("planned", [{}, {"end": "2026-04-20T12:00:00-04:00"}])
def test_an_open_stay_is_taken_to_end_now(values: Prefetch, planned: dict[str, str]) -> None:
    period = {"start": values["encounter"]["period"]["start"], **planned}
    found = mapped(stay_with(values, status="in-progress", period=period))

    assert isinstance(found, Mapped)
    assert found.discharge_is_now
    assert found.discharged_at == NOW
    assert found.row["length_of_stay_days"] == FEATURES["length_of_stay_days"]


@pytest.mark.parametrize(
    ("changes", "needs"),
    [
        ({"period": None}, "Encounter.period.start"),
        ({"period": {"start": "2026-02-20"}}, "Encounter.period.end"),
        ({"period": {"start": "2026-02-28", "end": "2026-02-20"}}, "Encounter.period"),
        ({"period": {"start": "2026-02-20", "end": "2026-03-03"}}, "Encounter.period.end"),
        ({"period": {"start": "2026-02-20T10:00:00", "end": "2026-02-28"}}, "Encounter.period.start"),
        ({"status": "planned"}, "Encounter.status"),
        ({"status": None}, "Encounter.status"),
        ({"class": None}, "Encounter.class"),
        ({"class": {"system": "urn:local", "code": "INPATIENT"}}, "Encounter.class"),
    ],
)
def test_a_stay_whose_times_are_not_known_is_refused(
    values: Prefetch, changes: dict[str, Any], needs: str
) -> None:
    assert [m.needs for m in missing(stay_with(values, **changes)).values()] == [needs]


def test_a_stay_that_is_known_by_year_only_has_no_length(values: Prefetch) -> None:
    found = missing(stay_with(values, period={"start": "2025", "end": "2026-02-28"}))
    assert found["length_of_stay_days"].needs == "Encounter.period.start"


# Admissions before

START = datetime(2026, 2, 1, 12, tzinfo=UTC)


def before(values: Prefetch, *stays: dict[str, Any]) -> Prefetch:
    """A stay that began at `START`, with others."""
    stay_with(values, period={"start": START.isoformat(), "end": "2026-02-08T12:00:00-05:00"})
    values["encounters"] = bundle(values["encounter"], *stays)
    return values


def days_before(days: float, length: float = 1, name: str = "", **changes: Any) -> dict[str, Any]:
    start = START - timedelta(days=days)
    end = start + timedelta(days=length)
    return encounter(name or f"s{days}", start.isoformat(), end.isoformat(), **changes)


@pytest.mark.parametrize(
    ("stays", "count"),
    [
        ([], 0),
        ([days_before(365), days_before(365.1), days_before(2)], 2),
        ([days_before(10, **of_class("AMB")), days_before(20, **of_class("EMER"))], 0),
        ([days_before(10, **of_class("ACUTE"))], 1),
        ([days_before(10, status=s) for s in ("planned", "cancelled", "entered-in-error")], 0),
        # Overlapping and touching stays are one admission; a gap of an hour makes two.
        ([days_before(30, 5), days_before(28, 6)], 1),
        ([days_before(30, 2), days_before(28, 2)], 1),
        ([days_before(30, 10), days_before(29, 1), days_before(21, 1)], 1),
        ([days_before(30, 1.95), days_before(28, 2)], 2),
        # What reaches into the index stay is part of it.
        ([days_before(3, 3)], 0),
        ([days_before(3, 10, status="in-progress")], 0),
        ([days_before(9, 1, name="twin"), days_before(9, 1, name="twin")], 1),
        # By the day, where it decides.
        ([encounter("d", "2025-06-01", "2025-06-03"), encounter("m", "2025-03", "2025-03")], 2),
        ([encounter("old", "2019", None)], 0),
        ([days_before(-10, 1)], 0),
    ],
)  # fmt: skip
def test_earlier_admissions_are_counted_by_their_beginning_and_once(
    values: Prefetch, stays: list[dict[str, Any]], count: int
) -> None:
    found = mapped(before(values, *stays))
    if isinstance(found, NotScored):
        assert found.reason == "readmitted"
        assert stays[0]["id"] == "s-10"
    else:
        assert found.row["num_prior_admissions_12m"] == count


@pytest.mark.parametrize(
    "stay",
    [
        encounter("no-start", None, "2025-06-03"),
        encounter("no-end", "2025-06-03", None),
        encounter("edge", "2025-02", "2025-03-02"),
        encounter("edge", "2025-02-01", "2025-02-02"),
        encounter("same-day", "2026-01-30", "2026-02-01"),
        days_before(10, status="unknown"),
        days_before(10, status="arrived"),
        days_before(10, **{"class": {"system": "urn:local", "code": "IN"}}),
    ],
)
def test_an_earlier_stay_that_leaves_the_count_open_is_asked_for(
    values: Prefetch, stay: dict[str, Any]
) -> None:
    assert list(missing(before(values, stay))) == ["num_prior_admissions_12m"]


@pytest.mark.parametrize("encounters", [None, bundle(), bundle(days_before(10))])
def test_a_list_of_stays_without_this_one_is_not_trusted(values: Prefetch, encounters: Any) -> None:
    values["encounters"] = encounters
    assert "does not list this stay" in missing(values)["num_prior_admissions_12m"].why


# A first page of several

FOLLOWED = [{"relation": "next", "url": "https://fhir.example.org/2"}]
SEARCH = "https://fhir.example.org/r4/Encounter?patient=pat-1&_count=500"


def paged(values: Prefetch, *stays: dict[str, Any], **link: str) -> Prefetch:
    """The index stay and others, as they come, with more of them on the next page."""
    before(values, *stays)["encounters"]["link"] = [*FOLLOWED, *([link] if link else [])]
    values["encounters"]["total"] = 2_000
    return values


@given(
    st.lists(st.tuples(st.floats(0.5, 900), st.floats(0.01, 60), st.booleans()), max_size=25),
    st.sampled_from(("start", "end")),
    st.data(),
)
@settings(max_examples=50, deadline=None)
def test_pages_from_before_the_12_months_change_no_count(
    drawn: list[tuple[float, float, bool]], key: str, data: st.DataObject
) -> None:
    # None ends after the index stay, which comes first.
    stays = [
        {**days_before(days, min(length, days + 7), f"s{n}"), **of_class("IMP" if admitted else "AMB")}
        for n, (days, length, admitted) in enumerate(drawn)
    ]
    stays.sort(key=lambda stay: datetime.fromisoformat(stay["period"][key]), reverse=True)
    first = stays[: data.draw(st.integers(0, len(stays)), label="on the first page")]
    whole = row(before(prefetch_of(FEATURES), *stays))
    opens = START - timedelta(days=365)
    certain = first and all(datetime.fromisoformat(first[-1]["period"][k]) < opens for k in ("start", "end"))

    try:
        found = row(paged(prefetch_of(FEATURES), *first))
    except Underivable:
        found = None

    assert found == whole or (found is None and not certain)


OLD, RECENT = days_before(400), days_before(10)


@pytest.mark.parametrize(
    ("stays", "link"),
    [
        ([], {}),
        ([RECENT], {}),
        ([OLD, RECENT], {}),
        ([RECENT, OLD, days_before(390, 5)], {}),
        ([RECENT, encounter("undated", None, None), OLD], {}),
        # Whichever of the two the server sorted by.
        ([RECENT, days_before(400, 50)], {}),
        ([RECENT, OLD], {"relation": "self", "url": SEARCH}),
        ([RECENT, OLD], {"relation": "self", "url": f"{SEARCH}&_sort=date"}),
        ([RECENT, OLD], {"relation": "previous", "url": SEARCH}),
    ],
)
def test_a_first_page_that_may_lack_a_stay_of_the_12_months_is_refused(
    values: Prefetch, stays: list[dict[str, Any]], link: dict[str, str]
) -> None:
    assert missing(paged(values, *stays, **link))["num_prior_admissions_12m"].needs == "prefetch encounters"


def test_a_first_page_that_goes_back_far_enough_is_enough(values: Prefetch) -> None:
    page = paged(values, RECENT, OLD, relation="self", url=f"{SEARCH}&_sort=-date")
    assert row(page)["num_prior_admissions_12m"] == 1
    # By their beginnings they are in order, by their ends not: it was sorted by the former.
    page = paged(
        values, days_before(2, 1), days_before(20, 0.5), days_before(300, 290, **of_class("AMB")), OLD
    )
    assert row(page)["num_prior_admissions_12m"] == 2


def test_a_readmission_shows_on_a_first_page(values: Prefetch) -> None:
    entries = paged(values, days_before(-10), OLD)["encounters"]["entry"]
    entries[:2] = entries[1::-1]
    found = mapped(values)
    assert isinstance(found, NotScored)
    assert found.reason == "readmitted"
