"""The source document's batch of wait-time models, made runnable: the peer that the tick is measured against.

Belongs here: its interface, its nine models, its discovery by subclasses, its loop with one commit for each
prediction. Changed only what must be for it to run: spelling, imports and the order of base classes; children
inherit from the class that has the window; clocks with a zone; one name for the column of waits; a facility,
since the document knows one only. Its errors of method stay: waits are chosen by disposition, every model is
fitted anew at every tick, each facility reads its two weeks again.
"""

from __future__ import annotations

import warnings
from abc import ABC
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import ClassVar

import numpy as np
import pandas as pd
import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict

INPUT = sa.text("""
SELECT disposition_at AS disposition_ts, extract(epoch FROM pia_at - arrival) AS wait_seconds
FROM ed_visits
WHERE facility_id = :facility AND superseded_at IS NULL AND disposition_at IS NOT NULL
  AND pia_at IS NOT NULL AND disposition_at > :since AND disposition_at <= :now
""")
OUTPUT = sa.text("""
INSERT INTO document.predictions (facility_id, name, version, predicted_at, wait_seconds)
VALUES (:facility, :name, :version, :predicted_at, :wait_seconds)
""")
TABLE = sa.text("""
CREATE SCHEMA document;
CREATE TABLE document.predictions (
  facility_id text, name text, version text, predicted_at timestamptz, wait_seconds double precision)
""")
HISTORY = timedelta(days=14)
HOURS = 24


class Prediction(BaseModel):
    """Some number of seconds that we expect someone to wait."""

    model_config = ConfigDict(extra="forbid")

    wait_seconds: float


class Model(ABC):
    """A name, a version, and a way to predict."""

    name: ClassVar[str]
    version: ClassVar[str]

    @classmethod
    def predict(cls, data: pd.DataFrame) -> Prediction:
        """From the waits of the last two weeks."""
        raise NotImplementedError

    @staticmethod
    def get_concrete_models(cls: type[Model] | None = None) -> list[type[Model]]:
        """Every class below that does not itself name ABC as a base."""
        classes = list((cls or Model).__subclasses__())
        for found in classes:
            classes.extend(Model.get_concrete_models(found))
        return [found for found in classes if ABC not in found.__bases__]


class MovingAverageModel(Model):
    """The mean of all that there is."""

    name = "moving_average"
    version = "0.0.1"

    @classmethod
    def predict(cls, data: pd.DataFrame) -> Prediction:
        return Prediction(wait_seconds=data["wait_seconds"].mean())


class MovingAverageModelABC(Model, ABC):
    """The mean of those with a disposition within a window."""

    version = "0.0.1"
    lookback_seconds: ClassVar[float]

    @classmethod
    def predict(cls, data: pd.DataFrame) -> Prediction:
        since = datetime.now(UTC) - timedelta(seconds=cls.lookback_seconds)
        return Prediction(wait_seconds=data[data.disposition_ts > since]["wait_seconds"].mean())


class MovingAverageModel60(MovingAverageModelABC):
    """One hour."""

    name = "moving_average_60"
    lookback_seconds = 60 * 60


class MovingAverageModel120(MovingAverageModelABC):
    """Two hours."""

    name = "moving_average_120"
    lookback_seconds = 60 * 60 * 2


class MovingAverageModel240(MovingAverageModelABC):
    """Four hours."""

    name = "moving_average_240"
    lookback_seconds = 60 * 60 * 4


class MovingAverageModel480(MovingAverageModelABC):
    """Eight hours."""

    name = "moving_average_480"
    lookback_seconds = 60 * 60 * 8


class ETSModel(Model, ABC):
    """Exponential smoothing of hourly means, fitted at each call."""

    version = "0.0.1"
    error: ClassVar[str] = "add"
    seasonal: ClassVar[str | None] = None

    @classmethod
    def predict(cls, data: pd.DataFrame) -> Prediction:
        from statsmodels.tsa.exponential_smoothing.ets import ETSModel as Smoothing

        model = Smoothing(
            _hourly(data),
            error=cls.error,
            seasonal=cls.seasonal,
            seasonal_periods=HOURS if cls.seasonal else None,
            initialization_method="heuristic",
        )
        return Prediction(wait_seconds=float(model.fit(disp=False).forecast(1)[0]))


class ETSModelSimple(ETSModel):
    """The level alone."""

    name = "ets_simple"


class ETSModelX(ETSModel):
    """With the hour of the day."""

    name = "ets_x"
    seasonal = "add"
    error = "add"


class ARIMAModel(Model, ABC):
    """Autoregression of hourly means, fitted at each call; a quantile of its forecast."""

    version = "0.0.1"
    lag: ClassVar[int]
    q: ClassVar[float]

    @classmethod
    def predict(cls, data: pd.DataFrame) -> Prediction:
        from scipy.stats import norm
        from statsmodels.tsa.arima.model import ARIMA

        forecast = ARIMA(_hourly(data), order=(cls.lag, 0, 0)).fit().get_forecast(1)
        seconds = forecast.predicted_mean[0] + norm.ppf(cls.q) * forecast.se_mean[0]
        return Prediction(wait_seconds=float(seconds))


class ARIMAModelMedian(ARIMAModel):
    """The middle of the forecast."""

    name = "arima_5"
    lag = 5
    q = 0.5


class ARIMAModelX(ARIMAModel):
    """The 90th percentile."""

    name = "arima_x"
    lag = 5
    q = 0.9


def get_input_df(con: sa.Connection, facility: str) -> pd.DataFrame:
    """Waits of the last two weeks."""
    now = datetime.now(UTC)
    return pd.read_sql(INPUT, con, params={"facility": facility, "since": now - HISTORY, "now": now})


def save_prediction(con: sa.Connection, facility: str, model: type[Model], prediction: Prediction) -> None:
    """With the model's name and version."""
    key = {"facility": facility, "name": model.name, "version": model.version}
    con.execute(OUTPUT, {**key, "predicted_at": datetime.now(UTC), "wait_seconds": prediction.wait_seconds})
    con.commit()


def main(url: str, facilities: Sequence[str]) -> int:
    """One scheduled run for each facility; the predictions saved.

    Raises RuntimeError at the end if any failed, as the document does; there is nobody to alert.
    """
    engine = sa.create_engine(url)
    errors, saved = [], 0
    with engine.connect() as con, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for facility in facilities:
            input_df = get_input_df(con, facility)
            for model in Model.get_concrete_models():
                try:
                    save_prediction(con, facility, model, model.predict(input_df))
                    saved += 1
                except Exception as exc:
                    errors.append(exc)
    engine.dispose()
    if errors:
        raise RuntimeError(f"{len(errors)} models failed to run") from errors[0]
    return saved


def _hourly(data: pd.DataFrame) -> np.ndarray:
    """Mean waits per hour of disposition; an empty hour has the mean of the one before."""
    means = data.set_index("disposition_ts")["wait_seconds"].sort_index().resample("1h").mean()
    return means.ffill().to_numpy()
