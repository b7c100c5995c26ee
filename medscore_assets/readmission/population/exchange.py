"""What the machine that publishes a quarter and a Spark job hand each other: files at one address.

Belongs here: names and contents of those files, and reading and writing them whole. Does not belong here:
the database (`export.py`), what Spark does (`spark_job.py`) and who starts it (`engines.py`).

    members/<quarter>/<load>/   members in Parquet and, written last, the manifest that says what they are
    runs/<run>/                 the script, the model's files and the policy; then the sums, or what failed
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from medscore_assets.contracts.fields import Flag, Whole
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.readmission.population.accumulate import COLUMNS, TEXTS
from resources.artifacts import sha256
from resources.errors import MedscoreError, PermanentError
from resources.lake_folder import FolderStore, Store

EXPORT_FILE = "manifest.json"
POLICY_FILE = "policy.toml"
SCRIPT_FILE = "spark_job.py"
LOG_FILE = "spark.log"
SUMS_FILE = "sums"
"""What `Partial.to_bytes` gives."""
ERROR_FILE = "error.json"
"""What failed, as `what`, `where` and `mend`; without a member's value."""

TASK = "task"
"""The name of the task in the context of Dagster Pipes."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _arrow_type(name: str) -> pa.DataType:
    feature = READMISSION.fields.get(name)
    if isinstance(feature, Whole):
        return pa.float64()
    return pa.string() if name in TEXTS or not (feature is None or isinstance(feature, Flag)) else pa.bool_()


MEMBERS_SCHEMA = pa.schema([(name, _arrow_type(name)) for name in COLUMNS])
"""Members as they stand in the warehouse, unchecked: bad rows are in it. Who a member is, is not."""


class _Stored(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Export(_Stored):
    """What one load of a quarter's members is, as Parquet."""

    quarter: str
    loaded_at: AwareDatetime
    """Tells one load of the quarter from another."""
    as_of: AwareDatetime
    rows: Annotated[int, Field(ge=1)]
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    """That of the sums over these members (`Partial.fingerprint`), in hexadecimal."""
    contract_hash: Sha256
    """The contract under which the fingerprint was taken."""
    files: tuple[str, ...]
    """Relative to the manifest."""

    def to_bytes(self) -> bytes:
        """As it stands in the manifest."""
        return (self.model_dump_json(indent=2) + "\n").encode()


class Task(_Stored):
    """What a Spark job is to do; names are relative to `address`."""

    address: str
    """A folder or `s3://bucket/prefix`, for all machines of the job the same."""
    members: str
    """The folder of an export."""
    export_sha256: Sha256
    run: str
    """The folder of this run."""
    model_files: tuple[str, ...]
    """The model's files, its manifest among them."""
    manifest_sha256: Sha256
    policy_hash: Sha256
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
                "the file is not there", where=self.url(name), mend="Run the report again."
            ) from None

    def export(self, folder: str, stated: str | None = None) -> Export:
        """The manifest of an export. Raises `PermanentError` if it is absent, unreadable or not as stated.

        `stated` is the SHA-256 that it must have.
        """
        name = f"{folder}/{EXPORT_FILE}"
        content = self.read(name)
        try:
            if stated is not None and sha256(content) != stated:
                raise ValueError("another file")
            return Export.model_validate_json(content)
        except (ValidationError, ValueError):
            raise PermanentError(
                "the manifest of the exported members was changed, or is of another version of MedScore",
                where=self.url(name),
                mend="Move the folder away, and run the report again.",
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


def versions(packages: Sequence[str] = ("medscore", "numpy", "xgboost")) -> dict[str, str]:
    """What is installed here of that on which a figure depends."""
    from importlib.metadata import version

    return {name: version(name) for name in packages}


def load_folder(quarter: str, snapshot: dict[str, Any]) -> str:
    """The folder of the export of one load: `snapshot` is the quarter's row of `member_snapshots`."""
    return f"members/{quarter}/{snapshot['loaded_at']:%Y%m%dT%H%M%S.%fZ}-{READMISSION.hash[:8]}"
