"""Who may do what at every address that there is. A route without a row here, or a row without a route, fails.

Nobody adds an address without saying who is to be kept out of it, and having them try.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from starlette.applications import Starlette
from starlette.routing import Route

from daulat.gateway import app
from daulat.pipeline.actions import PATHS

EVERYBODY: Final = frozenset({"nobody", "user", "auditor", "tenant-admin", "operator"})
OPERATOR: Final = frozenset({"operator"})
MANAGING: Final = frozenset({"tenant-admin", "operator"})  # of these, the first sees their own tenant alone
USER: Final = frozenset({"user", "tenant-admin"})  # with an API key
AUDITOR: Final = frozenset({"auditor"})
DIRECTORY: Final = frozenset({"directory"})  # with its own token, for the people of its tenant
SESSION: Final = frozenset({"signed in"})  # with a browser's cookie, and no key at all


@dataclass(frozen=True)
class Row:
    """`may`: who is not refused for who they are. `names`: what the ids in the address are of."""

    may: frozenset[str]
    names: tuple[str, ...] = ()
    where: str = ""  # the test that has the others try, where it is not `test_admin.py`


GATEWAY: Final = {
    "/log/": Row(EVERYBODY),  # handed on: PAGES has the rows
    "/v1/receipts/": Row(USER),
    "/metrics": Row(EVERYBODY),
    "/admin/v1/": Row(MANAGING),
    "/scim/v2/": Row(DIRECTORY),
    "/healthz": Row(EVERYBODY),
    "/readyz": Row(EVERYBODY),
    "/v1/models": Row(USER, where="tests/redteam/test_service.py"),
    "/v1/models/": Row(USER, ("model",), "tests/redteam/test_service.py"),
    "/signin": Row(EVERYBODY),  # handed on: SIGNIN has the rows
    "/signin/": Row(EVERYBODY),
    "/me": Row(SESSION),
    "/me/": Row(SESSION),
    "/v1/files": Row(USER),  # handed on: VAULT has the rows
    "/v1/files/": Row(USER, ("file",)),
    "/v1/chat/completions/": Row(USER, ("completion",)),
    **{path: Row(USER, where="tests/redteam/test_service.py") for path in PATHS.values()},
}
"""What a worker answers itself, or hands on: all addresses that `gateway/app.py` names, exactly or as a beginning."""

_SCIM: Final = "tests/redteam/test_directories.py"
_METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")
PAGES: Final = {
    "GET /v1/receipts/{request_id}": Row(USER, ("request",), "tests/redteam/test_service.py"),
    "GET /log/vkey": Row(EVERYBODY),
    "GET /log/blob/{digest}": Row(EVERYBODY, ("digest",)),
    "GET /log/checkpoint": Row(EVERYBODY),
    "GET /log/tile/{path:path}": Row(EVERYBODY, ("tile",), "tests/redteam/test_service.py"),  # entries: auditors
    "GET /log/{period}/checkpoint": Row(EVERYBODY, ("period",)),
    "GET /log/{period}/vkey": Row(EVERYBODY, ("period",)),
    "GET /log/{period}/tile/{path:path}": Row(EVERYBODY, ("period", "tile"), "tests/redteam/test_service.py"),
    "GET /metrics": Row(EVERYBODY),
    "GET /admin/v1/openapi.json": Row(EVERYBODY),
    "GET /admin/v1/me": Row(MANAGING),
    "GET /admin/v1/tenants": Row(MANAGING),
    "POST /admin/v1/tenants": Row(OPERATOR),
    "GET /admin/v1/tenants/{tenant}": Row(MANAGING, ("tenant",)),
    "GET /admin/v1/people": Row(MANAGING),
    "POST /admin/v1/people": Row(MANAGING),
    "GET /admin/v1/people/{person}": Row(MANAGING, ("person",)),
    "PATCH /admin/v1/people/{person}": Row(OPERATOR, ("person",)),
    "DELETE /admin/v1/people/{person}": Row(MANAGING, ("person",)),
    "POST /admin/v1/people/{person}/corrections": Row(OPERATOR, ("person",)),
    "POST /admin/v1/people/{person}/invitations": Row(OPERATOR, ("person",)),
    "DELETE /admin/v1/people/{person}/sessions": Row(MANAGING, ("person",)),
    "GET /admin/v1/identities": Row(MANAGING),
    "GET /admin/v1/sessions": Row(MANAGING),
    "DELETE /admin/v1/sessions/{session}": Row(MANAGING, ("session",)),
    "GET /admin/v1/keys": Row(MANAGING),
    "POST /admin/v1/keys": Row(MANAGING),
    "GET /admin/v1/keys/{key}": Row(MANAGING, ("key",)),
    "DELETE /admin/v1/keys/{key}": Row(MANAGING, ("key",)),
    "GET /admin/v1/admin-keys": Row(MANAGING),
    "POST /admin/v1/admin-keys": Row(MANAGING),
    "DELETE /admin/v1/admin-keys/{admin_key}": Row(MANAGING, ("admin_key",)),
    "GET /admin/v1/directories": Row(MANAGING),
    "POST /admin/v1/directories": Row(MANAGING),
    "DELETE /admin/v1/directories/{directory}": Row(MANAGING, ("directory",)),
    "GET /admin/v1/auditors": Row(OPERATOR),
    "POST /admin/v1/auditors": Row(OPERATOR),
    "DELETE /admin/v1/auditors/{auditor}": Row(OPERATOR, ("auditor",)),
    "GET /admin/v1/limits": Row(OPERATOR),
    "PUT /admin/v1/limits/{scope}/{name}": Row(OPERATOR, ("scope", "name")),
    "DELETE /admin/v1/limits/{scope}/{name}": Row(OPERATOR, ("scope", "name")),
    "GET /admin/v1/usage": Row(MANAGING, where="tests/redteam/test_service.py"),
    "GET /admin/v1/usage/focus": Row(OPERATOR),
    "POST /admin/v1/usage/rebuild": Row(OPERATOR),
    "GET /admin/v1/prices": Row(OPERATOR),
    "GET /admin/v1/vault": Row(OPERATOR),
    "POST /admin/v1/vault/rotations": Row(OPERATOR),
    "GET /admin/v1/retention": Row(OPERATOR),
    "GET /admin/v1/breaches": Row(OPERATOR),
    "POST /admin/v1/breaches": Row(OPERATOR),
    "GET /admin/v1/breaches/{breach}": Row(OPERATOR, ("breach",)),
    "GET /admin/v1/breaches/{breach}/notice": Row(OPERATOR, ("breach",)),
    "POST /admin/v1/breaches/{breach}/told": Row(OPERATOR, ("breach",)),
    "POST /admin/v1/breaches/{breach}/close": Row(OPERATOR, ("breach",)),
    "GET /admin/v1/ceremony": Row(OPERATOR),
    "GET /admin/v1/status": Row(OPERATOR),
    "GET /admin/v1/deployments": Row(OPERATOR),
    "GET /admin/v1/deployments/{name}": Row(OPERATOR, ("name",)),
    "PUT /admin/v1/deployments/{name}": Row(OPERATOR, ("name",)),
    "DELETE /admin/v1/deployments/{name}": Row(OPERATOR, ("name",)),
    "GET /admin/v1/replicas": Row(OPERATOR),
    "POST /admin/v1/replicas/{replica}/drain": Row(OPERATOR, ("replica",)),
    "GET /admin/v1/replicas/{replica}/log": Row(OPERATOR, ("replica",)),
    "GET /admin/v1/operators": Row(OPERATOR),
    "POST /admin/v1/proposals/draft": Row(OPERATOR),
    "GET /admin/v1/proposals": Row(OPERATOR),
    "POST /admin/v1/proposals": Row(OPERATOR),
    "POST /admin/v1/broken-glass/draft": Row(OPERATOR),
    "GET /admin/v1/broken-glass": Row(OPERATOR),
    "POST /admin/v1/broken-glass": Row(OPERATOR),
    "GET /admin/v1/broken-glass/{proposal}": Row(OPERATOR, ("proposal",)),
    "POST /admin/v1/broken-glass/{proposal}/reviews": Row(OPERATOR, ("proposal",)),
    "GET /admin/v1/proposals/{proposal}": Row(OPERATOR, ("proposal",)),
    "POST /admin/v1/proposals/{proposal}/approvals": Row(OPERATOR, ("proposal",)),
    "GET /scim/v2/ServiceProviderConfig": Row(EVERYBODY, where=_SCIM),
    "GET /scim/v2/ResourceTypes": Row(DIRECTORY, where=_SCIM),
    "GET /scim/v2/ResourceTypes/{id}": Row(DIRECTORY, ("type",), _SCIM),
    "GET /scim/v2/Schemas": Row(DIRECTORY, where=_SCIM),
    "GET /scim/v2/Schemas/{id}": Row(DIRECTORY, ("schema",), _SCIM),
    "GET /scim/v2/Users": Row(DIRECTORY, where=_SCIM),
    "POST /scim/v2/Users": Row(DIRECTORY, where=_SCIM),
    "POST /scim/v2/Users/.search": Row(DIRECTORY, where=_SCIM),
    "GET /scim/v2/Users/{id}": Row(DIRECTORY, ("person",), _SCIM),
    "PUT /scim/v2/Users/{id}": Row(DIRECTORY, ("person",), _SCIM),
    "PATCH /scim/v2/Users/{id}": Row(DIRECTORY, ("person",), _SCIM),
    "DELETE /scim/v2/Users/{id}": Row(DIRECTORY, ("person",), _SCIM),
    **{f"{method} /scim/v2/{{path:path}}": Row(DIRECTORY, where=_SCIM) for method in _METHODS},  # none of these
}
"""What the pages process serves."""


_SIGNIN: Final = "tests/unit/processes/test_signin.py"
_ITS_OWN: Final = "tests/redteam/test_self_service.py"
SIGNIN: Final = {
    "GET /signin": Row(EVERYBODY),
    "POST /signin/out": Row(SESSION, where=_ITS_OWN),
    "GET /signin/ended": Row(EVERYBODY),
    "GET /signin/{provider}": Row(EVERYBODY, ("provider",), _SIGNIN),
    "GET /signin/{provider}/callback": Row(EVERYBODY, ("provider",), _SIGNIN),
    "GET /me": Row(SESSION, where=_ITS_OWN),
    "GET /me/keys": Row(SESSION, where=_ITS_OWN),
    "POST /me/keys": Row(SESSION, where=_ITS_OWN),
    "DELETE /me/keys/{key}": Row(SESSION, ("key",), _ITS_OWN),
    "POST /me/keys/{key}/revoke": Row(SESSION, ("key",), _ITS_OWN),
}
"""What people who sign in are served."""

_KEPT: Final = "tests/redteam/test_service.py"
VAULT: Final = {
    "POST /v1/files": Row(USER, where=_KEPT),
    "GET /v1/files": Row(USER, where=_KEPT),
    "GET /v1/files/{id}": Row(USER, ("file",), _KEPT),
    "DELETE /v1/files/{id}": Row(USER, ("file",), _KEPT),
    "GET /v1/files/{id}/content": Row(USER, ("file",), _KEPT),
    "GET /v1/chat/completions": Row(USER, where=_KEPT),
    "GET /v1/chat/completions/{id}": Row(USER, ("completion",), _KEPT),
    "POST /v1/chat/completions/{id}": Row(USER, ("completion",), _KEPT),
    "DELETE /v1/chat/completions/{id}": Row(USER, ("completion",), _KEPT),
    "GET /v1/chat/completions/{id}/messages": Row(USER, ("completion",), _KEPT),
}
"""What the vault serves."""


def served(pages: Starlette) -> set[str]:
    """Every method and address of a process behind the workers, out of its own router."""
    return {
        f"{method} {route.path}"
        for route in pages.routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }


def named_by_the_gateway() -> set[str]:
    """Every address that the worker's own routing names: the constants of its source, and the wires' table."""
    tree = ast.parse(Path(app.__file__).read_text())
    constants = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    written = {value.decode() for value in constants if isinstance(value, bytes) and value.startswith(b"/")}
    return written | set(PATHS.values())
