"""The rows that mobility models are fitted, calibrated and judged on, and which row has which use.

Belongs here: targets beside features, the parts by date and by patient, sampling by patient.
Does not belong here: fitting (`training.py`), judging (`evaluation.py`), features (`features.py`).

Patients are split by a keyed hash of their id, days by date, both by the target's day:

| patients | before `calibration_begins` | before `test_begins` | from `test_begins` on |
|---|---|---|---|
| most | `train`, and `validation` for early stopping | `calibration` | `later_dates` |
| held out | `held_out_patients` | `held_out_patients` | `held_out_patients` |

So no part shares a target with another; validation differs from train in patients, calibration and
`later_dates` in dates, `held_out_patients` in patients.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from medscore_assets.contracts.measures import FeatureTable
from medscore_assets.mobility import baselines
from medscore_assets.mobility.cohorts import cohorts_of, routed_as
from medscore_assets.mobility.encoding import (
    BASELINE,
    DISEASE,
    SPREAD,
    VALID_DAYS,
    Encoding,
    columns_of,
    target_days,
)
from resources.errors import ContractViolation, PermanentError

Numbers = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

TARGET = "target_steps"
"""Steps of the target day, beside the features."""

TRAIN, VALIDATION, CALIBRATION = "train", "validation", "calibration"
LATER_DATES, HELD_OUT_PATIENTS = "later_dates", "held_out_patients"
PARTS = (TRAIN, VALIDATION, CALIBRATION, LATER_DATES, HELD_OUT_PATIENTS)

MOST_ROWS = 400_000
"""Rows per cohort, sampled by whole patients: more gain under 0.5 % and cost in proportion."""


@dataclass(frozen=True, slots=True)
class Split:
    """Who and which days have which use."""

    calibration_begins: date
    test_begins: date
    held_out_share: float = 0.2
    validation_share: float = 0.15
    seed: int = 0

    @classmethod
    def of(cls, first: date, last: date, *, seed: int = 0) -> Self:
        """The last fifth of the target days, at most 56, to judge; as many before them to calibrate.

        Raises `PermanentError` for fewer than 10 days.
        """
        days = (last - first).days + 1
        if days < 10:
            raise PermanentError(
                f"the training rows cover {days} days, too few to split by date",
                where="mobility training set",
                mend="Import more days of steps; at least 10 days with features are needed.",
            )
        later = min(days // 5, 56)
        test_begins = last - timedelta(days=later - 1)
        return cls(test_begins - timedelta(days=later), test_begins, seed=seed)

    def parts(self, patients: pa.ChunkedArray, days: npt.NDArray[np.datetime64]) -> npt.NDArray[np.str_]:
        """The part of each row, shape (n,), from its patient's id and its target's day."""
        encoded = pc.dictionary_encode(patients).combine_chunks()
        shares = np.array([_share(text, self.seed) for text in encoded.dictionary.to_pylist()])
        share = shares[np.asarray(encoded.indices)]
        return np.select(
            [
                share < self.held_out_share,
                days >= np.datetime64(self.test_begins),
                days >= np.datetime64(self.calibration_begins),
                share < self.held_out_share + (1 - self.held_out_share) * self.validation_share,
            ],
            [HELD_OUT_PATIENTS, LATER_DATES, CALIBRATION, VALIDATION],
            default=TRAIN,
        )


@dataclass(frozen=True)
class TrainingSet:
    """Encoded rows with their targets; arrays of shape (n,) but for `matrix`, (n, features).

    `patients` numbers the patients, `routes` is the key of the route that a row takes in service: its
    cohort, or `new`. `naive` is by name, in steps.
    """

    encoding: Encoding
    matrix: Numbers
    steps: Numbers
    spread: Numbers
    valid_days: Numbers
    patients: npt.NDArray[np.int64]
    cohorts: npt.NDArray[np.str_]
    routes: npt.NDArray[np.str_]
    parts: npt.NDArray[np.str_]
    naive: dict[str, Numbers]
    fingerprint: str

    @classmethod
    def of(cls, table: pa.Table, contract: FeatureTable, horizon_days: int, split: Split) -> Self:
        """From a table like `with_targets` makes. The same rows give the same set, whatever their order.

        The texts of open lists are learned from the train part alone. Raises `ContractViolation` for a
        table of other columns or with a row without baseline or target.
        """
        table = table.sort_by([("patient_id", "ascending"), ("day", "ascending")])
        columns = columns_of(table, (SPREAD, VALID_DAYS, TARGET, *baselines.needed(horizon_days)))
        for name in (BASELINE, TARGET):
            if unknown := int(np.isnan(columns[name]).sum()):
                raise ContractViolation(
                    f"{unknown} of {table.num_rows} rows have no {name}",
                    where="mobility training set",
                    mend="Leave out rows without any day of data before them, or without steps to forecast.",
                )
        parts = split.parts(table["patient_id"], target_days(table, horizon_days))
        encoding = Encoding.learned(contract, horizon_days, table.filter(pa.array(parts == TRAIN)))
        matrix = encoding.encode(table)
        encoded = pc.dictionary_encode(table["patient_id"]).combine_chunks()
        cohorts = cohorts_of(np.asarray(table[DISEASE].to_numpy(zero_copy_only=False), dtype=object))
        return cls(
            encoding,
            matrix,
            columns[TARGET],
            columns[SPREAD],
            columns[VALID_DAYS],
            np.asarray(encoded.indices).astype(np.int64),
            cohorts,
            routed_as(cohorts, columns[VALID_DAYS]),
            parts,
            baselines.forecasts(columns, horizon_days),
            _fingerprint(matrix, columns[TARGET], table["patient_id"]),
        )

    @property
    def baseline(self) -> Numbers:
        """The mean of each patient's days to date."""
        return self.matrix[:, self.encoding.names.index(BASELINE)]

    def of_cohort(self, cohort: str) -> Mask:
        """The rows that a cohort's model learns from: those of new patients too."""
        return np.asarray(self.cohorts == cohort)

    def of_route(self, key: str) -> Mask:
        """The rows that a route is calibrated and judged on: those that it would serve."""
        return np.asarray(self.routes == key)

    def counts(self, rows: Mask) -> tuple[dict[str, int], dict[str, int]]:
        """Rows and patients in each part."""
        in_part = {part: rows & (self.parts == part) for part in PARTS}
        of_rows = {part: int(mask.sum()) for part, mask in in_part.items()}
        return of_rows, {part: len(np.unique(self.patients[mask])) for part, mask in in_part.items()}


