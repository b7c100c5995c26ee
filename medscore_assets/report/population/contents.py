"""What a population report is made of, as plain values.

Belongs here: the header, the model's summary, the previous quarter, and the shapes of the two frames.
Does not belong here: any computation on the cells (`cells.py`, `findings.py`), layout, files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from medscore_assets.monitoring.assessment import Interval
from resources.errors import PermanentError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Header:
    """Which report this is, and what its figures were computed from."""

    quarter: str
    """As `2026-Q3`."""
    first_day: date
    last_day: date
    version: int
    as_of: datetime
    """Of the frozen snapshot; with a zone."""
    rows: int
    """Members in the snapshot."""
    input_fingerprint: str
    model_name: str
    model_version: str
    contract_hash: str
    policy_version: str
    policy_hash: str
    disclaimer: str
    """The policy's; printed word for word."""
    zone: str
    """The named zone in which the quarter begins and times are printed."""
    high_above: float
    """A risk above this is high or very high."""
    very_high_above: float


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """What a reader must know of the model, from its card."""

    summary: str
    intended_use: str
    population: str
    out_of_scope: str
    biases: str
    testing_data: str
    released: str
    metrics: tuple[tuple[str, Interval], ...]
    """Measures with their intervals, by the labels of the card."""

    @classmethod
    def from_card(cls, text: str | bytes) -> ModelSummary:
        """From the `model_card.json` that is kept with a version. Raises `PermanentError` if it is none."""
        try:
            card = json.loads(text)["AppliedModelCard"]
            uses, measured = card["UsesAndDirections"], card["KeyMetrics"]
            kinds = [measured[kind] for kind in ("UsefulnessUsabilityEfficacy", "SafetyReliability")]
            return cls(
                summary=card["ModelSummary"]["Summary"],
                intended_use=uses["IntendedUseAndWorkflow"],
                population=uses["TargetedPatientPopulation"],
                out_of_scope=uses["CautionedOutOfScopeSettings"],
                biases=card["Warnings"]["KnownBiasesOrEthicalConsiderations"],
                testing_data=kinds[0]["TestingDataDescription"],
                released=card["ReleaseInfo"]["ReleaseDate"],
                metrics=tuple(_metric(found) for kind in kinds for found in kind["Results"]["MetricResult"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise PermanentError(
                "the model card cannot be read: it lacks an element or is not JSON",
                where="model_card.json of the model's version",
                mend="Make the version's evaluation report again.",
            ) from error


def _metric(found: Mapping[str, Any]) -> tuple[str, Interval]:
    return str(found["Label"]), Interval(**json.loads(found["ValueJson"]))


@dataclass(frozen=True, slots=True)
class PreviousQuarter:
    """The published report of the quarter before, to compare with."""

    quarter: str
    version: int
    model_version: str
    policy_version: str
    cells: pd.DataFrame
    """As `PopulationReport.cells`."""


@dataclass(frozen=True, slots=True)
class PopulationReport:
    """All that the files of one quarter are made of."""

    header: Header
    cells: pd.DataFrame
    """The published cells, small ones already withheld: a row per cell with the columns of
    `dictionary.COLUMNS`. Withheld figures are NA and named in `suppressed_measures`."""
    exclusions: pd.DataFrame
    """How all members come down to the scored index discharges: columns `reason`, `field` (empty where no
    field's rule was broken), `members`; each member counts once. Unsuppressed: small counts are joined
    with others before they are printed."""
    model: ModelSummary | None = None
    previous: PreviousQuarter | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    """Identifiers as people read them."""
