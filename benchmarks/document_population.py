"""The source document's quarterly script, made runnable: the peer that the population benchmark measures.

Belongs here: the document's steps in its order and with its libraries: `read_sql` in chunks of 50,000
without a server-side cursor, encoding by `.map`, `predict_proba`, every row kept, `concat`, one `groupby`.
Its defects are kept, because they are its speed and its memory. Changed only what must be for it to run:
the address of the database and of the model are arguments, columns have the names of the table, and the
age stands where the document has an age group that nobody stored. Its `preprocess` is not shown there; it
is that of its nightly script.
"""

from __future__ import annotations

from pathlib import Path

import joblib
import pandas as pd
from sqlalchemy import create_engine

from benchmarks.document_batch import CODES, COLUMNS


def preprocess(chunk: pd.DataFrame) -> pd.DataFrame:
    """The ten features in the document's codes."""
    features = chunk[COLUMNS].copy()
    for column, codes in CODES.items():
        features[column] = features[column].map(codes)
    for column in ("emergency_admission", "has_follow_up_scheduled"):
        features[column] = features[column].astype(int)
    return features


def score_members(url: str, model_file: Path, chunk_size: int = 50_000) -> pd.DataFrame:
    """One quarterly run; returns its summary."""
    model = joblib.load(model_file)
    engine = create_engine(url)
    all_results = []
    for chunk in pd.read_sql("SELECT * FROM member_features", engine, chunksize=chunk_size):
        features = preprocess(chunk)
        probabilities = model.predict_proba(features.values)[:, 1]
        chunk["readmission_probability"] = probabilities
        all_results.append(
            chunk[
                ["member_id", "region", "primary_diagnosis_group", "patient_age", "readmission_probability"]
            ]
        )
    results = pd.concat(all_results, ignore_index=True)
    summary = (
        results.groupby(["region", "primary_diagnosis_group"])
        .agg(
            mean_risk=("readmission_probability", "mean"),
            high_risk_count=("readmission_probability", lambda x: (x > 0.4).sum()),
            total_members=("readmission_probability", "count"),
        )
        .reset_index()
    )
    summary["high_risk_pct"] = (summary["high_risk_count"] / summary["total_members"] * 100).round(1)
    print(summary.head(10))
    engine.dispose()
    return summary
