"""Who forecasts, and the rows that are stored: routes, champions, rollbacks, months, journals of days."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import sqlalchemy as sa

from medscore_assets import tables
from medscore_assets.contracts.mobility import MOBILITY
from medscore_assets.families import family
from medscore_assets.mobility.champions import names
from medscore_assets.mobility.cohorts import GLOBAL_MODEL, Route
from medscore_assets.mobility.forecasts import Serving, serving_state
from medscore_assets.mobility.model import MobilityModel, model_name
from medscore_assets.mobility.publish import append_routes, publish_forecasts
from medscore_assets.mobility.retention import prune_forecasts
from medscore_assets.mobility.stored import ForecastFlag
from medscore_assets.mobility.training import Settings, fit_global
from medscore_assets.mobility.training_set import Split, TrainingSet
from resources.errors import PermanentError
from resources.mlflow_store import files_flavor
from resources.registry import CHAMPION, ModelRegistry
from resources.warehouse import Warehouse
from tests.mobility.simulated import BEGUN, feature_table, last_day, simulated_steps

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
NAME = model_name(GLOBAL_MODEL, 1)


@pytest.fixture(scope="module")
def features() -> pa.Table:
    """The features of 120 patients over 40 days, by the contract, with targets."""
    return feature_table(simulated_steps(120, 40, 3), 1)


@pytest.fixture(scope="module")
def model(features: pa.Table) -> MobilityModel:
    split = Split.of(BEGUN + timedelta(days=1), last_day(40))
    return fit_global(TrainingSet.of(features, MOBILITY, 1, split), Settings(max_rounds=10))


def registered(registry: ModelRegistry, model: MobilityModel, folder: Any) -> int:
    model.save(folder)
    return registry.register(NAME, folder, flavor=files_flavor)


def decision(model: MobilityModel, version: int, **changed: Any) -> dict[str, Any]:
    route = Route(
        cohort="MS",
        horizon_days=1,
        serves=GLOBAL_MODEL,
        reason="It serves here.",
        conformal=model.manifest.conformal["MS"].model_copy(update={"quantile": 9.0}),
    )
    return {
        "cohort": "MS",
        "horizon_days": 1,
        "serves": route.serves,
        "model_name": NAME,
        "model_version": version,
        "reason": route.reason,
        "route": route.model_dump(mode="json"),
        "metrics": {},
        "contract_hash": MOBILITY.hash,
        "decided_at": NOW,
        "decided_by": "a test",
        **changed,
    }


def test_the_champion_serves_with_the_interval_of_its_own_version(
    warehouse: Warehouse,
    empty_registry: ModelRegistry,
    model: MobilityModel,
    features: pa.Table,
    tmp_path: Any,
) -> None:
    first = registered(empty_registry, model, tmp_path / "one")
    second = registered(empty_registry, model.with_manifest(seed=1), tmp_path / "two")
    assert append_routes(warehouse, [decision(model, second)]) == 1
    assert append_routes(warehouse, [decision(model, second)]) == 0
    with pytest.raises(PermanentError, match="no model has the alias champion"):
        Serving.present(warehouse, empty_registry)
    empty_registry.set_alias(NAME, second, CHAMPION)
    state = serving_state(warehouse, empty_registry)
    judged = Serving.present(warehouse, empty_registry)
    assert judged.routes[1]["MS"].conformal is not None
    assert judged.routes[1]["MS"].conformal.quantile == 9.0
    # Rolled back by hand: the route was calibrated with the other version.
    empty_registry.set_alias(NAME, first, CHAMPION)
    assert serving_state(warehouse, empty_registry) != state
    rolled_back = Serving.present(warehouse, empty_registry)
    assert rolled_back.routes[1]["MS"].conformal == model.manifest.conformal["MS"]
    rows = rolled_back.rows(features, 1, made_at=NOW, afterwards=True)
    of_ms = rows.filter(pc.equal(rows["route"], "MS")).to_pylist()
    assert {(row["model_name"], row["model_version"]) for row in of_ms} == {(NAME, first)}
    assert all(row["flags"] & ForecastFlag.AFTERWARDS for row in of_ms)
    # A route of another contract holds for nobody.
    append_routes(warehouse, [decision(model, second, contract_hash="0" * 64)])
    assert Serving.present(warehouse, empty_registry).routes[1] == {}


def test_forecasts_of_a_day_are_replaced_whole_and_others_stay(
    warehouse: Warehouse, features: pa.Table
) -> None:
    serving = Serving({1: {}, 7: {}}, {1: {}, 7: {}}, {})
    made = serving.rows(features, 1, made_at=NOW)
    days = [date(2024, 1, 31), date(2024, 2, 1)]
    header = {"patients": 0, "rows": 0, "served": "{}", "contract_hash": MOBILITY.hash}
    for day in days:
        of_day = made.filter(pc.equal(made["forecast_day"], day))
        assert publish_forecasts(warehouse, day, of_day, header, NOW) == of_day.num_rows > 0
    table = tables.mobility_forecasts
    fewer = made.filter(pc.equal(made["forecast_day"], days[0])).slice(1)
    assert publish_forecasts(warehouse, days[0], fewer, header, NOW) == 1
    later = fewer.set_column(
        fewer.column_names.index("made_at"),
        "made_at",
        pa.array([NOW + timedelta(hours=1)] * fewer.num_rows, pa.timestamp("us", "UTC")),
    )
    assert publish_forecasts(warehouse, days[0], later, header, NOW + timedelta(hours=1)) == 0
    counts = sa.select(table.c.forecast_day, sa.func.count().label("rows")).group_by(table.c.forecast_day)
    assert {row["forecast_day"]: row["rows"] for row in warehouse.read(counts).to_pylist()} == {
        days[0]: fewer.num_rows,
        days[1]: made.filter(pc.equal(made["forecast_day"], days[1])).num_rows,
    }
    published = sa.select(tables.mobility_forecast_days.c.published_at)
    assert set(warehouse.read(published)["published_at"].to_pylist()) == {NOW}

    # Only months that are whole before the day go, and never the one of the newest forecasts.
    kept = {"mobility_forecasts": 0, "mobility_forecast_outcomes": 0, "mobility_forecast_days": 0}
    assert prune_forecasts(warehouse, days[0]) == kept
    gone = {"mobility_forecasts": fewer.num_rows, "mobility_forecast_days": 1}
    assert prune_forecasts(warehouse, NOW.date()) == kept | gone
    assert prune_forecasts(warehouse, NOW.date()) == kept
    assert warehouse.read(sa.select(table.c.forecast_day).distinct())["forecast_day"].to_pylist() == [days[1]]
    assert publish_forecasts(warehouse, days[0], fewer, header, NOW) == fewer.num_rows


def test_every_model_is_a_family_of_its_own() -> None:
    assert len(names()) == 10
    assert {family(name).champion_asset for name in names()} == {"mobility_routes"}
