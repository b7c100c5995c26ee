"""Made-up patients and their hospital stays, one admission after the other.

Belongs here: who the patients are, what a stay looks like, what follows a discharge, all in numpy over
many patients at once. Does not belong here: tables, ids, late or dirty rows (`discharges.py`, `dirt.py`).

Times are numpy datetime64[s] on the clock of the wall in one named zone, until `to_utc`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medscore_assets.demo.ground_truth import readmission_probability

Times = npt.NDArray[Any]
"""datetime64 of any unit; NumPy's own types tell a moment from a number less well than its arithmetic."""

Columns = dict[str, npt.NDArray[Any]]
"""Arrays of the same length by name: a table without ceremony."""

HOSPITALS = 8
DAY, HOUR = np.timedelta64(1, "D"), np.timedelta64(1, "h")
NEVER = np.datetime64("NaT", "s")
DIAGNOSES = np.array(
    ["cardiac", "respiratory", "digestive", "musculoskeletal", "neurological", "endocrine", "other"]
)
DIAGNOSIS_SHARES = np.array([0.22, 0.12, 0.14, 0.12, 0.09, 0.09, 0.22])
RESPIRATORY_SWING = 0.6
"""How far the share of respiratory stays swings around its mean, up in mid-January."""
ADMISSION_SWING = 0.10
ADMISSIONS_BY_WEEKDAY = np.array([1.12, 1.08, 1.04, 1.02, 1.0, 0.87, 0.87])
"""Monday first."""
LATER_MEAN_DAYS = 170.0
PLANNED_WITHIN_30_DAYS = 0.03
MOST_STAYS = 60
"""Far more than anybody can have in the simulated years."""


def take(columns: Columns, rows: npt.NDArray[Any]) -> Columns:
    """The rows at a mask or at positions."""
    return {name: values[rows] for name, values in columns.items()}


def concat(parts: Sequence[Columns]) -> Columns:
    """Tables one under the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def to_utc(wall: Times, timezone: str) -> Times:
    """Wall-clock times as UTC. An hour that the clocks skip moves on; of a repeated hour, the first."""
    index = pd.DatetimeIndex(wall)
    local = index.tz_localize(
        timezone, ambiguous=np.ones(len(index), dtype=bool), nonexistent="shift_forward"
    )
    return np.asarray(local.tz_convert("UTC").tz_localize(None).to_numpy(), dtype="datetime64[s]")


def season(wall: Times) -> npt.NDArray[np.float64]:
    """1 in mid-January, -1 in mid-July."""
    day_of_year = (wall.astype("datetime64[D]") - wall.astype("datetime64[Y]")) / DAY
    return np.asarray(np.cos(2 * np.pi * (day_of_year - 15) / 365.25), dtype=np.float64)


def weekday(wall: Times) -> npt.NDArray[np.int64]:
    """0 on Monday."""
    return np.asarray((wall.astype("datetime64[D]").astype(np.int64) + 3) % 7)


def draw_patients(rng: np.random.Generator, n: int) -> Columns:
    """`n` people as they are at their first admission; the arrival kind is that admission's service."""
    kind = rng.choice(["acute", "obstetric", "newborn"], n, p=[0.92, 0.05, 0.03])
    age = np.select(
        [kind == "newborn", kind == "obstetric"],
        [np.zeros(n), rng.normal(30, 5, n).clip(18, 45)],
        rng.choice(4, n, p=[0.05, 0.20, 0.40, 0.35]).choose(
            [rng.uniform(1, 18, n), rng.uniform(18, 50, n), rng.normal(63, 10, n), rng.normal(77, 8, n)]
        ),
    ).clip(0, 104)
    frailty = rng.gamma(1.6, 1 / 1.6, n)
    return {
        "age": age,
        "kind": kind,
        "chronic": rng.poisson(frailty * (0.4 + 0.065 * np.maximum(age - 25, 0))).clip(0, 18),
        "main_diagnosis": rng.choice(len(DIAGNOSES), n, p=DIAGNOSIS_SHARES),
        "insurance": _insurance(rng, age),
        "hospital": rng.integers(1, HOSPITALS + 1, n),
    }


