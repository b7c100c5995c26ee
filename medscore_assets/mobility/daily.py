"""Raw step records to one row per patient and day of the patient.

Belongs here: which records count, which day they fall on, how overlapping devices are resolved, wear time
and flags, as one Ibis expression for every engine. Does not belong here: where files are
(`resources/lake.py`), the same in arrays (`day_records.py`, `hours.py`), what is forecast (`features.py`).

**The day** is the local day of the zone that the record names, else of the patient's home, else UTC. Its
bounds are moments, taken from the zones' rules here and not by the engine: days with a clock change have 23
or 25 hours, and no session's time zone plays a part.

**What counts.** A count that is missing, negative or over `MOST_PER_RECORD`, and a time after `as_of`, is
removed. The same device, moment and count again is the same record.

**Devices are never added up.** Of each hour of the day the device that counted in most minutes is taken,
then the one with most steps.

**Wear time** is 60 minutes for each hour of the day with a step. Devices that write no record while nothing
moves are the rule, so an hour without steps, or with zeros, cannot be told from one without the device.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from enum import IntFlag
from functools import cache, lru_cache
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import pyarrow as pa
import pyarrow.compute as pc

from medscore_assets.mobility.day_records import LocalDay
from medscore_assets.mobility.hours import HOUR_MINUTES, Rules, by_patient
from medscore_assets.mobility.raw import PATIENTS, RAW_STEPS, has_come, touching
from resources.lake import Dataset, Lake

MOST_PER_RECORD = 300
"""Nobody makes more steps in a minute."""

PARTIAL_BELOW_MINUTES = 600
"""A day with less wear time (10 hours) is partial."""

MOST_DEVICES = 127
"""No more devices of a patient are told: the column holds no greater number."""

HOUR_KEY = ("patient_id", "device", "hour")
UTC_ZONE = "UTC"
RECORDS, ZONES, HOMES = "raw_records", "zone_bounds", "home_bounds"
_WORN = 2**32
"""Minutes times this, plus steps, sorts by minutes and then by steps."""


class DayFlag(IntFlag):
    """What is to be known of a daily row: the bits of `flags`."""

    OVERLAPPING_DEVICES = 1
    DUPLICATE_RECORDS = 2
    IMPOSSIBLE_COUNT_REMOVED = 4
    PARTIAL_DAY = 8
    CLOCK_CHANGE = 16
    FUTURE_REMOVED = 32


DAILY_STEPS = Dataset(
    "processed/daily_steps",
    pa.schema(
        [
            ("patient_id", pa.string()),
            ("day", pa.date32()),
            ("steps", pa.int64()),
            ("wear_minutes", pa.int32()),
            ("devices", pa.int8()),
            ("records", pa.int32()),
            ("flags", pa.int32()),
        ]
    ),
    row_group=16_384,
)
"""One row per patient with any record on the day, by patient: pages look one up in many days. `devices`
counted steps, `MOST_DEVICES` or more of them are told as so many; `records` are those with steps, each once.
Nothing but zeros is 0 steps and no wear."""


def write_daily(lake: Lake, day: date, *, as_of: datetime, connection: Any = None) -> str | None:
    """Make `daily_steps` of a local day from the lake's raw files, and give the name of its file.

    Run again after late files it gives the day anew; None and no file if it holds no record and has not come
    yet (`has_come`). Raises `PermanentError` naming a file that is damaged or lacks a column, or the day if
    there is no raw file from which it could come; the day's earlier rows then stay.
    """
    names = [name for raw_day in touching(day) for name in lake.files(RAW_STEPS, raw_day)]
    if not names:
        raise lake.no_files(RAW_STEPS, day)
    lake.check(RAW_STEPS, names)
    patients = lake.read(PATIENTS, ["patient_id", "zone"])
    with lake.reading(RAW_STEPS, names):
        rows = day_of(lake.local(names), day, patients, as_of=as_of, connection=connection)
    if not rows.num_rows and not has_come(lake, day):
        return None
    return lake.write_day(DAILY_STEPS, day, rows)


def day_of(
    paths: Sequence[str], day: date, patients: pa.Table, *, as_of: datetime, connection: Any = None
) -> pa.Table:
    """The rows of `DAILY_STEPS` for a local day, from raw files of the UTC days that touch it.

    `patients` has `patient_id` and `zone`. With a `connection`, one of Ibis to DuckDB that nobody else uses
    meanwhile, the expression `daily_steps` is computed there; without, the same rows are made in arrays
    (`hours.py`), with a fraction of the CPU time.
    """
    asked = (paths, day, patients, as_of)
    rows = _in_arrays(*asked) if connection is None else _on_duckdb(connection, *asked)
    return rows.add_column(1, "day", pa.array([day] * len(rows), pa.date32())).cast(DAILY_STEPS.schema)


def _in_arrays(paths: Sequence[str], day: date, patients: pa.Table, as_of: datetime) -> pa.Table:
    """`daily_steps` of raw files, made by `hours.py`."""
    homes: dict[str, str] = {}

    @cache
    def of_zone(zone: str) -> tuple[int, int, int] | None:
        return _bounds(day, zone) if zone in _iana_zones() else None

    def of_home(patient: str) -> tuple[int, int, int]:
        if not homes:
            homes.update(zip(patients["patient_id"].to_pylist(), patients["zone"].to_pylist(), strict=True))
        return of_zone(homes.get(patient, UTC_ZONE)) or _bounds(day, UTC_ZONE)

    flags = (DayFlag.OVERLAPPING_DEVICES, DayFlag.DUPLICATE_RECORDS)
    removed = {"impossible": DayFlag.IMPOSSIBLE_COUNT_REMOVED, "future": DayFlag.FUTURE_REMOVED}
    rules = Rules(_known(as_of), MOST_PER_RECORD, *flags, **removed)
    found = by_patient(paths, LocalDay(of_zone, of_home), rules)
    wear = pc.multiply(found["hours"], HOUR_MINUTES)
    partial = pc.if_else(pc.less(wear, PARTIAL_BELOW_MINUTES), int(DayFlag.PARTIAL_DAY), 0)
    devices = pc.min_element_wise(found["devices"], MOST_DEVICES)
    made = {"wear_minutes": wear, "devices": devices, "flags": pc.bit_wise_or(found["flags"], partial)}
    names = [name for name in DAILY_STEPS.schema.names if name != "day"]
    return pa.table([made[name] if name in made else found[name] for name in names], names=names)


def _on_duckdb(engine: Any, paths: Sequence[str], day: date, patients: pa.Table, as_of: datetime) -> pa.Table:
    """`daily_steps` of raw files, computed by DuckDB."""
    records = engine.read_parquet(list(paths), table_name="every_raw_record", hive_partitioning=False)
    zones = set(records.select("zone").distinct().to_pyarrow()["zone"].to_pylist())
    bounds = zone_bounds(day, zones - {None}, as_of=as_of)
    elsewhere = bool(zones - set(bounds["zone"].to_pylist()))
    homes = home_bounds(day, patients if elsewhere else patients.slice(0, 0), as_of=as_of)
    first, last = widest(bounds, homes)  # constants, by which row groups are passed over
    engine.con.execute(
        f"CREATE OR REPLACE TEMP VIEW {RECORDS} AS"
        " SELECT *, (epoch_us(timestamp) // 60000000)::INTEGER AS minute FROM every_raw_record"
        f" WHERE timestamp >= TIMESTAMPTZ '{first.isoformat()}'"
        f" AND timestamp < TIMESTAMPTZ '{last.isoformat()}'"
    )
    engine.con.register(ZONES, bounds)
    engine.con.register(HOMES, homes)
    return engine.con.sql(_duckdb_sql(elsewhere)).to_arrow_table()


def zone_bounds(day: date, zones: Iterable[str], *, as_of: datetime) -> pa.Table:
    """A local day by zone: (zone, starts, ends, as_of, changes), in minutes since 1970 UTC.

    `changes` is the flag of a clock change, or 0. UTC is always there; names that are no IANA zones are not.
    """
    names = (set(zones) & _iana_zones()) | {UTC_ZONE}
    return _bounds_table("zone", [(zone, *_bounds(day, zone)) for zone in sorted(names)], as_of)


def home_bounds(day: date, patients: pa.Table, *, as_of: datetime) -> pa.Table:
    """A local day's moments at each patient's home, as (patient_id, ...) else like `zone_bounds`.

    A patient whose zone is no IANA name lives by UTC.
    """
    known = set(patients["zone"].unique().to_pylist()) & _iana_zones() | {UTC_ZONE}
    zones = {zone: _bounds(day, zone) for zone in known}
    pairs = zip(patients["patient_id"].to_pylist(), patients["zone"].to_pylist(), strict=True)
    rows = [(patient, *zones.get(zone, zones[UTC_ZONE])) for patient, zone in pairs]
    return _bounds_table("patient_id", rows, as_of)


def daily_steps(records: Any, zones: Any, homes: Any | None, kept: Any = lambda table: table) -> Any:
    """The Ibis expression of `DAILY_STEPS` without `day`, on any engine.

    `records` is an Ibis table with the columns of `RAW_STEPS` and `minute`, the whole minutes of `timestamp`
    since 1970 in UTC; `zones` is one of `zone_bounds`, `homes` one of `home_bounds`. With `homes`, records
    without a zone of `zones` fall on the day at the patient's home, or by UTC for a patient not in it;
    without, they are left out. `kept` may store what is read several times, and gives it back.
    """
    import ibis
    from ibis import _

    every_hour = kept(_by_hour(_on_the_day(records, zones, homes)))
    hours = kept(_without_duplicates(every_hour, records, zones, homes, kept))
    by_patient = kept(_by_patient(hours))
    # Two levels of grouping only for those with several devices: most have one.
    several = by_patient.filter(_.devices > 1)
    resolved = _resolved(hours.semi_join(several, "patient_id"))
    rest = several.select("patient_id", "devices", "records", "flags")
    parts = [
        _part(by_patient.filter(_.devices <= 1)),
        _part(resolved.join(rest, "patient_id").mutate(flags=_.flags | _.overlap)),
    ]
    return _as_rows(ibis.union(*parts))


@lru_cache(maxsize=2)
def _duckdb_sql(elsewhere: bool) -> str:
    """`daily_steps` over the tables named here. Compiling takes longer than a small day."""
    import ibis

    def table(name: str, schema: pa.Schema) -> Any:
        return ibis.table(ibis.Schema.from_pyarrow(schema), name=name)

    with_minute = RAW_STEPS.schema.append(pa.field("minute", pa.int32()))
    homes = table(HOMES, _bounds_schema("patient_id")) if elsewhere else None
    expression = daily_steps(table(RECORDS, with_minute), table(ZONES, _bounds_schema("zone")), homes)
    return str(ibis.to_sql(expression, dialect="duckdb"))


def _on_the_day(records: Any, zones: Any, homes: Any | None) -> Any:
    """The day's records: patient_id, device, timestamp, minute of the day, steps (0 if removed), flags."""
    located = _located(records.join(zones, "zone"))
    if homes is None:
        return located
    bounds = ("starts", "ends", "as_of", "changes")
    utc = zones.filter(zones.zone == UTC_ZONE).select(**{f"utc_{name}": zones[name] for name in bounds})
    elsewhere = records.anti_join(zones, "zone").left_join(homes, "patient_id").cross_join(utc)
    filled = {name: elsewhere[name].fill_null(elsewhere[f"utc_{name}"]) for name in bounds}
    return located.union(_located(elsewhere.mutate(**filled)))


