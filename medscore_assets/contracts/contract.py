"""The contract: which fields a row has, what is valid, and how a valid row is encoded.

Belongs here: `Contract`, its hash, its two encoders (one row, a whole table) and their errors.
Does not belong here: any particular contract (see `readmission.py`), and the forms that other tools
want (`schemas.py` for pandera, pydantic and MLflow; `tables.py` and `catalog.py` outside).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from medscore_assets.contracts.fields import (
    Codes,
    Feature,
    Field,
    InvalidValue,
    Reason,
    Reasons,
    Whole,
)
from resources.errors import ContractViolation

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Problem:
    """One broken rule: which row of the table (0 for a single row), which field, why."""

    row: int
    field: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class Checked:
    """The verdict on a table's cells.

    `reasons` is uint8 of shape (rows, fields), zero where the cell is valid.
    """

    fields: tuple[str, ...]
    reasons: Reasons

    @property
    def valid(self) -> npt.NDArray[np.bool_]:
        """A mask (rows,) of the rows in which every cell is valid."""
        return np.asarray(~self.reasons.any(axis=1))

    def problems(self) -> Iterator[Problem]:
        """Every broken rule, by row and then in the contract's order."""
        for row, column in np.argwhere(self.reasons):
            yield Problem(int(row), self.fields[column], Reason(self.reasons[row, column]))

    def counts(self) -> dict[str, int]:
        """How often each rule is broken: `{"insurance_type: missing": 3}`. Holds no value."""
        return dict(Counter(f"{p.field}: {p.reason.label}" for p in self.problems()))


@dataclass(frozen=True, slots=True)
class Encoded(Checked):
    """A checked table with its codes: `matrix` is float32 (rows, features), NaN where invalid."""

    matrix: Matrix

    def require_valid(self, where: str) -> Matrix:
        """The matrix, or `ContractViolation` naming fields, reasons and counts if a cell is invalid."""
        if self.reasons.any():
            counts = ", ".join(f"{what} x{n}" for what, n in sorted(self.counts().items()))
            raise ContractViolation(
                f"{int((~self.valid).sum())} of {len(self.matrix)} rows break the contract: {counts}",
                where=where,
                mend="Correct the source or quarantine these rows before encoding.",
            )
        return self.matrix


@dataclass(frozen=True)
class Contract:
    """An ordered set of features with the context fields that go with them.

    `context` says who, when and whether eligible; it is never encoded. `features` in their order are
    the model's columns. Two contracts with the same `hash` accept and encode alike.
    """

    name: str
    context: tuple[Field, ...]
    features: tuple[Feature, ...]

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """The model's columns, in order."""
        return tuple(f.name for f in self.features)

    @cached_property
    def fields(self) -> dict[str, Field]:
        """Every field by name, context first."""
        return {f.name: f for f in (*self.context, *self.features)}

    @cached_property
    def hash(self) -> str:
        """SHA-256 of all that decides validity and codes; wording does not change it."""
        rules = {
            "name": self.name,
            "context": [f.rule() for f in self.context],
            "features": [f.rule() for f in self.features],
        }
        return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()

    @cached_property
    def monotone_constraints(self) -> tuple[int, ...]:
        """Per feature: 1 where risk may only rise with the value, else 0. Never on a category."""
        return tuple(f.monotone if isinstance(f, Whole) else 0 for f in self.features)

    def encode_row(self, row: Mapping[str, Any]) -> Matrix:
        """Codes of one row of Python values as float32 of shape (1, features).

        Keys beyond the features are ignored here; the request model forbids them.
        Raises `ContractViolation` naming each broken field and reason.
        """
        codes, broken = [], []
        for feature in self.features:
            try:
                codes.append(feature.code(row.get(feature.name)))
            except InvalidValue as invalid:
                broken.append(f"{feature.name}: {invalid.reason.label}")
        if broken:
            raise ContractViolation(
                f"the row breaks the contract: {', '.join(broken)}",
                where=f"contract {self.name}",
                mend="Send values that the contract lists.",
            )
        return np.array([codes], dtype=np.float32)

    def encode(self, table: Any) -> Encoded:
        """Codes of a whole pyarrow Table or pandas DataFrame. Rows that break a rule are marked."""
        codes, reasons = self._read(table, self.features)
        return Encoded(self.feature_names, reasons, codes)

    def check_context(self, table: Any) -> Checked:
        """The verdict on the context fields alone, before anybody asks who is eligible."""
        _, reasons = self._read(table, self.context)
        return Checked(tuple(f.name for f in self.context), reasons)

    def _read(self, table: Any, fields: Sequence[Field]) -> tuple[Matrix, Reasons]:
        names = Counter(table.column_names if isinstance(table, pa.Table) else table.columns)
        for fault, found in (
            ("lacks the columns", [f.name for f in fields if f.name not in names]),
            ("repeats the columns", [f.name for f in fields if names[f.name] > 1]),
        ):
            if found:
                raise ContractViolation(
                    f"the table {fault} {', '.join(found)}",
                    where=f"contract {self.name}",
                    mend="Select every field of the contract once, by its name.",
                )
        matrix = np.empty((len(table), len(fields)), dtype=np.float32)
        reasons = np.empty((len(table), len(fields)), dtype=np.uint8)
        for position, field in enumerate(fields):
            matrix[:, position], reasons[:, position] = _column_codes(field, table[field.name])
        return matrix, reasons


def _column_codes(field: Field, column: Any) -> tuple[Codes, Reasons]:
    """One column by its field; typed columns at once, columns of mixed objects cell by cell."""
    if isinstance(column, pa.ChunkedArray):
        return field.codes(column.combine_chunks() if column.num_chunks != 1 else column.chunk(0))
    if column.dtype != object:
        try:
            return field.codes(pa.Array.from_pandas(column))
        except pa.ArrowException:
            # A kind of column that Arrow does not know (sparse, complex) still has cells.
            pass
    return _cell_codes(field, column)


def _cell_codes(field: Field, cells: Iterable[Any]) -> tuple[Codes, Reasons]:
    codes, reasons = [], []
    for cell in cells:
        try:
            codes.append(field.code(cell))
            reasons.append(Reason.VALID)
        except InvalidValue as invalid:
            codes.append(np.nan)
            reasons.append(invalid.reason)
    return np.array(codes, dtype=np.float32), np.array(reasons, dtype=np.uint8)
