"""The one scorer of mobility: the only place where encoded features become forecast steps.

Belongs here: a trained model as an object, its files and their integrity, forecast and explanation.
Does not belong here: encoding (`encoding.py`), fitting (`training.py`), intervals (`conformal.py`), which
model serves whom (`cohorts.py`).

A forecast is max(0, baseline + score): the score is what the additive terms say of the day relative to the
mean of the patient's days to date, and no day has fewer than 0 steps. Score and forecast are float64 and
the same to the last bit for one row and for millions.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Final, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from medscore_assets.contracts.measures import FeatureTable
from medscore_assets.mobility.conformal import Conformal
from medscore_assets.mobility.encoding import BASELINE, Encoding
from medscore_assets.mobility.terms import Terms
from resources.artifacts import MANIFEST_FILE, broken, parsed_manifest, read_verified, sha256
from resources.errors import ContractViolation, IntegrityError

FORMAT = "medscore-mobility/1"
MODEL_FILE = "terms.json"
RELATIVE: Final = "steps minus the patient's mean to date"

_TRAIN_ANEW = "Train the mobility models under this contract."

Numbers = npt.NDArray[np.float64]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]


class Manifest(BaseModel):
    """What `manifest.json` says of a model: under what it was made, from what, and what its files are."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    format: str
    model_name: str
    contract_name: str
    contract_hash: Sha256
    cohort: str
    """`MS`, `PD`, `RA`, `other`, or `global`."""
    horizon_days: Annotated[int, Field(ge=1)]
    """1: the day of the features itself."""
    target: Literal["steps minus the patient's mean to date"]
    feature_names: tuple[str, ...]
    vocabulary: dict[str, tuple[str, ...]]
    """The texts of a feature; the position is the code."""
    conformal: dict[str, Conformal]
    """By route: a cohort, or `new`. Routes with too few calibration rows are absent."""
    parameters: dict[str, int | float | str]
    rounds: Annotated[int, Field(ge=0)]
    """Boosting rounds behind the terms; a round is one step per term."""
    continued: Annotated[int, Field(ge=0)]
    """How often more rounds were added to a finished model."""
    seed: int
    threads: Annotated[int, Field(ge=1)]
    data_fingerprint: Sha256
    rows: dict[str, int]
    patients: dict[str, int]
    """Rows and patients per part."""
    metrics: dict[str, float]
    trained_at: AwareDatetime
    packages: dict[str, str]
    files: dict[FileName, Sha256]

    def to_json(self) -> str:
        """As it stands in the file."""
        return self.model_dump_json(indent=2) + "\n"


@dataclass(frozen=True, slots=True)
class Explained:
    """Forecasts with what makes them, in steps.

    Shapes: `contributions` (n, features) by the model's feature names, all others (n,). Per row the model's
    intercept and the contributions, added up in this order, are the score; baseline + score is the forecast,
    but for what raises it to 0.
    """

    steps: Numbers
    baseline: Numbers
    score: Numbers
    contributions: Numbers


