"""Cells that share margins, as a network through which people can be exchanged.

Belongs here: which cube's cells add up to which, and the two questions to a network: how much can flow, and
what is the cheapest way. Does not belong here: what flows (`suppression_people.py`), and what is hidden for
it (`suppression_pattern.py`).

A cell is an arc from one of its keys to the other. A margin is an arc through which all of its row flows.
An exchange of people that keeps every margin is then a circulation. Its capacities are whole numbers, so
that the greatest flow, and a vertex of the cheapest flow's linear program, are whole as well.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd

Whole = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]
Arcs = list[dict[int, tuple[int, float]]]
"""Per node the nodes that it has an arc to: how much can go there, and what each costs."""

_ROUTES: dict[str, tuple[int, tuple[str, ...], tuple[str, ...]]] = {
    "primary_diagnosis_group": (0, (), ("primary_diagnosis_group",)),
    "region_diagnosis": (0, ("primary_diagnosis_group",), ("region",)),
    "region": (0, ("region",), ("region", "")),
    "region_insurance": (0, ("region", ""), ("insurance_type",)),
    "insurance_type": (0, ("insurance_type",), ("", "")),
    "age_group": (1, (), ("age_group",)),
    "age_group_sex": (1, ("age_group",), ("sex",)),
    "sex": (1, ("sex",), ("", "")),
    "hospital": (2, (), ("", "")),
}
"""Per cube: the network that its cells belong to, and from which key to which key they lead.

A trailing empty key tells a margin's far end from its near one. Networks meet only in the total, which is
never hidden to protect another cell.
"""

TOTAL = "total"


class Network:
    """The cells as arcs: `component`, `start` and `end` per cell (-1 for the total), int (cells,)."""

    def __init__(self, keys: pd.DataFrame) -> None:
        nodes: list[dict[tuple[str, ...], int]] = [{}, {}, {}]
        self.component = np.full(len(keys), -1)
        self.start, self.end = self.component.copy(), self.component.copy()
        for place, record in enumerate(keys.to_dict("records")):
            cube = record["cube"]
            if cube == TOTAL:
                continue
            component, start, end = _ROUTES[cube]
            known = nodes[component]
            ends = [(*at, *(str(record[name]) for name in at if name)) for at in (start, end)]
            self.start[place], self.end[place] = (known.setdefault(node, len(known)) for node in ends)
            self.component[place] = component
        self.nodes = [len(known) for known in nodes]
        self._terminals = [(known.get((), -1), known.get(("", ""), -1)) for known in nodes]

    def off_balance(self, counts: npt.NDArray[np.float64], total: npt.NDArray[np.float64]) -> bool:
        """Whether any margin differs from the sum of its cells, or a cube from the total."""
        for component, (source, sink) in enumerate(self._terminals):
            of = self.component == component
            kept = np.zeros((self.nodes[component], counts.shape[1]))
            np.add.at(kept, self.end[of], counts[of])
            np.subtract.at(kept, self.start[of], counts[of])
            kept[source] += total
            kept[sink] -= total
            if source < 0 or sink < 0 or kept.any():
                return True
        return False

    def carry(self, target: int, amount: int, forward: Whole, backward: Whole) -> dict[int, int]:
        """How the other cells of the target's network carry an amount that goes through the target.

        Per cell how much goes along its arc, below 0 against it. Less is carried where not all can be.
        `forward` and `backward` are capacities of shape (cells,).
        """
        of = self._others(target, forward, backward)
        if self.nodes[self.component[target]] == 2:
            return _spread(of[backward[of] > 0], amount, backward)
        return self._flow(target, amount, of, forward, backward, np.ones(len(self.component)))

    def reaches(self, target: int, amount: int, forward: Whole, backward: Whole) -> int:
        """How much of an amount that goes through the target can be carried by the others."""
        if self.nodes[self.component[target]] == 2:
            return min(amount, int(backward[self._others(target, forward, backward)].sum()))
        start, carried = self.start[target], 0
        for cell, n in self.carry(target, amount, forward, backward).items():
            carried += n * (int(self.end[cell] == start) - int(self.start[cell] == start))
        return carried

    def cheapest(
        self, target: int, amount: int, forward: Whole, backward: Whole, cost: Values
    ) -> list[int] | None:
        """The cells by which that much more can go through the target, at the least cost per person.

        `None` if there is no such way. `cost` is of shape (cells,), above 0.
        """
        of = self._others(target, forward, backward)
        if self.nodes[self.component[target]] == 2:
            return _cheapest_of(of[backward[of] > 0], amount, backward, cost)
        flow = self._flow(target, amount, of, forward, backward, cost)
        start = self.start[target]
        carried = sum(
            n * (int(self.end[cell] == start) - int(self.start[cell] == start)) for cell, n in flow.items()
        )
        return list(flow) if carried == amount else None

    def _flow(
        self,
        target: int,
        amount: int,
        of: npt.NDArray[np.intp],
        forward: Whole,
        backward: Whole,
        cost: Values,
    ) -> dict[int, int]:
        """The cheapest flow of up to an amount from the target's end to its start, by cell of `of`."""
        arcs: Arcs = [{} for _ in range(self.nodes[self.component[target]])]
        ends = [values[of].tolist() for values in (self.start, self.end)]
        for a, b, along, against, price in zip(
            *ends, *(values[of].tolist() for values in (forward, backward, cost)), strict=True
        ):
            arcs[a][b], arcs[b][a] = (along, price), (against, price)
        flow = _cheapest_flow(arcs, int(self.end[target]), int(self.start[target]), amount)
        return {int(cell): flow[a][b] for cell, a, b in zip(of, *ends, strict=True) if flow[a][b]}

    def _others(self, target: int, forward: Whole, backward: Whole) -> npt.NDArray[np.intp]:
        usable = (self.component == self.component[target]) & ((forward > 0) | (backward > 0))
        usable[target] = False
        return np.flatnonzero(usable)


