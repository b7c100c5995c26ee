"""What a mobility model's features and errors looked like on the newest rows that it was judged on.

Belongs here: the cells that are fixed with the model, their JSON, counting rows into them, stability.
Does not belong here: which change is too much (`monitoring/thresholds.py`), the registry (`drift_store.py`).

Cells are those of `monitoring/drift.py`, with one more per feature for what is missing: a lag is missing
where a day is, and patients with more gaps are a change like any other. What changes by itself is left out:
the target day's calendar, and how many days of data a patient has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medscore_assets.mobility.cohorts import GLOBAL_MODEL, ROUTED
from medscore_assets.mobility.encoding import CALENDAR, VALID_DAYS, Encoding, matrix_name
from medscore_assets.mobility.model import MobilityModel
from medscore_assets.mobility.training_set import LATER_DATES, TrainingSet
from medscore_assets.monitoring.drift import Bins, CategoryBins, Counts, NumberBins, psi
from resources.errors import IntegrityError

CHANGE_BY_THEMSELVES = (*CALENDAR, VALID_DAYS)
"""Features that say nothing of drift."""

FEWEST_ROWS = 100
"""Rows from which cells are cut."""

Numbers = npt.NDArray[np.float64]


class _Stored(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class FeatureCells(_Stored):
    """The cells of one feature: known values, and the rows without one. `bins` None: none had one."""

    bins: Bins | None
    missing: Annotated[int, Field(ge=0)]

    @property
    def counts(self) -> Counts:
        """Rows per cell; the last one is what is missing."""
        known = self.bins.counts if self.bins is not None else (0,)
        return np.append(np.asarray(known, dtype=np.int64), self.missing)

    def count(self, values: Numbers) -> Counts:
        """How many of `values`, shape (n,) with NaN where missing, fall into each cell."""
        absent = np.isnan(values)
        known = values[~absent]
        found = self.bins.count(self._placed(known)) if self.bins is not None else [len(known)]
        return np.append(np.asarray(found, dtype=np.int64), int(absent.sum()))

    def _placed(self, known: Numbers) -> Numbers:
        # Codes begin at -1, the text that the model does not know.
        return known + 1 if isinstance(self.bins, CategoryBins) else known


class DriftReference(_Stored):
    """Fixed when the model was trained, so that the edges never move with what they are to judge."""

    format: Literal["medscore-mobility-reference/1"] = "medscore-mobility-reference/1"
    rows: Annotated[int, Field(ge=1)]
    features: dict[str, FeatureCells]
    """By the names of the contract."""
    errors: dict[str, NumberBins]
    """Forecast minus steps by route; routes with too few rows are absent."""

    @classmethod
    def of(cls, model: MobilityModel, data: TrainingSet) -> Self | None:
        """From the rows of later dates that the model may serve; None where they are too few."""
        own = model.manifest.cohort
        keys = ROUTED if own == GLOBAL_MODEL else (own,)
        later = (data.parts == LATER_DATES) & np.isin(data.routes, keys)
        if int(later.sum()) < FEWEST_ROWS:
            return None
        errors = {}
        for key in keys:
            rows = later & data.of_route(key)
            if int(rows.sum()) >= FEWEST_ROWS:
                errors[key] = NumberBins.of(model.forecast(data.matrix[rows]) - data.steps[rows])
        matrix = data.matrix[later]
        return cls(rows=len(matrix), features=_cells(model.encoding, matrix), errors=errors)

    def to_json(self) -> bytes:
        """As it stands in the file."""
        return (self.model_dump_json(indent=1) + "\n").encode()

    @classmethod
    def from_json(cls, content: bytes, where: str) -> Self:
        """The reference in a file. Raises `IntegrityError` that names the wrong entries."""
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            found: list[Any] = error.errors(include_url=False, include_input=False)
            entries = ", ".join(".".join(map(str, e["loc"])) or e["msg"] for e in found)
            raise IntegrityError(
                f"the drift reference is not valid: {entries}",
                where=where,
                mend="Restore the registered files, or train anew.",
            ) from error

    def count(self, encoding: Encoding, matrix: Numbers) -> dict[str, Counts]:
        """Encoded rows, float64 (n, features), counted into the cells of each feature."""
        column = {name: matrix[:, place] for place, name in enumerate(encoding.names)}
        return {name: cells.count(column[matrix_name(name)]) for name, cells in self.features.items()}

    def stability(self, counts: Mapping[str, Counts]) -> dict[str, float | None]:
        """The stability index of each feature from what `count` gave, added up over days."""
        return {name: psi(cells.counts, counts[name]) for name, cells in self.features.items()}


def _cells(encoding: Encoding, matrix: Numbers) -> dict[str, FeatureCells]:
    found = {}
    for place, feature in enumerate(encoding.contract.features):
        if feature.name in CHANGE_BY_THEMSELVES:
            continue
        values = matrix[:, place]
        known = values[~np.isnan(values)]
        bins: NumberBins | CategoryBins | None = None
        if (texts := encoding.vocabulary.get(feature.name)) is not None:
            bins = CategoryBins.of(known + 1, ("(unseen)", *texts))
        elif len(known):
            bins = NumberBins.of(known)
        found[feature.name] = FeatureCells(bins=bins, missing=len(values) - len(known))
    return found
