"""Whatever may be sent by the OpenAPI document, and what may not: no 5xx, no answer that is not in it.

The examples are the same at every run. The routes of the portal are not in the document.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis import checks

from medscore_assets.settings import Settings
from serving.app import create_app
from tests.serving.portal_site import Site, closed_site, lists_database, make_key, open_site  # noqa: F401

pytestmark = pytest.mark.slow

CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.unsupported_method,
]

WITHOUT_TOKEN = [check for check in CHECKS if check is not checks.negative_data_rejection]
"""Where nobody may ask, nothing that is sent is looked at."""

bounded = hypothesis.settings(
    max_examples=10,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)


# Nothing is opened by making an application: its document is known before any site is there.
DOCUMENT = schemathesis.openapi.from_dict(create_app(Settings()).openapi())


@DOCUMENT.parametrize()
@bounded
def test_open_with_a_role_that_sees_patients_and_without_a_token(
    case: Any,
    open_site: Site,  # noqa: F811
    closed_site: Site,  # noqa: F811
    care_manager: dict[str, str],
) -> None:
    """Each request is sent three times: where nobody is told apart, and twice where callers are."""
    case.call_and_validate(base_url=open_site.url, checks=CHECKS)
    case.call_and_validate(base_url=closed_site.url, checks=CHECKS, headers=care_manager)
    case.call_and_validate(base_url=closed_site.url, checks=WITHOUT_TOKEN)


@pytest.fixture(scope="module")
def care_manager(closed_site: Site) -> dict[str, str]:  # noqa: F811
    """The header of an API key with the role that may most of what patients are concerned with."""
    key = make_key(closed_site.warehouse, "care-manager", datetime.now(UTC))
    return {"Authorization": f"Bearer {key}"}
