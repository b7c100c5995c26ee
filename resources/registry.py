"""The model registry: MLflow as the place where models, their measures and their aliases are kept.

Belongs here: registering a model's directory, resolving an alias to intact local files, listing versions.
Does not belong here: what is in a model, whether it may become champion, any scoring.

A model is a directory with a manifest (`artifacts.py`). It is logged as the artifact `model` of one run,
in MLflow's native flavour beside its own files, so that MLflow's tools read it too; nothing is pickled.
MLflow is imported on first use: it takes seconds.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from resources.artifacts import MANIFEST_FILE, broken, read_verified, sha256
from resources.errors import IntegrityError, MedscoreError, PermanentError, TransientError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature

CHAMPION = "champion"
CHALLENGER = "challenger"
MANIFEST_TAG = "manifest_sha256"
REFUSED_TAG = "refused_because"
"""Why a version did not become champion; empty if it did."""
FROM_MANIFEST = ("contract_hash", "policy_hash", "data_fingerprint")
"""Manifest entries that become tags of the version, to be read without fetching any file."""

_ARTIFACT = "model"
_LOCK = "medscore model registry"
_CONNECT_SECONDS = 10
_LOCK_WAIT = "120s"

Flavor = Callable[[Path, Path, Any, str], None]
"""Writes a model's directory (first) as an MLflow model (second), given signature and run id."""


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A registered version whose files are local and intact."""

    name: str
    version: int
    directory: Path
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class RegisteredVersion:
    """What the registry says about one version; its files are not looked at."""

    name: str
    version: int
    aliases: tuple[str, ...]
    created_at: datetime
    tags: Mapping[str, str]
    metrics: Mapping[str, float]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"created_at": self.created_at.isoformat()}


class ModelRegistry:
    """An MLflow store in PostgreSQL. Opens nothing before it is used; safe to share between threads.

    `tracking_uri` is `postgresql+psycopg://...` or a function that gives it; after a lost connection the
    function is asked anew. `artifacts` is the URL under which runs keep their files; `cache` is a local
    folder for the files of versions in use.

    Every method raises `TransientError` when the store cannot be reached and `PermanentError` when MLflow
    refuses.
    """

    def __init__(self, tracking_uri: str | Callable[[], str], artifacts: str, cache: Path) -> None:
        self._tracking_uri = tracking_uri
        self._artifacts = artifacts.rstrip("/")
        self._cache = cache
        self._client: MlflowClient | None = None
        self._address = ""
        self._guard = threading.Lock()

    def prepare(self) -> None:
        """Create the store's tables if they are absent: seconds the first time, then next to nothing.

        Every other method does so too; of several processes at once, one creates and the others wait.
        """
        with self._talking():
            pass

    def register(
        self,
        name: str,
        directory: Path,
        *,
        signature: ModelSignature | None = None,
        params: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
        flavor: Flavor | None = None,
    ) -> int:
        """Log a model's directory as a run of the experiment `name` and register it; the new version.

        The version carries `tags`, the manifest's hashes (`FROM_MANIFEST`) and the manifest's own
        SHA-256. It gets no alias. `flavor` is `xgboost_flavor` unless given. Raises `IntegrityError` if
        the directory is not what its manifest says. Nothing here may tell anything about one patient.
        """
        manifest = _verified(directory)
        stamps = {key: str(manifest[key]) for key in FROM_MANIFEST if key in manifest}
        stamps[MANIFEST_TAG] = sha256((directory / MANIFEST_FILE).read_bytes())
        stamps = {**(tags or {}), **stamps}
        with self._talking() as client:
            run = client.create_run(self._experiment(client, name), run_name=name, tags=stamps)
            try:
                for key, value in (params or {}).items():
                    client.log_param(run.info.run_id, key, value)
                for key, value in (metrics or {}).items():
                    client.log_metric(run.info.run_id, key, value)
                self._log_model(client, run.info.run_id, directory, signature, flavor or xgboost_flavor)
                version = self._create_version(client, name, run.info, stamps)
            except BaseException:
                client.set_terminated(run.info.run_id, "FAILED")
                raise
            client.set_terminated(run.info.run_id)
        return version

    def _experiment(self, client: MlflowClient, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(client.create_experiment(name, artifact_location=f"{self._artifacts}/{name}"))
            except MlflowException:
                # Another process was first.
                found = client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def _log_model(
        self,
        client: MlflowClient,
        run_id: str,
        directory: Path,
        signature: ModelSignature | None,
        flavor: Flavor,
    ) -> None:
        with tempfile.TemporaryDirectory(prefix="medscore-model-") as folder:
            package = Path(folder) / _ARTIFACT
            flavor(directory, package, signature, run_id)
            # Our own files last and byte for byte, since their hashes are registered.
            for name in (*_verified(directory)["files"], MANIFEST_FILE):
                shutil.copyfile(directory / name, package / name)
            client.log_artifacts(run_id, str(package), _ARTIFACT)

    def _create_version(self, client: MlflowClient, name: str, run: Any, tags: dict[str, str]) -> int:
        from mlflow.exceptions import MlflowException

        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{run.artifact_uri}/{_ARTIFACT}"
        return int(client.create_model_version(name, source, run.run_id, tags=tags).version)

    def set_alias(self, name: str, version: int, alias: str = CHAMPION) -> None:
        """Point an alias at a version, whatever it pointed at before."""
        with self._talking() as client:
            client.set_registered_model_alias(name, alias, str(version))

    def champion(self, name: str) -> StoredModel:
        """The version that scores, with its files."""
        return self.aliased(name, CHAMPION)

    def aliased(self, name: str, alias: str) -> StoredModel:
        """The version behind an alias, with its files in the cache, every one verified at every call.

        A damaged cache is fetched anew. Raises `PermanentError` if no version has the alias, and
        `IntegrityError` naming the file if what the store holds is not what was registered.
        """
        with self._talking() as client:
            found = _version_behind(client, name, alias)
            if found is None:
                raise PermanentError(
                    f"no model has the alias {alias}",
                    where=f"registered model {name}",
                    mend=f"Train one: medscore train {name}",
                )
            directory = self._cache / name / str(found.version)
            registered = dict(found.tags).get(MANIFEST_TAG, "")
            if not _intact(directory, registered):
                _fetch(found.source, directory, registered, client.tracking_uri)
        return StoredModel(name, int(found.version), directory, dict(found.tags))

    def versions(self, name: str) -> list[RegisteredVersion]:
        """Every version of a model, newest first; none if the model was never registered."""
        with self._talking() as client:
            found = client.search_model_versions(f"name = '{name}'")
            if not found:
                return []
            aliases = client.get_registered_model(name).aliases
            listed = [
                RegisteredVersion(
                    name=name,
                    version=int(version.version),
                    aliases=tuple(sorted(a for a, v in aliases.items() if int(v) == int(version.version))),
                    created_at=datetime.fromtimestamp(version.creation_timestamp / 1000, UTC),
                    tags=dict(version.tags),
                    metrics=dict(client.get_run(version.run_id).data.metrics) if version.run_id else {},
                )
                for version in found
            ]
        return sorted(listed, key=lambda v: v.version, reverse=True)

    @contextmanager
    def _talking(self) -> Iterator[MlflowClient]:
        """A client, and MLflow's errors as ours."""
        try:
            yield self._connected()
        except MedscoreError:
            raise
        except (sa.exc.OperationalError, sa.exc.InterfaceError) as error:
            raise self._unreachable() from error
        except Exception as error:
            if not type(error).__module__.startswith("mlflow"):
                raise
            if getattr(error, "error_code", "") == "TEMPORARILY_UNAVAILABLE":
                raise self._unreachable() from error
            raise PermanentError(
                f"MLflow refuses: {str(error).splitlines()[0]}",
                where="model registry",
                mend="See the state of the store: medscore doctor",
            ) from error

    def _unreachable(self) -> TransientError:
        with self._guard:
            self._client = None
        return TransientError(
            "the model registry cannot be reached",
            where=self._address,
            mend="Start its server, make the database with: medscore db upgrade, or correct "
            "MEDSCORE_MLFLOW_DATABASE_URL.",
        )

    def _connected(self) -> MlflowClient:
        with self._guard:
            if self._client is None:
                uri = self._tracking_uri if isinstance(self._tracking_uri, str) else self._tracking_uri()
                self._address = sa.make_url(uri).render_as_string(hide_password=True)
                self._client = _open(uri)
            return self._client


