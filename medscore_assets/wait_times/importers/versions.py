"""Turns what happened to visits, and when each thing was recorded, into versions of their rows.

Belongs here: which fields a row shows at which moment, and the columns of a row of visits. Does not belong
here: any source of visits, and where the versions are kept.

A row of visits says what was recorded of one visit from `recorded_at` until `superseded_at`. What was known
at a moment are the rows in force then, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Array = npt.NDArray[Any]

MOMENT = pa.timestamp("us", "UTC")
TIMES = ("arrival", "triage_at", "pia_at", "left_at", "disposition_at")
VISITS_SCHEMA = pa.schema(
    [
        pa.field("facility_id", pa.string(), nullable=False),
        pa.field("visit_id", pa.string(), nullable=False),
        pa.field("recorded_at", MOMENT, nullable=False),
        pa.field("superseded_at", MOMENT),
        pa.field("arrival", MOMENT),
        pa.field("triage_at", MOMENT),
        pa.field("ctas", pa.int16()),
        pa.field("pia_at", MOMENT),
        pa.field("left_at", MOMENT),
        pa.field("disposition_at", MOMENT),
        pa.field("scheduled", pa.bool_(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
    ]
)
"""The columns of the table `ed_visits`. A version without any time says that the visit was cancelled."""


@dataclass(frozen=True, slots=True)
class Told:
    """A field's values (n,) as one kind of record tells them; `record` is the column of the record's time."""

    record: int
    values: Array


@dataclass(frozen=True, slots=True)
class Versions:
    """Rows in the order of visits and time: the visit's position, from when and until when, and the fields.

    `superseded_at` is NaT for the version in force. Each field is an array with one value per row.
    """

    visit: Array
    recorded_at: Array
    superseded_at: Array
    fields: Mapping[str, Array]


def versions(records: Array, fields: Mapping[str, tuple[Sequence[Told], Any]]) -> Versions:
    """One version per moment at which something of a visit was recorded.

    `records` (n, kinds) are datetime64[us], NaT where that kind of record does not exist. Each field has
    what is told of it, of which the later in the sequence replaces the earlier from its record on, and the
    value that stands for "not known".
    """
    records = records.astype("datetime64[us]")
    moments = np.sort(records, axis=1)
    later = np.concatenate([moments[:, 1:], np.full((len(moments), 1), np.datetime64("NaT"))], axis=1)
    # Records of one moment make one version; NaT is equal to nothing, itself included.
    kept = ~np.isnat(moments) & (moments != later)
    visit, position = np.nonzero(kept)
    recorded = moments[visit, position]
    superseded = np.full(len(visit), np.datetime64("NaT"), "datetime64[us]")
    follows = visit[1:] == visit[:-1]
    superseded[:-1][follows] = recorded[1:][follows]
    shown = {}
    for name, (tellings, unknown) in fields.items():
        values = np.full(len(visit), unknown, tellings[0].values.dtype)
        for told in tellings:
            seen = records[visit, told.record] <= recorded
            values = np.where(seen, told.values[visit], values)
        shown[name] = values
    return Versions(visit, recorded, superseded, shown)


def visits_table(
    facility_id: Sequence[str] | str, visit_id: pa.Array, made: Versions, source: str
) -> pa.Table:
    """Versions as rows of `VISITS_SCHEMA`.

    `made.fields` holds the times (datetime64), `ctas` (0: unknown) and `scheduled`; `visit_id` has one value
    per visit, and `facility_id` is one for all or one per visit.
    """
    rows = len(made.visit)
    visit = pa.array(made.visit)
    ctas = made.fields["ctas"].astype(np.int16)
    columns: dict[str, Any] = {
        "facility_id": pa.repeat(pa.scalar(facility_id), rows)
        if isinstance(facility_id, str)
        else pa.array(facility_id, pa.string()).take(visit),
        "visit_id": visit_id.take(visit),
        "recorded_at": moments_array(made.recorded_at),
        "superseded_at": moments_array(made.superseded_at),
        "ctas": pa.array(ctas, mask=ctas == 0),
        "scheduled": pa.array(made.fields["scheduled"].astype(bool)),
        "source": pa.repeat(pa.scalar(source), rows),
    }
    columns |= {name: moments_array(made.fields[name]) for name in TIMES}
    return pa.table([columns[name] for name in VISITS_SCHEMA.names], schema=VISITS_SCHEMA)


def moments_array(values: Array) -> pa.Array:
    """UTC times, NaT as null."""
    return pa.array(values.astype("datetime64[us]")).cast(MOMENT)
