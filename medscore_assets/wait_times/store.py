"""Wait times in and out of the warehouse: visits as they were known, parameters, ticks, predictions.

Belongs here: queries and the order of writes. Does not belong here: what is computed from visits
(`snapshot.py`, `models/`), when (`schedules/`), and assignments (`assignment.py`).

Times leave the database as whole microseconds, since COPY's text of them is slower to parse than numbers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import distinct_on, insert

from medscore_assets import tables
from medscore_assets.monthly import ensure_month
from medscore_assets.tables.wait_times import WITH_VALUE
from medscore_assets.wait_times.visits import COLUMNS, TIMES
from resources.warehouse import Warehouse

UTC_TIME = pa.timestamp("us", tz="UTC")
FITS_KEPT = timedelta(days=14)
"""A tick takes parameters of a fit no older than that: the model's own fall-back serves it better."""

TICK_LOCK = "wait_time_tick"
"""Who holds it makes a tick; nobody else does at the same time."""


def facility_zones(warehouse: Warehouse, connection: sa.Connection | None = None) -> dict[str, str]:
    """The IANA zone of each facility by its id, sorted. Raises what `Warehouse.transaction` raises."""
    c = tables.ed_facilities.c
    rows = warehouse.read(sa.select(c.facility_id, c.zone).order_by(c.facility_id), connection)
    return dict(zip(rows["facility_id"].to_pylist(), rows["zone"].to_pylist(), strict=True))


def visits_known(
    warehouse: Warehouse, at: datetime, since: datetime, connection: sa.Connection | None = None
) -> pa.Table:
    """The versions that held at `at` of visits that began after `since`, with the columns of `Visits.of`.

    A visit without an arrival counts by when it was recorded. Two branches, so that each has its index: the
    current versions, and those that were superseded later.
    """
    c = tables.ed_visits.c
    current = _visits(since).where(c.superseded_at.is_(None), c.recorded_at <= at)
    superseded = _visits(since).where(c.superseded_at > at, c.recorded_at <= at)
    return _streamed(warehouse, sa.union_all(current, superseded), connection)


def visits_with_versions(
    warehouse: Warehouse,
    until: datetime,
    since: datetime,
    before: datetime | None = None,
    connection: sa.Connection | None = None,
) -> pa.Table:
    """All versions recorded by `until` of visits that began after `since`, for any moment between.

    With `before` only of visits that began before it, and none without an arrival.
    """
    c = tables.ed_visits.c
    known = [c.recorded_at <= until, *([c.arrival < before] if before is not None else [])]
    current = _visits(since).where(c.superseded_at.is_(None), *known)
    superseded = _visits(since).where(c.superseded_at.is_not(None), *known)
    return _streamed(warehouse, sa.union_all(current, superseded), connection)


def _visits(since: datetime) -> sa.Select[Any]:
    c = tables.ed_visits.c
    began = sa.or_(c.arrival > since, sa.and_(c.arrival.is_(None), c.recorded_at > since))
    return sa.select(*(_readable(c[name]) for name in COLUMNS)).where(began)


