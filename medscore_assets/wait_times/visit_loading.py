"""Brings facilities and versions of visits into the warehouse.

Belongs here: how versions take their place among those that are stored. Does not belong here: reading files
(`importers/`), generating visits (`demo/emergency.py`), and reading visits for predictions (`store.py`).

Stored versions are never changed but for `superseded_at`, which follows from the version after them. So the
same versions again change nothing, in whatever order versions come.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from medscore_assets.tables import ed_facilities, ed_visits
from medscore_assets.wait_times.importers.visit_changes import FIELDS, Change, Key, State, new_versions
from resources.errors import PermanentError
from resources.warehouse import Warehouse

DEMO = "demo"
CHANGES_AT_ONCE = 50_000

_KEY = ("facility_id", "visit_id", "recorded_at")
_SAME_KEY = " AND ".join(f"s.{name} = v.{name}" for name in _KEY)
_SAME_VISIT = "s.facility_id = v.facility_id AND s.visit_id = v.visit_id"
_ARRIVING = "arriving_ed_visits"
_ADDED = [column.name for column in ed_visits.columns if column.name != "superseded_at"]
_S_VALUES, _V_VALUES = (", ".join(f"{row}.{name}" for name in FIELDS) for row in "sv")

_STAGE = f"CREATE TEMPORARY TABLE {_ARRIVING} (LIKE {ed_visits.name}, line bigserial) ON COMMIT DROP"
_AGAIN_IN_FILE = f"""
    DELETE FROM {_ARRIVING} v USING {_ARRIVING} s WHERE {_SAME_KEY} AND s.line > v.line
"""
_OF_KNOWN_VISITS = f"EXISTS (SELECT FROM {ed_visits.name} v WHERE {_SAME_VISIT})"
_EARLIER_OF_KNOWN = f"DELETE FROM {_ARRIVING} s WHERE s.superseded_at IS NOT NULL AND {_OF_KNOWN_VISITS}"
_AS_IT_IS = f"""
    DELETE FROM {_ARRIVING} s USING {ed_visits.name} v
    WHERE {_SAME_VISIT} AND v.superseded_at IS NULL AND ({_S_VALUES}) IS NOT DISTINCT FROM ({_V_VALUES})
"""
_KNOWN_FROM_NOW = f"UPDATE {_ARRIVING} s SET recorded_at = :now WHERE {_OF_KNOWN_VISITS}"
_CONFLICTS = f"""
    SELECT count(*) FROM {_ARRIVING} s JOIN {ed_visits.name} v ON {_SAME_KEY}
    WHERE ({_S_VALUES}) IS DISTINCT FROM ({_V_VALUES})
"""
_STORED = f"DELETE FROM {_ARRIVING} s USING {ed_visits.name} v WHERE {_SAME_KEY}"
_ORDER = f"""
    CREATE TEMPORARY TABLE ordered_ed_visits ON COMMIT DROP AS
    SELECT {", ".join(_KEY)}, arriving, superseded_at AS stored,
        lead(recorded_at) OVER (PARTITION BY facility_id, visit_id ORDER BY recorded_at) AS next
    FROM (
        SELECT {", ".join(_KEY)}, true AS arriving, NULL::timestamptz AS superseded_at FROM {_ARRIVING}
        UNION ALL
        SELECT v.facility_id, v.visit_id, v.recorded_at, false, v.superseded_at FROM {ed_visits.name} v
        WHERE EXISTS (SELECT FROM {_ARRIVING} s WHERE {_SAME_VISIT})
    ) AS versions
"""
_SUPERSEDE = f"""
    UPDATE {ed_visits.name} v SET superseded_at = s.next FROM ordered_ed_visits s
    WHERE NOT s.arriving AND s.next IS DISTINCT FROM s.stored AND {_SAME_KEY}
"""
_ADD = f"""
    INSERT INTO {ed_visits.name} ({", ".join(_ADDED)}, superseded_at)
    SELECT {", ".join(f"v.{name}" for name in _ADDED)}, s.next
    FROM {_ARRIVING} v JOIN ordered_ed_visits s ON s.arriving AND {_SAME_KEY}
