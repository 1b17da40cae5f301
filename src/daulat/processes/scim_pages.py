"""SCIM's half in the pages process: HTTP and the protocol. Who asks and whom they may see, the control process decides.

What reads the protocol is loaded with the first request: without `daulat[scim]` everything but this goes on.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from daulat.adapters import rpc
from daulat.errors import DaulatError, InvalidRequest
from daulat.processes.callers import NEVER, secret

ROOT: Final = "/scim/v2"
_TYPE: Final = "application/scim+json"
_OPEN: Final = "/ServiceProviderConfig"  # for everybody (RFC 7643 section 5): it names nothing of this installation
_METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")
_MISSING: Final = {
    "schemas": ["urn:ietf:params:scim:api:messages:2.0:Error"],
    "status": "501",
    "detail": "SCIM is not installed here: pip install 'daulat[scim]'",
}


class ScimPages:
    """The handlers. `control`: the socket of the control process; `url`: where clients ask."""

    def __init__(self, control: Path, url: str) -> None:
        self._control, self._base = control, f"{url.rstrip('/')}{ROOT}"
        self._wire: Any = None
        self._scim: Any = None

    def routes(self) -> list[Route]:
        """What there is; everything else below is refused in SCIM's form too."""
        there = {
            _OPEN: ["GET"],
            "/ResourceTypes": ["GET"],
            "/ResourceTypes/{id}": ["GET"],
            "/Schemas": ["GET"],
            "/Schemas/{id}": ["GET"],
            "/Users": ["GET", "POST"],
            "/Users/.search": ["POST"],
            "/Users/{id}": ["GET", "PUT", "PATCH", "DELETE"],
            "/{path:path}": [*_METHODS],
        }
        return [Route(f"{ROOT}{path}", self.answer, methods=methods) for path, methods in there.items()]

    async def answer(self, request: Request) -> Response:
        """One request. Nothing of it is read before its credential was."""
        if self._wire is None:
            try:
                self._wire = importlib.import_module("daulat.gateway.scim")
            except ModuleNotFoundError as error:
                if error.name is None or error.name.startswith("daulat"):
                    raise
                return Response(json.dumps(_MISSING), 501, NEVER, media_type=_TYPE)
            self._scim = self._wire.Scim()
        client = rpc.Client(self._control)  # of its own: an act may take its time, and others need not wait for it
        try:
            found = await self._answered(request, client)
        except DaulatError as error:
            found = self._scim.refusal(error)
        finally:
            await client.close()
        body = b"" if found.body is None else json.dumps(found.body, ensure_ascii=False).encode()
        return Response(body, int(found.status), {**found.headers, **NEVER})

    async def _answered(self, request: Request, client: rpc.Client) -> Any:
        path = request.scope["path"].removeprefix(ROOT)
        credential = ""
        if path != _OPEN:
            credential = secret(request)
            await client.call("scim.whose", credential=credential)
        given = request.query_params.multi_items()
        if len(dict(given)) != len(given):
            raise InvalidRequest("A parameter is given more than once.")
        asked = self._wire.ScimRequest(
            method="GET" if request.method == "HEAD" else request.method,
            base_url=self._base,
            path=path,
            query=dict(given),
            headers=request.headers.items(),
            body=await request.body(),
        )
        return await self._scim.answer(asked, _People(client, credential))


class _People:
    """`gateway.scim.Store` over the control process, with one credential."""

    def __init__(self, client: rpc.Client, credential: str) -> None:
        self._client, self._credential = client, credential

    async def find(self, id_: str) -> Any:
        return await self._call("find", person=id_)

    async def search(self, attribute: str, value: str, start: int, count: int) -> Any:
        return await self._call("search", attribute=attribute, value=value, start=start, count=count)

    async def create(self, name: str, external: str, *, active: bool) -> Any:
        return await self._call("create", name=name, external=external, active=active)

    async def update(self, id_: str, version: int, name: str, external: str, *, active: bool | None) -> Any:
        return await self._call("update", person=id_, version=version, name=name, external=external, active=active)

    async def delete(self, id_: str, version: int | None) -> None:
        await self._call("delete", person=id_, version=version)

    async def _call(self, method: str, **params: Any) -> Any:
        return await self._client.call(f"scim.{method}", credential=self._credential, **params)
