"""The admin API is what its description says: every address in it, no other, and every answer as its schema has it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import msgspec
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.routing import Route
from tests.support import logs
from tests.support.logs import Step
from tests.support.town import MODEL, Town
from tests.support.verbs import publish

from daulat.core.consent import Proposed
from daulat.core.glass import Broken, reason
from daulat.gateway.admin import openapi
from daulat.gateway.admin.table import BY_ID, DOCUMENT, OPERATIONS, ROOT, Operation
from daulat.policy.bundle import load
from daulat.tlog.note import Signer

DESCRIBED = openapi.document()


def within(tmp_path: Path, use: Callable[[Told], Awaitable[None]], *, approvals: int = 0) -> None:
    async def main() -> None:
        async with Town(tmp_path / "home", approvals=approvals) as town:
            await use(Told(town))

    asyncio.run(main())


class Told:
    """Whoever uses the API by its description: no answer passes that is not as it says."""

    def __init__(self, town: Town) -> None:
        self.town, self.seen = town, set[str]()

    async def __call__(
        self, id_: str, *, who: str = "first-operator", status: int = 0, body: Any = None, query: str = "", **given: str
    ) -> Any:
        """`given`: the address' parameters, and headers, which begin with `h_`."""
        operation = BY_ID[id_]
        path = operation.path.removeprefix(f"{ROOT}/")
        headers = {name[2:]: value for name, value in given.items() if name.startswith("h_")}
        for name, value in given.items():
            path = path.replace(f"{{{name}}}", value)
        answer = await self.town.ask(who, operation.method, path + query, body, **headers)
        assert answer.status_code == (status or operation.status), answer.text
        as_described(operation, answer)
        if answer.status_code < 400:
            self.seen.add(id_)
        self.etag = answer.headers.get("etag", "")
        return answer.json()


def as_described(operation: Operation, answer: httpx.Response) -> None:
    """Raises where the answer is not what its description says."""
    said = DESCRIBED["paths"][operation.path][operation.method.lower()]["responses"][str(answer.status_code)]
    schema = said["content"]["application/json"]["schema"]
    whole = {**schema, "components": DESCRIBED["components"]}
    jsonschema.validate(answer.json(), whole, cls=jsonschema.Draft202012Validator)
    assert answer.headers["cache-control"] == "no-store"
    assert not [name for name in answer.headers if name.startswith("access-control")]
    if answer.status_code < 400:
        typed = msgspec.convert(answer.json(), operation.answer)
        assert msgspec.to_builtins(typed) == answer.json(), "a field that the description does not have"
        assert ("etag" in answer.headers) == operation.versioned


def test_the_description_is_openapi_and_names_every_route_and_no_other(tmp_path: Path) -> None:
    OpenAPIV31SpecValidator(DESCRIBED).validate()

    async def use(told: Told) -> None:
        routes = {
            (route.path, method)
            for route in told.town.app.routes
            if isinstance(route, Route) and route.path.startswith(ROOT) and route.path != DOCUMENT
            for method in (route.methods or ()) - {"HEAD"}
        }
        described = {(path, method.upper()) for path, item in DESCRIBED["paths"].items() for method in item}
        assert routes == described == {(one.path, one.method) for one in OPERATIONS}
        assert set(told.town.administering._does) == set(BY_ID)
        published = await told.town.http.get(DOCUMENT)
        assert published.json() == DESCRIBED

    within(tmp_path, use)


def test_every_operation_works_and_answers_as_described(tmp_path: Path) -> None:
    async def use(told: Told) -> None:
        await people(told)
        await keys(told)
        await limits(told)
        await machine(told)
        await consent(told)
        await signed_in(told)
        await oversight(told)
        assert told.seen == set(BY_ID), set(BY_ID) - told.seen
        acts = [entry["operator"] for entry in told.town.entries("operator.action/v1")]
        assert acts, "in the log"

    within(tmp_path, use)


