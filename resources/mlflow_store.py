"""MLflow's store from below: opening it, fetching a model's files intact, its formats.

Belongs here: what the registry needs of MLflow and of the disk for one file, folder or address.
Does not belong here: registered models, versions and aliases (`registry.py`).
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse
from urllib.request import url2pathname

import sqlalchemy as sa

from resources.artifacts import MANIFEST_FILE, broken, read_verified
from resources.errors import IntegrityError, TransientError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature

MODEL_ARTIFACT = "model"
"""The folder of a run that holds the model's own files."""

FILES_FLAVOR = "medscore_files"
"""What MLflow calls a model that only MedScore reads."""

_LOCK = "medscore model registry"
CONNECT_SECONDS = 10
_LOCK_WAIT = "120s"


def open_store(uri: str) -> MlflowClient:
    """A client on a store whose tables exist. Fails at once where MLflow would retry for minutes."""
    engine = sa.create_engine(
        uri,
        poolclass=sa.NullPool,
        isolation_level="AUTOCOMMIT",
        connect_args={"connect_timeout": CONNECT_SECONDS},
    )
    with engine.connect() as connection:
        connection.execute(sa.text(f"SET lock_timeout = '{_LOCK_WAIT}'"))
        connection.execute(sa.text("SELECT pg_advisory_lock(hashtextextended(:lock, 0))"), {"lock": _LOCK})
        _quieten()
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_registered_models(max_results=1)
    return client


def _quieten() -> None:
    """No telemetry, no progress bars, no chatter: what MLflow has to say comes as an exception."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow  # noqa: F401  MLflow sets its loggers up when it is imported

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # Logs the whole failed statement, which is raised as well.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def version_behind(client: MlflowClient, name: str, alias: str) -> Any | None:
    """MLflow's record of the version that an alias points at, if there is one."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def fetch(source: str, directory: Path, registered: str) -> None:
    """Download beside the directory, verify, and put it in the directory's place in one step."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with (directory.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if intact(directory, registered):
            return
        with tempfile.TemporaryDirectory(prefix=f".{directory.name}-", dir=directory.parent) as folder:
            fresh = download(source, Path(folder) / "download")
            try:
                verified(fresh, registered)
            except IntegrityError as error:
                raise IntegrityError(error.what, where=source, mend=error.mend) from error
            if directory.exists():
                directory.rename(Path(folder) / "damaged")
            fresh.rename(directory)


def intact(directory: Path, registered: str) -> bool:
    """Whether `verified` finds nothing wrong."""
    try:
        verified(directory, registered)
    except IntegrityError:
        return False
    return True


def download(source: str, target: Path) -> Path:
    """Fetch an artifact's files into a folder that does not exist yet; where they are.

    Raises `IntegrityError` if the store does not have them, `TransientError` if it cannot be read.
    """
    address = urlparse(source)
    if address.scheme in ("", "file"):
        folder = url2pathname(address.path) if address.scheme else source
        try:
            return Path(shutil.copytree(folder, target))
        except FileNotFoundError as error:
            raise _gone(source) from error
        except (OSError, shutil.Error) as error:
            raise _unreadable(source) from error
    from mlflow.artifacts import download_artifacts

    target.mkdir()
    try:
        return Path(download_artifacts(artifact_uri=source, dst_path=str(target)))
    except FileNotFoundError as error:
        raise _gone(source) from error
    except Exception as error:
        if getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST" or "No such" in str(error):
            raise _gone(source) from error
        raise _unreadable(source) from error


def _unreadable(source: str) -> TransientError:
    return TransientError(
        "the model's files cannot be fetched",
        where=source,
        mend="See that the artifact store can be reached.",
    )


def _gone(source: str) -> IntegrityError:
    return IntegrityError(
        "the registered model's files are gone",
        where=source,
        mend="Restore the registered files, or train anew: medscore train readmission",
    )


def verified(directory: Path, registered: str | None = None) -> dict[str, Any]:
    """The manifest of a directory in which every listed file is what it says.

    With `registered`, the manifest itself must have that SHA-256. Raises `IntegrityError`.
    """
    if registered is not None:
        read_verified(directory, {MANIFEST_FILE: registered})
    try:
        manifest = json.loads((directory / MANIFEST_FILE).read_bytes())
        files = dict(manifest["files"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise broken(f"{MANIFEST_FILE} is absent or lists no files", directory) from error
    read_verified(directory, files)
    return dict(manifest)


def xgboost_flavor(directory: Path, package: Path, signature: ModelSignature | None, run_id: str) -> None:
    """A directory with `model.ubj` as MLflow's native XGBoost model, its requirement stated, not guessed."""
    import mlflow.xgboost
    import xgboost as xgb
    from mlflow.models import Model

    booster = xgb.Booster()
    booster.load_model(directory / "model.ubj")
    mlflow.xgboost.save_model(
        booster,
        str(package),
        mlflow_model=Model(artifact_path=MODEL_ARTIFACT, run_id=run_id),
        signature=signature,
        pip_requirements=[f"xgboost=={xgb.__version__}"],
        model_format="ubj",
    )


def files_flavor(directory: Path, package: Path, signature: ModelSignature | None, run_id: str) -> None:
    """A directory of a format of its own: MLflow keeps the files and offers nothing that could run them."""
    from mlflow.models import Model

    package.mkdir(parents=True)
    model = Model(artifact_path=MODEL_ARTIFACT, run_id=run_id, signature=signature)
    model.add_flavor(FILES_FLAVOR, format=verified(directory)["format"])
    model.save(str(package / "MLmodel"))
