"""The rules in force: read when their file changes, without a restart and without a gap.

Belongs here: when the file is read again, and what happens when it is wrong. Does not belong here: what a
valid policy is (`readmission/policy.py`).
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from medscore_assets.readmission.policy import Policy, load_policy
from resources.errors import PermanentError

log = logging.getLogger("medscore.serving")

_LOOK_EVERY_S = 1.0


class PolicyFile:
    """Gives the policy at each call. A changed file is read; a wrong one is refused and the old one kept."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seen = self._stamp()
        self._policy = load_policy(file)
        self._look_at = time.monotonic() + _LOOK_EVERY_S
        self.refused: str | None = None
        """What is wrong with the present file, if it is not the one in force."""

    def __call__(self) -> Policy:
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + _LOOK_EVERY_S
            if (stamp := self._stamp()) != self._seen:
                self._seen = stamp
                self._read()
        return self._policy

    def _read(self) -> None:
        try:
            self._policy = load_policy(self._file)
        except PermanentError as error:
            self.refused = error.what
            log.error("policy refused", extra={"reason": "invalid"})
            return
        self.refused = None
        log.warning("policy read", extra={"version": self._policy.version})

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self._file.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino
