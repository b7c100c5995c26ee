"""The generated records: true to their ground truth, consistent as records of people, and repeatable."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter, defaultdict
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from sklearn.metrics import roc_auc_score

from medscore_assets import tables
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.demo import dirt, discharges
from medscore_assets.demo.discharges import (
    EVENTS_SCHEMA,
    DemoData,
    DemoPlan,
    day_of_discharges,
    discharges_between,
    generate,
)
from medscore_assets.readmission.cohort import check_context, eligibility
from resources.errors import PermanentError

SMALL = DemoPlan(date(2025, 3, 1), date(2025, 4, 29), discharges_per_day=10, seed=3)
MONTH = timedelta(days=30)


@pytest.fixture(scope="module")
def latest(demo: DemoData) -> pd.DataFrame:
    """Every encounter as it was last sent, without those that have a fault."""
    events = demo.events.to_pandas()
    events = events[~events["encounter_id"].isin(demo.dirt["encounter_id"].to_pylist())]
    return events.drop_duplicates("encounter_id", keep="last").dropna(subset=["encounter_id"])


@pytest.fixture(scope="module")
def index_discharges(demo: DemoData, latest: pd.DataFrame, plan: DemoPlan) -> pd.DataFrame:
    """Acute stays of adults that ended well, with probability and matured label by the CMS rule."""
    labels = cms_labels(demo, latest)
    joined = latest.merge(demo.truth.to_pandas(), on="encounter_id")
    joined["readmitted"] = joined["encounter_id"].map(labels)
    fit = joined["discharge_status"].eq("routine") & joined["service_line"].eq("acute")
    matured = joined["discharged_at"] < pd.Timestamp(plan.end) - MONTH
    return joined[fit & matured & joined["patient_age"].ge(18)]


def cms_labels(demo: DemoData, events: pd.DataFrame) -> dict[str, bool]:
    """Whether the patient's first stay within 30 days after each discharge was unplanned."""
    stays: dict[str, list[tuple[datetime, bool, str]]] = defaultdict(list)
    for row in demo.admissions.select(["patient_id", "admitted_at", "planned", "encounter_id"]).to_pylist():
        stays[row["patient_id"]].append((row["admitted_at"], row["planned"], row["encounter_id"]))
    labels = {}
    for encounter, patient, left in zip(
        events["encounter_id"], events["patient_id"], events["discharged_at"], strict=True
    ):
        following = sorted(s for s in stays[patient] if s[0] >= left and s[2] != encounter)
        first = following[0] if following else None
        labels[encounter] = first is not None and first[0] - left <= MONTH and not first[1]
    return labels


def test_the_label_that_the_admissions_give_is_the_draw(
    plan: DemoPlan, demo: DemoData, latest: pd.DataFrame
) -> None:
    stays = discharges._with_ids(discharges._stays(np.random.default_rng(plan.seed), plan))
    drawn = dict(zip(stays["encounter_id"], stays["readmitted"], strict=True))
    matured = latest[latest["discharged_at"] < pd.Timestamp(plan.end) - MONTH]
    labels = cms_labels(demo, matured)
    assert len(labels) > 55_000
    assert labels == {encounter: bool(drawn[encounter]) for encounter in labels}


def test_the_declared_probability_is_calibrated_in_every_decile(index_discharges: pd.DataFrame) -> None:
    decile = pd.qcut(index_discharges["probability"], 10, labels=False)
    for _, group in index_discharges.groupby(decile):
        expected = group["probability"].mean()
        spread = np.sqrt((group["probability"] * (1 - group["probability"])).mean() / len(group))
        assert abs(group["readmitted"].mean() - expected) < 4 * spread


def test_prevalence_and_ceiling_are_where_the_demo_wants_them(index_discharges: pd.DataFrame) -> None:
    assert len(index_discharges) > 40_000
    assert 0.13 <= index_discharges["readmitted"].mean() <= 0.15
    ceiling = roc_auc_score(index_discharges["readmitted"], index_discharges["probability"])
    assert 0.74 <= ceiling <= 0.78


def test_the_volume_is_the_planned_one(plan: DemoPlan, demo: DemoData) -> None:
    encounters = demo.events["encounter_id"].drop_null()
    assert pc.count_distinct(encounters).as_py() == pytest.approx(120 * plan.days, rel=0.005)
    assert plan.days == 549


