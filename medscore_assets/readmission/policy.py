"""The business rules on top of a probability: tier, actions, disclaimer, capacity.

Belongs here: the shape of `policy.toml`, its validation and hash, the one function each that turns
probabilities into tiers and rows into actions, and the one pair of probability and tier that may leave
the platform (`Score`). Does not belong here: the rules themselves (`policy.toml`) and the model.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from medscore_assets.contracts.contract import Matrix
from medscore_assets.contracts.fields import InvalidValue
from medscore_assets.contracts.readmission import READMISSION
from resources.errors import PermanentError

Tier = Literal["low", "moderate", "high", "very_high"]
TIERS: tuple[Tier, ...] = get_args(Tier)
FROM_HERE_ACT = TIERS.index("high")
"""From this tier on, "standard protocol" is never an answer."""

DISCLAIMER = "This score is a decision-support tool. Clinical judgment should guide all care decisions."
"""A legal requirement: every score carries this text. A policy may add to it and never drop or alter it."""

_NO_PROBABILITY = "a probability is outside of 0..1 or not a number"

_FEW = 32
"""Up to so many rows, each one's actions are put together by themselves."""

DEFAULT_FILE = Path(__file__).with_name("policy.toml")

Share = Annotated[float, Field(gt=0, lt=1)]
Text = Annotated[str, Field(min_length=1)]


