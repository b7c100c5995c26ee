"""What CDS Hooks demands of JSON: shapes as JSON Schema 2020-12, HL7's invariants as FHIRPath."""

from __future__ import annotations

from typing import Any

import fhirpathpy
from jsonschema import Draft202012Validator

UUID = {"type": "string", "pattern": "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"}
TEXT = {"type": "string", "minLength": 1}
ABSOLUTE = {"type": "string", "pattern": "^https?://"}
# Extensions are named as domains are, in reverse.
EXTENSION = {
    "type": "object",
    "minProperties": 1,
    "propertyNames": {"pattern": r"^[a-z]+(\.[a-z0-9-]+)+$"},
}
CODING = {
    "type": "object",
    "required": ["code", "display"],
    "properties": {"code": TEXT, "system": ABSOLUTE, "display": TEXT},
    "additionalProperties": False,
}


def closed(required: list[str], **properties: Any) -> dict[str, Any]:
    """An object with these members and no other."""
    return {
        "type": "object",
        "required": required,
        "properties": {**properties, "extension": EXTENSION},
        "additionalProperties": False,
    }


def some(items: dict[str, Any]) -> dict[str, Any]:
    """A list that is not empty."""
    return {"type": "array", "minItems": 1, "items": items}


ACTION = {
    **closed(
        ["type", "description"],
        type={"enum": ["create", "update", "delete"]},
        description=TEXT,
        resource={"type": "object", "required": ["resourceType"]},
        resourceId=TEXT,
    ),
    "if": {"properties": {"type": {"const": "delete"}}},
    "then": {"required": ["resourceId"], "not": {"required": ["resource"]}},
    "else": {"required": ["resource"]},
}
CARD = {
    **closed(
        ["summary", "indicator", "source"],
        uuid=UUID,
        summary={"type": "string", "minLength": 1, "maxLength": 139},
        detail=TEXT,
        indicator={"enum": ["info", "warning", "critical"]},
        source=closed(["label"], label=TEXT, url=ABSOLUTE, icon=ABSOLUTE, topic=CODING),
        suggestions=some(
            closed(["label"], label=TEXT, uuid=UUID, isRecommended={"type": "boolean"}, actions=some(ACTION))
        ),
        selectionBehavior={"enum": ["at-most-one", "any"]},
        overrideReasons=some(CODING),
        links=some(
            closed(
                ["label", "url", "type"],
                label=TEXT,
                url=ABSOLUTE,
                type={"enum": ["absolute", "smart"]},
                appContext=TEXT,
            )
        ),
    ),
    "dependentRequired": {"suggestions": ["selectionBehavior"]},
}
RESPONSE = Draft202012Validator(closed(["cards"], cards={"type": "array", "items": CARD}))
DISCOVERY = Draft202012Validator(
    closed(
        ["services"],
        services={
            "type": "array",
            "items": closed(
                ["hook", "description", "id"],
                hook=TEXT,
                title=TEXT,
                description=TEXT,
                id={"type": "string", "pattern": "^[a-z0-9-]+$"},
                prefetch={"type": "object", "minProperties": 1, "additionalProperties": TEXT},
                usageRequirements=TEXT,
                version=TEXT,
                hookVersion=TEXT,
            ),
        },
    )
)
TIME = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT.*(Z|[+-]00:00)$"}
TAKEN = {"type": "object", "required": ["id"], "properties": {"id": UUID}}
ISSUES = ["invalid", "required", "not-found", "forbidden", "processing", "too-long", "throttled", "transient"]
FEEDBACK = Draft202012Validator(
    {
        "type": "object",
        "required": ["feedback"],
        "properties": {
            "feedback": some(
                {
                    "type": "object",
                    "required": ["card", "outcome", "outcomeTimestamp"],
                    "properties": {
                        "card": UUID,
                        "outcome": {"enum": ["accepted", "overridden"]},
                        "outcomeTimestamp": TIME,
                        "acceptedSuggestions": some(TAKEN),
                        "overrideReason": {"type": "object", "minProperties": 1},
                    },
                    "if": {"properties": {"outcome": {"const": "accepted"}}},
                    "then": {"required": ["acceptedSuggestions"]},
                }
            )
        },
    }
)
OUTCOME = Draft202012Validator(
    {
        "type": "object",
        "required": ["resourceType", "issue"],
        "properties": {
            "resourceType": {"const": "OperationOutcome"},
            "issue": some(
                {
                    "type": "object",
                    "required": ["severity", "code"],
                    "properties": {
                        "severity": {"enum": ["fatal", "error", "warning", "information"]},
                        "code": {"enum": ISSUES},
                        "diagnostics": TEXT,
                    },
                    "additionalProperties": False,
                }
            ),
        },
        "additionalProperties": False,
    }
)

