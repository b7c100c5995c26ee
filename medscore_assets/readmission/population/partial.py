"""Sums over some members that add up with those of other members, to the last bit.

Belongs here: what is summed, merging, the form in which a process or a Spark task hands its sums over, and
projecting them to a cube. Does not belong here: how rows are summed (`accumulate.py`), and figures
(`summary.py`).

All sums are integers, so that neither the order of rows nor the size of batches, the number of threads or
the engine changes a figure.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from medscore_assets.readmission.population.dimensions import CUBES
from resources.errors import PermanentError

SUMS = (
    "members",
    "members_scored",
    "index_discharges",
    "index_discharges_scored",
    "high_risk",
    "very_high_risk",
    "matured",
    "observed_readmissions",
    "risk",
    "risk_squared",
    "risk_matured",
    "member_risk",
)
"""What is summed in a group; the last four in `RISK_UNITS`."""

RISK_UNITS = 1 << 30
"""A probability is rounded to a multiple of 1 / RISK_UNITS before it is added."""

BASES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {name: CUBES[name] for name in ("region_diagnosis", "age_group_sex", "region_insurance", "hospital")}
)
"""The cubes that are counted; every other one is a projection of one of them."""

NO_INDEX_DISCHARGE = "no_index_discharge"
NOT_RECORDED = "index_discharge_not_recorded"

Key = tuple[str, ...]
Sums = npt.NDArray[np.int64]
Groups = dict[Key, Sums]
"""Sums, int64 (SUMS,), by the members of a cube's dimensions."""

MODULUS = 1 << 64
"""Of fingerprints."""


@dataclass(frozen=True, slots=True)
class Partial:
    """The sums over `rows` members.

    `groups` holds those of every base cube, `exclusions` the members that are not among the scored index
    discharges by (reason, field), each once. `fingerprint` is the sum, modulo 2^64, of a hash per row.
    """

    rows: int = 0
    fingerprint: int = 0
    groups: Mapping[str, Groups] = field(default_factory=lambda: {name: {} for name in BASES})
    exclusions: Counter[tuple[str, str]] = field(default_factory=Counter)

    def merged(self, other: Self) -> Self:
        """The sums over both; nobody may be in both."""
        groups = {name: dict(self.groups[name]) for name in BASES}
        for name, found in groups.items():
            for key, sums in other.groups[name].items():
                found[key] = found[key] + sums if key in found else sums
        return type(self)(
            self.rows + other.rows,
            (self.fingerprint + other.fingerprint) % MODULUS,
            groups,
            self.exclusions + other.exclusions,
        )

    def cube(self, name: str) -> Groups:
        """The sums of one cube. Groups without members are absent."""
        dimensions = CUBES[name]
        base = next(b for b, split in BASES.items() if set(dimensions) <= set(split))
        positions = [BASES[base].index(dimension) for dimension in dimensions]
        found: Groups = {}
        for key, sums in self.groups[base].items():
            kept = tuple(key[position] for position in positions)
            found[kept] = found[kept] + sums if kept in found else sums
        return found

    def to_bytes(self) -> bytes:
        """Compressed JSON; the same sums give the same bytes."""
        document = {
            "sums": SUMS,
            "rows": self.rows,
            "fingerprint": self.fingerprint,
            "groups": {
                name: [[*key, *sums.tolist()] for key, sums in sorted(groups.items())]
                for name, groups in self.groups.items()
            },
            "exclusions": sorted([*key, members] for key, members in self.exclusions.items()),
        }
        return zlib.compress(json.dumps(document, separators=(",", ":")).encode())

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """What `to_bytes` gave. Raises `PermanentError` for anything else."""
        try:
            document: dict[str, Any] = json.loads(zlib.decompress(content))
            if tuple(document["sums"]) != SUMS:
                raise ValueError("other sums")
            groups = {
                name: {
                    tuple(row[: len(split)]): np.array(row[len(split) :], dtype=np.int64)
                    for row in document["groups"][name]
                }
                for name, split in BASES.items()
            }
            exclusions = Counter({(reason, what): n for reason, what, n in document["exclusions"]})
            return cls(document["rows"], document["fingerprint"], groups, exclusions)
        except (ValueError, KeyError, TypeError, zlib.error):
            raise PermanentError(
                "these are not the partial sums of this version of MedScore",
                where="population partial",
                mend="Run every part of the job with one version of MedScore.",
            ) from None
