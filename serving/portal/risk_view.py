"""One score as a person reads it: risk, tier, a bar per reason, next steps.

Belongs here: words and lengths for the template. Does not belong here: HTTP, and how a score is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from medscore_assets.readmission.policy import TIERS, Policy, plain_percent
from medscore_assets.readmission.single import SingleScore
from serving.portal.list_view import TIER_NAMES, reason

_HALF = 50.0
"""Bars begin in the middle of a drawing 100 wide."""

_LEAST_SCALE = 0.8
"""Log-odds of a full bar at least, so that a patient like the average one has short bars."""

_MINUS = "\u2212"


@dataclass(frozen=True, slots=True)
class Bar:
    """What one feature does. `start` and `width` are percent of the drawing."""

    text: str
    effect: str
    direction: str
    contribution: str
    start: float
    width: float


@dataclass(frozen=True, slots=True)
class Segment:
    """One tier on the scale of risk, in percent."""

    tier: str
    name: str
    start: float
    width: float


@dataclass(frozen=True, slots=True)
class Risk:
    """A score, ready for the template. `edges` is empty where the rules in force are not the score's."""

    percent: str
    place: float
    tier: str
    tier_name: str
    bars: list[Bar]
    actions: Sequence[str]
    disclaimer: str
    model_version: int
    policy_version: str
    segments: list[Segment]

    @property
    def said(self) -> str:
        """The score in one sentence, for a screen reader."""
        return f"{self.tier_name} risk, {self.percent}."


def risk_of(score: SingleScore, policy: Policy) -> Risk:
    """The view of a score that was made under `policy`."""
    return Risk(
        percent=policy.percent(score.probability),
        place=round(score.probability * 100, 2),
        tier=score.tier,
        tier_name=TIER_NAMES[score.tier],
        bars=bars([asdict(factor) for factor in score.explanation]),
        actions=score.actions,
        disclaimer=score.disclaimer,
        model_version=score.model_version,
        policy_version=score.policy_version,
        segments=segments(policy),
    )


def risk_of_row(row: Mapping[str, Any], policy: Policy) -> Risk:
    """The view of a row of `readmission_scores`, under whatever policy it was made."""
    same = row["policy_hash"] == policy.hash
    probability = row["readmission_probability"]
    return Risk(
        percent=policy.percent(probability) if same else plain_percent(probability),
        place=round(probability * 100, 2),
        tier=row["risk_tier"],
        tier_name=TIER_NAMES[row["risk_tier"]],
        bars=bars(row["explanation"]["factors"]),
        actions=row["recommended_actions"],
        disclaimer=row["disclaimer"],
        model_version=row["model_version"],
        policy_version=row["policy_version"],
        segments=segments(policy) if same else [],
    )


def bars(factors: Sequence[Mapping[str, Any]]) -> list[Bar]:
    """A bar per factor, from the middle to the right if it raises the risk, to the left if it lowers it."""
    scale = max([_LEAST_SCALE, *(abs(f["contribution"]) for f in factors)])
    found = []
    for factor in factors:
        width = round(abs(factor["contribution"]) / scale * _HALF, 2)
        said = reason(dict(factor))
        found.append(
            Bar(
                text=said.text[:1].upper() + said.text[1:],
                effect=said.effect,
                direction=factor["direction"],
                contribution=f"{factor['contribution']:+.2f}".replace("-", _MINUS),
                start=_HALF if factor["direction"] == "raises" else round(_HALF - width, 2),
                width=width,
            )
        )
    return found


def segments(policy: Policy) -> list[Segment]:
    """The tiers on a scale from 0 to 100 %."""
    edges = [0.0, policy.tiers.moderate * 100, policy.tiers.high * 100, policy.tiers.very_high * 100, 100.0]
    return [
        Segment(tier, TIER_NAMES[tier], round(start, 2), round(end - start, 2))
        for tier, start, end in zip(TIERS, edges, edges[1:], strict=False)
    ]
