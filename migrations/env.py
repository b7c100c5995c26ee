"""How Alembic reaches the warehouse, from `medscore db upgrade` and from its own command alike.

Belongs here: connection and comparison options. Does not belong here: schema (`versions/`).
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context

from medscore_assets.tables import metadata


def configure_and_run(connection: sa.Connection) -> None:
    """Run the command's revisions in `connection`, all in one transaction."""
    context.configure(connection=connection, target_metadata=metadata, compare_server_default=True)
    with context.begin_transaction():
        context.run_migrations()


def connect_and_run() -> None:
    """For `alembic` on the command line: open the warehouse of the settings."""
    from medscore_assets.settings import Settings

    engine = sa.create_engine(Settings().databases().warehouse, poolclass=sa.NullPool)
    with engine.connect() as connection:
        configure_and_run(connection)


def print_sql() -> None:
    """For `alembic upgrade --sql`: the statements, without a database."""
    context.configure(dialect_name="postgresql", target_metadata=metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if context.is_offline_mode():
    print_sql()
elif given is not None:
    configure_and_run(given)
else:
    connect_and_run()
