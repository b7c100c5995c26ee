from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from medscore_assets.wait_times.attribution import Outcomes, attribute, localised
from medscore_assets.wait_times.visits import Visits

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
LATER = NOON + timedelta(hours=12)

TIMES = ("recorded_at", "superseded_at", "arrival", "triage_at", "pia_at", "left_at", "disposition_at")


def at(minutes: float) -> datetime:
    """So many minutes after noon."""
    return NOON + timedelta(minutes=minutes)


def version(visit: str, arrival: float | None, recorded: float | None = None, **rest: object) -> dict:
    """A version of a visit, times in minutes after noon."""
    moments = {name: rest.pop(name) for name in TIMES if name in rest}
    moments |= {"arrival": arrival, "recorded_at": arrival if recorded is None else recorded}
    known = {name: None if moments.get(name) is None else at(moments[name]) for name in TIMES}
    return {"facility_id": "A", "visit_id": visit, "ctas": 3, "scheduled": False} | known | rest


def visits(*versions: dict) -> Visits:
    time = pa.timestamp("us", tz="UTC")
    texts = [("facility_id", pa.string()), ("visit_id", pa.string())]
    schema = pa.schema([*texts, ("ctas", pa.int64()), ("scheduled", pa.bool_()), *((n, time) for n in TIMES)])
    return Visits.of(pa.Table.from_pylist(list(versions), schema))


def said(*rows: tuple[float, float | None], band: str = "all_posted", **rest: object) -> pa.Table:
    """Predictions of one series: minutes after noon, and the typical wait."""
    common = {"facility_id": "A", "band": band, "model": "m", "version": "1.0.0", "p80_seconds": None} | rest
    table = pa.Table.from_pylist(
        [
            common
            | {"as_of": at(tick), "wait_seconds": wait, "status": "ok" if wait is not None else "no_data"}
            for tick, wait in rows
        ]
    )
    place = table.column_names.index("p80_seconds")
    return table.set_column(place, "p80_seconds", table["p80_seconds"].cast(pa.float64()))


def test_a_patient_is_held_against_the_latest_prediction_at_or_before_arrival() -> None:
    found = attribute(
        visits(*(version(str(minute), minute, pia_at=minute + 60) for minute in (-1, 0, 14, 15, 16))),
        said((0, 100.0), (15, 200.0)),
        LATER,
    )
    # Nobody could read anything a minute before the first tick.
    assert dict(zip(found["visit_id"].to_pylist(), found["p50_seconds"].to_pylist(), strict=True)) == {
        "0": 100.0,
        "14": 100.0,
        "15": 200.0,
        "16": 200.0,
    }


def test_a_prediction_of_31_minutes_ago_is_nobodys() -> None:
    patients = visits(version("in time", 30, pia_at=60), version("too late", 31, pia_at=60))
    assert attribute(patients, said((0, 100.0)), LATER)["visit_id"].to_pylist() == ["in time"]


def test_a_tick_without_a_value_leaves_the_one_before_in_place() -> None:
    found = attribute(visits(version("v", 20, pia_at=60)), said((0, 100.0), (15, None)), LATER)
    assert found.select(["p50_seconds", "as_of"]).to_pylist() == [{"p50_seconds": 100.0, "as_of": NOON}]


def test_each_band_model_and_version_has_its_own_row_of_a_patient_of_the_band() -> None:
    patients = visits(
        version("sick", 1, ctas=2, pia_at=9),
        version("usual", 2, pia_at=9),
        version("light", 3, ctas=5, pia_at=9),
        version("unknown", 4, ctas=None, pia_at=9),
        version("dying", 5, ctas=1, pia_at=9),
    )
    tables = [said((0, 60.0), band=band) for band in ("all_posted", "ctas_2", "ctas_3", "ctas_4_5")]
    newer = said((0, 70.0), band="ctas_2", version="1.1.0")
    found = attribute(patients, pa.concat_tables([*tables, newer]), LATER)
    rows = {tuple(row.values()) for row in found.select(["visit_id", "band", "version"]).to_pylist()}
    assert rows == {
        *((visit, "all_posted", "1.0.0") for visit in ("usual", "light", "unknown")),
        *((visit, band, "1.0.0") for visit, band in (("usual", "ctas_3"), ("light", "ctas_4_5"))),
        *(("sick", "ctas_2", number) for number in ("1.0.0", "1.1.0")),
    }


