"""The code lists by which FHIR resources are read: the shape of `fhir_codes.toml`, its checks, its look-ups.

Belongs here: what a list may hold, and the meanings of a resource's codings by the lists.
Does not belong here: the codes themselves (`fhir_codes.toml`) and what follows from them (`fhir_mapping.py`).
"""

from __future__ import annotations

import functools
import itertools
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from medscore_assets.contracts.fields import Category
from medscore_assets.contracts.readmission import READMISSION
from resources.errors import PermanentError

DEFAULT_FILE = Path(__file__).with_name("fhir_codes.toml")

Text = Annotated[str, Field(min_length=1)]
Stay = Literal["acute", "obstetric", "newborn", "psychiatric", "rehabilitation", "cancer_treatment"]
YesNo = Literal["yes", "no"]
Ending = Literal["expired", "hospice", "transferred", "left_against_advice"]
ENDINGS: tuple[str, ...] = get_args(Ending)
DiagnosisUse = Literal["discharge", "billing", "admission"]
Prescribed = Literal["discharge", "continued", "inpatient"]

Coding = tuple[str, str]
"""System and code."""

_ICD10 = re.compile(r"[A-Z][0-9][0-9A-Z]([.]?[0-9A-Z]{1,4})?")


def _categories(feature: str) -> tuple[str, ...]:
    found = READMISSION.fields[feature]
    assert isinstance(found, Category)
    return found.categories


def icd10(code: str) -> str | None:
    """An ICD-10 code without its dot, in capitals; None if it cannot be one."""
    code = code.strip().upper()
    return code.replace(".", "") if _ICD10.fullmatch(code) else None


@dataclass(frozen=True, slots=True)
class CodeRange:
    """ICD-10 categories from first to last, both included, with everything below them."""

    first: str
    last: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """`I50`, `E08-E13` or `Z510`. Raises `ValueError`."""
        first, _, last = text.partition("-")
        last = last or first
        if not (icd10(first) == first and icd10(last) == last and len(first) == len(last) and first <= last):
            raise ValueError("is not an ICD-10 category or a range of them, such as I50 or E08-E13")
        return cls(first, last)

    def holds(self, code: str) -> bool:
        """Whether a code, as `icd10` gives it, lies in the range."""
        return self.first <= code[: len(self.first)] <= self.last

    def overlaps(self, other: CodeRange) -> bool:
        """Whether some code lies in both."""
        return self.holds(other.first) or other.holds(self.first)


Ranges = dict[str, list[tuple[str, CodeRange]]]
"""Named ranges by the first letter of a code."""