def _cheapest_flow(arcs: Arcs, source: int, sink: int, amount: int) -> list[dict[int, int]]:
    """The cheapest flow of up to an amount: per pair of nodes what goes from one to the other, or against it.

    By cheapest augmenting paths. A handful of nodes are asked a thousand times, each time for a handful of
    people: a library's solver takes ten times as long to be handed the graph.
    """
    flow = [dict.fromkeys(others, 0) for others in arcs]
    while amount and (path := _cheapest_path(arcs, flow, source, sink)):
        # What goes against an arc is taken back first: that has a price of its own.
        most = min(-flow[a][b] if flow[a][b] < 0 else arcs[a][b][0] - flow[a][b] for a, b in path)
        most = min(most, amount)
        for a, b in path:
            flow[a][b] += most
            flow[b][a] -= most
        amount -= most
    return flow


def _cheapest_path(arcs: Arcs, flow: list[dict[int, int]], source: int, sink: int) -> list[tuple[int, int]]:
    """The arcs of the cheapest way on which something is left (Bellman and Ford); none if there is no way."""
    costs, came_from, line = {source: 0.0}, {source: source}, deque([source])
    while line:
        a = line.popleft()
        so_far, through = costs[a], flow[a]
        for b, (room, price) in arcs[a].items():
            gone = through[b]
            if gone >= room:
                continue
            cost = so_far + (price if gone >= 0 else -price)
            if cost < costs.get(b, math.inf) - 1e-9:
                costs[b], came_from[b] = cost, a
                if b not in line:
                    line.append(b)
    path, node = [], sink
    while node != source:
        if node not in came_from:
            return []
        path.append((came_from[node], node))
        node = came_from[node]
    return path


def _spread(cells: npt.NDArray[np.intp], amount: int, capacity: Whole) -> dict[int, int]:
    """The same where cells lie side by side: each carries back what it can, until the amount is reached."""
    carried = np.minimum(np.cumsum(capacity[cells]), amount)
    shares = np.diff(carried, prepend=0)
    return {int(cells[n]): -int(shares[n]) for n in np.flatnonzero(shares)}


def _cheapest_of(cells: npt.NDArray[np.intp], amount: int, capacity: Whole, cost: Values) -> list[int] | None:
    """The same among cells that lie side by side: the cheapest ones, until they carry enough."""
    ordered = cells[np.argsort(cost[cells], kind="stable")]
    carried = np.cumsum(capacity[ordered])
    if not len(carried) or carried[-1] < amount:
        return None
    return [int(cell) for cell in ordered[: int(np.searchsorted(carried, amount)) + 1]]
