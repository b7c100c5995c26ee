"""The importers of step counts: sums, clocks, what is refused, what is not safe to read."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medscore_assets.mobility.importers import apple_health, archives, fitabase, fitbit
from medscore_assets.mobility.importers.loading import load
from medscore_assets.mobility.importers.records import NO_COUNT, NO_TIME, SKIPPED_TIME, Report
from medscore_assets.mobility.raw import RAW_STEPS
from resources.errors import PermanentError
from resources.lake import Lake

BERLIN = ZoneInfo("Europe/Berlin")
ARRIVAL = datetime(2026, 5, 1, 6, tzinfo=UTC)

Batches = Iterator[pa.RecordBatch]


def rows(batches: Batches) -> list[dict[str, Any]]:
    return pa.Table.from_batches(batches, schema=RAW_STEPS.schema).to_pylist()


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


# Fitabase


def wide(path: Path, *lines: str) -> Path:
    header = ",".join([fitabase.PERSON, fitabase.HOUR, *fitabase.MINUTES])
    path.write_text("\n".join([header, *lines, ""]))
    return path


def hour(person: str, when: str, counts: dict[int, str]) -> str:
    return ",".join([person, when, *(counts.get(minute, "0") for minute in range(60))])


def test_the_public_minutes_add_up_and_a_second_import_changes_nothing(
    shared_data: Path, tmp_path: Path
) -> None:
    lake, source = Lake(tmp_path), shared_data / "fitabase_minuteStepsWide_merged.csv.gz"
    for written, unchanged in ((31, 0), (0, 31)):
        report = Report()
        batches = fitabase.read(source, ZoneInfo("America/New_York"), report)
        loaded = load(lake, batches, report, source=str(source), arrival=ARRIVAL)
        assert (len(loaded.written), len(loaded.unchanged)) == (written, unchanged)
        assert (report.records, report.steps, report.refused) == (21_645 * 60, 6_938_153, {})
    days = [lake.read_day(RAW_STEPS, day) for day in lake.days(RAW_STEPS)]
    assert sum(np.sum(day["count"].to_numpy(), dtype=np.int64) for day in days) == 6_938_153
    assert len(set(pa.concat_tables(days)["patient_id"].to_pylist())) == 33


def test_hours_of_the_wall_clock_become_moments_where_the_clocks_change(tmp_path: Path) -> None:
    """In Berlin, 02:00 was skipped on 31 March 2024 and came twice on 27 October."""
    noon = {7: "5"}
    file = wide(
        tmp_path / "wide.csv",
        hour("a", "3/31/2024 1:00", noon),
        hour("a", "3/31/2024 2:00", noon),
        hour("a", "3/31/2024 3:00", noon),
        hour("a", "10/27/2024 2:00:00 AM", noon),
        hour("a", "10/27/2024 2:00:00 AM", noon),
        hour("b", "10/27/2024 2:00:00 AM", noon),
    )
    report = Report()
    walked = [r["timestamp"] for r in rows(fitabase.read(file, BERLIN, report)) if r["count"]]
    assert walked == [
        at("2024-03-31T00:07+00:00"),
        at("2024-03-31T01:07+00:00"),
        at("2024-10-27T00:07+00:00"),
        at("2024-10-27T01:07+00:00"),
        at("2024-10-27T00:07+00:00"),
    ]
    refused = report.refused[SKIPPED_TIME]
    assert (refused.rows, refused.first) == (60, "row 3")


def test_what_is_no_record_is_refused_and_counted_and_the_implausible_is_taken(tmp_path: Path) -> None:
    file = wide(
        tmp_path / "wide.csv",
        hour("a", "5/1/2024 8:00", {0: "1000000000", 1: "-4", 2: "7.5", 3: "", 4: "99999999999"}),
        "a,5/1/2024 9:00,1,2",
        hour("a", "May Day", {}),
        hour("a", "13/1/2024 8:00", {}),
        hour("", "5/1/2024 10:00", {}),
        hour("b", "5/1/2024 10:00", {}),
    )
    report = Report()
    counts = [r["count"] for r in rows(fitabase.read(file, BERLIN, report, patient="a"))]
    assert counts == [10**9, -4] + [0] * 55
    assert {why: (r.rows, r.first) for why, r in report.refused.items()} == {
        NO_COUNT: (3, "row 2, Steps02"),
        fitabase.WRONG_WIDTH: (60, "row 3"),
        NO_TIME: (120, "row 4"),
        fitabase.NO_PERSON: (60, "row 6"),
        fitabase.OTHER_PERSON: (60, "row 7"),
    }


# Apple Health

HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE HealthData [
<!-- HealthKit Export Version: 12 -->
<!ELEMENT HealthData (ExportDate,Me,(Record|Correlation)*)>
<!ATTLIST VisionPrescription
  type CDATA #REQUIRED
<!ATTLIST Record
  type CDATA #REQUIRED
>
]>
<HealthData locale="en_DE">
"""
"""As iOS 16 writes it: the list of VisionPrescription has no end, so this is no well-formed XML."""


