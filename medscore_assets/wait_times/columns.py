"""Columns of Arrow tables as arrays.

Belongs here: conversions that several modules of evaluation need. Does not belong here: what the columns
mean.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Numbers = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_TABLE_AT_MOST = 1_000_000
"""Numbers below are looked up in a table; others are sorted."""


def numbers(column: pa.ChunkedArray) -> Numbers:
    """Floats, shape (n,), NaN for null."""
    floats: Numbers = column.cast(pa.float64()).to_numpy()
    return floats


def times(column: pa.ChunkedArray) -> Integers:
    """Microseconds since 1970 in UTC, shape (n,), of a column without null."""
    since: Integers = column.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy()
    return since


def moments(microseconds: Integers, known: Mask | None = None) -> pa.Array:
    """The inverse of `times`: timestamps in UTC, null where not `known`."""
    unknown = None if known is None else ~known
    return pa.array(microseconds, pa.int64(), mask=unknown).cast(pa.timestamp("us", tz="UTC"))


def decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Plain values instead of a dictionary: what may be sorted, joined and written anywhere."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def codes(table: pa.Table, names: tuple[str, ...]) -> Integers:
    """A number from 0 on, without gaps, per different combination of columns without null, shape (n,)."""
    key = np.zeros(len(table), dtype=np.int64)
    for name in names:
        column = _codes(table[name])
        key = _without_gaps(key * (column.max(initial=0) + 1) + column)
    return key


def _without_gaps(key: Integers) -> Integers:
    """The same with the smallest whole numbers from 0 on, in the same order."""
    most = int(key.max(initial=0)) + 1
    if most > _TABLE_AT_MOST:
        return np.unique(key, return_inverse=True)[1].astype(np.int64)
    there = np.zeros(most, dtype=np.int64)
    there[key] = 1
    return (np.cumsum(there) - 1)[key]


def _codes(column: pa.ChunkedArray) -> Integers:
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    indices = encoded.unify_dictionaries().combine_chunks().indices
    numbered: Integers = indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return numbered
