"""Which model is shown where: assignments by hand, each with its evidence, in a table that only grows.

Belongs here: promoting, rolling back, and which assignment holds at a moment. Does not belong here: the rule
of evidence (`comparison.py`), and what is shown when the assigned model has no value (`showing.py`).

An assignment holds for one facility and band from its row's time on; whoever asks next is told so, without a
restart. Until the first one the settings' default holds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa

from medscore_assets import audit, tables
from medscore_assets.model_decisions import require_reason
from medscore_assets.tables.wait_times import ASSIGNMENT_ACTIONS, WITH_VALUE
from medscore_assets.wait_times.attribution import OLDEST
from medscore_assets.wait_times.bands import ALL_BANDS
from medscore_assets.wait_times.comparison import Evidence
from medscore_assets.wait_times.decisions import last_rows, rows_of
from resources.errors import PermanentError
from resources.warehouse import Warehouse

PROMOTED, ROLLED_BACK = ASSIGNMENT_ACTIONS

MIN_REASON = 10
"""Characters of the shortest reason."""

_PLACE = "serving_assignments"


class Pair(NamedTuple):
    """A model and its version: together they say who made a number."""

    model: str
    version: str

    def __str__(self) -> str:
        return f"{self.model} {self.version}"


class Bootstrap(NamedTuple):
    """Who is shown where nobody was assigned, by the settings: a model, of a version or its latest."""

    model: str
    version: str | None = None

    def pair(self, known: Iterable[Pair]) -> Pair | None:
        """The pair that it stands for among those that ever ran; None before its model did."""
        found = [p for p in known if p.model == self.model and self.version in (None, p.version)]
        return max(found, key=by_version, default=None)


def by_version(pair: Pair) -> tuple[str, tuple[int, ...], str]:
    """Sorts pairs by model and then by version, whose parts are numbers: 0.0.10 comes after 0.0.9."""
    parts = pair.version.split(".")
    numeric = tuple(int(part) for part in parts) if all(part.isdecimal() for part in parts) else ()
    return pair.model, numeric, pair.version


@dataclass(frozen=True, slots=True)
class Assignment:
    """One row of `serving_assignments`."""

    assignment_id: int
    facility_id: str
    band: str
    model: str
    version: str
    action: str
    assigned_at: datetime
    assigned_by: str
    reason: str
    forced: bool
    evidence: str | None
    """The comparison with the pair before, as JSON; None where there was none."""

    @property
    def pair(self) -> Pair:
        """Who is shown."""
        return Pair(self.model, self.version)

    @property
    def told(self) -> str:
        """What it does, in words."""
        return f"{self.pair} is shown from now on."

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        found = json.loads(self.evidence) if self.evidence else None
        return asdict(self) | {"assigned_at": self.assigned_at.isoformat(), "evidence": found}


def assignments(
    warehouse: Warehouse, facility_id: str | None = None, band: str | None = None
) -> list[Assignment]:
    """All of them, or those of a facility or band, oldest first."""
    rows = rows_of(warehouse, tables.serving_assignments, facility_id, band)
    return [Assignment(**row) for row in rows]


def holding(
    warehouse: Warehouse, at: datetime, connection: sa.Connection | None = None
) -> dict[tuple[str, str], Assignment]:
    """By facility and band the assignment that holds at `at` (with a zone), where there is one."""
    rows = last_rows(warehouse, tables.serving_assignments.c.assigned_at, at, connection)
    return {(row["facility_id"], row["band"]): Assignment(**row) for row in rows}


def versions(warehouse: Warehouse, connection: sa.Connection | None = None) -> dict[Pair, bool]:
    """Every pair that ever ran, and whether it is a baseline, in the order of `by_version`."""
    c = tables.wait_time_model_versions.c
    rows = warehouse.read(sa.select(c.model, c.version, c.baseline), connection).to_pylist()
    found = {Pair(row["model"], row["version"]): bool(row["baseline"]) for row in rows}
    return dict(sorted(found.items(), key=lambda item: by_version(item[0])))


def known_pair(known: Sequence[Pair], model: str, version: str | None = None) -> Pair:
    """The pair, or the model's latest version. Raises `PermanentError` for what never ran."""
    of_model = sorted((pair for pair in known if pair.model == model), key=by_version)
    if not of_model:
        names = ", ".join(sorted({pair.model for pair in known})) or "none"
        raise PermanentError(
            f"no model {model} has run", where="--model", mend=f"Choose one that has: {names}."
        )
    if version is None:
        return of_model[-1]
    if Pair(model, version) not in of_model:
        raise PermanentError(
            f"no version {version} of {model} has run",
            where="--version",
            mend=f"Choose one that has: {', '.join(pair.version for pair in of_model)}.",
        )
    return Pair(model, version)