def record(start: str, end: str, value: str, source: str = "Phone", inside: str = "") -> str:
    return (
        f'<Record type="{apple_health.STEP_COUNT}" sourceName="{source}" unit="count" '
        f'startDate="2024-05-01 {start} +0200" endDate="2024-05-01 {end} +0200" value="{value}">{inside}'
        "</Record>\n"
    )


def exported(path: Path, *records: str, head: str = HEAD) -> Path:
    path.write_text(head + "".join(records) + "</HealthData>\n")
    return path


def apple(path: Path, report: Report | None = None) -> list[dict[str, Any]]:
    return rows(apple_health.read(path, BERLIN, report or Report(), patient="p"))


def test_records_of_apple_are_spread_over_their_minutes(tmp_path: Path) -> None:
    somewhere = '<MetadataEntry key="HKTimeZone" value="Asia/Tokyo"/>'
    file = exported(
        tmp_path / "export.xml",
        record("08:00:30", "08:02:30", "100"),
        record("08:00:10", "08:01:05", "40", "Watch &amp; Co"),
        record("09:00:00", "09:00:00", "7", inside=somewhere),
        f"<Correlation>{record('10:00:00', '10:00:30', '9')}</Correlation>",
        record("10:00:00", "10:00:30", "9").replace("StepCount", "FlightsClimbed"),
    )
    taken = [(r["timestamp"], r["count"], r["device"], r["zone"]) for r in apple(file)]
    phone, watch = (apple_health.pseudonym("p", name) for name in ("Phone", "Watch & Co"))
    assert taken == [
        (at("2024-05-01T06:00:30+00:00"), 25, phone, "Europe/Berlin"),
        (at("2024-05-01T06:01:00+00:00"), 50, phone, "Europe/Berlin"),
        (at("2024-05-01T06:02:00+00:00"), 25, phone, "Europe/Berlin"),
        (at("2024-05-01T06:00:10+00:00"), 40, watch, "Europe/Berlin"),
        (at("2024-05-01T07:00:00+00:00"), 7, phone, "Asia/Tokyo"),
    ]


