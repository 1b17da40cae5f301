"""SCIM as directories speak it, over the real control database: who comes, who leaves, and what becomes of the rest."""

from __future__ import annotations

import asyncio
import importlib
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from scim2_client.engines.httpx2 import SyncSCIMClient
from scim2_tester import CheckResult, Status, check_server
from tests.support import oidc
from tests.support.directories import ENTERPRISE, ERROR, OURS, THEIRS, USER, Province
from tests.support.service import free_port

from daulat.adapters.identity_key import identity_key
from daulat.errors import DaulatError, PermissionDenied
from daulat.identity import claims, providers
from daulat.pipeline.identities import Identities

LEAVES = {"op": "Replace", "path": "active", "value": "False"}
RETURNS = {"op": "Replace", "path": "active", "value": "True"}


def within(tmp_path: Path, use: Callable[[Province], Awaitable[None]]) -> None:
    async def main() -> None:
        async with Province(tmp_path / "home") as town:
            await use(town)

    asyncio.run(main())


def identities(town: Province) -> Identities:
    return Identities(town.rows, town.book.write, town.clock, (1, town.charter), town.desk)


async def sign_in(town: Province, subject: str, invitation: str = "") -> dict[str, Any]:
    """Somebody whom the provider "test" calls so."""
    provider = providers.parse(oidc.settings()).provider["test"]
    said = {"sub": subject, "acr": "level:2"}
    seen = claims.read(provider, said, identity_key(town.home.identity_key), town.clock.now_ms())
    return await identities(town).sign_in(provider, seen, binding="here", invitation=invitation, minutes=30)


def acts(town: Province, known: int) -> list[str]:
    return [entry["action"] for entry in town.log[known:] if entry["type"] == "operator.action/v1"]


def test_the_libraries_own_tester_finds_it_to_be_scim(tmp_path: Path) -> None:
    """scim2-tester goes by what the server says of itself, and tries all of it over HTTP."""

    async def use(town: Province) -> None:
        port = free_port()
        config = uvicorn.Config(town.app, port=port, log_config=None, access_log=False)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server._serve())
        while not server.started:  # noqa: ASYNC110  a few times, at the start
            await asyncio.sleep(0.01)
        headers = {"authorization": f"Bearer {town.secrets[OURS]}"}
        base = f"http://127.0.0.1:{port}/scim/v2"

        def check() -> list[CheckResult]:
            with httpx2.Client(base_url=base, headers=headers, trust_env=False) as client:
                return check_server(SyncSCIMClient(client))

        results = await asyncio.to_thread(check)
        server.should_exit = True
        await serving
        wrong = {(result.title, result.reason) for result in results if result.status is not Status.SUCCESS}
        # Whether somebody is there is always known, so it cannot be taken away (RFC 7643 section 2.2 lets it be so).
        assert wrong == {("check_remove_attribute", "Attribute 'active' was not removed")}
        assert sum(result.status is Status.SUCCESS for result in results) > 30

    within(tmp_path, use)


@pytest.mark.parametrize(
    "leaves",
    [
        [{"op": "Replace", "path": "active", "value": "False"}],  # Entra ID
        [{"op": "Add", "path": "active", "value": False}],
        [{"op": "replace", "value": {"active": False}}],  # Okta
        [{"op": "replace", "value": {"active": "false", f"{ENTERPRISE}:department": "x"}}],
        [{"op": "Replace", "path": f"{USER}:active", "value": "false"}],
        [{"op": "Replace", "path": 'emails[type eq "work"].value', "value": "a@b.example"}, LEAVES],
        [{"op": "Add", "path": 'roles[primary eq "True"].value', "value": "admin"}, LEAVES],
        [{"op": "replace", "value": {"active": False, "roles": [{"value": "admin"}]}}],
    ],
)
def test_whoever_leaves_leaves_however_it_is_said(tmp_path: Path, leaves: list[dict[str, Any]]) -> None:
    async def use(town: Province) -> None:
        id_ = await town.brought()
        known = len(town.log)
        answer = await town.patch(id_, *leaves)
        assert answer.status_code == 204, answer.text
        assert (await town.scim(OURS, "GET", f"/Users/{id_}")).json()["active"] is False
        assert acts(town, known) == ["person.end"]

    within(tmp_path, use)


