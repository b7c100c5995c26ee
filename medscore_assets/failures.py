"""What a failing asset tells Dagster: retry, or stop and say what mends it.

Belongs here: the one translation of MedScore's errors into Dagster's. Does not belong here: alerts.
"""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from resources.errors import MedscoreError, TransientError

MAX_RETRIES = 3
SECONDS_BETWEEN_RETRIES = 10


@contextmanager
def failures() -> Iterator[None]:
    """Inside: a transient error is retried a few times, any other error fails the run at once.

    The sentence of an error of ours, with its mend, becomes the failure's description in Dagster. Of any
    other error only its kind and place are told: its text may quote a row.
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
    except dg.DagsterError:
        raise
    except Exception as error:
        if isinstance(error, dg.Failure | dg.RetryRequested):
            raise
        innermost = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(innermost.filename).name}:{innermost.lineno}, {innermost.name}"
        raise dg.Failure(
            description=f"Unexpected {type(error).__name__} ({place}); its text is withheld",
            metadata={"kind": type(error).__name__, "place": place},
            allow_retries=False,
        ) from None
