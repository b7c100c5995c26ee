"""The source document's nightly script, made runnable: the peer that the outreach benchmark measures.

Belongs here: the document's steps in its order and with its libraries: joblib, `read_sql` with
`NOW() - 24 h`, `.map`, `.values`, `predict_proba`, `pd.cut`, `to_sql` with append. Its defects are
kept, because they are its speed. Changed only what must be for it to run: the address of the database
and of the model are arguments, and the naive `utcnow` is written in its present spelling.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import joblib
import pandas as pd
from sqlalchemy import create_engine

COLUMNS = [
    "patient_age",
    "length_of_stay_days",
    "num_prior_admissions_12m",
    "num_chronic_conditions",
    "primary_diagnosis_group",
    "discharge_disposition",
    "insurance_type",
    "emergency_admission",
    "num_medications_at_discharge",
    "has_follow_up_scheduled",
]
CODES = {
    "primary_diagnosis_group": {
        "cardiac": 0,
        "respiratory": 1,
        "digestive": 2,
        "musculoskeletal": 3,
        "neurological": 4,
        "endocrine": 5,
        "other": 6,
    },
    "discharge_disposition": {"home": 0, "home_with_care": 1, "skilled_nursing": 2, "rehab": 3, "other": 4},
    "insurance_type": {"commercial": 0, "medicare": 1, "medicaid": 2, "dual_eligible": 3},
}
QUERY = f"""
SELECT patient_id, {", ".join(COLUMNS)}, discharged_at AS discharge_timestamp
FROM discharge_events
WHERE discharged_at >= NOW() - INTERVAL '24 hours'
"""


def score_discharges(url: str, model_file: Path, schema: str) -> pd.DataFrame:
    """One nightly run. Appends to `care_management_scores` in `schema`; returns what it wrote."""
    model = joblib.load(model_file)
    engine = create_engine(url)
    discharges = pd.read_sql(QUERY, engine)
    features = discharges.copy()
    for column, codes in CODES.items():
        features[column] = features[column].map(codes)
    for column in ("emergency_admission", "has_follow_up_scheduled"):
        features[column] = features[column].astype(int)
    probabilities = model.predict_proba(features[COLUMNS].values)[:, 1]
    results = pd.DataFrame(
        {
            "patient_id": discharges["patient_id"],
            "discharge_timestamp": discharges["discharge_timestamp"],
            "readmission_probability": probabilities.round(4),
            "risk_tier": pd.cut(
                probabilities,
                bins=[0, 0.2, 0.4, 0.6, 1.0],
                labels=["low", "moderate", "high", "very_high"],
            ),
            "scored_at": datetime.now(UTC).replace(tzinfo=None),
            "model_version": "v1.2.0",
        }
    )
    results = results.sort_values("readmission_probability", ascending=False)
    results.to_sql("care_management_scores", engine, schema=schema, if_exists="append", index=False)
    engine.dispose()
    return results