def test_keys_sessions_and_invitations_end_and_do_not_come_back(tmp_path: Path) -> None:
    async def use(town: Province) -> None:
        id_ = await town.brought(externalId="sub-1")
        assert (
            await town.ask("bina", "PATCH", f"people/{id_}", {"citizenship": "MY"}, if_match="*")
        ).status_code == 200
        await town.desk.create_key(id_, "laptop", [], 0, days=9)
        session = (await sign_in(town, "sub-1"))["session"]
        await identities(town).holder(session, "here")
        answer = await town.patch(id_, LEAVES)
        assert answer.status_code == 204
        person = town.rows.find("people", id_)
        assert person["expires"] <= town.clock.now_ms()
        with pytest.raises(PermissionDenied, match="ended"):
            await sign_in(town, "sub-1")
        known = len(town.log)
        assert (await town.patch(id_, RETURNS)).status_code == 204
        person = town.rows.find("people", id_)
        assert (person["citizenship"], person["roles"], person["until"]) == ("", ["user"], 0)
        assert person["expires"] == town.clock.now_ms() + 100 * 86_400_000
        assert acts(town, known) == ["person.change"]
        for table in ("keys", "sessions"):
            assert [row["revoked"] is None for row in town.rows.rows(table) if row["person"] == id_] == [False], table
        assert await refusal(identities(town).holder(session, "here")) == "no_session"

    within(tmp_path, use)


async def refusal(done: Awaitable[Any]) -> str:
    try:
        await done
    except DaulatError as error:
        return error.code
    raise AssertionError("it was allowed")


def test_a_directorys_own_id_is_whom_its_provider_signs_in_and_another_directorys_is_not(tmp_path: Path) -> None:
    async def use(town: Province) -> None:
        id_ = await town.brought(externalId="sub-1")
        assert (await sign_in(town, "sub-1"))["person"]["id"] == id_
        await town.brought(THEIRS, "budi", externalId="sub-2")
        assert await refusal(sign_in(town, "sub-2")) == "not_invited"

    within(tmp_path, use)


def test_whom_an_operator_has_ended_no_directory_brings_back(tmp_path: Path) -> None:
    async def use(town: Province) -> None:
        id_ = await town.brought(externalId="x")
        assert (await town.ask("bina", "DELETE", f"people/{id_}")).status_code == 200
        assert (await town.scim(OURS, "GET", f"/Users/{id_}")).json()["active"] is False
        assert (await town.patch(id_, RETURNS)).status_code == 403
        assert (await town.scim(OURS, "DELETE", f"/Users/{id_}")).status_code == 204
        body = {"schemas": [USER], "userName": "aminah", "externalId": "x"}
        assert (await town.scim(OURS, "POST", "/Users", body)).status_code == 403
        assert town.entries("access.refused/v1")[-1]["action"] == "scim.create"

    within(tmp_path, use)


def test_a_deleted_person_is_forgotten_and_may_begin_anew(tmp_path: Path) -> None:
    async def use(town: Province) -> None:
        id_ = await town.brought(externalId="sub-1")
        assert (
            await town.ask("bina", "PATCH", f"people/{id_}", {"citizenship": "MY"}, if_match="*")
        ).status_code == 200
        assert (await town.scim(OURS, "DELETE", f"/Users/{id_}")).status_code == 204
        for method, body in (("GET", None), ("DELETE", None), ("PUT", {"schemas": [USER], "userName": "x"})):
            assert (await town.scim(OURS, method, f"/Users/{id_}", body)).status_code == 404
        assert town.rows.find("people", id_)["name"] == id_
        again = await town.brought(externalId="sub-1")
        assert again != id_
        assert town.rows.find("people", again)["citizenship"] == ""
        assert (await sign_in(town, "sub-1"))["person"]["id"] == again

    within(tmp_path, use)


def test_what_would_say_more_is_refused_in_words(tmp_path: Path) -> None:
    async def use(town: Province) -> None:
        id_ = await town.brought()
        known = json.dumps(town.rows.rows("people"))
        more: list[dict[str, Any]] = [
            {"roles": [{"value": "operator"}]},
            {"entitlements": [{"value": "x"}]},
            {"citizenship": "MY"},
            {"password": "x"},
            {"urn:example:2.0:User": {"Nationality": "MY"}},
        ]
        for each in more:
            for method, path in (("POST", "/Users"), ("PUT", f"/Users/{id_}")):
                answer = await town.scim(OURS, method, path, {"schemas": [USER], "userName": "budi", **each})
                assert (answer.status_code, answer.json()["scimType"]) == (400, "invalidValue")
                assert "not for a directory to say" in answer.json()["detail"]
            assert (await town.patch(id_, {"op": "add", "value": each})).status_code == 400
        assert (
            await town.patch(id_, {"op": "add", "path": "urn:x:2.0:User:citizenship", "value": "MY"})
        ).status_code == 400
        answer = await town.scim(OURS, "POST", "/Users", {"schemas": [USER], "userName": oidc.NUMBER})
        assert (answer.status_code, "identity number" in answer.text) == (400, True)
        assert json.dumps(town.rows.rows("people")) == known
        await town.brought(called="budi", roles=[], password="", groups=[])

    within(tmp_path, use)


