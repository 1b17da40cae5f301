"""The admin API's description, OpenAPI 3.1 (https://spec.openapis.org/oas/v3.1.1.html), made of its table and types."""

from __future__ import annotations

import json
import re
from typing import Any, Final

import msgspec

from daulat import __version__
from daulat.gateway.admin import types
from daulat.gateway.admin.table import MOST_BYTES, OPERATIONS, Operation

_REFERENCE: Final = "#/components/schemas/{name}"
_JSON: Final = "application/json"
_PARAMETER: Final = re.compile(r"\{(\w+)\}")
_ERRORS: Final = {
    "400": "The request is malformed, or a field is unknown, missing or wrong.",
    "401": "No credential, or an unknown, revoked or expired one.",
    "403": "Your role, or a rule, refuses; the message says which.",
    "404": "There is no such thing, or it is another tenant's.",
    "409": "The state has moved on, or a name is taken.",
    "413": f"The body is larger than {MOST_BYTES} bytes.",
    "415": "The body is not application/json.",
    "503": "The control plane does not answer now.",
}
_IDEMPOTENCY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "1 to 100 printable characters of your choice: the same again makes nothing a second time.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 100},
}
_IF_MATCH: Final = {
    "name": "If-Match",
    "in": "header",
    "required": False,
    "description": "The ETag that you have seen. Needed to change what exists.",
    "schema": {"type": "string"},
}
_DESCRIPTION: Final = (
    "What operators, and tenants' own administrators, do to a running service. Each act stands in the transparency log "
    "under the pseudonym of whoever did it; so does each refusal of somebody who is known."
)


def document() -> dict[str, Any]:
    """The whole description, ready for JSON."""
    kinds = [kind for operation in OPERATIONS for kind in (operation.answer, operation.body, operation.query) if kind]
    schemas, components = msgspec.json.schema_components([*kinds, types.Error], ref_template=_REFERENCE)
    schema_of = dict(zip([*map(_key, kinds), _key(types.Error)], schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(operation, schema_of, components)
    queries = {_key(operation.query) for operation in OPERATIONS if operation.query}
    made = {
        "openapi": "3.1.0",
        "info": {"title": "Daulat admin API", "version": __version__, "description": _DESCRIPTION},
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": {name: said for name, said in sorted(components.items()) if name not in queries},
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An admin key: `daulat admin-key create`.",
                }
            },
        },
    }
    whole: dict[str, Any] = json.loads(msgspec.json.encode(made))  # defaults that are tuples become lists
    return whole


def _key(kind: Any) -> str:
    """The name of a type's component: of `Page[Key]` "Page_Key_"."""
    return str(msgspec.json.schema(kind)["$ref"]).rpartition("/")[2]


def _described(operation: Operation, schema_of: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    said: dict[str, Any] = {
        "operationId": operation.id,
        "summary": operation.says,
        "description": f"Roles: {', '.join(sorted(operation.roles))}.",
        "parameters": [*_parameters(operation, components)],
        "responses": _answers(operation, schema_of),
    }
    if operation.body:
        said["requestBody"] = {"required": True, "content": {_JSON: {"schema": schema_of[_key(operation.body)]}}}
    return said


def _parameters(operation: Operation, components: dict[str, Any]) -> list[dict[str, Any]]:
    named = _PARAMETER.findall(operation.path)
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in named
    ]
    if operation.query:
        fields = components[_key(operation.query)]["properties"]
        found += [{"name": name, "in": "query", "required": False, "schema": schema} for name, schema in fields.items()]
    if operation.creates:
        found.append(_IDEMPOTENCY)
    if operation.versioned and operation.method in {"PUT", "PATCH"}:
        found.append(_IF_MATCH)
    return found


def _answers(operation: Operation, schema_of: dict[str, Any]) -> dict[str, Any]:
    whole: dict[str, Any] = {
        "description": "Done." if operation.changes else "So it is.",
        "content": {_JSON: {"schema": schema_of[_key(operation.answer)]}},
    }
    if operation.versioned:
        whole["headers"] = {"ETag": {"description": "Of this state.", "schema": {"type": "string"}}}
    errors = dict(_ERRORS)
    if operation.creates:
        errors["422"] = "The Idempotency-Key was used for another request."
    if operation.versioned and operation.method in {"PUT", "PATCH"}:
        errors |= {"412": "It has changed since you looked.", "428": "Changing it needs If-Match."}
    failed = {"application/json": {"schema": schema_of[_key(types.Error)]}}
    return {
        str(operation.status): whole,
        **{status: {"description": words, "content": failed} for status, words in sorted(errors.items())},
    }
