"""Durations that a machine which stands still does not add to.

Belongs here: clocks for tests of what may not take long. For work of this process alone, `time.thread_time`
is enough. Does not belong here: waiting for something, which is polled for with a generous deadline.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_TICK_S = 0.01


@contextmanager
def awake() -> Iterator[Callable[[], float]]:
    """Gives the seconds so far, waiting included, in which this process could have run.

    A thread counts how often it has slept for a hundredth of a second. A machine that stops for a while, or
    that is too busy to wake it, adds one such sleep to the count. So does code that holds the interpreter.
    """
    ticks = 0
    over = threading.Event()

    def count() -> None:
        nonlocal ticks
        while not over.is_set():
            time.sleep(_TICK_S)
            ticks += 1

    thread = threading.Thread(target=count, daemon=True)
    thread.start()
    try:
        yield lambda: ticks * _TICK_S
    finally:
        over.set()
        thread.join()