async def people(told: Told) -> None:
    assert (await told("me"))["role"] == "operator"
    house = await told("tenants.create", body={"name": "ministry-of-health"})
    assert house == await told("tenants.get", tenant=house["id"])
    assert [row["name"] for row in (await told("tenants.list"))["data"]][-1] == "ministry-of-health"
    new = {"tenant": house["id"], "name": "aminah", "citizenship": "MY", "assurance": "high", "days": 10}
    person = await told("people.create", body={**new, "citizenship_days": 4})
    assert person["expires"] - person["until"] == 6 * 86_400_000
    assert person == await told("people.get", person=person["id"])
    assert person["roles"] == ["user"]
    changed = await told(
        "people.change", person=person["id"], body={"roles": ["tenant-admin", "user"], "days": 20}, h_if_match=told.etag
    )
    assert (changed["roles"], changed["version"], changed["citizenship"]) == (["tenant-admin", "user"], 2, "MY")
    listed = await told("people.list", query=f"?tenant={house['id']}")
    assert listed["data"] == [changed]
    ended = await told("people.end", person=person["id"])
    assert ended["expires"] == told.town.clock.now_ms()


async def signed_in(told: Told) -> None:
    town, name = told.town, "user-of-first-agency"
    person = town.ids[name]
    assert (await told("identities.list", query=f"?person={person}"))["data"] == [
        {"id": f"identity_{name}", "person": person}
    ]
    (session,) = (await told("sessions.list", query=f"?person={person}"))["data"]
    assert session["issuer"] == "https://id.example"
    assert (await told("sessions.revoke", session=session["id"]))["revoked"] == 1
    assert not (await told("sessions.list", query=f"?person={person}"))["data"]
    admin = "tenant-admin-of-first-agency"
    town.rows.change("people", person, roles=["tenant-admin", "user"])
    refused = await told("people.sign_out", who=admin, status=403, person=person)
    assert "another administrator" in refused["error"]["message"]
    town.rows.change("people", person, roles=["user"])
    assert (await told("people.sign_out", who=admin, person=town.ids[admin]))["revoked"] == 1
    act = town.entries("operator.action/v1")[-1]
    actor = town.administering._credentials.actor(town.secrets[admin])
    assert (act["action"], act["operator"], act["subject"]) == ("session.revoke", actor.pseudonym, actor.pseudonym)
    corrected = await told("people.correct", person=person, body={"name": "hassan bin ali", "assurance": "high"})
    assert corrected == {"id": person, "name": "hassan bin ali", "changed": ["assurance", "name"]}
    assert "hassan" not in json.dumps(town.log)
    await told("people.invite", status=403, person=town.ids["bina"], body={})
    await told("people.invite", status=409, person=person, body={})
    new = await told("people.create", body={"tenant": town.ids["first-agency"], "name": "new"})
    invited = await told("people.invite", person=new["id"], body={"days": 3})
    assert invited["address"].startswith("http://127.0.0.1:8470/signin?invite=")


