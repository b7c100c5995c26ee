"""Databases are created and migrated: once, whoever else does it at the same time."""

from __future__ import annotations

import socket
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from alembic import command

from medscore_assets.database import alembic_config, create_database, prepare, revisions, upgrade
from medscore_assets.database_addresses import Databases
from resources.errors import PermanentError, TransientError
from resources.warehouse import Warehouse
from tests.clocks import awake
from tests.conftest import address_of


@pytest.fixture
def databases(postgres: str) -> Iterator[Databases]:
    """Addresses of three databases that do not exist yet."""
    name = f"prepared-{uuid.uuid4().hex[:8]}"
    names = [name, f"{name}_dagster", f"{name}_mlflow"]
    yield Databases(
        address_of(postgres, names[0]),
        address_of(postgres, names[1], "postgresql+psycopg2"),
        address_of(postgres, names[2]),
    )
    with psycopg.connect(postgres, autocommit=True) as server:
        for each in names:
            server.execute(
                psycopg.sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(
                    psycopg.sql.Identifier(each)
                )
            )


def test_prepare_makes_everything_and_is_harmless_when_repeated(databases: Databases) -> None:
    prepare(databases)
    current, head = revisions(databases.warehouse)
    assert current == head is not None
    prepare(databases)
    for url in (databases.dagster, databases.mlflow):
        assert not create_database(url)


@pytest.mark.faults
def test_many_may_prepare_at_once(databases: Databases) -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            prepare(databases)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    current, head = revisions(databases.warehouse)
    assert current == head


def test_the_revisions_make_the_tables_that_the_code_declares(database: str) -> None:
    engine = sa.create_engine(database, poolclass=sa.NullPool)
    with engine.connect() as connection:
        config = alembic_config()
        config.attributes["connection"] = connection
        command.check(config)


def test_the_revisions_can_be_taken_back(database: str) -> None:
    engine = sa.create_engine(database, poolclass=sa.NullPool)
    with engine.begin() as connection:
        config = alembic_config()
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    assert sa.inspect(engine).get_table_names() == ["alembic_version"]
    assert revisions(database)[0] is None
    upgrade(database)
    current, head = revisions(database)
    assert current == head


def test_a_schema_newer_than_the_code_is_refused(database: str, warehouse: Warehouse) -> None:
    with warehouse.transaction() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = 'from_the_future'"))
    with pytest.raises(PermanentError, match="newer"):
        upgrade(database)
    assert revisions(database)[0] == "from_the_future"


def test_a_user_who_may_not_create_is_told_who_can(databases: Databases, postgres: str) -> None:
    with psycopg.connect(postgres, autocommit=True) as server:
        server.execute("DROP ROLE IF EXISTS modest")
        server.execute("CREATE ROLE modest LOGIN")
    url = sa.make_url(databases.warehouse).set(username="modest").render_as_string(hide_password=False)
    with pytest.raises(PermanentError, match="Let an administrator run: CREATE DATABASE"):
        create_database(url)


def test_a_server_that_is_not_there_is_transient(tmp_path: Path) -> None:
    with pytest.raises(TransientError, match="does not answer"):
        create_database(f"postgresql+psycopg://me@/medscore?host={tmp_path}")


def test_a_server_that_takes_connections_and_says_nothing_does_not_hold_the_caller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Two attempts, the database and its server's own, at libpq's shortest time each.
    monkeypatch.setattr("medscore_assets.database._CONNECT_TIMEOUT_S", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with awake() as seconds, pytest.raises(TransientError, match="does not answer"):
            create_database(f"postgresql+psycopg://me@127.0.0.1:{port}/medscore")
        assert seconds() < 20


def test_the_configuration_is_found_from_any_folder(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    current, head = revisions(database)
    assert current == head
