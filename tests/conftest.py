"""What every test may ask for: a PostgreSQL server, fresh databases, settings, a registry, public data.

Belongs here: fixtures of more than one area. Does not belong here: records and models of one family.
"""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

# What is compiled is kept, whatever the shell says: tests start Python some fifty times.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# What is imported stays: looking for garbage in it takes a tenth of the time. See pytest_collection_finish.
gc.disable()


def _in_memory() -> Path | None:
    """The folder that is memory, if there is room: databases are made and dropped by the hundred."""
    folder = Path("/dev/shm")
    roomy = os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > 6 * 2**30
    return folder if roomy else None


# Before any module reads them: no test may meet the developer's own instance, database or settings.
_ISOLATED = Path(tempfile.mkdtemp(prefix="medscore-tests-", dir=_in_memory()))
# What is registered first runs last: by then every server in it is stopped.
atexit.register(shutil.rmtree, _ISOLATED, ignore_errors=True)
_TEST_DATA = os.environ.get("MEDSCORE_TEST_DATA")
for _name in [name for name in os.environ if name.startswith(("MEDSCORE_", "DAGSTER_", "MLFLOW_"))]:
    del os.environ[_name]
os.environ["DAGSTER_HOME"] = str(_ISOLATED / "dagster")
os.environ["MEDSCORE_HOME"] = str(_ISOLATED / "home")
(_ISOLATED / "dagster").mkdir()

import psycopg  # noqa: E402
from hypothesis import HealthCheck  # noqa: E402
from hypothesis import settings as rules  # noqa: E402
from psycopg import sql  # noqa: E402

from medscore_assets.database import create_database, upgrade  # noqa: E402
from medscore_assets.settings import PROJECT_ROOT, Settings  # noqa: E402
from resources.embedded_postgres import ensure_running, release  # noqa: E402
from resources.warehouse import Warehouse  # noqa: E402

if TYPE_CHECKING:
    from resources.registry import ModelRegistry

# What a test asks for by itself counts more. No rule here looks at the clock: the machine may be shared.
rules.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
rules.load_profile("shared machine")

pytest_plugins = ["tests.models", "tests.wait_times.stored"]


def pytest_collection_finish() -> None:
    """From here on garbage is looked for, but not in the modules, and less often than Python would."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()


UNSAFE_AND_QUICK = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
"""Server settings for data that nobody needs after a crash."""


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a server of this session: `postgresql://...`."""
    directory = _ISOLATED / "postgres"
    yield ensure_running(directory, UNSAFE_AND_QUICK)
    release(directory)


@pytest.fixture(scope="session")
def homes() -> Path:
    """A folder for database servers of a test's own, and installations with one; in memory if possible."""
    folder = _ISOLATED / "homes"
    folder.mkdir(mode=0o755)
    return folder


def address_of(postgres: str, name: str, driver: str = "postgresql+psycopg") -> str:
    """The SQLAlchemy address of the database `name` on the session's server."""
    return f"{driver}:{postgres.partition(':')[2].replace('/postgres?', f'/{name}?')}"


@pytest.fixture(scope="session")
def migrated_template(postgres: str) -> str:
    """The name of a database with the newest schema and no rows, to be copied."""
    name = "migrated_template"
    create_database(address_of(postgres, name))
    upgrade(address_of(postgres, name))
    return name


@contextmanager
def copied_database(postgres: str, template: str, name: str | None = None) -> Iterator[str]:
    """The SQLAlchemy address of a fresh copy of another database, dropped at the end."""
    name = name or f"test_{uuid.uuid4().hex[:12]}"
    copy, drop = "CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy", "DROP DATABASE {} WITH (FORCE)"
    with psycopg.connect(postgres, autocommit=True) as server:
        # A pool may still hold the template open, and PostgreSQL copies only what nobody uses.
        server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [template]
        )
        server.execute(sql.SQL(copy).format(sql.Identifier(name), sql.Identifier(template)))
    yield address_of(postgres, name)
    with psycopg.connect(postgres, autocommit=True) as server:
        server.execute(sql.SQL(drop).format(sql.Identifier(name)))


@pytest.fixture
def database(postgres: str, migrated_template: str) -> Iterator[str]:
    """The SQLAlchemy address of a fresh database with the newest schema."""
    with copied_database(postgres, migrated_template) as url:
        yield url


@pytest.fixture
def warehouse(database: str) -> Iterator[Warehouse]:
    """A warehouse on a fresh database."""
    opened = Warehouse(database)
    yield opened
    opened.close()


@pytest.fixture
def settings(database: str, tmp_path: Path) -> Settings:
    """Settings whose warehouse is the fresh database; their other databases are named but not made."""
    return Settings(home=tmp_path, database_url=database)


@pytest.fixture(scope="session")
def registry(
    postgres: str, empty_store: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ModelRegistry]:
    """An MLflow registry of this session. Use a model name of your own per test."""
    from resources.registry import ModelRegistry

    folder = tmp_path_factory.mktemp("registry")
    with copied_database(postgres, empty_store, name="registry") as url:
        yield ModelRegistry(lambda: url, artifacts=(folder / "artifacts").as_uri(), cache=folder / "cache")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public data sets; skips the test where it is absent."""
    folder = Path(_TEST_DATA) if _TEST_DATA else PROJECT_ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no public data sets at {folder}; set MEDSCORE_TEST_DATA")
    return folder


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`monkeypatch`, with no MEDSCORE_ variable set."""
    for name in [name for name in os.environ if name.startswith("MEDSCORE_")]:
        monkeypatch.delenv(name)
    return monkeypatch
