"""One patient's forecast of steps, as the API and the portal both show it: stored, or computed on demand.

Belongs here: which day's forecast is the newest, where it comes from, and what is missing if there is none.
Does not belong here: HTTP (`mobility.py`), pages (`portal/`), routing and scoring
(`medscore_assets/mobility/forecasts.py`).

A forecast on demand becomes a row of `mobility_forecasts` by the same functions as the day's batch, and is
told from that row: the same features under the same champions give the same answer to the last bit. It is
not stored.

The functions are synchronous; routes run them with `serving.lists.reading`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from medscore_assets.contracts.mobility import MAX_GAP_DAYS
from medscore_assets.lake_access import open_lake
from medscore_assets.mobility.cohorts import route
from medscore_assets.mobility.forecasts import HORIZONS
from medscore_assets.mobility.stored import ForecastFlag
from medscore_assets.settings import Settings
from medscore_assets.tables.mobility import mobility_forecast_days, mobility_forecasts, mobility_routes
from resources.errors import MedscoreError, TransientError
from resources.registry import ModelRegistry
from resources.warehouse import Warehouse
from serving.errors import NotFound, PreconditionFailed, Problem, Unavailable
from serving.mobility_lake import History, PatientLake
from serving.mobility_models import MobilityModels

log = logging.getLogger("medscore.serving")

DISCLAIMER = "This forecast is a decision-support tool. Clinical judgment should guide all care decisions."
"""Every forecast that anybody sees carries this text."""

NO_REASON = "Why this model was chosen is not on record."

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Told:
    """A forecast. `row` is one of `mobility_forecasts`, with `route_reason` beside its columns."""

    row: Row
    computed: bool
    """Made for this answer, and not stored."""
    asked: date
    """The day as of which the newest forecast was asked for."""

    @property
    def horizon_days(self) -> int:
        """Days ahead."""
        return int(self.row["horizon_days"])

    @property
    def forecast_day(self) -> date:
        """The forecast knows what was before this day."""
        found: date = self.row["forecast_day"]
        return found

    @property
    def target_day(self) -> date:
        """The day whose steps are forecast."""
        return self.forecast_day + timedelta(days=self.horizon_days - 1)

    @property
    def age_days(self) -> int:
        """Days from the forecast's day to the one that was asked for."""
        return (self.asked - self.forecast_day).days

    @property
    def flags(self) -> ForecastFlag:
        """What is to be known of it."""
        return ForecastFlag(self.row["flags"])


