"""The errors that MedScore raises on purpose.

Belongs here: error classes, each a sentence that says what is wrong, where, and what mends it.
Does not belong here: values of patients. No message built from these classes may hold one.
"""


class MedscoreError(Exception):
    """Something is wrong that a person can mend.

    `what` and `where` make the sentence, `mend` is the next step, in the imperative.
    """

    def __init__(self, what: str, *, where: str, mend: str) -> None:
        self.what, self.where, self.mend = what, where, mend
        super().__init__(f"{what} ({where}). {mend}")


class PermanentError(MedscoreError):
    """Trying again gives the same answer: a broken contract, a changed file, a wrong setting."""


class TransientError(MedscoreError):
    """Trying again may succeed: a database that restarts, a lock that somebody holds."""


class IntegrityError(PermanentError):
    """A stored model is not what was registered, or was trained under another contract."""


class ContractViolation(PermanentError):
    """A row, or too many rows, break the contract. Names fields and reasons, never values."""
