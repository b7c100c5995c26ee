"""Features of a time series by day: what one declaration says, and what a set of them promises.

Belongs here: `Measure`, `Window`, `FeatureTable`, its hash, its Arrow and pandera schemas and their
errors. Does not belong here: any particular set (see `mobility.py`), and how a value is computed.

A row is one patient and day. It says what was known strictly before the day began; only a `Window` of
the day's own date may look at the day itself, because the calendar is known in advance.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from resources.errors import ContractViolation

if TYPE_CHECKING:
    from pandera.pandas import Column, DataFrameSchema

Kind = Literal["number", "whole", "flag", "category", "label"]

ARROW_TYPES: dict[str, pa.DataType] = {
    "number": pa.float64(),
    "whole": pa.int32(),
    "flag": pa.bool_(),
    "category": pa.string(),
    "label": pa.string(),
}


@dataclass(frozen=True, slots=True)
class Window:
    """Which days a value looks at, counted back from the row's day and both ends included.

    `Window(7, 1)` is the seven calendar days before the day, whether or not they hold data;
    `Window(None, 1)` is everything before the day; `Window(0, 0)` is the date of the day itself.
    """

    oldest: int | None
    newest: int

    @property
    def words(self) -> str:
        """The window as it stands in the dictionary of features."""
        if self.oldest is None:
            return "all days before the day"
        if self.oldest == self.newest:
            return f"day -{self.oldest}" if self.oldest else "the date of the day"
        return f"days -{self.oldest} to -{self.newest}"


@dataclass(frozen=True, slots=True)
class Measure:
    """One feature: its name, what it means, from which source and days it is computed, what is valid.

    `statistic` names the formula, which `window` completes. Bounds are included; a category has a closed
    list, a label is any text. An absent value is null, never NaN.
    """

    name: str
    description: str
    unit: str
    source: str
    statistic: str
    window: Window
    kind: Kind = "number"
    nullable: bool = False
    minimum: float | None = None
    maximum: float | None = None
    categories: tuple[str, ...] = ()

    @property
    def arrow_type(self) -> pa.DataType:
        """The type of the column in Arrow and Parquet."""
        return ARROW_TYPES[self.kind]

    def rule(self) -> dict[str, Any]:
        """What decides the value and its validity, for the hash. Wording is left out."""
        return {
            "name": self.name,
            "unit": self.unit,
            "source": self.source,
            "statistic": self.statistic,
            "window": [self.window.oldest, self.window.newest],
            "kind": self.kind,
            "nullable": self.nullable,
            "bounds": [self.minimum, self.maximum],
            "categories": list(self.categories),
        }


@dataclass(frozen=True)
class FeatureTable:
    """An ordered set of measures per patient and day. Equal hashes mean equal columns and formulas.

    `rules` are the constants that the formulas share (what a wear day is, how far back data counts).
    `revision` is raised when a formula changes although its declaration does not.
    """

    name: str
    revision: int
    rules: tuple[tuple[str, int], ...]
    features: tuple[Measure, ...]

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """The features' columns, in order."""
        return tuple(f.name for f in self.features)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Every column of the table: the key and the features."""
        return (*KEY, *self.feature_names)

    @cached_property
    def by_name(self) -> dict[str, Measure]:
        """Every feature by its name."""
        return {f.name: f for f in self.features}

    @cached_property
    def hash(self) -> str:
        """SHA-256 of all that decides the values and their validity; wording does not change it."""
        rules = {
            "name": self.name,
            "revision": self.revision,
            "rules": dict(self.rules),
            "features": [f.rule() for f in self.features],
        }
        return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()

    @cached_property
    def schema(self) -> pa.Schema:
        """The Arrow schema of the table, with the hash in its metadata."""
        key = [pa.field(name, kind, nullable=False) for name, kind in KEY.items()]
        features = [pa.field(f.name, f.arrow_type, nullable=f.nullable) for f in self.features]
        return pa.schema([*key, *features], metadata={"contract": self.name, "contract_hash": self.hash})

    def conform(self, table: pa.Table, *, where: str) -> pa.Table:
        """The table with this contract's columns, order and types.

        Engines differ in the widths of whole numbers and texts; a value that the narrower type cannot
        hold, a NaN in place of a null, and an absent column raise `ContractViolation`.
        """
        absent = [name for name in self.columns if name not in table.column_names]
        if absent:
            raise ContractViolation(
                f"the table lacks the columns {', '.join(absent)}",
                where=where,
                mend="Compute the features anew with this version.",
            )
        columns = []
        for field in self.schema:
            try:
                columns.append(table[field.name].cast(field.type))
            except pa.ArrowInvalid:
                raise ContractViolation(
                    f"the column {field.name} holds values that are no {field.type}",
                    where=where,
                    mend="Correct the daily or clinical rows that it is computed from.",
                ) from None
        return pa.table(columns, schema=self.schema)

    def require(self, table: pa.Table, *, where: str) -> None:
        """Validates a table by `pandera_schema`; raises `ContractViolation` with columns, checks, counts.

        pandera's error quotes the values that failed, so it is neither shown nor chained. It is not asked
        where one look at each column tells that all is well: that takes a twentieth of the time.
        """
        if self.surely_holds(table):
            return
        import pandas as pd
        from pandera.errors import SchemaErrors

        frame = table.to_pandas(types_mapper=pd.ArrowDtype)
        try:
            self.pandera_schema.validate(frame, lazy=True)
            return
        except SchemaErrors as errors:
            cases = errors.failure_cases
        known = set(self.columns)
        broken = Counter(
            f"{case.column if case.column in known else _named(case.failure_case, known)}: {case.check}"
            for case in cases.itertuples()
        )
        counts = ", ".join(f"{what} x{n}" for what, n in sorted(broken.items()))
        raise ContractViolation(
            f"the table breaks the schema of {self.name}: {counts}",
            where=where,
            mend="Correct the daily or clinical rows that it is computed from.",
        )

    def surely_holds(self, table: pa.Table) -> bool:
        """Whether every rule of `pandera_schema` holds, where that is told quickly.

        False for a table that breaks one, and for one whose rows are not in order of day and patient: only
        in order are keys that occur twice beside each other.
        """
        return (
            table.schema.equals(self.schema)
            and not any(table[name].null_count for name in KEY)
            and _ascending(table)
            and all(_holds(feature, table[feature.name]) for feature in self.features)
        )

    @cached_property
    def pandera_schema(self) -> DataFrameSchema:
        """The pandera schema of a pandas frame with Arrow types: exactly these columns, in this order."""
        import pandas as pd
        import pandera.pandas as pandera

        key = {name: pandera.Column(pd.ArrowDtype(kind), nullable=False) for name, kind in KEY.items()}
        return pandera.DataFrameSchema(
            {**key, **{f.name: _pandera_column(f) for f in self.features}},
            name=self.name,
            strict=True,
            ordered=True,
            unique=list(KEY),
            unique_column_names=True,
            description=f"Contract {self.hash}",
        )


KEY: dict[str, pa.DataType] = {"patient_id": pa.string(), "day": pa.date32()}
"""The columns that name a row."""


def _ascending(table: pa.Table) -> bool:
    """Whether rows are in order of day and patient, and none has the key of the one before."""
    days = table["day"].combine_chunks().cast(pa.int32()).to_numpy(zero_copy_only=False)
    steps, patients = np.diff(days), table["patient_id"].combine_chunks()
    risen = pc.less(patients[:-1], patients[1:]).to_numpy(zero_copy_only=False)
    return bool(((steps > 0) | ((steps == 0) & risen)).all())


def _holds(feature: Measure, values: pa.ChunkedArray) -> bool:
    if values.null_count and not feature.nullable:
        return False
    if feature.kind == "number" and pc.any(pc.is_nan(values)).as_py():
        return False
    if (
        feature.categories
        and pc.all(pc.is_in(values.drop_null(), pa.array(feature.categories))).as_py() is False
    ):
        return False
    if feature.minimum is None and feature.maximum is None:
        return True
    least, most = pc.min_max(values).as_py().values()
    if least is None:
        return True
    return (feature.minimum is None or least >= feature.minimum) and (
        feature.maximum is None or most <= feature.maximum
    )


def _pandera_column(feature: Measure) -> Column:
    import pandas as pd
    from pandera.pandas import Check, Column

    checks = []
    if feature.minimum is not None:
        checks.append(Check.ge(feature.minimum, error="at_least_minimum"))
    if feature.maximum is not None:
        checks.append(Check.le(feature.maximum, error="at_most_maximum"))
    if feature.categories:
        checks.append(Check.isin(feature.categories, error="is_known_category"))
    if feature.kind == "number":
        # NaN passes every comparison as absent, but Parquet keeps it apart from null.
        checks.append(Check(lambda column: column == column, name="is_not_nan", error="is_not_nan"))
    return Column(
        pd.ArrowDtype(feature.arrow_type),
        checks=checks,
        nullable=feature.nullable,
        description=feature.description,
    )


def _named(failure: object, known: set[str]) -> str:
    """The column that a fault of the whole frame is about, if it names one of ours."""
    return str(failure) if failure in known else "frame"