def _readable(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    if column.name not in TIMES:
        return column
    # A double holds the microseconds of our centuries exactly once they are rounded to whole ones.
    seconds = sa.func.date_part("epoch", column)
    return sa.cast(seconds * sa.literal_column("1000000"), sa.BigInteger).label(column.name)


def _streamed(
    warehouse: Warehouse, query: sa.CompoundSelect[Any], connection: sa.Connection | None
) -> pa.Table:
    batches = list(warehouse.stream(sa.select(query.subquery()), connection))
    if not batches:
        text, whole = pa.string(), pa.int64()
        types = {"facility_id": text, "visit_id": text, "ctas": whole, "scheduled": pa.bool_()}
        found = pa.table({name: pa.array([], types.get(name, whole)) for name in COLUMNS})
    else:
        found = pa.Table.from_batches(batches)
    for name in TIMES:
        place = found.column_names.index(name)
        found = found.set_column(place, name, found[name].cast(UTC_TIME))
    return found


Parameters = dict[tuple[str, str], dict[str, dict[str, Any]]]
"""By model and version, then by facility ("" for all of them)."""


def fitted_parameters(
    warehouse: Warehouse, at: datetime, connection: sa.Connection | None = None
) -> Parameters:
    """The newest parameters of each model, version and facility that were fitted by `at`."""
    c = tables.wait_time_model_parameters.c
    query = (
        sa.select(c.model, c.version, c.facility_id, c.parameters)
        .ext(distinct_on(c.model, c.version, c.facility_id))
        .where(c.fitted_at <= at, c.fitted_at > at - FITS_KEPT)
        .order_by(c.model, c.version, c.facility_id, c.fitted_at.desc())
    )
    found: Parameters = {}
    for row in warehouse.read(query, connection).to_pylist():
        of_pair = found.setdefault((row["model"], row["version"]), {})
        of_pair[row["facility_id"]] = json.loads(row["parameters"])
    return found


def save_parameters(
    warehouse: Warehouse,
    fitted: Mapping[tuple[str, str], Mapping[str, Mapping[str, Any]]],
    fitted_at: datetime,
    run_id: str,
) -> int:
    """Keep what a fit gave, one transaction; the rows. The same fit again takes the place of the former."""
    rows = [
        {
            "model": model,
            "version": version,
            "facility_id": facility,
            "fitted_at": fitted_at,
            "parameters": dict(parameters),
            "run_id": run_id,
        }
        for (model, version), of_pair in fitted.items()
        for facility, parameters in of_pair.items()
    ]
    if rows:
        upsert = insert(tables.wait_time_model_parameters)
        changed = {name: upsert.excluded[name] for name in ("parameters", "run_id")}
        keys = [c.name for c in tables.wait_time_model_parameters.primary_key]
        statement = upsert.on_conflict_do_update(index_elements=keys, set_=changed)
        with warehouse.transaction() as connection:
            warehouse.lock(connection, tables.wait_time_model_parameters.name)
            connection.execute(statement, rows)
    return len(rows)


def known_fingerprints(
    warehouse: Warehouse, connection: sa.Connection | None = None
) -> dict[tuple[str, str], str]:
    """The fingerprint under which each model and version first ran."""
    c = tables.wait_time_model_versions.c
    rows = warehouse.read(sa.select(c.model, c.version, c.fingerprint), connection).to_pylist()
    return {(row["model"], row["version"]): row["fingerprint"] for row in rows}


def register_versions(connection: sa.Connection, versions: Sequence[Mapping[str, Any]]) -> None:
    """Enter versions that run for the first time; those that are there stay as they are."""
    if versions:
        entry = insert(tables.wait_time_model_versions).on_conflict_do_nothing()
        connection.execute(entry, [dict(version) for version in versions])


def ensure_months(warehouse: Warehouse, table: sa.Table, moments: Sequence[datetime]) -> None:
    """The monthly partitions, in UTC, for these moments."""
    for first in sorted({moment.date().replace(day=1) for moment in moments}):
        ensure_month(warehouse, table, first)


def put_predictions(warehouse: Warehouse, connection: sa.Connection, rows: pa.Table) -> int:
    """Write the predictions of one tick; the rows written. Call it under `TICK_LOCK`.

    One COPY. Of a tick that was made before, what comes out the same stays, with its run and latency, and a
    prediction that has a value is never replaced by one that has none.
    """
    table = tables.wait_time_predictions
    (as_of,) = set(rows["as_of"].to_pylist())
    if not connection.scalar(sa.select(sa.exists().where(table.c.as_of == as_of))):
        return warehouse.append(connection, table, rows)
    staging = sa.Table(
        "staged_predictions",
        sa.MetaData(),
        *(sa.Column(c.name, c.type) for c in table.columns),
        prefixes=["TEMPORARY"],
        postgresql_on_commit="DROP",
    )
    staging.create(connection)
    warehouse.append(connection, staging, rows)
    keys = [c.name for c in table.primary_key]
    compared = [c.name for c in table.columns if c.name not in (*keys, "latency_ms", "run_id")]
    upsert = insert(table).from_select([c.name for c in staging.columns], sa.select(staging))
    new = upsert.excluded
    upsert = upsert.on_conflict_do_update(
        index_elements=keys,
        set_={c.name: new[c.name] for c in table.columns if c.name not in keys},
        where=sa.and_(
            sa.or_(*(table.c[name].is_distinct_from(new[name]) for name in compared)),
            sa.or_(new.status.in_(WITH_VALUE), table.c.status.not_in(WITH_VALUE)),
        ),
    )
    written = connection.execute(upsert, execution_options={"preserve_rowcount": True}).rowcount
    staging.drop(connection)
    return int(written)


def predictions_between(
    warehouse: Warehouse,
    first: datetime,
    last: datetime,
    *,
    facility_id: str | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
    connection: sa.Connection | None = None,
) -> pa.Table:
    """The predictions of ticks from `first` to `last`, both included, with the columns that outcomes need."""
    c = tables.wait_time_predictions.c
    names = ("facility_id", "band", "model", "version", "as_of", "wait_seconds", "p80_seconds", "status")
    columns = [c[name] if name != "as_of" else _as_of(c) for name in names]
    query = sa.select(*columns).where(c.as_of.between(first, last))
    if facility_id is not None:
        query = query.where(c.facility_id == facility_id)
    if pairs is not None:
        query = query.where(sa.tuple_(c.model, c.version).in_(list(pairs)))
    batches = list(warehouse.stream(query, connection))
    if not batches:
        reals = ("wait_seconds", "p80_seconds")
        schema = [(name, pa.float64() if name in reals else pa.string()) for name in names]
        empty = pa.schema(schema).set(4, pa.field("as_of", pa.int64())).empty_table()
        batches = empty.to_batches() or [pa.RecordBatch.from_pylist([], schema=empty.schema)]
    found = pa.Table.from_batches(batches)
    return found.set_column(4, "as_of", found["as_of"].cast(UTC_TIME))


def _as_of(columns: Any) -> sa.ColumnElement[Any]:
    seconds = sa.func.date_part("epoch", columns.as_of)
    return sa.cast(seconds * sa.literal_column("1000000"), sa.BigInteger).label("as_of")


def put_tick(
    connection: sa.Connection, tick: Mapping[str, Any], facilities: Sequence[Mapping[str, Any]]
) -> None:
    """Enter a tick and what each facility looked like at it, or write them anew."""
    for table, rows in ((tables.wait_time_ticks, [tick]), (tables.wait_time_facility_ticks, facilities)):
        if rows:
            keys = [c.name for c in table.primary_key]
            upsert = insert(table)
            changed = {c.name: upsert.excluded[c.name] for c in table.columns if c.name not in keys}
            statement = upsert.on_conflict_do_update(index_elements=keys, set_=changed)
            connection.execute(statement, [dict(row) for row in rows])


def newest_tick(warehouse: Warehouse, connection: sa.Connection | None = None) -> datetime | None:
    """`as_of` of the newest tick with a value, None before the first."""
    c = tables.wait_time_ticks.c
    query = sa.select(sa.func.max(c.as_of).label("as_of")).where(c.with_value > 0)
    newest: datetime | None = warehouse.read(query, connection)["as_of"][0].as_py()
    return newest
