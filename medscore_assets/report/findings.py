"""What an assessment says, in plain sentences: usefulness, calibration, workload.

Belongs here: the sentences that are true or false by the measured values, so that no page has to judge.
Does not belong here: layout (`evaluation_page.py`) and how a number is written (`wording.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from medscore_assets.monitoring.assessment import Assessment, Difference, Flagged, Interval
from medscore_assets.monitoring.decisions import TREAT_ALL, TREAT_NONE
from medscore_assets.monitoring.evaluation import EVERYBODY
from medscore_assets.monitoring.resampling import net_benefit_name
from medscore_assets.report import wording
from medscore_assets.report.model_card import CardTexts

STATED_THRESHOLDS = (0.1, 0.2)
"""Where every report says whether the model is worth more than its baselines."""


@dataclass(frozen=True, slots=True)
class Rival:
    """What the model's net benefit is compared with at a threshold."""

    name: str
    net_benefit: float
    above: bool
    """Whether the model's estimate is higher."""
    difference: Interval | None
    """Model minus rival with its paired interval, where it was measured."""

    @property
    def within_chance(self) -> bool:
        """Whether the measured difference may be chance: its interval holds zero or has no limits."""
        found = self.difference
        if found is None or not (wording.is_defined(found.lower) and wording.is_defined(found.upper)):
            return self.difference is not None
        return found.lower <= 0 <= found.upper


@dataclass(frozen=True, slots=True)
class Benefit:
    """The model's net benefit at a threshold beside that of everything it must be worth more than."""

    threshold: float
    model: Interval
    rivals: tuple[Rival, ...]

    @property
    def above_all(self) -> bool | None:
        """Whether the estimate is above every rival's; None where it is undefined."""
        return all(r.above for r in self.rivals) if wording.is_defined(self.model.estimate) else None


def benefit(assessment: Assessment, threshold: float, champion: str | None) -> Benefit:
    """The net benefits at one threshold. The champion is no rival here: it has a section of its own."""
    curve = assessment.decision_curve
    name = net_benefit_name(threshold)
    values = {
        other: float(np.interp(threshold, curve.thresholds, found))
        for other, found in curve.net_benefit.items()
    }
    own = assessment.performance[assessment.model].measures.get(name) or Interval(
        values.get(assessment.model)
    )
    estimate = own.estimate if wording.is_defined(own.estimate) else float("nan")
    rivals = tuple(
        Rival(
            other,
            value,
            estimate > value,
            _difference(assessment.differences.get(other, ()), name),
        )
        for other, value in values.items()
        if other not in (assessment.model, champion)
    )
    return Benefit(threshold, own, rivals)


def _difference(differences: tuple[Difference, ...], measure: str) -> Interval | None:
    found = (d.difference for d in differences if d.measure == measure and d.subject == EVERYBODY)
    return next(found, None)


def benefit_sentence(found: Benefit, texts: CardTexts) -> str:
    """One benefit in plain words, with the plain statement where the model is not worth more."""
    at = wording.threshold(found.threshold)
    if found.above_all is None:
        return f"At {at} the net benefit is {wording.NOT_DEFINED}."
    worth = wording.number((found.model.estimate or 0.0) * 1000, 1)
    begins = (
        f"At {at} the net benefit is {wording.interval(found.model, 4)}: worth finding {worth} "
        f"{texts.words.events} per 1,000 {texts.words.cases} without one needless {texts.words.action}."
    )
    above = [_with_benefit(r, texts) for r in found.rivals if r.above]
    below = [_with_benefit(r, texts) for r in found.rivals if not r.above]
    unsure = [rival_name(r.name, texts) for r in found.rivals if r.within_chance]
    compared = f"It is not above {_listed(below)}" if below else f"It is above {_listed(above)}"
    if below and above:
        compared += f"; it is above {_listed(above)}"
    if unsure:
        compared += f". The interval of the difference to {_listed(unsure)} includes zero"
    return f"{begins} {compared}."


def _with_benefit(rival: Rival, texts: CardTexts) -> str:
    return f"{rival_name(rival.name, texts)} ({wording.number(rival.net_benefit, 4)})"


