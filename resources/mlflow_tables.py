"""What an alias points at, read from MLflow's own tables.

Belongs here: one query. Does not belong here: anything that writes, and what MLflow decides
(`registry.py`, `mlflow_store.py`).

Every process that scores asks this, some every two seconds, and MLflow takes three seconds and 200 MB to
import. Where the tables are not as they are known here, MLflow itself is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

_WORKSPACE = "default"
"""MLflow's name for where models are if nobody has set up workspaces."""

_VERSION = sa.text(
    """
    SELECT v.version, v.source,
        COALESCE(jsonb_object_agg(t.key, t.value) FILTER (WHERE t.key IS NOT NULL), '{}')
    FROM registered_model_aliases a
    JOIN model_versions v USING (workspace, name, version)
    LEFT JOIN model_version_tags t USING (workspace, name, version)
    WHERE a.workspace = :workspace AND a.name = :name AND a.alias = :alias
        AND v.current_stage <> 'Deleted_Internal'
    GROUP BY v.version, v.source
    """
)


@dataclass(frozen=True, slots=True)
class Version:
    """A registered version, as its record says."""

    name: str
    version: int
    source: str
    """The address of its files."""
    tags: Mapping[str, str]


class TablesDiffer(Exception):
    """There are no such tables: none yet, or those of another MLflow."""


class AliasTables:
    """Reads one store. Safe to share between threads; connects on first use."""

    def __init__(self, uri: str, *, connect_seconds: int) -> None:
        self._engine = sa.create_engine(
            uri,
            pool_size=1,
            pool_pre_ping=True,
            isolation_level="AUTOCOMMIT",
            hide_parameters=True,
            use_native_hstore=False,
            connect_args={"connect_timeout": connect_seconds},
        )

    def behind(self, name: str, alias: str) -> Version | None:
        """The version that an alias points at, if there is one.

        Raises `TablesDiffer`, and SQLAlchemy's errors where the store cannot be reached.
        """
        asked = {"workspace": _WORKSPACE, "name": name, "alias": alias}
        try:
            with self._engine.connect() as connection:
                row = connection.execute(_VERSION, asked).one_or_none()
        except sa.exc.ProgrammingError as error:
            raise TablesDiffer from error
        return None if row is None else Version(name, int(row[0]), str(row[1]), dict(row[2]))

    def close(self) -> None:
        """Close the connections; the next question opens one anew."""
        self._engine.dispose()
