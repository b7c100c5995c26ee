"""The calendar quarter that a population report is about.

Belongs here: `Quarter`, its name as people and tables write it, its days.
Does not belong here: Dagster's partitions (`partitions.py`) and the zone in which a quarter begins.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Self

from resources.errors import PermanentError

_KEY = re.compile(r"((?:19|2\d)\d{2})-Q([1-4])", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Quarter:
    """A quarter of a year: `number` is 1 to 4. Quarters are ordered by time."""

    year: int
    number: int

    def __post_init__(self) -> None:
        if not (1900 <= self.year <= 2999 and 1 <= self.number <= 4):
            raise _not_a_quarter()

    @classmethod
    def parse(cls, key: str) -> Self:
        """The quarter of a text such as `2026-Q3`. Raises `PermanentError` for any other text."""
        match = _KEY.fullmatch(key)
        if match is None:
            raise _not_a_quarter()
        return cls(int(match[1]), int(match[2]))

    @classmethod
    def of(cls, day: date) -> Self:
        """The quarter that a day lies in."""
        return cls(day.year, (day.month + 2) // 3)

    @property
    def key(self) -> str:
        """As it stands in tables, on pages and in commands: `2026-Q3`."""
        return f"{self.year}-Q{self.number}"

    @property
    def first_day(self) -> date:
        """The first day of January, April, July or October."""
        return date(self.year, 3 * self.number - 2, 1)

    @property
    def last_day(self) -> date:
        """The last day that belongs to it."""
        following = date(self.year + self.number // 4, 3 * self.number % 12 + 1, 1)
        return following - timedelta(days=1)

    @property
    def previous(self) -> Self:
        """The quarter before."""
        return type(self).of(self.first_day - timedelta(days=1))

    def __str__(self) -> str:
        return self.key


def _not_a_quarter() -> PermanentError:
    return PermanentError(
        "this is not a quarter", where="quarter", mend="Write it as year and number, such as 2026-Q3."
    )
