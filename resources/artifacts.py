"""A stored model's directory: a manifest that lists every file with its SHA-256.

Belongs here: the two rules that every model family keeps (what the manifest is called, that files match
it) and their check. Does not belong here: what else a manifest says, and where directories come from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from resources.errors import IntegrityError

MANIFEST_FILE = "manifest.json"
RESTORE = "Restore the registered files, or train anew: medscore train readmission"


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