def test_prior_admissions_are_the_true_ones(demo: DemoData, latest: pd.DataFrame) -> None:
    stays = defaultdict(list)
    for patient, moment in zip(
        demo.admissions["patient_id"].to_pylist(), demo.admissions["admitted_at"].to_pylist(), strict=True
    ):
        stays[patient].append(moment)
    sample = pd.concat([latest.sample(2000, random_state=1), latest[latest["num_prior_admissions_12m"] > 6]])
    for row in sample.itertuples():
        year_before = row.admitted_at - timedelta(days=365)
        counted = sum(year_before <= moment < row.admitted_at for moment in stays[row.patient_id])
        assert row.num_prior_admissions_12m == counted
    assert sample["num_prior_admissions_12m"].max() > 6


def test_patients_return_and_never_lie_in_two_beds(latest: pd.DataFrame) -> None:
    ordered = latest.sort_values(["patient_id", "admitted_at"])
    same = ordered["patient_id"].eq(ordered["patient_id"].shift())
    assert same.sum() > 15_000
    assert (ordered["admitted_at"][same] > ordered["discharged_at"].shift()[same]).all()
    assert (ordered["discharged_at"] > ordered["admitted_at"]).all()
    assert (ordered["patient_age"][same] >= ordered["patient_age"].shift()[same]).all()
    assert (ordered["num_chronic_conditions"][same] >= ordered["num_chronic_conditions"].shift()[same]).all()


def test_nights_are_counted_on_the_calendar_of_the_zone(latest: pd.DataFrame, plan: DemoPlan) -> None:
    local = latest[["admitted_at", "discharged_at"]].apply(
        lambda c: c.dt.tz_convert(plan.timezone).dt.tz_localize(None)
    )
    nights = (local["discharged_at"].dt.normalize() - local["admitted_at"].dt.normalize()).dt.days
    assert nights.eq(latest["length_of_stay_days"]).all()


def test_nobody_is_admitted_after_death_and_no_death_is_told_early(demo: DemoData) -> None:
    events = demo.events.to_pandas()
    dead = events.dropna(subset=["deceased_at"])
    assert len(dead) > 1000
    assert (dead["deceased_at"] <= dead["ingested_at"]).all()
    assert (dead["deceased_at"] >= dead["discharged_at"].fillna(dead["deceased_at"])).all()
    death = dead.groupby("patient_id")["deceased_at"].min()
    admissions = demo.admissions.to_pandas()
    later = admissions["admitted_at"] > admissions["patient_id"].map(death)
    assert not later.any()


def test_every_way_to_end_a_stay_and_every_kind_of_care_occurs(latest: pd.DataFrame) -> None:
    for name in ("discharge_status", "service_line"):
        counts = latest[name].value_counts(normalize=True)
        assert set(counts.index) == set(READMISSION.fields[name].categories)  # type: ignore[attr-defined]
        assert counts.min() > 0.004
        assert counts.max() > 0.8
    assert latest["covered_until"].notna().mean() == pytest.approx(discharges.COVERAGE_ENDS, abs=0.01)
    assert (latest["patient_age"] < 18).mean() > 0.02


def test_some_stays_are_still_open_at_the_end(demo: DemoData, plan: DemoPlan) -> None:
    admissions = demo.admissions.to_pandas()
    recent = admissions[admissions["admitted_at"] > pd.Timestamp(plan.end) - timedelta(days=3)]
    closed = set(demo.events["encounter_id"].to_pylist())
    assert 0.3 < (~recent["encounter_id"].isin(closed)).mean() < 1


def test_winter_brings_more_stays_and_more_respiratory_ones(latest: pd.DataFrame) -> None:
    month = latest["discharged_at"].dt.tz_convert("America/New_York").dt.month
    respiratory = latest["primary_diagnosis_group"].eq("respiratory").groupby(month).mean()
    assert respiratory[[1, 2]].mean() > 2 * respiratory[[7, 8]].mean()
    winter, summer = latest[month.eq(1)], latest[month.eq(7)]  # January 2025; July 2024 and 2025
    assert len(winter) > 1.05 * len(summer) / 2


