"""The admin API's half in the pages process: HTTP alone. Who asks and what they may, the control process decides."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from daulat.adapters import rpc
from daulat.errors import InvalidRequest
from daulat.gateway.admin import openapi
from daulat.gateway.admin.table import DOCUMENT, OPERATIONS, Operation
from daulat.processes.callers import NEVER, secret

_JSON: Final = "application/json"


class AdminPages:
    """The handlers. `control`: the socket of the control process."""

    def __init__(self, control: Path) -> None:
        self._control = control
        self._document = json.dumps(openapi.document()).encode()

    def routes(self) -> list[Route]:
        """One of each address, with all its methods."""
        addresses: dict[str, dict[str, Operation]] = {}
        for operation in OPERATIONS:
            addresses.setdefault(operation.path, {})[operation.method] = operation
        described = Route(DOCUMENT, self.document, methods=["GET"])
        return [described, *(Route(path, self._asking(by), methods=[*by]) for path, by in addresses.items())]

    async def document(self, _request: Request) -> Response:
        """OpenAPI 3.1, for everybody: it names addresses and types, and nothing of this installation."""
        return Response(self._document, media_type=_JSON, headers={"cache-control": "no-cache"})

    def _asking(self, operations: dict[str, Operation]) -> Callable[[Request], Awaitable[Response]]:
        async def ask(request: Request) -> Response:
            operation = operations["GET" if request.method == "HEAD" else request.method]
            params = {"operation": operation.id, **await _params(request)}
            client = rpc.Client(self._control)  # of its own: an act may take its time, and others need not wait for it
            try:
                found = await client.call("admin", **params)
            finally:
                await client.close()
            headers = {**NEVER, **({"etag": f'"{found["etag"]}"'} if found["etag"] else {})}
            body = json.dumps(found["value"], ensure_ascii=False).encode()
            return Response(body, operation.status, headers, media_type=_JSON)

        return ask


async def _params(request: Request) -> dict[str, Any]:
    """What a request says, as text.

    Raises:
        Unauthenticated: no credential; InvalidRequest: the body is no UTF-8, or a parameter is given twice.
    """
    credential = secret(request)
    given = request.query_params.multi_items()
    if len(dict(given)) != len(given):
        raise InvalidRequest("A parameter is given more than once.")
    try:
        body = (await request.body()).decode()
    except UnicodeDecodeError:
        raise InvalidRequest("The body is not UTF-8.") from None
    return {
        "credential": credential,
        "path": dict(request.path_params),
        "query": dict(given),
        "body": body,
        "idempotency_key": request.headers.get("idempotency-key", ""),
        "if_match": request.headers.get("if-match", ""),
    }
