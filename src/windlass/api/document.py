"""The API's OpenAPI document, made from what the routes declare.

Asked by its own route, by the reference's generator and by tests. Must never say a thing by hand that a type says.

Source: the OpenAPI Specification 3.1.0.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Sequence
from typing import Any

import msgspec

import windlass
from windlass.api import access, errors, examples, routes

TITLE = "Windlass control plane"
_SCHEMAS = "#/components/schemas/{name}"
_PATH_PART = re.compile(r"\{(\w+)\}")
_JSON = "application/json"
_INTRODUCTION = (
    "Every route but `/healthz` asks for a key (`Authorization: Bearer wl_...`) with the permission that it names. "
    "What a key may not see is answered as what is not there. A change takes an `Idempotency-Key`, under which a retry "
    "is answered as the first try was, and where there is an ETag an `If-Match`."
)


@functools.cache
def make(table: tuple[routes.Route, ...]) -> dict[str, Any]:
    """The document for these routes."""
    kinds = [errors.Body]
    for route in table:
        kinds += [kind for kind in (route.body, route.answer, route.query) if kind not in (None, bytes, str)]
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_SCHEMAS)
    known = dict(zip(map(_identity, kinds), schemas, strict=True))
    paths: dict[str, Any] = {}
    for route in table:
        paths.setdefault(route.full_path, {})[route.method.lower()] = _operation(route, known, components)
    return {
        "openapi": "3.1.0",
        "info": {"title": TITLE, "version": windlass.__version__, "description": _INTRODUCTION},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "An API key, wl_..."}},
            "responses": {
                f"E{number}": {
                    "description": phrase,
                    "content": {_JSON: {"schema": known[_identity(errors.Body)], "example": examples.error(number)}},
                }
                for number, phrase in errors.documented().items()
            },
        },
    }


def _operation(route: routes.Route, known: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    lines = inspect.cleandoc(route.run.__doc__ or "").split("\n")
    made: dict[str, Any] = {
        "operationId": route.name,
        "summary": lines[0],
        "tags": [_noun(route)],
        "parameters": [*_path(route), *_query(route, known, components), *_headers(route)],
        "responses": {str(route.status): _answer(route, known)}
        | {str(number): {"$ref": f"#/components/responses/E{number}"} for number in errors.documented()},
        "security": [] if route.permission == access.OPEN else [{"key": []}],
        "x-permission": route.permission,
    }
    if route.body is bytes:
        schema = {"type": "string", "format": "binary"}
        made["requestBody"] = {"required": True, "content": {"application/octet-stream": {"schema": schema}}}
    elif route.body is not None:
        content = {"schema": known[_identity(route.body)], "example": examples.of(route.body)}
        made["requestBody"] = {"required": True, "content": {_JSON: content}}
    return made


def _answer(route: routes.Route, known: dict[str, Any]) -> dict[str, Any]:
    said: dict[str, Any] = {"description": "Done."}
    if route.answer is bytes:
        said["content"] = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    elif route.answer is str:
        said["content"] = {route.media: {"schema": {"type": "string"}}}
    elif route.answer is not None:
        example = examples.of(route.answer)
        said["content"] = {_JSON: {"schema": known[_identity(route.answer)], "example": example}}
    if route.tagged:
        said["headers"] = {"ETag": {"description": "The generation.", "schema": {"type": "string"}}}
    return said


def _path(route: routes.Route) -> list[dict[str, Any]]:
    return [
        {
            "name": part,
            "in": "path",
            "required": True,
            "schema": {"type": "string", "pattern": f"^{routes.PARTS[part].pattern}$"},
            "example": examples.PARTS[part],
        }
        for part in _PATH_PART.findall(route.path)
    ]


def _query(route: routes.Route, known: dict[str, Any], components: dict[str, Any]) -> list[dict[str, Any]]:
    if route.query is None:
        return []
    whole = components[known[_identity(route.query)]["$ref"].rpartition("/")[2]]
    required = whole.get("required", ())
    return [
        {"name": name, "in": "query", "required": name in required, "schema": schema}
        for name, schema in whole["properties"].items()
    ]


def _headers(route: routes.Route) -> list[dict[str, Any]]:
    named = []
    if route.method in ("POST", "PUT", "DELETE"):
        named.append(("Idempotency-Key", "The same for each try of one change."))
        if route.tagged:
            named.append(("If-Match", "The ETag that it must still have."))
    if route.media != _JSON:
        named.append(("Last-Event-ID", "The id of the last event that was seen."))
    return [
        {"name": name, "in": "header", "required": False, "description": why, "schema": {"type": "string"}}
        for name, why in named
    ]


def _identity(kind: Any) -> str:
    """A type's own name: two equal generic types need not be one object."""
    return f"{getattr(kind, '__module__', '')}.{kind!r}"


def page(table: Sequence[routes.Route]) -> str:
    """The routes in Markdown, by noun, for the reference."""
    text = (
        f"# Control plane API\n\nOn port 8080 by default. {_INTRODUCTION}\n"
        f"`GET {routes.PREFIX}/openapi.json` is the whole document, with a schema and an example of each body.\n\n"
        'Lists are `{"items": [...], "next": "..."}`: ask again with `after=<next>` until it is empty. Errors are\n'
        '`{"error": {"code", "message", "hint", "request_id"}}`, their codes those in [errors](errors.md); the status\n'
        "is 422 for what a check refused, and for bytes that are not what their digest says.\n"
    )
    for noun in dict.fromkeys(_noun(route) for route in table):
        text += (
            f"\n## {noun}\n\n| method | path | permission | query | what it does |\n| --- | --- | --- | --- | --- |\n"
        )
        for route in table:
            if _noun(route) == noun:
                query = ", ".join(f"`{name}`" for name in (route.query.__struct_fields__ if route.query else ()))
                said = (route.run.__doc__ or "").strip().split("\n")[0]
                text += f"| {route.method} | `{route.full_path}` | `{route.permission}` | {query} | {said} |\n"
    return text


def _noun(route: routes.Route) -> str:
    return str(route.run.__module__.rpartition(".")[2])
