"""Builds the OpenAPI document of a server from its routes and the pydantic models of their request bodies.

openapi_document([CHAT_COMPLETIONS, HEALTH], ApiDescription("Vita", "1.0", security=BEARER))
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from vita.server.routes import JSON, Route

STATUSES: Mapping[int, str] = {
    200: "Success.",
    201: "Created.",
    400: "The request is malformed, or it has a field that is unknown, unsupported or has an invalid value.",
    401: "The credential is missing or invalid.",
    403: "The API key does not have the required scope, or the host name is not accepted.",
    404: "The model or the object does not exist, or the model is retired.",
    408: "The request body did not arrive in time.",
    410: "The model is retired; the body names its replacement.",
    413: "The request body is too large.",
    415: "The request body is not declared as JSON.",
    429: "The server is at its capacity, or the API key exceeds its rate limit; see Retry-After.",
    500: "Internal error.",
    502: "The replicas that worked on the request failed.",
    503: "The server is not ready or is shutting down; see Retry-After.",
    504: "The response took too long.",
}
"""The description of every status that a server returns."""
BODY_ERRORS = (400, 408, 413)
FORM = "multipart/form-data"
ERROR_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
"""The schema of every error response."""


@dataclass(frozen=True)
class ApiDescription:
    """The parts of an OpenAPI document that differ between servers."""

    title: str
    version: str
    security: Mapping[str, Any]
    """A security scheme as OpenAPI defines it."""
    security_errors: tuple[int, ...] = (401,)
    security_optional: bool = False
    """True when the server can also run without credentials."""
    body_errors: tuple[int, ...] = BODY_ERRORS


def openapi_document(routes: Iterable[Route], description: ApiDescription) -> dict[str, Any]:
    """Build the OpenAPI 3.1 document of these routes."""
    schemas: dict[str, Any] = {"Error": ERROR_SCHEMA}
    paths: dict[str, Any] = {}
    for route in routes:
        operation = _operation(route, description)
        if route.request is not None:
            operation["requestBody"] = _request_body(route, route.request, schemas)
        paths.setdefault(route.template, {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": description.title, "version": description.version},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"credential": dict(description.security)}},
    }


def _operation(route: Route, description: ApiDescription) -> dict[str, Any]:
    """Describe a route without its request body."""
    operation: dict[str, Any] = {
        "operationId": "_".join([route.method.lower(), *re.findall(r"\w+", route.template)]),
        "summary": route.summary,
    }
    if not route.public:
        operation["security"] = [{"credential": []}, *([{}] if description.security_optional else [])]
    parameters = [{"name": name, "in": "path", "required": True} for name in route.parameters]
    parameters += [{"name": name, "in": "query", "required": False} for name in route.query]
    if parameters:
        operation["parameters"] = [{**parameter, "schema": {"type": "string"}} for parameter in parameters]
    operation["responses"] = _responses(route, description)
    return operation


def _responses(route: Route, description: ApiDescription) -> dict[str, Any]:
    """Describe the successful responses and the errors of a route."""
    content = {media: {"schema": {"type": "object" if media == JSON else "string"}} for media in route.media}
    errors = {500, *route.errors, *((400,) if route.query else ())}
    if not route.public:
        errors |= set(description.security_errors)
    if route.request is not None:
        errors |= set(description.body_errors)
    error_content = {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}
    responses = {status: {"description": STATUSES[status], "content": content} for status in route.success}
    responses |= {status: {"description": STATUSES[status], "content": error_content} for status in sorted(errors)}
    return {str(status): response for status, response in responses.items()}


def _request_body(route: Route, model: type[BaseModel], schemas: dict[str, Any]) -> dict[str, Any]:
    """Refer to the schema of a request body, which is added to `schemas`."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(schema.pop("$defs", {}))
    schemas[model.__name__] = schema
    reference = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"required": True, "content": {FORM if route.upload else JSON: {"schema": reference}}}
