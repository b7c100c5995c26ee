"""The cards of CDS Hooks: a stored score, or the reason why there is none, as a clinician sees it.

Belongs here: discovery, cards, and the resources that a card proposes; all as plain JSON values, without a
`null` and without an empty member. Does not belong here: HTTP (`cds_hooks.py`) and any rule of the policy.

Nothing is applied by itself: every action is a proposal of a draft, and there are no systemActions.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

from medscore_assets.readmission.policy import Policy, Tier, plain_percent
from serving.cds_schema import HOOKS, Hook, Presentation, Proposal
from serving.fhir_mapping import TEMPLATES, Mapped
from serving.scores import Given

SERVICE_ID = "medscore-readmission"
EXTENSION = "org.medscore.readmission"
"""The member of a card's extension that holds the score for programs."""

REASON_SYSTEM = "http://terminology.hl7.org/CodeSystem/non-adherence-reason-codes"

_TIER_WORDS: dict[Tier, str] = {
    "low": "low",
    "moderate": "moderate",
    "high": "high",
    "very_high": "very high",
}
_DESCRIPTIONS: dict[Hook, str] = {
    "encounter-discharge": "The risk of an unplanned readmission within 30 days, with its reasons and the "
    "recommended next steps, while the discharge is planned.",
    "patient-view": "The same risk when the record of a patient in hospital is opened, as if the discharge "
    "were now.",
}
_REQUIREMENTS = (
    "FHIR R4 resources in every prefetch, each search complete on one page; this service fetches nothing. "
    "Of encounters, newest first, a page that goes back beyond the 12 months before the stay is enough. "
    "References by address begin with fhirServer. Diagnoses in ICD-10-CM or SNOMED CT. What cannot be "
    "derived is answered with 412 and named."
)


def services(presentation: Presentation) -> dict[str, Any]:
    """The answer of discovery: the one service under each of its hooks."""
    return {"services": [_service(hook, presentation) for hook in HOOKS]}


def _service(hook: Hook, presentation: Presentation) -> dict[str, Any]:
    told = {
        "hook": hook,
        "title": "30-day readmission risk",
        "description": _DESCRIPTIONS[hook],
        "id": SERVICE_ID,
        "prefetch": dict(TEMPLATES),
        "usageRequirements": _REQUIREMENTS,
        "version": presentation.version,
    }
    if presentation.version == "3.0.0":
        told["hookVersion"] = "1.0"
    return told


def suggestion_id(card: str, action: str) -> str:
    """The UUID of a suggestion, the same whenever it is asked for: from its card and the action's text."""
    return str(uuid.uuid5(uuid.UUID(card), action))


def score_card(
    given: Given,
    stay: Mapped,
    policy: Policy,
    presentation: Presentation,
    zone: tzinfo,
    model_card: str | None,
) -> dict[str, Any]:
    """The card of a stored score; its uuid is the score's id."""
    score = given.score
    # The policy may have changed between the score and now; then its edges are not known here.
    same = policy.hash == score.policy_hash
    percent = policy.percent(score.probability) if same else plain_percent(score.probability)
    card: dict[str, Any] = {
        "uuid": given.score_id,
        "summary": f"{_TIER_WORDS[score.tier].capitalize()} risk of readmission within 30 days: {percent}",
        "detail": _detail(given, stay, zone),
        "indicator": presentation.indicators[score.tier],
        "source": _source(presentation, model_card),
        "overrideReasons": [
            {"code": code, "system": REASON_SYSTEM, "display": display}
            for code, display in presentation.override_reasons.items()
        ],
        "extension": {
            EXTENSION: {
                "readmission_probability": score.probability,
                "risk_tier": score.tier,
                "recommended_actions": list(score.actions),
                "model_version": str(score.model_version),
                "policy_version": score.policy_version,
                "data_as_of": stay.data_as_of.isoformat(),
            }
        },
    }
    suggested = [
        _suggestion(given, action, stay, presentation)
        for action in score.actions
        if action != policy.standard.text
    ]
    if suggested:
        card |= {"suggestions": suggested, "selectionBehavior": "any"}
    if model_card:
        card["links"] = [{"label": "Model card and evaluation", "url": model_card, "type": "absolute"}]
    return card


