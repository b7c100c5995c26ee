"""The model card: the elements of CHAI's applied model card, version 0.2, as typed values.

Belongs here: the elements, reading a family's texts, joining them with what was measured, JSON.
Does not belong here: the texts themselves (a family's `model_card.toml`) and the sentences about measures
(`evaluation_page.py`). A card is documentation; it claims no compliance with anything.

A text stands in the file under the element's own name. What is measured must not stand there: a number
that somebody typed would be believed and would soon be wrong.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_pascal

from medscore_assets.monitoring.assessment import Interval
from medscore_assets.report import wording
from resources.errors import PermanentError

SCHEMA = "https://mc.chai.org/v0.2/schema.xsd"
"""The namespace in which the elements' names are defined."""

Text = Annotated[str, Field(min_length=1)]
Texts = dict[str, Any]


class _Element(BaseModel):
    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, alias_generator=to_pascal, str_strip_whitespace=True
    )


class BasicInfo(_Element):
    """Who made it."""

    model_name: Text
    model_developer: Text
    developer_contact: Text


class ReleaseInfo(_Element):
    """Which release this is."""

    release_stage: Text
    release_date: Text
    release_version: Text
    global_availability: Text
    regulatory_approval: Text


class ModelSummary(_Element):
    """What it is, in a paragraph."""

    summary: Text
    keywords: Annotated[list[Text], Field(min_length=1)]


class UsesAndDirections(_Element):
    """For whom and how."""

    intended_use_and_workflow: Text
    primary_intended_users: Text
    how_to_use: Text
    targeted_patient_population: Text
    cautioned_out_of_scope_settings: Text


class Warnings(_Element):
    """What may go wrong."""

    known_risks_and_limitations: Text
    known_biases_or_ethical_considerations: Text
    clinical_risk_level: Text


class AISystemFacts(_Element):
    """How it works and from what."""

    outcomes_and_outputs: Text
    model_type: Text
    input_data_source: Text
    output_and_input_data_types: Text
    development_data_characterization: Text
    bias_mitigation_approaches: Text
    ongoing_maintenance: Text
    security: Text
    transparency: Text


class TransparencyInformation(_Element):
    """Who paid, who was asked."""

    funding_source: Text
    third_party_information: Text
    stakeholders_consulted: Text


class TrustIngredients(_Element):
    """The facts behind the model."""

    ai_system_facts: AISystemFacts = Field(alias="AISystemFacts")
    transparency_information: TransparencyInformation


class MetricResult(_Element):
    """One measured value; `value_json` is JSON: an estimate with its limits, null where undefined."""

    label: Text
    value_json: Text


class MetricResults(_Element):
    """The measured values of one kind."""

    metric_result: Annotated[list[MetricResult], Field(min_length=1)]


class KeyMetric(_Element):
    """One kind of measures: what was wanted, what came out, how it was tested."""

    metric_goal: Text
    results: MetricResults
    interpretation: Text
    test_type: Text
    testing_data_description: Text
    validation_process_and_justification: Text


class KeyMetrics(_Element):
    """The three kinds of measures."""

    usefulness_usability_efficacy: KeyMetric
    fairness_equity: KeyMetric
    safety_reliability: KeyMetric


class Resources(_Element):
    """Where more is found."""

    evaluation_references: Text
    clinical_trial: Text
    peer_reviewed_publications: Text
    reimbursement_status: Text
    patient_consent_or_disclosure: Text


class ModelCard(_Element):
    """A whole card. Its JSON has CHAI's element names, in CHAI's order."""

    basic_info: BasicInfo
    release_info: ReleaseInfo
    model_summary: ModelSummary
    uses_and_directions: UsesAndDirections
    warnings: Warnings
    trust_ingredients: TrustIngredients
    key_metrics: KeyMetrics
    resources: Resources
    bibliography: Text

    def to_json(self) -> str:
        """As it stands in `model_card.json`: deterministic, UTF-8, one final newline."""
        card = {"Schema": SCHEMA, "AppliedModelCard": self.model_dump(by_alias=True)}
        return json.dumps(card, indent=2, ensure_ascii=False) + "\n"

    def entries(self) -> Iterator[tuple[tuple[str, ...], str | None]]:
        """Every element by its path of names, with its text, or None where it holds others."""
        yield from _entries(self.model_dump(by_alias=True), ())


