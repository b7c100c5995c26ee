"""Generated members: the same again, faults as declared, shares like the country's, outcomes by the truth."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.demo.ground_truth import readmission_probability
from medscore_assets.demo.hospitals import (
    DIVISIONS,
    QUALITY_SPREAD,
    READMISSION_RATES,
    VOLUME_SPREAD,
    draw_hospitals,
)
from medscore_assets.demo.members import BLOCK, DIRT, INVALID_DIRT, SCHEMA, dirt_counts, members
from medscore_assets.readmission.population.quarters import Quarter
from medscore_assets.tables import member_features

Q2, Q3 = Quarter(2026, 2), Quarter(2026, 3)
SEED, COUNT = 11, 4 * BLOCK
LATER = date(2027, 1, 1)


def table(count: int, quarter: Quarter = Q3, seed: int = SEED, **options: Any) -> pa.Table:
    return pa.Table.from_batches(members(count, quarter, seed, **options))


@pytest.fixture(scope="module")
def population() -> pa.Table:
    """Members of whom every outcome is known."""
    return table(COUNT, as_of=LATER)


@pytest.fixture(scope="module")
def discharges(population: pa.Table) -> pd.DataFrame:
    """The members with a sound index discharge."""
    valid = READMISSION.encode(population).valid
    return population.filter(pc.and_kleene(population["index_discharge"], pa.array(valid))).to_pandas()


def same(one: pa.Table, other: pa.Table) -> bool:
    return repr(one.slice(0, 500).to_pylist()) == repr(other.slice(0, 500).to_pylist()) and all(
        one[name].cast(pa.string()).equals(other[name].cast(pa.string())) for name in SCHEMA.names
    )


def test_the_same_arguments_give_the_same_members_and_more_begin_alike() -> None:
    longer = table(BLOCK + 700)
    assert same(longer, table(BLOCK + 700))
    assert same(longer.slice(0, 900), table(900))
    assert longer.num_rows == BLOCK + 700
    assert not same(table(900), table(900, seed=SEED + 1))


def test_the_columns_are_those_of_the_table() -> None:
    assert SCHEMA.names == [c.name for c in member_features.columns]
    assert len(set(table(1_000)["member_id"].to_pylist())) == 1_000


def test_a_member_stays_the_same_person_and_stays_are_drawn_anew() -> None:
    before, after = (table(5_000, quarter).to_pandas() for quarter in (Q2, Q3))
    sound = (before["patient_age"].between(0, 120)) & (after["patient_age"].between(0, 120))
    assert (before["sex"] == after["sex"]).all()
    years = (after["patient_age"] - before["patient_age"])[sound]
    assert set(years) == {0.0, 1.0}
    assert 0.2 < years.mean() < 0.3
    moved = before["region"].ne(after["region"]) & before["region"].notna() & after["region"].notna()
    assert not moved.any()
    assert (before["length_of_stay_days"] != after["length_of_stay_days"]).mean() > 0.5


def test_the_faults_are_those_that_are_declared_and_counted(population: pa.Table) -> None:
    rows = population.to_pandas()
    known = set(READMISSION.fields["primary_diagnosis_group"].categories)  # type: ignore[attr-defined]
    found = {
        "null_region": rows["region"].isna(),
        "unknown_diagnosis": ~rows["primary_diagnosis_group"].isin(known),
        "age_out_of_bounds": ~rows["patient_age"].between(0, 120),
        "stay_out_of_bounds": ~rows["length_of_stay_days"].between(0, 365),
        "not_a_number": rows["num_medications_at_discharge"].isna(),
        "blank_hospital": rows["hospital_id"].str.strip().eq(""),
        "null_index_discharge": rows["index_discharge"].isna(),
    }
    counted = dirt_counts(COUNT, Q3, SEED)
    assert {kind: int(mask.sum()) for kind, mask in found.items()} == counted
    for kind, share in DIRT.items():
        assert abs(counted[kind] - share * COUNT) < 4 * np.sqrt(share * COUNT)
    assert max(sum(mask.to_numpy(int) for mask in found.values())) == 1
    assert population["num_medications_at_discharge"].null_count == 0
    invalid = int((~READMISSION.encode(population).valid).sum())
    assert invalid == sum(counted[kind] for kind in INVALID_DIRT)


def test_age_sex_and_payer_go_together_as_in_the_country(population: pa.Table) -> None:
    rows = population.to_pandas()
    rows = rows[rows["patient_age"].between(0, 120)]
    old = rows["patient_age"] >= 65
    assert 0.16 < old.mean() < 0.18
    assert rows[old]["insurance_type"].isin(["medicare", "dual_eligible"]).mean() > 0.9
    assert rows[~old]["insurance_type"].eq("medicare").mean() < 0.07
    assert rows[rows["insurance_type"] == "medicare"]["patient_age"].ge(65).mean() > 0.75
    assert rows[rows["patient_age"] >= 85]["sex"].eq("female").mean() > 0.6
    chronic = rows.groupby(pd.cut(rows["patient_age"], [-1, 17, 49, 64, 84, 120]))["num_chronic_conditions"]
    assert chronic.mean().is_monotonic_increasing


def test_discharges_fall_on_the_old_and_ill_and_on_the_regions_by_volume(population: pa.Table) -> None:
    rows = population.to_pandas()
    rows = rows[rows["index_discharge"].notna() & rows["patient_age"].between(0, 120)]
    had = rows["index_discharge"].astype(bool)
    assert 0.024 < had.mean() < 0.026
    assert had[rows["patient_age"] >= 75].mean() > 5 * had[rows["patient_age"] < 35].mean()
    ill = rows["num_chronic_conditions"] >= 3
    assert had[ill].mean() > 2 * had[~ill].mean()
    volume = pd.Series({d.name: d.discharges for d in DIVISIONS})
    shares = rows["region"].value_counts(normalize=True)
    assert ((shares - volume / volume.sum()).abs() < 0.005).all()


def test_readmissions_are_drawn_with_the_truth_times_the_hospital(discharges: pd.DataFrame) -> None:
    drawn = draw_hospitals(SEED)
    effect = dict(zip(drawn.ids, drawn.effect, strict=True))
    rows = discharges[discharges["hospital_id"].isin(effect)]
    risk = readmission_probability({name: rows[name].to_numpy() for name in READMISSION.feature_names})
    risk = risk * rows["hospital_id"].map(effect).to_numpy()
    outcome = rows["readmitted_within_30_days"].astype(bool).to_numpy()
    for group in (np.full(len(rows), True), risk < 0.08, risk > 0.2):
        spread = np.sqrt((risk * (1 - risk))[group].sum())
        assert abs(outcome[group].sum() - risk[group].sum()) < 4 * spread


def test_rates_of_the_old_are_near_the_published_ones(discharges: pd.DataFrame) -> None:
    old = discharges[discharges["patient_age"] >= 65]
    rates = old.groupby("primary_diagnosis_group")["readmitted_within_30_days"].apply(lambda s: s.mean())
    assert rates["cardiac"] == pytest.approx(READMISSION_RATES["cardiac"], abs=0.05)
    assert rates["respiratory"] == pytest.approx(READMISSION_RATES["respiratory"], abs=0.05)
    assert rates["musculoskeletal"] == rates.min()


def test_outcomes_are_known_thirty_days_after_the_discharge() -> None:
    rows = {
        day: table(BLOCK, as_of=day)["readmitted_within_30_days"]
        for day in (Q3.first_day + timedelta(days=29), Q3.last_day + timedelta(days=1), LATER)
    }
    none, most, every = (len(column) - column.null_count for column in rows.values())
    assert none == 0
    assert 0.6 < most / every < 0.75
    settled = rows[Q3.last_day + timedelta(days=1)]
    assert settled.filter(settled.is_valid()).equals(rows[LATER].filter(settled.is_valid()))
    assert same(table(900), table(900, as_of=Q3.last_day + timedelta(days=1)))
    discharged = table(BLOCK, as_of=LATER)
    assert (
        discharged["readmitted_within_30_days"]
        .is_valid()
        .equals(pc.fill_null(discharged["index_discharge"], False))
    )


def test_hospitals_are_laid_out_like_the_countrys() -> None:
    drawn = draw_hospitals(SEED)
    per_division = np.bincount(drawn.division)
    declared = np.array([d.hospitals for d in DIVISIONS])
    assert per_division.sum() == len(drawn.ids) == 420
    assert (np.abs(per_division - declared / declared.sum() * 420) <= 1.5).all()
    share = np.diff(drawn.reach, prepend=0.0)
    within = [np.log(share[drawn.division == d]).std() for d in range(len(DIVISIONS))]
    assert np.mean(within) == pytest.approx(VOLUME_SPREAD, abs=0.15)
    assert np.log(drawn.effect).std() == pytest.approx(QUALITY_SPREAD, abs=0.02)
    assert np.average(drawn.effect, weights=share) == pytest.approx(1)


def test_the_declared_marginals_are_those_of_the_published_file(shared_data: Path) -> None:
    file = shared_data / "hrrp_fy2024_hospital.csv.gz"
    if not file.exists():
        pytest.skip(f"no {file.name} among the public data sets")
    rows = pd.read_csv(file, dtype=str).rename(columns={"Facility ID": "id", "Measure Name": "measure"})
    states = {state: d.name for d in DIVISIONS for state in d.states.split()}
    rows["division"] = rows["State"].map(states)
    rows["n"] = pd.to_numeric(rows["Number of Discharges"], errors="coerce")
    rows["observed"] = pd.to_numeric(rows["Number of Readmissions"], errors="coerce")
    rate = pd.to_numeric(rows["Expected Readmission Rate"], errors="coerce") / 100
    rows["expected"] = rows["n"] * rate
    assert rows["division"].notna().all()

    for division in DIVISIONS:
        own = rows[rows["division"] == division.name]
        both = own.dropna(subset=["observed", "expected"])
        assert own["id"].nunique() == division.hospitals
        assert own["n"].sum() == division.discharges
        ratio = both["observed"].sum() / both["expected"].sum()
        assert ratio == pytest.approx(division.observed_to_expected, abs=0.0006)
    volumes = rows.groupby("id")["n"].sum()
    assert np.log(volumes[volumes > 0]).std() == pytest.approx(VOLUME_SPREAD, abs=0.005)
    assert _spread_of_quality(rows) == pytest.approx(QUALITY_SPREAD, abs=0.0006)
    groups = {
        "AMI": "cardiac",
        "CABG": "cardiac",
        "HF": "cardiac",
        "COPD": "respiratory",
        "PN": "respiratory",
    }
    groups["HIP"] = "musculoskeletal"
    rows["group"] = rows["measure"].str.split("-").str[2].map(groups)
    sums = rows.dropna(subset=["n", "observed"]).groupby("group")[["observed", "n"]].sum()
    for group, declared in READMISSION_RATES.items():
        assert sums["observed"][group] / sums["n"][group] == pytest.approx(declared, abs=0.0006)


def _spread_of_quality(rows: pd.DataFrame) -> float:
    """Between hospitals, around their division's ratio, less what chance makes (DerSimonian and Laird)."""
    sums = rows.dropna(subset=["observed", "expected"]).groupby(["division", "id"])[["observed", "expected"]]
    hospitals = sums.sum()
    centre = hospitals.groupby("division").transform("sum")
    weight = hospitals["expected"] * centre["observed"] / centre["expected"]
    ratio = hospitals["observed"] / weight
    heterogeneity = (weight * (ratio - 1) ** 2).sum() - (len(hospitals) - len(DIVISIONS))
    return float(np.sqrt(heterogeneity / (weight.sum() - (weight**2).sum() / weight.sum())))
