"""The sensor on the champion, tick by tick, with a real registry, journal, list and event log."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import dagster as dg
import pytest

from medscore_assets.definitions import build_defs
from medscore_assets.model_decisions import OUTSIDE, journal
from medscore_assets.partitions import window
from medscore_assets.promotion import apply_verdict, promote, rollback
from medscore_assets.readmission.policy import load_policy
from medscore_assets.readmission.publish import Champion, publish_list
from medscore_assets.readmission.scoring import MODEL, ReadmissionModel
from resources.errors import TransientError
from resources.registry import CHALLENGER, ModelRegistry
from resources.warehouse import Warehouse
from tests.readmission.records import clean_day
from tests.readmission.test_outreach import DAY, add
from tests.readmission.versions import GATE_HASH, verdict

ASSET = dg.AssetKey("readmission_champion")
BY_HAND: dict[str, Any] = {"reason": "Agreed in the meeting of the committee", "by": "A. Person"}


class Daemon:
    """Ticks of the sensor as Dagster's daemon makes them: cursor kept, events recorded, run keys once."""

    def __init__(self, warehouse: Warehouse, registry: ModelRegistry, instance: dg.DagsterInstance) -> None:
        self.resources = {"warehouse": warehouse, "registry": registry}
        defs = build_defs(**self.resources)
        self.sensor = defs.resolve_sensor_def("readmission_champion_moved")
        self.repository = defs.get_repository_def()
        self.instance = instance
        self.cursor: str | None = None
        self.run_keys: list[str] = []

    def tick(self) -> list[tuple[str | None, str | None]]:
        """Partition and run key of the runs that are launched."""
        context = dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursor,
            repository_def=self.repository,
            resources=self.resources,
        )
        result = self.sensor.evaluate_tick(context)
        for event in result.asset_events:
            self.instance.report_runless_asset_event(event)
        self.cursor = result.cursor
        fresh = [r for r in result.run_requests or [] if r.run_key not in self.run_keys]
        self.run_keys += [str(r.run_key) for r in fresh]
        return [(r.partition_key, r.run_key) for r in fresh]

    def told(self) -> list[int]:
        """The decisions that Dagster's log tells of, as often as it does."""
        records = self.instance.fetch_materializations(ASSET, limit=100, ascending=True).records
        events = [record.asset_materialization for record in records]
        return sorted(event.metadata["decision_id"].value for event in events if event is not None)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as own:
        yield own


@pytest.fixture
def daemon(
    warehouse: Warehouse, versions: ModelRegistry, instance: dg.DagsterInstance, model: ReadmissionModel
) -> Daemon:
    """A daemon that has ticked once, with version 1 as champion and a list by it."""
    promote(warehouse, versions, instance, MODEL, 1, **BY_HAND, override_gate=True)
    add(warehouse, clean_day(DAY, 5))
    publish_list(warehouse, window(DAY), lambda: Champion(model, 1), load_policy())
    started = Daemon(warehouse, versions, instance)
    assert started.tick() == []
    return started


def test_four_moves_between_two_ticks_are_told_once_each_and_scored_once(
    warehouse: Warehouse, versions: ModelRegistry, instance: dg.DagsterInstance, daemon: Daemon
) -> None:
    promote(warehouse, versions, instance, MODEL, 2, **BY_HAND, override_gate=True)
    # Commands that were killed before they told Dagster.
    rollback(warehouse, versions, None, MODEL, **BY_HAND)
    promote(warehouse, versions, None, MODEL, 3, **BY_HAND, override_gate=True)
    versions.set_alias(MODEL, 2)
    requested = daemon.tick()
    entered = journal(warehouse, MODEL)
    assert [(d.champion_before, d.champion_after) for d in entered[1:]] == [(1, 2), (2, 1), (1, 3), (3, 2)]
    assert entered[-1].decided_by == OUTSIDE
    assert daemon.told() == [d.decision_id for d in entered]
    assert [(day, key_of_move(key)) for day, key in requested] == [
        (DAY, f"readmission:2:{entered[-1].decision_id}")
    ]
    assert daemon.tick() == daemon.tick() == []
    assert daemon.told() == [d.decision_id for d in entered]


def key_of_move(run_key: str | None) -> str:
    """The run key without the result that is to be replaced."""
    return ":".join(str(run_key).split(":")[:3])


