"""Generated discharges, admissions and outcomes that name nobody, with a declared ground truth.

Belongs here: the plan of a demo data set and its tables in the shape of the warehouse's. Does not belong
here: the truth (`ground_truth.py`), patients (`patients.py`), faults (`dirt.py`), loading (`loading.py`).

The readmission label is not a column. As in a real feed it follows from the admissions: a patient whose
next stay begins unplanned within 30 days was readmitted. That happens with the probability that
`truth` holds, so its AUROC is the best that a model can reach.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from medscore_assets.contracts.fields import Category, Day, Flag, Identifier, Moment, Whole
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.demo import dirt
from medscore_assets.demo.ground_truth import readmission_probability
from medscore_assets.demo.patients import (
    DAY,
    Columns,
    Times,
    draw_arrivals,
    draw_patients,
    draw_stays,
    simulate,
    take,
    to_utc,
)
from resources.errors import PermanentError

SOURCE = "demo"
TIMESTAMP = pa.timestamp("us", "UTC")
ARROW_TYPES = {
    Identifier: pa.string(),
    Category: pa.string(),
    Whole: pa.int64(),
    Flag: pa.bool_(),
    Moment: TIMESTAMP,
    Day: pa.date32(),
}
EVENTS_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        *((f.name, ARROW_TYPES[type(f)]) for f in READMISSION.fields.values()),
        ("ingested_at", TIMESTAMP),
    ]
)
"""The columns of `discharge_events` that a feed writes."""

LEAD_TIME = timedelta(days=730)
"""How long before the first day the simulation begins, so that patients have a past and volume is steady."""

HISTORY = timedelta(days=460)
"""How long before the first day `admissions` begins: 12 months before the longest stay that ends on it."""

COVERAGE_ENDS = 0.03
LONGEST_CORRECTION = np.timedelta64(12, "h")


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """What to generate. The same plan gives the same records, in any process.

    Discharges of `first_day` to `last_day`, both included, in `timezone`; `discharges_per_day` on
    average. `dirty_share` of the discharges have one fault each, `late_share` arrive one to five days
    late. Nothing that arrives after `known_until` is there; by default that is the end of `last_day`.
    """

    first_day: date
    last_day: date
    discharges_per_day: int = 120
    seed: int = 20260101
    dirty_share: float = 0.01
    late_share: float = 0.02
    timezone: str = "America/New_York"
    known_until: datetime | None = None

    def __post_init__(self) -> None:
        try:
            ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise _unsound(
                "timezone", "Name a zone of the IANA database, such as America/New_York."
            ) from None
        for sound, field, mend in (
            (self.first_day <= self.last_day, "first_day", "Start on or before last_day."),
            (self.discharges_per_day >= 1, "discharges_per_day", "Ask for at least one a day."),
            (0 <= self.dirty_share <= 0.5, "dirty_share", "Choose a share from 0 to 0.5."),
            (0 <= self.late_share <= 0.5, "late_share", "Choose a share from 0 to 0.5."),
            (
                self.known_until is None or self.known_until.tzinfo is not None,
                "known_until",
                "Give the time with its zone.",
            ),
        ):
            if not sound:
                raise _unsound(field, mend)

    @property
    def days(self) -> int:
        """How many days have discharges."""
        return (self.last_day - self.first_day).days + 1

    @property
    def end(self) -> datetime:
        """The first moment of which the records know nothing, in UTC."""
        midnight = datetime.combine(self.last_day + timedelta(days=1), time(), ZoneInfo(self.timezone))
        return min((known or midnight).astimezone(UTC) for known in (midnight, self.known_until))


def _unsound(field: str, mend: str) -> PermanentError:
    return PermanentError(f"the demo plan's {field} is not usable", where="DemoPlan", mend=mend)


@dataclass(frozen=True, slots=True)
class DemoData:
    """Generated source tables.

    `events`: rows of discharge_events (without its generated key), in the order of arrival.
    `admissions`: rows of inpatient_admissions, also of stays that are still open and of the 15 months
    before the first day. `truth`: encounter_id and probability of every discharge after which a
    readmission was possible. `dirt`: encounter_id and kind of every fault. `late`: how many events
    arrived a day or more after the discharge, among those that are there.
    """

    events: pa.Table
    admissions: pa.Table
    truth: pa.Table
    dirt: pa.Table
    late: int

    @property
    def dirt_counts(self) -> dict[str, int]:
        """How many faults of each kind are in `events`."""
        return dict(Counter(self.dirt["kind"].to_pylist()))


def generate(plan: DemoPlan) -> DemoData:
    """The records of a plan: 66,000 discharges of 18 months take about two seconds."""
    rng = np.random.default_rng(plan.seed)
    end = np.datetime64(plan.end.replace(tzinfo=None), "s")
    stays = _with_ids(_stays(rng, plan))
    stays["discharged_utc"] = to_utc(stays["discharged"], plan.timezone)
    admissions = _admissions(rng, stays, end)

    discharged = stays["discharged"] >= np.datetime64(plan.first_day)
    events, late = _arrivals(rng, take(stays, discharged & (stays["discharged_utc"] < end)), plan)
    known = events["ingested"] < end
    events, late = take(events, known), late[known]
    table = _events_table(events)

    deaths = _news_of_deaths(rng, events, table, plan, end)
    told_twice = np.asarray(
        pc.is_in(table["encounter_id"], value_set=deaths["encounter_id"].combine_chunks())
    )
    spoiled = dirt.spoil(
        table,
        dirt.spread(round(plan.dirty_share * len(table))),
        seed=plan.seed + 1,
        among=~told_twice & (events["ingested"] < end - LONGEST_CORRECTION),
    )
    return DemoData(
        events=pa.concat_tables([spoiled.events, deaths]).sort_by("ingested_at").combine_chunks(),
        admissions=admissions,
        truth=_truth(events),
        dirt=spoiled.dirt,
        late=int(late.sum()),
    )


def _stays(rng: np.random.Generator, plan: DemoPlan) -> Columns:
    """Stays of as many patients as it takes for the planned number of discharges."""
    wanted = plan.discharges_per_day * plan.days
    first = np.datetime64(plan.first_day - LEAD_TIME)
    end = np.datetime64(plan.last_day) + DAY
    people = round(plan.discharges_per_day * (plan.days + LEAD_TIME.days) * 0.7) + 200
    while True:
        patients = draw_patients(rng, people)
        patients["covered_until"] = _coverage(rng, people, plan)
        stays = simulate(rng, patients, draw_arrivals(rng, people, first, end), end, plan.timezone)
        stays["covered_until"] = patients["covered_until"][stays["patient"]]
        counts = (stays["discharged"] >= np.datetime64(plan.first_day)) & (stays["discharged"] < end)
        reached = np.cumsum(np.bincount(stays["patient"], counts, people))
        if reached[-1] >= wanted:
            enough = int(np.searchsorted(reached, wanted)) + 1
            recent = stays["admitted"] >= np.datetime64(plan.first_day - HISTORY)
            return take(stays, recent & (stays["patient"] < enough))
        people *= 2


def _coverage(rng: np.random.Generator, n: int, plan: DemoPlan) -> Times:
    """Last day of coverage of the few whose contract has an end; NaT for the others."""
    ends = np.datetime64(plan.first_day) + rng.integers(0, plan.days + 180, n)
    return np.where(rng.random(n) < COVERAGE_ENDS, ends, np.datetime64("NaT", "D"))


def _with_ids(stays: Columns) -> Columns:
    """In the order of admission, with ids that follow it."""
    stays = take(stays, np.lexsort((stays["patient"], stays["admitted_utc"])))
    _, first_seen, inverse = np.unique(stays["patient"], return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first_seen))
    stays["patient_id"] = _ids("P", rank[inverse] + 1, 6)
    stays["encounter_id"] = _ids("E", np.arange(1, len(stays["patient"]) + 1), 7)
    stays["hospital_id"] = _ids("H", stays["hospital"], 2)
    return stays


def _ids(letter: str, numbers: npt.NDArray[np.int64], width: int) -> npt.NDArray[np.object_]:
    padded = pc.utf8_lpad(pa.array(numbers).cast(pa.string()), width, "0")
    named = pc.binary_join_element_wise("DEMO", letter, padded, "-")
    return np.asarray(named.to_numpy(zero_copy_only=False), dtype=object)


def _minutes(rng: np.random.Generator, n: int, mean: float) -> npt.NDArray[np.timedelta64]:
    return ((3 + rng.exponential(mean, n).clip(0, 600)) * 60).astype("timedelta64[s]")


def _arrivals(
    rng: np.random.Generator, stays: Columns, plan: DemoPlan
) -> tuple[Columns, npt.NDArray[np.bool_]]:
    """When each discharge is told, by default within hours, and which ones are told days later."""
    n = len(stays["patient"])
    late = np.zeros(n, dtype=bool)
    late[rng.permutation(n)[: round(plan.late_share * n)]] = True
    waits = np.where(late, (rng.uniform(1, 5, n) * 86400).astype("timedelta64[s]"), _minutes(rng, n, 40))
    ordered = {**stays, "ingested": stays["discharged_utc"] + waits}
    order = np.argsort(ordered["ingested"], kind="stable")
    return take(ordered, order), late[order]


def _admissions(rng: np.random.Generator, stays: Columns, end: np.datetime64) -> pa.Table:
    """Every stay that has begun and been told by `end`."""
    told = stays["admitted_utc"] + _minutes(rng, len(stays["admitted_utc"]), 20)
    known = np.asarray(told < end)
    begun = take(stays, known)
    return pa.table(
        {
            "encounter_id": pa.array(begun["encounter_id"], pa.string()),
            "patient_id": pa.array(begun["patient_id"], pa.string()),
            "admitted_at": moments(begun["admitted_utc"]),
            "planned": pa.array(begun["planned"]),
            "source": pa.repeat(SOURCE, int(known.sum())),
            "ingested_at": moments(told[known]),
        }
    )


def moments(utc: Times) -> pa.Array:
    """Times in UTC as the warehouse has them; NaT is null."""
    return pa.array(utc.astype("datetime64[us]"), pa.timestamp("us")).cast(TIMESTAMP)


def _events_table(events: Columns) -> pa.Table:
    """Clean rows of discharge_events. A death is known only if it ended the stay."""
    died_here = events["discharge_status"] == "expired"
    columns = {
        "source": pa.repeat(SOURCE, len(died_here)),
        "admitted_at": moments(events["admitted_utc"]),
        "discharged_at": moments(events["discharged_utc"]),
        "deceased_at": moments(np.where(died_here, events["discharged_utc"], np.datetime64("NaT", "s"))),
        "covered_until": pa.array(events["covered_until"].astype("datetime64[D]"), pa.date32()),
        "ingested_at": moments(events["ingested"]),
    }
    return pa.table(
        [
            columns[field.name] if field.name in columns else pa.array(events[field.name], field.type)
            for field in EVENTS_SCHEMA
        ],
        schema=EVENTS_SCHEMA,
    )


def _news_of_deaths(
    rng: np.random.Generator, events: Columns, table: pa.Table, plan: DemoPlan, end: np.datetime64
) -> pa.Table:
    """Discharges sent a second time when the patient has died since: known then, and not before."""
    died_later = ~np.isnat(events["deceased"]) & (events["discharge_status"] != "expired")
    deceased = to_utc(events["deceased"][died_later], plan.timezone)
    told = deceased + (rng.uniform(0.2, 3, len(deceased)) * 86400).astype("timedelta64[s]")
    told = np.maximum(told, events["ingested"][died_later] + np.timedelta64(1, "h"))
    again = table.filter(pa.array(died_later))
    for name, values in (("deceased_at", deceased), ("ingested_at", told)):
        again = again.set_column(
            EVENTS_SCHEMA.get_field_index(name), EVENTS_SCHEMA.field(name), moments(values)
        )
    return again.filter(pa.array(told < end))


def _truth(events: Columns) -> pa.Table:
    """The probability of every discharge that a readmission could follow."""
    open_end = ~np.isin(events["discharge_status"], ("expired", "hospice"))
    return pa.table(
        {
            "encounter_id": pa.array(events["encounter_id"][open_end], pa.string()),
            "probability": pa.array(events["probability"][open_end], pa.float64()),
        }
    )


def day_of_discharges(n: int, day: date, *, timezone: str = "America/New_York", seed: int = 0) -> DemoData:
    """Exactly `n` clean discharges in the window that opens on `day` at 06:00 local time."""
    zone = ZoneInfo(timezone)
    start = datetime.combine(day, time(6), zone)
    end = datetime.combine(day + timedelta(days=1), time(6), zone)
    return discharges_between(n, start, end, timezone=timezone, seed=seed)


def discharges_between(
    n: int, start: datetime, end: datetime, *, timezone: str = "America/New_York", seed: int = 0
) -> DemoData:
    """Exactly `n` clean discharges from `start` until before `end`, both with a zone, evenly in time.

    All are of different patients, adults, alive, acute and covered: a list has all of them on it. Each
    is told within the window or minutes after it. Prior admissions are drawn and have no rows.
    """
    rng = np.random.default_rng(seed)
    stays = _callable_stays(rng, n, np.datetime64(start.astimezone(ZoneInfo(timezone)).date()))
    # Python subtracts two times of one zone by the clock on the wall; in UTC an hour is an hour.
    start, end = start.astimezone(UTC), end.astimezone(UTC)
    first = np.datetime64(start.replace(tzinfo=None), "us")
    length = (end - start) // timedelta(microseconds=1)
    offsets = (np.arange(n) * length // max(n, 1)).astype("timedelta64[us]")
    stays["discharged_utc"] = first + offsets
    stays["admitted_utc"] = stays["discharged_utc"] - stays["length_of_stay_days"] * DAY
    stays["ingested"] = stays["discharged_utc"] + _minutes(rng, n, 5)
    stays["patient_id"] = _ids("P", np.arange(1, n + 1), 6)
    stays["encounter_id"] = _ids("E", np.arange(1, n + 1), 7)
    stays["hospital_id"] = _ids("H", stays["hospital"], 2)
    stays["covered_until"] = np.full(n, np.datetime64("NaT", "D"))
    return DemoData(
        events=_events_table(stays),
        admissions=_admissions(rng, stays, np.datetime64("9999-01-01", "s")),
        truth=_truth(stays),
        dirt=pa.table({"encounter_id": pa.array([], pa.string()), "kind": pa.array([], pa.string())}),
        late=0,
    )


def _callable_stays(rng: np.random.Generator, n: int, day: np.datetime64) -> Columns:
    """`n` stays of adults who left alive and for good."""
    draws = 2 * n + 50
    patients = draw_patients(rng, draws)
    acute = np.full(draws, "acute")
    stays = draw_stays(rng, patients, np.full(draws, day), np.zeros(draws, dtype=bool), acute)
    stays["num_prior_admissions_12m"] = rng.negative_binomial(0.6, 0.4, draws)
    stays["probability"] = readmission_probability(stays)
    fit = (stays["discharge_status"] == "routine") & (patients["age"] >= 18) & (patients["kind"] == "acute")
    return take(stays, np.flatnonzero(fit)[:n])
