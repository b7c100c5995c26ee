"""What the machine that publishes a quarter and a Spark job hand each other: members, model, sums.

Belongs here: names and contents of those files. Does not belong here: reading and writing them whole
(`medscore_assets/spark/exchange.py`), the database (`export.py`), what Spark does (`spark_job.py`) and who
starts it (`engines.py`).

    members/<quarter>/<load>/   members in Parquet and, written last, the manifest that says what they are
    runs/<run>/                 the script, the model's files and the policy; then the sums, or what failed
"""

from __future__ import annotations

from typing import Annotated, Any

import pyarrow as pa
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from medscore_assets.contracts.fields import Flag, Whole
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.readmission.population.accumulate import COLUMNS, TEXTS
from medscore_assets.spark.exchange import Exchange
from medscore_assets.spark.exchange import Task as SparkTask
from resources.artifacts import sha256
from resources.errors import PermanentError

EXPORT_FILE = "manifest.json"
POLICY_FILE = "policy.toml"
SUMS_FILE = "sums"
"""What `Partial.to_bytes` gives."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _arrow_type(name: str) -> pa.DataType:
    feature = READMISSION.fields.get(name)
    if isinstance(feature, Whole):
        return pa.float64()
    return pa.string() if name in TEXTS or not (feature is None or isinstance(feature, Flag)) else pa.bool_()


MEMBERS_SCHEMA = pa.schema([(name, _arrow_type(name)) for name in COLUMNS])
"""Members as they stand in the warehouse, unchecked: bad rows are in it. Who a member is, is not."""


class Export(BaseModel):
    """What one load of a quarter's members is, as Parquet."""

    model_config = ConfigDict(extra="forbid", frozen=True)

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


class Task(SparkTask):
    """What the job of a quarter is to do."""

    members: str
    """The folder of an export."""
    export_sha256: Sha256
    model_files: tuple[str, ...]
    """The model's files, its manifest among them."""
    manifest_sha256: Sha256
    policy_hash: Sha256


def read_export(exchange: Exchange, folder: str, stated: str | None = None) -> Export:
    """The manifest of an export. Raises `PermanentError` if it is absent, unreadable or not as stated.

    `stated` is the SHA-256 that it must have.
    """
    name = f"{folder}/{EXPORT_FILE}"
    content = exchange.read(name)
    try:
        if stated is not None and sha256(content) != stated:
            raise ValueError("another file")
        return Export.model_validate_json(content)
    except (ValidationError, ValueError):
        raise PermanentError(
            "the manifest of the exported members was changed, or is of another version of MedScore",
            where=exchange.url(name),
            mend="Move the folder away, and run the report again.",
        ) from None


def load_folder(quarter: str, snapshot: dict[str, Any]) -> str:
    """The folder of the export of one load: `snapshot` is the quarter's row of `member_snapshots`."""
    return f"members/{quarter}/{snapshot['loaded_at']:%Y%m%dT%H%M%S.%fZ}-{READMISSION.hash[:8]}"