def _insurance(rng: np.random.Generator, age: npt.NDArray[np.float64]) -> npt.NDArray[np.str_]:
    payers = ["commercial", "medicare", "medicaid", "dual_eligible", "unknown"]
    old = rng.choice(payers, len(age), p=[0.06, 0.76, 0.0, 0.15, 0.03])
    young = rng.choice(payers, len(age), p=[0.62, 0.06, 0.25, 0.03, 0.04])
    return np.where(age >= 65, old, young)


def draw_arrivals(rng: np.random.Generator, n: int, first: np.datetime64, end: np.datetime64) -> Times:
    """Days of `n` first admissions from `first` until before `end`: more in winter, fewer at weekends."""
    days = np.arange(first, end, dtype="datetime64[D]")
    rate = (1 + ADMISSION_SWING * season(days)) * ADMISSIONS_BY_WEEKDAY[weekday(days)]
    return days[rng.choice(len(days), n, p=rate / rate.sum())]


def draw_stays(
    rng: np.random.Generator,
    patients: Columns,
    day: Times,
    planned: npt.NDArray[np.bool_],
    service_line: npt.NDArray[np.str_],
) -> Columns:
    """One stay per patient, admitted on `day`; everything but the prior admissions and the probability."""
    n = len(day)
    emergency = ~planned & (service_line != "newborn") & (rng.random(n) < 0.78)
    arrival_hour = np.where(planned, rng.uniform(6, 10, n), rng.normal(15, 5.5, n) % 24)
    admitted = day.astype("datetime64[s]") + (arrival_hour * 3600).astype("timedelta64[s]")
    diagnosis = _diagnosis(rng, patients["main_diagnosis"], season(admitted))
    status = _status(rng, patients, planned, service_line)
    discharged = _discharged(rng, admitted, _nights(rng, patients, service_line, planned), status)
    chronic = patients["chronic"]
    return {
        "admitted": admitted,
        "discharged": discharged,
        "planned": planned,
        "hospital": np.where(rng.random(n) < 0.85, patients["hospital"], rng.integers(1, HOSPITALS + 1, n)),
        "discharge_status": status,
        "service_line": service_line,
        "patient_age": patients["age"].astype(np.int64),
        "length_of_stay_days": ((discharged.astype("datetime64[D]") - day) / DAY).astype(np.int64),
        "num_chronic_conditions": chronic,
        "primary_diagnosis_group": DIAGNOSES[diagnosis],
        "discharge_disposition": _disposition(rng, patients["age"], status),
        "insurance_type": patients["insurance"],
        "emergency_admission": emergency,
        "num_medications_at_discharge": rng.poisson(1.5 + 1.15 * chronic + 0.03 * patients["age"]).clip(
            0, 45
        ),
        "has_follow_up_scheduled": rng.random(n) < np.where(planned, 0.8, 0.55),
    }


def _diagnosis(
    rng: np.random.Generator, main: npt.NDArray[np.int64], winter: npt.NDArray[np.float64]
) -> npt.NDArray[np.int64]:
    """Half of the stays are for the patient's main disease, the others for whatever the season brings."""
    shares = np.tile(DIAGNOSIS_SHARES, (len(main), 1))
    shares[:, 1] *= 1 + 2 * RESPIRATORY_SWING * winter.clip(-0.8, 1)
    new = _pick(rng, shares / shares.sum(axis=1, keepdims=True))
    return np.where(rng.random(len(main)) < 0.5, main, new)