class _Rules(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Chronic(_Rules):
    """The codes of one chronic condition."""

    icd10: list[Text] = Field(min_length=1)
    snomed: list[Text] = []


class Medications(_Rules):
    """Which MedicationRequests are orders in force."""

    statuses: list[Text]
    intents: list[Text]


class Appointments(_Rules):
    """The statuses of an appointment that will take place."""

    booked: list[Text]


class Conditions(_Rules):
    """What a Condition's statuses mean."""

    active: list[Text]
    inactive: list[Text]
    not_established: list[Text]


class Codes(_Rules):
    """A validated `fhir_codes.toml`.

    Most tables are `{system: {code: meaning}}`; a code that ends in `*` stands for all that begin so.
    """

    version: Text
    uncategorised_medication: Literal["refuse", "count"]
    unlisted_snomed: Literal["refuse", "ignore"]
    systems: dict[Text, list[Text]]
    encounter_class: dict[Text, dict[Text, Stay]]
    service_line: dict[Text, dict[Text, Stay]]
    emergency_source: dict[Text, dict[Text, YesNo]]
    emergency_priority: dict[Text, dict[Text, YesNo]]
    disposition: dict[Text, dict[Text, Text]]
    diagnosis_use: dict[Text, dict[Text, DiagnosisUse]]
    insurance: dict[Text, dict[Text, Text]]
    medications: Medications
    medication_category: dict[Text, dict[Text, Prescribed]]
    appointments: Appointments
    conditions: Conditions
    diagnosis_groups: dict[Text, list[Text]]
    diagnosis_snomed: dict[Text, Text]
    chronic: dict[Text, Chronic]

    @field_validator("disposition")
    @classmethod
    def _places(cls, tables: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
        return _only(tables, {*_categories("discharge_disposition"), *ENDINGS})

    @field_validator("insurance")
    @classmethod
    def _payers(cls, tables: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
        return _only(tables, set(_categories("insurance_type")))

    @field_validator("diagnosis_groups")
    @classmethod
    def _groups(cls, groups: dict[str, list[str]]) -> dict[str, list[str]]:
        _apart([(name, CodeRange.parse(text)) for name, texts in groups.items() for text in texts])
        _only({"": {name: name for name in groups}}, set(_categories("primary_diagnosis_group")))
        return groups

    @field_validator("diagnosis_snomed")
    @classmethod
    def _snomed_groups(cls, groups: dict[str, str]) -> dict[str, str]:
        return _only({"": groups}, set(_categories("primary_diagnosis_group")))[""]

    @field_validator("chronic")
    @classmethod
    def _each_code_once(cls, chronic: dict[str, Chronic]) -> dict[str, Chronic]:
        _apart([(name, CodeRange.parse(text)) for name, c in chronic.items() for text in c.icd10])
        codes = [code for c in chronic.values() for code in c.snomed]
        if len(codes) != len(set(codes)):
            raise ValueError("two chronic conditions have the same SNOMED CT code")
        return chronic

    @model_validator(mode="after")
    def _systems_are_named(self) -> Self:
        tables = (
            self.encounter_class, self.service_line, self.emergency_source, self.emergency_priority,
            self.disposition, self.diagnosis_use, self.insurance, self.medication_category,
        )  # fmt: skip
        used = {name for table in tables for name in table} | {"icd10", "snomed", *_STATUS_SYSTEMS}
        if unknown := sorted(used - set(self.systems)):
            raise ValueError(f"systems lacks {', '.join(unknown)}")
        for text in self.service_line.get("icd10", {}):
            CodeRange.parse(text)
        return self

    def in_system(self, name: str, codings: Iterable[Coding]) -> list[str]:
        """The codes of those codings that are of a named system."""
        uris = self.systems[name]
        return [code for system, code in codings if system in uris]

    def icd10(self, codings: Iterable[Coding]) -> list[str]:
        """The well-formed ICD-10 codes among the codings, without dots."""
        return [code for raw in self.in_system("icd10", codings) if (code := icd10(raw))]

    def meanings(self, table: Mapping[str, Mapping[str, str]], codings: Iterable[Coding]) -> set[str]:
        """What a table says of the codings; empty if it knows none of them."""
        codings = list(codings)
        return {
            meaning
            for name, meanings in table.items()
            if name != "icd10"
            for code in self.in_system(name, codings)
            if (meaning := _by_code(meanings, code)) is not None
        }

    def group_of(self, codings: Iterable[Coding]) -> set[str]:
        """The contract's diagnosis groups of the codings of one condition; empty if no code is known."""
        codings = list(codings)
        if codes := self.icd10(codings):
            return {_range_of(self._group_ranges, code) or "other" for code in codes}
        snomed = self.in_system("snomed", codings)
        listed = {self.diagnosis_snomed[code] for code in snomed if code in self.diagnosis_snomed}
        chronic = [self.chronic[name] for code in snomed if (name := self._chronic_snomed.get(code))]
        return listed | {
            _range_of(self._group_ranges, CodeRange.parse(c.icd10[0]).first) or "other" for c in chronic
        }

    def chronic_of(self, codings: Iterable[Coding]) -> set[str] | None:
        """The chronic conditions that the codings of one condition name; None if no code decides it."""
        codings = list(codings)
        found = {name for code in self.icd10(codings) if (name := _range_of(self._chronic_ranges, code))}
        snomed = self.in_system("snomed", codings)
        found |= {name for code in snomed if (name := self._chronic_snomed.get(code))}
        if found or self.icd10(codings):
            return found
        known = snomed and (
            self.unlisted_snomed == "ignore" or all(code in self.diagnosis_snomed for code in snomed)
        )
        return set() if known else None

    def service_lines_of_diagnosis(self, codings: Iterable[Coding]) -> set[str]:
        """What else than acute care a principal diagnosis makes of a stay."""
        table = self.service_line.get("icd10", {})
        return {
            line
            for text, line in table.items()
            if any(CodeRange.parse(text).holds(code) for code in self.icd10(codings))
        }

    @functools.cached_property
    def _group_ranges(self) -> Ranges:
        return _by_letter((name, text) for name, texts in self.diagnosis_groups.items() for text in texts)

    @functools.cached_property
    def _chronic_ranges(self) -> Ranges:
        return _by_letter((name, text) for name, c in self.chronic.items() for text in c.icd10)

    @functools.cached_property
    def _chronic_snomed(self) -> dict[str, str]:
        return {code: name for name, c in self.chronic.items() for code in c.snomed}


_STATUS_SYSTEMS = ("clinical_status", "verification_status")


def _by_letter(named: Iterable[tuple[str, str]]) -> Ranges:
    """The ranges by each letter with which a code in them may begin."""
    found: Ranges = {}
    for name, text in named:
        limits = CodeRange.parse(text)
        for letter in range(ord(limits.first[0]), ord(limits.last[0]) + 1):
            found.setdefault(chr(letter), []).append((name, limits))
    return found


def _range_of(ranges: Ranges, code: str) -> str | None:
    return next((name for name, limits in ranges.get(code[0], ()) if limits.holds(code)), None)


def _by_code(meanings: Mapping[str, str], code: str) -> str | None:
    if code in meanings:
        return meanings[code]
    prefixes = (key for key in meanings if key.endswith("*") and code.startswith(key[:-1]))
    longest = max(prefixes, key=len, default=None)
    return None if longest is None else meanings[longest]


def _only(tables: dict[str, dict[str, str]], allowed: set[str]) -> dict[str, dict[str, str]]:
    found = {meaning for meanings in tables.values() for meaning in meanings.values()}
    if unknown := sorted(found - allowed):
        raise ValueError(f"{', '.join(unknown)} is not one of {', '.join(sorted(allowed))}")
    return tables


def _apart(ranges: list[tuple[str, CodeRange]]) -> None:
    for (name, one), (other_name, other) in itertools.combinations(ranges, 2):
        if one.overlaps(other):
            raise ValueError(f"a code of {name} is also one of {other_name}")


def load_codes(file: Path = DEFAULT_FILE) -> Codes:
    """The code lists of a TOML file. Raises `PermanentError` that names the entry that is wrong."""
    try:
        return Codes.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PermanentError(
            f"the FHIR code lists cannot be read: {error}", where=str(file), mend="Correct the file."
        ) from error
    except ValidationError as error:
        raise PermanentError(
            f"the FHIR code lists are not valid: {'; '.join(_entries(error))}",
            where=str(file),
            mend="Correct these entries.",
        ) from error


def _entries(error: ValidationError) -> Iterator[str]:
    found: list[dict[str, Any]] = [dict(e) for e in error.errors(include_url=False, include_input=False)]
    yield from (f"{'.'.join(map(str, e['loc'])) or 'the whole'}: {e['msg']}" for e in found)
