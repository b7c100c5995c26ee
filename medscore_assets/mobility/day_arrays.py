"""Features of many days in a row on one machine: histories in arrays, formulas by DuckDB.

Belongs here: holding everybody's last days in arrays while one day follows the other, and running
`features_of` over them, some days at a time. Does not belong here: formulas and who is known
(`features.py`), writing days (`preparing.py`), days made by Spark (`spark_work.py`).

The arrays lie by day and then by patient. So the days before of all patients are the same array begun some
days earlier, without a copy and without a window function; each file of steps is read once; and features
come out a few days at a time, as they are written. What they are stays the expression that every engine has.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from datetime import date, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from medscore_assets.contracts.mobility import MOBILITY
from medscore_assets.mobility.clinical import number_of
from medscore_assets.mobility.daily import DAILY_STEPS
from medscore_assets.mobility.engines import Engine
from medscore_assets.mobility.feature_set import LONGEST, NO_DATA, coded
from medscore_assets.mobility.features import Around, around_days, features_of, known_days, reads
from medscore_assets.mobility.forecasts import PATIENT_FEATURES
from medscore_assets.mobility.rollups import MONTHLY_ROLLUPS, days_with_data
from resources.errors import ContractViolation
from resources.lake import ROW_GROUP, Lake

if TYPE_CHECKING:
    import ibis.expr.types as ir

DAY = timedelta(days=1)
HISTORIES = "histories"
UNKNOWN = np.iinfo(np.int32).min
"""Stands for null in the arrays."""

Whole = npt.NDArray[np.int32]

PLACE = "place"
_WHOLE = (PLACE, "who", "number", *(coded(k) for k in range(1, LONGEST + 1)), "wear_minutes", "new_number")
_SUMS = ("new_n", "new_sum", "new_squares")
HISTORY = pa.schema([*((n, pa.int32()) for n in _WHOLE), *((n, pa.float64()) for n in _SUMS)])
"""The columns that `features_of` wants, and `place`, a row's number in its table."""


