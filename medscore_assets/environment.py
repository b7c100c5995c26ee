"""The variables of the environment and of `.env` that belong to MedScore, and what is said of wrong ones.

Belongs here: names of variables, and refusals that never repeat a value: it may be a password.
Does not belong here: which settings there are, and what they may be (`settings.py`).
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from typing import Any

from dotenv import dotenv_values
from pydantic import ValidationError

from resources.errors import PermanentError

PREFIX = "MEDSCORE_"

_WHERE = "environment or .env"


def wrong_value(error: ValidationError) -> PermanentError:
    """The first problem, without the value."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    variable = PREFIX + str(first["loc"][0]).upper()
    problem = first["msg"].removeprefix("Value error, ")
    return PermanentError(
        f"the value of {variable} {problem if problem.startswith('is ') else 'is wrong: ' + problem.lower()}",
        where=_WHERE,
        mend=f"Correct {variable}, or unset it for the default.",
    )


def refuse_unknown(fields: Iterable[str], env_file: Any) -> None:
    """Raises `PermanentError` for a variable that is none of these fields.

    A misspelt one would be passed over in silence, and the default taken for what it meant.
    """
    known = {PREFIX + name.upper() for name in fields}
    given = {*os.environ, *(dotenv_values(env_file) if env_file else ())}
    for variable in sorted(v.upper() for v in given if v.upper().startswith(PREFIX)):
        if variable not in known:
            near = difflib.get_close_matches(variable, known, n=1, cutoff=0.8)
            raise PermanentError(
                f"{variable} is not a setting",
                where=_WHERE,
                mend=f"Did you mean {near[0]}?" if near else "Unset it; docs/reference lists the settings.",
            )
