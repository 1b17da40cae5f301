"""Everybody who may not, at every address that directories have; one directory at another tenant's people; and those
who would get more for somebody than that they are there.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.redteam.table import DIRECTORY, PAGES
from tests.support.directories import ERROR, OURS, PATCH, THEIRS, USER, Province

ABSENT = "person_000000000000000000000000"
ADDRESSES = [
    (method, path.removeprefix("/scim/v2"), row.may == DIRECTORY)
    for method, path in (name.split(" ", 1) for name in PAGES)
    for row in (PAGES[f"{method} {path}"],)
    if path.startswith("/scim/v2")
]
OTHERS = ("first-operator", "tenant-admin-of-first-agency", "key-of-user-of-first-agency", "auditor")


def within(tmp_path: Path, use: Callable[[Province], Awaitable[None]]) -> None:
    async def main() -> None:
        async with Province(tmp_path / "home") as town:
            await use(town)

    asyncio.run(main())


def everything(town: Province) -> str:
    tables = ("tenants", "people", "keys", "admin_keys", "identities", "directories", "provisioned")
    return json.dumps({table: town.rows.rows(table) for table in tables}, sort_keys=True)


def body_for(method: str, path: str) -> Any:
    """A body that would do for somebody who may."""
    if method in {"POST", "PUT"}:
        search = {"schemas": ["urn:ietf:params:scim:api:messages:2.0:SearchRequest"]}
        return search if path.endswith(".search") else {"schemas": [USER], "userName": "new", "externalId": "new"}
    patch = {"schemas": [PATCH], "Operations": [{"op": "replace", "path": "userName", "value": "new"}]}
    return patch if method == "PATCH" else None


async def ask(town: Province, who: str, method: str, path: str, id_: str) -> Any:
    there = path.replace("{id}", id_).replace("{path:path}", f"Groups/{id_}")
    return await town.scim(who, method, there, body_for(method, path))


def test_a_directorys_token_is_asked_for_everywhere_and_nothing_else_will_do(tmp_path: Path) -> None:
    async def use(town: Province) -> None:
        id_ = await town.brought()
        revoked = await town.control["directory.create"](
            tenant="first-agency", label="old", provider="", days=1, person_days=1
        )
        ends = await town.control["directory.create"](
            tenant="first-agency", label="short", provider="", days=1, person_days=1
        )
        await town.control["directory.revoke"](wanted="old")
        town.secrets |= {"revoked": revoked["directory_token"], "expired": ends["directory_token"]}
        town.secrets["wrong"] = town.secrets[OURS][:-1]
        town.clock.pass_seconds(86_401)
        before, known = everything(town), len(town.log)
        asked = [(method, path) for method, path, closed in ADDRESSES if closed]
        assert len(asked) == 16
        for method, path in asked:
            for who in ("", "wrong", "revoked", "expired"):
                answer = await ask(town, who, method, path, id_)
                assert (answer.status_code, answer.json()["schemas"]) == (401, [ERROR]), (who, method, path)
                assert answer.headers["www-authenticate"].startswith("Bearer")
        assert (everything(town), len(town.log)) == (before, known)
        for method, path in asked:
            town.clock.pass_seconds(1)
            for who in OTHERS:
                known = len(town.log)
                answer = await ask(town, who, method, path, id_)
                assert (answer.status_code, answer.json()["schemas"]) == (403, [ERROR]), (who, method, path)
                (entry,) = town.log[known:]
                assert (entry["type"], entry["code"]) == ("access.refused/v1", "permission_denied")
        assert everything(town) == before

    within(tmp_path, use)


def test_a_directorys_token_is_good_for_nothing_else(tmp_path: Path) -> None:
    async def use(town: Province) -> None:
        for path in ("me", "people", f"tenants/{town.ids['first-agency']}"):
            assert (await town.ask(OURS, "GET", path)).status_code == 401
        answer = await town.ask(OURS, "POST", "people", {"tenant": town.ids["first-agency"], "name": "x"})
        assert answer.status_code == 401
        headers = {"authorization": f"Bearer {town.secrets[OURS]}"}
        for path in ("/v1/receipts/req_" + "0" * 32, "/log/tile/entries/000"):
            assert (await town.http.get(path, headers=headers)).status_code in {401, 503}, "503: nothing is published"

    within(tmp_path, use)


def test_anybody_elses_people_are_answered_as_those_who_do_not_exist(tmp_path: Path) -> None:
    """Another tenant's; one's own tenant's whom no directory brought; operators; ids of other things."""

    async def use(town: Province) -> None:
        ours = {await town.brought(OURS, "aminah", externalId="a")}
        await town.brought(THEIRS, "budi", externalId="b")
        tables = ("people", "tenants", "keys", "admin_keys", "directories", "provisioned")
        foreign = {row["id"] for table in tables for row in town.rows.rows(table)} - ours
        assert len(foreign) > 20
        before = everything(town)
        for method, path, _ in ADDRESSES:
            if path != "/Users/{id}":
                continue
            absent = await ask(town, OURS, method, path, ABSENT)
            assert absent.status_code == 404
            for id_ in sorted(foreign):
                town.clock.pass_seconds(1)
                known = len(town.log)
                answer = await ask(town, OURS, method, path, id_)
                assert (answer.status_code, answer.content) == (404, absent.content), (method, id_)
                (entry,) = town.log[known:]
                assert (entry["type"], entry["code"]) == ("access.refused/v1", "not_found")
        for asked in ('userName eq "budi"', 'externalId eq "b"', 'userName eq "user-of-first-agency"'):
            assert (await town.scim(OURS, "GET", f"/Users?filter={asked}")).json()["totalResults"] == 0, asked
        listed = (await town.scim(OURS, "GET", "/Users?count=100000&startIndex=-7")).json()
        assert {row["id"] for row in listed["Resources"]} == ours
        assert everything(town) == before
        await town.brought(OURS, "cik", externalId="b")  # ids of one directory say nothing of another's

    within(tmp_path, use)


