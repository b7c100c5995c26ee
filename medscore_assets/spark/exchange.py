"""What the machine that starts a Spark job and the job hand each other: a task, and files at one address.

Belongs here: the task's frame, names of files that every job has, reading and writing files whole. Does not
belong here: what a job is to do, and the files of one family (its `spark_job.py` and what that names), who
starts a job (`launchers.py`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from resources.errors import MedscoreError, PermanentError
from resources.lake_folder import FolderStore, Store

SCRIPT_FILE = "spark_job.py"
LOG_FILE = "spark.log"
ERROR_FILE = "error.json"
"""What failed, as `what`, `where` and `mend`; without a value of anybody."""

TASK = "task"
"""The name of the task in the context of Dagster Pipes."""


class Task(BaseModel):
    """What every Spark job is told; a family adds what its job is to do."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: str
    """A folder or `s3://bucket/prefix`, for all machines of the job the same; names are relative to it."""
    run: str
    """The folder of this run, with the script in it."""
    packages: dict[str, str]
    """Versions that every machine of the job must have, so that all compute the same."""


class Exchange:
    """Files under `address`: a folder, `file://...` or `s3://bucket/prefix`. Every file appears whole.

    For S3 the credentials and the region are those that AWS's own tools find; `cache` is a folder for
    what is downloaded.
    """

    def __init__(self, address: str, cache: Path) -> None:
        self._folder: Path | None = None
        self._store: Store
        if address.startswith("s3://"):
            import boto3

            from resources.lake_s3 import S3Store

            self.address = address.rstrip("/")
            self._store = S3Store(self.address, boto3.client("s3"), cache)
        else:
            self._folder = Path(address.removeprefix("file://")).absolute()
            self.address = str(self._folder)
            self._store = FolderStore(self._folder)

    def url(self, name: str) -> str:
        """A file's address as Spark opens it."""
        return f"{self.address}/{name}" if self._folder is None else f"file://{self._folder / name}"

    def local(self, name: str) -> Path | None:
        """A file's path if it is on this machine."""
        return None if self._folder is None else self._folder / name

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A path to write; at the end of the block the file is in its place, unless the block raises."""
        with self._store.aside(name.rpartition("/")[0]) as file:
            yield file
            self._store.put(file, name)

    def put(self, name: str, content: bytes) -> None:
        """Write a file, over any that is there."""
        with self.writing(name) as file:
            file.write_bytes(content)

    def has(self, name: str) -> bool:
        """Whether the file is there."""
        folder, _, file = name.rpartition("/")
        return file in self._store.files(folder)

    def read(self, name: str) -> bytes:
        """A file's bytes. Raises `PermanentError` if it is not there."""
        try:
            (path,) = self._store.local([name])
            return path.read_bytes()
        except FileNotFoundError:
            raise PermanentError(
                "the file is not there", where=self.url(name), mend="Run what makes it again."
            ) from None

    def discard(self, folder: str) -> None:
        """Delete a folder that is on this machine. On S3, a rule of the bucket does."""
        if self._folder is not None:
            shutil.rmtree(self._folder / folder, ignore_errors=True)


def error_to_bytes(error: MedscoreError) -> bytes:
    """An error as it stands in `ERROR_FILE`."""
    return json.dumps({"what": error.what, "where": error.where, "mend": error.mend}).encode()


def error_from_bytes(content: bytes) -> PermanentError:
    """The error that `error_to_bytes` was given."""
    told = json.loads(content)
    return PermanentError(told["what"], where=told["where"], mend=told["mend"])


def versions(packages: Sequence[str]) -> dict[str, str]:
    """What is installed here of these packages."""
    from importlib.metadata import version

    return {name: version(name) for name in packages}
