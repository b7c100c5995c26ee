"""What a lake needs of its storage, and that storage in a folder.

Belongs here: listing folders, putting a finished file in its place in one step, local paths. Does not
belong here: Parquet, data sets and days (`lake.py`).
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from resources.errors import TransientError

ASIDE_PREFIX = ".aside-"
"""Unfinished files begin so: engines that read a folder skip names with a dot."""

ABANDONED_S = 24 * 3600.0
"""An unfinished file this old has lost its writer."""


class Store(Protocol):
    """Where files are. Names are relative to the lake, with `/`."""

    def folders(self, folder: str) -> list[str]:
        """The names of the folders directly in a folder; none if it does not exist."""

    def files(self, folder: str) -> list[str]:
        """The names of the files directly in a folder, sorted; none if it does not exist."""

    def aside(self, folder: str) -> AbstractContextManager[Path]:
        """A path for a file to be written that nobody reads, deleted at the end if it is still there."""

    def put(self, file: Path, name: str) -> None:
        """Put a file from `aside` in its place at once, over any that is there."""

    def local(self, names: Sequence[str]) -> list[Path]:
        """Paths of files on this machine."""


class FolderStore:
    """A lake in a folder of a POSIX file system: renames are atomic and outlive a loss of power."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()

    def folders(self, folder: str) -> list[str]:
        return [entry.name for entry in self._entries(folder) if entry.is_dir()]

    def files(self, folder: str) -> list[str]:
        return sorted(
            entry.name
            for entry in self._entries(folder)
            if entry.is_file() and not entry.name.startswith(".")
        )

    @contextmanager
    def aside(self, folder: str) -> Iterator[Path]:
        directory = self._root / folder
        directory.mkdir(parents=True, exist_ok=True)
        _sweep(directory)
        file = directory / f"{ASIDE_PREFIX}{uuid.uuid4().hex}"
        try:
            yield file
        finally:
            file.unlink(missing_ok=True)

    def put(self, file: Path, name: str) -> None:
        target = self._root / name
        _sync(file)
        file.replace(target)
        _sync(target.parent)

    def local(self, names: Sequence[str]) -> list[Path]:
        return [self._root / name for name in names]

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self._root / folder) as entries:
                return list(entries)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise TransientError(
                f"the folder {folder} cannot be listed: {error.strerror}",
                where=str(self._root),
                mend="Look at the disk and at the rights of the folder.",
            ) from error


def _sweep(directory: Path) -> None:
    """Delete what killed writers have left."""
    oldest = time.time() - ABANDONED_S
    for left in directory.glob(f"{ASIDE_PREFIX}*"):
        with contextlib.suppress(FileNotFoundError):
            if left.stat().st_mtime < oldest:
                left.unlink()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
