"""Which models run: an explicit list, entry points of other packages, and a TOML file that enables them.

Belongs here: finding models by name, and refusing what cannot be told apart. Does not belong here: running
models (`running.py`) and remembering which versions there were (`store.py`).

Nothing runs because it was imported. A model that cannot be imported is a failure of that model alone.
"""

from __future__ import annotations

import functools
import importlib
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medscore_assets.wait_times.fingerprint import raised_in
from medscore_assets.wait_times.model import Model, version_order
from resources.errors import PermanentError

ENTRY_POINTS = "medscore.wait_time_models"
DEFAULT_FILE = Path(__file__).with_name("models.toml")

_MODELS = f"{__package__}.models"
BUILT_IN: tuple[tuple[str, str], ...] = (
    ("moving_average_60", f"{_MODELS}.moving_average:MovingAverage60"),
    ("moving_average_120", f"{_MODELS}.moving_average:MovingAverage120"),
    ("moving_average_240", f"{_MODELS}.moving_average:MovingAverage240"),
    ("document_moving_average", f"{_MODELS}.document:DocumentMovingAverage"),
    ("climatology", f"{_MODELS}.climatology:Climatology"),
    ("ets", f"{_MODELS}.ets:ETS"),
    ("arima", f"{_MODELS}.arima:ARIMA"),
    ("life_table", f"{_MODELS}.life_table:LifeTable"),
    ("queue_fluid", f"{_MODELS}.queue_fluid:QueueFluid"),
    ("quantile_boosting", f"{_MODELS}.quantile_boosting:QuantileBoosting"),
)
"""Name and place of the library's models. A name may be there twice, for two versions side by side."""

CALIBRATED = f"{_MODELS}.calibrated:calibrated"
"""Makes a calibrated model from another one."""

Kind = Literal["built_in", "plugin", "http"]
Maker = Callable[[], Model]


@dataclass(frozen=True, slots=True)
class Failure:
    """A model that was asked for and is not there."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Registry:
    """The models that run, in the order of the file."""

    models: tuple[Model, ...]
    failures: tuple[Failure, ...] = field(default=())

    def kind(self, name: str) -> Kind:
        """Where the models of a name come from."""
        model = next(model for model in self.models if model.name == name)
        if model.remote:
            return "http"
        return "built_in" if type(model).__module__.startswith(f"{__package__}.") else "plugin"

    def named(self, name: str, version: str | None = None) -> Model | None:
        """A model by name: of that version, else of its newest one; None where there is none."""
        found = [model for model in self.models if model.name == name]
        if version is not None:
            found = [model for model in found if model.version == version]
        return max(found, key=lambda model: version_order(model.version), default=None)


class ModelsFile(BaseModel):
    """What `models.toml` says."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    enabled: list[str] = Field(min_length=1)
    """Names, or name@version where an older version is wanted beside the newest."""
    calibrated: list[str] = []
    """Enabled models that also run with a calibration around them."""
    http: list[dict[str, Any]] = []
    """Models behind an HTTP interface."""


def load_models(path: Path | None = None) -> Registry:
    """The models that a file enables, of `models.toml` if none is given.

    Raises PermanentError for a file that is not one, for a name that no model has, for two models of one name
    and version, and where not a single model is left.
    """
    path = path or DEFAULT_FILE
    wanted = _read(path)
    makers = _makers()
    unknown = sorted({name.partition("@")[0] for name in wanted.enabled} - makers.keys())
    if unknown:
        raise _refused(
            f"There is no model {', '.join(unknown)}", path, f"Known are: {', '.join(sorted(makers))}."
        )
    stray = sorted(set(wanted.calibrated) - {name.partition("@")[0] for name in wanted.enabled})
    if stray:
        raise _refused(f"{', '.join(stray)} cannot be calibrated", path, "Enable the model itself as well.")
    models: list[Model] = []
    failures: list[Failure] = []
    for name in wanted.enabled:
        _collect(name, functools.partial(_enabled, name, makers), models, failures)
    for name in wanted.calibrated:
        base = next((model for model in reversed(models) if model.name == name), None)
        if base is not None:
            _collect(f"{name}_calibrated", functools.partial(_calibrated, base), models, failures)
    for entry in wanted.http:
        _collect(str(entry.get("name", "http")), functools.partial(_over_http, entry), models, failures)
    _refuse_doubles(models, path)
    if not models:
        reasons = "; ".join(f"{failure.name}: {failure.reason}" for failure in failures)
        raise _refused(f"Not one model can run ({reasons})", path, "Mend the models or enable others.")
    return Registry(tuple(models), tuple(failures))


