"""Where Dagster keeps its runs, events and files: named in `dagster.yaml`, placed by MedScore's settings.

Belongs here: the classes that `dagster.yaml` loads, so that every Dagster command works with no
variable set and from any folder. Does not belong here: policies such as limits and retention, which
stand in `dagster.yaml` itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dagster import Bool, Field
from dagster._config.config_schema import UserConfigSchema
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._core.storage.root import LocalArtifactStorage
from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage

from medscore_assets.database import create_database
from medscore_assets.settings import Settings


class Storage(DagsterPostgresStorage):
    """Dagster's PostgreSQL storage at the address that the settings give.

    Only the class's name travels to run workers and code servers. Each reads the settings for itself and
    holds the embedded server, if that is used, for as long as it lives.
    """

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """`should_autocreate_tables`: false where an administrator runs `dagster instance migrate`."""
        return {"should_autocreate_tables": Field(Bool, is_required=False, default_value=True)}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> Storage:
        url = Settings().databases().dagster
        create_database(url)
        # Without inst_data, which the parent would pass to parts that read other configuration from it.
        return cls(url, should_autocreate_tables=config_value["should_autocreate_tables"])


class ArtifactStorage(LocalArtifactStorage):
    """Files of runs, under MEDSCORE_HOME whatever the working directory is."""

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        return {}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> ArtifactStorage:
        return cls(str(_folder()), inst_data)


class ComputeLogs(LocalComputeLogManager):
    """What steps print, under MEDSCORE_HOME whatever the working directory is."""

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        return {}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> ComputeLogs:
        return cls(str(_folder() / "compute_logs"), inst_data=inst_data)


def _folder() -> Path:
    folder = Settings().home / "dagster"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
