"""The databases themselves: that they exist, and which schema the warehouse has.

Belongs here: creating databases, running Alembic. Does not belong here: what the schema is
(`tables.py`, `migrations/`), and the schemas of Dagster and MLflow, which they manage on their own.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import sqlalchemy as sa
from psycopg import errors, sql

import migrations
from medscore_assets.database_addresses import Databases, without_password
from resources.errors import MedscoreError, PermanentError
from resources.warehouse import Warehouse, unreachable

if TYPE_CHECKING:
    from alembic.config import Config

_LOCK = "medscore schema"

_CONNECT_TIMEOUT_S = 10
"""For one attempt; a server that takes a connection and says nothing would hold the caller for ever."""


def prepare(databases: Databases) -> None:
    """Create the databases that are absent and bring the warehouse's schema up to the code's.

    Harmless when repeated and when several processes do it at once. Raises `TransientError` if the
    server does not answer, `PermanentError` if it refuses or the schema is newer than the code.
    """
    for url in (databases.warehouse, databases.dagster, databases.mlflow):
        create_database(url)
    upgrade(databases.warehouse)


def create_database(url: str) -> bool:
    """Create the database that `url` names, unless it is there. True if it was created."""
    address = sa.make_url(url)
    try:
        _connect(address).close()
        return False
    except psycopg.OperationalError as error:
        # Absent, or out of reach: its server's own database tells.
        return _create(address, unreachable(str(error), address))


def _create(address: sa.URL, refusal: MedscoreError) -> bool:
    name = address.database or ""
    try:
        connection = _connect(address.set(database="postgres"))
    except psycopg.OperationalError:
        raise refusal from None
    with connection:
        # One creator at a time: copying the template fails while another copy is made.
        connection.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [_LOCK])
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone():
            try:
                _connect(address).close()
            except psycopg.OperationalError:
                raise refusal from None
            return False
        try:
            command = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'")
            connection.execute(command.format(sql.Identifier(name)))
        except errors.InsufficientPrivilege:
            raise PermanentError(
                f"the database {name} is absent and {address.username} may not create it",
                where=address.render_as_string(hide_password=True),
                mend=f"Let an administrator run: CREATE DATABASE {name} OWNER {address.username}",
            ) from None
    return True


def upgrade(url: str) -> None:
    """Bring the schema of the warehouse at `url` to the newest revision, in one transaction."""
    from alembic import command
    from alembic.util.exc import CommandError

    current, head = revisions(url)
    if current == head:
        return
    warehouse = Warehouse(url)
    try:
        with warehouse.transaction() as connection:
            warehouse.lock(connection, _LOCK)
            config = alembic_config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except CommandError as error:
        raise PermanentError(
            f"the schema cannot be brought up to date: {error}",
            where=without_password(url),
            mend="Use the code that made this schema, or a newer one.",
        ) from error
    finally:
        warehouse.close()


def revisions(url: str) -> tuple[str | None, str | None]:
    """The revision that the warehouse at `url` has, and the one that this code wants.

    The first is None for an empty database, the second where no revision is written.
    """
    from alembic.script import ScriptDirectory

    head = ScriptDirectory.from_config(alembic_config()).get_current_head()
    warehouse = Warehouse(url)
    try:
        with warehouse.transaction() as connection:
            known = connection.scalar(sa.select(sa.func.to_regclass("alembic_version")))
            current = connection.scalar(sa.text("SELECT version_num FROM alembic_version")) if known else None
    finally:
        warehouse.close()
    return current, head


def alembic_config() -> Config:
    """Alembic's configuration, found from the package whatever the working directory is."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent).replace("%", "%%"))
    return config


def _connect(address: sa.URL) -> psycopg.Connection:
    conninfo = address.set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(conninfo, autocommit=True, connect_timeout=_CONNECT_TIMEOUT_S)
