"""Small quarters from people, and a reader who tries to work out hidden counts with a solver.

Nothing here is shared with what is attacked, except the names of cubes and figures.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array, csr_array

from medscore_assets.readmission.population.dimensions import ALL, CUBES, DIMENSIONS
from medscore_assets.readmission.population.partial import RISK_UNITS
from medscore_assets.readmission.population.summary import COUNTS, figures

EDGES = 0.4, 0.6
AMOUNTS = ("expected_readmissions", "expected_matured")
VARIABLES = (*COUNTS, *AMOUNTS)

MOST = 10_000.0
"""More people than any of these quarters has: keeps what is open at one end finite for the solver."""

PEOPLE: dict[str, dict[str, int]] = {
    "members": {"members": 1},
    "scored": {"members_scored": 1},
    "invalid": {"members_invalid": 1},
    "discharges": {"index_discharges": 1},
    "scored discharges": {"index_discharges_scored": 1},
    "not scored discharges": {"index_discharges": 1, "index_discharges_scored": -1},
    "without discharge": {"members": 1, "index_discharges": -1},
    "scored without discharge": {"members_scored": 1, "index_discharges_scored": -1},
    "invalid without discharge": {
        "members_invalid": 1,
        "index_discharges": -1,
        "index_discharges_scored": 1,
    },
    "high": {"high_risk": 1},
    "not high": {"index_discharges_scored": 1, "high_risk": -1},
    "very high": {"very_high_risk": 1},
    "not very high": {"index_discharges_scored": 1, "very_high_risk": -1},
    "only high": {"high_risk": 1, "very_high_risk": -1},
    "matured": {"matured": 1},
    "not matured": {"index_discharges_scored": 1, "matured": -1},
    "readmitted": {"observed_readmissions": 1},
    "not readmitted": {"matured": 1, "observed_readmissions": -1},
}
"""Counts of people of 1 to 10 that nobody may learn, as sums of columns."""


def quarter(
    seed: int, people: int, sizes: dict[str, int], uneven: float = 1.0, clean: bool = False
) -> pd.DataFrame:
    """The unsuppressed cells of random people; `sizes` are members per dimension, the last rarest.

    Unless `clean`, up to nearly all of them may be invalid.
    """
    r = np.random.default_rng(seed)
    keys = {}
    for name in DIMENSIONS:
        weights = 1.0 / np.arange(1, sizes[name] + 1) ** uneven
        keys[name] = r.choice(sizes[name], people, p=weights / weights.sum())
    frame = pd.DataFrame({name: [f"{name[0]}{code}" for code in codes] for name, codes in keys.items()})
    invalid, open_outcomes = r.choice([0.02, 0.1, 0.5, 0.95]), r.choice([0.0, 0.3])
    scored, discharged = r.random(people) >= (0.1 if clean else invalid), r.random(people) < 0.4
    index = scored & discharged
    matured = index & (r.random(people) >= open_outcomes)
    risk = np.rint(r.beta(2, 5, people) * RISK_UNITS)
    probability = risk / RISK_UNITS
    sums = {
        "members": np.ones(people),
        "members_scored": scored,
        "index_discharges": discharged,
        "index_discharges_scored": index,
        "high_risk": index & (probability > EDGES[0]),
        "very_high_risk": index & (probability > EDGES[1]),
        "matured": matured,
        "observed_readmissions": matured & (r.random(people) < probability),
        "risk": risk * index,
        "risk_squared": np.rint(probability * risk) * index,
        "risk_matured": risk * matured,
        "member_risk": risk * scored,
    }
    return cells(frame, pd.DataFrame({name: np.asarray(v).astype(np.int64) for name, v in sums.items()}))


def cells(keys: pd.DataFrame, sums: pd.DataFrame) -> pd.DataFrame:
    """Every cube of people with these keys, a row per person in both frames."""
    found = []
    for cube, dimensions in CUBES.items():
        by = [keys[d] for d in dimensions] or [pd.Series(ALL, keys.index)]
        grouped = sums.groupby(by, sort=True).sum()
        named = grouped.index.to_frame(index=False)
        key = {d: named[d].to_numpy() if d in dimensions else ALL for d in DIMENSIONS}
        values = figures({name: grouped[name].to_numpy(np.int64) for name in sums.columns})
        found.append(pd.DataFrame({"cube": cube, **key, **values}))
    return pd.concat(found, ignore_index=True)


class Reader:
    """Knows all published figures of a quarter at once, and arithmetic."""

    def __init__(self, published: pd.DataFrame, edges: tuple[float, float] | None = None) -> None:
        self.published = published.reset_index(drop=True)
        self._rows: list[dict[int, float]] = []
        self._lows: list[float] = []
        self._highs: list[float] = []
        self._margins()
        for place, cell in enumerate(self.published.to_dict("records")):
            self._within(place, cell, edges)
        lengths = [len(entries) for entries in self._rows]
        columns = [variable for entries in self._rows for variable in entries]
        values = [value for entries in self._rows for value in entries.values()]
        size = (len(self._rows), len(VARIABLES) * len(self.published))
        matrix = csr_array(coo_array((values, (np.repeat(range(size[0]), lengths), columns)), shape=size))
        self._known = LinearConstraint(matrix, np.array(self._lows), np.array(self._highs))
        self._whole = np.tile([*([1] * len(COUNTS)), *([0] * len(AMOUNTS))], len(self.published))
        self._bounds = self._shown()

    def thinks_possible(self, place: int, people: dict[str, int], low: float, high: float = MOST) -> bool:
        """Whether a count of a cell may lie between two numbers, for all that the reader knows."""
        row = csr_array((1, len(self._whole)), dtype=float).tolil()
        for name, factor in people.items():
            row[0, self._at(place, name)] = factor
        found = milp(
            np.zeros(len(self._whole)),
            integrality=self._whole,
            bounds=self._bounds,
            constraints=[self._known, LinearConstraint(row.tocsr(), low, high)],
            options={"time_limit": 60.0},
        )
        assert found.status in (0, 2), found.message
        return bool(found.status == 0)

    def learns(self, place: int, kind: str, value: int) -> bool:
        """Whether the reader can tell that the count is small, or to within less than ten."""
        people = PEOPLE[kind]
        if not self.thinks_possible(place, people, 11):
            return True
        return not (
            self.thinks_possible(place, people, 0, 1) or self.thinks_possible(place, people, value + 10)
        )

    def _at(self, place: int, name: str) -> int:
        return place * len(VARIABLES) + VARIABLES.index(name)

    def _say(self, low: float, high: float, entries: dict[int, float]) -> None:
        self._rows.append(entries)
        self._lows.append(low)
        self._highs.append(high)

    def _margins(self) -> None:
        frame = self.published
        for (fine, within), (coarse, outer) in product(CUBES.items(), repeat=2):
            if not (set(outer) < set(within)):
                continue
            parts = frame[frame["cube"] == fine]
            for place, cell in frame[frame["cube"] == coarse].iterrows():
                mask = np.all([parts[d] == cell[d] for d in outer], axis=0) if outer else slice(None)
                for name in VARIABLES:
                    entries = {self._at(int(part), name): 1.0 for part in parts[mask].index}
                    self._say(0.0, 0.0, {**entries, self._at(int(place), name): -1.0})

    def _within(self, place: int, cell: dict[str, Any], edges: tuple[float, float] | None) -> None:
        def say(low: float, high: float, **factors: float) -> None:
            self._say(low, high, {self._at(place, name): value for name, value in factors.items()})

        inf, n, e = np.inf, "index_discharges_scored", "expected_readmissions"
        say(0, 0, members=1, members_scored=-1, members_invalid=-1)
        for people in PEOPLE.values():
            say(0, inf, **people)
        say(0, inf, **{n: 1, e: -1})
        say(0, inf, matured=1, expected_matured=-1)
        say(0, inf, **{e: 1, "expected_matured": -1})
        say(0, inf, **{n: 1, "matured": -1, e: -1, "expected_matured": 1})
        if edges:
            high, very = edges
            say(0, inf, **{e: 1, "high_risk": -high, "very_high_risk": high - very})
            say(0, inf, **{e: -1, n: high, "high_risk": very - high, "very_high_risk": 1 - very})
        for whole, part, ratio, half in (
            (n, "high_risk", "high_risk_share", 0.0005),
            (n, "very_high_risk", "very_high_risk_share", 0.0005),
            (n, e, "mean_risk", 0.0005),
            ("expected_matured", "observed_readmissions", "observed_to_expected", 0.005),
        ):
            if not pd.isna(cell[ratio]):
                say(0, inf, **{part: 1, whole: -(cell[ratio] - half)})
                say(-inf, 0, **{part: 1, whole: -(cell[ratio] + half)})

    def _shown(self) -> Bounds:
        frame = self.published
        low, high = np.zeros(len(self._whole)), np.full(len(self._whole), MOST)
        for name in VARIABLES:
            start = VARIABLES.index(name)
            shown = frame[name].astype("Float64").to_numpy(np.float64, na_value=np.nan)
            half = 0.0 if name in COUNTS else 0.0501
            low[start :: len(VARIABLES)] = np.where(np.isnan(shown), float(name == "members"), shown - half)
            high[start :: len(VARIABLES)] = np.where(np.isnan(shown), MOST, shown + half)
        return Bounds(np.maximum(low, 0.0), high)


def small_counts(truth: pd.DataFrame) -> Iterator[tuple[int, str, int]]:
    """Place, kind of people and value of every count of 1 to 10."""
    for kind, people in PEOPLE.items():
        values = sum(factor * truth[name] for name, factor in people.items())
        for place in np.flatnonzero((values >= 1) & (values <= 10)):
            yield int(place), kind, int(values.iloc[place])