class _Rules(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Condition(_Rules):
    """A test on one feature: `equals` a value, or `at_least` a number."""

    feature: str
    equals: bool | int | str | None = None
    at_least: int | None = None

    @model_validator(mode="after")
    def _fits_the_contract(self) -> Self:
        if self.feature not in READMISSION.feature_names:
            raise ValueError(f"{self.feature} is not a feature of the contract")
        if (self.equals is None) == (self.at_least is None):
            raise ValueError(f"{self.feature} needs either equals or at_least")
        try:
            self.code()
        except InvalidValue as invalid:
            raise ValueError(f"{self.feature} can never have that value ({invalid})") from None
        return self

    @property
    def column(self) -> int:
        """Which column of an encoded row is tested."""
        return READMISSION.feature_names.index(self.feature)

    def code(self) -> float:
        """What the column is compared with."""
        return READMISSION.features[self.column].code(self.at_least if self.equals is None else self.equals)


class Action(_Rules):
    """A recommended action: for all from a tier on, and only where every condition holds."""

    text: Text
    from_tier: Tier = "low"
    when: list[Condition] = []


@dataclass(frozen=True, slots=True)
class _Tests:
    """All conditions of all actions, to be tested at once."""

    columns: npt.NDArray[np.intp]
    codes: npt.NDArray[np.float32]
    exact: npt.NDArray[np.bool_]
    """Of shape (conditions,), like the two before: equal to the code, or at least that."""
    belongs: npt.NDArray[np.bool_]
    """Of shape (conditions, actions)."""
    from_tier: npt.NDArray[np.intp]
    """Of shape (actions,)."""

    @classmethod
    def of(cls, actions: list[Action]) -> Self:
        tests = [(number, condition) for number, action in enumerate(actions) for condition in action.when]
        belongs = np.zeros((len(tests), len(actions)), dtype=bool)
        belongs[range(len(tests)), [number for number, _ in tests]] = True
        return cls(
            np.array([condition.column for _, condition in tests], dtype=np.intp),
            np.array([condition.code() for _, condition in tests], dtype=np.float32),
            np.array([condition.equals is not None for _, condition in tests], dtype=bool),
            belongs,
            np.array([TIERS.index(action.from_tier) for action in actions], dtype=np.intp),
        )

    def applies(self, tiers: npt.NDArray[np.intp], matrix: Matrix) -> npt.NDArray[np.bool_]:
        """Which actions hold: a mask (rows, actions)."""
        found = matrix[:, self.columns]
        broken = np.where(self.exact, found != self.codes, found < self.codes)
        return np.asarray((tiers[:, np.newaxis] >= self.from_tier) & ~(broken @ self.belongs))


class TierEdges(_Rules):
    """Probability above which each tier begins; the edge itself belongs to the tier below."""

    moderate: Share
    high: Share
    very_high: Share

    @model_validator(mode="after")
    def _rise(self) -> Self:
        if not self.moderate < self.high < self.very_high:
            raise ValueError("the edges must rise from moderate to very_high")
        return self

    def indices(self, probabilities: npt.ArrayLike) -> npt.NDArray[np.intp]:
        """Index into `TIERS` per probability, compared as float64. Refuses NaN and what is outside 0..1."""
        values = np.asarray(probabilities, dtype=np.float64)
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError(_NO_PROBABILITY)
        return np.searchsorted(self._edges, values, side="left")

    def tier(self, probability: float) -> Tier:
        """The tier of one probability, as `indices` has it."""
        # A float32 would have its neighbours rounded to float32 where it is compared.
        probability = float(probability)
        if not 0 <= probability <= 1:
            raise ValueError(_NO_PROBABILITY)
        return TIERS[bisect.bisect_left(self._edges, probability)]

    @functools.cached_property
    def _edges(self) -> tuple[float, float, float]:
        return self.moderate, self.high, self.very_high


class Score(_Rules):
    """One probability with its tier, which cannot contradict each other. Made by `Policy.scored`."""

    readmission_probability: Annotated[float, Field(ge=0, le=1)]
    risk_tier: Tier
    edges: Annotated[TierEdges, Field(exclude=True, repr=False)]
    """The edges under which the tier holds; not part of what is sent."""

    @model_validator(mode="after")
    def _tier_follows_from_the_probability(self) -> Self:
        if self.risk_tier != self.edges.tier(self.readmission_probability):
            raise ValueError("the tier is not that of the probability")
        return self


class Quarantine(_Rules):
    """How many broken rows a day may have before nothing is published."""

    max_share: Share
    tolerated_rows: Annotated[int, Field(ge=0)]

    def stops(self, quarantined: int, rows: int) -> bool:
        """Whether so many broken rows of so many stop the day."""
        return quarantined > max(self.tolerated_rows, self.max_share * rows)


class Standard(_Rules):
    """What is said when no action applies."""

    text: Text


class Policy(_Rules):
    """The validated rules of one `policy.toml`."""

    version: Text
    disclaimer: Text
    daily_calls: Annotated[int, Field(ge=0)]
    top_factors: Annotated[int, Field(ge=1, le=len(READMISSION.features))]
    tiers: TierEdges
    quarantine: Quarantine
    standard: Standard
    actions: list[Action]

    @field_validator("disclaimer")
    @classmethod
    def _keeps_the_required_words(cls, text: str) -> str:
        added = text.removeprefix(DISCLAIMER)
        if added == text or (added and not added[0].isspace()):
            raise ValueError(f"it must begin, word for word, with: {DISCLAIMER}")
        return text

    @model_validator(mode="after")
    def _high_risk_always_gets_an_action(self) -> Self:
        if not any(TIERS.index(a.from_tier) <= FROM_HERE_ACT and not a.when for a in self.actions):
            raise ValueError("one action from tier high (or below) must hold without a condition")
        return self

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 of the rules, whatever the file's layout and comments."""
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()

    def tier_indices(self, probabilities: npt.ArrayLike) -> npt.NDArray[np.intp]:
        """Index into `TIERS` per probability, compared as float64. Refuses NaN and what is outside 0..1."""
        return self.tiers.indices(probabilities)

    def tier(self, probability: float) -> Tier:
        """The tier of one probability."""
        return self.tiers.tier(probability)

    def scored(self, probability: float) -> Score:
        """The probability with the tier that follows from it."""
        return Score(readmission_probability=probability, risk_tier=self.tier(probability), edges=self.tiers)

    def recommended_actions(self, probabilities: npt.ArrayLike, matrix: Matrix) -> list[tuple[str, ...]]:
        """Per row the texts of the actions that apply, in the policy's order; never empty."""
        applies = self._tests.applies(self.tier_indices(probabilities), matrix)
        if len(applies) < _FEW:
            return [self._texts(chosen) for chosen in applies.tolist()]
        # Hundreds of rows have a dozen different answers, which are put together once each.
        packed = np.packbits(applies, axis=1)
        keys = packed.view(f"S{packed.shape[1]}").ravel().tolist()
        first = {key: row for row, key in enumerate(keys)}
        texts = {key: self._texts(applies[row].tolist()) for key, row in first.items()}
        return [texts[key] for key in keys]

    def actions_for(self, probability: float, codes: Sequence[float]) -> tuple[str, ...]:
        """What `recommended_actions` gives for one row, by the contract's order, without its arrays."""
        tier = TIERS.index(self.tier(probability))
        found = tuple(
            text
            for text, least, tests in self._plain_tests
            if tier >= least
            and all(
                codes[column] == code if exact else codes[column] >= code for column, exact, code in tests
            )
        )
        return found or (self.standard.text,)

    @functools.cached_property
    def _plain_tests(self) -> list[tuple[str, int, list[tuple[int, bool, float]]]]:
        return [
            (
                action.text,
                TIERS.index(action.from_tier),
                [(c.column, c.equals is not None, float(np.float32(c.code()))) for c in action.when],
            )
            for action in self.actions
        ]

    def _texts(self, chosen: list[bool]) -> tuple[str, ...]:
        found = tuple([action.text for action, wanted in zip(self.actions, chosen, strict=True) if wanted])
        return found or (self.standard.text,)

    @functools.cached_property
    def _tests(self) -> _Tests:
        return _Tests.of(self.actions)

    def percent(self, probability: float) -> str:
        """The probability for people, one decimal, never rounded over a tier's edge."""
        shown = round(probability * 100, 1)
        if self.tier(min(shown / 100, 1.0)) != self.tier(probability):
            shown += 0.1 if shown < probability * 100 else -0.1
        return f"{shown:.1f} %"


def plain_percent(probability: float) -> str:
    """The probability for people, one decimal, where the edges of its tier are not known."""
    return f"{probability * 100:.1f} %"


def load_policy(file: Path = DEFAULT_FILE) -> Policy:
    """The policy in a TOML file. Raises `PermanentError` that names the entry that is wrong."""
    try:
        return Policy.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise PermanentError(
            f"the policy cannot be read: {error.strerror}",
            where=str(file),
            mend="Set MEDSCORE_POLICY_FILE to a policy file.",
        ) from error
    except UnicodeDecodeError as error:
        raise PermanentError(
            "the policy is not UTF-8", where=str(file), mend="Save the file as UTF-8."
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise PermanentError(
            f"the policy is not valid TOML: {error}", where=str(file), mend="Correct that line."
        ) from error
    except ValidationError as error:
        raise PermanentError(
            f"the policy is not valid: {_entries(error)}", where=str(file), mend="Correct these entries."
        ) from error


def _entries(error: ValidationError) -> str:
    found: list[dict[str, Any]] = [dict(e) for e in error.errors(include_url=False, include_input=False)]
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'the whole'}: {e['msg']}" for e in found)