def test_neither_log_nor_database_has_what_is_not_needed(tmp_path: Path) -> None:
    async def use(town: Province) -> None:
        private = ["puan.aminah@x.example", "0123456789-ext", "Siti Aminah", "work@x.example", "+60 12"]
        more = {
            "externalId": private[1],
            "name": {"formatted": private[2]},
            "emails": [{"value": private[3], "primary": True}],
            "phoneNumbers": [{"value": private[4]}],
        }
        id_ = await town.brought(called=private[0], **more)
        await town.patch(id_, LEAVES)
        await town.scim(OURS, "DELETE", f"/Users/{id_}")
        text = json.dumps(town.log)
        rows = json.dumps([town.rows.rows(table) for table in ("people", "provisioned", "identities", "directories")])
        for words in private:
            assert words not in text
            assert words not in rows
        assert town.secrets[OURS] not in rows
        assert id_ not in text

    within(tmp_path, use)


def test_one_is_looked_for_and_many_come_in_pages(tmp_path: Path) -> None:
    async def use(town: Province) -> None:
        ids = [await town.brought(called=f"p{number}", externalId=f"e{number}") for number in range(5)]
        page = (await town.scim(OURS, "GET", "/Users?startIndex=2&count=2")).json()
        assert (page["totalResults"], page["itemsPerPage"], page["startIndex"]) == (5, 2, 2)
        assert [row["id"] for row in page["Resources"]] == ids[1:3]
        for asked in ('userName eq "P3"', 'externalId eq "e3"', f'id eq "{ids[3]}"', f'{USER}:userName eq "p3"'):
            found = (await town.scim(OURS, "GET", f"/Users?filter={asked}")).json()
            assert [row["id"] for row in found["Resources"]] == [ids[3]], asked
        assert (await town.scim(OURS, "GET", '/Users?filter=externalId eq "E3"')).json()["totalResults"] == 0
        for asked in ("active eq true", 'userName sw "p"', 'userName eq "p" or userName eq "q"', "((((", "x" * 2000):
            answer = await town.scim(OURS, "GET", f"/Users?filter={asked}")
            assert (answer.status_code, answer.json()["scimType"]) == (400, "invalidFilter"), asked

    within(tmp_path, use)


def test_a_change_names_the_state_it_is_for(tmp_path: Path) -> None:
    async def use(town: Province) -> None:
        id_ = await town.brought()
        answer = await town.scim(OURS, "GET", f"/Users/{id_}")
        etag = answer.headers["etag"]
        assert (await town.scim(OURS, "GET", f"/Users/{id_}", if_none_match=etag)).status_code == 304
        body = {"schemas": [USER], "userName": "aminah2"}
        changed = await town.scim(OURS, "PUT", f"/Users/{id_}", body, if_match=etag)
        assert (changed.status_code, changed.json()["active"]) == (200, True)
        late = await town.scim(OURS, "PUT", f"/Users/{id_}", {**body, "userName": "b"}, if_match=etag)
        assert (late.status_code, late.json()["schemas"]) == (412, [ERROR])
        assert (await town.scim(OURS, "DELETE", f"/Users/{id_}", if_match=etag)).status_code == 412
        await town.patch(id_, LEAVES)
        put = await town.scim(OURS, "PUT", f"/Users/{id_}", body)
        assert put.json()["active"] is False, "what is not said stays as it is"

    within(tmp_path, use)


def test_without_the_library_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(name="scim2_models")

    async def use(town: Province) -> None:
        monkeypatch.setattr(importlib, "import_module", missing)
        answer = await town.scim(OURS, "GET", "/Users")
        assert (answer.status_code, answer.json()["schemas"]) == (501, [ERROR])
        assert "daulat[scim]" in answer.text

    within(tmp_path, use)