"""


@dataclass(slots=True)
class Loaded:
    """What became of versions: added; there already; there with other values, of which the stored ones stay.

    `superseded`: stored versions that ended, or ended earlier than was known.
    """

    added: int = 0
    present: int = 0
    conflicts: int = 0
    superseded: int = 0

    def __iadd__(self, other: Loaded) -> Loaded:
        for name, number in asdict(other).items():
            setattr(self, name, getattr(self, name) + number)
        return self

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


def load_facilities(warehouse: Warehouse, facilities: pa.Table) -> int:
    """Make facilities known, or change what is known of them. Returns how many there are in `facilities`.

    Columns as in `ed_facilities`. Facilities that are not among them stay.
    """
    with warehouse.transaction() as connection:
        _upsert_facilities(connection, facilities)
    return int(facilities.num_rows)


def load_versions(warehouse: Warehouse, batches: Iterable[pa.Table], *, as_happened: bool = False) -> Loaded:
    """Add versions (`VISITS_SCHEMA`) to those that are stored, in one transaction.

    `superseded_at` of the rows is not looked at: it follows from the versions. With `as_happened`, the times
    of recording are only a guess from an extract: a visit that is stored already gets one version, known
    from now on, and only if it ended otherwise than stored. Of rows with one key the last one counts.
    Raises `PermanentError` for a facility that is not known.
    """
    loaded = Loaded()
    with warehouse.transaction() as connection:
        warehouse.lock(connection, ed_visits.name)
        for rows in batches:
            loaded += _add(warehouse, connection, rows, as_happened=as_happened)
    return loaded


def load_changes(warehouse: Warehouse, changes: Iterable[Change], source: str) -> Loaded:
    """Lay what messages tell upon the stored versions, and add what comes of it, in one transaction."""
    loaded = Loaded()
    with warehouse.transaction() as connection:
        warehouse.lock(connection, ed_visits.name)
        coming = iter(changes)
        while some := list(islice(coming, CHANGES_AT_ONCE)):
            stored = _stored_versions(warehouse, connection, {(c.facility_id, c.visit_id) for c in some})
            made = new_versions(some, stored, source)
            loaded += _add(warehouse, connection, made, as_happened=False)
    return loaded


def load_demo_visits(
    warehouse: Warehouse, facilities: pa.Table, visits: pa.Table, *, replace: bool
) -> Loaded:
    """Write generated visits, alone. Raises `PermanentError` if there are others and not `replace`.

    `replace` deletes generated visits, and never those of another source.
    """
    with warehouse.transaction() as connection:
        warehouse.lock(connection, ed_visits.name)
        sources = connection.scalars(sa.select(ed_visits.c.source).distinct()).all()
        if sources and not (replace and set(sources) == {DEMO}):
            raise PermanentError(
                f"there are visits already, from {', '.join(sorted(sources))}",
                where=ed_visits.name,
                mend="Give --replace to generate them again."
                if set(sources) == {DEMO}
                else "Use another MEDSCORE_HOME or MEDSCORE_DATABASE_URL.",
            )
        connection.execute(sa.delete(ed_visits))
        _upsert_facilities(connection, facilities)
        added = warehouse.append(connection, ed_visits, visits)
        connection.exec_driver_sql(f"ANALYZE {ed_visits.name}")
    return Loaded(added=added)


def _upsert_facilities(connection: sa.Connection, facilities: pa.Table) -> None:
    from sqlalchemy.dialects.postgresql import insert

    if not facilities.num_rows:
        return
    statement = insert(ed_facilities).values(facilities.to_pylist())
    changed = {name: statement.excluded[name] for name in facilities.column_names if name != "facility_id"}
    connection.execute(
        statement.on_conflict_do_update(index_elements=[ed_facilities.c.facility_id], set_=changed)
    )


def _add(warehouse: Warehouse, connection: sa.Connection, rows: pa.Table, *, as_happened: bool) -> Loaded:
    """Put versions among the stored ones of their visits."""
    _require_facilities(connection, rows)
    connection.exec_driver_sql(_STAGE)
    warehouse.append(connection, ed_visits.to_metadata(sa.MetaData(), name=_ARRIVING), rows)
    connection.exec_driver_sql(f"ANALYZE {_ARRIVING}")
    given = rows.num_rows - _rows(connection, _AGAIN_IN_FILE)
    if as_happened:
        _rows(connection, _EARLIER_OF_KNOWN)
        _rows(connection, _AS_IT_IS)
        connection.execute(sa.text(_KNOWN_FROM_NOW), {"now": datetime.now(UTC)})
        given -= _rows(connection, _AGAIN_IN_FILE)
    conflicts = int(connection.exec_driver_sql(_CONFLICTS).scalar_one())
    _rows(connection, _STORED)
    connection.exec_driver_sql(_ORDER)
    superseded, added = _rows(connection, _SUPERSEDE), _rows(connection, _ADD)
    connection.exec_driver_sql(f"DROP TABLE {_ARRIVING}, ordered_ed_visits")
    return Loaded(added, given - added - conflicts, conflicts, superseded)


def _rows(connection: sa.Connection, statement: str) -> int:
    return int(connection.exec_driver_sql(statement).rowcount)


def _require_facilities(connection: sa.Connection, rows: pa.Table) -> None:
    known = set(connection.scalars(sa.select(ed_facilities.c.facility_id)))
    if unknown := set(pc.unique(rows["facility_id"]).to_pylist()) - known:
        raise PermanentError(
            f"visits of {len(unknown)} facilities that are not known, such as {min(unknown)}",
            where=ed_visits.name,
            mend="Import the facilities first: medscore import ed-facilities FILE.",
        )


def _stored_versions(
    warehouse: Warehouse, connection: sa.Connection, keys: set[Key]
) -> dict[Key, list[tuple[datetime, State]]]:
    """The stored versions of some visits, in the order of their times."""
    found: dict[Key, list[tuple[datetime, State]]] = {}
    for row in _read_visits(warehouse, connection, keys):
        state: dict[str, Any] = {name: row[name] for name in FIELDS}
        found.setdefault((row["facility_id"], row["visit_id"]), []).append((row["recorded_at"], state))
    return found


def _read_visits(warehouse: Warehouse, connection: sa.Connection, keys: set[Key]) -> Iterator[dict[str, Any]]:
    columns = zip(*sorted(keys), strict=True)
    facilities, visits = (sa.func.unnest(sa.literal(list(column), sa.ARRAY(sa.Text))) for column in columns)
    wanted = sa.select(facilities.label("facility_id"), visits.label("visit_id")).subquery()
    query = (
        sa.select(ed_visits)
        .join(
            wanted,
            (ed_visits.c.facility_id == wanted.c.facility_id) & (ed_visits.c.visit_id == wanted.c.visit_id),
        )
        .order_by(ed_visits.c.facility_id, ed_visits.c.visit_id, ed_visits.c.recorded_at)
    )
    yield from warehouse.read(query, connection).to_pylist()