def _located(part: Any) -> Any:
    import ibis

    inside = part.filter(part.patient_id.notnull(), part.minute >= part.starts, part.minute < part.ends)
    possible = inside["count"].between(0, MOST_PER_RECORD).fill_null(False)
    future = inside.minute >= inside.as_of
    fault = (
        ibis.ifelse(possible, 0, int(DayFlag.IMPOSSIBLE_COUNT_REMOVED))
        | ibis.ifelse(future, int(DayFlag.FUTURE_REMOVED), 0)
        | inside.changes
    )
    return inside.select(
        "patient_id",
        "timestamp",
        device=inside.device.fill_null(""),
        minute=(inside.minute - inside.starts).cast("int16"),
        steps=ibis.ifelse(possible & ~future, inside["count"], 0).cast("int16"),
        flags=fault.cast("int16"),
    )


def _by_hour(counted: Any) -> Any:
    """Per patient, device and hour: steps, the worn minutes as bits, records with steps, and flags."""
    # The minute at which the hour begins: whole numbers in all engines, without a division.
    placed = counted.mutate(hour=(counted.minute - counted.minute % HOUR_MINUTES).cast("int16"))
    return placed.group_by(HOUR_KEY).aggregate(
        # Engines widen sums, to 128 bits even, which all that follows would pay for.
        steps=placed.steps.sum().cast("int32"),
        worn=_bits(placed),
        records=placed.count(where=placed.steps > 0).cast("int32"),
        flags=placed.flags.bit_or(),
    )


