"""The kinds of field that a contract is made of, and what a valid value of each is.

Belongs here: one small frozen class per kind; for one value, is it valid and which code does it get.
Does not belong here: tables, requests, SQL. They are derived from these declarations elsewhere.

A kind answers for a single value in `code` and for a whole Arrow column in `codes`. Both give the
same float32 code and the same `Reason`; the property tests hold them together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime
from enum import IntEnum
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Codes = npt.NDArray[np.float32]
Reasons = npt.NDArray[np.uint8]


class Reason(IntEnum):
    """Why a value is not valid. `VALID` is zero, so that an array of reasons reads as a mask."""

    VALID = 0
    MISSING = 1
    WRONG_TYPE = 2
    NOT_FINITE = 3
    NOT_WHOLE = 4
    BELOW_MINIMUM = 5
    ABOVE_MAXIMUM = 6
    UNKNOWN_CATEGORY = 7
    EMPTY = 8
    BEFORE_ADMISSION = 9
    AFTER_ARRIVAL = 10
    PADDED = 11

    @property
    def label(self) -> str:
        """The reason as it stands in tables and messages: `unknown_category`."""
        return self.name.lower()


class InvalidValue(ValueError):
    """One value breaks its field's rule; carries the reason, never the value."""

    def __init__(self, reason: Reason) -> None:
        self.reason = reason
        super().__init__(reason.label)


def is_missing(value: object) -> bool:
    """None, NaN, pandas' NA and NaT: what a data frame may hold where a value should be."""
    if value is None:
        return True
    # NA answers a comparison with NA, NaN and NaT answer with True; arrays cannot be cells.
    return type(value).__name__ in ("NAType", "NaTType") or (
        isinstance(value, float | np.floating) and bool(np.isnan(value))
    )


@dataclass(frozen=True, slots=True)
class Field:
    """What every field has: a name, and a description for people and catalogues."""

    name: str
    description: str
    kind: ClassVar[str] = "field"

    def code(self, value: Any) -> float:
        """The float32-exact code of one valid value. Raises `InvalidValue`."""
        raise InvalidValue(Reason.WRONG_TYPE)

    def codes(self, column: pa.Array) -> tuple[Codes, Reasons]:
        """Codes (float32, n) and reasons (uint8, n) of a typed Arrow column."""
        size = len(column)
        reasons = np.full(size, Reason.WRONG_TYPE, dtype=np.uint8)
        reasons[_nulls(column)] = Reason.MISSING
        return np.full(size, np.nan, dtype=np.float32), reasons

    def rule(self) -> dict[str, Any]:
        """What decides validity and code, for the contract's hash. Wording is left out."""
        return {"name": self.name, "kind": self.kind}


def _nulls(column: pa.Array) -> npt.NDArray[np.bool_]:
    """A mask of the cells that hold nothing."""
    return np.asarray(pc.is_null(column, nan_is_null=pa.types.is_floating(column.type)))


