"""The lake that the settings name, for assets, commands and the API alike.

Belongs here: the S3 client of the lake, made when it is first used. Does not belong here: the lake's files
(`resources/lake.py`). Credentials come from where AWS's tools look for them, and are no setting.
"""

from __future__ import annotations

import threading
from typing import Any

from medscore_assets.settings import Settings
from resources.lake import Lake


def open_lake(settings: Settings) -> Lake:
    """The lake; nothing is opened or asked before it is used."""
    if not settings.lake_url.startswith("s3://"):
        return Lake(settings.lake_url)
    return Lake(settings.lake_url, s3=_ClientOnFirstUse(settings), cache=settings.home / "lake-cache")


class _ClientOnFirstUse:
    """What boto3's S3 client is, once anything of it is asked for."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client: Any = None
        self._guard = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        with self._guard:
            if self._client is None:
                self._client = _client(self._settings)
        return getattr(self._client, name)


def _client(settings: Settings) -> Any:
    from dagster_aws.s3 import S3Resource

    return S3Resource(
        endpoint_url=settings.lake_s3_endpoint,
        region_name=settings.lake_s3_region,
        profile_name=settings.lake_s3_profile,
    ).get_client()