@dataclass(slots=True)
class Mobility:
    """What forecasts for one patient are made from; one per application, at `app.state.mobility`."""

    settings: Settings
    warehouse: Warehouse
    registry: ModelRegistry
    lake: PatientLake = field(init=False)
    models: MobilityModels = field(init=False)

    def __post_init__(self) -> None:
        self.lake = PatientLake(lambda: open_lake(self.settings))
        self.models = MobilityModels(self.warehouse, self.registry)

    def today(self) -> date:
        """The day in the settings' zone."""
        return datetime.now(self.settings.zone).date()

    def forecasts(
        self, patient_id: str, day: date | None = None, horizons: Sequence[int] = HORIZONS
    ) -> list[Told]:
        """The patient's newest forecasts as of a day (by default today), one per horizon.

        Stored ones, unless the lake has features of a later day than the last one that was published, and
        they and the models can be had. Raises `NotFound` for a patient of whom nothing is known,
        `PreconditionFailed` with what is missing for one without data to forecast from, `Unavailable` if
        nothing is stored and lake or models cannot be read.
        """
        asked = day or self.today()
        stored = self._stored(patient_id, asked, horizons)
        if stored and stored[0].age_days <= 0:
            return stored
        try:
            with_features = self._reading(self.lake.newest_day, asked)
            if stored and (with_features is None or with_features <= stored[0].forecast_day):
                return stored
            computed = self._computed(patient_id, with_features, asked, horizons) if with_features else []
        except Unavailable:
            if stored:
                # It says its age.
                return stored
            raise
        if not (computed or stored):
            raise self._absent(patient_id, asked, with_features)
        return computed or stored

    def _stored(self, patient_id: str, asked: date, horizons: Sequence[int]) -> list[Told]:
        said = {"patient": patient_id, "asked": asked, "horizons": list(horizons)}
        with self.warehouse.transaction() as connection:
            rows = [dict(row) for row in connection.execute(_NEWEST_STORED, said).mappings()]
        for row in rows:
            if row["route_reason"] is None:
                naive = row["model_name"] is None
                row["route_reason"] = (
                    route({}, row["route"], row["horizon_days"]).reason if naive else NO_REASON
                )
        return [Told(row, computed=False, asked=asked) for row in rows]

    def _computed(self, patient_id: str, day: date, asked: date, horizons: Sequence[int]) -> list[Told]:
        features = self._reading(self.lake.features, day, patient_id)
        if features is None:
            return []
        serving, made_at = self.models.current(), datetime.now(UTC)
        told = []
        for horizon in horizons:
            rows = serving.rows(features, horizon, made_at=made_at, afterwards=self.today() > day)
            (row,) = rows.to_pylist()
            row["route_reason"] = route(serving.routes[horizon], row["route"], horizon).reason
            told.append(Told(row, computed=True, asked=asked))
        return told

    def _absent(
        self, patient_id: str, asked: date, with_features: date | None
    ) -> NotFound | PreconditionFailed:
        if not self._reading(self.lake.knows, patient_id, asked):
            return NotFound("There is no such patient.")
        if with_features is None:
            missing = Problem(
                "patient_features", "missing", f"No features were made for a day up to {asked}."
            )
        else:
            told = f"No day with steps within {MAX_GAP_DAYS} days before {with_features}."
            missing = Problem("daily_steps", "missing", told)
        return PreconditionFailed(
            f"There is not enough data for a forecast. {missing.message}", problems=[missing]
        )

    def history(self, patient_id: str, first: date, last: date) -> History:
        """The patient's days of steps. Raises `Unavailable` if the lake cannot be reached."""
        found: History = self._reading(self.lake.history, patient_id, first, last)
        for error in found.unread.values():
            _log(error)
        return found

    def _reading(self, read: Any, *arguments: Any) -> Any:
        """What a reading of the lake gives; its errors go to the log and become `Unavailable`."""
        try:
            return read(*arguments)
        except MedscoreError as error:
            _log(error)
            if isinstance(error, TransientError):
                raise Unavailable() from None
            raise Unavailable("The lake of steps cannot be read at present.") from None


def _log(error: MedscoreError) -> None:
    # It names files and columns, never rows.
    log.error("lake not read", extra={"reason": error.what, "where": error.where})


def _newest_stored() -> sa.Select[Any]:
    """A patient's rows of the newest published day up to one, each with its route's reason."""
    days, table, routes = mobility_forecast_days, mobility_forecasts, mobility_routes
    newest = sa.select(sa.func.max(days.c.forecast_day)).where(days.c.forecast_day <= sa.bindparam("asked"))
    reason = (
        sa.select(routes.c.reason)
        .where(
            routes.c.cohort == table.c.route,
            routes.c.horizon_days == table.c.horizon_days,
            routes.c.serves == table.c.serves,
        )
        .order_by((routes.c.decided_at <= table.c.made_at).desc(), routes.c.route_id.desc())
        .limit(1)
    )
    return (
        sa.select(table, reason.scalar_subquery().label("route_reason"))
        .where(
            table.c.forecast_day == newest.scalar_subquery(),
            table.c.patient_id == sa.bindparam("patient"),
            table.c.horizon_days.in_(sa.bindparam("horizons", expanding=True)),
        )
        .order_by(table.c.horizon_days)
    )


_NEWEST_STORED = _newest_stored()
"""Made once: making it takes as long as running it."""