def not_scored_card(
    reason: str, disclaimer: str, presentation: Presentation, at: datetime, zone: tzinfo
) -> dict[str, Any]:
    """The card that says why there is no score; it holds no number and asks for no feedback."""
    why = presentation.not_scored[reason]
    scope = "The model was made for adults who leave acute care alive."
    return {
        "summary": f"Readmission risk not scored: {why}.",
        "detail": f"{scope} {_told(at, zone)}\n\n_{disclaimer}_",
        "indicator": "info",
        "source": {"label": presentation.label},
    }


def _source(presentation: Presentation, model_card: str | None) -> dict[str, Any]:
    return {"label": presentation.label, **({"url": model_card} if model_card else {})}


def _told(at: datetime, zone: tzinfo) -> str:
    return f"Data as of {at.astimezone(zone):%Y-%m-%d %H:%M %Z}."


def _detail(given: Given, stay: Mapped, zone: tzinfo) -> str:
    score = given.score
    reasons = [f"- {factor.text}" for factor in score.top_factors] or ["- No feature stands out."]
    assumed = " The stay is still open: the features are those of a discharge now." * stay.discharge_is_now
    return "\n".join(
        [
            "**Main reasons**",
            "",
            *reasons,
            "",
            "**Recommended**",
            "",
            *(f"- {action}" for action in score.actions),
            "",
            f"{_told(stay.data_as_of, zone)}{assumed} A later card for this patient replaces this one.",
            "",
            f"Model {score.model_name} version {score.model_version}, policy {score.policy_version}.",
            "",
            f"_{score.disclaimer}_",
        ]
    )


def _suggestion(given: Given, action: str, stay: Mapped, presentation: Presentation) -> dict[str, Any]:
    proposal = next((p for p in presentation.proposals if p.action == action), None)
    proposal = proposal or Proposal(action=action, resource="Task")
    made = {"Task": _task, "ServiceRequest": _service_request, "Appointment": _appointment}[proposal.resource]
    return {
        "label": action,
        "uuid": suggestion_id(given.score_id, action),
        "actions": [
            {
                "type": "create",
                "description": f"Propose as {proposal.resource}: {action}",
                "resource": made(proposal, stay, given.scored_at),
            }
        ],
    }


def _task(proposal: Proposal, stay: Mapped, at: datetime) -> dict[str, Any]:
    return {
        "resourceType": "Task",
        "status": "draft",
        "intent": "proposal",
        "description": proposal.action,
        "for": {"reference": f"Patient/{stay.patient_id}"},
        "encounter": {"reference": f"Encounter/{stay.encounter_id}"},
        "authoredOn": _instant(at),
        **({"restriction": {"period": _until(proposal, stay)}} if proposal.within_days else {}),
    }


def _service_request(proposal: Proposal, stay: Mapped, at: datetime) -> dict[str, Any]:
    return {
        "resourceType": "ServiceRequest",
        "status": "draft",
        "intent": "proposal",
        "code": {"text": proposal.action},
        "subject": {"reference": f"Patient/{stay.patient_id}"},
        "encounter": {"reference": f"Encounter/{stay.encounter_id}"},
        "authoredOn": _instant(at),
        **({"occurrencePeriod": _until(proposal, stay)} if proposal.within_days else {}),
    }


def _appointment(proposal: Proposal, stay: Mapped, at: datetime) -> dict[str, Any]:
    patient = {"reference": f"Patient/{stay.patient_id}"}
    return {
        "resourceType": "Appointment",
        "status": "proposed",
        "description": proposal.action,
        "created": _instant(at),
        "participant": [{"actor": patient, "required": "required", "status": "needs-action"}],
        **({"requestedPeriod": [_until(proposal, stay)]} if proposal.within_days else {}),
    }


def _until(proposal: Proposal, stay: Mapped) -> dict[str, str]:
    end = stay.discharged_at + timedelta(days=proposal.within_days or 0)
    return {"start": _instant(stay.discharged_at), "end": _instant(end)}


def _instant(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