def _open(uri: str) -> MlflowClient:
    """A client on a store whose tables exist. Fails at once where MLflow would retry for minutes."""
    engine = sa.create_engine(
        uri,
        poolclass=sa.NullPool,
        isolation_level="AUTOCOMMIT",
        connect_args={"connect_timeout": _CONNECT_SECONDS},
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


def _version_behind(client: MlflowClient, name: str, alias: str) -> Any | None:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def _fetch(source: str, directory: Path, registered: str, tracking_uri: str) -> None:
    """Download beside the directory, verify, and put it in the directory's place in one step."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with (directory.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _intact(directory, registered):
            return
        with tempfile.TemporaryDirectory(prefix=f".{directory.name}-", dir=directory.parent) as folder:
            fresh = _download(source, Path(folder) / "download", tracking_uri)
            try:
                _verified(fresh, registered)
            except IntegrityError as error:
                raise IntegrityError(error.what, where=source, mend=error.mend) from error
            if directory.exists():
                directory.rename(Path(folder) / "damaged")
            fresh.rename(directory)


def _intact(directory: Path, registered: str) -> bool:
    try:
        _verified(directory, registered)
    except IntegrityError:
        return False
    return True


def _download(source: str, target: Path, tracking_uri: str) -> Path:
    from mlflow.artifacts import download_artifacts

    target.mkdir()
    try:
        return Path(download_artifacts(artifact_uri=source, dst_path=str(target), tracking_uri=tracking_uri))
    except FileNotFoundError as error:
        raise _gone(source) from error
    except Exception as error:
        if getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST" or "No such" in str(error):
            raise _gone(source) from error
        raise TransientError(
            "the model's files cannot be fetched",
            where=source,
            mend="See that the artifact store can be reached.",
        ) from error


def _gone(source: str) -> IntegrityError:
    return IntegrityError(
        "the registered model's files are gone",
        where=source,
        mend="Restore the registered files, or train anew: medscore train readmission",
    )


def _verified(directory: Path, registered: str | None = None) -> dict[str, Any]:
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
        mlflow_model=Model(artifact_path=_ARTIFACT, run_id=run_id),
        signature=signature,
        pip_requirements=[f"xgboost=={xgb.__version__}"],
        model_format="ubj",
    )
