"""What a model of waits is: a name, a version, parameters and one `predict`.

Belongs here: the interface that modellers subclass, what a model may learn from history, and the hash by
which a changed model is noticed (with `fingerprint.py`). Does not belong here: databases, schedules, threads
(`running.py`), which models there are (`registry.py`) and where predictions go.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa
from pydantic import ValidationError

from medscore_assets.wait_times.bands import ALL_BANDS
from medscore_assets.wait_times.clock import as_datetime
from medscore_assets.wait_times.fingerprint import fingerprint, raised_in
from medscore_assets.wait_times.prediction import Prediction, Predictions, Status
from medscore_assets.wait_times.snapshot import Snapshot, build_snapshot
from medscore_assets.wait_times.visits import Visits
from resources.errors import PermanentError

if TYPE_CHECKING:
    import pandas as pd

Fitted = Mapping[str, Mapping[str, Any]]
"""What a model has learned: by facility, "" for all facilities together, parameters that fit into JSON."""

Identity = tuple[str, str]
"""Name and version."""

EVERYWHERE = ""
"""The key of parameters that hold for all facilities."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_VERSION = re.compile(r"(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})")
_PLAIN = (str, int, float, bool, type(None), timedelta)


@dataclass(frozen=True)
class History:
    """What a model learns from: everything that was known at a moment about the days before it."""

    visits: Visits
    as_of: datetime
    facilities: tuple[str, ...]
    zones: Mapping[str, str]
    days: int
    outcomes: pa.Table | None = None
    """What became of earlier predictions, for models that correct others. Only outcomes known at `as_of`,
    and only of the models that some model names (`Model.outcomes_of`); None where nobody names any.

    Columns: model, version, facility, band, as_of, arrival, p50_seconds, p80_seconds (null: none),
    actual_seconds (null: not seen), censored_at_seconds (null unless left or still waiting), resolved_at.
    """
    earlier: Mapping[Identity, Fitted] = field(default_factory=dict)
    """What models had learned before, at their last fit, by name and version."""

    @cached_property
    def snapshot(self) -> Snapshot:
        """The visits of all days as they were known at `as_of`: a scene for each facility."""
        scenes = [(facility, self.as_of) for facility in self.facilities]
        return build_snapshot(self.visits, scenes, self.zones, timedelta(days=self.days))


