"""The routes: by owner, strict, and without an address or a secret in the file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from medscore_assets.alerting.routing import load_routing, validate
from medscore_assets.settings import Settings
from resources.errors import PermanentError

TWO_TEAMS = """
[channels.log]
kind = "log"
[channels.pager]
kind = "webhook"
url_variable = "PAGER_URL"
[routes]
default = ["log"]
"team:beds" = ["pager", "log"]
"""


def test_without_any_variable_all_goes_to_the_log(clean_environment: Any) -> None:
    routing = load_routing(Settings())
    assert routing.channels_of("team:clinical-ml") == routing.channels_of("platform") == ("log",)


def test_webhook_and_mailbox_join_when_their_variables_are_set(clean_environment: Any) -> None:
    clean_environment.setenv("MEDSCORE_ALERT_WEBHOOK_URL", "https://example.org/hook")
    clean_environment.setenv("MEDSCORE_ALERT_SMTP_URL", "smtps://example.org")
    with pytest.raises(PermanentError, match="MEDSCORE_ALERT_EMAIL_FROM"):
        load_routing(Settings())
    clean_environment.setenv("MEDSCORE_ALERT_EMAIL_FROM", "a@example.org")
    clean_environment.setenv("MEDSCORE_ALERT_EMAIL_TO", "b@example.org, c@example.org")
    assert load_routing(Settings()).channels_of("platform") == ("log", "webhook", "email")


def test_an_owner_has_channels_of_its_own(routes: Callable[..., Settings], clean_environment: Any) -> None:
    clean_environment.setenv("PAGER_URL", "https://example.org/TOKEN")
    settings = routes(TWO_TEAMS)
    routing = load_routing(settings, owners=["team:beds"])
    assert routing.channels_of("team:beds") == ("pager", "log")
    assert routing.channels_of("team:clinical-ml") == ("log",)
    assert validate(settings) == "default: log; team:beds: pager, log"


def test_an_owner_that_owns_nothing_is_named(routes: Callable[..., Settings], clean_environment: Any) -> None:
    clean_environment.setenv("PAGER_URL", "https://example.org")
    with pytest.raises(PermanentError, match=r"team:beds.*team:clinical-ml"):
        validate(routes(TWO_TEAMS), owners=["team:clinical-ml"])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("", ""), "PAGER_URL"),
        (('["pager", "log"]', '["pagre", "log"]'), "pagre"),
        (('default = ["log"]', ""), "default"),
        (('default = ["log"]', "default = []"), "routes.default"),
        (('kind = "log"', 'kind = "fax"'), "channels.log"),
        (('url_variable = "PAGER_URL"', 'url = "x"'), "channels.pager"),
        (("[routes]", "[routes"), "not valid TOML"),
    ],
)
def test_what_is_wrong_is_named(
    routes: Callable[..., Settings], clean_environment: Any, change: tuple[str, str], named: str
) -> None:
    clean_environment.delenv("PAGER_URL", raising=False)
    with pytest.raises(PermanentError, match=named):
        validate(routes(TWO_TEAMS.replace(*change)))


def test_an_address_in_the_file_is_refused_and_not_repeated(routes: Callable[..., Settings]) -> None:
    with pytest.raises(PermanentError) as failed:
        validate(routes(TWO_TEAMS.replace("PAGER_URL", "https://example.org/TOKEN")))
    assert "url_variable" in str(failed.value)
    assert "TOKEN" not in str(failed.value)


def test_a_channel_whose_address_is_none_is_refused(
    routes: Callable[..., Settings], clean_environment: Any
) -> None:
    clean_environment.setenv("PAGER_URL", "example.org/TOKEN")
    with pytest.raises(PermanentError, match="pager") as failed:
        validate(routes(TWO_TEAMS))
    assert "TOKEN" not in str(failed.value)


def test_a_wrong_address_in_the_settings_is_refused_and_not_shown(clean_environment: Any) -> None:
    clean_environment.setenv("MEDSCORE_ALERT_WEBHOOK_URL", "ftp://TOKEN")
    with pytest.raises(PermanentError, match="MEDSCORE_ALERT_WEBHOOK_URL") as failed:
        Settings()
    assert "TOKEN" not in str(failed.value)
    clean_environment.setenv("MEDSCORE_ALERT_WEBHOOK_URL", "https://example.org/TOKEN")
    assert "TOKEN" not in repr(Settings())
