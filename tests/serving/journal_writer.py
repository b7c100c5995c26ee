"""A process that writes to the journal until it is done or killed, and prints what was acknowledged.

Arguments: the database's address, the process's name, how many records, how many at once.
"""

from __future__ import annotations

import asyncio
import sys

from medscore_assets.settings import Settings
from serving.journal import Journal, JournalUnavailable
from tests.serving.journal_rows import entry, score_row


async def write(url: str, name: str, records: int, at_once: int) -> None:
    journal = Journal(Settings(database_url=url))
    await journal.start()
    numbers = iter(range(records))

    async def worker() -> None:
        for number in numbers:
            score = score_row(client=name)
            try:
                await journal.record(entry(entity=score["score_id"], request_id=f"{name}-{number}"), score)
            except JournalUnavailable:
                continue
            # The pipe holds it even if the process is killed a moment later.
            print(score["score_id"], flush=True)

    await asyncio.gather(*(worker() for _ in range(at_once)))
    await journal.stop()


if __name__ == "__main__":
    asyncio.run(write(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
