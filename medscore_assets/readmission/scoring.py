"""The one scorer: the only place where encoded features become a readmission probability.

Belongs here: the trained model as an object, its files and their integrity, score and explanation.
Does not belong here: encoding (`contracts/`), fitting (`training.py`), tiers and actions (`policy.py`).

A probability is sigma(intercept + slope * margin), where the margin is what the trees say. The margin
always comes from the booster's own prediction and is never rebuilt from SHAP values: it is the same
float32, bit for bit, for one row or for millions, on one thread or many, so that every path stores the
same probability and so the same tier. SHAP values (`attribution.py`) add up to it within float32
rounding. Recalibration is linear in the margin, so they are scaled and stay exact.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from medscore_assets.contracts.contract import Contract, Matrix
from medscore_assets.monitoring.drift import Reference
from medscore_assets.monitoring.metrics import sigmoid
from medscore_assets.readmission.attribution import Attribution
from medscore_assets.readmission.margin import margins, on_one_thread
from resources.artifacts import MANIFEST_FILE, broken, parsed_manifest, read_verified, sha256
from resources.errors import ContractViolation, IntegrityError

if TYPE_CHECKING:
    import xgboost as xgb

FORMAT = "medscore-readmission/1"
MODEL_FILE = "model.ubj"
REFERENCE_FILE = "reference.json"
"""What the model's features and scores looked like when it was measured, for drift."""
ATTRIBUTION_FILE = "attribution.npz"
"""The booster's trees multiplied out for exact SHAP values, which takes longer than reading them."""

MODEL = "readmission"
"""The model's name in the registry."""

_TRAIN_ANEW = "Train a model under this contract: medscore train readmission"

Probabilities = npt.NDArray[np.float64]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]


class _Stored(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Recalibration(_Stored):
    """The logistic recalibration of the margin, fitted on the validation part."""

    intercept: float
    slope: Annotated[float, Field(gt=0)]
    """Above 0, so that recalibration never changes an order."""


class Manifest(_Stored):
    """What `manifest.json` says of a model: under what it was made, from what, and what its files are."""

    format: str
    model_name: str
    contract_name: str
    contract_hash: Sha256
    policy_hash: Sha256
    """The policy in force when the model was judged. It may change without retraining."""
    feature_names: tuple[str, ...]
    best_iteration: Annotated[int, Field(ge=0)]
    """The last boosting round, from 0. The file holds exactly the rounds up to it."""
    recalibration: Recalibration
    parameters: dict[str, int | float | str]
    seed: int
    data_fingerprint: Sha256
    discharges: dict[str, int]
    """Index discharges per part."""
    constant_features: tuple[str, ...]
    """Features with one value in all of the training part: the model knows nothing about them."""
    metrics: dict[str, float]
    """Measured on the test part; baselines carry their name as prefix."""
    trained_at: AwareDatetime
    packages: dict[str, str]
    files: dict[FileName, Sha256]

    def to_json(self) -> str:
        """As it stands in the file."""
        return self.model_dump_json(indent=2) + "\n"


@dataclass(frozen=True, slots=True)
class Explained:
    """Probabilities with the reasons for them, in log-odds.

    `contributions` is float64 of shape (n, features), by the contract's order; per row they add up, with
    the `baseline` of the average training patient, to the logit of the probability.
    """

    probabilities: Probabilities
    contributions: npt.NDArray[np.float64]
    baseline: float


@dataclass(frozen=True)
class ReadmissionModel:
    """A trained model, ready to score. Safe to share between threads: nothing in it changes."""

    manifest: Manifest
    booster: xgb.Booster = field(repr=False)
    serialized: bytes = field(repr=False)
    baseline: float
    threads: int
    reference: Reference | None = field(default=None, repr=False)
    attribution: Attribution | None = field(default=None, repr=False)
    """As its file says; without one it is worked out from the trees on first use."""

    @classmethod
    def from_bytes(cls, serialized: bytes, manifest: Manifest, *, threads: int = 1) -> Self:
        """The model behind the bytes of a `model.ubj`. Raises `IntegrityError` if they do not fit.

        `threads` is fixed here, because a booster must not be reconfigured while others score with it.
        More than one pays for tens of thousands of rows, and costs milliseconds for a single one.
        """
        import xgboost as xgb

        booster = xgb.Booster({"nthread": threads})
        with on_one_thread():
            try:
                booster.load_model(bytearray(serialized))
            except xgb.core.XGBoostError as error:
                raise broken("the model is not readable as XGBoost's UBJSON", Path(MODEL_FILE)) from error
            names = tuple(booster.feature_names or ())
            if names != manifest.feature_names:
                raise broken("the model's features are not its manifest's, in their order", Path(MODEL_FILE))
            if booster.num_boosted_rounds() != manifest.best_iteration + 1:
                raise broken("the model does not end at its manifest's best iteration", Path(MODEL_FILE))
            # The first call configures the booster; after it, calls from several threads are safe.
            bias = _bias(booster, threads)
        recalibration = manifest.recalibration
        baseline = recalibration.intercept + recalibration.slope * bias
        return cls(manifest, booster, serialized, baseline, threads)

    @classmethod
    def load(cls, directory: Path, contract: Contract, *, threads: int = 1) -> Self:
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
        if manifest.feature_names != contract.feature_names:
            raise broken("the manifest's features are not the contract's, in its order", directory)
        if MODEL_FILE not in manifest.files:
            raise broken(f"the manifest does not list {MODEL_FILE}", directory)
        contents = read_verified(directory, manifest.files)
        model = cls.from_bytes(contents[MODEL_FILE], manifest, threads=threads)
        return replace(
            model, reference=_reference(contents, directory), attribution=_attribution(contents, directory)
        )

    def with_reference(self, reference: Reference) -> Self:
        """The same model with what drift is judged against, which becomes one of its files."""
        return replace(self._with_file(REFERENCE_FILE, reference.to_json()), reference=reference)

    def with_attribution(self) -> Self:
        """The same model with its trees multiplied out, which becomes one of its files."""
        attribution = self._attribution
        return replace(self._with_file(ATTRIBUTION_FILE, attribution.to_bytes()), attribution=attribution)

    def _with_file(self, name: str, content: bytes) -> Self:
        files = {**self.manifest.files, name: sha256(content)}
        return replace(self, manifest=self.manifest.model_copy(update={"files": files}))

    def save(self, directory: Path) -> None:
        """Writes the files and, after them, `manifest.json` into a directory, which is made if need be."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / MODEL_FILE).write_bytes(self.serialized)
        if self.reference is not None:
            (directory / REFERENCE_FILE).write_bytes(self.reference.to_json())
        if self.attribution is not None:
            (directory / ATTRIBUTION_FILE).write_bytes(self.attribution.to_bytes())
        (directory / MANIFEST_FILE).write_text(self.manifest.to_json(), encoding="utf-8")

    @property
    def name(self) -> str:
        """The model's name in the registry."""
        return self.manifest.model_name

    def score(self, matrix: Matrix) -> Probabilities:
        """Calibrated 30-day probabilities, float64 (n,), of encoded rows, float32 (n, features).

        Raises `ContractViolation` for another shape or type, or where a code is not a finite number.
        """
        return self._probabilities(self._checked(matrix))

    def explain(self, matrix: Matrix) -> Explained:
        """The probabilities that `score` gives, and the exact SHAP values behind each of them."""
        matrix = self._checked(matrix)
        slope = self.manifest.recalibration.slope
        contributions = slope * self._attribution.values(matrix)
        return Explained(self._probabilities(matrix), contributions, self.baseline)

    @functools.cached_property
    def _attribution(self) -> Attribution:
        # On first use: who only scores does not pay for it.
        return self.attribution or Attribution.of(self.booster)

    def _probabilities(self, matrix: Matrix) -> Probabilities:
        recalibration = self.manifest.recalibration
        margin = margins(self.booster, matrix).astype(np.float64)
        return sigmoid(recalibration.intercept + recalibration.slope * margin)

    def _checked(self, matrix: Matrix) -> Matrix:
        width = len(self.manifest.feature_names)
        if matrix.dtype != np.float32 or matrix.ndim != 2 or matrix.shape[1] != width:
            raise _unscorable(f"the matrix is {matrix.dtype} {matrix.shape}, not float32 (n, {width})")
        # XGBoost would take NaN for "missing" and answer with a plausible number.
        if not np.isfinite(matrix).all():
            rows = int((~np.isfinite(matrix)).any(axis=1).sum())
            raise _unscorable(f"{rows} of {len(matrix)} rows hold a code that is not a finite number")
        return np.ascontiguousarray(matrix)


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a model's directory. Raises `IntegrityError` if it is absent, foreign or invalid."""
    return parsed_manifest(directory, Manifest, stated_format=FORMAT, mend=_TRAIN_ANEW)


def read_reference(directory: Path) -> Reference | None:
    """What drift of the model in a directory is judged against; None if it was stored without.

    Raises `IntegrityError` if a file is not what the manifest says.
    """
    return _reference(read_verified(directory, read_manifest(directory).files), directory)


def _reference(contents: Mapping[str, bytes], directory: Path) -> Reference | None:
    content = contents.get(REFERENCE_FILE)
    return None if content is None else Reference.from_json(content, str(directory / REFERENCE_FILE))


def _attribution(contents: Mapping[str, bytes], directory: Path) -> Attribution | None:
    content = contents.get(ATTRIBUTION_FILE)
    if content is None:
        return None
    try:
        return Attribution.from_bytes(content)
    except ValueError as error:
        raise broken(f"{ATTRIBUTION_FILE} is not readable", directory) from error


def _bias(booster: xgb.Booster, threads: int) -> float:
    """The expected margin of the training data: what SHAP values start from."""
    import xgboost as xgb

    anybody = np.zeros((1, booster.num_features()), dtype=np.float32)
    data = xgb.DMatrix(anybody, feature_names=booster.feature_names, nthread=threads)
    contributions: Any = booster.predict(data, pred_contribs=True)
    return float(contributions[0, -1])


def _unscorable(what: str) -> ContractViolation:
    return ContractViolation(
        what, where="readmission scorer", mend="Pass a matrix that Contract.encode made."
    )