def _without_duplicates(hours: Any, records: Any, zones: Any, homes: Any | None, kept: Any) -> Any:
    """The hours with each record counted once.

    Only an hour with more records than minutes can hold a duplicate; the records of these few patients are
    read once more, each for itself.
    """
    import ibis
    from ibis import _

    crowded = hours.filter(hours.records > _bit_count(hours.worn))
    again = records.semi_join(kept(crowded.select("patient_id").distinct()), "patient_id")
    counted = _on_the_day(again, zones, homes)
    placed = counted.mutate(hour=(counted.minute - counted.minute % HOUR_MINUTES).cast("int16"))
    different = (
        placed.filter(_.steps > 0)
        .semi_join(crowded, HOUR_KEY)
        .group_by(*HOUR_KEY, "timestamp", "minute", "steps")
        .aggregate(times=_.count())
    )
    once = different.group_by(HOUR_KEY).aggregate(
        steps=_.steps.sum().cast("int32"),
        records=_.count().cast("int32"),
        repeated=ibis.ifelse(_.times.max() > 1, int(DayFlag.DUPLICATE_RECORDS), 0).cast("int16"),
    )
    mended = crowded.drop("steps", "records").join(once, HOUR_KEY).mutate(flags=_.flags | _.repeated)
    plain = hours.filter(hours.records <= _bit_count(hours.worn))
    return plain.union(mended.select(plain.columns).cast(dict(plain.schema().items())))


