"""A stored model's directory: a manifest that lists every file with its SHA-256.

Belongs here: the rules that every model family keeps (what the manifest is called, that it is read strictly,
that files match it) and their check. Does not belong here: what else a manifest says, and where directories
come from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from resources.errors import IntegrityError

M = TypeVar("M", bound=BaseModel)

MANIFEST_FILE = "manifest.json"
RESTORE = "Restore the registered files, or train the model anew."


def sha256(content: bytes) -> str:
    """64 hexadecimal digits, as they stand in manifests and tags."""
    return hashlib.sha256(content).hexdigest()


def read_verified(directory: Path, files: Mapping[str, str]) -> dict[str, bytes]:
    """The bytes of each file, given the SHA-256 that it must have.

    Raises `IntegrityError` naming the first file that is absent or another.
    """
    contents = {}
    for name, stated in files.items():
        try:
            contents[name] = (directory / name).read_bytes()
        except OSError as error:
            raise broken(f"the model's file {name} cannot be read", directory) from error
        found = sha256(contents[name])
        if found != stated:
            raise broken(
                f"the model's file {name} was changed: SHA-256 {found[:12]}, registered {stated[:12]}",
                directory,
            )
    return contents


def broken(what: str, directory: Path) -> IntegrityError:
    """The error for a directory that is not what was registered."""
    return IntegrityError(what, where=str(directory), mend=RESTORE)


def parsed_manifest(directory: Path, kind: type[M], *, stated_format: str, mend: str) -> M:
    """The manifest of a model's directory as its family declares it.

    Raises `IntegrityError` if it is absent, of another format (`mend` says what to do then), or invalid.
    """
    file = directory / MANIFEST_FILE
    try:
        text = file.read_text(encoding="utf-8")
        found = json.loads(text)
    except FileNotFoundError as error:
        raise broken(f"the model has no {MANIFEST_FILE}", directory) from error
    except ValueError as error:
        raise broken(f"{MANIFEST_FILE} is not JSON", directory) from error
    stated = found.get("format") if isinstance(found, dict) else None
    if stated != stated_format:
        raise IntegrityError(
            f"the manifest's format is {stated!r}, this code reads {stated_format!r}",
            where=str(file),
            mend=mend,
        )
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        entries = ", ".join(".".join(map(str, e["loc"])) for e in error.errors(include_input=False))
        raise broken(f"the manifest's entries are not valid: {entries}", directory) from error
