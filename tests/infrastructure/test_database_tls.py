"""Databases on other machines: TLS with a verified certificate, by real connections of each driver.

The door of `tls.py` listens on this machine. It stands for another one by a name, with libpq's `hostaddr`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from medscore_assets.database import create_database
from medscore_assets.database_addresses import Databases
from medscore_assets.settings import Settings
from resources.errors import PermanentError
from resources.warehouse import Warehouse
from tests.infrastructure.tls import door, self_made_certificate

HOST = "warehouse.example"


@pytest.fixture
def certificate(tmp_path: Path, clean_environment: pytest.MonkeyPatch) -> Path:
    """The certificate of `HOST`, which this machine trusts, and no other."""
    file = self_made_certificate(tmp_path, HOST)
    clean_environment.setenv("SSL_CERT_FILE", str(file))
    clean_environment.setenv("HOME", str(tmp_path))
    for name in ("PGSSLMODE", "PGSSLROOTCERT"):
        clean_environment.delenv(name, raising=False)
    return file


@contextmanager
def server(postgres: str, certificate: Path | None) -> Iterator[str]:
    """The address of a server on another machine, written as the source document writes it: no TLS mode."""
    with door(postgres, certificate) as port:
        yield f"postgresql://postgres@{HOST}:{port}/postgres?hostaddr=127.0.0.1"


def databases(url: str, **settings: bool) -> Databases:
    found = Settings(
        _env_file=None, database_url=url, dagster_database_url=url, mlflow_database_url=url, **settings
    )
    return found.databases()


def encrypted(url: str) -> bool:
    """Whether a connection with this address, by the driver in it, is encrypted."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        raw = connection.connection.driver_connection
        assert raw is not None
        assert connection.scalar(sa.text("SELECT 1")) == 1
        return bool(raw.pgconn.ssl_in_use if isinstance(raw, psycopg.Connection) else raw.info.ssl_in_use)


def test_an_address_without_a_tls_mode_is_encrypted_and_verified_by_every_driver(
    postgres: str, certificate: Path
) -> None:
    with server(postgres, certificate) as url:
        found = databases(url)
        assert encrypted(found.warehouse)
        assert encrypted(found.dagster)
        assert encrypted(found.mlflow)
        assert not create_database(found.warehouse)


def test_mlflow_takes_the_address(postgres: str, certificate: Path) -> None:
    from mlflow.store.db.utils import create_sqlalchemy_engine

    with server(postgres, certificate) as url:
        engine = create_sqlalchemy_engine(databases(url).mlflow)
        with engine.connect() as connection:
            assert connection.connection.driver_connection.pgconn.ssl_in_use  # type: ignore[union-attr]
        engine.dispose()


def test_a_server_without_tls_is_refused_where_the_documents_address_sends_everything_in_clear(
    postgres: str, certificate: Path
) -> None:
    with server(postgres, None) as url:
        assert not encrypted(url.replace("postgresql:", "postgresql+psycopg:"))
        found = databases(url)
        for each in (found.warehouse, found.dagster, found.mlflow):
            with pytest.raises(sa.exc.OperationalError, match="does not support SSL"):
                encrypted(each)
        weak = databases(f"{url}&sslmode=disable", database_insecure=True)
        assert not encrypted(weak.warehouse)


def test_the_certificate_of_another_host_is_refused(
    postgres: str, tmp_path: Path, clean_environment: pytest.MonkeyPatch
) -> None:
    of_another = self_made_certificate(tmp_path, "elsewhere.example")
    clean_environment.setenv("SSL_CERT_FILE", str(of_another))
    clean_environment.setenv("HOME", str(tmp_path))
    with server(postgres, of_another) as url:
        found = databases(url)
        for each in (found.warehouse, found.dagster):
            with pytest.raises(sa.exc.OperationalError, match="does not match host name"):
                encrypted(each)


def test_a_certificate_that_nobody_vouches_for_is_refused(
    postgres: str, certificate: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    stranger = self_made_certificate(tmp_path_factory.mktemp("stranger"), HOST)
    with server(postgres, stranger) as url:
        found = databases(url)
        for each in (found.warehouse, found.dagster):
            with pytest.raises(sa.exc.OperationalError, match="certificate verify failed"):
                encrypted(each)
        opened = Warehouse(found.warehouse)
        with pytest.raises(PermanentError, match=r"not trusted.*sslrootcert"), opened.transaction():
            pass
        named = databases(f"{url}&sslrootcert={stranger}")
        assert encrypted(named.warehouse)