def _pick(rng: np.random.Generator, shares: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """One option per row of shares (n, options); what is missing to 1 goes to the next option."""
    bounds = np.cumsum(shares, axis=1)
    bounds[:, -1] = np.where(bounds[:, -1] > 1 - 1e-9, np.inf, bounds[:, -1])
    return np.asarray((rng.random(len(shares))[:, None] >= bounds).sum(axis=1), dtype=np.int64)


def _status(
    rng: np.random.Generator,
    patients: Columns,
    planned: npt.NDArray[np.bool_],
    service_line: npt.NDArray[np.str_],
) -> npt.NDArray[np.str_]:
    n = len(planned)
    ill = np.where(planned | (service_line != "acute"), 0.1, 1.0) * (patients["age"] >= 18)
    severity = ill * (0.3 + 0.012 * patients["age"] + 0.05 * patients["chronic"])
    shares = np.stack(
        [0.016 * severity, 0.016 * severity, 0.016 * ill, 0.012 * ill, np.full(n, 0.008)], axis=1
    )
    statuses = np.array(["expired", "hospice", "transferred", "left_against_advice", "unknown", "routine"])
    return np.asarray(statuses[_pick(rng, shares)])


def _disposition(
    rng: np.random.Generator, age: npt.NDArray[np.float64], status: npt.NDArray[np.str_]
) -> npt.NDArray[np.str_]:
    """Where patients go, from home for the young to nursing care for the old."""
    frail = ((age - 40) / 50).clip(0, 1)
    shares = np.stack([0.90 - 0.45 * frail, 0.05 + 0.17 * frail, 0.01 + 0.20 * frail, 0.02 + 0.05 * frail], 1)
    places = np.array(["home", "home_with_care", "skilled_nursing", "rehab", "other"])
    place = np.asarray(places[_pick(rng, shares)])
    place[np.isin(status, ("expired", "hospice", "transferred"))] = "other"
    place[status == "left_against_advice"] = "home"
    return place


def _nights(
    rng: np.random.Generator,
    patients: Columns,
    service_line: npt.NDArray[np.str_],
    planned: npt.NDArray[np.bool_],
) -> npt.NDArray[np.int64]:
    typical = np.select(
        [np.isin(service_line, ("obstetric", "newborn")), service_line == "rehabilitation", planned],
        [0.85, 2.3, 0.95],
        1.15 + 0.03 * patients["chronic"],
    )
    return np.exp(rng.normal(typical, 0.6)).round().clip(1, 90).astype(np.int64)


def _discharged(
    rng: np.random.Generator,
    admitted: Times,
    nights: npt.NDArray[np.int64],
    status: npt.NDArray[np.str_],
) -> Times:
    """Discharges by day, most after noon, few at weekends; death keeps no hours."""
    n = len(admitted)
    day = admitted.astype("datetime64[D]") + nights
    may_wait = (status != "expired") & (rng.random(n) < 0.3)
    day = day + (may_wait & (weekday(day) == 6)) - (may_wait & (weekday(day) == 5) & (nights > 1))
    hour = np.where(status == "expired", rng.uniform(0, 24, n), rng.normal(13.8, 2.4, n).clip(7, 22.9))
    discharged = day.astype("datetime64[s]") + (hour * 3600).astype("timedelta64[s]")
    since_midnight = admitted - admitted.astype("datetime64[D]")
    same_day = (rng.random(n) < 0.03) & (since_midnight < 13 * HOUR) & (status == "routine")
    hours_later = (rng.uniform(5, 10, n) * 3600).astype("timedelta64[s]")
    return np.asarray(np.where(same_day, admitted + hours_later, discharged))


def what_follows(rng: np.random.Generator, stays: Columns, probability: npt.NDArray[np.float64]) -> Columns:
    """What happens after each discharge.

    `readmitted` is the draw with `probability`: an unplanned next stay, one to 29 days later. Any other
    next stay is planned or at least 32 days later, so no reading of "30 days" and no change of the clocks
    moves a stay over the edge. `next_day` is the day of the next admission (NaT if none), `next_planned`
    whether it is planned, `deceased` when the patient dies (NaT if not before the next stay).
    """
    n = len(probability)
    leaving = stays["discharged"].astype("datetime64[D]")
    dead, hospice = stays["discharge_status"] == "expired", stays["discharge_status"] == "hospice"
    alive = ~dead & ~hospice
    readmitted = alive & (rng.random(n) < probability)
    rest = alive & ~readmitted
    planned_soon = rest & (rng.random(n) < PLANNED_WITHIN_30_DAYS)
    frailty = 0.15 * stays["num_chronic_conditions"] + 0.02 * stays["patient_age"]
    dies = rest & ~planned_soon & (rng.random(n) < 0.006 * frailty)
    returns = rest & ~planned_soon & ~dies & (rng.random(n) < (0.20 + 0.12 * frailty).clip(0, 0.6))

    soon = 1 + _truncated_exponential(rng, n, mean=11, most=28)
    later = 32 + rng.exponential(LATER_MEAN_DAYS, n).astype(np.int64)
    gap = np.select([readmitted, planned_soon, returns], [soon, rng.integers(4, 24, n), later], 0)
    planned = planned_soon | (returns & (rng.random(n) < 0.2))
    next_day = np.where(gap > 0, leaving + gap, NEVER.astype("datetime64[D]"))
    next_day[planned] = np.busday_offset(next_day[planned], 0, roll="forward")

    days_left = rng.exponential(np.where(hospice, 15.0, 30.0), n) + 0.1
    death = stays["discharged"] + (days_left * 86400).astype("timedelta64[s]")
    deceased = np.select([dead, hospice | dies], [stays["discharged"], death], NEVER)
    return {"readmitted": readmitted, "next_day": next_day, "next_planned": planned, "deceased": deceased}


def _truncated_exponential(rng: np.random.Generator, n: int, mean: float, most: int) -> npt.NDArray[np.int64]:
    """Whole days from 0 to `most`, most of them early."""
    mass = 1 - np.exp(-(most + 1) / mean)
    days = -mean * np.log1p(-mass * rng.random(n))
    return np.asarray(days.clip(0, most), dtype=np.int64)


def simulate(
    rng: np.random.Generator,
    patients: Columns,
    arrival: Times,
    end: np.datetime64,
    timezone: str,
) -> Columns:
    """Every stay of `patients` that begins before `end`, from their day of `arrival` on.

    Adds to the columns of `draw_stays` and `what_follows`: `patient` (position), `admitted_utc`,
    `num_prior_admissions_12m`, counted over the simulated stays, and `probability`.
    """
    return concat(list(_generations(rng, patients, arrival, end, timezone)))


def _generations(
    rng: np.random.Generator,
    patients: Columns,
    arrival: Times,
    end: np.datetime64,
    timezone: str,
) -> Iterator[Columns]:
    """All first stays, then all second stays, and so on: patients are independent of each other."""
    who, day, planned = np.arange(len(arrival)), arrival, rng.random(len(arrival)) < 0.15
    planned &= patients["kind"] == "acute"
    service_line = patients["kind"]
    new_conditions = np.zeros(len(arrival), dtype=np.int64)
    history = np.empty((len(arrival), 0), dtype="datetime64[s]")
    for _ in range(MOST_STAYS):
        now = take(patients, who)
        now["age"] = now["age"] + (day - arrival[who]) / DAY / 365.25
        now["chronic"] = (now["chronic"] + new_conditions).clip(0, 20)
        stays = draw_stays(rng, now, day, planned, service_line)
        admitted = to_utc(stays["admitted"], timezone)
        recent = history >= (admitted - 365 * DAY)[:, None]
        stays["num_prior_admissions_12m"] = recent.sum(axis=1)
        stays["probability"] = readmission_probability(stays)
        follows = what_follows(rng, stays, stays["probability"])
        yield {"patient": who, "admitted_utc": admitted, **stays, **follows}

        goes_on = follows["next_day"] < end.astype("datetime64[D]")
        if not goes_on.any():
            return
        who, day, planned = who[goes_on], follows["next_day"][goes_on], follows["next_planned"][goes_on]
        service_line = _next_service(rng, planned)
        history = np.column_stack([history, admitted])[goes_on]
        new_conditions = new_conditions[goes_on] + (rng.random(len(who)) < 0.06)


def _next_service(rng: np.random.Generator, planned: npt.NDArray[np.bool_]) -> npt.NDArray[np.str_]:
    """An unplanned return is acute; a planned one may be for rehabilitation, chemotherapy or psychiatry."""
    services = ["acute", "cancer_treatment", "rehabilitation", "psychiatric"]
    return np.where(planned, rng.choice(services, len(planned), p=[0.5, 0.25, 0.15, 0.1]), "acute")
