"""The faults that real feeds have, put into clean discharge events on purpose and counted.

Belongs here: one function per kind of fault, and `spoil`, which spreads them. Does not belong here:
what is done about a fault; that is the contract's and the outreach list's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from medscore_assets.contracts.fields import Category, Day, Moment, Whole
from medscore_assets.contracts.readmission import READMISSION
from resources.errors import PermanentError

Row = dict[str, Any]

REQUIRED = tuple(
    f.name
    for f in READMISSION.fields.values()
    if not (isinstance(f, Day) or (isinstance(f, Moment) and not f.required))
)
CATEGORIES = tuple(f for f in READMISSION.fields.values() if isinstance(f, Category))
COUNTS = tuple(f for f in READMISSION.features if isinstance(f, Whole))


def _null_required(rng: np.random.Generator, row: Row) -> list[Row]:
    # A missing discharge time is a kind of its own: it also decides on which day the row is seen.
    name = rng.choice([name for name in REQUIRED if name != "discharged_at"])
    return [row | {str(name): None}]


def _unknown_category(rng: np.random.Generator, row: Row) -> list[Row]:
    field = CATEGORIES[rng.integers(len(CATEGORIES))]
    return [row | {field.name: str(rng.choice(["cardac", "see notes", "99", "none", "n/a"]))}]


def _odd_case_or_space(rng: np.random.Generator, row: Row) -> list[Row]:
    name = CATEGORIES[rng.integers(len(CATEGORIES))].name
    odd = (row[name].upper(), row[name].title(), f" {row[name]}", f"{row[name]} ")
    return [row | {name: odd[rng.integers(len(odd))]}]


def _out_of_bounds(rng: np.random.Generator, row: Row) -> list[Row]:
    field = COUNTS[rng.integers(len(COUNTS))]
    beyond = (field.minimum - 1, field.maximum + 1, field.maximum + 9, 9999)
    return [row | {field.name: int(rng.choice(beyond))}]


def _exact_duplicate(rng: np.random.Generator, row: Row) -> list[Row]:
    return [row, dict(row)]


def _corrected_later(rng: np.random.Generator, row: Row) -> list[Row]:
    """First one medication too many, or none recorded, and hours later the right number."""
    name = "num_medications_at_discharge"
    wrong = None if rng.random() < 0.5 else row[name] + 1
    later = row["ingested_at"] + timedelta(minutes=int(rng.integers(60, 720)))
    return [row | {name: wrong}, row | {"ingested_at": later}]


def _discharged_before_admission(rng: np.random.Generator, row: Row) -> list[Row]:
    return [row | {"admitted_at": row["discharged_at"] + timedelta(hours=int(rng.integers(1, 72)))}]


def _no_discharge_time(rng: np.random.Generator, row: Row) -> list[Row]:
    return [row | {"discharged_at": None}]


KINDS: Mapping[str, Callable[[np.random.Generator, Row], list[Row]]] = {
    "null_required": _null_required,
    "unknown_category": _unknown_category,
    "odd_case_or_space": _odd_case_or_space,
    "out_of_bounds": _out_of_bounds,
    "exact_duplicate": _exact_duplicate,
    "corrected_later": _corrected_later,
    "discharged_before_admission": _discharged_before_admission,
    "no_discharge_time": _no_discharge_time,
}
"""Each takes a clean row and gives the rows that arrive instead."""

INVALID_KINDS = tuple(kind for kind in KINDS if kind not in ("exact_duplicate", "corrected_later"))
"""The kinds after which an encounter has no valid row; the two others only send it twice."""


@dataclass(frozen=True, slots=True)
class Spoiled:
    """`events` with the faults in them, and `dirt`: the encounter_id and kind of every fault."""

    events: pa.Table
    dirt: pa.Table


def spread(total: int) -> dict[str, int]:
    """`total` faults over all kinds, as evenly as it goes."""
    share, rest = divmod(total, len(KINDS))
    return {kind: share + (position < rest) for position, kind in enumerate(KINDS)}


def spoil(
    events: pa.Table,
    faults: Mapping[str, int],
    *,
    seed: int = 0,
    among: npt.NDArray[np.bool_] | None = None,
) -> Spoiled:
    """Puts exactly `faults[kind]` faults of each kind into clean `events`, each into another row.

    `among` (n,) limits which rows may be hit. Rows keep their order; the rows that duplicates and
    corrections add come last. Raises `PermanentError` for an unknown kind or too few rows.
    """
    rng = np.random.default_rng(seed)
    candidates = np.arange(len(events)) if among is None else np.flatnonzero(among)
    kinds = [kind for kind, count in faults.items() for _ in range(count)]
    unknown = sorted(set(faults) - set(KINDS))
    if unknown or len(kinds) > len(candidates):
        raise PermanentError(
            f"unknown kinds of fault: {', '.join(unknown)}"
            if unknown
            else f"{len(kinds)} faults do not fit into {len(candidates)} rows",
            where="the faults of the demo records",
            mend=f"Choose among {', '.join(KINDS)}." if unknown else "Ask for fewer faults or more rows.",
        )
    hit = rng.permutation(candidates)[: len(kinds)]
    clean = events.take(pa.array(hit)).to_pylist()
    arriving = [KINDS[kind](rng, row) for kind, row in zip(kinds, clean, strict=True)]
    untouched = pa.array(np.setdiff1d(np.arange(len(events)), hit))
    replaced = [rows[0] for rows in arriving]
    added = [row for rows in arriving for row in rows[1:]]
    return Spoiled(
        events=pa.concat_tables(
            [
                _in_place(events, untouched, hit, pa.Table.from_pylist(replaced, events.schema)),
                pa.Table.from_pylist(added, events.schema),
            ]
        ),
        dirt=pa.table(
            {
                "encounter_id": pa.array([row["encounter_id"] for row in clean], pa.string()),
                "kind": pa.array(kinds, pa.string()),
            }
        ),
    )


def _in_place(
    events: pa.Table, untouched: pa.Array, hit: npt.NDArray[np.intp], replaced: pa.Table
) -> pa.Table:
    """`events` with the rows at `hit` replaced."""
    mixed = pa.concat_tables([events.take(untouched), replaced])
    position = np.concatenate([np.asarray(untouched), hit])
    return mixed.take(pa.array(np.argsort(position)))