def test_nobody_is_taken_over(tmp_path: Path) -> None:
    """Whoever was vouched for keeps their account: no directory puts its own word in its place."""

    async def use(town: Province) -> None:
        taken = {"schemas": [USER], "userName": "User-of-first-agency", "externalId": "mine"}
        answer = await town.scim(OURS, "POST", "/Users", taken)
        assert (answer.status_code, answer.json()["scimType"]) == (409, "uniqueness")
        id_ = await town.brought()
        vouched = await town.ask("bina", "PATCH", f"people/{id_}", {"citizenship": "MY"}, if_match="*")
        assert vouched.status_code == 200
        before = json.dumps(town.rows.rows("identities"))
        for body in (
            {"op": "add", "path": "externalId", "value": "mine"},
            {"op": "add", "value": {"externalId": "mine"}},
        ):
            answer = await town.patch(id_, body)
            assert (answer.status_code, answer.json()["scimType"]) == (400, "mutability")
        put = {"schemas": [USER], "userName": "aminah", "externalId": "mine"}
        assert (await town.scim(OURS, "PUT", f"/Users/{id_}", put)).status_code == 400
        linked = await town.brought(called="budi", externalId="his")
        assert (await town.patch(linked, {"op": "replace", "path": "externalId", "value": "mine"})).status_code == 400
        assert (await town.patch(linked, {"op": "remove", "path": "externalId"})).status_code in {204, 400}
        again = await town.scim(OURS, "POST", "/Users", {"schemas": [USER], "userName": "c", "externalId": "his"})
        assert (again.status_code, again.json()["scimType"]) == (409, "uniqueness")
        assert len(json.loads(before)) == len(town.rows.rows("identities")) - 1
        assert town.rows.find("people", id_)["citizenship"] == "MY"

    within(tmp_path, use)


def test_operators_come_and_go_by_consent_alone(tmp_path: Path) -> None:
    async def use(town: Province) -> None:
        before = everything(town)
        with pytest.raises(Exception, match="by consent"):
            await town.control["directory.create"](tenant="operators", label="x", provider="", days=1, person_days=1)
        assert everything(town) == before

    within(tmp_path, use)


@pytest.mark.parametrize(
    "field", ["id", "schemas", "meta", "version", "tenant", "expires", "digest", "person", "__proto__"]
)
def test_fields_that_are_not_for_clients_to_set_change_nothing(tmp_path: Path, field: str) -> None:
    async def use(town: Province) -> None:
        id_ = await town.brought()
        row = town.rows.find("people", id_)
        value: Any = {"version": 'W/"9"', "created": "2000-01-01T00:00:00Z"} if field == "meta" else ABSENT
        for body in ({"op": "add", "path": field, "value": value}, {"op": "replace", "value": {field: value}}):
            assert (await town.patch(id_, body)).status_code in {204, 400}
        body = {"schemas": [USER], "userName": "aminah", **({} if field == "schemas" else {field: value})}
        assert (await town.scim(OURS, "PUT", f"/Users/{id_}", body)).status_code in {200, 400}
        assert town.rows.find("people", id_) == row

    within(tmp_path, use)


def test_a_revoked_token_is_over_at_once_and_whom_it_brought_stays(tmp_path: Path) -> None:
    async def use(town: Province) -> None:
        id_ = await town.brought()
        known = len(town.log)
        await town.control["directory.revoke"](wanted=town.ids[OURS])
        assert (await town.scim(OURS, "GET", f"/Users/{id_}")).status_code == 401
        assert [entry["action"] for entry in town.log[known:]] == ["directory.revoke"]
        assert town.rows.find("people", id_)["expires"] > town.clock.now_ms()

    within(tmp_path, use)


def test_an_administrator_lets_a_directory_in_for_their_own_tenant_alone_and_for_no_provider(tmp_path: Path) -> None:
    async def use(town: Province) -> None:
        boss = "tenant-admin-of-other-agency"
        for house in ("first-agency", "operators"):
            answer = await town.ask(boss, "POST", "directories", {"tenant": town.ids[house]})
            assert answer.status_code == 404, house
        assert (await town.ask(boss, "DELETE", f"directories/{town.ids[OURS]}")).status_code == 404
        assert (await town.ask(boss, "GET", f"directories?tenant={town.ids['first-agency']}")).status_code == 404
        house = town.ids["other-agency"]
        refused = await town.ask(boss, "POST", "directories", {"tenant": house, "provider": "test"})
        assert refused.status_code == 400
        made = (await town.ask(boss, "POST", "directories", {"tenant": house, "label": "theirs"})).json()
        assert (made["issuer"], made["label"]) == ("", "theirs")
        listed = (await town.ask(boss, "GET", "directories")).json()["data"]
        assert {row["tenant"] for row in listed} == {house}
        assert "digest" not in listed[0]
        town.secrets["new"] = made["directory_token"]
        assert (await town.scim("new", "GET", "/Users")).status_code == 200
        assert (await town.ask(boss, "DELETE", f"directories/{made['id']}")).json()["revoked"]
        assert (await town.scim("new", "GET", "/Users")).status_code == 401
        operators = await town.ask("bina", "POST", "directories", {"tenant": town.ids["operators"]})
        assert operators.status_code == 403, "operators come and go by consent"

    within(tmp_path, use)