def _entries(found: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str | None]]:
    for name, value in found.items():
        here = (*path, name)
        if name == "Results":
            yield here, "\n".join(_result(r["Label"], r["ValueJson"]) for r in value["MetricResult"])
        elif isinstance(value, Mapping):
            yield here, None
            yield from _entries(value, here)
        else:
            yield here, ", ".join(value) if isinstance(value, list) else value


def _result(label: str, value_json: str) -> str:
    return f"{label}: {wording.interval(Interval(**json.loads(value_json)), 4)}"


class Words(_Element):
    """The words of a family on its page."""

    model_config = ConfigDict(alias_generator=None)

    title: Text
    """What the model predicts for whom, as a heading."""
    case: Text
    cases: Text
    event: Text
    """The outcome as a countable thing: `readmission`."""
    events: Text
    outcome: Text
    """The outcome with its horizon: `readmission within 30 days`."""
    action: Text
    actions: Text
    acting: Text
    """The action as a strategy, before whom it is done to: `calling`."""
    act_on: Text
    """The action in the imperative, before whom it is done to: `Call`."""


class Caution(_Element):
    """A danger in the use or reading of the model that deserves a paragraph of its own."""

    model_config = ConfigDict(alias_generator=None)

    title: Text
    text: Text


class Absent(_Element):
    """An attribute by which the model should be examined and cannot be, because no data hold it."""

    model_config = ConfigDict(alias_generator=None)

    attribute: Text
    reason: Text


class _Family(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    words: Words
    names: dict[str, Text] = {}
    cautions: tuple[Caution, ...] = ()
    absent: tuple[Absent, ...] = ()
    card: Texts


@dataclass(frozen=True, slots=True)
class CardTexts:
    """What a family's file says: its words, names of things, cautions, and the card's own texts."""

    words: Words
    names: Mapping[str, str]
    """Identifiers of models, attributes, values and steps of the cohort's flow, as people read them."""
    cautions: tuple[Caution, ...]
    absent: tuple[Absent, ...]
    card: Mapping[str, Any]
    """Texts by the card's element names, nested as in the card."""
    source: str

    def completed(self, measured: Mapping[str, Any]) -> ModelCard:
        """The card from these texts and what was measured, nested alike.

        Raises `PermanentError` that names the element for which there is no text, the element that is
        not the card's, or the one that both give.
        """
        merged = _merged(self.card, measured, (), self.source)
        try:
            return ModelCard.model_validate(merged)
        except ValidationError as error:
            raise _invalid("the model card", error, self.source) from error


def load_texts(file: Path) -> CardTexts:
    """A family's texts. Raises `PermanentError` that names the entry that is absent or wrong."""
    try:
        with file.open("rb") as opened:
            found = tomllib.load(opened, parse_float=str)
        # From JSON, so that lists may stand where tuples are kept.
        family = _Family.model_validate_json(json.dumps(found))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise PermanentError(
            f"the model card's texts cannot be read: {error}", where=file.name, mend="Restore the file."
        ) from error
    except ValidationError as error:
        raise _invalid("the page", error, file.name) from error
    return CardTexts(family.words, family.names, family.cautions, family.absent, family.card, file.name)


def _merged(
    texts: Mapping[str, Any], measured: Mapping[str, Any], path: tuple[str, ...], source: str
) -> dict[str, Any]:
    merged = dict(texts)
    for name, value in measured.items():
        there = merged.get(name)
        if there is None:
            merged[name] = value
        elif isinstance(there, Mapping) and isinstance(value, Mapping):
            merged[name] = _merged(there, value, (*path, name), source)
        else:
            raise PermanentError(
                f"{'.'.join((*path, name))} is measured and must not be written by hand",
                where=source,
                mend="Remove that element.",
            )
    return merged


def _invalid(what: str, error: ValidationError, source: str) -> PermanentError:
    entries = "; ".join(
        f"{'.'.join(map(str, e['loc'])) or 'the whole'}: {e['msg']}"
        for e in error.errors(include_url=False, include_input=False, include_context=False)
    )
    return PermanentError(
        f"{what} cannot be made of its texts: {entries}",
        where=source,
        mend="Write or correct these elements.",
    )
