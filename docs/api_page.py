"""The page of the API, from its OpenAPI document.

Belongs here: turning OpenAPI into Markdown. Does not belong here: what the API says (`serving/`).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from docs.markdown import table
from medscore_assets.settings import Settings

_HEAD = """# The API

`medscore serve` serves it on `MEDSCORE_API_HOST` and `MEDSCORE_API_PORT`, and so does `make up`:
<http://127.0.0.1:8000>. Its OpenAPI document, with examples of the bodies, is `GET /openapi.json`.

Without an access file it listens on this machine only and asks nobody who they are. With one, a request
carries `Authorization: Bearer <token>`, and one of the roles below is enough
([give access](../how-to/give-access.md)).

Bodies are JSON and taken strictly: a number is no text, and a field that is not named here is refused. How
large they may be, and how many may come, [settings](settings.md) say. A refusal has a code, a sentence and
the fields that are wrong ([ErrorBody](#errorbody)), never the value that was sent; CDS Hooks and FHIR routes
say the same as an `OperationOutcome`, the Open Inference Protocol as a [V2Error](#v2error). Every answer
about a person is in the audit before it leaves: where that cannot be, the answer is 503.
"""

_UNTOLD = "Successful Response"
"""What FastAPI says of an answer that nobody described."""

_KINDS = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false"}
_FORMATS = {"date-time": "time", "date": "date", "uuid": "UUID"}


def api_page() -> str:
    """Every request with its parameters, bodies and answers."""
    from serving.app import create_app

    document = create_app(Settings()).openapi()
    operations = [
        (method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    parts = [_HEAD]
    for tag, members in groupby(operations, key=lambda found: found[2]["tags"][0]):
        parts.append(f"## {tag[0].upper()}{tag[1:]}\n")
        parts += [_operation(*found) for found in members]
    parts.append("## What is sent and answered\n")
    schemas = document["components"]["schemas"]
    parts += [_schema(name, schemas[name]) for name in sorted(schemas, key=str.lower)]
    return "\n".join(parts)


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    lines = [f"### {method} {path}\n", f"{operation['description'].strip()}\n"]
    if roles := operation.get("x-roles"):
        lines.append("Roles: " + ", ".join(f"`{role}`" for role in roles) + ".\n")
    if parameters := operation.get("parameters"):
        rows = (
            (
                f"`{p['name']}`",
                p["in"],
                _type(p["schema"]),
                p.get("description", ""),
                _default(p["schema"], required=p["required"]),
            )
            for p in parameters
        )
        lines.append(table(("parameter", "in", "type", "meaning", "default"), rows))
    if body := operation.get("requestBody"):
        lines.append(f"Body: {_content(body)}.\n")
    lines.append("; ".join(_answers(operation["responses"])) + ".\n")
    return "\n".join(lines)


def _answers(responses: dict[str, Any]) -> Iterator[str]:
    """What is answered when all is well, in words; refusals by their numbers."""
    refused = sorted(status for status in responses if status >= "400")
    for status, response in sorted(responses.items()):
        if status < "400":
            content = _content(response)
            told = response["description"].rstrip(".")
            known = "" if told == _UNTOLD else f": {told}"
            yield f"{status}{known}" + (f" ({content})" if content else "")
    yield f"refused with {', '.join(refused)}"


def _content(holder: dict[str, Any]) -> str:
    content = holder.get("content", {})
    return " or ".join(dict.fromkeys(_type(c["schema"]) for c in content.values() if c.get("schema")))


def _schema(name: str, schema: dict[str, Any]) -> str:
    lines = [f"### {name}\n"]
    if described := schema.get("description", ""):
        lines.append(f"{described.strip()}\n")
    required = schema.get("required", [])
    rows = [
        (
            f"`{field}`",
            _type(found),
            found.get("description", ""),
            _default(found, required=field in required),
        )
        for field, found in schema.get("properties", {}).items()
    ]
    if rows:
        lines.append(table(("field", "type", "meaning", "default"), rows))
    return "\n".join(lines)


def _default(schema: dict[str, Any], *, required: bool) -> str:
    if required:
        return "required"
    default = schema.get("default")
    return (
        ""
        if default in (None, [], {})
        else f"`{str(default).lower() if default in (True, False) else default}`"
    )


def _type(schema: dict[str, Any]) -> str:
    """A type in words; another schema as a link to it."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return " or ".join(dict.fromkeys(_type(one) for one in schema[several]))
    match schema.get("type"):
        case "array":
            return f"list of {_type(schema.get('items', {}))}"
        case "object":
            values = schema.get("additionalProperties")
            return f"object of {_type(values)}" if isinstance(values, dict) and values else "object"
        case "null":
            return "null"
        case kind:
            words = _FORMATS.get(schema.get("format", ""), _KINDS.get(kind or "", "anything"))
            return words + _bounds(schema)


def _bounds(schema: dict[str, Any]) -> str:
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if low is not None and high is not None:
        return f", {low:g} to {high:g}"
    if low is not None:
        return f", at least {low:g}"
    return "" if high is None else f", at most {high:g}"