def with_targets(features: pa.Table, daily: pa.Table, horizon_days: int) -> pa.Table:
    """Rows of features whose target day has steps, with these as `target_steps`.

    `daily` has `patient_id`, `day` and `steps`, each patient and day once.
    """
    days = target_days(features, horizon_days)
    keyed = features.append_column("_target_day", pa.array(days, pa.date32()))
    steps = daily.select(["patient_id", "day", "steps"]).rename_columns(["patient_id", "_target_day", TARGET])
    joined = keyed.join(steps, ["patient_id", "_target_day"], join_type="inner")
    return joined.drop_columns(["_target_day"])


def sampled(table: pa.Table, most_rows: int = MOST_ROWS, seed: int = 0) -> pa.Table:
    """Whole patients of each disease, by the order of a keyed hash, until a cohort has its rows."""
    disease = np.asarray(table[DISEASE].to_numpy(zero_copy_only=False), dtype=object)
    encoded = pc.dictionary_encode(table["patient_id"]).combine_chunks()
    patient = np.asarray(encoded.indices)
    order = np.array([_share(text, ~seed) for text in encoded.dictionary.to_pylist()])
    cohorts = cohorts_of(disease)
    kept = np.zeros(table.num_rows, dtype=np.bool_)
    for cohort in np.unique(cohorts):
        rows = np.flatnonzero(cohorts == cohort)
        rows = rows[np.argsort(order[patient[rows]], kind="stable")]
        # The patient that crosses the limit comes along whole.
        _, first = np.unique(order[patient[rows]], return_index=True)
        ends = np.append(first[1:], len(rows))
        kept[rows[: ends[min(int(np.searchsorted(ends, most_rows)), len(ends) - 1)]]] = True
    return table.filter(pa.array(kept))


def _share(patient_id: str, seed: int) -> float:
    """A number in [0, 1) per patient, evenly spread and the same on every machine."""
    digest = hashlib.blake2b(patient_id.encode(), digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(digest, "big") / 2**64


def _fingerprint(matrix: Numbers, steps: Numbers, patients: pa.ChunkedArray) -> str:
    content = hashlib.sha256(np.ascontiguousarray(matrix.T).tobytes())
    content.update(np.ascontiguousarray(steps).tobytes())
    content.update("\n".join(patients.to_pylist()).encode())
    return content.hexdigest()