def features_by_day(
    lake: Lake, engine: Engine, first: date, last: date, *, rows_at_once: int
) -> Generator[pa.Table, None, None]:
    """The features of a range of days, by day and patient: tables of whole days, of about `rows_at_once`.

    The engine is DuckDB. Raises `PermanentError` naming a damaged file, and `ContractViolation` for features
    that are not of the contract's types, or steps that hold a patient twice on a day.
    """
    needs = reads(first, last)
    files = {day: lake.files(DAILY_STEPS, day) for day in days_between(needs.first_day, needs.last_day)}
    months = lake.dataset_paths(MONTHLY_ROLLUPS, date.min, needs.months_before)
    with ExitStack() as stack:
        stack.enter_context(lake.reading(DAILY_STEPS, [name for names in files.values() for name in names]))
        stack.enter_context(lake.reading(MONTHLY_ROLLUPS, months))
        kept = stack.enter_context(_kept(engine))
        around = around_days(engine.feature_inputs(lake, first, last), first, last, kept)
        patients = around.everybody.count().to_pyarrow().as_py()
        held = _Histories(patients, needs.first_day, needs.months_before)
        compute = _over_histories(engine, around)
        wanted, at_once = days_between(first, last), max(1, rows_at_once // max(1, patients))
        for begin in range(0, len(wanted), at_once):
            days = wanted[begin : begin + at_once]
            more = days_between(held.next_day, days[-1] - DAY)
            names = [name for day in more for name in files[day]]
            steps = days_with_data(engine.parquet(lake.local(names), DAILY_STEPS.schema))
            steps = steps.filter(steps.day.between(more[0], more[-1]))
            held.add(known_days(steps, around.everybody).to_pyarrow(), len(more))
            where = f"{lake.url}/{PATIENT_FEATURES.path}"
            # Nothing here holds them while they are written.
            yield MOBILITY.conform(compute(held.until(days[0], days[-1])), where=where)


def days_between(first: date, last: date) -> list[date]:
    """The days from `first` to `last`, both included."""
    return [first + n * DAY for n in range((last - first).days + 1)]


@contextmanager
def _kept(engine: Engine) -> Iterator[Callable[[ir.Table], ir.Table]]:
    """Gives what computes a table once, to be used until the block ends."""
    names: list[str] = []

    def keep(table: ir.Table) -> ir.Table:
        names.append(f"kept_{len(names)}")
        return engine.backend.create_table(names[-1], table, temp=True)

    try:
        yield keep
    finally:
        for name in names:
            engine.backend.con.execute(f"DROP TABLE IF EXISTS {name}")


def _over_histories(engine: Engine, around: Around) -> Callable[[pa.Table], pa.Table]:
    """What computes the features of one `HISTORY` after the other, in its order."""
    connection = engine.backend.con
    kept = (around.everybody, around.days, around.state)
    sql = _features_sql(*((table.op().name, table.schema()) for table in kept))

    def compute(history: pa.Table) -> pa.Table:
        connection.register(HISTORIES, history)
        try:
            return _in_order(connection.sql(sql).to_arrow_table())
        finally:
            connection.unregister(HISTORIES)

    return compute


@lru_cache(maxsize=1)
def _features_sql(*kept: tuple[str, Any]) -> str:
    """`features_of` over `HISTORIES` and the tables of `Around`: compiling takes longer than some days."""
    import ibis

    everybody, days, state = (ibis.table(schema, name=name) for name, schema in kept)
    history = ibis.table(ibis.Schema.from_pyarrow(HISTORY), name=HISTORIES)
    features = features_of(history, Around(everybody=everybody, days=days, state=state), PLACE)
    return str(ibis.to_sql(features, dialect="duckdb"))


def _in_order(found: pa.Table) -> pa.Table:
    """By `place`: threads and joins leave rows near their places, but not on them."""
    order = pa.array(np.argsort(found[PLACE].to_numpy(), kind="stable"))
    # Each column in one piece halves the time, and there is never a third copy of the table.
    return pa.table([column.combine_chunks().take(order) for column in found.columns], found.schema)


class _Histories:
    """The last days of all patients, and their sums since a month began, as one day follows the other.

    `patients` is how many there are; days are held from `first` on, and summed up from `month` on. Arrays of
    days have the shape (days, patients), and a number for the day as `number_of` gives it.
    """

    def __init__(self, patients: int, first: date, month: date) -> None:
        self.next_day = first
        """The first day that is not held yet."""
        self._first = self._counted = number_of(first)
        self._month = number_of(month)
        self._codes: Whole = np.empty((0, patients), np.int32)
        self._wear = self._codes
        self._sums = np.zeros((len(_SUMS), patients))
        self._newest: Whole = np.full(patients, UNKNOWN, np.int32)

    def add(self, steps: pa.Table, days: int) -> None:
        """So many days that follow, of rows of `known_days`. Raises `ContractViolation` if a row repeats."""
        shape = (days, self._newest.size)
        codes, wear = np.full(shape, NO_DATA, np.int32), np.full(shape, UNKNOWN, np.int32)
        place = steps["number"].to_numpy() - number_of(self.next_day), steps["who"].to_numpy()
        codes[place] = steps["code"].to_numpy()
        wear[place] = steps["wear_minutes"].fill_null(UNKNOWN).to_numpy()
        if np.count_nonzero(codes != NO_DATA) != steps.num_rows:
            raise ContractViolation(
                "a patient has several rows on a day",
                where=f"{DAILY_STEPS.path}, {days} days from {self.next_day}",
                mend="Make the steps of these days again.",
            )
        self._codes = np.concatenate([self._codes, codes])
        self._wear = np.concatenate([self._wear, wear])
        self.next_day += days * DAY

    def until(self, first: date, last: date) -> pa.Table:
        """`HISTORY` of the days from `first` to `last`, by day and patient. Earlier days are forgotten."""
        begin, end = number_of(first), number_of(last)
        days, patients = end - begin + 1, self._newest.size
        sums = np.empty((len(_SUMS), days, patients))
        newest = np.empty((days, patients), np.int32)
        for row in range(days):
            self._count(begin + row)
            sums[:, row], newest[row] = self._sums, self._newest
        columns = {
            PLACE: np.arange(days * patients, dtype=np.int32),
            "who": np.tile(np.arange(patients, dtype=np.int32), days),
            "number": np.repeat(np.arange(begin, end + 1, dtype=np.int32), patients),
            **{coded(k): self._back(self._codes, begin - k, days) for k in range(1, LONGEST + 1)},
            "wear_minutes": _with_nulls(self._back(self._wear, begin - 1, days)),
            "new_number": _with_nulls(newest.ravel()),
            **{name: values.ravel() for name, values in zip(_SUMS, sums, strict=True)},
        }
        gone = end + 1 - LONGEST - self._first
        self._first, self._codes, self._wear = self._first + gone, self._codes[gone:], self._wear[gone:]
        # In pieces, since an engine gives each to one thread.
        return pa.Table.from_batches(pa.table(columns, HISTORY).to_batches(max_chunksize=ROW_GROUP), HISTORY)

    def _back(self, values: Whole, begin: int, days: int) -> Whole:
        """So many days of all patients: a part of the array, not a copy."""
        return values[begin - self._first :][:days].ravel()

    def _count(self, day: int) -> None:
        """Bring the sums to where they stand before a day."""
        for counted in range(self._counted, day):
            code = self._codes[counted - self._first]
            known = code >= 0
            self._newest = np.where(known, np.int32(counted), self._newest)
            if counted >= self._month:
                steps = np.where(known, code >> 1, 0).astype(np.float64)
                self._sums += known, steps, steps * steps
        self._counted = day


def _with_nulls(values: Whole) -> pa.Array:
    return pa.array(values, mask=values == UNKNOWN)