async def oversight(told: Told) -> None:
    town = told.town
    now = town.clock.now_ms()
    assert (await told("prices"))["currency"] == "MYR"
    assert (await told("vault.status"))["lease"] == {"entry": 5, "expires": 1 << 41}
    assert await told("vault.rotate", body={}) == {"rotated": "root", "root": 2}
    house = town.ids["first-agency"]
    assert (await told("vault.rotate", who="bina", body={"tenant": house}))["rotated"] == "tenant"
    assert town.rotated == ["", house]
    await told("vault.rotate", status=404, body={"tenant": "tenant_0"})
    assert len(town.rotated) == 2
    assert house in {row["tenant"] for row in (await told("retention.list"))["data"]}
    await told("ceremony", status=404)
    seat = {"vkey": "v", "citizenship": "MY", "assurance": "high", "expires": 1}
    drawn = {"charter": 1, "origin": "o", "begun": 1, "sha256": "0" * 64, "rules": "1" * 64, "models": []}
    held = {"roster": "2" * 64, "operators": [seat], "signatures": ["s"], "restates": None}
    index = await town.book.write("ceremony/v1", {**drawn, **held}, name="")
    assert (await told("ceremony"))["entry"] == index
    early = {"learned": now - 1, "begins": now - 9, "ends": now - 5}
    await told("breaches.open", status=400, body={**early, "ends": now + 9})
    await told("breaches.open", status=404, body={**early, "tenant": "nobody"})
    opened = await told("breaches.open", who="bina", body={**early, "tenant": house})
    pseudonym = town.desk.tenant(house)[1]
    assert (opened["state"], opened["scope"]) == ("open", {"tenant": pseudonym})
    assert opened["deadlines"]["commissioner"] == now - 1 + 72 * 3_600_000
    id_ = opened["id"]
    noted = {"told": "commissioner", "at": now}
    assert await told("breaches.notified", who="bina", breach=id_, body=noted) == {"id": id_, **noted}
    assert await told("breaches.close", who="bina", breach=id_) == {"id": id_, "closed": True}
    await told("breaches.close", status=404, breach=id_)
    acts = [entry for entry in town.entries("operator.action/v1") if entry["subject"] == id_]
    bina = town.administering._credentials.actor(town.secrets["bina"]).pseudonym
    said = [(entry["action"], entry["operator"]) for entry in acts]
    assert said == [(f"breach.{act}", bina) for act in ("open", "notified", "close")]
    fields = ("charter", "operator", "action", "subject", "detail", "approvals")
    steps = [
        Step(f"{n}", acts[n]["type"], {"time": acts[n]["time"], **{name: acts[n][name] for name in fields}})
        for n in range(3)
    ]
    log = publish(town.home, logs.write(steps=[*logs.story(), *steps]))
    assert (await told("breaches.list"))["data"] == [await told("breaches.get", breach=id_)]
    found = await told("breaches.get", breach=id_)
    assert found["deadlines"]["people"] == now + 7 * 86_400_000, "counted from the notice to the Commissioner"
    later = {"deadlines": found["deadlines"], "overdue": found["overdue"]}
    assert found == {**opened, "state": "closed", "told": {"commissioner": now}, **later}
    notice = await told("breaches.notice", breach=id_)
    assert notice["evidence"][logs.ORIGIN]["size"] == len(log.entries)
    await told("breaches.notice", status=404, breach="breach_0")
    assert await told("usage.rebuild") == {"entries": len(log.entries)}


async def keys(told: Told) -> None:
    holder = told.town.ids["user-of-other-agency"]
    made = await told(
        "keys.create", body={"person": holder, "label": "laptop", "models": ["m"], "networks": ["10.0.0.0/8"]}
    )
    assert made["networks"] == ["10.0.0.0/8"]
    wrong = await told("keys.create", status=400, body={"person": holder, "networks": ["10.0.0.1/8"]})
    assert "192.0.2.0/24" in wrong["error"]["message"]
    assert made["api_key"].startswith("sk-")
    shown = await told("keys.get", key=made["id"])
    assert shown == {name: value for name, value in made.items() if name != "api_key"}
    assert shown in (await told("keys.list", query=f"?person={holder}"))["data"]
    assert (await told("keys.revoke", key=made["id"]))["revoked"] == told.town.clock.now_ms()
    made = await told("admin_keys.create", body={"person": told.town.ids["tenant-admin-of-other-agency"], "label": "x"})
    assert made["admin_key"].startswith("ak-")
    assert (await told("admin_keys.list"))["data"][-1]["label"] == "x"
    assert (await told("admin_keys.revoke", admin_key=made["id"]))["revoked"]
    house = told.town.ids["other-agency"]
    made = await told("directories.create", body={"tenant": house, "label": "keycloak", "person_days": 30})
    assert made["directory_token"].startswith("dt-")
    shown = {name: value for name, value in made.items() if name != "directory_token"}
    assert shown in (await told("directories.list", query=f"?tenant={house}"))["data"]
    assert (await told("directories.revoke", directory=made["id"]))["revoked"]
    made = await told("auditors.create", body={"name": "the-press"})
    assert made["auditor_token"].startswith("at-")
    assert (await told("auditors.list"))["data"][-1]["id"] == made["id"]
    assert (await told("auditors.revoke", auditor=made["id"]))["revoked"]