def test_discharges_keep_office_hours_and_thin_out_at_weekends(latest: pd.DataFrame) -> None:
    local = latest["discharged_at"].dt.tz_convert("America/New_York")
    by_day = local.dt.day_of_week.value_counts(normalize=True)
    assert by_day[[5, 6]].max() < 0.12
    assert by_day[[0, 4]].min() > 0.16
    assert local.dt.hour.between(9, 18).mean() > 0.9
    assert local.dt.hour.median() in (13, 14)


def test_faults_come_in_the_declared_share_and_no_others(demo: DemoData, plan: DemoPlan) -> None:
    encounters = 120 * plan.days
    assert len(demo.dirt) == pytest.approx(plan.dirty_share * encounters, rel=0.01)
    assert set(demo.dirt_counts) == set(dirt.KINDS)
    assert max(demo.dirt_counts.values()) - min(demo.dirt_counts.values()) <= 1
    assert len(set(demo.dirt["encounter_id"].to_pylist())) == len(demo.dirt)

    refused = ~(check_context(demo.events).valid & READMISSION.encode(demo.events).valid)
    kinds = dict(zip(demo.dirt["encounter_id"].to_pylist(), demo.dirt["kind"].to_pylist(), strict=True))
    found = Counter(
        kinds.get(e, "nameless") for e in demo.events.filter(pa.array(refused))["encounter_id"].to_pylist()
    )
    corrected, nameless = found.pop("corrected_later"), found.pop("nameless")
    expected = {kind: n for kind, n in demo.dirt_counts.items() if kind in dirt.INVALID_KINDS}
    expected["null_required"] -= nameless
    assert found == expected
    assert 0 < corrected < demo.dirt_counts["corrected_later"]


def test_without_dirt_every_row_is_valid_and_sent_once_until_death() -> None:
    plan = DemoPlan(SMALL.first_day, SMALL.last_day, 10, seed=3, dirty_share=0, late_share=0)
    clean = generate(plan)
    assert len(clean.dirt) == clean.late == 0
    assert check_context(clean.events).valid.all()
    assert READMISSION.encode(clean.events).valid.all()
    again = clean.events.to_pandas().duplicated("encounter_id")
    assert clean.events.to_pandas()["deceased_at"][again].notna().all()
    waits = pc.subtract(clean.events["ingested_at"], clean.events["discharged_at"]).to_numpy()
    assert waits[~again].max() < np.timedelta64(11, "h")


def test_late_rows_come_in_the_declared_share(demo: DemoData, plan: DemoPlan, latest: pd.DataFrame) -> None:
    assert demo.late == pytest.approx(plan.late_share * 120 * plan.days, rel=0.02)
    first = latest[latest["deceased_at"].isna()]
    days = (first["ingested_at"] - first["discharged_at"]) / timedelta(days=1)
    assert (days >= 1).mean() == pytest.approx(plan.late_share, abs=0.002)
    assert 3 < days.max() < 5


def test_nothing_is_known_after_the_end(demo: DemoData, plan: DemoPlan) -> None:
    for table in (demo.events, demo.admissions):
        assert pc.max(table["ingested_at"]).as_py() < plan.end
    noon = datetime(2025, 4, 29, 12, tzinfo=ZoneInfo("America/New_York"))
    early = generate(DemoPlan(SMALL.first_day, SMALL.last_day, 10, seed=3, known_until=noon))
    assert pc.max(early.events["ingested_at"]).as_py() < noon
    assert pc.max(early.events["discharged_at"]).as_py() < noon
    assert pc.max(early.events["discharged_at"]).as_py() > noon - timedelta(days=1)


def test_the_first_day_begins_at_local_midnight(demo: DemoData, plan: DemoPlan) -> None:
    midnight = datetime(2024, 7, 1, tzinfo=ZoneInfo(plan.timezone))
    first = pc.min(demo.events["discharged_at"]).as_py()
    assert midnight <= first < midnight + timedelta(hours=12)
    history = pc.min(demo.admissions["admitted_at"]).as_py()
    assert history < midnight - timedelta(days=365)


FINGERPRINT = """
import hashlib
from datetime import date
from medscore_assets.demo.discharges import DemoPlan, generate
made = generate(DemoPlan(date(2025, 3, 1), date(2025, 4, 29), discharges_per_day=10, seed=3))
tables = [t.to_pydict() for t in (made.events, made.admissions, made.truth, made.dirt)]
print(hashlib.sha256(str(tables).encode()).hexdigest())
"""


