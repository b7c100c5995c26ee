"""Files as importers read them: from a folder or a zip archive, in pieces, within limits.

Belongs here: opening what a person exported, limits against archives that unpack without end, progress.
Does not belong here: what is in the files.

Nothing is unpacked to disk, so an archive cannot write anywhere. A zip archive states the size of each
file; what it states is checked before reading, and no more than that is ever read.
"""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from medscore_assets.mobility.importers.records import Progress
from resources.errors import PermanentError

MEBI: Final = 1024 * 1024
MAX_FILES: Final = 100_000
MAX_RATIO: Final = 300
"""How many times its packed size a file may be. Exports reach about 40; a bomb has about 1,000."""
RATIO_COUNTS_FROM: Final = 10 * MEBI
"""Below this size any ratio is harmless."""

UNREADABLE = (OSError, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError, RuntimeError)
"""What reading a damaged, encrypted or unusual archive raises."""


@dataclass(frozen=True, slots=True)
class Part:
    """One file to be read: inside of an archive if `member` is set."""

    path: Path
    size: int
    """Bytes, unpacked from a zip archive."""
    member: str | None = None

    @property
    def name(self) -> str:
        """The file's name without folders."""
        return (self.member or self.path.name).rpartition("/")[2]

    def __str__(self) -> str:
        return f"{self.path}, {self.member}" if self.member else str(self.path)


def parts(path: Path, mend: str, max_bytes: int) -> list[Part]:
    """The file itself, the files below a folder, or those in a zip archive, by name.

    `max_bytes`: the most that one file in an archive may hold. Raises `PermanentError` for what is
    absent or no archive, and for an archive that would unpack without bounds.
    """
    if path.is_dir():
        return [Part(f, f.stat().st_size) for f in sorted(path.rglob("*")) if f.is_file()]
    if not path.exists():
        raise PermanentError("there is no such file", where=str(path), mend=f"Check the path. {mend}")
    if path.suffix.lower() != ".zip":
        return [Part(path, path.stat().st_size)]
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if not m.is_dir()]
    except UNREADABLE:
        raise unreadable(str(path), mend) from None
    if len(members) > MAX_FILES:
        raise _too_large(str(path), f"the archive holds more than {MAX_FILES:,} files", mend)
    for m in members:
        where = f"{path}, {m.filename}"
        if m.file_size > max_bytes:
            raise _too_large(where, f"the file would unpack to more than {max_bytes // MEBI:,} MiB", mend)
        if m.file_size > RATIO_COUNTS_FROM and m.file_size > MAX_RATIO * m.compress_size:
            raise _too_large(where, f"the file would unpack to more than {MAX_RATIO} times its size", mend)
    return [Part(path, m.file_size, m.filename) for m in sorted(members, key=lambda m: m.filename)]


@contextmanager
def opened(part: Part, mend: str, advance: Progress | None = None) -> Iterator[IO[bytes]]:
    """The bytes of a part, unpacked if its name ends with .gz. `PermanentError` if they cannot be read."""
    try:
        if part.member is not None:
            with zipfile.ZipFile(part.path) as archive, archive.open(part.member) as file:
                yield io.BufferedReader(_Counted(file, part.size, advance), MEBI)
        else:
            with part.path.open("rb") as file:
                counted = io.BufferedReader(_Counted(file, part.size, advance), MEBI)
                unpacked: Any = gzip.GzipFile(fileobj=counted) if part.path.suffix == ".gz" else counted
                yield unpacked
    except UNREADABLE as error:
        raise unreadable(str(part), mend) from error


class _Counted(io.RawIOBase):
    """A binary file that tells how much of it was read."""

    def __init__(self, file: IO[bytes], size: int, advance: Progress | None) -> None:
        self._file, self._size, self._advance, self._done = file, size, advance, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        piece = self._file.read(len(buffer))
        buffer[: len(piece)] = piece
        self._done += len(piece)
        if self._advance is not None:
            self._advance(self._done, self._size)
        return len(piece)


def unreadable(where: str, mend: str) -> PermanentError:
    """The error for a file that is damaged, encrypted, or not what its name says."""
    return PermanentError("the file cannot be read, or is damaged", where=where, mend=mend)


def _too_large(where: str, what: str, mend: str) -> PermanentError:
    return PermanentError(what, where=where, mend=f"Unpack and look at it before you trust it. {mend}")