@dataclass(frozen=True, slots=True)
class Whole(Field):
    """A count or a whole number of units, both bounds included."""

    minimum: int
    maximum: int
    unit: str
    phrase: str
    """Plain words with `{value}` in them."""
    monotone: Literal[-1, 0, 1] = 0
    """Whether risk may only rise (1) or only fall (-1) with the value; 0 leaves it free."""
    phrase_one: str | None = None
    """Plain words for exactly one, where the plural would be wrong."""
    kind: ClassVar[str] = "whole"

    def code(self, value: Any) -> float:
        if type(value) is not int:
            value = self._python_int(value)
        if value < self.minimum:
            raise InvalidValue(Reason.BELOW_MINIMUM)
        if value > self.maximum:
            raise InvalidValue(Reason.ABOVE_MAXIMUM)
        return float(value)

    def _python_int(self, value: Any) -> int:
        if is_missing(value):
            raise InvalidValue(Reason.MISSING)
        if isinstance(value, np.integer):
            return int(value)
        if isinstance(value, float | np.floating) and bool(np.isinf(value)):
            raise InvalidValue(Reason.NOT_FINITE)
        raise InvalidValue(Reason.WRONG_TYPE)

    def codes(self, column: pa.Array) -> tuple[Codes, Reasons]:
        if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
            return Field.codes(self, column)
        if column.null_count == 0:
            values = np.asarray(column.cast(pa.float64(), safe=False))
            # What is not a number fails both comparisons.
            if ((values >= self.minimum) & (values <= self.maximum) & (values == np.rint(values))).all():
                return values.astype(np.float32), np.zeros(len(column), dtype=np.uint8)
        missing = _nulls(column)
        values = np.asarray(pc.fill_null(column, 0).cast(pa.float64(), safe=False))
        values = np.where(missing, 0.0, values)
        reasons = np.zeros(len(column), dtype=np.uint8)
        # Later lines win: a cell gets the first reason that `code` would have given.
        reasons[values > self.maximum] = Reason.ABOVE_MAXIMUM
        reasons[values < self.minimum] = Reason.BELOW_MINIMUM
        with np.errstate(invalid="ignore"):
            reasons[values != np.floor(values)] = Reason.NOT_WHOLE
        reasons[np.isinf(values)] = Reason.NOT_FINITE
        reasons[missing] = Reason.MISSING
        return np.where(reasons == 0, values, np.nan).astype(np.float32), reasons

    def rule(self) -> dict[str, Any]:
        return {**Field.rule(self), "minimum": self.minimum, "maximum": self.maximum}

    def decode(self, code: float) -> int:
        """The value that a valid code stands for."""
        return int(code)

    def words(self, value: int) -> str:
        """The value in plain words, as a nurse would read it out."""
        template = self.phrase_one if value == 1 and self.phrase_one else self.phrase
        return template.format(value=value)


@dataclass(frozen=True, slots=True)
class Category(Field):
    """One of a closed list of texts. The position in the list is the code, so the order is law."""

    categories: tuple[str, ...]
    phrases: dict[str, str] = field(default_factory=dict, hash=False, compare=False)
    """Plain words per category."""
    kind: ClassVar[str] = "category"

    def code(self, value: Any) -> float:
        if type(value) is not str:
            raise InvalidValue(Reason.MISSING if is_missing(value) else Reason.WRONG_TYPE)
        try:
            return float(self.categories.index(value))
        except ValueError:
            raise InvalidValue(Reason.UNKNOWN_CATEGORY) from None

    def codes(self, column: pa.Array) -> tuple[Codes, Reasons]:
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            return Field.codes(self, column)
        position = pc.index_in(column, value_set=pa.array(self.categories, type=column.type))
        if position.null_count == 0:
            return np.asarray(position).astype(np.float32), np.zeros(len(column), dtype=np.uint8)
        known = np.asarray(pc.is_valid(position))
        reasons = np.where(known, Reason.VALID, Reason.UNKNOWN_CATEGORY).astype(np.uint8)
        reasons[_nulls(column)] = Reason.MISSING
        codes = np.asarray(pc.fill_null(position, 0)).astype(np.float32)
        codes[~known] = np.nan
        return codes, reasons

    def rule(self) -> dict[str, Any]:
        return {**Field.rule(self), "categories": list(self.categories)}

    def decode(self, code: float) -> str:
        """The value that a valid code stands for."""
        return self.categories[int(code)]

    def words(self, value: str) -> str:
        """The category in plain words, as a nurse would read it out."""
        return self.phrases.get(value, value.replace("_", " "))