class Model(ABC):
    """A model for one facility and one band at a time: subclass it, state name, version and parameters.

    Public class attributes with plain values (a lookback, a quantile) are its parameters. With other
    parameters or other code it needs another version. An instance serves many ticks, perhaps in several
    threads.
    """

    name: str
    """Lower case, digits, underscores."""
    version: str
    """Three numbers, as 1.4.0; ordered as numbers."""
    bands: tuple[str, ...] = ALL_BANDS
    time_limit: timedelta = timedelta(seconds=5)
    """For all facilities at one tick."""
    fit_limit: timedelta = timedelta(minutes=2)
    """For what it learns in a day about all facilities."""
    baseline: ClassVar[bool] = False
    """There to be compared with: never shown unless forced."""
    replayable: ClassVar[bool] = True
    """Can predict for past moments; a service that knows the present only cannot."""
    retries_parts: ClassVar[bool] = True
    """A batch that raises is tried again in parts, so that one facility does not take the others along."""
    remote: ClassVar[bool] = False
    """Another server predicts. It runs beside all models, and its name and version are those that it answers
    with (`Predictions.stamp`)."""
    version_changed: bool = False
    """The last answer of such a server came from another version than was expected."""

    @abstractmethod
    def predict(self, data: pd.DataFrame, as_of: datetime) -> Prediction | None:
        """The wait of somebody of the band who arrives at `as_of`; None where the data say nothing.

        `data` are the band's visits of the last 96 hours as far as they are known at `as_of`
        (`Snapshot.frame` says which columns). It is the model's own copy.
        """

    def predict_all(self, snapshot: Snapshot, fitted: Fitted) -> Predictions:
        """Predictions for all scenes and the model's bands; one that fails leaves the others alone."""
        found = Predictions.empty(len(snapshot), self.bands)
        for scene, time in enumerate(snapshot.as_of):
            as_of = as_datetime(time)
            for place, band in enumerate(self.bands):
                try:
                    found.put(scene, place, self._one(snapshot.frame(scene, band), as_of))
                except ValidationError as invalid:
                    found.fail(scene, place, Status.INVALID, _sentence(invalid))
                except Exception as error:
                    found.fail(scene, place, Status.ERROR, raised_in(error))
        return found

    def _one(self, data: pd.DataFrame, as_of: datetime) -> Prediction | None:
        answer: object = self.predict(data, as_of)
        if answer is not None and not isinstance(answer, Prediction):
            raise PermanentError(
                f"predict gave {type(answer).__name__}", where=self.name, mend="Return a Prediction or None."
            )
        return answer

    def fit(self, history: History) -> dict[str, dict[str, Any]] | None:
        """Daily: parameters that fit into JSON, by facility ("" for all together); None: nothing to learn."""
        return None

    def outcomes_of(self) -> tuple[Identity, ...]:
        """The models whose predictions it learns from, by how they turned out; none unless it says so."""
        return ()

    def parameters(self) -> dict[str, Any]:
        """What the version stands for besides the code: public attributes with plain values."""
        own = {name: value for kind in reversed(self._kinds()) for name, value in vars(kind).items()}
        own |= vars(self)
        declared = set(Model.__annotations__)
        return {
            name: _json(value)
            for name, value in sorted(own.items())
            if not name.startswith("_") and name not in declared and _is_plain(value)
        }

    def fingerprint(self) -> str:
        """SHA-256 of parameters, bands and code, in hexadecimal: the same unless the model is changed."""
        return fingerprint(
            self._kinds(), {"parameters": self.parameters(), "bands": list(self.bands)}, Model.__annotations__
        )

    def identity(self) -> Identity:
        """Name and version. Raises PermanentError where either is missing or not of its form."""
        name, version = getattr(self, "name", None), getattr(self, "version", None)
        if not (isinstance(name, str) and isinstance(version, str) and is_identity(name, version)):
            raise PermanentError(
                "A model has no name and version",
                where=type(self).__qualname__,
                mend="State a name (a-z, 0-9, _) and a version of three numbers, as 1.4.0.",
            )
        return name, version

    def _kinds(self) -> tuple[type, ...]:
        """The model's class and the models that it is made from, without the interface."""
        return tuple(
            kind
            for kind in type(self).__mro__
            if issubclass(kind, Model) and kind.__module__ != Model.__module__
        )


class BatchModel(Model):
    """A model that predicts for all scenes and bands at once, from arrays."""

    @abstractmethod
    def predict_all(self, snapshot: Snapshot, fitted: Fitted) -> Predictions:
        """Predictions for all scenes and the model's bands."""

    def predict(self, data: pd.DataFrame, as_of: datetime) -> Prediction | None:
        raise PermanentError(
            "The model predicts in batches only", where=type(self).__name__, mend="Call predict_all."
        )


def version_order(version: str) -> tuple[int, int, int]:
    """What versions are sorted by: 0.0.10 comes after 0.0.9. Raises ValueError for what is no version."""
    found = _VERSION.fullmatch(version)
    if found is None:
        raise ValueError("a version is three numbers, as 1.4.0")
    return int(found[1]), int(found[2]), int(found[3])


def is_identity(name: object, version: object) -> bool:
    """Whether these are a name and a version as models have them."""
    return all(
        isinstance(text, str) and form.fullmatch(text) is not None
        for text, form in ((name, _NAME), (version, _VERSION))
    )


def learned(fitted: Fitted, facility: str) -> Mapping[str, Any] | None:
    """The parameters of a facility, else those of all facilities, else None."""
    return fitted.get(facility, fitted.get(EVERYWHERE))


def _sentence(invalid: ValidationError) -> str:
    """Which fields are wrong and how, without their values."""
    faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['type']}" for fault in invalid.errors()]
    return f"not a wait ({'; '.join(faults)})"[:200]


def _is_plain(value: object) -> bool:
    return all(map(_is_plain, value)) if isinstance(value, tuple) else isinstance(value, _PLAIN)


def _json(value: Any) -> Any:
    if isinstance(value, timedelta):
        return value.total_seconds()
    return [_json(part) for part in value] if isinstance(value, tuple) else value
