"""Cells that share margins, as a network through which people can be exchanged.

Belongs here: which cube's cells add up to which, and the two questions to a network: how much can flow, and
what is the cheapest way. Does not belong here: what flows (`suppression_people.py`), and what is hidden for
it (`suppression_pattern.py`).

A cell is an arc from one of its keys to the other. A margin is an arc through which all of its row flows.
An exchange of people that keeps every margin is then a circulation. Its capacities are whole numbers, so
that the greatest flow, and a vertex of the cheapest flow's linear program, are whole as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd

Whole = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]

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
        if not len(of):
            return {}
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import maximum_flow

        size = self.nodes[self.component[target]] + 1
        graph = np.zeros((size, size), dtype=np.int32)
        graph[self.start[of], self.end[of]] = forward[of]
        graph[self.end[of], self.start[of]] = backward[of]
        graph[size - 1, self.end[target]] = amount
        flow = maximum_flow(csr_array(graph), size - 1, int(self.start[target])).flow
        through = np.asarray(flow[self.start[of], self.end[of]]).ravel()
        return {int(cell): int(n) for cell, n in zip(of, through, strict=True) if n}

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
        from scipy.optimize import linprog

        size, arcs = self.nodes[self.component[target]], len(of)
        balance = np.zeros((size, 2 * arcs))
        for offset, sign in ((0, 1.0), (arcs, -1.0)):
            balance[self.end[of], offset + np.arange(arcs)] += sign
            balance[self.start[of], offset + np.arange(arcs)] -= sign
        wanted = np.zeros(size)
        wanted[self.end[target]] -= amount
        wanted[self.start[target]] += amount
        most = np.concatenate([forward[of], backward[of]])
        bounds = np.stack([np.zeros(2 * arcs), most], axis=1)
        if not arcs:
            return None
        found = linprog(np.tile(cost[of], 2), A_eq=balance, b_eq=wanted, bounds=bounds, method="highs-ds")
        if found.x is None:
            return None
        return [int(cell) for cell in of[found.x[:arcs] + found.x[arcs:] > 0.5]]

    def _others(self, target: int, forward: Whole, backward: Whole) -> npt.NDArray[np.intp]:
        usable = (self.component == self.component[target]) & ((forward > 0) | (backward > 0))
        usable[target] = False
        return np.flatnonzero(usable)


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