def outcomes_by_visit(patients: Visits, until: float) -> dict[str, tuple]:
    found = attribute(patients, said(*((tick, 60.0) for tick in range(-60, 60, 15))), at(until))
    names = ("visit_id", "actual_seconds", "censored_at_seconds", "left_unseen", "resolved_at")
    return {row[0]: row[1:] for row in zip(*(found[name].to_pylist() for name in names), strict=True)}


def test_outcomes_are_waits_leavings_and_waits_so_far() -> None:
    found = outcomes_by_visit(
        visits(
            version("seen", 0, 41, pia_at=40),
            version("left", 0, 50, left_at=30),
            version("gone without a mark", 0, 55, disposition_at=50),
            version("waiting", 0, 1),
        ),
        until=90,
    )
    assert found == {
        "seen": (pytest.approx(2400), None, False, at(41)),
        "left": (None, pytest.approx(1800), True, at(50)),
        "gone without a mark": (None, pytest.approx(3000), True, at(55)),
        "waiting": (None, pytest.approx(5400), False, None),
    }


def test_an_outcome_is_what_was_on_record_and_dates_from_its_first_record() -> None:
    patients = visits(
        version("v", 0, 2, superseded_at=45),
        version("v", 0, 45, superseded_at=70, pia_at=40),
        # The disposition is no news of the wait; a corrected PIA is.
        version("v", 0, 70, superseded_at=300, pia_at=40, disposition_at=68),
        version("v", 0, 300, pia_at=35, disposition_at=68),
    )
    assert outcomes_by_visit(patients, 44)["v"] == (None, pytest.approx(44 * 60), False, None)
    assert outcomes_by_visit(patients, 60)["v"] == (pytest.approx(2400), None, False, at(45))
    assert outcomes_by_visit(patients, 100)["v"] == (pytest.approx(2400), None, False, at(45))
    assert outcomes_by_visit(patients, 400)["v"] == (pytest.approx(2100), None, False, at(300))


def test_an_event_that_is_on_record_before_it_happens_is_not_known_before() -> None:
    patients = visits(version("v", 0, 1, pia_at=40))
    assert outcomes_by_visit(patients, 30)["v"][0] is None
    assert outcomes_by_visit(patients, 41)["v"] == (pytest.approx(2400), None, False, at(40))


def test_visits_that_break_a_rule_have_no_outcome() -> None:
    patients = visits(
        version("booked", 0, pia_at=10, scheduled=True),
        version("before", 0, pia_at=-5),
        version("fine", 1, pia_at=10),
        version("twin", 1, pia_at=10),
        version("no arrival", None, 5, pia_at=10),
    )
    assert len(outcomes_by_visit(patients, 60)) == 1


def test_no_predictions_and_no_visits_make_no_rows() -> None:
    one = visits(version("v", 0, pia_at=10))
    nothing = attribute(one, said((0, 60.0)).slice(0, 0), LATER)
    assert (len(nothing), nothing.column_names) == (0, attribute(one, said((0, 60.0)), LATER).column_names)
    assert len(attribute(visits(), said((0, 60.0)), LATER)) == 0
    assert len(attribute(one, said((0, 60.0), facility_id="elsewhere"), LATER)) == 0
    assert len(localised(nothing, {})) == 0


def test_outcomes_begin_with_the_moment_that_is_asked_for() -> None:
    patients = visits(*(version(str(minute), minute, pia_at=minute + 5) for minute in (-1, 0, 1)))
    assert Outcomes.known(patients, LATER, NOON).visit_ids.to_pylist() == ["0", "1"]
