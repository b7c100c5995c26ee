"""Decisions about model versions on a real registry and journal: by the gate, by hand, and cut short."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import dagster as dg
import pytest

from medscore_assets import promotion
from medscore_assets.model_decisions import GATE, OUTSIDE, REFUSED, journal, succession
from medscore_assets.promotion import apply_verdict, promote, rollback
from medscore_assets.readmission.scoring import MODEL, MODEL_FILE, ReadmissionModel
from resources.errors import IntegrityError, PermanentError
from resources.registry import CHALLENGER, CHAMPION, REFUSED_TAG, ModelRegistry
from resources.warehouse import Warehouse
from tests.readmission.versions import GATE_HASH, register, verdict

WHY = "Agreed in the meeting of the committee"
BY = "A. Person"


class Killed(BaseException):
    """What a kill is to the code: it stops where it is."""


def moves(warehouse: Warehouse) -> list[tuple[str, int, int | None, int | None]]:
    return [
        (d.decision, d.model_version, d.champion_before, d.champion_after) for d in journal(warehouse, MODEL)
    ]


def tags_of(registry: ModelRegistry, version: int) -> Any:
    return next(v.tags for v in registry.versions(MODEL) if v.version == version)


def judged(registry: ModelRegistry, version: int, against: int | None, *reasons: str) -> None:
    registry.set_alias(MODEL, version, CHALLENGER)
    verdict(registry, version, against, *reasons)


def test_the_first_challenger_that_passes_becomes_champion_once(
    warehouse: Warehouse, versions: ModelRegistry
) -> None:
    judged(versions, 1, None)
    first = apply_verdict(warehouse, versions, MODEL, GATE_HASH)
    again = apply_verdict(warehouse, versions, MODEL, GATE_HASH)
    assert first == again
    assert (first.decided_by, first.champion_after) == (GATE, 1)
    assert moves(warehouse) == [("promoted", 1, None, 1)]
    assert versions.version_with(MODEL, CHAMPION) == 1
    assert versions.version_with(MODEL, CHALLENGER) is None


def test_a_refused_challenger_stays_one_and_its_reasons_are_kept_once(
    warehouse: Warehouse, versions: ModelRegistry
) -> None:
    versions.set_alias(MODEL, 1)
    judged(versions, 2, 1, "The calibration slope is 0.5.", "The net benefit is worse.")
    refused = apply_verdict(warehouse, versions, MODEL, GATE_HASH)
    assert apply_verdict(warehouse, versions, MODEL, GATE_HASH) == refused
    assert refused.decision == REFUSED
    assert refused.reason == "The calibration slope is 0.5. The net benefit is worse."
    assert tags_of(versions, 2)[REFUSED_TAG] == refused.reason
    assert [m[0] for m in moves(warehouse)] == ["promoted", "refused"]
    assert (versions.version_with(MODEL, CHAMPION), versions.version_with(MODEL, CHALLENGER)) == (1, 2)


@pytest.mark.parametrize(
    ("against", "gate_hash", "said"),
    [
        (None, GATE_HASH, "judged against no champion, and the champion is version 1"),
        (3, GATE_HASH, "judged against version 3, and the champion is version 1"),
        (1, "c" * 64, "judged by a gate with other rules"),
    ],
)
def test_a_verdict_holds_only_against_its_champion_and_its_gate(
    warehouse: Warehouse, versions: ModelRegistry, against: int | None, gate_hash: str, said: str
) -> None:
    versions.set_alias(MODEL, 1)
    judged(versions, 2, against)
    with pytest.raises(PermanentError, match=said):
        apply_verdict(warehouse, versions, MODEL, gate_hash)
    assert versions.version_with(MODEL, CHAMPION) == 1


def test_a_challenger_that_was_never_judged_is_not_promoted(
    warehouse: Warehouse, versions: ModelRegistry
) -> None:
    versions.set_alias(MODEL, 2, CHALLENGER)
    with pytest.raises(PermanentError, match="was not judged"):
        apply_verdict(warehouse, versions, MODEL, GATE_HASH)
    assert moves(warehouse) == []


def test_a_promotion_by_hand_keeps_its_reason_in_the_journal_the_registry_and_dagster(
    warehouse: Warehouse, versions: ModelRegistry
) -> None:
    versions.set_alias(MODEL, 1)
    verdict(versions, 2, 1)
    with dg.DagsterInstance.ephemeral() as instance:
        made = promote(warehouse, versions, instance, MODEL, 2, reason=f" {WHY} ", by=BY)
        (event,) = instance.fetch_materializations(dg.AssetKey("readmission_champion"), limit=10).records
    metadata = {k: v.value for k, v in event.asset_materialization.metadata.items()}
    assert metadata == {
        "decision_id": made.decision_id,
        "decision": "promoted",
        "model_version": 2,
        "reason": WHY,
        "decided_by": BY,
        "champion_before": 1,
        "champion_after": 2,
    }
    assert versions.champion(MODEL).version == 2
    assert WHY in tags_of(versions, 2)["last_decision"]
    assert journal(warehouse, MODEL)[-1] == made


def test_what_the_gate_refused_or_never_saw_needs_an_explicit_override(
    warehouse: Warehouse, versions: ModelRegistry
) -> None:
    judged(versions, 1, None, "it does not beat the baseline lace_like")
    for version, said in ((1, "does not beat the baseline lace_like"), (2, "never judged")):
        with pytest.raises(PermanentError, match=said) as refused:
            promote(warehouse, versions, None, MODEL, version, reason=WHY, by=BY)
        assert "--override-gate" in refused.value.mend
    assert moves(warehouse) == []
    promote(warehouse, versions, None, MODEL, 1, reason=WHY, by=BY, override_gate=True)
    assert moves(warehouse) == [("promoted", 1, None, 1)]
    assert tags_of(versions, 1)[REFUSED_TAG] == ""


@pytest.mark.parametrize(("reason", "by"), [("", BY), (" too  few ", BY), (WHY, " "), (WHY, GATE)])
def test_a_decision_by_hand_has_a_reason_and_a_person(
    warehouse: Warehouse, versions: ModelRegistry, reason: str, by: str
) -> None:
    versions.set_alias(MODEL, 1)
    with pytest.raises(PermanentError):
        promote(warehouse, versions, None, MODEL, 2, reason=reason, by=by, override_gate=True)
    with pytest.raises(PermanentError):
        rollback(warehouse, versions, None, MODEL, reason=reason, by=by)
    assert versions.version_with(MODEL, CHAMPION) == 1


def test_rolling_back_goes_through_the_line_of_champions_and_not_to_and_fro(
    warehouse: Warehouse, versions: ModelRegistry
) -> None:
    for version in (1, 2, 3):
        promote(warehouse, versions, None, MODEL, version, reason=WHY, by=BY, override_gate=True)
    assert [rollback(warehouse, versions, None, MODEL, reason=WHY, by=BY).champion_after for _ in "12"] == [
        2,
        1,
    ]
    with pytest.raises(PermanentError, match="no champion before"):
        rollback(warehouse, versions, None, MODEL, reason=WHY, by=BY)
    promote(warehouse, versions, None, MODEL, 3, reason=WHY, by=BY, override_gate=True)
    assert succession(journal(warehouse, MODEL)) == [1, 3]
    assert rollback(warehouse, versions, None, MODEL, reason=WHY, by=BY).champion_after == 1
    assert versions.champion(MODEL).version == 1


def test_nothing_moves_to_a_version_that_is_damaged_or_of_another_contract(
    warehouse: Warehouse, versions: ModelRegistry, model: ReadmissionModel, tmp_path: Path
) -> None:
    damaged = register(versions, model, tmp_path / "sound")
    for version in (damaged, 2):
        promote(warehouse, versions, None, MODEL, version, reason=WHY, by=BY, override_gate=True)
    foreign = replace(model, manifest=model.manifest.model_copy(update={"contract_hash": "d" * 64}))
    other = register(versions, foreign, tmp_path / "foreign")
    with pytest.raises(IntegrityError, match="trained under contract"):
        promote(warehouse, versions, None, MODEL, other, reason=WHY, by=BY, override_gate=True)
    with pytest.raises(PermanentError, match="there is no version 99"):
        promote(warehouse, versions, None, MODEL, 99, reason=WHY, by=BY, override_gate=True)
    with versions._talking() as client:
        source = Path(urlparse(client.get_model_version(MODEL, str(damaged)).source).path)
    (source / MODEL_FILE).write_bytes(b"something else")
    elsewhere = ModelRegistry(versions._tracking_uri, versions._artifacts, tmp_path / "empty cache")
    with pytest.raises(IntegrityError, match="was changed"):
        rollback(warehouse, elsewhere, None, MODEL, reason=WHY, by=BY)
    assert len(moves(warehouse)) == 2
    assert versions.version_with(MODEL, CHAMPION) == 2


@pytest.mark.faults
@pytest.mark.parametrize("written", ["tag", "alias"])
def test_a_promotion_that_was_killed_is_completed_by_the_same_command(
    warehouse: Warehouse, versions: ModelRegistry, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    promote(warehouse, versions, None, MODEL, 1, reason=WHY, by=BY, override_gate=True)

    def command() -> Any:
        return promote(warehouse, versions, None, MODEL, 2, reason=WHY, by=BY, override_gate=True)

    with monkeypatch.context() as patched:
        dies_before = {"tag": (versions, "set_alias"), "alias": (promotion, "enter")}[written]
        patched.setattr(*dies_before, killed)
        with pytest.raises(Killed):
            command()
    assert versions.version_with(MODEL, CHAMPION) == {"tag": 1, "alias": 2}[written]
    made = command()
    assert (made.reason, made.decided_by) == (WHY, BY)
    assert moves(warehouse) == [("promoted", 1, None, 1), ("promoted", 2, 1, 2)]


@pytest.mark.faults
def test_a_rollback_that_was_killed_does_not_go_back_twice(
    warehouse: Warehouse, versions: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in (1, 2, 3):
        promote(warehouse, versions, None, MODEL, version, reason=WHY, by=BY, override_gate=True)
    with monkeypatch.context() as patched:
        patched.setattr(promotion, "enter", killed)
        with pytest.raises(Killed):
            rollback(warehouse, versions, None, MODEL, reason=WHY, by=BY)
    made = rollback(warehouse, versions, None, MODEL, reason=WHY, by=BY)
    assert (made.model_version, made.champion_after) == (3, 2)
    assert versions.version_with(MODEL, CHAMPION) == 2
    assert moves(warehouse)[3:] == [("rolled_back", 3, 3, 2)]


@pytest.mark.faults
def test_two_promotions_at_once_go_one_after_another(warehouse: Warehouse, versions: ModelRegistry) -> None:
    promote(warehouse, versions, None, MODEL, 1, reason=WHY, by=BY, override_gate=True)
    ready = threading.Barrier(2)

    def command(version: int) -> None:
        ready.wait(60)
        promote(warehouse, versions, None, MODEL, version, reason=WHY, by=BY, override_gate=True)

    threads = [threading.Thread(target=command, args=(version,)) for version in (2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    _, second, third = moves(warehouse)
    assert second[2] == 1
    assert third[2] == second[3]
    assert versions.version_with(MODEL, CHAMPION) == third[3]


def test_an_alias_that_was_moved_in_mlflow_is_entered_before_the_next_decision(
    warehouse: Warehouse, versions: ModelRegistry
) -> None:
    promote(warehouse, versions, None, MODEL, 1, reason=WHY, by=BY, override_gate=True)
    versions.set_alias(MODEL, 3)
    assert rollback(warehouse, versions, None, MODEL, reason=WHY, by=BY).champion_after == 1
    assert moves(warehouse)[1:] == [("promoted", 3, 1, 3), ("rolled_back", 3, 3, 1)]
    assert journal(warehouse, MODEL)[1].decided_by == OUTSIDE


def killed(*_: Any, **__: Any) -> Any:
    raise Killed