def locked(
    models: Sequence[Model], known: Mapping[tuple[str, str], str]
) -> tuple[list[Model], list[Failure]]:
    """The models that are what their version was, and those that are not.

    `known` gives the fingerprint of every version that has ever run. A remote model is known by its answers
    only, so that it is allowed here.
    """
    allowed: list[Model] = []
    refused: list[Failure] = []
    for model in models:
        if model.remote:
            allowed.append(model)
            continue
        name, version = model.identity()
        try:
            found = model.fingerprint()
        except Exception as error:
            refused.append(Failure(name, raised_in(error)))
            continue
        if known.get((name, version), found) == found:
            allowed.append(model)
        else:
            reason = f"its code or parameters are not those of version {version}: raise the version"
            refused.append(Failure(name, reason))
    return allowed, refused


def _read(path: Path) -> ModelsFile:
    try:
        return ModelsFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise _refused("The list of models is missing", path, "Point wait_models_path at it.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as broken:
        raise _refused(f"The list of models is not TOML: {broken}", path, "Mend the file.") from None
    except ValidationError as invalid:
        faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in invalid.errors()]
        raise _refused(f"The list of models is not valid: {'; '.join(faults)}", path, "Mend it.") from None


def _makers() -> dict[str, list[Maker]]:
    """How each known name is made: nothing is imported yet."""
    makers: dict[str, list[Maker]] = {}
    for name, place in BUILT_IN:
        makers.setdefault(name, []).append(functools.partial(_built_in, place))
    for point in entry_points(group=ENTRY_POINTS):
        makers.setdefault(point.name, []).append(functools.partial(_made, point.load))
    return makers


def _built_in(place: str) -> Model:
    module, _, name = place.partition(":")
    return _made(lambda: getattr(importlib.import_module(module), name))


def _made(load: Callable[[], Any]) -> Model:
    model = load()()
    if not isinstance(model, Model):
        raise PermanentError("Not a model", where=type(model).__name__, mend="Subclass Model.")
    return model


def _enabled(wanted: str, makers: Mapping[str, list[Maker]]) -> list[Model]:
    """The newest version of a name, or the one that is asked for."""
    name, _, version = wanted.partition("@")
    found = [maker() for maker in makers[name]]
    for model in found:
        if model.identity()[0] != name:
            raise PermanentError(
                f"The model calls itself {model.name}", where=name, mend="Register it under its own name."
            )
    if version:
        found = [model for model in found if model.version == version]
        if not found:
            raise PermanentError(f"There is no version {version}", where=name, mend="Enable another version.")
    return [max(found, key=lambda model: version_order(model.version))]


def _calibrated(base: Model) -> list[Model]:
    module, _, name = CALIBRATED.partition(":")
    model: Model = getattr(importlib.import_module(module), name)(base)
    model.identity()
    return [model]


def _over_http(entry: dict[str, Any]) -> list[Model]:
    found: list[Model] = importlib.import_module(f"{__package__}.http").http_models([entry])
    return found


def _collect(
    name: str, make: Callable[[], Iterable[Model]], models: list[Model], failures: list[Failure]
) -> None:
    """Adds what is made, or why it is not; `SystemExit` of a broken import included."""
    try:
        models.extend(make())
    except (Exception, SystemExit) as error:
        # No patient's data are in reach here, so that the error may speak for itself.
        failures.append(Failure(name, f"{type(error).__name__}: {error}"))


def _refuse_doubles(models: Sequence[Model], path: Path) -> None:
    # Which version of a remote model answers is its server's affair, so its name must differ from all.
    elsewhere = {model.name for model in models if model.remote}
    counts = Counter((model.name, "" if model.name in elsewhere else model.version) for model in models)
    doubles = [f"{name} {version}".strip() for (name, version), count in counts.items() if count > 1]
    if doubles:
        raise _refused(
            f"Two models are called {', '.join(doubles)}", path, "Give one of them another name or version."
        )


def _refused(what: str, path: Path, mend: str) -> PermanentError:
    return PermanentError(what, where=str(path), mend=mend)