def succession(made: Sequence[Assignment]) -> list[Pair]:
    """The pairs that lead to the present one, which is last: what was rolled back is not among them."""
    line: list[Pair] = []
    for assignment in made:
        if assignment.action == PROMOTED:
            line.append(assignment.pair)
        else:
            while line and line[-1] != assignment.pair:
                line.pop()
            line = line or [assignment.pair]
    return line


def promote(
    warehouse: Warehouse,
    facility_id: str,
    band: str,
    pair: Pair,
    *,
    by: str,
    reason: str,
    evidence: Evidence | None,
    default: Bootstrap,
    force: bool = False,
    now: datetime | None = None,
) -> Assignment:
    """Show a pair from now on, and enter that with its evidence into the table and the audit trail.

    `evidence` compares the pair with the one that is shown. Raises `PermanentError` for an unknown facility,
    band or pair, for the pair that is shown already, without a reason or a name, and, unless `force`, for a
    baseline, without evidence that is "better", or for a pair that has no value to show: evidence stays
    when a model stops running.
    """
    reason, by = require_reason(reason, MIN_REASON), require_person(by)
    require_place(warehouse, facility_id, band)
    known = versions(warehouse)
    pair = known_pair(list(known), *pair)
    with warehouse.transaction() as connection:
        warehouse.lock(connection, f"{_PLACE}/{facility_id}/{band}")
        made = _of_place(warehouse, connection, facility_id, band)
        if pair == (made[-1].pair if made else default.pair(known)):
            raise PermanentError(
                f"{pair} is shown already", where=f"{facility_id}, {band}", mend="Nothing is to be done."
            )
        if not force:
            _require_evidence(pair, known[pair], evidence)
            _require_value(warehouse, connection, facility_id, band, pair, now or datetime.now(UTC))
        row = _row(facility_id, band, pair, PROMOTED, by, reason, now) | {
            "forced": force,
            "evidence": _as_json(evidence),
        }
        return _enter(warehouse, connection, row)


def rollback(
    warehouse: Warehouse,
    facility_id: str,
    band: str,
    *,
    by: str,
    reason: str,
    default: Bootstrap,
    now: datetime | None = None,
) -> Assignment:
    """Show the pair before the present one again; before the first assignment that is the default.

    What was itself rolled back is not gone back to. Raises `PermanentError` where there is nothing before,
    without a reason or a name, and for an unknown facility or band.
    """
    reason, by = require_reason(reason, MIN_REASON), require_person(by)
    require_place(warehouse, facility_id, band)
    with warehouse.transaction() as connection:
        warehouse.lock(connection, f"{_PLACE}/{facility_id}/{band}")
        first = default.pair(versions(warehouse, connection))
        line = succession(_of_place(warehouse, connection, facility_id, band))
        line = [*([first] if first else []), *line]
        earlier = [pair for pair in line[:-1] if pair != line[-1]]
        if not earlier:
            raise PermanentError(
                "no pair was shown before the present one",
                where=f"{facility_id}, {band}",
                mend="Choose one and promote it: medscore waits promote",
            )
        row = _row(facility_id, band, earlier[-1], ROLLED_BACK, by, reason, now) | {"forced": False}
        return _enter(warehouse, connection, row)


