"""Members, batch by batch, to sums: encoded by the contract, scored by the scorer, counted, forgotten.

Belongs here: the one pass over a batch, and the fingerprint of what was read. Does not belong here: where
batches come from (`score_stream.py`), what sums mean and how they merge (`partial.py`).

Memory holds one batch and one row of sums per group, whatever the number of members.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from medscore_assets.contracts.contract import Encoded, Matrix
from medscore_assets.contracts.fields import Reason
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.readmission.columns import joined
from medscore_assets.readmission.policy import FROM_HERE_ACT, TIERS, Policy
from medscore_assets.readmission.population.dimensions import (
    ALL,
    UNKNOWN,
    feature,
    members_of_ages,
    members_of_categories,
)
from medscore_assets.readmission.population.partial import (
    BASES,
    MODULUS,
    NO_INDEX_DISCHARGE,
    NOT_RECORDED,
    RISK_UNITS,
    SUMS,
    Groups,
    Partial,
)
from medscore_assets.readmission.population.score_once import ScoreOnce
from medscore_assets.readmission.scoring import ReadmissionModel
from resources.errors import PermanentError

INDEX_DISCHARGE = "index_discharge"
OUTCOME = "readmitted_within_30_days"
TEXTS = ("region", "hospital_id", "sex")
COLUMNS = (*TEXTS, *READMISSION.feature_names, INDEX_DISCHARGE, OUTCOME)
"""What is read of a member: no identifier among it."""

MOST_MEMBERS = 100_000
"""So many different values a dimension may have. A column with more identifies people, not groups."""

_ROWS_AT_ONCE = 1 << 20
"""So few that the sums of a piece are exact in float64: rows * RISK_UNITS < 2^53."""

Codes = npt.NDArray[np.intp]
Hashes = npt.NDArray[np.uint64]

_MULTIPLIERS = np.array(
    [
        int.from_bytes(hashlib.sha256(f"medscore-population-{n}".encode()).digest()[:8], "little") | 1
        for n in range(-(-len(READMISSION.features) // 2) + len(TEXTS) + 1)
    ],
    dtype=np.uint64,
)
"""Odd, so that multiplying by one loses nothing; one per word of a row."""


class Accumulator:
    """Sums over all batches that were added. Not for several threads at once."""

    def __init__(self, model: ReadmissionModel, policy: Policy) -> None:
        self._scorer, self._policy = ScoreOnce(model), policy
        self._texts = {name: _Texts(name) for name in TEXTS}
        self._fixed = {
            "primary_diagnosis_group": _Fixed("primary_diagnosis_group"),
            "insurance_type": _Fixed("insurance_type"),
            "age_group": _Fixed("patient_age", members_of_ages()),
        }
        self._sums = {name: np.zeros((0, len(SUMS)), dtype=np.int64) for name in BASES}
        self._exclusions: Counter[tuple[str, str]] = Counter()
        self._rows = 0
        self._fingerprint = 0

    def add(self, batch: pa.RecordBatch | pa.Table) -> None:
        """Count a batch with the columns `COLUMNS`, in whatever order.

        Raises `ContractViolation` if a feature is absent and `PermanentError` if another column is, is not
        of its type, or has more than `MOST_MEMBERS` different values.
        """
        table = pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else batch
        _require_columns(table)
        for start in range(0, len(table), _ROWS_AT_ONCE):
            self._add(table.slice(start, _ROWS_AT_ONCE))

    def _add(self, table: pa.Table) -> None:
        encoded = READMISSION.encode(table)
        valid = encoded.valid
        probabilities = np.zeros(len(table), dtype=np.float64)
        if valid.any():
            scored = encoded.matrix if valid.all() else encoded.matrix[valid]
            probabilities[valid] = self._scorer.score(scored)
        index, outcome = (_flags(table, name) for name in (INDEX_DISCHARGE, OUTCOME))
        codes = {name: texts.codes(table[name]) for name, texts in self._texts.items()}
        codes |= {name: fixed.codes(encoded.matrix) for name, fixed in self._fixed.items()}
        counted = _Counted(self._policy, probabilities, valid, index == 1, outcome)
        for name in BASES:
            self._count(name, codes, counted)
        self._exclude(encoded, valid, index)
        self._rows += len(table)
        hashes = [texts.hashes(codes[name]) for name, texts in self._texts.items()]
        self._fingerprint = (self._fingerprint + _fingerprint(encoded, hashes, index, outcome)) % MODULUS

    def _count(self, base: str, codes: dict[str, Codes], counted: _Counted) -> None:
        growing, *fixed = _axes(base)
        groups, size = codes[growing], len(self._texts[growing].members)
        for dimension in fixed:
            width = len(self._fixed[dimension].members)
            groups, size = groups * width + codes[dimension], size * width
        found = counted.sums(groups, size)
        before = self._sums[base]
        # The growing axis comes first, so that its newest members lie behind all earlier groups.
        found[: len(before)] += before
        self._sums[base] = found

    def _exclude(self, encoded: Encoded, valid: npt.NDArray[np.bool_], index: npt.NDArray[np.int8]) -> None:
        broken = encoded.reasons[~valid]
        first = (broken != 0).argmax(axis=1)
        reasons = broken[np.arange(len(broken)), first]
        for (field, reason), members in Counter(zip(first.tolist(), reasons.tolist(), strict=True)).items():
            self._exclusions[Reason(reason).label, encoded.fields[field]] += members
        for reason, value in ((NO_INDEX_DISCHARGE, 0), (NOT_RECORDED, 2)):
            if members := int(np.count_nonzero(valid & (index == value))):
                self._exclusions[reason, ""] += members

    def partial(self) -> Partial:
        """The sums over everything that was added so far."""
        groups = {name: self._groups(name) for name in BASES}
        return Partial(self._rows, self._fingerprint, groups, self._exclusions.copy())

    def _groups(self, base: str) -> Groups:
        axes = _axes(base)
        members = [(self._texts.get(a) or self._fixed[a]).members for a in axes]
        sums = self._sums[base]
        found: Groups = {}
        for group in np.flatnonzero(sums[:, 0]).tolist():
            place = np.unravel_index(group, [len(m) for m in members])
            named = {a: m[int(p)] for a, m, p in zip(axes, members, place, strict=True)}
            found[tuple(named[dimension] for dimension in BASES[base])] = sums[group].copy()
        return found


class Fingerprint:
    """The fingerprint that `Accumulator` takes of the batches that were added, and nothing else of them."""

    def __init__(self) -> None:
        self._texts = {name: _Texts(name) for name in TEXTS}
        self.rows = 0
        self.value = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Count a batch as `Accumulator.add` does. Raises as that does."""
        table = pa.Table.from_batches([batch])
        _require_columns(table)
        hashes = [texts.hashes(texts.codes(table[name])) for name, texts in self._texts.items()]
        index, outcome = (_flags(table, name) for name in (INDEX_DISCHARGE, OUTCOME))
        self.rows += len(table)
        self.value = (self.value + _fingerprint(READMISSION.encode(table), hashes, index, outcome)) % MODULUS


