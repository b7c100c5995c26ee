"""Whether a newly trained model may be used.

Belongs here: the shape of `gate.toml`, the decision, from measurements alone, and the reasons for a refusal.
Does not belong here: measuring (`evaluation.py`), the margins (`gate.toml`), moving aliases
(`resources/registry.py`).

Every rule asks whether a model is shown to be good enough; what is undefined is not shown. "Not worse"
is non-inferiority: the unfavourable end of the paired interval stays within the margin, so that few cases
refuse rather than promote. In a subgroup it is the other way round, since there are many of them: a fall
must exceed the margin and be beyond chance to refuse.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from medscore_assets.monitoring.assessment import Assessment, Difference, Interval
from medscore_assets.monitoring.evaluation import EVERYBODY, measure
from medscore_assets.monitoring.resampling import net_benefit_name
from resources.errors import PermanentError

DEFAULT_FILE = Path(__file__).with_name("gate.toml")

Share = Annotated[float, Field(gt=0, lt=1)]
Margin = Annotated[float, Field(ge=0, lt=1)]


class _Rules(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Slope(_Rules):
    """The calibration slopes with which a model may be used, both ends included."""

    lowest: Annotated[float, Field(gt=0, le=1)]
    highest: Annotated[float, Field(ge=1)]


class NotWorse(_Rules):
    """How much worse the unfavourable end of a paired interval may be."""

    brier: Margin
    net_benefit: Margin


class InSubgroups(_Rules):
    """How far a subgroup with so many cases and events may fall."""

    min_cases: Annotated[int, Field(ge=1)]
    min_events: Annotated[int, Field(ge=1)]
    brier: Margin
    net_benefit: Margin
    error_in_the_large: Margin


class Gate(_Rules):
    """The validated rules of one `gate.toml`."""

    version: Annotated[str, Field(min_length=1)]
    thresholds: Annotated[list[Share], Field(min_length=1)]
    resamples: Annotated[int, Field(ge=100)]
    slope: Slope
    not_worse: NotWorse
    subgroups: InSubgroups

    @model_validator(mode="after")
    def _thresholds_rise(self) -> Self:
        if sorted(set(self.thresholds)) != self.thresholds:
            raise ValueError("the thresholds must rise")
        return self

    @property
    def hash(self) -> str:
        """SHA-256 of the rules, whatever the file's layout and comments."""
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()


def load_gate(file: Path = DEFAULT_FILE) -> Gate:
    """The gate in a TOML file. Raises `PermanentError` that names the entry that is wrong."""
    try:
        return Gate.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        what, mend = f"the gate cannot be read: {error.strerror}", "Name a file that exists."
        raise PermanentError(what, where=str(file), mend=mend) from error
    except tomllib.TOMLDecodeError as error:
        what = f"the gate is not valid TOML: {error}"
        raise PermanentError(what, where=str(file), mend="Correct that line.") from error
    except ValidationError as error:
        what = f"the gate is not valid: {_entries(error)}"
        raise PermanentError(what, where=str(file), mend="Correct these entries.") from error


def _entries(error: ValidationError) -> str:
    found: list[dict[str, Any]] = [dict(e) for e in error.errors(include_url=False, include_input=False)]
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'the whole'}: {e['msg']}" for e in found)


