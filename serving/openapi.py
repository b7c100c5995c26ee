"""The OpenAPI document: FastAPI's, with the bodies that the routes read themselves.

Belongs here: request bodies of routes that validate their bytes in one step, and what all answers share.
Does not belong here: any model (the routes).
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel

from serving.access import Requires
from serving.errors import ErrorBody

_REF = "#/components/schemas/{model}"
_BODIES: dict[str, type[BaseModel]] = {}


def json_body(model: type[BaseModel], **examples: Any) -> dict[str, Any]:
    """`openapi_extra` of a route that takes this model as JSON; each example a body that is valid."""
    _BODIES[model.__name__] = model
    content = {
        "schema": {"$ref": _REF.format(model=model.__name__)},
        "examples": {name: {"value": value} for name, value in examples.items()},
    }
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def document(app: FastAPI) -> dict[str, Any]:
    """The document of an application; made once."""
    if app.openapi_schema is None:
        made = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        schemas = made.setdefault("components", {}).setdefault("schemas", {})
        for name, model in _BODIES.items():
            schema = model.model_json_schema(ref_template=_REF)
            schemas.update(schema.pop("$defs", {}))
            schemas[name] = schema
        for foreign in ("HTTPValidationError", "ValidationError"):
            schemas.pop(foreign, None)
        for operation in (o for path in made["paths"].values() for o in path.values()):
            _in_our_form(operation.get("responses", {}).get("422", {}))
        _state_roles(made, app)
        app.openapi_schema = made
    return app.openapi_schema


def _state_roles(made: dict[str, Any], app: FastAPI) -> None:
    """Who may ask, as `x-roles`: one of these roles is enough."""
    for route in app.routes:
        if not isinstance(route, APIRoute) or not route.include_in_schema:
            continue
        asked = [d.call.roles for d in route.dependant.dependencies if isinstance(d.call, Requires)]
        for method in (route.methods or ()) if asked else ():
            made["paths"][route.path_format][method.lower()]["x-roles"] = [*asked[0]]


def _in_our_form(response: dict[str, Any]) -> None:
    """FastAPI states its own form of a 422 where a route states none; it is ours that is sent."""
    for content in response.get("content", {}).values():
        if content.get("schema", {}).get("$ref", "").endswith("/HTTPValidationError"):
            content["schema"] = {"$ref": _REF.format(model=ErrorBody.__name__)}