def _of_place(
    warehouse: Warehouse, connection: sa.Connection, facility_id: str, band: str
) -> list[Assignment]:
    c = tables.serving_assignments.c
    query = sa.select(tables.serving_assignments).where(c.facility_id == facility_id, c.band == band)
    return [
        Assignment(**row) for row in warehouse.read(query.order_by(c.assignment_id), connection).to_pylist()
    ]


def require_place(warehouse: Warehouse, facility_id: str, band: str) -> None:
    """Raises `PermanentError` for a facility or band that there is not."""
    known = warehouse.read(sa.select(tables.ed_facilities.c.facility_id))["facility_id"].to_pylist()
    if facility_id not in known:
        raise PermanentError(
            f"no facility {facility_id} is known",
            where="--facility",
            mend=f"Choose one of: {', '.join(sorted(known)) or 'none'}.",
        )
    if band not in ALL_BANDS:
        raise PermanentError(
            f"no band {band} is posted", where="--band", mend=f"Choose one of: {', '.join(ALL_BANDS)}."
        )


def _require_evidence(pair: Pair, baseline: bool, evidence: Evidence | None) -> None:
    if baseline:
        why = f"{pair} is a baseline"
    elif evidence is None:
        why = f"nothing is known of {pair}"
    elif evidence.verdict == "better":
        return
    else:
        why = evidence.sentence.rstrip(".")
    raise PermanentError(
        why,
        where="evidence for the promotion",
        mend="If you answer for it nevertheless, add --force and say why in the reason.",
    )


def _require_value(
    warehouse: Warehouse, connection: sa.Connection, facility_id: str, band: str, pair: Pair, at: datetime
) -> None:
    """Raises `PermanentError` unless the pair has a value there that is fresh enough to be shown."""
    c = tables.wait_time_predictions.c
    there = sa.exists().where(
        c.facility_id == facility_id,
        c.band == band,
        c.model == pair.model,
        c.version == pair.version,
        c.as_of.between(at - OLDEST, at),
        c.status.in_(WITH_VALUE),
    )
    if not warehouse.read(sa.select(there.label("there")), connection)["there"][0].as_py():
        raise PermanentError(
            f"{pair} has had no value for {OLDEST / timedelta(minutes=1):.0f} minutes",
            where=f"{facility_id}, {band}",
            mend="See whether it still runs: medscore waits status. Promote it once it has values.",
        )


def require_person(by: str) -> str:
    """The name of who decides. Raises `PermanentError` for none."""
    if not (named := by.strip()):
        raise PermanentError("a decision needs the name of who makes it", where="--by", mend="Give a name.")
    return named


def _row(
    facility_id: str, band: str, pair: Pair, action: str, by: str, reason: str, now: datetime | None
) -> dict[str, Any]:
    return {
        "facility_id": facility_id,
        "band": band,
        "model": pair.model,
        "version": pair.version,
        "action": action,
        "assigned_at": now or datetime.now(UTC),
        "assigned_by": by,
        "reason": reason,
    }


def _as_json(evidence: Evidence | None) -> dict[str, Any] | None:
    return asdict(evidence) if evidence is not None else None


def _enter(warehouse: Warehouse, connection: sa.Connection, row: dict[str, Any]) -> Assignment:
    """Table and audit trail in one transaction: neither is without the other."""
    table = tables.serving_assignments
    entered = connection.execute(sa.insert(table).values(row).returning(table.c.assignment_id)).scalar_one()
    audit.append(
        warehouse,
        connection,
        audit.Occurrence(
            kind="model-change",
            outcome="success",
            recorded=row["assigned_at"],
            client="medscore command",
            subject=row["assigned_by"],
            route=f"medscore waits {'promote' if row['action'] == PROMOTED else 'rollback'}",
            reason=row["action"],
            entity=f"{row['facility_id']}/{row['band']}: {row['model']} {row['version']}",
        ),
    )
    evidence = row.get("evidence")
    stored = {**row, "evidence": json.dumps(evidence) if evidence else None}
    return Assignment(assignment_id=int(entered), **stored)
