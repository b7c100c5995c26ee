"""The form for one patient: its fields, made from the contract, and what people type into them.

Belongs here: labels, bounds and choices per field, reading a field, and what is said when it is not valid.
Does not belong here: what is valid (the contract decides), HTTP, scores.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medscore_assets.contracts.fields import Category, Feature, Flag, InvalidValue, Reason, Whole
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.contracts.schemas import request_model

_WHOLE = re.compile(r"\s*([0-9]{1,9})\s*")
_YES, _NO = "yes", "no"


@dataclass(frozen=True, slots=True)
class Input:
    """One field of the form. `kind` is `whole`, `category` or `flag`; `choices` are values with words."""

    name: str
    kind: str
    label: str
    unit: str
    hint: str
    message: str
    """What is said when the field is empty or not valid."""
    minimum: int | None = None
    maximum: int | None = None
    choices: tuple[tuple[str, str], ...] = ()


def _input(feature: Feature) -> Input:
    label = feature.description.rstrip(".")
    match feature:
        case Whole():
            bounds = f"{feature.minimum} to {feature.maximum}"
            return Input(
                name=feature.name,
                kind=feature.kind,
                label=label,
                unit=feature.unit,
                hint=bounds,
                message=f"Enter a whole number from {bounds}.",
                minimum=feature.minimum,
                maximum=feature.maximum,
            )
        case Category():
            choices = tuple((value, _capital(feature.words(value))) for value in feature.categories)
            return Input(feature.name, feature.kind, label, "", "", "Choose one.", choices=choices)
        case Flag():
            choices = ((_YES, _capital(feature.words(True))), (_NO, _capital(feature.words(False))))
            return Input(feature.name, "flag", label, "", "", "Choose one of the two.", choices=choices)


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


INPUTS = tuple(_input(feature) for feature in READMISSION.features)
"""The form's fields in the contract's order."""


@dataclass(frozen=True, slots=True)
class Filled:
    """What was typed: valid features, or messages by field, and the texts to show again."""

    features: dict[str, Any]
    problems: dict[str, str]
    texts: dict[str, str]


def read_form(said: Mapping[str, str]) -> Filled:
    """The features in a form. A field that is not valid is in `problems` and not in `features`."""
    features: dict[str, Any] = {}
    problems: dict[str, str] = {}
    texts = {field.name: said.get(field.name, "")[:40] for field in INPUTS}
    for feature, field in zip(READMISSION.features, INPUTS, strict=True):
        value = _value(feature, said.get(field.name, ""))
        try:
            feature.code(value)
        except InvalidValue as invalid:
            missing = invalid.reason == Reason.MISSING and feature.kind == "whole"
            problems[field.name] = "Not filled in. " + field.message if missing else field.message
        else:
            features[field.name] = value
    if not problems:
        # The model of the API agrees, or this form is wrong.
        request_model(READMISSION).model_validate(features)
    return Filled(features, problems, texts)


def _value(feature: Feature, text: str) -> Any:
    """What a text stands for; a text that stands for nothing is a missing value."""
    match feature:
        case Whole():
            whole = _WHOLE.fullmatch(text)
            return int(whole[1]) if whole else (None if not text.strip() else text)
        case Category():
            return text or None
        case Flag():
            return {_YES: True, _NO: False}.get(text)


def texts_of(features: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Label and words of stored features, in the contract's order."""
    return [
        (field.label, _capital(feature.words(features[feature.name])))
        for feature, field in zip(READMISSION.features, INPUTS, strict=True)
    ]
