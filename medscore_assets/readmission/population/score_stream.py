"""Members as they come from a source, reduced to sums while the next ones are being read.

Belongs here: overlapping reading with scoring, and its bound on memory. Does not belong here: the source
itself (`resources`), and what is counted (`accumulate.py`).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

import pyarrow as pa

from medscore_assets.readmission.policy import Policy
from medscore_assets.readmission.population.accumulate import Accumulator
from medscore_assets.readmission.population.partial import Partial
from medscore_assets.readmission.scoring import ReadmissionModel

WAITING = 1
"""So many batches are ready ahead of the one that is scored."""

_END = None


def reduce_members(
    batches: Iterator[pa.RecordBatch],
    model: ReadmissionModel,
    policy: Policy,
    progress: Callable[[int], None] = lambda rows: None,
) -> Partial:
    """The sums over all batches; `progress` is told the rows of each once they are counted.

    Reading goes on in a thread of its own while a batch is scored. What reading raises is raised here;
    when this raises, reading has ended.
    """
    accumulator = Accumulator(model, policy)
    for batch in read_ahead(batches):
        accumulator.add(batch)
        progress(batch.num_rows)
    return accumulator.partial()


def read_ahead(batches: Iterator[pa.RecordBatch], waiting: int = WAITING) -> Iterator[pa.RecordBatch]:
    """The same batches, read in another thread, at most `waiting` of them ahead."""
    line: queue.Queue[pa.RecordBatch | BaseException | None] = queue.Queue(waiting)
    stopped = threading.Event()

    def put(item: pa.RecordBatch | BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                line.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def read() -> None:
        try:
            for batch in batches:
                if not put(batch):
                    break
            put(_END)
        except BaseException as error:
            put(error)
        finally:
            # A generator holds a cursor open until it is closed, by the thread that ran it.
            close = getattr(batches, "close", None)
            if close is not None:
                close()

    reader = threading.Thread(target=read, name="members", daemon=True)
    reader.start()
    try:
        while (item := line.get()) is not _END:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        reader.join()