def test_the_same_plan_gives_the_same_records_in_every_process() -> None:
    printed = {
        subprocess.run(
            [sys.executable, "-c", FINGERPRINT],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1


def test_the_seed_decides_the_records() -> None:
    made, again = generate(SMALL), generate(SMALL)
    for one, other in zip(
        (made.events, made.admissions, made.truth, made.dirt),
        (again.events, again.admissions, again.truth, again.dirt),
        strict=True,
    ):
        assert one.equals(other)
    different = generate(DemoPlan(SMALL.first_day, SMALL.last_day, discharges_per_day=10, seed=4))
    assert not made.events.equals(different.events)


def test_ids_name_nobody(demo: DemoData) -> None:
    for name, pattern in (
        ("patient_id", r"DEMO-P-\d{6}"),
        ("encounter_id", r"DEMO-E-\d{7}"),
        ("hospital_id", r"DEMO-H-\d{2}"),
    ):
        ids = set(demo.events[name].drop_null().to_pylist())
        assert all(re.fullmatch(pattern, i) for i in ids)
    assert pc.count_distinct(demo.admissions["encounter_id"]).as_py() == len(demo.admissions)


def test_the_tables_have_the_warehouses_columns(demo: DemoData) -> None:
    events = [c.name for c in tables.discharge_events.columns if c.name != "event_id"]
    assert sorted(EVENTS_SCHEMA.names) == sorted(events)
    assert demo.events.schema == EVENTS_SCHEMA
    assert sorted(demo.admissions.column_names) == sorted(c.name for c in tables.inpatient_admissions.columns)
    assert demo.truth.column_names == [c.name for c in tables.demo_ground_truth.columns]
    for table in (demo.admissions, demo.truth):
        assert all(column.null_count == 0 for column in table.columns)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"first_day": date(2025, 5, 1)}, "first_day"),
        ({"discharges_per_day": 0}, "discharges_per_day"),
        ({"dirty_share": 0.6}, "dirty_share"),
        ({"late_share": -0.1}, "late_share"),
        ({"timezone": "America/New York"}, "timezone"),
        ({"timezone": "../etc"}, "timezone"),
        ({"known_until": datetime(2025, 4, 1)}, "known_until"),  # noqa: DTZ001
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(changes: dict[str, Any], field: str) -> None:
    sound: dict[str, Any] = {"first_day": date(2025, 3, 1), "last_day": date(2025, 4, 29)}
    with pytest.raises(PermanentError, match=f"the demo plan's {field} is not usable"):
        DemoPlan(**(sound | changes))


def test_one_day_with_one_discharge_a_day_works() -> None:
    data = generate(DemoPlan(date(2025, 3, 9), date(2025, 3, 9), discharges_per_day=1))
    assert 0 <= len(data.events) <= 3


@pytest.mark.parametrize(("day", "hours"), [("2026-03-02", 24), ("2026-03-07", 23), ("2026-10-31", 25)])
def test_a_clean_day_has_exactly_the_discharges_asked_for_within_its_window(day: str, hours: int) -> None:
    zone = ZoneInfo("America/New_York")
    opens = date.fromisoformat(day)
    made = day_of_discharges(800, opens)
    start = datetime(opens.year, opens.month, opens.day, 6, tzinfo=zone).astimezone(UTC)
    end = start + timedelta(hours=hours)
    times = made.events["discharged_at"].to_pylist()
    assert len(made.events) == len(made.truth) == 800
    assert start <= min(times) <= max(times) < end
    assert max(times) > end - timedelta(minutes=5)
    assert pc.count_distinct(made.events["patient_id"]).as_py() == 800
    assert check_context(made.events).valid.all()
    assert READMISSION.encode(made.events).valid.all()
    assert set(eligibility(made.events, made.admissions, end)) == {""}


@pytest.mark.parametrize("n", [0, 1, 5000])
def test_any_number_of_discharges_fits_between_two_moments(n: int) -> None:
    start = datetime(2026, 3, 2, 5, tzinfo=UTC)
    made = discharges_between(n, start, start + timedelta(hours=2), seed=5)
    assert len(made.events) == len(made.admissions) == n
    assert made.events.schema == EVENTS_SCHEMA
    if n > 1:
        assert made.events != discharges_between(n, start, start + timedelta(hours=2), seed=6).events
        assert made.events == discharges_between(n, start, start + timedelta(hours=2), seed=5).events
