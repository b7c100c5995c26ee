"""To whom an alert goes: the channels and routes of `alerts.toml`.

Belongs here: the shape of that file, its validation, and the channels made from it.
Does not belong here: how a channel delivers (`resources/alerts.py`), and when (`alerting.py`).
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from dotenv import dotenv_values
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from medscore_assets.environment import PREFIX
from medscore_assets.settings import Settings
from resources.alerts import Channel, EmailChannel, LogChannel, WebhookChannel
from resources.errors import PermanentError

DEFAULT_FILE = Path(__file__).with_name("alerts.toml")
DEFAULT_ROUTE = "default"
PLATFORM_OWNER = "platform"
"""The owner of what belongs to no asset: the daemon, the database."""

Lookup = Callable[[str], str | None]
Variable = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")]


class _Rules(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)


class LogRules(_Rules):
    """A channel into this process's log."""

    kind: Literal["log"]


class WebhookRules(_Rules):
    """A channel that posts JSON."""

    kind: Literal["webhook"]
    url_variable: Variable
    secret_variable: Variable | None = None
    optional: bool = False


class EmailRules(_Rules):
    """A channel that sends mail."""

    kind: Literal["email"]
    server_variable: Variable
    from_variable: Variable
    to_variable: Variable
    optional: bool = False


ChannelRules = Annotated[LogRules | WebhookRules | EmailRules, Field(discriminator="kind")]


class AlertsFile(_Rules):
    """The validated content of one `alerts.toml`."""

    channels: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")], ChannelRules]
    routes: dict[str, Annotated[list[str], Field(min_length=1)]]

    @model_validator(mode="after")
    def _routes_lead_to_channels(self) -> Self:
        if DEFAULT_ROUTE not in self.routes:
            raise ValueError(f"the route {DEFAULT_ROUTE} is missing")
        for owner, names in self.routes.items():
            for name in names:
                if name not in self.channels:
                    raise ValueError(f"the route of {owner} names {name}, which is no channel of the file")
            if len(set(names)) < len(names):
                raise ValueError(f"the route of {owner} names a channel twice")
        return self


@dataclass(frozen=True)
class Routing:
    """Channels by name, and the names of the channels of each owner."""

    channels: Mapping[str, Channel]
    routes: Mapping[str, tuple[str, ...]]

    def channels_of(self, owner: str) -> tuple[str, ...]:
        """The names of the channels that this owner's alerts take."""
        return self.routes.get(owner, self.routes[DEFAULT_ROUTE])


def load_routing(settings: Settings, owners: Iterable[str] | None = None) -> Routing:
    """The routing in force. With `owners` also refuses routes of owners that do not exist.

    Raises `PermanentError` that names the entry, the owner or the variable that is wrong.
    """
    file = settings.alerts_file or DEFAULT_FILE
    rules = _read(file)
    if owners is not None:
        _require_known(rules.routes, {*owners, PLATFORM_OWNER, DEFAULT_ROUTE}, file)
    lookup = _lookup(settings)
    made = {name: _channel(name, channel, lookup, file) for name, channel in rules.channels.items()}
    channels = {name: channel for name, channel in made.items() if channel is not None}
    routes = {
        owner: tuple(name for name in names if name in channels) for owner, names in rules.routes.items()
    }
    for owner, names in routes.items():
        if not names:
            raise PermanentError(
                f"the route of {owner} leads nowhere: none of its channels is set",
                where=str(file),
                mend=f"Add a channel of the kind log, or set the variables of {rules.routes[owner][0]}.",
            )
    return Routing(channels, routes)


def validate(settings: Settings, owners: Iterable[str] | None = None) -> str:
    """What is in force, in one line without any address. Raises what `load_routing` raises."""
    routing = load_routing(settings, owners)
    return "; ".join(f"{owner}: {', '.join(names)}" for owner, names in routing.routes.items())


def _read(file: Path) -> AlertsFile:
    try:
        return AlertsFile.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise PermanentError(
            f"the alerts' routes cannot be read: {error.strerror}",
            where=str(file),
            mend="Set MEDSCORE_ALERTS_FILE to a file that can be read.",
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        raise PermanentError(
            "the alerts' routes are not valid TOML", where=str(file), mend="Correct the file."
        ) from None
    except ValidationError as error:
        raise PermanentError(
            f"the alerts' routes are not valid: {_entries(error)}",
            where=str(file),
            mend="Correct these entries.",
        ) from None


def _entries(error: ValidationError) -> str:
    """Without the values: an address pasted in place of a variable's name may hold a token."""
    found: list[dict[str, Any]] = [
        dict(e) for e in error.errors(include_url=False, include_input=False, include_context=False)
    ]
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'the whole'}: {e['msg']}" for e in found)


def _require_known(routes: Iterable[str], owners: set[str], file: Path) -> None:
    for owner in routes:
        if owner not in owners:
            raise PermanentError(
                f"there is a route for {owner}, which owns no asset",
                where=str(file),
                mend=f"Correct the owner. There are: {', '.join(sorted(owners))}.",
            )


def _lookup(settings: Settings) -> Lookup:
    """The value of a variable: a setting of ours, or the environment's, or that of `.env`."""
    env_file = settings.model_config.get("env_file")
    others = dotenv_values(env_file) if isinstance(env_file, str | os.PathLike) else {}

    def lookup(name: str) -> str | None:
        if name.startswith(PREFIX):
            value = getattr(settings, name.removeprefix(PREFIX).lower(), None)
            return value.get_secret_value() if isinstance(value, SecretStr) else value
        return os.environ.get(name) or others.get(name) or None

    return lookup


def _channel(name: str, rules: ChannelRules, lookup: Lookup, file: Path) -> Channel | None:
    """The channel; None where it is optional and not one of its variables is set."""
    if isinstance(rules, LogRules):
        return LogChannel(name)
    named = {field: value for field, value in rules if field.endswith("_variable") and value}
    values = {field: lookup(variable) for field, variable in named.items()}
    needed = [field for field in named if field != "secret_variable"]
    if rules.optional and not any(values[field] for field in needed):
        return None
    # A secret that is named and not set would leave the messages unsigned without a word.
    required = needed if rules.optional else list(named)
    for field in required:
        if not values[field]:
            raise PermanentError(
                f"the channel {name} needs {named[field]}, which is not set",
                where=str(file),
                mend=f"Set {named[field]}, or take the channel out of the file.",
            )
    if isinstance(rules, WebhookRules):
        return WebhookChannel(name, values["url_variable"] or "", values.get("secret_variable"))
    recipients = [part.strip() for part in (values["to_variable"] or "").split(",") if part.strip()]
    return EmailChannel(name, values["server_variable"] or "", values["from_variable"] or "", recipients)