def benefit_verdict(benefits: list[Benefit], texts: CardTexts) -> str:
    """Above everything at every stated threshold, or the plain statement that it is not."""
    stated = _listed([wording.threshold(b.threshold) for b in benefits])
    if any(b.above_all is None for b in benefits):
        return f"Net benefit is {wording.NOT_DEFINED} at {stated}."
    failed: dict[str, list[str]] = {}
    for found in benefits:
        for rival in found.rivals:
            if not rival.above:
                at = failed.setdefault(rival_name(rival.name, texts), [])
                at.append(wording.threshold(found.threshold))
    if failed:
        return (
            f"Net benefit is NOT above {'; nor '.join(f'{n} at {_listed(at)}' for n, at in failed.items())}."
        )
    names = list(dict.fromkeys(rival_name(r.name, texts) for b in benefits for r in b.rivals))
    return f"Net benefit is above {_listed(names)} at {stated}."


def rival_name(name: str, texts: CardTexts) -> str:
    """A model or strategy as the object of a sentence."""
    special = {
        TREAT_ALL: f"{texts.words.acting} everybody",
        TREAT_NONE: f"{texts.words.acting} nobody",
    }
    return special.get(name) or texts.names.get(name, wording.words(name))


def slope_sentence(slope: Interval) -> str:
    """What a calibration slope says of the risks."""
    if not wording.is_defined(slope.estimate):
        return "It needs cases with both outcomes, and risks that differ."
    if (
        wording.is_defined(slope.lower)
        and wording.is_defined(slope.upper)
        and slope.lower <= 1 <= slope.upper
    ):
        return "1 is right, and lies within the interval."
    spread = "too extreme" if slope.estimate < 1 else "too much alike"
    return f"1 is right; the risks are {spread}."


def calibration_sentence(measures: Mapping[str, Interval], texts: CardTexts) -> str:
    """Mean risk beside the observed rate."""
    predicted, observed = (measures.get(name, Interval(None)) for name in ("mean_predicted", "mean_observed"))
    return (
        f"On average a risk of {wording.percent(predicted.estimate)} was predicted; "
        f"{wording.interval(observed, 1, as_percent=True)} had a {texts.words.event}."
    )


def workload_sentence(flagged: Flagged, texts: CardTexts) -> str:
    """`Call everybody above 20 %: 18.2 of 100 discharges, 4.1 calls per readmission, ...`."""
    words = texts.words
    begins = f"{words.act_on} everybody {flagged_from(flagged, texts.names)}: "
    if wording.is_small(flagged.flagged):
        return f"{begins}{wording.HIDDEN} {words.cases}, too few to say more."
    if not flagged.flagged:
        return f"{begins}nobody."
    rate = flagged.flag_rate.estimate
    share = wording.number(rate * 100, 1) if wording.is_defined(rate) else wording.NOT_DEFINED
    return (
        f"{begins}{share} of 100 {words.cases}, "
        f"{wording.number(flagged.number_needed_to_evaluate.estimate, 1)} {words.actions} per {words.event}; "
        f"{wording.percent(flagged.sensitivity.estimate, 0)} of all {words.events} are among them."
    )


def flagged_from(flagged: Flagged, names: Mapping[str, str]) -> str:
    """From where on one acts: `above 20 %`, `above 40 % (high risk or more)`."""
    at = wording.threshold(flagged.threshold)
    tier = "" if flagged.name == at else f" ({names.get(flagged.name, wording.words(flagged.name))} or more)"
    return f"above {at}{tier}"


def _listed(names: list[str]) -> str:
    if not names:
        return "anything, as there is nothing to compare with"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def difference_words(found: Difference) -> str:
    """Whether a difference speaks for the model: `better`, `worse`, or neither beyond chance."""
    lower, upper = found.difference.lower, found.difference.upper
    if not (wording.is_defined(lower) and wording.is_defined(upper)):
        return wording.NOT_DEFINED
    if lower <= 0 <= upper:
        return "within chance"
    return "better" if (lower > 0) == (found.better_if == "higher") else "worse"
