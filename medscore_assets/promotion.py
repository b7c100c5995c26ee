"""Which version of a model scores: the one way in which the alias `champion` moves.

Belongs here: applying the gate's verdict, promotion and rollback by hand, and moves that were found made.
Does not belong here: the verdict (`monitoring/promotion.py`) and the journal's rows (`model_decisions.py`).

Alias and journal are in two databases, so a decision is three writes under the family's lock: the decision
as a tag of the version, the alias, the journal's row. A kill after the first leaves the old champion as it
was. After the second the alias stands where the journal does not know of it, and whoever takes the lock
next (a command, the gate, the sensor) enters the row with the words of the tag. An alias that somebody
moved in MLflow's own pages is found, and entered, in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from medscore_assets.families import family
from medscore_assets.model_decisions import (
    DECISION_TAG,
    GATE,
    OUTSIDE,
    PROMOTED,
    REFUSED,
    ROLLED_BACK,
    Decision,
    StoredVerdict,
    enter,
    journal,
    pending,
    require_reason,
    succession,
)
from resources.errors import PermanentError
from resources.registry import CHALLENGER, CHAMPION, REFUSED_TAG, ModelRegistry, StoredModel
from resources.warehouse import Warehouse

if TYPE_CHECKING:
    import dagster as dg

MIN_REASON = 10
"""Characters of the shortest reason for a decision by hand."""


class _Present(NamedTuple):
    """How things stand once the lock is held."""

    champion: int | None
    completed: Decision | None
    """A decision that had been cut short, and is entered now."""


def apply_verdict(warehouse: Warehouse, registry: ModelRegistry, name: str, gate_hash: str) -> Decision:
    """Promote or refuse the challenger as the gate said, and enter it; the decision.

    Applied twice it is entered once. Without a challenger it is the decision that made the champion. Raises
    `PermanentError` if the verdict is absent, or was made by another gate or against another champion than
    the present one, and `IntegrityError` if the version is not fit to score.
    """
    with deciding(warehouse, name):
        champion = _present(warehouse, registry, name).champion
        challenger = registry.version_with(name, CHALLENGER)
        if challenger is None or challenger == champion:
            registry.drop_alias(name, CHALLENGER)
            return _decision_behind(warehouse, name, champion)
        stored = registry.stored(name, challenger)
        verdict = _applicable(stored, champion, gate_hash)
        if verdict.promote:
            family(name).load(stored.directory)
            rival = f"version {champion}" if champion and verdict.compared else "the baselines"
            reason = f"Passed every rule of the gate against {rival}."
            made = _decision(name, challenger, PROMOTED, reason, GATE, champion, challenger)
            return _carry_out(warehouse, registry, made)
        made = _decision(name, challenger, REFUSED, " ".join(verdict.reasons), GATE, champion, champion)
        of_version = [d for d in journal(warehouse, name) if d.model_version == challenger]
        if of_version and replace(of_version[-1], decision_id=0, decided_at=made.decided_at) == made:
            return of_version[-1]
        return _carry_out(warehouse, registry, made)


def promote(
    warehouse: Warehouse,
    registry: ModelRegistry,
    instance: dg.DagsterInstance | None,
    name: str,
    version: int,
    *,
    reason: str,
    by: str,
    override_gate: bool = False,
) -> Decision:
    """Make a version champion by hand, enter it, and record it in Dagster where `instance` is given.

    Its files are verified and loaded under the running contract before anything moves. Raises
    `PermanentError` without a reason, for the present champion, or for a version that the gate refused or
    never judged unless `override_gate`; `IntegrityError` for a version that is not fit to score.
    """
    load = family(name).load
    reason, by = require_reason(reason, MIN_REASON), _person(by)
    stored = registry.stored(name, version)
    load(stored.directory)
    if not override_gate:
        _require_passed(stored)
    with deciding(warehouse, name):
        champion, made = _present(warehouse, registry, name)
        if champion != version:
            made = _decision(name, version, PROMOTED, reason, by, champion, version)
            made = _carry_out(warehouse, registry, made)
        elif made is None:
            raise PermanentError(
                f"version {version} is champion already",
                where=f"registered model {name}",
                mend="Nothing is to be done. See how it came about: medscore models history",
            )
        _record(instance, made)
    return made


def rollback(
    warehouse: Warehouse,
    registry: ModelRegistry,
    instance: dg.DagsterInstance | None,
    name: str,
    *,
    reason: str,
    by: str,
) -> Decision:
    """Make the champion before the present one champion again; otherwise as `promote`.

    A champion that was itself rolled back is not gone back to: after A, B and a rollback to A there is
    nothing before A. Raises `PermanentError` in that case.
    """
    load = family(name).load
    reason, by = require_reason(reason, MIN_REASON), _person(by)
    with deciding(warehouse, name):
        champion, made = _present(warehouse, registry, name)
        if made is None or made.decision != ROLLED_BACK:
            before = _before(warehouse, name, champion)
            load(registry.stored(name, before).directory)
            made = _decision(name, champion or before, ROLLED_BACK, reason, by, champion, before)
            made = _carry_out(warehouse, registry, made)
        _record(instance, made)
    return made


def catch_up(warehouse: Warehouse, registry: ModelRegistry, name: str) -> int | None:
    """Enter a move of the alias that the journal does not know; the champion. Call it inside `deciding`."""
    return _present(warehouse, registry, name).champion


@contextmanager
def deciding(warehouse: Warehouse, name: str) -> Iterator[None]:
    """Inside, nobody else decides about this family. The rows of decisions are committed one by one."""
    with warehouse.transaction() as connection:
        warehouse.lock(connection, f"model_decisions/{name}")
        yield


def _present(warehouse: Warehouse, registry: ModelRegistry, name: str) -> _Present:
    champion = registry.version_with(name, CHAMPION)
    entered = journal(warehouse, name)
    known = entered[-1].champion_after if entered else None
    if champion == known:
        return _Present(champion, None)
    if champion is None:
        what = "The alias was taken away outside of MedScore."
        enter(warehouse, _decision(name, known or 0, ROLLED_BACK, what, OUTSIDE, known, None))
        return _Present(None, None)
    tags = next(v.tags for v in registry.versions(name) if v.version == champion)
    cut_short = pending(tags, name, known, champion)
    if cut_short is not None:
        return _Present(champion, enter(warehouse, cut_short))
    what = "The alias was found at this version: it was set outside of MedScore's commands."
    enter(warehouse, _decision(name, champion, PROMOTED, what, OUTSIDE, known, champion))
    return _Present(champion, None)


def _carry_out(warehouse: Warehouse, registry: ModelRegistry, made: Decision) -> Decision:
    """The three writes, in their order; then the challenger's alias, which an unfinished run may leave."""
    name, after = made.model_name, made.champion_after
    for version in {made.model_version, after} - {None}:
        registry.tag(name, int(version or 0), {DECISION_TAG: made.to_tag()})
    registry.tag(name, made.model_version, {REFUSED_TAG: made.reason if made.decision == REFUSED else ""})
    if after is not None and after != made.champion_before:
        registry.set_alias(name, after, CHAMPION)
    entered = enter(warehouse, made)
    if after is not None and registry.version_with(name, CHALLENGER) == after:
        registry.drop_alias(name, CHALLENGER)
    return entered


