"""What a failing asset tells Dagster: retry, or stop and say what mends it.

Belongs here: the one translation of MedScore's errors into Dagster's. Does not belong here: alerts.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from resources.errors import MedscoreError, TransientError

MAX_RETRIES = 3
SECONDS_BETWEEN_RETRIES = 10


@contextmanager
def failures() -> Iterator[None]:
    """Inside: a transient error is retried a few times, any other error of ours fails the run at once.

    The sentence of the error, with its mend, becomes the failure's description in Dagster.
    """
    try:
        yield
    except TransientError as error:
        raise dg.RetryRequested(max_retries=MAX_RETRIES, seconds_to_wait=SECONDS_BETWEEN_RETRIES) from error
    except MedscoreError as error:
        raise dg.Failure(
            description=str(error),
            metadata={"what": error.what, "where": error.where, "mend": error.mend},
            allow_retries=False,
        ) from error