class _Counted:
    """What is added up of one batch, into the groups of any cube."""

    def __init__(
        self,
        policy: Policy,
        probabilities: npt.NDArray[np.float64],
        valid: npt.NDArray[np.bool_],
        index: npt.NDArray[np.bool_],
        outcome: npt.NDArray[np.int8],
    ) -> None:
        self._units = np.rint(probabilities * RISK_UNITS)
        self._kind = valid + 2 * index.astype(np.intp)
        self._discharged = np.flatnonzero(valid & index)
        risks, known = probabilities[self._discharged], outcome[self._discharged] != 2
        units, tiers = self._units[self._discharged], policy.tier_indices(risks)
        rounded = units / RISK_UNITS
        self._weights = {
            "high_risk": tiers >= FROM_HERE_ACT,
            "very_high_risk": tiers >= TIERS.index("very_high"),
            "matured": known,
            "observed_readmissions": outcome[self._discharged] == 1,
            "risk": units,
            "risk_squared": np.rint(rounded * rounded * RISK_UNITS),
            "risk_matured": np.where(known, units, 0.0),
        }

    def sums(self, groups: Codes, size: int) -> npt.NDArray[np.int64]:
        """Sums, int64 (size, SUMS), by the group of each row."""
        kinds = np.bincount(groups * 4 + self._kind, minlength=4 * size).reshape(size, 4)
        few = groups[self._discharged]
        found = {
            "members": kinds.sum(axis=1),
            "members_scored": kinds[:, 1] + kinds[:, 3],
            "index_discharges": kinds[:, 2] + kinds[:, 3],
            "index_discharges_scored": kinds[:, 3],
            "member_risk": np.bincount(groups, self._units, size),
            **{name: np.bincount(few, weights, size) for name, weights in self._weights.items()},
        }
        return np.stack([found[name].astype(np.int64) for name in SUMS], axis=1)


