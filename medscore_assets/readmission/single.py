"""One patient's score, as every interactive path gives it: the functions of the list, on few rows.

Belongs here: what is said about a row (probability, tier, actions, reasons, versions) and nothing else.
Does not belong here: how it is asked for, stored or shown (`serving/`), and lists (`outreach.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medscore_assets.contracts.contract import Matrix
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.readmission.outreach import features_sha256
from medscore_assets.readmission.policy import Policy, Tier
from medscore_assets.readmission.reasons import Factor, factors
from medscore_assets.readmission.scoring import Probabilities, ReadmissionModel


@dataclass(frozen=True, slots=True)
class SingleScore:
    """All that may be said about one patient's features.

    `explanation` holds every feature, the strongest first, and is empty if it was not asked for; its
    contributions and the `baseline` add up to the logit of the probability, within the contributions'
    rounding. `top_factors` are those of it that the morning list shows.
    """

    probability: float
    tier: Tier
    actions: tuple[str, ...]
    explanation: tuple[Factor, ...]
    top_factors: tuple[Factor, ...]
    baseline: float
    features_sha256: str
    model_name: str
    model_version: int
    contract_hash: str
    policy_version: str
    policy_hash: str
    disclaimer: str


def score_one(
    features: Mapping[str, Any],
    model: ReadmissionModel,
    model_version: int,
    policy: Policy,
    *,
    explain: bool = True,
) -> SingleScore:
    """The score of one patient. Raises `ContractViolation` if a feature is not valid by the contract.

    Keys beyond the features are ignored; the request model forbids them.
    """
    return score_each([features], model, model_version, policy, explain=explain)[0]


def score_each(
    rows: Sequence[Mapping[str, Any]],
    model: ReadmissionModel,
    model_version: int,
    policy: Policy,
    *,
    explain: bool = True,
) -> list[SingleScore]:
    """The scores of some patients, at least one, in their order; otherwise as `score_one`."""
    encoded = [READMISSION.encode_row(row) for row in rows]
    matrix = np.concatenate(encoded) if len(encoded) > 1 else encoded[0]
    if explain:
        explained = model.explain(matrix)
        probabilities, reasons = explained.probabilities, factors(matrix, explained)
    else:
        probabilities, reasons = model.score(matrix), [()] * len(matrix)
    policy_hash = policy.hash
    return [
        SingleScore(
            probability=scored.readmission_probability,
            tier=scored.risk_tier,
            actions=actions,
            explanation=explanation,
            top_factors=tuple(f for f in explanation[: policy.top_factors] if f.direction != "neutral"),
            baseline=model.baseline,
            features_sha256=digest,
            model_name=model.name,
            model_version=model_version,
            contract_hash=READMISSION.hash,
            policy_version=policy.version,
            policy_hash=policy_hash,
            disclaimer=policy.disclaimer,
        )
        for scored, actions, explanation, digest in zip(
            map(policy.scored, probabilities.tolist()),
            _actions(policy, probabilities, matrix),
            reasons,
            features_sha256(matrix),
            strict=True,
        )
    ]


def _actions(policy: Policy, probabilities: Probabilities, matrix: Matrix) -> Sequence[tuple[str, ...]]:
    if len(matrix) == 1:
        return [policy.actions_for(probabilities.item(), matrix[0].tolist())]
    return policy.recommended_actions(probabilities, matrix)