@dataclass(frozen=True, slots=True)
class Flag(Field):
    """Yes or no, coded 1 and 0. Nothing but a real boolean is one."""

    phrase_true: str
    phrase_false: str
    kind: ClassVar[str] = "flag"

    def code(self, value: Any) -> float:
        if value is True:
            return 1.0
        if value is False:
            return 0.0
        if isinstance(value, np.bool_):
            return float(value)
        raise InvalidValue(Reason.MISSING if is_missing(value) else Reason.WRONG_TYPE)

    def codes(self, column: pa.Array) -> tuple[Codes, Reasons]:
        if not pa.types.is_boolean(column.type):
            return Field.codes(self, column)
        if column.null_count == 0:
            return np.asarray(column).astype(np.float32), np.zeros(len(column), dtype=np.uint8)
        missing = _nulls(column)
        codes = np.asarray(pc.fill_null(column, False)).astype(np.float32)
        codes[missing] = np.nan
        return codes, np.where(missing, Reason.MISSING, Reason.VALID).astype(np.uint8)

    def decode(self, code: float) -> bool:
        """The value that a valid code stands for."""
        return code == 1.0

    def words(self, value: bool) -> str:
        """The answer in plain words, as a nurse would read it out."""
        return self.phrase_true if value else self.phrase_false


@dataclass(frozen=True, slots=True)
class Identifier(Field):
    """A text that names something; never empty, never padded, never a feature.

    Two texts that differ in a space would be two patients, so neither is guessed to be the other.
    """

    kind: ClassVar[str] = "identifier"

    def code(self, value: Any) -> float:
        if type(value) is not str:
            raise InvalidValue(Reason.MISSING if is_missing(value) else Reason.WRONG_TYPE)
        trimmed = value.strip()
        if not trimmed:
            raise InvalidValue(Reason.EMPTY)
        if trimmed != value:
            raise InvalidValue(Reason.PADDED)
        return 0.0

    def codes(self, column: pa.Array) -> tuple[Codes, Reasons]:
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            return Field.codes(self, column)
        texts = pc.fill_null(column, "")
        trimmed = pc.utf8_trim_whitespace(texts)
        reasons = np.where(np.asarray(pc.equal(texts, trimmed)), Reason.VALID, Reason.PADDED).astype(np.uint8)
        reasons[np.asarray(pc.equal(trimmed, ""))] = Reason.EMPTY
        reasons[_nulls(column)] = Reason.MISSING
        return np.zeros(len(column), dtype=np.float32), reasons


@dataclass(frozen=True, slots=True)
class Moment(Field):
    """A point in time with its zone; a naive time is refused."""

    required: bool = True
    kind: ClassVar[str] = "moment"

    def code(self, value: Any) -> float:
        if is_missing(value):
            if self.required:
                raise InvalidValue(Reason.MISSING)
        elif not (isinstance(value, datetime) and value.tzinfo is not None):
            raise InvalidValue(Reason.WRONG_TYPE)
        return 0.0

    def codes(self, column: pa.Array) -> tuple[Codes, Reasons]:
        timely = pa.types.is_timestamp(column.type) and column.type.tz is not None
        return _uncoded(column, timely, may_be_absent=not self.required)

    def rule(self) -> dict[str, Any]:
        return {**Field.rule(self), "required": self.required}


@dataclass(frozen=True, slots=True)
class Day(Field):
    """A calendar day without a time; may be absent."""

    kind: ClassVar[str] = "day"

    def code(self, value: Any) -> float:
        # A datetime is a date to Python, but a day with a time is not a calendar day.
        if not (is_missing(value) or (isinstance(value, date) and not isinstance(value, datetime))):
            raise InvalidValue(Reason.WRONG_TYPE)
        return 0.0

    def codes(self, column: pa.Array) -> tuple[Codes, Reasons]:
        return _uncoded(column, pa.types.is_date(column.type), may_be_absent=True)


def _uncoded(column: pa.Array, right_type: bool, *, may_be_absent: bool) -> tuple[Codes, Reasons]:
    """The verdict on a column that is only ever checked, never encoded: every valid code is 0."""
    reasons = np.full(len(column), Reason.VALID if right_type else Reason.WRONG_TYPE, dtype=np.uint8)
    reasons[_nulls(column)] = Reason.VALID if may_be_absent else Reason.MISSING
    return np.where(reasons == Reason.VALID, 0.0, np.nan).astype(np.float32), reasons


Feature = Whole | Category | Flag
