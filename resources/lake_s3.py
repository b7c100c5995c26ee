"""A lake's files as objects of S3.

Belongs here: listing, putting and downloading objects with a boto3 client that is handed in.
Does not belong here: credentials, Parquet, data sets and days (`lake.py`).

An object appears whole, so one put is atomic. Downloads are kept in a cache under the object's ETag: an
object that was replaced is another file there. What nobody asked for in a while goes when the cache is
full.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from resources.errors import PermanentError, TransientError
from resources.lake_folder import ASIDE_PREFIX

CACHE_BYTES = 32 * 1024**3
"""How much downloaded objects may fill."""

IN_USE_S = 3600.0
"""A file asked for this recently may be open, and stays whatever the cache's size."""

REFUSED = frozenset({"AccessDenied", "NoSuchBucket", "InvalidAccessKeyId", "SignatureDoesNotMatch", "403"})
GONE = frozenset({"NoSuchKey", "404"})


class S3Store:
    """A lake under `s3://bucket/prefix`."""

    def __init__(self, url: str, client: Any, cache: Path, *, cache_bytes: int = CACHE_BYTES) -> None:
        parts = urlsplit(url)
        self._url, self._bucket, self._client = url, parts.netloc, client
        self._prefix = f"{path}/" if (path := parts.path.strip("/")) else ""
        self._cache, self._cache_bytes = cache.absolute() / self._bucket, cache_bytes

    def folders(self, folder: str) -> list[str]:
        prefix = self._key(folder) + "/"
        pages = self._pages(Prefix=prefix, Delimiter="/")
        found = [common["Prefix"] for page in pages for common in page.get("CommonPrefixes", ())]
        return [key.removeprefix(prefix).rstrip("/") for key in found]

    def files(self, folder: str) -> list[str]:
        prefix = self._key(folder) + "/"
        pages = self._pages(Prefix=prefix, Delimiter="/")
        return sorted(item["Key"].removeprefix(prefix) for page in pages for item in page.get("Contents", ()))

    @contextmanager
    def aside(self, folder: str) -> Iterator[Path]:
        self._cache.mkdir(parents=True, exist_ok=True)
        file = self._cache / f"{ASIDE_PREFIX}{uuid.uuid4().hex}"
        try:
            yield file
        finally:
            file.unlink(missing_ok=True)

    def put(self, file: Path, name: str) -> None:
        with self._errors(name):
            self._client.upload_file(str(file), self._bucket, self._key(name))

    def local(self, names: Sequence[str]) -> list[Path]:
        return [self._downloaded(name) for name in names]

    def _downloaded(self, name: str) -> Path:
        """The cached file of an object as it is, downloaded if the cache has another version or none."""
        key = self._key(name)
        with self._errors(name):
            tag = self._client.head_object(Bucket=self._bucket, Key=key)["ETag"].strip('"')
        folder, _, file = key.rpartition("/")
        cached = self._cache / folder / f"{tag}-{file}"
        with contextlib.suppress(FileNotFoundError):
            os.utime(cached)
            return cached
        cached.parent.mkdir(parents=True, exist_ok=True)
        self._make_room()
        aside = cached.parent / f"{ASIDE_PREFIX}{uuid.uuid4().hex}"
        try:
            with self._errors(name):
                # Of the very version that the name in the cache says, or not at all.
                extra = {"IfMatch": f'"{tag}"'}
                body = self._client.get_object(Bucket=self._bucket, Key=key, **extra)["Body"]
                with aside.open("wb") as target:
                    for chunk in body.iter_chunks(1024 * 1024):
                        target.write(chunk)
            aside.replace(cached)
        finally:
            aside.unlink(missing_ok=True)
        return cached

    def _make_room(self) -> None:
        """Delete the files that were asked for longest ago until the cache is within its size."""
        entries = []
        for path in self._cache.rglob("*"):
            with contextlib.suppress(FileNotFoundError):
                if path.is_file():
                    entries.append((path.stat().st_mtime, path.stat().st_size, path))
        excess = sum(size for _, size, _ in entries) - self._cache_bytes
        for used, size, path in sorted(entries):
            if excess <= 0 or used > time.time() - IN_USE_S:
                return
            path.unlink(missing_ok=True)
            excess -= size

    def _key(self, name: str) -> str:
        return f"{self._prefix}{name}"

    def _pages(self, **arguments: Any) -> list[dict[str, Any]]:
        with self._errors(arguments["Prefix"]):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, **arguments)
            return list(pages)

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        """Errors of the client as ours: refused for good, or worth another try."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (Boto3Error, BotoCoreError, ClientError) as error:
            response = getattr(error, "response", None) or {}
            code = str(response.get("Error", {}).get("Code", "")) or type(error).__name__
            where = f"{self._url}/{name}"
            if code in GONE:
                raise PermanentError(
                    "the object is not there", where=where, mend="Deliver it again."
                ) from error
            if code in REFUSED:
                raise PermanentError(
                    f"S3 refuses: {code}", where=where, mend="Look at the bucket's name and the credentials."
                ) from error
            raise TransientError(f"S3 does not answer: {code}", where=where, mend="Try again.") from error
