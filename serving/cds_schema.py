"""The forms of CDS Hooks: what a client sends, and what the service is configured to say.

Belongs here: the models of a hook call and of feedback, and the shape of `cds_hooks.toml`.
Does not belong here: FHIR (`fhir_mapping.py`), cards (`cds_cards.py`) and routes (`cds_hooks.py`).

Members that the specification does not name are passed over: a later version may add them. Those that it
names must have their type.
"""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from medscore_assets.readmission.cohort import EXCLUSIONS
from medscore_assets.readmission.policy import TIERS, Tier
from resources.errors import PermanentError
from serving.fhir_mapping import NOT_INPATIENT

DEFAULT_FILE = Path(__file__).with_name("cds_hooks.toml")

Hook = Literal["encounter-discharge", "patient-view"]
HOOKS: tuple[Hook, ...] = get_args(Hook)

FhirId = Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]{1,64}$")]
Text = Annotated[str, Field(min_length=1)]
_EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
_CLOCKS_APART = timedelta(minutes=5)


class _Sent(BaseModel):
    """What a client sends."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, hide_input_in_errors=True)


class FhirAuthorization(_Sent):
    """Access to the client's FHIR server. It is checked for its form; nothing is fetched with it or kept."""

    access_token: SecretStr
    token_type: Literal["Bearer"]
    expires_in: int
    scope: str
    subject: str
    patient: FhirId | None = None


class DischargeContext(_Sent):
    """The context of `encounter-discharge`."""

    userId: Annotated[  # noqa: N815  the specification's name
        str, Field(pattern=r"^(Practitioner|PractitionerRole)/[A-Za-z0-9.-]{1,64}$")
    ]
    patientId: FhirId  # noqa: N815
    encounterId: FhirId  # noqa: N815


class PatientViewContext(_Sent):
    """The context of `patient-view`."""

    userId: Annotated[  # noqa: N815
        str, Field(pattern=r"^(Practitioner|PractitionerRole|Patient|RelatedPerson)/[A-Za-z0-9.-]{1,64}$")
    ]
    patientId: FhirId  # noqa: N815
    encounterId: FhirId | None = None  # noqa: N815


class HookRequest(_Sent):
    """A call of the service, whatever its hook. The context is checked by its hook."""

    hook: Annotated[str, Field(min_length=1, max_length=100)]
    hookInstance: UUID  # noqa: N815
    context: dict[str, Any]
    fhirServer: Annotated[str, Field(pattern=r"^https?://\S+$", max_length=2000)] | None = None  # noqa: N815
    fhirAuthorization: FhirAuthorization | None = None  # noqa: N815
    prefetch: dict[str, Any] = {}

    @model_validator(mode="after")
    def _authorization_for_a_server(self) -> Self:
        if self.fhirAuthorization is not None and self.fhirServer is None:
            raise ValueError("fhirAuthorization needs fhirServer")
        return self


def _credible(moment: datetime) -> datetime:
    if not _EARLIEST <= moment <= datetime.now(UTC) + _CLOCKS_APART:
        raise ValueError("is before the year 2000 or in the future")
    return moment


class AcceptedSuggestion(_Sent):
    """A suggestion that was taken."""

    id: UUID


class ReasonCoding(_Sent):
    """A coded reason."""

    code: Annotated[str, Field(min_length=1, max_length=200)]
    system: str | None = None


class OverrideReason(_Sent):
    """Why a card was overridden."""

    reason: ReasonCoding | None = None
    userComment: SecretStr | None = None  # noqa: N815

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.reason is None and self.userComment is None:
            raise ValueError("an overrideReason needs reason or userComment")
        return self


class FeedbackItem(_Sent):
    """What a clinician did with one card."""

    card: UUID
    outcome: Literal["accepted", "overridden"]
    outcomeTimestamp: Annotated[AwareDatetime, AfterValidator(_credible)]  # noqa: N815
    acceptedSuggestions: list[AcceptedSuggestion] = []  # noqa: N815
    overrideReason: OverrideReason | None = None  # noqa: N815

    @model_validator(mode="after")
    def _accepted_what(self) -> Self:
        if self.outcome == "accepted" and not self.acceptedSuggestions:
            raise ValueError("an accepted outcome needs acceptedSuggestions")
        return self


class Feedback(_Sent):
    """The body of a feedback call."""

    feedback: Annotated[list[FeedbackItem], Field(min_length=1, max_length=1000)]


class _Rules(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Proposal(_Rules):
    """As what resource one action of the policy is proposed, and until when it is to be done."""

    action: Text
    resource: Literal["Task", "ServiceRequest", "Appointment"]
    within_days: Annotated[int, Field(ge=1, le=30)] | None = None


class Presentation(_Rules):
    """A validated `cds_hooks.toml`."""

    version: Literal["2.0", "3.0.0"]
    label: Annotated[str, Field(min_length=1, max_length=80)]
    indicators: dict[Tier, Literal["info", "warning"]]
    override_reasons: dict[Text, Text]
    proposals: list[Proposal]
    not_scored: dict[Text, Annotated[str, Field(min_length=1, max_length=80)]]

    @field_validator("indicators")
    @classmethod
    def _every_tier(cls, indicators: dict[Tier, str]) -> dict[Tier, str]:
        if set(indicators) != set(TIERS):
            raise ValueError(f"needs an entry for each of {', '.join(TIERS)}")
        return indicators

    @field_validator("not_scored")
    @classmethod
    def _every_exclusion(cls, texts: dict[str, str]) -> dict[str, str]:
        if set(texts) != {*EXCLUSIONS, NOT_INPATIENT}:
            raise ValueError(f"needs an entry for each of {', '.join((NOT_INPATIENT, *EXCLUSIONS))}")
        return texts


def load_presentation(file: Path = DEFAULT_FILE) -> Presentation:
    """The presentation in a TOML file. Raises `PermanentError` that names the entry that is wrong."""
    try:
        return Presentation.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PermanentError(
            f"the presentation of cards cannot be read: {error}", where=str(file), mend="Correct the file."
        ) from error
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'the whole'}: {e['msg']}" for e in found)
        raise PermanentError(
            f"the presentation of cards is not valid: {wrong}", where=str(file), mend="Correct these entries."
        ) from error
