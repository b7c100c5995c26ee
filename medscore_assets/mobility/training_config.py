"""How each mobility model is boosted, as people and the search for better settings write it down.

Belongs here: the shape of the TOML file, its validation, reading and writing it. Does not belong here: what
the settings do (`training.py`), finding better ones (`tuning.py`).

A file has a table `default`, and one for each model with settings of its own, by its registry name:

    [default]
    max_rounds = 1000

    ["mobility-ms-1d"]
    max_bins = 512
    learning_rate = 0.05

A setting that a model's table lacks is the default table's, and one that both lack is the code's.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from medscore_assets.mobility.cohorts import COHORTS, GLOBAL_MODEL
from medscore_assets.mobility.model import model_name
from medscore_assets.mobility.training import Settings
from resources.errors import PermanentError

DEFAULT = "default"
HORIZONS = (1, 7)
MODELS = tuple(model_name(cohort, horizon) for cohort in (*COHORTS, GLOBAL_MODEL) for horizon in HORIZONS)

Count = Annotated[int, Field(ge=1)]


class Chosen(BaseModel):
    """What a table says; None is left to the default. The names are those of `training.Settings`."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    max_bins: Annotated[int, Field(ge=4, le=65_536)] | None = None
    learning_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    max_leaves: Annotated[int, Field(ge=2)] | None = None
    max_rounds: Count | None = None
    early_stopping_rounds: Annotated[int, Field(ge=0)] | None = None
    smoothing_rounds: Annotated[int, Field(ge=0)] | None = None
    min_samples_leaf: Count | None = None
    outer_bags: Count | None = None


Tables = Mapping[str, Chosen]
_TABLES = TypeAdapter(dict[str, Chosen])


def load(file: Path) -> dict[str, Chosen]:
    """The tables of a file. Raises `PermanentError` that names the entry that is wrong."""
    try:
        tables = _TABLES.validate_python(tomllib.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise _wrong(file, f"cannot be read: {error.strerror}", "Name a file that there is.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _wrong(file, f"are not valid TOML: {error}", "Correct that line.") from error
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        entries = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in found)
        raise _wrong(file, f"are not valid: {entries}", "Correct these entries.") from error
    if unknown := sorted(set(tables) - {DEFAULT, *MODELS}):
        raise _wrong(
            file, f"name models that there are not: {', '.join(unknown)}", f"Names: {', '.join(MODELS)}."
        )
    return tables


def settings_of(tables: Tables, model: str) -> Settings:
    """The settings of a model, by its registry name."""
    own = [tables[name].model_dump(exclude_none=True) for name in (DEFAULT, model) if name in tables]
    return Settings(**{name: value for table in own for name, value in table.items()})


def chosen(settings: Settings) -> Chosen:
    """What differs from the code's defaults."""
    default = asdict(Settings())
    return Chosen(**{name: value for name, value in asdict(settings).items() if value != default[name]})


def save(file: Path, model: str, settings: Settings) -> None:
    """Write a model's table into a file, which keeps its others; made if need be.

    The table says every setting, so that a later default does not change what was found to be good.
    """
    tables = load(file) if file.exists() else {}
    tables[model] = Chosen(**asdict(settings))
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    aside.write_text(_text(tables), encoding="utf-8")
    aside.replace(file)


def _text(tables: Tables) -> str:
    order = [name for name in (DEFAULT, *MODELS) if name in tables]
    blocks = []
    for name in order:
        values = tables[name].model_dump(exclude_none=True)
        lines = [
            f"{field.name} = {values[field.name]!r}" for field in fields(Settings) if field.name in values
        ]
        blocks.append("\n".join([f'["{name}"]' if "-" in name else f"[{name}]", *lines]))
    return "# How mobility models are boosted; see Settings in medscore_assets/mobility/training.py.\n\n" + (
        "\n\n".join(blocks) + "\n"
    )


def _wrong(file: Path, what: str, mend: str) -> PermanentError:
    return PermanentError(f"the settings of mobility training {what}", where=str(file), mend=mend)