def _applicable(stored: StoredModel, champion: int | None, gate_hash: str) -> StoredVerdict:
    verdict = StoredVerdict.of(stored.tags)
    if verdict is None:
        what = "the challenger was not judged"
    elif verdict.against != champion:
        compared = "no champion" if verdict.against is None else f"version {verdict.against}"
        now = "none" if champion is None else f"version {champion}"
        what = f"the challenger was judged against {compared}, and the champion is {now}"
    elif verdict.gate_hash != gate_hash:
        what = "the challenger was judged by a gate with other rules"
    else:
        return verdict
    raise PermanentError(
        what,
        where=f"registered model {stored.name} version {stored.version}",
        mend=family(stored.name).judge_again,
    )


def _require_passed(stored: StoredModel) -> None:
    verdict = StoredVerdict.of(stored.tags)
    if verdict is None or not verdict.promote:
        why = "it never judged it" if verdict is None else " ".join(verdict.reasons).rstrip(".")
        raise PermanentError(
            f"the gate did not pass version {stored.version}: {why}",
            where=f"registered model {stored.name}",
            mend="If you answer for it nevertheless, add --override-gate and say why in the reason.",
        )


def _decision_behind(warehouse: Warehouse, name: str, champion: int | None) -> Decision:
    moves = [d for d in journal(warehouse, name) if d.champion_after == champion and d.decision != REFUSED]
    if champion is None or not moves:
        raise PermanentError(
            "there is neither a challenger nor a champion",
            where=f"registered model {name}",
            mend=f"Train a model: medscore train {name}",
        )
    return moves[-1]


def _before(warehouse: Warehouse, name: str, champion: int | None) -> int:
    earlier = [version for version in succession(journal(warehouse, name)) if version != champion]
    if not earlier:
        raise PermanentError(
            "there is no champion before the present one",
            where=f"registered model {name}",
            mend="Choose a version and promote it: medscore models list, medscore models promote",
        )
    return earlier[-1]


def _decision(
    name: str, version: int, decision: str, reason: str, by: str, before: int | None, after: int | None
) -> Decision:
    return Decision(0, name, version, decision, reason, by, datetime.now(UTC), before, after)


def _person(by: str) -> str:
    """Who decides by hand. Raises `PermanentError` for nobody, and for the names of what is no person."""
    if (named := by.strip()) in ("", GATE, OUTSIDE):
        raise PermanentError(
            "a decision by hand needs the name of who takes it", where="--by", mend="Give your name."
        )
    return named


def _record(instance: dg.DagsterInstance | None, made: Decision) -> None:
    if instance is not None and made.decided_by != GATE:
        instance.report_runless_asset_event(made.event(family(made.model_name).champion_asset))
