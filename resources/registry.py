"""The model registry: MLflow as the place where models, their measures and their aliases are kept.

Belongs here: registering a model's directory, resolving an alias to intact local files, listing versions.
Does not belong here: what is in a model, whether it may become champion, any scoring.

A model is a directory with a manifest (`artifacts.py`). It is logged as the artifact `model` of one run,
in MLflow's native flavour beside its own files, so that MLflow's tools read it too; nothing is pickled.
MLflow is imported on first use: it takes seconds.
"""

from __future__ import annotations

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

from resources.artifacts import MANIFEST_FILE, sha256
from resources.errors import MedscoreError, PermanentError, TransientError
from resources.mlflow_store import (
    CONNECT_SECONDS,
    MODEL_ARTIFACT,
    download,
    fetch,
    intact,
    open_store,
    verified,
    version_behind,
    xgboost_flavor,
)
from resources.mlflow_tables import AliasTables, TablesDiffer, Version

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
        self._tables: AliasTables | None = None
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
        manifest = verified(directory)
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
            package = Path(folder) / MODEL_ARTIFACT
            flavor(directory, package, signature, run_id)
            # Our own files last and byte for byte, since their hashes are registered.
            for name in (*verified(directory)["files"], MANIFEST_FILE):
                shutil.copyfile(directory / name, package / name)
            client.log_artifacts(run_id, str(package), MODEL_ARTIFACT)

    def _create_version(self, client: MlflowClient, name: str, run: Any, tags: dict[str, str]) -> int:
        from mlflow.exceptions import MlflowException

        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{run.artifact_uri}/{MODEL_ARTIFACT}"
        return int(client.create_model_version(name, source, run.run_id, tags=tags).version)

    def set_alias(self, name: str, version: int, alias: str = CHAMPION) -> None:
        """Point an alias at a version, whatever it pointed at before."""
        with self._talking() as client:
            client.set_registered_model_alias(name, alias, str(version))

    def drop_alias(self, name: str, alias: str) -> None:
        """Take an alias away. Nothing happens if no version has it."""
        with self._talking() as client:
            if version_behind(client, name, alias) is not None:
                client.delete_registered_model_alias(name, alias)

    def version_with(self, name: str, alias: str) -> int | None:
        """The version behind an alias, if there is one; its files are not looked at."""
        found = self._behind(name, alias)
        return None if found is None else found.version

    def tag(self, name: str, version: int, tags: Mapping[str, str]) -> None:
        """Set tags of a version, whatever they said before; the others stay."""
        with self._talking() as client:
            for key, value in tags.items():
                client.set_model_version_tag(name, str(version), key, value)

    def attach(self, name: str, version: int, folder: Path, path: str) -> str:
        """Log a folder's files as the artifacts `path` of the version's run; files of that name are replaced.

        Returns the page of the run's artifacts in MLflow's UI, from `#` on. Nothing in the folder may tell
        anything about one patient.
        """
        with self._talking() as client:
            run = client.get_run(_found(client, name, version).run_id)
            client.log_artifacts(run.info.run_id, str(folder), path)
        return f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}/artifacts/{path}"

    def attached(self, name: str, version: int, path: str, target: Path) -> Path:
        """Fetch what was attached as `path` into `target`, a folder that is made if need be.

        Raises `PermanentError` if nothing was.
        """
        with self._talking() as client:
            run_id = _found(client, name, version).run_id
            if not client.list_artifacts(run_id, path):
                raise PermanentError(
                    f"version {version} has no {path}",
                    where=f"registered model {name}",
                    mend=f"Train and evaluate a version: medscore train {name}",
                )
            source = f"{client.get_run(run_id).info.artifact_uri}/{path}"
            with tempfile.TemporaryDirectory(prefix="medscore-fetched-") as folder:
                fetched = download(source, Path(folder) / "download")
                shutil.copytree(fetched, target, dirs_exist_ok=True)
        return target

    def log_metrics(self, name: str, version: int, metrics: Mapping[str, float]) -> None:
        """Add measures to those that the version was registered with."""
        with self._talking() as client:
            from mlflow.entities import Metric

            now = int(datetime.now(UTC).timestamp() * 1000)
            logged = [Metric(key, value, now, 0) for key, value in metrics.items()]
            client.log_batch(_found(client, name, version).run_id, metrics=logged)

    def champion(self, name: str) -> StoredModel:
        """The version that scores, with its files."""
        return self.aliased(name, CHAMPION)

    def aliased(self, name: str, alias: str) -> StoredModel:
        """The version behind an alias, with its files in the cache, every one verified at every call.

        A damaged cache is fetched anew. Raises `PermanentError` if no version has the alias, and
        `IntegrityError` naming the file if what the store holds is not what was registered.
        """
        found = self._behind(name, alias)
        if found is None:
            raise PermanentError(
                f"no model has the alias {alias}",
                where=f"registered model {name}",
                mend=f"Train one: medscore train {name}",
            )
        return self._stored(found)

    def _behind(self, name: str, alias: str) -> Version | None:
        """What an alias points at. MLflow is only imported where its tables are not the known ones."""
        try:
            return self._reading().behind(name, alias)
        except TablesDiffer:
            with self._talking() as client:
                found = version_behind(client, name, alias)
            return None if found is None else _version(found)
        except sa.exc.DBAPIError as error:
            raise self._unreachable() from error

    def stored(self, name: str, version: int) -> StoredModel:
        """A version with its files, whatever its aliases; otherwise as `aliased`."""
        with self._talking() as client:
            found = _version(_found(client, name, version))
        return self._stored(found)

    def _stored(self, found: Version) -> StoredModel:
        directory = self._cache / found.name / str(found.version)
        registered = found.tags.get(MANIFEST_TAG, "")
        if not intact(directory, registered):
            fetch(found.source, directory, registered)
        return StoredModel(found.name, found.version, directory, found.tags)

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
            if self._tables is not None:
                self._tables.close()
                self._tables = None
        return TransientError(
            "the model registry cannot be reached",
            where=self._address,
            mend="Start its server, make the database with: medscore db upgrade, or correct "
            "MEDSCORE_MLFLOW_DATABASE_URL.",
        )

    def _connected(self) -> MlflowClient:
        with self._guard:
            if self._client is None:
                self._client = open_store(self._asked_address())
            return self._client

    def _reading(self) -> AliasTables:
        with self._guard:
            if self._tables is None:
                self._tables = AliasTables(self._asked_address(), connect_seconds=CONNECT_SECONDS)
            return self._tables

    def _asked_address(self) -> str:
        uri = self._tracking_uri if isinstance(self._tracking_uri, str) else self._tracking_uri()
        self._address = sa.make_url(uri).render_as_string(hide_password=True)
        return uri


def _version(found: Any) -> Version:
    """MLflow's record of a version as ours."""
    return Version(str(found.name), int(found.version), str(found.source), dict(found.tags))


def _found(client: MlflowClient, name: str, version: int) -> Any:
    """MLflow's record of a version. Raises `PermanentError` if there is none."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version(name, str(version))
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise PermanentError(
            f"there is no version {version}",
            where=f"registered model {name}",
            mend="See the versions: medscore models list",
        ) from error
