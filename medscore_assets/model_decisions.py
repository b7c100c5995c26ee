"""The journal of decisions about model versions, and the promotion gate's verdict on its way to one.

Belongs here: reading and writing `model_decisions`, what follows from its rows, and how a verdict and a
decision are written on a version in the registry. Does not belong here: deciding (`promotion.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

import sqlalchemy as sa

from medscore_assets.tables import model_decisions
from resources.errors import IntegrityError, PermanentError
from resources.warehouse import Warehouse

if TYPE_CHECKING:
    import dagster as dg

PROMOTED, REFUSED, ROLLED_BACK = "promoted", "refused", "rolled_back"

GATE = "promotion gate"
"""Who decided, where nobody did by hand. Its decisions are told to Dagster by the run that applies them."""

OUTSIDE = "outside of MedScore"
"""Who decided, where the alias was found moved."""

VERDICT_TAG = "gate_verdict"
DECISION_TAG = "last_decision"


@dataclass(frozen=True, slots=True)
class Decision:
    """One row of `model_decisions`. `decision_id` is 0 until it is entered."""

    decision_id: int
    model_name: str
    model_version: int
    decision: str
    reason: str
    decided_by: str
    decided_at: datetime
    champion_before: int | None
    champion_after: int | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"decided_at": self.decided_at.isoformat()}

    def to_tag(self) -> str:
        """As it stands on the versions that it is about."""
        return json.dumps({k: v for k, v in self.as_dict().items() if k not in ("decision_id", "model_name")})

    def metadata(self) -> dict[str, Any]:
        """As Dagster shows it."""
        shown = {
            "decision_id": self.decision_id,
            "decision": self.decision,
            "model_version": self.model_version,
            "reason": self.reason,
            "decided_by": self.decided_by,
            "champion_before": self.champion_before,
            "champion_after": self.champion_after,
        }
        return {name: "none" if value is None else value for name, value in shown.items()}

    def event(self, asset: str) -> dg.AssetMaterialization:
        """The event that tells Dagster of a decision that no run made."""
        import dagster as dg

        what = f"Version {self.model_version} {self.decision.replace('_', ' ')} by {self.decided_by}"
        return dg.AssetMaterialization(asset, description=f"{what}: {self.reason}", metadata=self.metadata())


@dataclass(frozen=True, slots=True)
class StoredVerdict:
    """What the gate said of a version, and under which conditions: it holds under these only."""

    promote: bool
    reasons: tuple[str, ...]
    """Of a refusal; empty if `promote`."""
    against: int | None
    """The version that was champion; None if there was none and the baselines alone had to be beaten."""
    gate_hash: str
    data_fingerprint: str
    """Of the training set whose test part it was judged on."""
    compared: bool = True
    """Whether the champion was compared with; one of another contract cannot be, and the baselines were."""

    def to_tag(self) -> str:
        """As it stands on the version: in one tag, so that it is there whole or not at all."""
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, tags: Mapping[str, str]) -> Self | None:
        """The verdict on a version with these tags, if it was judged. Raises `IntegrityError`."""
        text = tags.get(VERDICT_TAG)
        if text is None:
            return None
        try:
            found = json.loads(text)
            return cls(**found | {"reasons": tuple(found["reasons"])})
        except (ValueError, TypeError, KeyError):
            raise IntegrityError(
                f"the tag {VERDICT_TAG} is not a verdict",
                where="model registry",
                mend="Judge the version again: materialize readmission_evaluation.",
            ) from None


def journal(warehouse: Warehouse, name: str, *, after: int = 0) -> list[Decision]:
    """The decisions about a family's versions with an id above `after`, oldest first."""
    query = (
        sa.select(model_decisions)
        .where(model_decisions.c.model_name == name, model_decisions.c.decision_id > after)
        .order_by(model_decisions.c.decision_id)
    )
    return [Decision(**row) for row in warehouse.read(query).to_pylist()]


def enter(warehouse: Warehouse, decision: Decision) -> Decision:
    """Append a decision; it with its id. The row is committed when this returns."""
    row = {name: value for name, value in asdict(decision).items() if name != "decision_id"}
    statement = sa.insert(model_decisions).values(row).returning(model_decisions.c.decision_id)
    with warehouse.transaction() as connection:
        entered = connection.execute(statement).scalar_one()
    return replace(decision, decision_id=int(entered))


def pending(tags: Mapping[str, str], name: str, before: int | None, after: int) -> Decision | None:
    """The decision on a version's tag, if it is the move from `before` to `after`: one that was cut short."""
    try:
        found = json.loads(tags.get(DECISION_TAG, "null"))
        if (found["champion_before"], found["champion_after"]) != (before, after):
            return None
        decided_at = datetime.fromisoformat(found["decided_at"])
        return Decision(**found | {"decision_id": 0, "model_name": name, "decided_at": decided_at})
    except (ValueError, TypeError, KeyError):
        return None


def succession(decisions: Sequence[Decision]) -> list[int]:
    """The champions that lead to the present one, which is last: what was rolled back is not among them."""
    line: list[int] = []
    for decision in decisions:
        if decision.champion_after is None:
            continue
        if decision.decision == PROMOTED:
            line.append(decision.champion_after)
        elif decision.decision == ROLLED_BACK:
            while line and line[-1] != decision.champion_after:
                line.pop()
            line = line or [decision.champion_after]
    return line


def require_reason(reason: str, at_least: int) -> str:
    """The reason without blanks around it. Raises `PermanentError` if it is shorter than that."""
    if len(stated := " ".join(reason.split())) < at_least:
        raise PermanentError(
            f"a decision needs a reason of at least {at_least} characters",
            where="--reason",
            mend="Say why, in words that somebody else understands in a year; name no patient.",
        )
    return stated