def _by_patient(hours: Any) -> Any:
    """Per patient: devices that counted steps, and steps, worn hours, records and flags over all of them."""
    from ibis import _

    by_device = hours.group_by("patient_id", "device").aggregate(
        steps=_.steps.sum().cast("int32"),
        hours=_.count(where=_.worn != 0).cast("int32"),
        records=_.records.sum().cast("int32"),
        flags=_.flags.bit_or(),
    )
    return by_device.group_by("patient_id").aggregate(
        devices=_.count(where=_.records > 0).cast("int32"),
        steps=_.steps.sum().cast("int32"),
        hours=_.hours.sum().cast("int32"),
        records=_.records.sum().cast("int32"),
        flags=_.flags.bit_or(),
    )


def _resolved(hours: Any) -> Any:
    """Per patient: steps of each hour's one device, worn hours, and the flag of overlapping devices."""
    import ibis
    from ibis import _

    worn = hours.filter(hours.worn != 0)
    best = worn.group_by("patient_id", "hour").aggregate(
        best=(_bit_count(worn.worn) * _WORN + worn.steps).max(), counting=_.count()
    )
    return best.group_by("patient_id").aggregate(
        steps=(_.best % _WORN).sum().cast("int32"),
        hours=_.count().cast("int32"),
        overlap=ibis.ifelse(_.counting.max() > 1, int(DayFlag.OVERLAPPING_DEVICES), 0).cast("int16"),
    )


