"""What several models compute from the same history or snapshot, computed once.

Belongs here: sharing a result for as long as what it is of exists. Does not belong here: what is computed.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable, Hashable
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np

from medscore_assets.wait_times.fingerprint import changes_nothing
from medscore_assets.wait_times.model import History

Of = TypeVar("Of")
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_RESULTS: dict[int, dict[Hashable, Any]] = {}
_LOCKS: dict[tuple[int, Hashable], threading.Lock] = {}
_GUARD = threading.Lock()


def once(history: History, key: Hashable, compute: Callable[[], Result]) -> Result:
    """What `compute` gives for this very history; from the second call on without computing.

    `key` says what is computed, with all parameters. Models are fitted in threads: whoever comes second
    waits. The result is shared, so it may not be changed.
    """
    place = id(history)
    with _GUARD:
        if place not in _RESULTS:
            _RESULTS[place] = {}
            weakref.finalize(history, _forget, place)
        results = _RESULTS[place]
        lock = _LOCKS.setdefault((place, key), threading.Lock())
    with lock:
        if key not in results:
            results[key] = compute()
    found: Result = results[key]
    return found


@changes_nothing
def shared(
    compute: Callable[Concatenate[Of, Arguments], Result],
) -> Callable[Concatenate[Of, Arguments], Result]:
    """A function of a history or snapshot, and arguments that can be hashed, that computes once for each.

    The result may not be changed: arrays are read-only. The mark is no part of a model's fingerprint, for it
    changes no number.
    """
    name = f"{compute.__module__}.{compute.__qualname__}"

    @functools.wraps(compute)
    def found(of: Of, /, *arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        def computed() -> Result:
            result = compute(of, *arguments, **named)
            if isinstance(result, np.ndarray):
                result.flags.writeable = False
            return result

        key = (name, *arguments, *named.items())
        whose: Any = of
        return once(whose, key, computed)

    return found


def _forget(place: int) -> None:
    with _GUARD:
        _RESULTS.pop(place, None)
        for known in [known for known in _LOCKS if known[0] == place]:
            del _LOCKS[known]