class _Texts:
    """A dimension of free texts: codes in the order in which its members are met."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.members = [UNKNOWN]
        self._codes = {UNKNOWN: 0}
        self._hashes = np.array([_hash(UNKNOWN)], dtype=np.uint64)

    def codes(self, column: pa.ChunkedArray) -> Codes:
        """The code of each cell."""
        encoded = pc.dictionary_encode(joined(column))
        code_of = np.array([*map(self._code, encoded.dictionary.to_pylist()), 0], dtype=np.intp)
        if len(met := self.members[len(self._hashes) :]):
            self._hashes = np.append(self._hashes, np.array([_hash(m) for m in met], dtype=np.uint64))
        nulls_last = pc.fill_null(encoded.indices, pa.scalar(len(code_of) - 1, pa.int32()))
        return np.asarray(code_of[np.asarray(nulls_last)])

    def hashes(self, codes: Codes) -> Hashes:
        """A hash per cell, of its member's name."""
        return self._hashes[codes]

    def _code(self, text: str | None) -> int:
        member = UNKNOWN if text is None or not text or text != text.strip() or text == ALL else text
        code = self._codes.setdefault(member, len(self.members))
        if code == len(self.members):
            if code >= MOST_MEMBERS:
                raise PermanentError(
                    f"{self._name} has more than {MOST_MEMBERS:,} different values",
                    where=f"member_features.{self._name}",
                    mend="Load the name of a group into it, not of a person.",
                )
            self.members.append(member)
        return code


class _Fixed:
    """A dimension that the contract knows all members of: codes from a feature's code."""

    def __init__(self, name: str, members_by_code: tuple[str, ...] | None = None) -> None:
        by_code = members_by_code or members_of_categories(name)
        self.members = [*dict.fromkeys(m for m in by_code if m != UNKNOWN), UNKNOWN]
        self._column = feature(name)
        self._codes = np.array([self.members.index(m) for m in (*by_code, UNKNOWN)], dtype=np.intp)

    def codes(self, matrix: Matrix) -> Codes:
        """The code of each row of the contract's matrix."""
        values = matrix[:, self._column]
        positions = np.where(np.isnan(values), len(self._codes) - 1, values).astype(np.intp)
        return np.asarray(self._codes[positions])


def _axes(base: str) -> list[str]:
    """A base cube's dimensions, the one of free texts first."""
    return sorted(BASES[base], key=lambda dimension: dimension not in TEXTS)


def _flags(table: pa.Table, name: str) -> npt.NDArray[np.int8]:
    """1 for yes, 0 for no, 2 where nothing is recorded."""
    return np.asarray(pc.fill_null(joined(table[name]).cast(pa.int8()), pa.scalar(2, pa.int8())))


def _require_columns(table: pa.Table) -> None:
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_dictionary, pa.types.is_null)
    flags = (pa.types.is_boolean, pa.types.is_null)
    for names, kinds in ((TEXTS, texts), ((INDEX_DISCHARGE, OUTCOME), flags)):
        for name in names:
            if table.column_names.count(name) != 1 or not any(is_a(table[name].type) for is_a in kinds):
                raise PermanentError(
                    "the members lack this column, or it is of another type",
                    where=f"member_features.{name}",
                    mend="Give it once, as texts for a dimension and as booleans for a flag.",
                )


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _fingerprint(
    encoded: Encoded, hashes: Sequence[Hashes], index: npt.NDArray[np.int8], outcome: npt.NDArray[np.int8]
) -> int:
    """The sum, modulo 2^64, of a hash of each row: of its codes, or why it has none, texts and flags."""
    words = [*hashes, (3 * index + outcome).astype(np.uint64)]
    # Adding zero makes one zero of both.
    told = encoded.matrix + np.float32(0)
    broken = encoded.reasons != 0
    told[broken] = -1 - encoded.reasons[broken].astype(np.float32)
    if told.shape[1] % 2:
        told = np.column_stack([told, np.zeros(len(told), dtype=np.float32)])
    pairs = told.view(np.uint64)
    mixed = np.zeros(len(told), dtype=np.uint64)
    for number in range(pairs.shape[1]):
        pair = pairs[:, number]
        mixed += (pair ^ (pair >> np.uint64(32))) * _MULTIPLIERS[number]
    for number, word in enumerate(words, start=pairs.shape[1]):
        mixed += word * _MULTIPLIERS[number]
    # The finish of splitmix64: without it, sums of rows would be sums of columns.
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return int((mixed ^ (mixed >> np.uint64(31))).sum(dtype=np.uint64))