def test_a_run_that_had_loaded_the_former_champion_and_published_late_is_made_good(
    warehouse: Warehouse,
    versions: ModelRegistry,
    instance: dg.DagsterInstance,
    daemon: Daemon,
    model: ReadmissionModel,
) -> None:
    promote(warehouse, versions, instance, MODEL, 2, **BY_HAND, override_gate=True)
    assert len(daemon.tick()) == 1
    publish_list(warehouse, window(DAY), lambda: Champion(model, 2), load_policy())
    assert daemon.tick() == []
    publish_list(warehouse, window(DAY), lambda: Champion(model, 1), load_policy())
    assert len(daemon.tick()) == 1


def test_going_back_to_an_earlier_version_is_a_run_of_its_own(
    warehouse: Warehouse,
    versions: ModelRegistry,
    instance: dg.DagsterInstance,
    daemon: Daemon,
    model: ReadmissionModel,
) -> None:
    requested = []
    for version in (2, 1, 2):
        if version == 1:
            rollback(warehouse, versions, instance, MODEL, **BY_HAND)
        else:
            promote(warehouse, versions, instance, MODEL, version, **BY_HAND, override_gate=True)
        requested += daemon.tick()
        publish_list(warehouse, window(DAY), partial(Champion, model, version), load_policy())
        assert daemon.tick() == []
    assert [key.split(":")[1] for _, key in requested if key] == ["2", "1", "2"]
    assert len({key for _, key in requested}) == 3


def test_moves_that_end_where_they_began_and_lists_already_made_ask_for_nothing(
    warehouse: Warehouse,
    versions: ModelRegistry,
    instance: dg.DagsterInstance,
    daemon: Daemon,
    model: ReadmissionModel,
) -> None:
    promote(warehouse, versions, instance, MODEL, 2, **BY_HAND, override_gate=True)
    rollback(warehouse, versions, instance, MODEL, **BY_HAND)
    assert daemon.tick() == []
    promote(warehouse, versions, instance, MODEL, 2, **BY_HAND, override_gate=True)
    publish_list(warehouse, window(DAY), lambda: Champion(model, 2), load_policy())
    assert daemon.tick() == []
    assert len(daemon.told()) == 4


def test_what_the_gate_decides_is_told_by_its_run_and_scored_by_the_sensor(
    warehouse: Warehouse, versions: ModelRegistry, daemon: Daemon
) -> None:
    versions.set_alias(MODEL, 2, CHALLENGER)
    verdict(versions, 2, 1)
    made = apply_verdict(warehouse, versions, MODEL, GATE_HASH)
    ((day, key),) = daemon.tick()
    assert (day, key_of_move(key)) == (DAY, f"readmission:2:{made.decision_id}")
    assert made.decision_id not in daemon.told()


def test_a_refusal_moves_nothing(warehouse: Warehouse, versions: ModelRegistry, daemon: Daemon) -> None:
    versions.set_alias(MODEL, 2, CHALLENGER)
    verdict(versions, 2, 1, "The calibration slope is 0.5.")
    apply_verdict(warehouse, versions, MODEL, GATE_HASH)
    assert daemon.tick() == []


def test_an_alias_that_was_taken_away_is_told_and_nothing_is_scored_without_a_champion(
    warehouse: Warehouse, versions: ModelRegistry, daemon: Daemon
) -> None:
    versions.drop_alias(MODEL, "champion")
    assert daemon.tick() == []
    last = journal(warehouse, MODEL)[-1]
    assert (last.decision, last.model_version, last.champion_after) == ("rolled_back", 1, None)
    assert daemon.told()[-1] == last.decision_id
    versions.set_alias(MODEL, 1)
    assert daemon.tick() == []
    assert len(daemon.told()) == 3


def test_a_tick_without_the_registry_keeps_the_cursor_and_loses_nothing(
    warehouse: Warehouse, versions: ModelRegistry, daemon: Daemon
) -> None:
    promote(warehouse, versions, None, MODEL, 2, **BY_HAND, override_gate=True)
    reachable = daemon.resources["registry"]
    gone = "postgresql+psycopg://nobody@127.0.0.1:1/none"
    daemon.resources["registry"] = ModelRegistry(gone, versions._artifacts, versions._cache)
    before = daemon.cursor
    with pytest.raises(TransientError):
        daemon.tick()
    assert daemon.cursor == before
    daemon.resources["registry"] = reachable
    assert [partition for partition, _ in daemon.tick()] == [DAY]
    assert len(daemon.told()) == 2
