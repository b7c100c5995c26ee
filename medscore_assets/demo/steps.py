"""Made-up step records of any number of patients and days, with the faults that real ones have.

Belongs here: the minutes in which devices count, overlapping devices, late files, duplicates, impossible
counts, and the true daily steps. Does not belong here: who the patients are (`step_patients.py`) and what
is made of the records (`medscore_assets/mobility`).

Patients move between 07:00 and 23:00 on the clock of the wall. Each minute in which they do is a record of
their watch or, if they have none, their phone. Who has a watch often carries the phone too, which then
counts somewhat fewer steps in some of the same minutes; in some hours the watch is being charged. The truth
of a day is what the watch counted, and the phone where there was no watch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from itertools import product
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa

from medscore_assets.demo.step_patients import (
    BLOCK,
    DISEASES,
    EPOCH,
    ZONES,
    Array,
    Block,
    block,
    blocks,
    clinical_tables,
    steps_called_for,
    stream,
)
from medscore_assets.mobility.raw import CLINICAL, RAW_STEPS
from resources.errors import PermanentError
from resources.lake import Lake

__all__ = ["DISEASES", "DayRecords", "StepPlan", "day_records", "write"]

HOURS, MINUTES = 16, 60
WAKES = time(7)
SLOTS = HOURS * MINUTES
BLOCKS_PER_FILE = 64
"""Some five million records."""
LATE_BY_DAYS = 3
SECOND_US = 1_000_000
DAY_MINUTES = 1440
PHONE, WATCH = 0, 1
DEVICES = pa.array(["phone", "watch"])

BY_HOUR = np.array([8, 11, 11, 10, 10, 12, 11, 9, 9, 10, 12, 12, 9, 7, 5, 4]) / 160 * HOURS
"""How much of a day's walking falls in each hour from 07:00 on, relative to the mean."""
TYPICAL_STEPS, TYPICAL_RECORDS = 5000.0, 76.0
"""Whoever walks more does so in more minutes, and faster."""
MOST_PER_MINUTE = 220
VIGOUR = np.arange(256, dtype=np.float32) * np.float32(1 / 255) + np.float32(0.5)
"""By a random byte, how much faster than on average a patient moves in a minute."""
CARRIED = 100
"""Of 256 minutes that a watch counts, in how many the phone counts too."""
CHARGED, HALF_WORN, SENT_TWICE, LATE, IMPOSSIBLE, ELSEWHERE = 0.5, 0.03, 0.01, 0.02, 0.005, 0.01
"""Shares of patient-days: the watch charges for an hour, the device comes off early, an hour comes twice,
the day comes late, an impossible count is in it. Shares of patient-weeks: the patient is in another zone."""
IMPOSSIBLE_COUNTS = np.array([1_000_000_000, -5, 301, 0])
"""The last one stands for a count that is missing."""


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What to generate: `patients` over the local days from `first_day` to `last_day`.

    The same seed gives the same records of a patient and day, whatever else is generated.
    """

    patients: int
    first_day: date
    last_day: date
    seed: int = 20260101

    def __post_init__(self) -> None:
        if self.patients < 1 or self.last_day < self.first_day:
            raise ValueError("a plan has at least one patient and one day")

    @property
    def days(self) -> list[date]:
        count = (self.last_day - self.first_day).days + 1
        return [self.first_day + timedelta(days=i) for i in range(count)]


@dataclass(frozen=True, slots=True)
class DayRecords:
    """One block of patients on one local day: rows of `RAW_STEPS` that come in time and those that come late.

    `truth` is (patient_id, day, steps) of the patients who wore a device.
    """

    in_time: pa.Table
    late: pa.Table
    truth: pa.Table


def write(plan: StepPlan, lake: Lake, *, threads: int = 2) -> int:
    """Write a plan's records and clinical tables into a lake, and give the number of records.

    Days that are there already stay as they are. Raises `PermanentError` if the lake has other patients.
    """
    # An earlier part of a plan, written later, takes nothing away from what is known.
    known = max([plan.last_day, *(day - timedelta(days=1) for day in lake.days(RAW_STEPS))])
    tables = clinical_tables(plan.seed, plan.patients, known)
    patients = CLINICAL[0]
    if lake.files(patients) and not lake.read(patients).equals(tables[patients.path]):
        raise PermanentError(
            "the lake holds other patients",
            where=lake.url,
            mend="Give the same number of patients and seed, or another lake.",
        )
    for dataset in CLINICAL:
        lake.write(dataset, tables[dataset.path])
    everybody = blocks(plan.patients)
    parts = [
        everybody[first : first + BLOCKS_PER_FILE] for first in range(0, len(everybody), BLOCKS_PER_FILE)
    ]
    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(lambda of: _write_part(plan, lake, *of), product(plan.days, parts)))


def day_records(plan: StepPlan, day: date, index: int = 0) -> DayRecords:
    """The records of the patients of block `index` on a local day."""
    drawn = _drawn(plan, day, index)
    patients, worn = drawn.patients, np.flatnonzero(drawn.truth)
    true = {"patient_id": patients.ids.take(pa.array(worn)), "steps": pa.array(drawn.truth[worn])}
    days = pa.array([day] * len(worn), pa.date32())
    late = drawn.late.take(drawn.who)
    return DayRecords(
        in_time=drawn.table(np.flatnonzero(~late)),
        late=drawn.table(np.flatnonzero(late)),
        truth=pa.table(true).add_column(1, "day", days),
    )


@dataclass(frozen=True, slots=True)
class _Drawn:
    """One block of patients on one local day: arrays of records, and (n,) of patients.

    Of records: position of the patient, minutes after waking, count (0: missing), position in `DEVICES`. Of
    patients: microseconds of waking, position in `ZONES`, whether the day comes late, true steps.
    """

    patients: Block
    who: Array
    minute: Array
    count: Array
    device: Array
    wakes: Array
    zone: Array
    late: Array
    truth: Array

    def table(self, rows: Array) -> pa.Table:
        """Records as rows of `RAW_STEPS`. Its dictionary of patients has only those with a record."""
        who, count = self.who.take(rows), self.count.take(rows)
        there = np.zeros(self.patients.n, bool)
        there[who] = True
        named = np.cumsum(there, dtype=np.int32) - 1
        zone, minute = self.zone.take(who), self.minute.take(rows)
        time = self.wakes.take(who) + minute * np.int64(60 * SECOND_US)
        columns = [
            pa.DictionaryArray.from_arrays(
                pa.array(named.take(who)), self.patients.ids.filter(pa.array(there)), safe=False
            ),
            pa.array(time).view(pa.timestamp("us", "UTC")),
            pa.DictionaryArray.from_arrays(pa.array(zone), pa.array(ZONES), safe=False),
            pa.array(count) if count.all() else pa.array(count, mask=count == 0),
            pa.DictionaryArray.from_arrays(pa.array(self.device.take(rows)), DEVICES, safe=False),
        ]
        return pa.table(columns, names=RAW_STEPS.schema.names)

    def by_utc_day(self) -> Iterator[tuple[bool, date, int, pa.Table]]:
        """Whether records come late, the UTC date of their time, the position of their zone, and they."""
        # In whole minutes, which are small numbers, and for each patient the minute of the UTC day.
        waking = self.wakes // (60 * SECOND_US)
        first = int(waking.min()) // DAY_MINUTES
        into = (waking - first * DAY_MINUTES).astype(np.int16).take(self.who) + self.minute
        kind = (self.late * len(ZONES) + self.zone).astype(np.int8)
        part = kind.take(self.who) + np.int8(2 * len(ZONES)) * (into >= DAY_MINUTES)
        order = np.argsort(part, kind="stable")
        found = np.cumsum(np.bincount(part))
        for number, rows in enumerate(np.split(order, found[:-1])):
            if len(rows):
                tomorrow, of_kind = divmod(number, 2 * len(ZONES))
                late, zone = divmod(of_kind, len(ZONES))
                yield bool(late), EPOCH + timedelta(days=first + tomorrow), zone, self.table(rows)


def _drawn(plan: StepPlan, day: date, index: int) -> _Drawn:
    patients = block(plan.seed, index, dict(blocks(plan.patients))[index])
    minute, count, device, who, truth = _counted(plan.seed, patients, index, day)
    minute, count, device, who = _with_faults(plan.seed, patients.n, index, day, minute, count, device, who)
    zone = _zones(plan.seed, patients, index, day)
    late = stream(plan.seed, "late", index, (day - EPOCH).days).random(BLOCK)[: patients.n] < LATE
    return _Drawn(patients, who, minute, count, device, _waking(day)[zone], zone, late, truth)


def _counted(seed: int, patients: Block, index: int, day: date) -> tuple[Array, ...]:
    """What devices count: minute after waking, count, device and position of the patient of every record.

    The last array, of shape (n,), is the true steps of each patient.
    """
    number, n = (day - EPOCH).days, patients.n
    wear = stream(seed, "wear", index, number)
    charges = np.where(wear.random(BLOCK) < CHARGED, wear.integers(0, HOURS, BLOCK), -1)[:n]
    comes_off = np.where(wear.random(BLOCK) < HALF_WORN, wear.integers(1, HOURS, BLOCK), HOURS)[:n]
    steps = steps_called_for(patients, seed, index, day)
    moving = TYPICAL_RECORDS / SLOTS * np.sqrt(steps / TYPICAL_STEPS)[:, None] * BY_HOUR
    # Of 256: one random byte for each minute decides whether the patient moves in it.
    moving = np.minimum(np.rint(moving * 256), 240)
    pace = (steps / np.maximum(moving.sum(axis=1) * MINUTES / 256, 1)).astype(np.float32)
    moving[np.arange(HOURS) >= comes_off[:, None]] = 0
    drawn = np.frombuffer(stream(seed, "minutes", index, number).bytes(n * SLOTS), np.uint8)
    moves = drawn.reshape(n, HOURS, MINUTES) < moving.astype(np.uint8)[:, :, None]
    # In order of patients: what holds for a patient is repeated, which costs less than looking it up.
    each = np.count_nonzero(moves.reshape(n, SLOTS), axis=1)
    who = np.repeat(np.arange(n, dtype=np.int32), each)
    minute = (np.flatnonzero(moves) - np.repeat(np.arange(n) * SLOTS, each)).astype(np.int16)
    luck = stream(seed, "counts", index, number)
    vigour = VIGOUR.take(np.frombuffer(luck.bytes(len(who)), np.uint8))
    count = np.clip(np.repeat(pace, each) * vigour, 1, MOST_PER_MINUTE).astype(np.int32)
    charging = np.repeat(charges.astype(np.int16), each) == minute // np.int16(MINUTES)
    on_watch = np.repeat(patients.watch, each) & ~charging
    truth = np.diff(np.concatenate([[0], np.cumsum(count, dtype=np.int64)])[np.cumsum([0, *each])])
    carried = np.frombuffer(stream(seed, "carried", index, number).bytes(len(who)), np.uint8) < CARRIED
    phone = np.flatnonzero(on_watch & carried)
    return (
        np.concatenate([minute, minute[phone]]),
        np.concatenate([count, np.maximum(count[phone] * 9 // 10, 1)]),
        np.concatenate([on_watch.astype(np.int8), np.full(len(phone), PHONE, np.int8)]),
        np.concatenate([who, who[phone]]),
        truth,
    )


def _with_faults(
    seed: int, n: int, index: int, day: date, minute: Array, count: Array, device: Array, who: Array
) -> tuple[Array, Array, Array, Array]:
    """The records with those of one hour sent twice, and impossible counts (0: missing), here and there.

    All `n` patients of the block may get an impossible count, also those without any other record.
    """
    luck = stream(seed, "faults", index, (day - EPOCH).days)
    twice = np.where(luck.random(BLOCK) < SENT_TWICE, luck.integers(0, HOURS, BLOCK), -1)[:n]
    wrong = np.flatnonzero(luck.random(BLOCK)[:n] < IMPOSSIBLE).astype(np.int32)
    at = luck.integers(0, SLOTS, BLOCK).astype(np.int16)[wrong]
    counts = IMPOSSIBLE_COUNTS[luck.integers(0, len(IMPOSSIBLE_COUNTS), BLOCK)[wrong]].astype(np.int32)
    sent = np.flatnonzero(twice >= 0)
    of_them = np.flatnonzero(np.isin(who, sent))
    again = of_them[minute[of_them] // MINUTES == twice[who[of_them]]]
    return (
        np.concatenate([minute, minute[again], at]),
        np.concatenate([count, count[again], counts]),
        np.concatenate([device, device[again], np.full(len(wrong), PHONE, np.int8)]),
        np.concatenate([who, who[again], wrong]),
    )


def _zones(seed: int, patients: Block, index: int, day: date) -> Array:
    """Where each patient is, as positions in `ZONES`: at home, but for a week now and then."""
    luck = stream(seed, "zones", index, (day - EPOCH).days // 7)
    away = (luck.random(BLOCK) < ELSEWHERE) * luck.integers(1, len(ZONES), BLOCK)
    return np.asarray((patients.zone + away[: patients.n]) % len(ZONES)).astype(np.int8)


@lru_cache(maxsize=64)
def _waking(day: date) -> Array:
    """07:00 of a day in each of `ZONES`, in microseconds since 1970 UTC."""
    moments = [datetime.combine(day, WAKES, ZoneInfo(zone)).timestamp() for zone in ZONES]
    return np.array(moments, np.int64) * SECOND_US


def _write_part(plan: StepPlan, lake: Lake, day: date, of_blocks: Sequence[tuple[int, int]]) -> int:
    """Write one local day of some blocks of patients, and give the number of records."""
    written = 0
    files: dict[tuple[bool, date], dict[int, list[pa.RecordBatch]]] = {}
    for index, _ in of_blocks:
        for late, utc_day, zone, rows in _drawn(plan, day, index).by_utc_day():
            files.setdefault((late, utc_day), {}).setdefault(zone, []).extend(rows.to_batches())
            written += len(rows)
    for (late, utc_day), zones in files.items():
        arrival = datetime.combine(day, time(12), UTC) + timedelta(days=LATE_BY_DAYS if late else 1)
        # By zone, so that a row group's statistics say on which local days it lies.
        batches = [batch for _, of_zone in sorted(zones.items()) for batch in of_zone]
        lake.add_file(RAW_STEPS, utc_day, batches, arrival=arrival)
    return written
