"""FHIR R4 references to patients and stays, whose names are whatever a hospital or a client calls them.

Belongs here: the form of a Reference by name. Does not belong here: the resources that hold one.
"""

from __future__ import annotations

import re
from typing import Any

_ID = re.compile(r"[A-Za-z0-9.-]{1,64}")


def reference_to(kind: str, name: str) -> dict[str, Any]:
    """A Reference to the resource of a type: by its id, or by an identifier where the name can be no id."""
    if _ID.fullmatch(name):
        return {"reference": f"{kind}/{name}"}
    return {"type": kind, "identifier": {"value": name}}
