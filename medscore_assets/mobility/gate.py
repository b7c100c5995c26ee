"""Whether a trained mobility model may take the champion's place: the rules, and their verdict in words.

Belongs here: the rules of `gate.toml` and their application to held-out rows. Does not belong here: making
forecasts, which forecast serves a route (`evaluation.py`), and moving the alias (`promotion.py`).

Both models meet the same rows of the present training set, of patients and dates that the challenger has not
learned from. The champion may know some of the patients; that can only help the champion.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from medscore_assets.mobility.baselines import NAIVE
from medscore_assets.mobility.evaluation import FEWEST_PATIENTS, SETS, HeldOut
from medscore_assets.monitoring.assessment import Interval
from resources.errors import PermanentError

CHALLENGER_FORECAST = "challenger"
CHAMPION_FORECAST = "champion"
"""The two models' names among the forecasts of the held-out rows, beside the naive ones."""

DEFAULT_FILE = Path(__file__).with_name("gate.toml")

Share = Annotated[float, Field(ge=0, le=1)]


class Gate(BaseModel):
    """The rules."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    version: str
    margin: Share
    lowest_coverage: Share
    highest_coverage: Share

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.lowest_coverage >= self.highest_coverage:
            raise ValueError("lowest_coverage must be below highest_coverage")
        return self

    @property
    def hash(self) -> str:
        """SHA-256 of the rules; wording does not change it."""
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate says of a challenger. `reasons` are those of a refusal."""

    promote: bool
    reasons: tuple[str, ...]
    metrics: Mapping[str, float]
    """By `set.measure`, of the challenger, and `set.difference` in steps from rivals."""


def load_gate(file: Path = DEFAULT_FILE) -> Gate:
    """The gate in a file. Raises `PermanentError` that names the entry that is wrong."""
    try:
        return Gate.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except (OSError, tomllib.TOMLDecodeError) as error:
        what = f"the gate of mobility cannot be read: {error}"
    except ValidationError as error:
        entries = ", ".join(".".join(map(str, e["loc"])) or e["msg"] for e in error.errors())
        what = f"the gate of mobility is not valid: {entries}"
    raise PermanentError(what, where=str(file), mend="Correct the file.")


def judge(held_out: HeldOut, gate: Gate) -> Verdict:
    """The verdict on the forecasts `challenger`, against `champion` if it is there, and the naive ones.

    Every set must have `FEWEST_PATIENTS` patients; fewer are no ground to promote anything on.
    """
    reasons: list[str] = []
    metrics: dict[str, float] = {}
    for of_set in held_out.in_set:
        if (patients := held_out.patients_in(of_set)) < FEWEST_PATIENTS:
            reasons.append(
                f"{patients} patients in {SETS[of_set]} are too few to trust a model, at least "
                f"{FEWEST_PATIENTS} are needed."
            )
            continue
        measured = held_out.measured(CHALLENGER_FORECAST, of_set).measures
        metrics |= {f"{of_set}.{n}": v.estimate for n, v in measured.items() if v.estimate is not None}
        reasons += _of_coverage(measured.get("coverage"), of_set, gate)
        for rival in (_best_naive(held_out, of_set), CHAMPION_FORECAST):
            if rival in held_out.forecasts:
                found = held_out.difference(CHALLENGER_FORECAST, rival, of_set)
                if found.estimate is not None:
                    metrics[f"{of_set}.difference_from_{rival}"] = found.estimate
                reasons += _of_difference(held_out, rival, of_set, found, gate)
    return Verdict(not reasons, tuple(reasons), metrics)


def _best_naive(held_out: HeldOut, of_set: str) -> str:
    return held_out.best([name for name in NAIVE if name in held_out.forecasts], [of_set])


def _of_coverage(coverage: Interval | None, of_set: str, gate: Gate) -> list[str]:
    if coverage is None or coverage.lower is None or coverage.upper is None:
        return [f"It has no intervals whose coverage could be measured on {SETS[of_set]}."]
    if coverage.upper < gate.lowest_coverage or coverage.lower > gate.highest_coverage:
        return [
            f"Its intervals hold {coverage.estimate:.1%} of the days of {SETS[of_set]} (95 % interval "
            f"{coverage.lower:.1%} to {coverage.upper:.1%}); {gate.lowest_coverage:.0%} to "
            f"{gate.highest_coverage:.0%} are allowed."
        ]
    return []


def _of_difference(held_out: HeldOut, rival: str, of_set: str, found: Interval, gate: Gate) -> list[str]:
    """A champion may be better by the margin at most; a naive forecast must be surely worse."""
    if rival == CHAMPION_FORECAST:
        error = held_out.measured(rival, of_set).measures["mae"].estimate or 0.0
        allowed, whom = gate.margin * error, "the champion"
        well = found.upper is not None and found.upper <= allowed
        rule = f"at most {allowed:,.0f} are allowed"
    else:
        whom, rule = f"{NAIVE[rival][:1].lower()}{NAIVE[rival][1:]}", "it must be below 0"
        well = found.upper is not None and found.upper < 0
    if well:
        return []
    upper = "unknown" if found.upper is None else f"{found.upper:+,.0f}"
    return [
        f"On {SETS[of_set]} its mean absolute error may be {upper} steps from that of {whom} "
        f"(upper end of the 95 % interval); {rule}."
    ]