def _part(table: Any) -> Any:
    names = ("steps", "hours", "devices", "records", "flags")
    return table.select("patient_id", **{name: table[name].cast("int64") for name in names})


def _as_rows(parts: Any) -> Any:
    """The columns of `DAILY_STEPS` without `day`, by patient."""
    import ibis
    from ibis import _

    told = ibis.least(parts.devices, MOST_DEVICES)
    wear = parts.mutate(wear_minutes=parts.hours * HOUR_MINUTES, devices=told)
    partial = ibis.ifelse(_.wear_minutes < PARTIAL_BELOW_MINUTES, int(DayFlag.PARTIAL_DAY), 0)
    types = {"wear_minutes": "int32", "devices": "int8", "records": "int32", "flags": "int32"}
    flagged = wear.mutate(flags=_.flags | partial).cast(types)
    return flagged.select(name for name in DAILY_STEPS.schema.names if name != "day").order_by("patient_id")


def _bits(placed: Any) -> Any:
    """The minutes of an hour with steps, as bits 0 to 59 of one integer."""
    import ibis

    bit = ibis.literal(1, "int64") << (placed.minute - placed.hour).cast("int64")
    return ibis.ifelse(placed.steps > 0, bit, ibis.literal(0, "int64")).bit_or()


def _bit_count(value: Any) -> Any:
    """How many bits are set. DuckDB and Spark have the function under one name."""
    import ibis

    def bit_count(value: Any) -> Any: ...

    return ibis.udf.scalar.builtin(bit_count, signature=(("int64",), "int64"))(value)


@lru_cache(maxsize=1)
def _iana_zones() -> frozenset[str]:
    return frozenset(available_timezones())


def _bounds(day: date, zone: str) -> tuple[int, int, int]:
    """When a day begins and ends in a zone, in minutes since 1970 UTC, and the flag of a clock change."""
    midnights = (datetime.combine(at, time(), ZoneInfo(zone)) for at in (day, day + timedelta(days=1)))
    starts, ends = (int(at.timestamp()) // 60 for at in midnights)
    return starts, ends, 0 if ends - starts == 24 * HOUR_MINUTES else int(DayFlag.CLOCK_CHANGE)


def _known(as_of: datetime) -> int:
    """The first minute since 1970 UTC of the future: a record is of it if it begins after `as_of`."""
    return math.ceil(as_of.timestamp() / 60)


def _bounds_table(key: str, rows: Sequence[tuple[str, int, int, int]], as_of: datetime) -> pa.Table:
    columns = {
        key: [row[0] for row in rows],
        "starts": [row[1] for row in rows],
        "ends": [row[2] for row in rows],
        "as_of": [_known(as_of)] * len(rows),
        "changes": [row[3] for row in rows],
    }
    return pa.table(columns, schema=_bounds_schema(key))


def _bounds_schema(key: str) -> pa.Schema:
    numbers = [(name, pa.int32()) for name in ("starts", "ends", "as_of")]
    return pa.schema([(key, pa.string()), *numbers, ("changes", pa.int16())])


def widest(*tables: pa.Table) -> tuple[datetime, datetime]:
    """When the first day of these tables starts, and when the last one ends."""
    first = min(min(t["starts"].to_pylist(), default=math.inf) for t in tables)
    last = max(max(t["ends"].to_pylist(), default=-math.inf) for t in tables)
    return datetime.fromtimestamp(first * 60, UTC), datetime.fromtimestamp(last * 60, UTC)
