"""Training sets with a known truth, in the shape of `readmission_training_set`, for tests.

Belongs here: rows drawn from a declared risk. Does not belong here: the demo generator and its dirt.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from medscore_assets.contracts.contract import Matrix
from medscore_assets.contracts.fields import Category, Flag, Whole
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.readmission.cohort import PARTS

LIKELY_MAXIMUM = {
    "patient_age": 95,
    "length_of_stay_days": 14,
    "num_prior_admissions_12m": 8,
    "num_chronic_conditions": 12,
    "num_medications_at_discharge": 25,
}


def random_matrix(rows: int, seed: int, *, whole_range: bool = False) -> Matrix:
    """Valid encoded rows; within what is usual, or within everything that the contract allows."""
    random = np.random.default_rng(seed)
    columns = []
    for feature in READMISSION.features:
        match feature:
            case Whole():
                low, high = feature.minimum, feature.maximum if whole_range else LIKELY_MAXIMUM[feature.name]
            case Category():
                low, high = 0, len(feature.categories) - 1
            case Flag():
                low, high = 0, 1
        columns.append(random.integers(low, high, rows, endpoint=True))
    return np.column_stack(columns).astype(np.float32)


def true_probability(matrix: Matrix) -> npt.NDArray[np.float64]:
    """The declared risk: rises with prior admissions, chronic conditions and medications."""
    column = {n: matrix[:, i].astype(np.float64) for i, n in enumerate(READMISSION.feature_names)}
    log_odds = (
        -3.2
        + 0.3 * column["num_prior_admissions_12m"]
        + 0.08 * column["num_chronic_conditions"]
        + 0.03 * column["num_medications_at_discharge"]
        + 0.5 * column["emergency_admission"]
        + 0.4 * (column["primary_diagnosis_group"] == 1)
        - 0.3 * column["has_follow_up_scheduled"]
    )
    return 1 / (1 + np.exp(-log_odds))


def training_set(rows: int, seed: int = 0, **fixed: Any) -> pa.Table:
    """A training set drawn from the declared risk, split 60 : 20 : 20; `fixed` makes features constant."""
    matrix = random_matrix(rows, seed)
    for name, value in fixed.items():
        position = READMISSION.feature_names.index(name)
        matrix[:, position] = READMISSION.features[position].code(value)
    labels = np.random.default_rng(seed + 1).random(rows) < true_probability(matrix)
    start = datetime(2024, 1, 1, tzinfo=UTC)
    columns: dict[str, Any] = {
        "encounter_id": [f"E-{n:06d}" for n in range(rows)],
        "patient_id": [f"P-{n:06d}" for n in range(rows)],
        "discharged_at": pa.array(
            [start + timedelta(hours=n) for n in range(rows)], pa.timestamp("us", "UTC")
        ),
        "part": [PARTS[0 if n % 10 < 6 else 1 if n % 10 < 8 else 2] for n in range(rows)],
        "readmitted_within_30_days": labels,
    }
    for position, feature in enumerate(READMISSION.features):
        columns[feature.name] = pa.array([feature.decode(code) for code in matrix[:, position].tolist()])
    columns["contract_hash"] = [READMISSION.hash] * rows
    return pa.table(columns)