@dataclass(frozen=True, slots=True)
class Check:
    """One rule as it was applied. `sentence` tells what was found, whether it passed or not."""

    measure: str
    subject: str
    """"all", or "insurance_type = medicaid"."""
    against: str
    """The model compared with; empty where the model is judged by itself."""
    found: float | None
    """The figure that the rule looks at; for differences positive where the model is worse."""
    limit: float
    passed: bool
    sentence: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the model may be used, why not, and every rule that was applied."""

    promote: bool
    reasons: tuple[str, ...]
    """A plain sentence per rule that was broken; empty if the model may be used."""
    checked: tuple[Check, ...]


def judge(assessment: Assessment, champion: str | None, baselines: Sequence[str], gate: Gate) -> Verdict:
    """The decision on the assessed model, by the names of those that it is compared with.

    Its calibration slope must lie within bounds. Against a champion it must not be worse in Brier score
    and net benefit, and no subgroup may fall. Without one it must have a lower Brier score than every
    baseline and not be worse in net benefit.

    Raises `ValueError` if the assessment lacks one of the models or thresholds.
    """
    compared = [champion] if champion is not None else list(baselines)
    if lacking := [name for name in compared if name not in assessment.differences]:
        raise ValueError(f"the assessment does not compare with {', '.join(lacking)}")
    if not set(gate.thresholds) <= set(assessment.thresholds):
        raise ValueError("the assessment has no net benefit at a threshold of the gate")
    if not compared:
        raise ValueError("there is neither a champion nor a baseline to compare with")
    checks = [_slope(assessment, gate)]
    for name in compared:
        checks += _against(assessment, name, gate, in_use=champion is not None)
    reasons = tuple(check.sentence for check in checks if not check.passed)
    return Verdict(not reasons, reasons, tuple(checks))


def _slope(assessment: Assessment, gate: Gate) -> Check:
    slope = assessment.performance[assessment.model].measures["calibration_slope"].estimate
    low, high = gate.slope.lowest, gate.slope.highest
    passed = slope is not None and low <= slope <= high
    found = "is undefined" if slope is None else f"is {slope:.3f}"
    sentence = f"The calibration slope {found}, {'within' if passed else 'outside of'} {low:g} to {high:g}."
    limit = high if slope is not None and slope > 1 else low
    return Check("calibration_slope", EVERYBODY, "", slope, limit, passed, sentence)


def _against(assessment: Assessment, name: str, gate: Gate, *, in_use: bool) -> Iterator[Check]:
    benefits = {net_benefit_name(t) for t in gate.thresholds}
    whole = {"brier": gate.not_worse.brier} | dict.fromkeys(benefits, gate.not_worse.net_benefit)
    falls = {
        "brier": gate.subgroups.brier,
        "error_in_the_large": gate.subgroups.error_in_the_large,
        **dict.fromkeys(benefits, gate.subgroups.net_benefit),
    }
    for difference in assessment.differences[name]:
        if difference.subject == EVERYBODY:
            if difference.measure == "brier" and not in_use:
                yield _beats(difference, name)
            elif difference.measure in whole:
                yield _not_worse(difference, name, whole[difference.measure])
        elif in_use and difference.measure in falls and _large_enough(difference, gate):
            yield _does_not_fall(difference, name, falls[difference.measure])


def _large_enough(difference: Difference, gate: Gate) -> bool:
    rules = gate.subgroups
    return difference.n >= rules.min_cases and difference.events >= rules.min_events


def _beats(difference: Difference, name: str) -> Check:
    by = _worse_by(difference).estimate
    passed = by is not None and by < 0
    words = measure(difference.measure).words
    if by is None:
        found = f"The {words} compared with {name} is undefined"
    elif passed:
        found = f"The {words} is {-by:.4f} better than that of {name}"
    else:
        found = f"The {words} is {by:.4f} worse than that of {name}, which it must beat"
    return Check(difference.measure, difference.subject, name, by, 0.0, passed, f"{found}.")


def _not_worse(difference: Difference, name: str, margin: float) -> Check:
    worst = _worse_by(difference).upper
    passed = worst is not None and worst <= margin
    words = measure(difference.measure).words
    if worst is None:
        found = f"How the {words} compares with that of {name} is undefined"
    elif worst <= 0:
        found = f"The {words} is better than that of {name} by at least {-worst:.4f}, by the paired interval"
    else:
        found = (
            f"The {words} may be up to {worst:.4f} worse than that of {name} by the paired interval, "
            f"{'within' if passed else 'more than'} the margin of {margin:g}"
        )
    return Check(difference.measure, difference.subject, name, worst, margin, passed, f"{found}.")


def _does_not_fall(difference: Difference, name: str, margin: float) -> Check:
    worse = _worse_by(difference)
    by, least = worse.estimate, worse.lower
    words, whom = measure(difference.measure).words, f"for {difference.subject} ({difference.n} cases)"
    if by is None or least is None:
        sentence = f"How the {words} {whom} compares with that of {name} is undefined."
        return Check(difference.measure, difference.subject, name, by, margin, False, sentence)
    passed = not (by > margin and least > 0)
    against = "within" if by <= margin else "more than"
    chance = ", but not beyond chance" if by > margin and passed else ""
    way = "worse" if by > 0 else "better"
    sentence = (
        f"The {words} {whom} is {abs(by):.4f} {way} than that of {name}, "
        f"{against} the margin of {margin:g}{chance}."
    )
    return Check(difference.measure, difference.subject, name, by, margin, passed, sentence)


def _worse_by(difference: Difference) -> Interval:
    """The difference turned so that above 0 is worse."""
    of = difference.difference
    if difference.better_if == "lower":
        return of
    ends = (of.estimate, of.upper, of.lower)
    return Interval(*(None if end is None else 0.0 - end for end in ends))
