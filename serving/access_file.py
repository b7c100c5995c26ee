"""Who may ask: the issuers whose tokens are taken, and whose pages may call, from a TOML file.

Belongs here: the shape of the file that MEDSCORE_ACCESS_FILE names, and its validation. Does not belong
here: verifying a token (`tokens.py`). The file holds no secret: public keys, addresses and names only.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from resources.errors import PermanentError

Role = Literal["coordinator", "care-manager", "analyst", "steward"]
Algorithm = Literal["ES384", "RS384"]
Claim = Annotated[str, Field(pattern=r"^[^.\s]+(\.[^.\s]+)*$", max_length=200)]

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def _web_address(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
        raise ValueError("must begin with https://, or with http:// on this machine")
    if not parts.hostname or parts.username or parts.password or parts.fragment:
        raise ValueError("must be an address without user, password and fragment")
    return url


def _origin(url: str) -> str:
    parts = urlsplit(_web_address(url))
    if parts.path or parts.query:
        raise ValueError("must be scheme, host and port only")
    return url


def _base(url: str) -> str:
    if urlsplit(_web_address(url)).query:
        raise ValueError("must have no query")
    return url.rstrip("/")


Url = Annotated[str, AfterValidator(_web_address)]
Origin = Annotated[str, AfterValidator(_origin)]
BaseUrl = Annotated[str, AfterValidator(_base)]


class _Rules(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)


class Issuer(_Rules):
    """Whose tokens are taken, with which keys, for what, and which roles they give."""

    issuer: Annotated[str, Field(min_length=1, max_length=500)]
    algorithms: Annotated[list[Algorithm], Field(min_length=1)]
    keys_file: str | None = None
    keys_url: Url | None = None
    key_urls: list[Url] = []
    one_time: bool = False
    audience: Annotated[str, Field(min_length=1)] | None = None
    max_lifetime_s: Annotated[int, Field(ge=30, le=86_400)] | None = None
    roles_claim: Claim | None = None
    roles: dict[str, list[Role]] = {}
    default_roles: list[Role] = []
    tenant_claim: Claim | None = None
    tenants: list[str] = []
    purpose_claim: Claim | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.keys_file and self.keys_url:
            raise ValueError("give keys_file or keys_url, not both")
        if not (self.keys_file or self.keys_url or self.key_urls):
            raise ValueError("give its keys: keys_file, keys_url or key_urls")
        if self.one_time == (self.audience is not None):
            raise ValueError("give an audience, or one_time = true: then it is the address that is called")
        if (self.roles_claim is None) != (not self.roles):
            raise ValueError("roles_claim and roles belong together")
        if not (self.roles or self.default_roles):
            raise ValueError("it gives nobody a role: set roles_claim and roles, or default_roles")
        if (self.tenant_claim is None) != (not self.tenants):
            raise ValueError("tenant_claim and tenants belong together")
        return self

    @property
    def lifetime_s(self) -> int:
        """The longest time from a token's making to its end."""
        return self.max_lifetime_s or (300 if self.one_time else 3600)


class AccessFile(_Rules):
    """The validated content of one access file. The default has no issuer: nobody is told apart."""

    public_url: BaseUrl | None = None
    api_keys: bool = False
    cors_origins: list[Origin] = []
    issuers: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")], Issuer] = {}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [rules.issuer for rules in self.issuers.values()]
        if len(set(names)) < len(names):
            raise ValueError("two issuers have the same name in tokens")
        if {"key", "local"} & self.issuers.keys():
            raise ValueError("an issuer cannot be called key or local")
        if self.public_url is None and any(rules.one_time for rules in self.issuers.values()):
            raise ValueError("public_url is needed: tokens that are used once name the address they are for")
        return self

    @property
    def open(self) -> bool:
        """Whether nobody is told apart."""
        return not (self.issuers or self.api_keys)


def read_access_file(file: Path | None) -> AccessFile:
    """The rules in force; those of no file are open. Raises `PermanentError` that names the entry."""
    if file is None:
        return AccessFile()
    try:
        return AccessFile.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise PermanentError(
            f"the access file cannot be read: {error.strerror}",
            where=str(file),
            mend="Set MEDSCORE_ACCESS_FILE to a file that can be read.",
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        raise PermanentError(
            "the access file is not valid TOML", where=str(file), mend="Correct the file."
        ) from None
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        text = "; ".join(
            f"{'.'.join(map(str, p['loc'])) or 'the whole'}: {p['msg'].removeprefix('Value error, ')}"
            for p in problems
        )
        raise PermanentError(
            f"the access file is not valid: {text}", where=str(file), mend="Correct these entries."
        ) from None
