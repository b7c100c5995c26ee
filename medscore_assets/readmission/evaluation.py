"""The held-out discharges of a readmission model, with what it, its champion and the baselines say of them.

Belongs here: which rows, which models, which subgroups. Does not belong here: measuring
(`monitoring/evaluation.py`), fitting (`training.py`), judging (`monitoring/promotion.py`).

The test part is the last fifth of the time. A champion of earlier data was not fitted on these discharges
either: its own test part began no later, and its trees come from before. Unlike the judged model it may
know earlier stays of the same patients, which can only be to its advantage.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.monitoring.assessment import HeldOut
from medscore_assets.readmission.policy import TIERS, Policy
from medscore_assets.readmission.scoring import MODEL, ReadmissionModel
from medscore_assets.readmission.training import (
    LACE_LIKE,
    LOGISTIC_REGRESSION,
    baseline_probabilities,
    data_fingerprint,
    encoded_parts,
    in_training_order,
)
from resources.errors import PermanentError

CHAMPION_NAME = "champion"
BASELINES = (LOGISTIC_REGRESSION, LACE_LIKE)

AGE_BANDS = {0: "under 18", 18: "18-44", 45: "45-64", 65: "65-74", 75: "75-84", 85: "85+"}
"""First year of age of each band -> its name."""

AS_THEY_STAND = ("insurance_type", "primary_diagnosis_group", "discharge_disposition")
SEX = "sex"
"""Not in the contract: compared where the training set has such a column."""

UNKNOWN = "unknown"

Values = npt.NDArray[np.str_]


def held_out(
    training_set: pa.Table, model: ReadmissionModel, champion: ReadmissionModel | None, policy: Policy
) -> HeldOut:
    """The test part of the model's own training set, with every model's probabilities.

    The models are named "readmission" (the one to be judged), "champion", "logistic_regression" and
    "lace_like"; the baselines are fitted again on the same train part. Raises `PermanentError` if the model
    was trained on other data, `ContractViolation` for an invalid row or a table of another contract.
    """
    if data_fingerprint(training_set) != model.manifest.data_fingerprint:
        raise PermanentError(
            "the training set is not the one that the model was trained on",
            where="readmission_training_set",
            mend="Train a model on it: medscore train readmission",
        )
    table = in_training_order(training_set)
    parts = encoded_parts(table, READMISSION)
    matrix, labels = parts["test"]
    probabilities = {MODEL: model.score(matrix)}
    if champion is not None:
        probabilities[CHAMPION_NAME] = champion.score(matrix)
    probabilities |= baseline_probabilities(parts, READMISSION)
    test = table.filter(pc.equal(table["part"], "test"))
    return HeldOut(
        labels=labels,
        patients=_numbered(test["patient_id"]),
        probabilities=probabilities,
        groups=subgroups(test),
        tiers=np.array(TIERS)[policy.tier_indices(probabilities[MODEL])],
        tier_edges=dict(zip(TIERS, (0.0, *_edges(policy)), strict=True)),
    )


def _edges(policy: Policy) -> tuple[float, ...]:
    return policy.tiers.moderate, policy.tiers.high, policy.tiers.very_high


def _numbered(identifiers: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """A number per different identifier."""
    codes = identifiers.combine_chunks().dictionary_encode().indices
    return np.asarray(codes).astype(np.int64)


def subgroups(test: pa.Table) -> dict[str, Values]:
    """Attribute -> value per row of a table with the columns of the training set, of shape (n,)."""
    ages = np.asarray(test["patient_age"].combine_chunks())
    bands = np.array(list(AGE_BANDS.values()))
    groups = {"age_band": bands[np.searchsorted(list(AGE_BANDS), ages, side="right") - 1]}
    groups |= {name: _texts(test[name]) for name in AS_THEY_STAND}
    emergency = np.asarray(test["emergency_admission"].combine_chunks())
    groups["emergency_admission"] = np.where(emergency, "yes", "no")
    if SEX in test.column_names:
        groups[SEX] = _texts(test[SEX])
    return groups


def _texts(column: pa.ChunkedArray) -> Values:
    return np.array(pc.fill_null(column, UNKNOWN).to_pylist(), dtype=np.str_)