@dataclass(frozen=True)
class MobilityModel:
    """A trained model, ready to forecast. Safe to share between threads: nothing in it changes."""

    manifest: Manifest
    terms: Terms = field(repr=False)
    encoding: Encoding = field(repr=False)
    serialized: bytes = field(repr=False)

    @classmethod
    def from_bytes(cls, serialized: bytes, manifest: Manifest, contract: FeatureTable) -> Self:
        """The model behind the bytes of a `terms.json`. Raises `IntegrityError` if they do not fit."""
        encoding = Encoding(contract, manifest.horizon_days, manifest.vocabulary)
        try:
            terms = Terms.from_json(serialized)
        except ValueError as error:
            raise broken(f"the model is not readable: {error}", Path(MODEL_FILE)) from None
        if not terms.feature_names == manifest.feature_names == encoding.names:
            raise broken("the model's features are not its manifest's, in their order", Path(MODEL_FILE))
        return cls(manifest, terms, encoding, serialized)

    @classmethod
    def of(cls, terms: Terms, manifest: Manifest, contract: FeatureTable) -> Self:
        """A model of fitted terms; the manifest's files are set to what they are."""
        serialized = terms.to_json()
        files = {MODEL_FILE: sha256(serialized)}
        return cls.from_bytes(serialized, manifest.model_copy(update={"files": files}), contract)

    @classmethod
    def load(cls, directory: Path, contract: FeatureTable) -> Self:
        """The model in a directory, if it is intact and was trained under this contract.

        Raises `IntegrityError` that says which is not so: format, contract, a file, the features.
        """
        manifest = read_manifest(directory)
        if (manifest.contract_name, manifest.contract_hash) != (contract.name, contract.hash):
            raise IntegrityError(
                f"the model was trained under contract {manifest.contract_name} "
                f"{manifest.contract_hash[:12]}, this code has {contract.name} {contract.hash[:12]}",
                where=str(directory / MANIFEST_FILE),
                mend=_TRAIN_ANEW,
            )
        if MODEL_FILE not in manifest.files:
            raise broken(f"the manifest does not list {MODEL_FILE}", directory)
        contents = read_verified(directory, manifest.files)
        return cls.from_bytes(contents[MODEL_FILE], manifest, contract)

    def save(self, directory: Path) -> None:
        """Writes the files and, after them, `manifest.json` into a directory, which is made if need be."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / MODEL_FILE).write_bytes(self.serialized)
        (directory / MANIFEST_FILE).write_text(self.manifest.to_json(), encoding="utf-8")

    def with_manifest(self, **entries: object) -> Self:
        """The same model with other entries in its manifest, such as `conformal` or `metrics`."""
        return replace(self, manifest=self.manifest.model_copy(update=entries))

    @property
    def name(self) -> str:
        """The model's name in the registry."""
        return self.manifest.model_name

    def relative(self, matrix: Numbers) -> Numbers:
        """Steps relative to the baseline, float64 (n,): what the EBM's own `predict` gives, bit for bit."""
        return self.terms.predict(self._checked(matrix))

    def forecast(self, matrix: Numbers) -> Numbers:
        """Steps of the target day, float64 (n,), of encoded rows, float64 (n, features); never below 0.

        Raises `ContractViolation` for another shape or type, for an infinite number, and for a row
        without a baseline.
        """
        matrix = self._checked(matrix)
        return self._steps(self._baseline(matrix), self.terms.predict(matrix))

    def explain(self, matrix: Numbers) -> Explained:
        """The forecasts that `forecast` gives, and what each feature adds to them."""
        matrix = self._checked(matrix)
        baseline = self._baseline(matrix)
        contributions = self.terms.contributions(matrix)
        score = np.full(len(matrix), self.terms.intercept)
        for added in contributions.T:
            score += added
        return Explained(self._steps(baseline, score), baseline, score, contributions)

    def _baseline(self, matrix: Numbers) -> Numbers:
        baseline: Numbers = matrix[:, self.manifest.feature_names.index(BASELINE)]
        if np.isnan(baseline).any():
            rows = int(np.isnan(baseline).sum())
            raise _unscorable(f"{rows} of {len(matrix)} rows have no {BASELINE}")
        return baseline

    def _steps(self, baseline: Numbers, score: Numbers) -> Numbers:
        return np.maximum(baseline + score, 0.0)

    def _checked(self, matrix: Numbers) -> Numbers:
        width = len(self.manifest.feature_names)
        if matrix.dtype != np.float64 or matrix.ndim != 2 or matrix.shape[1] != width:
            raise _unscorable(f"the matrix is {matrix.dtype} {matrix.shape}, not float64 (n, {width})")
        if np.isinf(matrix).any():
            rows = int(np.isinf(matrix).any(axis=1).sum())
            raise _unscorable(f"{rows} of {len(matrix)} rows hold an infinite number")
        return matrix


def model_name(cohort: str, horizon_days: int) -> str:
    """The name in the registry: `mobility-ms-1d`."""
    return f"mobility-{cohort.lower()}-{horizon_days}d"


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a model's directory. Raises `IntegrityError` if it is absent, foreign or invalid."""
    return parsed_manifest(directory, Manifest, stated_format=FORMAT, mend=_TRAIN_ANEW)


def _unscorable(what: str) -> ContractViolation:
    return ContractViolation(what, where="mobility scorer", mend="Pass a matrix that Encoding.encode made.")