def test_a_device_of_apple_has_a_stand_in_that_lasts_and_is_the_patients_own() -> None:
    # The digits are in lakes: with others, every device would be a second one.
    assert apple_health.pseudonym("p", "Anna's iPhone") == "apple-ae82635e"
    assert apple_health.pseudonym("q", "Anna's iPhone") != apple_health.pseudonym("p", "Anna's iPhone")


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(-(10**9), 2 * 10**9),
            st.integers(0, apple_health.MAX_SECONDS),
            st.integers(-(2**31) + 1, 2**31 - 1),
        ),
        max_size=5,
    )
)
def test_spreading_keeps_every_sum_and_stays_within_the_record(drawn: list[tuple[int, int, int]]) -> None:
    starts, lengths, counts = np.array(drawn, np.int64).reshape(-1, 3).T
    row, moments, steps = apple_health.spread(starts, starts + lengths, counts)
    assert np.array_equal(np.bincount(row, steps, len(starts)), counts)
    assert (moments // 10**6 >= starts[row]).all()
    assert (moments // 10**6 < (starts + np.maximum(lengths, 1))[row]).all()
    minutes = list(zip(row.tolist(), (moments // 60_000_000).tolist(), strict=True))
    assert len(set(minutes)) == len(minutes)


def test_broken_records_of_apple_are_refused_with_their_line(tmp_path: Path) -> None:
    file = exported(
        tmp_path / "export.xml",
        record("08:00:00", "08:01:00", "12"),
        record("08:00:00", "07:59:00", "12"),
        record("08:00:00", "08:01:00", "12.5"),
        record("8 o'clock", "08:01:00", "12"),
        record("08:00:00", "08:01:00", "12").replace('endDate="2024-05-01', 'endDate="2024-05-03'),
    )
    report = Report()
    assert [r["count"] for r in apple(file, report)] == [12]
    first = HEAD.count("\n") + 1
    assert {why: (r.rows, r.first) for why, r in report.refused.items()} == {
        apple_health.ENDS_EARLY: (1, f"line {first + 1}"),
        NO_COUNT: (1, f"line {first + 2}"),
        NO_TIME: (1, f"line {first + 3}"),
        apple_health.TOO_LONG: (1, f"line {first + 4}"),
    }


ENTITIES = '<!DOCTYPE HealthData [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><HealthData>'
EXTERNAL = '<!DOCTYPE HealthData [<!ENTITY a SYSTEM "file:///etc/passwd">]><HealthData>'
HIDDEN = "<!DOCTYPE HealthData [" + "<!ELEMENT a EMPTY>" * 200_000


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (ENTITIES + "&b;</HealthData>", "the document declares entities .*, line 1"),
        (EXTERNAL + "&a;</HealthData>", "the document declares entities .*, line 1"),
        (HEAD + "&a;</HealthData>", "undefined entity .*, line 12"),
        (HIDDEN + "]><HealthData/>", "the document type has no end"),
        ((ENTITIES + "</HealthData>").encode("utf-16"), "the document type is not where it belongs"),
        (HEAD + f'<Record a="{"x" * 2**23}"/></HealthData>', "takes more than 4 MiB"),
        (HEAD + "<a>" * 100 + "</a>" * 100 + "</HealthData>", "nested more than 64 deep"),
        (HEAD + record("08:00:00", "08:01:00", "12"), "no element found .*, line 13"),
        (HEAD + "<Record</HealthData>", "invalid token.*, line 12"),
    ],
)
def test_unsafe_and_broken_exports_of_apple_are_refused(
    tmp_path: Path, content: str | bytes, says: str
) -> None:
    file = tmp_path / "export.xml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(PermanentError, match=says):
        apple(file)


def test_an_archive_is_read_within_limits(tmp_path: Path) -> None:
    exported(tmp_path / "export.xml", record("08:00:00", "08:01:00", "12"))
    archive = tmp_path / "export.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        target.write(tmp_path / "export.xml", "apple_health_export/Exportación.xml")
        target.writestr("apple_health_export/export_cda.xml", "<a/>")
    assert [r["count"] for r in apple(archive)] == [12]

    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("export.xml", HEAD + " " * (2 * archives.RATIO_COUNTS_FROM))
    with pytest.raises(PermanentError, match=r"more than 300 times its size .*bomb\.zip, export\.xml"):
        apple(tmp_path / "bomb.zip")

    packed = archive.read_bytes()
    (tmp_path / "cut.zip").write_bytes(packed[: len(packed) // 2])
    damaged = bytearray(packed)
    damaged[80:100] = bytes(20)
    (tmp_path / "damaged.zip").write_bytes(damaged)
    for name in ("cut.zip", "damaged.zip"):
        with pytest.raises(PermanentError, match=f"cannot be read, or is damaged .*{name}"):
            apple(tmp_path / name)


# Fitbit


def element(when: str, value: object) -> dict[str, object]:
    return {"dateTime": when, "value": value}


def test_an_account_of_fitbit_is_read_from_folder_and_archive_alike(tmp_path: Path) -> None:
    """Two files; in Berlin the hour from 02:00 came twice on 27 October 2024."""
    folder = tmp_path / "Takeout" / "Global Export Data"
    folder.mkdir(parents=True)
    october = [element(f"10/27/24 {time}:00", "10") for time in ("02:30", "03:00", "02:30")]
    march = [element("03/31/24 02:30:00", "1"), element("03/31/24 03:30:00", 2), element("13/31/24 0", "3")]
    (folder / "steps-2024-10-01.json").write_text(json.dumps(october))
    (folder / "steps-2024-03-01.json").write_text(json.dumps([*march, element("03/30/24 08:00:00", True), 5]))
    (folder / "heart_rate-2024-03-01.json").write_text("not read")
    archive = tmp_path / "takeout.zip"
    with zipfile.ZipFile(archive, "w") as target:
        for file in folder.iterdir():
            target.write(file, f"Takeout/Fitbit/{file.name}")

    for path in (tmp_path / "Takeout", archive):
        report = Report()
        found = rows(fitbit.read(path, BERLIN, report, patient="p"))
        assert [(r["timestamp"], r["count"]) for r in found] == [
            (at("2024-03-31T01:30+00:00"), 2),
            (at("2024-10-27T00:30+00:00"), 10),
            (at("2024-10-27T02:00+00:00"), 10),
            (at("2024-10-27T01:30+00:00"), 10),
        ]
        refused = {why: (r.rows, r.first.rpartition("json, ")[2]) for why, r in report.refused.items()}
        assert refused == {
            NO_TIME: (2, "element 3"),
            SKIPPED_TIME: (1, "element 1"),
            NO_COUNT: (1, "element 4"),
        }
    in_utc = rows(fitbit.read(archive, BERLIN, Report(), patient="p", utc=True))
    assert in_utc[-1]["timestamp"] == at("2024-10-27T02:30+00:00")
    assert in_utc[-1]["zone"] == "Europe/Berlin"


# All


def test_errors_name_the_file_and_the_place_and_no_value(tmp_path: Path) -> None:
    report = Report()
    (tmp_path / "narrow.csv").write_text("Id,ActivityMinute,Steps\nsecret,4/12/2016 12:00,1\n")
    (tmp_path / "half.csv.gz").write_bytes(gzip.compress(b"Id,ActivityHour\n" * 9999)[:60])
    (tmp_path / "steps-2024-01-01.json").write_text('[{"dateTime": "secret"\n "value"}]')
    readers = {
        "narrow.csv, row 1": fitabase.read(tmp_path / "narrow.csv", BERLIN, report),
        "half.csv.gz": fitabase.read(tmp_path / "half.csv.gz", BERLIN, report),
        "nowhere.csv": fitabase.read(tmp_path / "nowhere.csv", BERLIN, report),
        "a folder": fitabase.read(tmp_path, BERLIN, report),
        "json, line 2, column 2": fitbit.read(
            tmp_path / "steps-2024-01-01.json", BERLIN, report, patient="p"
        ),
        "no file steps-": fitbit.read(tmp_path / "narrow.csv", BERLIN, report, patient="p"),
        "no export.xml": apple_health.read(tmp_path / "narrow.csv", BERLIN, report, patient="p"),
    }
    for place, reader in readers.items():
        with pytest.raises(PermanentError, match=place) as caught:
            list(reader)
        assert "secret" not in str(caught.value)


def test_a_source_without_a_record_says_why(tmp_path: Path) -> None:
    file = wide(tmp_path / "wide.csv", hour("a", "soon", {}))
    report = Report()
    with pytest.raises(PermanentError, match="60 x the time cannot be read, first at row 2"):
        load(
            Lake(tmp_path / "lake"),
            fitabase.read(file, BERLIN, report),
            report,
            source=str(file),
            arrival=ARRIVAL,
        )


def test_a_later_export_adds_only_the_days_that_changed(tmp_path: Path) -> None:
    lake, file = Lake(tmp_path / "lake"), tmp_path / "wide.csv"
    days = [hour("a", f"5/{day}/2024 12:00", {3: "9"}) for day in (1, 2, 3)]
    outcomes = []
    for lines in (days[:2], [days[2], *days[:2]], [*days[:2], hour("a", "5/3/2024 12:00", {3: "8"})]):
        report = Report()
        batches = fitabase.read(wide(file, *lines), BERLIN, report)
        loaded = load(lake, batches, report, source=str(file), arrival=ARRIVAL)
        outcomes.append((len(loaded.written), len(loaded.unchanged)))
    assert outcomes == [(2, 0), (1, 2), (1, 2)]
