"""The source document's real-time API, made runnable: a peer of the API benchmark.

    python -m benchmarks.document_api MODEL.joblib PORT

Belongs here: the document's request, response and rules word for word, its encoding by pandas, its
`predict_proba`, and SHAP values with the library that it names, the explainer made once. Its defects are
kept: they are its speed. It checks no token, stores nothing and writes no audit. Changed only what must be
for it to run: model file and port are arguments, and the factors that it promises (it shows no code for
them) are answered in a field. Where the library `shap` is not installed, XGBoost's own exact
`pred_contribs` stands in for it; `/health` says which it is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import joblib
import numpy as np
import pandas as pd
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, Field

from benchmarks.document_batch import CODES, COLUMNS


class ReadmissionRequest(BaseModel):
    patient_age: int = Field(..., ge=0, le=120)
    length_of_stay_days: int = Field(..., ge=0, le=365)
    num_prior_admissions_12m: int = Field(..., ge=0)
    num_chronic_conditions: int = Field(..., ge=0)
    primary_diagnosis_group: Literal[
        "cardiac", "respiratory", "digestive", "musculoskeletal", "neurological", "endocrine", "other"
    ]
    discharge_disposition: Literal["home", "home_with_care", "skilled_nursing", "rehab", "other"]
    insurance_type: Literal["commercial", "medicare", "medicaid", "dual_eligible"]
    emergency_admission: bool
    num_medications_at_discharge: int = Field(..., ge=0)
    has_follow_up_scheduled: bool


class ReadmissionResponse(BaseModel):
    readmission_probability: float = Field(..., ge=0, le=1)
    risk_tier: Literal["low", "moderate", "high", "very_high"]
    recommended_actions: list[str]
    model_version: str
    disclaimer: str = Field(
        default="This score is a decision-support tool. Clinical judgment should guide all care decisions."
    )
    top_factors: dict[str, float]


def encode(request: ReadmissionRequest) -> pd.DataFrame:
    """The document's `encode_dataframe` on a frame of one row."""
    frame = pd.DataFrame([request.model_dump()])
    for column, codes in CODES.items():
        frame[column] = frame[column].map(codes)
    for column in ("emergency_admission", "has_follow_up_scheduled"):
        frame[column] = frame[column].astype(int)
    return frame[COLUMNS]


def generate_recommendations(request: ReadmissionRequest, probability: float) -> list[str]:
    """The document's, word for word."""
    actions = []
    if probability > 0.5 and not request.has_follow_up_scheduled:
        actions.append("Schedule follow-up appointment within 7 days of discharge")
    if request.num_medications_at_discharge > 8:
        actions.append("Medication reconciliation review recommended")
    if request.num_prior_admissions_12m >= 2:
        actions.append("Consider referral to care management program")
    if request.discharge_disposition == "home" and probability > 0.4:
        actions.append("Evaluate need for home health services")
    if not actions:
        actions.append("Standard discharge protocol appropriate")
    return actions


def tier_of(probability: float) -> Literal["low", "moderate", "high", "very_high"]:
    """By the edges of the document's batch script."""
    if probability > 0.6:
        return "very_high"
    if probability > 0.4:
        return "high"
    return "moderate" if probability > 0.2 else "low"


def explainer_of(model: Any) -> tuple[str, Callable[[pd.DataFrame], Any]]:
    """The name of the library, and what gives the SHAP values of a frame."""
    try:
        import shap  # type: ignore[import-not-found]
    except ImportError:
        import xgboost as xgb

        booster = model.get_booster()

        def contributions(frame: pd.DataFrame) -> Any:
            return booster.predict(xgb.DMatrix(frame), pred_contribs=True)[:, :-1]

        return "xgboost pred_contribs", contributions
    explainer = shap.TreeExplainer(model)
    return f"shap {shap.__version__}", explainer.shap_values


def create_app(model_file: Path) -> FastAPI:
    """The document's application."""
    model = joblib.load(model_file)
    library, shap_values = explainer_of(model)
    app = FastAPI()

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"explained_by": library}

    # Not a coroutine, as tutorials have it: each request runs in the thread pool.
    @app.post("/predict")
    def predict(request: ReadmissionRequest) -> ReadmissionResponse:
        features = encode(request)
        probability = float(model.predict_proba(features)[0, 1])
        values = np.asarray(shap_values(features))[0]
        strongest = sorted(zip(COLUMNS, values, strict=True), key=lambda pair: -abs(pair[1]))[:5]
        return ReadmissionResponse(
            readmission_probability=probability,
            risk_tier=tier_of(probability),
            recommended_actions=generate_recommendations(request, probability),
            model_version="v1.2.0",
            top_factors={name: float(value) for name, value in strongest},
        )

    return app


if __name__ == "__main__":
    uvicorn.run(
        create_app(Path(sys.argv[1])), host="127.0.0.1", port=int(sys.argv[2]), access_log=False, workers=1
    )