# HL7/cds-hooks, CC0: the invariants of the logical models, by the element that they are on.
INVARIANTS = {
    "card": {
        "cds-resp-1": "(selectionBehavior = 'at-most-one') implies "
        "suggestions.where(isRecommended).count() <= 1",
        "cds-resp-6": "suggestions.exists() implies selectionBehavior.exists()",
    },
    "suggestion": {
        "cds-resp-5": "actions.all(description.exists())",
        "cds-resp-7": "actionSelectionBehavior.empty() or actionSelectionBehavior = 'all' or "
        "actionSelectionBehavior = 'any' or actionSelectionBehavior = 'at-most-one'",
    },
    "action": {"cds-resp-2": "(type = 'delete') implies (resourceId.exists() and resource.empty())"},
    "link": {"cds-resp-3": "(type != 'smart') implies (appContext.empty())"},
    "reason": {"cds-resp-4": "all(display.exists())"},
    "request": {"cds-r-1": "fhirAuthorization.exists() implies fhirServer.exists()"},
    "authorization": {"cds-r-2": "scope.contains('patient/') implies patient.exists()"},
    "feedback": {
        "cds-fb-1": "outcome = 'accepted' or outcome = 'overridden'",
        "cds-fb-2": "(outcome = 'accepted') implies acceptedSuggestions.exists()",
    },
    "override": {"cds-fb-3": "reason.exists() or userComment.exists()"},
}
_COMPILED = {
    name: fhirpathpy.compile(expression)
    for rules in INVARIANTS.values()
    for name, expression in rules.items()
}


def broken(kind: str, element: dict[str, Any]) -> list[str]:
    """The invariants of a kind of element that do not hold."""
    return [name for name in INVARIANTS[kind] if _COMPILED[name](element) != [True]]


def empty_members(value: Any, path: str = "") -> list[str]:
    """Every `null` and every empty member, by its path; the top `cards` may be empty."""
    if value is None or (value in ("", [], {}) and path != ".cards"):
        return [path]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, each in items for found in empty_members(each, f"{path}.{key}")]


def check_response(body: dict[str, Any]) -> None:
    """That an answer with cards conforms: its shape, every invariant, nothing empty."""
    RESPONSE.validate(body)
    assert empty_members(body) == []
    for card in body["cards"]:
        suggestions = card.get("suggestions", [])
        wrong = broken("card", card)
        wrong += [w for s in suggestions for w in broken("suggestion", s)]
        wrong += [w for s in suggestions for a in s.get("actions", []) for w in broken("action", a)]
        wrong += [w for link in card.get("links", []) for w in broken("link", link)]
        wrong += [w for reason in card.get("overrideReasons", []) for w in broken("reason", reason)]
        assert wrong == []


def check_request(body: dict[str, Any]) -> None:
    """That a call conforms."""
    assert broken("request", body) == []
    if "fhirAuthorization" in body:
        assert broken("authorization", body["fhirAuthorization"]) == []


def check_feedback(body: dict[str, Any]) -> None:
    """That feedback conforms."""
    FEEDBACK.validate(body)
    for item in body["feedback"]:
        assert broken("feedback", item) == []
        if "overrideReason" in item:
            assert broken("override", item["overrideReason"]) == []
