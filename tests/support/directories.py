"""A town whose two agencies have directories of their own, which speak SCIM to it."""

from __future__ import annotations

import json
from typing import Any, Self

import httpx
from tests.support.town import Town

USER = "urn:ietf:params:scim:schemas:core:2.0:User"
ENTERPRISE = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
PATCH = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
ERROR = "urn:ietf:params:scim:api:messages:2.0:Error"
OURS, THEIRS = "directory-of-first-agency", "directory-of-other-agency"


class Province(Town):
    """Use as a context. `secrets` and `ids` have the directories too; ours has people of the provider "test"."""

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        for name, provider in ((OURS, "test"), (THEIRS, "")):
            made = await self.control["directory.create"](
                tenant=name.removeprefix("directory-of-"), label=name, provider=provider, days=30, person_days=100
            )
            self.secrets[name], self.ids[name] = made["directory_token"], made["id"]
        return self

    async def scim(self, who: str, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        """As somebody of `secrets`, or nobody. `path` is below `/scim/v2`; a body of bytes is sent as it is."""
        given = {"content-type": "application/scim+json", **{k.replace("_", "-"): v for k, v in headers.items()}}
        if who:
            given["authorization"] = f"Bearer {self.secrets[who]}"
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        return await self.http.request(method, f"/scim/v2{path}", content=content, headers=given)

    async def brought(self, who: str = OURS, called: str = "aminah", **more: Any) -> str:
        """Somebody new; their id."""
        answer = await self.scim(who, "POST", "/Users", {"schemas": [USER], "userName": called, **more})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def patch(self, id_: str, *operations: dict[str, Any], who: str = OURS) -> httpx.Response:
        return await self.scim(who, "PATCH", f"/Users/{id_}", {"schemas": [PATCH], "Operations": list(operations)})
