"""What several models compute from the same history, computed once.

Belongs here: sharing a result for as long as its history exists. Does not belong here: what is computed.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from medscore_assets.wait_times.model import History

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


def _forget(place: int) -> None:
    with _GUARD:
        _RESULTS.pop(place, None)
        for known in [known for known in _LOCKS if known[0] == place]:
            del _LOCKS[known]
