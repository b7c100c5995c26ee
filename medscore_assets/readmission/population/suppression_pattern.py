"""Which columns of which cells are hidden, so that no small count can be worked out.

Belongs here: the search for a proof per small count, and for the cheapest further cells where there is none.
Does not belong here: which counts are sensitive and what is published beside them (`suppression.py`).

The reader is assumed to know every published figure exactly, that counts are whole and not negative, that
every cube adds up to its margins, and how the measures of a cell hang together. Such a reader cannot tell
the true table from another one that agrees with all of that. For each small count two others are found, one
in which it is 1 or less and one in which it is beyond the limit, or cells are hidden until both exist. Each
consists of whole people who are exchanged, so it is a proof; and hiding more cells later keeps it one.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medscore_assets.readmission.population.summary import COUNTS
from medscore_assets.readmission.population.suppression_network import Network, Values, Whole
from medscore_assets.readmission.population.suppression_people import (
    Row,
    Tiers,
    closure,
    exchanges,
    never_negative,
)

NOTHING = -1
"""The exchange that is none."""

MOST_TRIED = 8
"""So many ways to protect a count are compared by their cost; the simplest ones come first."""

_ALL_COLUMNS = (1 << len(COUNTS)) - 1
_BITS = 1 << np.arange(len(COUNTS))


@dataclass(frozen=True)
class Sensitive:
    """A count of people that must not be worked out: a column, or a difference of columns."""

    name: str
    form: Row
    hide: str
    """The column to hide where all columns of the form are shown."""

    @property
    def columns(self) -> int:
        """The columns of the form, as bits."""
        return int(_BITS[self.form[: len(COUNTS)] != 0].sum())


class Pattern:
    """The search over the cells of one quarter; `hidden` is its result, bits by `COUNTS`, int (cells,).

    Cells must be in an order that does not depend on how they were delivered: it settles ties.
    """

    def __init__(
        self,
        sums: npt.NDArray[np.float64],
        network: Network,
        only_invalid: npt.NDArray[np.bool_],
        sensitive: Sequence[Sensitive],
        limit: int,
        tiers: Tiers | None,
    ) -> None:
        """`sums` (cells, COLUMNS); `only_invalid` (cells,): cells in which nobody can be scored."""
        self._sums, self._network, self._sensitive, self._limit = sums, network, sensitive, limit
        self._total = int(np.flatnonzero(network.component < 0)[0])
        self.hidden = np.zeros(len(sums), dtype=np.int64)
        forms, names = np.array([s.form for s in sensitive]), [s.name for s in sensitive]
        self._exchanges = exchanges(tiers)
        touched = self._exchanges[:, : len(COUNTS)] != 0
        self._needs = touched @ _BITS
        self._closed = np.array([functools.reduce(lambda a, b: a | b, _closures(n), 0) for n in self._needs])
        self._changes = np.rint(self._exchanges @ forms.T).astype(np.int64)
        bounds = np.concatenate([forms, never_negative(tiers)])
        self._slopes, self._spare = self._exchanges @ bounds.T, sums @ bounds.T
        self._spare[:, names.index("members")] -= 1.0  # A cell without members would not be listed.
        self._capacity = _capacities(self._slopes, self._spare)
        self._only_invalid = only_invalid
        scores_more = self._exchanges[:, COUNTS.index("members_scored")] > 0
        self._capacity[np.ix_(scores_more, only_invalid)] = 0
        places = {tuple(change): n for n, change in enumerate(self._exchanges)}
        self._reverse = np.array([places[tuple(-change + 0.0)] for change in self._exchanges])
        self._values = np.rint(sums @ forms.T).astype(np.int64)
        # A last place for the exchange that is none.
        self._needs, self._closed = np.append(self._needs, 0), np.append(self._closed, 0)
        self._carrier = np.arange(len(self._exchanges))
        self._side_by_side: dict[int, int] = {}
        self._given_up: set[tuple[int, bool]] = set()

    def search(self) -> None:
        """Hide what must be hidden. Nothing is hidden where no count is small."""
        small = (self._values >= 1) & (self._values <= self._limit)
        for number in np.flatnonzero(small[self._total]):
            self._protect_everywhere(int(number))
        self._carrier = self._carriers()
        for cell, number in zip(*np.nonzero(small), strict=True):
            self._hide_directly(int(cell), self._sensitive[number])
        for cell, number in zip(*np.nonzero(small), strict=True):
            if cell != self._total:
                for ways in self._ways(int(self._values[cell, number])):
                    self._protect(int(cell), int(number), ways)

    def _hide_directly(self, cell: int, sensitive: Sensitive) -> None:
        if not self.hidden[cell] & sensitive.columns:
            self._hide([cell], closure(sensitive.hide))

    def _hide(self, cells: Sequence[int] | slice, columns: int) -> None:
        self.hidden[cells] |= columns
        self._side_by_side.clear()

    def _ways(self, value: int) -> Iterator[list[tuple[int, int]]]:
        """Per thing to show, the ways to do it, each a direction and by how many people.

        The count may be above the limit; and it may be 1 or less, or the interval is as wide by its end.
        """
        yield [(1, self._limit + 1 - value)]
        if value > 1:
            yield [(-1, value - 1), (1, self._limit)]

    def _protect_everywhere(self, number: int) -> None:
        """The grand total of a count is itself small: no cube may show the column.

        Then people can be told to be of another kind, in all cubes alike, and no figure changes.
        """
        self._hide_directly(self._total, self._sensitive[number])
        for ways in self._ways(int(self._values[self._total, number])):
            options = [
                (_count(self._closed[e] & ~self.hidden[self._total]), int(e))
                for direction, amount in ways
                for e in np.flatnonzero(
                    (self._changes[:, number] == direction) & (self._capacity[:, self._total] >= amount)
                )
            ]
            columns = self._closed[min(options)[1]] if options else _ALL_COLUMNS
            self._hide(slice(None), int(columns | self.hidden[self._total]))

    def _protect(self, cell: int, number: int, ways: list[tuple[int, int]]) -> None:
        if (
            (int(self._network.component[cell]), self._of_members(number)) in self._given_up
            or any(self._possible(cell, e, n) for n, e in self._candidates(cell, number, ways))
            or any(self._mixed(cell, number, way, hiding=False) is not None for way in ways)
        ):
            return
        found = self._cheapest(cell, number, ways)
        if found is None:
            mixtures = (self._mixed(cell, number, way, hiding=True) for way in ways)
            found = next((mixture for mixture in mixtures if mixture is not None), None)
        if found is None:
            self._give_up(cell, number)
        else:
            self.hidden |= found
            self._side_by_side.clear()

    def _cheapest(self, cell: int, number: int, ways: list[tuple[int, int]]) -> Whole | None:
        """What to hide so that one kind of exchange is possible: that at the least cost, of the simplest."""
        best: tuple[float, Whole] | None = None
        tried: list[int] = []
        for amount, exchange in self._candidates(cell, number, ways, hiding=True):
            extra = _count(self._closed[exchange] & ~self.hidden[cell])
            if len(tried) >= MOST_TRIED or (best is not None and extra > max(tried)):
                break
            step = self._step(cell, exchange, amount, self._spare, self.hidden)
            if step is not None and step[0] == amount:
                tried.append(extra)
                if best is None or step[1] < best[0]:
                    best = step[1], step[2]
        return None if best is None else best[1]

    def _step(
        self, cell: int, exchange: int, amount: int, spare: Values, hidden: Whole
    ) -> tuple[int, float, Whole] | None:
        """How much of the amount one kind of exchange can bring, at what cost, and what it adds to hide.

        `None` if nothing.
        """
        carrier = int(self._carrier[exchange])
        if not self._needs[carrier] or not self._capacity_of(exchange, spare, cell):
            return None
        forward, backward = self._carried(carrier, amount, spare)
        most = min(
            int(self._capacity_of(exchange, spare, cell)),
            self._network.reaches(cell, amount, forward, backward),
        )
        cost = self._costs(carrier, hidden)
        found = self._network.cheapest(cell, most, forward, backward, cost) if most else None
        if found is None:
            return None
        more = np.zeros_like(hidden)
        more[found] = self._closed[carrier]
        more[cell] = self._closed[exchange]
        return most, float(cost[[cell, *found]].sum()), more

    def _mixed(self, cell: int, number: int, way: tuple[int, int], *, hiding: bool) -> Whole | None:
        """Exchanges of several kinds, one after the other: what is to be hidden for them.

        `None` if they do not come to what is wanted. Nothing is to be hidden unless `hiding`.
        """
        direction, rest = way
        spare, hidden = self._spare.copy(), self.hidden.copy()
        for _, exchange in self._candidates(cell, number, [(direction, 1)], hiding=hiding):
            if self._carrier[exchange] != exchange:
                continue
            if hiding:
                step = self._step(cell, exchange, rest, spare, hidden)
                if step is None:
                    continue
                hidden |= step[2]
            amount = min(rest, int(self._capacity_of(exchange, spare, cell)))
            forward, backward = self._carried(exchange, amount, spare)
            taking_part = (self._needs[exchange] & ~hidden) == 0
            forward, backward = forward * taking_part, backward * taking_part
            brought = self._network.reaches(cell, amount, forward, backward) if amount else 0
            if brought:
                carried = self._network.carry(cell, brought, forward, backward)
                for other, n in {**carried, cell: brought}.items():
                    spare[other] += n * self._slopes[exchange]
                rest -= brought
            if not rest:
                return hidden
        for _, exchange in self._candidates(cell, number, [(direction, 1)]):
            if rest and not self._needs[self._carrier[exchange]]:
                told = min(rest, int(self._capacity_of(exchange, spare, cell)))
                spare[cell] += told * self._slopes[exchange]
                rest -= told
        return None if rest else hidden

    def _give_up(self, cell: int, number: int) -> None:
        """Hide all cells of a network, but for their members if those are not what is small.

        Then anybody of the total may be of any of its cells, or any of their members of any kind.
        """
        component = int(self._network.component[cell])
        members = self._of_members(number)
        cells = np.flatnonzero(self._network.component == component)
        self._hide([int(c) for c in cells], _ALL_COLUMNS & ~(0 if members else 1))
        self._given_up |= {(component, False), (component, members)}

    def _of_members(self, number: int) -> bool:
        return self._sensitive[number].hide == "members"

    def _candidates(
        self, cell: int, number: int, ways: list[tuple[int, int]], hiding: bool = False
    ) -> Iterator[tuple[int, int]]:
        """How many people, and which exchange: those that the cell can take part in, the simplest first.

        Without `hiding`, those only for which it need not hide more.
        """
        missing = self._closed[: len(self._exchanges)] & ~self.hidden[cell]
        found = []
        for direction, amount in ways:
            able = (self._changes[:, number] == direction) & (self._capacity[:, cell] >= amount)
            if not hiding:
                able &= (self._needs[: len(self._exchanges)] & ~self.hidden[cell]) == 0
            found += [(_count(missing[e]), int(e), amount) for e in np.flatnonzero(able)]
        for _, exchange, amount in sorted(found):
            yield amount, exchange

    def _possible(self, cell: int, exchange: int, amount: int) -> bool:
        """Whether the cell can take part that often without any published figure changing."""
        carrier = int(self._carrier[exchange])
        needs = self._needs[carrier]
        if not needs:
            return True  # All of it is hidden everywhere: people are told to be of another kind.
        component = self._network.component[cell]
        if self._network.nodes[component] == 2:
            return self._beside(carrier, cell, component) >= amount
        taking_part = (needs & ~self.hidden) == 0
        forward, backward = (
            np.minimum(capacity, amount) * taking_part
            for capacity in (self._capacity[carrier], self._capacity[self._reverse[carrier]])
        )
        return self._network.reaches(cell, amount, forward, backward) >= amount

    def _beside(self, exchange: int, cell: int, component: int) -> int:
        """What all other cells of a network without inner margins can give."""
        given = self._capacity[self._reverse[exchange]]
        taking_part = (self._needs[exchange] & ~self.hidden) == 0
        if exchange not in self._side_by_side:
            among = taking_part & (self._network.component == component)
            self._side_by_side[exchange] = int(given[among].sum())
        return self._side_by_side[exchange] - int(given[cell] * taking_part[cell])

    def _carriers(self) -> Whole:
        """Per exchange the simplest that differs from it only in columns that are hidden everywhere.

        The other cells need only balance that one: the rest is what people of the cell are told to be.
        """
        shown = ~int(self.hidden[self._total])
        columns = self._exchanges.copy()
        columns[:, : len(COUNTS)] *= (shown & _BITS) != 0
        if self.hidden[self._total] & _BITS[COUNTS.index("index_discharges_scored")]:
            columns[:, len(COUNTS)] = 0.0
        if self.hidden[self._total] & _BITS[COUNTS.index("matured")]:
            columns[:, len(COUNTS) + 1] = 0.0
        simplest: dict[tuple[float, ...], int] = {(0.0,) * columns.shape[1]: NOTHING}
        keys = [tuple(line + 0.0) for line in columns]
        return np.array([simplest.setdefault(key, number) for number, key in enumerate(keys)])

    def _capacity_of(self, exchange: int, spare: Values, cells: int | slice = slice(None)) -> Any:
        """How often the exchange can happen to each cell until it has nothing to spare."""
        if spare is self._spare:
            return self._capacity[exchange, cells]
        capacity = _capacities(self._slopes[exchange : exchange + 1], spare)[0]
        if self._exchanges[exchange, COUNTS.index("members_scored")] > 0:
            capacity[self._only_invalid] = 0
        return capacity[cells]

    def _carried(self, exchange: int, amount: int, spare: Values) -> tuple[Whole, Whole]:
        """What each cell can carry of an exchange along its arc and against, up to the amount."""
        along, against = (self._capacity_of(e, spare) for e in (exchange, int(self._reverse[exchange])))
        return np.minimum(along, amount), np.minimum(against, amount)

    def _costs(self, exchange: int, hidden: Whole) -> Values:
        """Per cell the people in the columns that it would have to hide; ties go by the cells' order."""
        shown = ((self._closed[exchange] & ~hidden)[:, np.newaxis] & _BITS) != 0
        people: Values = (shown * (self._sums[:, : len(COUNTS)] + 1.0)).sum(axis=1)
        return people + 0.01 * (1.0 + np.arange(len(people)) / len(people))


def _count(columns: Any) -> int:
    return int(columns).bit_count()


def _closures(columns: int) -> Iterator[int]:
    return (closure(name) for n, name in enumerate(COUNTS) if columns >> n & 1)


def _capacities(slopes: npt.NDArray[np.float64], spare: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """How often each exchange can happen to each cell until it has nothing to spare, (exchanges, cells).

    `slopes` (exchanges, bounds) and `spare` (cells, bounds).
    """
    capacity = np.full((len(slopes), len(spare)), 1 << 20, dtype=np.int64)
    for number, slope in enumerate(slopes):
        down = np.flatnonzero(slope < -1e-12)
        if len(down):
            most = np.floor(spare[:, down] / -slope[down] + 1e-9).min(axis=1)
            capacity[number] = np.clip(most, 0, 1 << 20)
    return capacity
