"""Days on which the clocks change: no visit is lost, and no wait told too short."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medscore_assets.wait_times.importers import hl7_adt, visits_csv
from medscore_assets.wait_times.importers.records import Report
from medscore_assets.wait_times.importers.repeated_hour import BY_ORDER, EARLIER, LATER
from medscore_assets.wait_times.importers.visit_changes import Change, new_versions
from tests.wait_times.test_visit_import import MAPPING, NOW, ZONES, message, utc

TORONTO = ZONES["general-ed"]
AUTUMN, SPRING = utc("2025-11-02T04:00:00"), utc("2026-03-08T05:00:00")
"""Midnight of the days, in UTC. The autumn's second hour is from 05:00 to 06:00 and again to 07:00."""
HOUR = timedelta(hours=1)


def wall(moment: datetime) -> str:
    """As a clock on the wall in Toronto shows it, in HL7's form."""
    return f"{moment.astimezone(TORONTO):%Y%m%d%H%M}"


def read(
    folder: Path, *messages: str, now: datetime = NOW, stored: Sequence[dict[str, Any]] = ()
) -> tuple[list[Change], list[dict[str, Any]], Report]:
    """The changes, and the visit's versions after them."""
    path, report = folder / "adt.hl7", Report()
    path.write_bytes("".join(messages).encode())
    changes = list(hl7_adt.read_messages(path, MAPPING, ZONES, report, now=now))
    known = {(row["facility_id"], row["visit_id"]): [] for row in stored}
    for row in stored:
        state = {name: row[name] for name in row if name not in ("facility_id", "visit_id", "source")}
        known[row["facility_id"], row["visit_id"]].append((state.pop("recorded_at"), state))
    return changes, new_versions(changes, known, "hl7-adt").to_pylist(), report


def registered(at: datetime, recorded: datetime) -> str:
    return message("A04", wall(recorded), "555", f"PV1|44={wall(at)}|4=E")


def ended(at: datetime, pia: datetime, left: datetime, recorded: datetime) -> str:
    return message("A03", wall(recorded), "555", f"PV1|44={wall(at)}|45={wall(left)}", f"ZED|||{wall(pia)}")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    midnight=st.sampled_from((AUTUMN, SPRING)),
    start=st.integers(0, 300),
    gaps=st.tuples(*[st.integers(0, 150)] * 3),
)
def test_no_visit_of_such_a_day_is_refused_and_no_wait_shortened(
    tmp_path: Path, midnight: datetime, start: int, gaps: tuple[int, int, int]
) -> None:
    minutes = [start, start + gaps[0], start + sum(gaps[:2]), start + sum(gaps)]
    arrival, pia, left, recorded = (midnight + timedelta(minutes=each) for each in minutes)
    (change,), _, report = read(tmp_path, ended(arrival, pia, left, recorded))
    path, of_row = tmp_path / "visits.csv", Report()
    local = (f"{m.astimezone(TORONTO):%Y-%m-%dT%H:%M}" for m in (arrival, pia, left, recorded))
    path.write_text(
        f"facility_id,visit_id,arrival,pia_at,disposition_at,recorded_at\ngeneral-ed,1,{','.join(local)}\n"
    )
    (table,) = visits_csv.read_visits(path, ZONES, of_row, now=NOW)
    (row,) = table.to_pylist()

    told = change.told
    found = (told["registered_at"], told["pia_at"], told["disposition_at"], change.recorded_at)
    assert (row["arrival"], row["pia_at"], row["disposition_at"], row["recorded_at"]) == found
    assert list(found) == sorted(found)
    assert found[1] - found[0] >= pia - arrival
    assert found[0] <= arrival
    twice = 0
    for said, true in zip(found, (arrival, pia, left, recorded), strict=True):
        in_hour = midnight == AUTUMN and HOUR <= true - midnight < 3 * HOUR
        twice += in_hour
        assert said == true or (in_hour and abs(said - true) == HOUR)
    assert sum(report.repaired.values()) == sum(of_row.repaired.values()) == twice
    assert (report.refused, of_row.refused) == ({}, {})


def test_what_the_record_knows_decides_before_anything_is_assumed(tmp_path: Path) -> None:
    first, second = utc("2025-11-02T05:50:00"), utc("2025-11-02T06:10:00")
    # 1:50 is before 1:10 only if the clocks were set back in between.
    (change,), _, report = read(tmp_path, registered(first, second))
    assert (change.told["registered_at"], change.recorded_at) == (first, second)
    assert {how for _, how in report.repaired} == {BY_ORDER}
    # At 1:52 of the first time, 1:50 of the second lies in the future.
    live = first + timedelta(minutes=2)
    (change,), _, report = read(tmp_path, registered(first, live), now=live)
    assert (change.told["registered_at"], change.recorded_at) == (first, live)
    assert {how for _, how in report.repaired} == {BY_ORDER}
    # A day later nothing decides: the wait may have begun at either, and ended at either.
    (change,), _, report = read(tmp_path, ended(first, live, first + 3 * HOUR, first + 4 * HOUR))
    assert (change.told["registered_at"], change.told["pia_at"]) == (first, live + HOUR)
    assert report.as_dict()["repaired"] == [
        {"field": "registered_at", "how": EARLIER, "times": 1},
        {"field": "pia_at", "how": LATER, "times": 1},
    ]


def test_what_is_known_of_a_visit_stays_if_a_later_record_may_mean_it(tmp_path: Path) -> None:
    arrival, pia = utc("2025-11-02T05:20:00"), utc("2025-11-02T05:40:00")
    seen = message("A08", wall(pia), "555", f"PV1|44={wall(arrival)}", f"ZED|||{wall(pia)}")
    _, known, _ = read(tmp_path, registered(arrival, arrival), seen, now=pia)
    assert (known[-1]["arrival"], known[-1]["pia_at"]) == (arrival, pia)
    _, rows, _ = read(tmp_path, ended(arrival, pia, pia + 3 * HOUR, pia + 4 * HOUR), stored=known)
    assert [(row["arrival"], row["pia_at"]) for row in rows] == [(arrival, pia)]
    # The same messages again, a day later, add nothing.
    _, again, _ = read(tmp_path, registered(arrival, arrival), seen, stored=known)
    assert again == []


def test_times_that_the_clocks_skipped_are_refused(tmp_path: Path) -> None:
    changes, _, report = read(tmp_path, message("A04", "20260308040000", "5", "PV1|44=202603080230"))
    assert changes == []
    ((field, reason),) = report.refused
    assert (field, "skipped" in reason) == ("PV1-44", True)
