"""A moment as clients write it in a query: seconds since 1970, or ISO 8601.

Belongs here: reading it, and its place in the OpenAPI document. Does not belong here: what it is for.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

_FIRST, _LAST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
_EPOCH = re.compile(r"[0-9]{1,12}(\.[0-9]{1,6})?")
_ISO = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?(Z|[+-][0-9]{2}:[0-9]{2})"
)


def moment_of(text: Any) -> datetime:
    """A moment in UTC from seconds since 1970 or ISO 8601 with its offset.

    Raises `ValueError`, which does not repeat the text, for anything else and outside of 2000 to 2100.
    """
    text = str(text)
    try:
        if _EPOCH.fullmatch(text):
            moment = datetime.fromtimestamp(float(text), UTC)
        # In a query, a plus that is not encoded is a space.
        elif _ISO.fullmatch(text := text.upper().replace(" ", "+")):
            moment = datetime.fromisoformat(text).astimezone(UTC)
        else:
            raise ValueError
    except (ValueError, OverflowError, OSError):
        raise ValueError("must be seconds since 1970, or ISO 8601 with its offset") from None
    if not _FIRST <= moment < _LAST:
        raise ValueError("must lie between 2000 and 2100, and be in seconds, not milliseconds")
    return moment


Moment = Annotated[
    datetime,
    BeforeValidator(moment_of),
    WithJsonSchema(
        {
            "anyOf": [
                {
                    "type": "integer",
                    "minimum": int(_FIRST.timestamp()),
                    "maximum": int(_LAST.timestamp()) - 1,
                },
                {"type": "string", "format": "date-time"},
            ],
            "description": "Seconds since 1970, or ISO 8601 with its offset.",
        }
    ),
]