async def limits(told: Told) -> None:
    tenant = told.town.ids["other-agency"]
    set_ = await told(
        "limits.put", scope="tenant", name=tenant, body={"tokens_per_day": 500, "budget": "12.50", "weight": 2}
    )
    assert (set_["id"], set_["tokens_per_day"], set_["budget"], set_["requests_per_day"]) == (
        tenant,
        500,
        "12.50",
        None,
    )
    assert await told("limits.put", scope="tenant", name=tenant, body={"weight": 3}) == {**set_, "weight": 3}
    assert [row["id"] for row in (await told("limits.list"))["data"]] == [tenant]
    assert (await told("limits.remove", scope="tenant", name=tenant))["removed"]
    await told("limits.put", scope="person", name=tenant, body={"weight": 3}, status=400)
    await told("limits.put", scope="key", name="nobody", body={"streams": 3}, status=404)
    holder = told.town.ids["user-of-other-agency"]
    made = await told("keys.create", body={"person": holder, "limits": {"tokens_per_minute": 9}})
    assert [(row["id"], row["tokens_per_minute"]) for row in (await told("limits.list"))["data"]] == [(made["id"], 9)]
    for who in ("first-operator", "tenant-admin-of-other-agency"):
        assert (await told("usage", who=who, query="?by=day,model&since=2026-01-01"))["data"] == []
        await told("usage", who=who, query="?by=person", status=400)
        await told("usage", who=who, query="?since=yesterday", status=400)
    assert (await told("usage.focus"))["data"] == []


async def machine(told: Told) -> None:
    assert (await told("status"))["lease"]["seconds_left"] == 299
    wish = {"model": MODEL, "slots": 2, "options": {"environment": {"X": "secret"}}}
    made = await told("deployments.put", name="chat", body=wish)
    assert (made["generation"], made["spec"]["slots"], "secret" in str(made)) == (1, 2, False)
    assert (await told("deployments.get", name="chat"))["id"] == made["id"]
    changed = await told(
        "deployments.put", name="chat", body={"model": MODEL, "replicas": 1, "slots": 3}, h_if_match=told.etag
    )
    assert (changed["generation"], changed["spec"]["slots"]) == (2, 3)
    assert [row["name"] for row in (await told("deployments.list"))["data"]] == ["chat"]
    fleet = told.town.fleet
    fleet.replicas.start()
    await fleet.until(lambda: fleet.rows("chat"))
    (row,) = (await told("replicas.list"))["data"]
    (fleet.home.path / "replicas" / f"{row['id']}.log").write_text("one\ntwo\n")
    assert (await told("replicas.log", replica=row["id"], query="?lines=1"))["lines"] == ["two"]
    assert (await told("replicas.drain", replica=row["id"]))["draining"] is True
    assert (await told("deployments.stop", name="chat")) == {"name": "chat", "stopped": True}


async def consent(told: Told) -> None:
    assert [row["name"] for row in (await told("operators.list"))["data"]] == ["first-operator", "bina", "chong"]
    arguments = {"name": "chong", "reason": "has left"}
    drafted = await told("proposals.draft", body={"action": "operator.revoke", "arguments": arguments})
    signed = {**drafted, **told.town.signed("proposal", drafted, "ali")}
    done = await told("proposals.create", body=signed)
    assert done["state"] == "done", "nobody else has to agree here"
    assert (await told("proposals.get", proposal=done["proposal"]))["payload"] == drafted["payload"]
    assert [row["proposal"] for row in (await told("proposals.list"))["data"]] == [done["proposal"]]
    elsewhere = {"proposals.approve", *(id_ for id_ in BY_ID if id_.startswith("glass."))}
    told.seen.update(elsewhere)  # below, where others have to


