"""The addresses of the three databases: which follows from which, the driver of each, and how one is shown.

Belongs here: what is done to an address, without I/O. Does not belong here: TLS (`database_tls.py`), what is
set (`settings.py`), and connections (`resources/warehouse.py`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit, urlunsplit

WAREHOUSE_DRIVER = "postgresql+psycopg"
DAGSTER_DRIVER = "postgresql+psycopg2"
MLFLOW_DRIVER = "postgresql+psycopg"


@dataclass(frozen=True, slots=True)
class Databases:
    """The SQLAlchemy addresses of the three databases, drivers included. Shown without passwords."""

    warehouse: str
    dagster: str
    mlflow: str

    @classmethod
    def beside(cls, warehouse: str, *, dagster: str | None, mlflow: str | None) -> Databases:
        """Each with the driver that its user has; those that are not given on the warehouse's server."""
        name = unquote(urlsplit(warehouse).path.strip("/"))
        return cls(
            warehouse=_with_driver(warehouse, WAREHOUSE_DRIVER),
            dagster=_with_driver(dagster or with_database(warehouse, f"{name}_dagster"), DAGSTER_DRIVER),
            mlflow=_with_driver(mlflow or with_database(warehouse, f"{name}_mlflow"), MLFLOW_DRIVER),
        )

    def __repr__(self) -> str:
        shown = (f"{name}={without_password(getattr(self, name))!r}" for name in self.__slots__)
        return f"Databases({', '.join(shown)})"


def is_postgresql(url: str) -> bool:
    """Whether it is of the form postgresql://user:password@host:port/database."""
    parts = urlsplit(url)
    return bool(re.fullmatch(r"postgres(ql)?(\+\w+)?", parts.scheme) and parts.path.strip("/"))


def with_database(url: str, name: str) -> str:
    """The address of another database on the same server."""
    # Not through urlunsplit, which drops the slashes where the server is in the query.
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/{quote(name)}" + (f"?{parts.query}" if parts.query else "")


def without_password(url: str) -> str:
    """The address as it may be shown."""
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    shown = f"{user.partition(':')[0]}{':***' if ':' in user else ''}@{host}" if user else host
    query = re.sub(r"(?i)((?:^|&)[^=&]*password=)[^&]*", r"\1***", parts.query)
    return urlunsplit(parts._replace(netloc=shown, query=query))


def _with_driver(url: str, driver: str) -> str:
    """SQLAlchemy takes a bare `postgresql://` for one driver and Dagster brings another: say which."""
    return f"{driver}:{url.partition(':')[2]}"
