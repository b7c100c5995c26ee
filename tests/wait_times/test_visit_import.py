"""Visits of files and messages: what is taken, what is refused, and which versions come of it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
import sqlalchemy as sa

from medscore_assets.cli import wait_visits
from medscore_assets.demo.emergency import SOURCE, SimulatedVisits, simulate
from medscore_assets.tables import ed_visits
from medscore_assets.wait_times.importers import hl7_adt, visits_csv
from medscore_assets.wait_times.importers.records import Report, opaque_id
from medscore_assets.wait_times.importers.repeated_hour import EARLIER
from medscore_assets.wait_times.importers.visit_changes import Change, new_versions
from medscore_assets.wait_times.visit_loading import (
    DEMO,
    load_changes,
    load_demo_visits,
    load_facilities,
    load_versions,
)
from resources.errors import PermanentError
from resources.warehouse import Warehouse

NOW = datetime(2026, 6, 1, tzinfo=UTC)
ZONES = {"general-ed": ZoneInfo("America/Toronto")}
FACILITIES = pa.table(
    {"facility_id": ["general-ed"], "name": ["General"], "name_fr": ["Général"], "zone": ["America/Toronto"]}
)
KEY = ["facility_id", "visit_id", "recorded_at"]
MAPPING = hl7_adt.load_mapping()


@pytest.fixture(scope="module")
def three_days() -> SimulatedVisits:
    return simulate(1, date(2026, 1, 5), 3, 3)


@pytest.fixture
def ready(warehouse: Warehouse) -> Warehouse:
    """A warehouse that knows one facility."""
    load_facilities(warehouse, FACILITIES)
    return warehouse


def stored(warehouse: Warehouse) -> pa.Table:
    order = [ed_visits.c[name] for name in KEY]
    return warehouse.read(sa.select(ed_visits).order_by(*order))


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def in_order(visits: pa.Table) -> list[dict[str, Any]]:
    return [dict(row) for row in visits.sort_by([(name, "ascending") for name in KEY]).to_pylist()]


def test_the_demo_has_the_source_that_may_be_replaced() -> None:
    assert SOURCE == DEMO


def test_versions_in_any_order_and_again_become_the_same_history(
    warehouse: Warehouse, three_days: SimulatedVisits
) -> None:
    load_facilities(warehouse, three_days.facilities)
    shuffled = three_days.visits.take(
        pa.array(np.random.default_rng(0).permutation(three_days.visits.num_rows))
    )
    third = shuffled.num_rows // 3
    parts = [shuffled.slice(0, third), shuffled.slice(third, third), shuffled.slice(2 * third)]
    loaded = load_versions(warehouse, parts)
    assert (loaded.added, loaded.conflicts) == (shuffled.num_rows, 0)
    assert in_order(stored(warehouse)) == in_order(three_days.visits)
    again = load_versions(warehouse, [three_days.visits])
    assert (again.added, again.present, again.superseded) == (0, shuffled.num_rows, 0)
    other = three_days.visits.set_column(
        three_days.visits.schema.get_field_index("scheduled"),
        "scheduled",
        pa.array([True] * shuffled.num_rows),
    )
    clash = load_versions(warehouse, [other])
    assert clash.conflicts > 0.9 * shuffled.num_rows
    assert clash.added == 0
    assert in_order(stored(warehouse)) == in_order(three_days.visits)


def test_demo_visits_replace_only_demo_visits(ready: Warehouse, three_days: SimulatedVisits) -> None:
    load_demo_visits(ready, three_days.facilities, three_days.visits, replace=False)
    with pytest.raises(PermanentError, match="--replace"):
        load_demo_visits(ready, three_days.facilities, three_days.visits, replace=False)
    some = three_days.visits.slice(0, 40)
    load_demo_visits(ready, three_days.facilities, some, replace=True)
    assert stored(ready).num_rows == 40
    change = Change("general-ed", "x", NOW, {"registered_at": NOW})
    load_changes(ready, [change], "hl7-adt")
    with pytest.raises(PermanentError, match="hl7-adt"):
        load_demo_visits(ready, three_days.facilities, some, replace=True)


def test_visits_of_unknown_facilities_are_refused_whole(
    ready: Warehouse, three_days: SimulatedVisits
) -> None:
    with pytest.raises(PermanentError, match="demo-ed-001"):
        load_versions(ready, [three_days.visits])
    assert stored(ready).num_rows == 0


CSV = """facility_id,visit_id,recorded_at,arrival,ctas,pia_at,scheduled
general-ed,1001,2026-03-02T10:05:00-05:00,2026-03-02T10:00:00-05:00,,,
general-ed,1001,2026-03-02T11:05:00-05:00,2026-03-02 10:00,3,2026-03-02 11:01,no
elsewhere,77,2026-03-02T10:05:00Z,2026-03-02T10:00:00Z,3,,
general-ed,1002,2026-03-02T10:05:00Z,yesterday,3,,
general-ed,1003,2026-03-02T10:05:00Z,2026-03-02T10:00:00Z,6,,
general-ed,1004,2026-03-08T10:05:00Z,2026-03-08T02:30:00,3,,
general-ed,1005,2025-11-02T10:05:00Z,2025-11-02T01:30:00,3,,
general-ed,1006,2027-03-08T10:05:00Z,2026-03-08T10:00:00Z,3,,
general-ed,1007,2026-03-08T10:05:00Z,2026-03-08,3,,
general-ed,,2026-03-08T10:05:00Z,2026-03-08T10:00:00Z,3,,
general-ed,1009,2026-03-08T10:05:00Z
general-ed,1010,,2026-03-08T10:00:00Z,3,,
general-ed,1011,2026-03-08T10:05:00Z,2026-03-08T10:00:00Z,3,,perhaps
"""


def test_a_csv_row_is_taken_or_refused_with_its_line_and_never_its_value(tmp_path: Path) -> None:
    path = tmp_path / "visits.csv"
    path.write_text(CSV)
    report = Report()
    (rows,) = visits_csv.read_visits(path, ZONES, report, now=NOW)
    first, second, third = rows.to_pylist()
    assert report.taken == 3
    assert first["arrival"] == second["arrival"] == utc("2026-03-02T15:00:00")
    assert (second["pia_at"], second["ctas"]) == (utc("2026-03-02T16:01:00"), 3)
    assert first["visit_id"] == opaque_id("general-ed", "1001") != "1001"
    refused = {found.first: key for key, found in report.refused.items()}
    expected = {
        4: "facility_id",
        5: "arrival",
        6: "ctas",
        7: "arrival",
        9: "recorded_at",
        10: "arrival",
        11: "visit_id",
        12: "row",
        13: "recorded_at",
        14: "scheduled",
    }
    assert {place: name for place, (name, _) in refused.items()} == {
        f"visits.csv:{line}": name for line, name in expected.items()
    }
    assert "skipped" in refused["visits.csv:7"][1]
    # Of the hour that the clocks showed twice, the reading with the longer wait.
    assert third["arrival"] == utc("2025-11-02T05:30:00")
    assert report.repaired == {("arrival", EARLIER): 1}
    said = str(report.as_dict())
    assert not any(value in said for value in ("yesterday", "perhaps", "1002", "77"))


def test_an_extract_counts_as_recorded_when_it_happened_and_a_later_one_is_known_from_now(
    ready: Warehouse, tmp_path: Path
) -> None:
    path = tmp_path / "extract.csv.gz"
    header = "facility_id,visit_id,arrival,triage_at,ctas,pia_at,disposition_at\n"
    row = "general-ed,1,2026-03-02T10:00Z,2026-03-02T10:08Z,3,2026-03-02T{}Z,2026-03-02T14:00Z\n"
    other = "general-ed,2,2026-03-02T10:00Z,,4,,\n"

    def imported(*lines: str) -> Any:
        path.write_bytes(gzip.compress((header + "".join(lines)).encode()))
        assert not visits_csv.has_recording_times(path)
        return load_versions(ready, visits_csv.read_visits(path, ZONES, Report(), now=NOW), as_happened=True)

    assert imported(row.format("11:30"), other).added == 5
    known = [row for row in stored(ready).to_pylist() if row["ctas"] == 3 or row["triage_at"] is None]
    assert [row["recorded_at"] for row in known if row["visit_id"] == opaque_id("general-ed", "1")] == [
        utc(f"2026-03-02T{at}:00") for at in ("10:00", "10:08", "11:30", "14:00")
    ]
    assert imported(row.format("11:30"), other).added == 0
    before = datetime.now(UTC)
    assert imported(row.format("11:45"), other).added == 1
    newest = next(r for r in stored(ready).to_pylist() if r["pia_at"] == utc("2026-03-02T11:45:00"))
    assert newest["recorded_at"] >= before
    assert newest["superseded_at"] is None


def test_a_header_without_a_needed_or_with_an_unknown_column_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "visits.csv"
    for header in ("facility_id,visit_id", "facility_id,visit_id,arrival,name"):
        path.write_text(header + "\n")
        with pytest.raises(PermanentError, match="header"):
            list(visits_csv.read_visits(path, ZONES, Report(), now=NOW))


def message(trigger: str, at: str, number: str = "555", *segments: str) -> str:
    header = f"MSH|^~\\&|ADT|general-ed|MEDSCORE||{at}||ADT^{trigger}|M{at}|P|2.5.1"
    fields = [""] * 45
    fields[18] = f"{number}^^^ED"
    found = {s.partition("|")[0]: s for s in segments}
    for part in found.pop("PV1", "").split("|")[1:]:
        position, _, value = part.partition("=")
        fields[int(position) - 1] = value
    return "\r".join([header, "PID|1||SECRET||DOE^JANE", "PV1|" + "|".join(fields), *found.values()]) + "\r"


REGISTERED = message("A04", "20260302100500-0500", "555", "PV1|44=20260302100000-0500|4=E")
TRIAGED = message("A08", "20260302101500", "555", "OBX|1|NM|CTAS^Triage||3||||||F|||20260302101200")
SEEN = message("A08", "20260302113000-0500", "555", "ZED|||20260302112600-0500")
ENDED = message("A03", "20260302150500-0500", "555", "PV1|45=20260302150000-0500|36=01")


def read(tmp_path: Path, *messages: str, mapping: Any = MAPPING) -> tuple[list[Change], Report]:
    path, report = tmp_path / "adt.hl7", Report()
    path.write_bytes(("\x0b" + "\x1c\r\x0b".join(messages) + "\x1c\r").encode())
    assert hl7_adt.is_hl7(path)
    return list(hl7_adt.read_messages(path, mapping, ZONES, report, now=NOW)), report


def test_messages_build_a_visit_step_by_step_and_name_nobody(tmp_path: Path) -> None:
    changes, report = read(tmp_path, REGISTERED, TRIAGED, SEEN, ENDED)
    assert (report.taken, report.refused) == (4, {})
    rows = new_versions(changes, {}, hl7_adt.SOURCE).to_pylist()
    assert [row["recorded_at"] for row in rows] == [
        utc(f"2026-03-02T{at}:00") for at in ("15:05", "15:15", "16:30", "20:05")
    ]
    assert [row["ctas"] for row in rows] == [None, 3, 3, 3]
    last = rows[-1]
    assert last["arrival"] == utc("2026-03-02T15:00:00")
    assert last["triage_at"] == utc("2026-03-02T15:12:00")
    assert last["pia_at"] == utc("2026-03-02T16:26:00")
    assert last["disposition_at"] == utc("2026-03-02T20:00:00")
    assert (last["left_at"], last["scheduled"]) == (None, False)
    assert "SECRET" not in str(rows) + str(changes)
    assert "555" not in str([row["visit_id"] for row in rows])


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_messages_in_any_order_and_again_end_in_the_same_state(
    ready: Warehouse, tmp_path: Path, order: Sequence[int]
) -> None:
    messages = [REGISTERED, TRIAGED, SEEN, ENDED]
    for position in order:
        load_changes(ready, read(tmp_path, messages[position])[0], hl7_adt.SOURCE)
    rows = stored(ready).to_pylist()
    (current,) = [row for row in rows if row["superseded_at"] is None]
    assert current["pia_at"] == utc("2026-03-02T16:26:00")
    assert current["ctas"] == 3
    assert current["arrival"] == utc("2026-03-02T15:00:00")
    again = load_changes(ready, read(tmp_path, *messages)[0], hl7_adt.SOURCE)
    assert (again.added, again.superseded) == (0, 0)
    assert stored(ready).to_pylist() == rows


def test_who_leaves_unseen_has_no_disposition_and_a_cancelled_visit_has_no_arrival(tmp_path: Path) -> None:
    gone = message("A03", "20260302150500-0500", "555", "PV1|45=20260302150000-0500|36=LWBS")
    changes, _ = read(tmp_path, REGISTERED, gone)
    last = new_versions(changes, {}, "hl7-adt").to_pylist()[-1]
    assert (last["left_at"], last["disposition_at"]) == (utc("2026-03-02T20:00:00"), None)
    # Who was seen and then left was not unseen, whatever the code says.
    changes, _ = read(tmp_path, REGISTERED, SEEN, gone)
    last = new_versions(changes, {}, "hl7-adt").to_pylist()[-1]
    assert (last["left_at"], last["disposition_at"]) == (None, utc("2026-03-02T20:00:00"))
    # A discharge that is cancelled takes the disposition away.
    changes, _ = read(tmp_path, REGISTERED, ENDED, message("A13", "20260302160000-0500"))
    assert new_versions(changes, {}, "hl7-adt").to_pylist()[-1]["disposition_at"] is None
    changes, _ = read(tmp_path, REGISTERED, message("A11", "20260302101000-0500"))
    rows = new_versions(changes, {}, "hl7-adt").to_pylist()
    assert rows[-1]["arrival"] is None
    assert len(rows) == 2


def test_two_messages_of_one_second_follow_each_other_and_quotes_take_away(tmp_path: Path) -> None:
    wrong = message("A08", "20260302113000-0500", "555", 'ZED|||""')
    changes, _ = read(tmp_path, REGISTERED, SEEN, wrong)
    rows = new_versions(changes, {}, "hl7-adt").to_pylist()
    assert [row["pia_at"] is None for row in rows] == [True, False, True]
    assert (rows[2]["recorded_at"] - rows[1]["recorded_at"]).microseconds == 1


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (message("A04", "20260302"), "MSH-7"),
        (message("A04", "not a time"), "MSH-7"),
        (message("A04", "20260308023000"), "MSH-7"),
        (message("A04", "20270302100500-0500"), "recorded_at"),
        (message("A04", "20260302100500-0500", ""), "PV1-19.1"),
        (message("A04", "20260302100500-0500", "5", "PV1|44=20261302100000"), "PV1-44"),
        (message("A08", "20260302100500-0500", "5", "ZED||SEVEN"), "ZED-2"),
        (message("A04", "20260302100500-0500").replace("general-ed", "nowhere"), "facility_id"),
    ],
)
def test_a_message_that_cannot_be_taken_is_refused_by_field(tmp_path: Path, bad: str, field: str) -> None:
    changes, report = read(tmp_path, REGISTERED, bad)
    assert [key[0] for key in report.refused] == [field]
    assert len(changes) == 1
    assert next(iter(report.refused.values())).first.startswith("adt.hl7:")
    assert "SEVEN" not in str(report.as_dict())


def test_messages_of_no_concern_are_counted_and_codes_are_mapped(tmp_path: Path) -> None:
    oru = REGISTERED.replace("ADT^A04", "ORU^R01")
    mapping = MAPPING.model_copy(update={"facilities": {"GEN ED": "general-ed"}})
    changes, report = read(tmp_path, oru, REGISTERED.replace("general-ed", "GEN ED"), mapping=mapping)
    assert report.ignored == {"ORU R01": 1}
    assert [change.facility_id for change in changes] == ["general-ed"]


def test_a_mapping_that_is_wrong_is_refused_by_place(tmp_path: Path) -> None:
    path = tmp_path / "mapping.toml"
    path.write_text(hl7_adt.MAPPING_FILE.read_text().replace('"PV1-44"', '"PV144"'))
    with pytest.raises(PermanentError, match=r"places\.registered_at"):
        hl7_adt.load_mapping(path)


def test_the_commands_import_facilities_and_then_files_of_both_kinds(
    database: str,
    tmp_path: Path,
    clean_environment: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    clean_environment.setenv("MEDSCORE_HOME", str(tmp_path))
    clean_environment.setenv("MEDSCORE_DATABASE_URL", database)
    # The fixture's database has the schema; the others that `prepare` makes are not needed.
    clean_environment.setattr(wait_visits, "prepare", lambda _: None)
    facilities, visits, messages = (tmp_path / name for name in ("ed.csv", "visits.csv", "adt.hl7"))
    facilities.write_text("facility_id,zone\ngeneral-ed,America/Toronto\n")
    visits.write_text(CSV)
    messages.write_text(REGISTERED + SEEN + message("A04", "20260302"))

    def document(command: Callable[[], None]) -> Any:
        command()
        return json.loads(capsys.readouterr().out)

    assert document(lambda: wait_visits.import_facilities(facilities, as_json=True)) == {"facilities": 1}
    both = [visits, messages]
    first = document(lambda: wait_visits.import_visits(both, None, as_json=True))
    assert (first["taken"], first["added"], first["superseded"]) == (5, 5, 0)
    assert {"field": "MSH-7", "reason": "the time has no minutes", "rows": 1, "first": "adt.hl7:8"} in first[
        "refused"
    ]
    again = document(lambda: wait_visits.import_visits(both, None, as_json=True))
    assert (again["taken"], again["added"], again["present"]) == (5, 0, 3)