def test_where_others_have_to_agree_they_do_it_with_their_own_keys(tmp_path: Path) -> None:
    async def use(told: Told) -> None:
        arguments = {"name": "chong", "reason": "has left"}
        few = await told("proposals.draft", status=409, body={"action": "operator.revoke", "arguments": arguments})
        assert "by fewer than 3" in few["error"]["message"]
        new = {"name": "devi", "citizenship": "MY", "assurance": "high", "days": 9, "vkey": told.town.keys["bina"].vkey}
        await told("proposals.draft", status=409, body={"action": "operator.add", "arguments": new})
        new["vkey"] = Signer("devi", bytes([9] * 32)).vkey
        drafted = await told("proposals.draft", body={"action": "operator.add", "arguments": new})
        proposed = await told("proposals.create", body={**drafted, **told.town.signed("proposal", drafted, "ali")})
        id_ = proposed["proposal"]
        assert (proposed["state"], proposed["needed"]) == ("open", 2)
        mine = told.town.signed("approval", drafted, "ali")
        theirs = told.town.signed("approval", drafted, "bina")
        assert "others have to agree" in str(await told("proposals.approve", proposal=id_, status=403, body=mine))
        assert "not yours" in str(await told("proposals.approve", proposal=id_, status=403, body=theirs))
        assert (await told("proposals.approve", who="bina", proposal=id_, body=theirs))["state"] == "open"
        last = told.town.signed("approval", drafted, "chong")
        done = await told("proposals.approve", who="chong", proposal=id_, body=last)
        assert (done["state"], done["approved_by"]) == ("done", ["bina", "chong"])
        assert [entry["type"] for entry in told.town.log][-2:] == ["operator.action/v2", "key/v1"]

    within(tmp_path, use, approvals=2)


def test_glass_is_broken_by_one_and_reviewed_by_two_others(tmp_path: Path) -> None:
    async def use(told: Told) -> None:
        town = told.town
        why = {"cause": "security", "words": "a rule lets strangers in"}
        wish = {"action": "policy.change", "arguments": {"digest": load(town.home.policies).version}, **why}
        drafted = await told("glass.draft", body=wish)
        made = Proposed(*(drafted[name] for name in ("origin", "proposal", "action", "prior")),
                        hashlib.sha256(drafted["payload"].encode()).hexdigest(), drafted["expires"])  # fmt: skip
        broken = Broken(made, drafted["cause"], reason(drafted["words"], drafted["nonce"]))

        def signed(who: str, data: bytes) -> dict[str, str]:
            key = town.keys[who]
            return {"vkey": key.vkey, "signature": base64.b64encode(key.sign_bytes(data)).decode()}

        mine = signed("ali", broken.statement())
        await told("glass.break", who="bina", status=403, body={**drafted, **mine})
        await told("glass.break", status=403, body={**drafted, **mine, "words": "another reason"})
        done = await told("glass.break", body={**drafted, **mine})
        assert (done["done"], done["state"], done["by"]) == (True, "open", "first-operator")
        assert [row["words"] for row in (await told("glass.list"))["data"]] == [why["words"]]
        id_ = done["proposal"]
        own = {"verdict": "justified", **signed("ali", broken.review("justified"))}
        await told("glass.review", proposal=id_, status=403, body=own)
        for who, verdict, state in (("bina", "justified", "open"), ("chong", "not-justified", "closed")):
            body = {"verdict": verdict, **signed(who, broken.review(verdict))}
            assert (await told("glass.review", who=who, proposal=id_, body=body))["state"] == state
        assert len((await told("glass.get", proposal=id_))["reviews"]) == 2
        assert {id_ for id_ in BY_ID if id_.startswith("glass.")} <= told.seen

    within(tmp_path, use, approvals=2)


