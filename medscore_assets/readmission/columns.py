"""Arrow columns as NumPy arrays, for arithmetic on whole tables.

Belongs here: what every step on a table of discharges needs, with a stated value for a null.
Does not belong here: any rule about discharges.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Mask = npt.NDArray[np.bool_]
Micros = npt.NDArray[np.int64]
Positions = npt.NDArray[np.int64]

NOWHERE = -1
"""The position of what was not found."""


def joined(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """The column in one piece."""
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def as_mask(column: pa.ChunkedArray | pa.Array) -> Mask:
    """Booleans as a NumPy mask; a null is False."""
    return np.asarray(pc.fill_null(joined(column), False))


def as_integers(column: pa.ChunkedArray | pa.Array) -> npt.NDArray[np.int64]:
    """Integers; a null is 0."""
    return np.asarray(pc.fill_null(joined(column).cast(pa.int64()), 0))


def as_micros(column: pa.ChunkedArray | pa.Array) -> Micros:
    """Times as microseconds since 1970 in UTC; a null is 0."""
    return as_integers(joined(column).cast(pa.timestamp("us", "UTC")))


def as_days(column: pa.ChunkedArray | pa.Array) -> npt.NDArray[np.datetime64]:
    """Days as NumPy days; a null is the first day of 1970."""
    return as_integers(joined(column).cast(pa.date32()).cast(pa.int32())).astype("M8[D]")


def local_days(moments: Micros, zone: tzinfo) -> npt.NDArray[np.datetime64]:
    """The days on which moments fall in `zone`: UTC, or one with an IANA name."""
    local = pc.local_timestamp(pa.array(moments, pa.timestamp("us", tz=str(zone))))
    return as_days(local.cast(pa.date32()))


def to_micros(moment: datetime) -> int:
    """A time with a zone as microseconds since 1970 in UTC."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def span(duration: timedelta) -> int:
    """A duration in microseconds."""
    return duration // timedelta(microseconds=1)


def shared_codes(left: pa.ChunkedArray, right: pa.ChunkedArray) -> tuple[Positions, Positions]:
    """Integers per text, equal exactly where the texts are equal in either column; null is -1."""
    codes = text_codes(pa.concat_arrays([joined(left).cast(pa.string()), joined(right).cast(pa.string())]))
    return codes[: len(left)], codes[len(left) :]


def text_codes(texts: pa.Array) -> Positions:
    """Integers from 0 per text, equal exactly where the texts are equal; null is -1."""
    return np.asarray(pc.fill_null(texts.dictionary_encode().indices, NOWHERE)).astype(np.int64)


def positions_among(texts: pa.ChunkedArray, among: pa.ChunkedArray) -> Positions:
    """Where each text stands in another column, or -1."""
    found = pc.index_in(joined(texts).cast(pa.string()), value_set=joined(among).cast(pa.string()))
    return np.asarray(pc.fill_null(found, NOWHERE)).astype(np.int64)


def at(values: npt.NDArray[np.generic], positions: Positions) -> npt.NDArray[np.int64]:
    """The values at positions; 0 where the position is -1."""
    return np.append(values, 0)[positions].astype(np.int64)
