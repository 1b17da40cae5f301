"""What a hostile directory sends: bodies, PATCHes and filters. Nothing of it meets a defect."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scim2_server.requests import ScimRequest

from daulat.errors import NotFound
from daulat.gateway.scim import Scim

ID = "person_1"
ROW = {
    "id": ID,
    "name": "aminah",
    "active": True,
    "version": 3,
    "created": 1_795_000_000_000,
    "changed": 1_795_000_000_000,
}
SCIM = Scim()
USUAL = settings(derandomize=True, deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
NAMES = st.sampled_from(
    [
        "schemas",
        "id",
        "externalId",
        "userName",
        "active",
        "meta",
        "roles",
        "emails",
        "Operations",
        "op",
        "path",
        "value",
    ]
)
TEXTS = st.sampled_from(
    ["add", "Replace", "remove", "active", "userName", "externalId", 'emails[type eq "work"].value', "False", "", "x"]
) | st.text(max_size=20)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES | TEXTS, inner, max_size=5), max_leaves=12
)
OPERATION = st.fixed_dictionaries({"op": TEXTS}, optional={"path": TEXTS, "value": JSON})
PIECES = st.sampled_from(
    ["userName", "externalId", "id", "active", "meta.created", "eq", "ne", "co", "pr", "gt", "and", "or", "not", "(",
     ")", "[", "]", '"x"', '"', "\\", "true", "null", "1e999", "\u202e",
     "urn:ietf:params:scim:schemas:core:2.0:User:userName"]
)  # fmt: skip


class Told:
    """`gateway.scim.Store` with one person; `said` has what reached it."""

    def __init__(self) -> None:
        self.said: list[tuple[Any, ...]] = []

    async def find(self, id_: str) -> dict[str, Any]:
        if id_ != ID:
            raise NotFound("There is no such person.")
        return dict(ROW)

    async def search(self, attribute: str, value: str, start: int, count: int) -> dict[str, Any]:
        self.said.append((attribute, value, start, count))
        return {"total": 1, "rows": [dict(ROW)]}

    async def create(self, name: str, external: str, *, active: bool) -> dict[str, Any]:
        self.said.append((name, external, active))
        return {**ROW, "name": name, "active": active}

    async def update(self, id_: str, version: int, name: str, external: str, *, active: bool | None) -> dict[str, Any]:
        assert (id_, version) == (ID, 3)
        self.said.append((name, external, active))
        return {**ROW, "name": name}

    async def delete(self, id_: str, version: int | None) -> None:
        self.said.append((id_, version))


def answered(method: str, path: str, body: bytes = b"", **query: str) -> tuple[Any, Told]:
    """The answer, which is SCIM's, and no defect."""
    store = Told()
    request = ScimRequest(method, "http://x/scim/v2", path, query, {"content-type": "application/scim+json"}, body)
    found = asyncio.run(SCIM.answer(request, store))
    assert found.status < 500, (body, query, found.body)
    json.dumps(found.body)
    for said in store.said:
        if method in {"POST", "PUT", "PATCH"} and "search" not in path:
            name, external, active = said
            assert (type(name), type(external)) == (str, str)
            assert active in {True, False, None}
    return found, store


@USUAL
@given(
    st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()),
    st.sampled_from(["POST", "PUT", "PATCH"]),
)
def test_any_bytes_as_a_body(body: bytes, method: str) -> None:
    answered(method, "/Users" if method == "POST" else f"/Users/{ID}", body)


@USUAL
@given(st.dictionaries(NAMES, JSON, max_size=5), st.sampled_from(["POST", "PUT"]))
def test_a_user_with_anything_in_it(more: dict[str, Any], method: str) -> None:
    user = {"schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"], "userName": "aminah", **more}
    answered(method, "/Users" if method == "POST" else f"/Users/{ID}", json.dumps(user).encode())


@USUAL
@given(st.lists(OPERATION, max_size=4))
def test_a_patch_with_any_operations(operations: list[dict[str, Any]]) -> None:
    patch = {"schemas": ["urn:ietf:params:scim:api:messages:2.0:PatchOp"], "Operations": operations}
    answered("PATCH", f"/Users/{ID}", json.dumps(patch).encode())


@USUAL
@given(st.lists(PIECES, max_size=12).map(" ".join) | st.text(max_size=60), TEXTS, TEXTS)
def test_any_filter_and_any_page(words: str, start: str, count: str) -> None:
    found, store = answered("GET", "/Users", filter=words)
    assert found.status in {200, 400}
    for attribute, _value, _start, _count in store.said:
        assert attribute in {"id", "name", "external"}
    answered("GET", "/Users", startIndex=start, count=count, attributes=words, excludedAttributes=start)
    search = {"schemas": ["urn:ietf:params:scim:api:messages:2.0:SearchRequest"], "filter": words, "count": count}
    answered("POST", "/Users/.search", json.dumps(search).encode())


def test_what_is_nested_deeply_or_endless_is_refused() -> None:
    for body in (b"[" * 60_000, b'{"a":' * 10_000, b'{"userName":"' + b"x" * 60_000, b"1" * 60_000):
        assert answered("POST", "/Users", body)[0].status == 400
    for words in ("(" * 1_000, "not (" * 200, 'userName eq "x" and ' * 50, 'a[a[a[a eq "x"]]]', "x" * 60_000):
        assert answered("GET", "/Users", filter=words)[0].status == 400
    path = 'emails[type eq "work"].value' * 2_000
    patch = {"schemas": ["urn:ietf:params:scim:api:messages:2.0:PatchOp"], "Operations": [{"op": "add", "path": path}]}
    assert answered("PATCH", f"/Users/{ID}", json.dumps(patch).encode())[0].status == 400


def test_an_unknown_address_is_none_whatever_is_in_it() -> None:
    for path in ("", "/", "//", "/Users/../Users", "/Users/a/b", "/Me", "/Bulk", "/Groups", "/%2e", "/\u0000"):
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
            store = Told()
            request = ScimRequest(method, "http://x/scim/v2", path, {}, {}, b"{}")
            found = asyncio.run(SCIM.answer(request, store))
            assert found.status in {200, 400, 404, 405, 501}, (method, path)
            assert found.status != 200 or path in {"", "/", "//"}