def test_a_creation_with_an_idempotency_key_happens_once(tmp_path: Path) -> None:
    async def use(told: Told) -> None:
        body = {"person": told.town.ids["user-of-first-agency"], "label": "laptop"}
        first = await told("keys.create", body=body, h_idempotency_key="one")
        assert await told("keys.create", body=body, h_idempotency_key="one") == first
        before = len(told.town.rows.rows("keys"))
        both = await asyncio.gather(*(told("keys.create", body=body, h_idempotency_key="two") for _ in range(4)))
        assert all(each == both[0] for each in both)
        assert len(told.town.rows.rows("keys")) == before + 1
        other = {**body, "label": "another"}
        said = await told("keys.create", body=other, h_idempotency_key="one", status=422)
        assert said["error"]["code"] == "idempotency_key_reused"
        await told("keys.create", who="tenant-admin-of-first-agency", body=other, h_idempotency_key="one")
        await told("keys.create", body=body, h_idempotency_key="x" * 101, status=400)
        wrong = {**body, "person": told.town.ids["bina"]}
        await told("keys.create", body=wrong, h_idempotency_key="three", status=409)
        await told("keys.create", body=body, h_idempotency_key="three"), "what was refused uses up no key"
        told.town.administering._once._answers.clear()  # as after a restart
        said = await told("keys.create", body=body, h_idempotency_key="one", status=409)
        assert "its answer is not kept" in said["error"]["message"]
        assert first["api_key"] not in str(said)
        stored = str([told.town.rows.rows(table) for table in ("keys", "idempotency")])
        assert first["api_key"] not in stored

    within(tmp_path, use)


def test_what_exists_is_changed_only_by_who_has_seen_it(tmp_path: Path) -> None:
    async def use(told: Told) -> None:
        person = told.town.ids["user-of-first-agency"]
        said = await told("people.change", person=person, body={"days": 5}, status=428)
        assert said["error"]["code"] == "precondition_required"
        await told("people.get", person=person)
        seen = told.etag
        for old in ('"x.1"', f"W/{seen}", "x"):
            assert (await told("people.change", person=person, body={"days": 5}, h_if_match=old, status=412))["error"]
        await told("people.change", person=person, body={"days": 5}, h_if_match=seen)
        await told("people.change", person=person, body={"days": 6}, h_if_match=seen, status=412)
        await told("people.change", person=person, body={"days": 6}, h_if_match="*")
        await told("people.change", person=person, body={}, h_if_match="*", status=400)
        await told("deployments.put", name="chat", body={"model": MODEL}, h_if_match="*", status=412)
        await told("deployments.put", name="chat", body={"model": MODEL})
        await told("deployments.put", name="chat", body={"model": MODEL}, status=428)

    within(tmp_path, use)


def test_lists_come_in_parts(tmp_path: Path) -> None:
    async def use(told: Told) -> None:
        whole = (await told("people.list", query="?limit=100"))["data"]
        taken: list[Any] = []
        after = ""
        while True:
            part = await told("people.list", query=f"?limit=2&after={after}" if after else "?limit=2")
            taken += part["data"]
            after = part["last_id"]
            if not part["has_more"]:
                break
        assert taken == whole
        empty = await told("proposals.list")
        assert empty == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
        for wrong in ("?limit=0", "?limit=101", "?limit=x", "?after=nobody", "?more=1", "?limit=1&limit=2"):
            assert (await told("people.list", query=wrong, status=400))["error"]["type"] == "invalid_request_error"

    within(tmp_path, use)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"name": "x"}, None),
        ({"tenant": 1, "name": "x"}, "tenant"),
        ({"tenant": "t", "name": ""}, "name"),
        ({"tenant": "t", "name": "x", "days": 0}, "days"),
        ({"tenant": "t", "name": "x", "citizenship": "my"}, "citizenship"),
        ({"tenant": "t", "name": "x", "roles": ["operator"]}, "roles[0]"),
        ({"tenant": "t", "name": "x", "id": "person_1"}, None),
        ([], None),
        ("x", None),
    ],
)
def test_a_malformed_request_is_told_which_field(tmp_path: Path, body: Any, param: str | None) -> None:
    async def use(told: Told) -> None:
        said = (await told("people.create", body=body, status=400))["error"]
        assert (said["code"], said["param"]) == ("invalid_request", param)
        assert said["message"]

    within(tmp_path, use)
