"""Everybody who may not, at every address of the admin API, with every id there is; and what the log says of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.town import MODEL, Town

from daulat.core.consent import ALONE
from daulat.gateway.admin.table import OPERATIONS, ROOT, Operation
from daulat.tlog.note import Signer

OURS, THEIRS = "tenant-admin-of-first-agency", "tenant-admin-of-other-agency"
OUTSIDERS = ("key-of-user-of-first-agency", "key-of-tenant-admin-of-first-agency", "auditor")
ABSENT = "person_000000000000000000000000"


def within(tmp_path: Path, use: Callable[[Town], Awaitable[None]], *, approvals: int = 2) -> None:
    async def main() -> None:
        async with Town(tmp_path / "home", approvals=approvals) as town:
            await use(town)

    asyncio.run(main())


def everything(town: Town) -> str:
    """What is in the control database, but for what requests leave behind that were refused."""
    tables = (
        "tenants",
        "people",
        "keys",
        "admin_keys",
        "directories",
        "auditors",
        "deployments",
        "operator_keys",
        "proposals",
        "approvals",
        "identities",
        "invitations",
        "sessions",
    )
    return json.dumps({table: town.rows.rows(table) for table in tables}, sort_keys=True)


def body_for(town: Town, operation: Operation, **named: str) -> Any:
    """A body that would do for somebody who may."""
    ids = {"tenant": town.ids["first-agency"], "person": town.ids["user-of-first-agency"], **named}
    drafted = {
        "origin": "o",
        "proposal": "p",
        "action": "operator.add",
        "prior": "0" * 64,
        "payload": "x",
        "expires": 1,
    }
    signature = {"vkey": town.keys["ali"].vkey, "signature": "AA=="}
    return {
        "tenants.create": {"name": "new"},
        "people.create": {"tenant": ids["tenant"], "name": "new"},
        "people.change": {"days": 7},
        "people.correct": {"name": "another"},
        "people.invite": {"days": 3},
        "vault.rotate": {},
        "breaches.open": {"learned": 3, "begins": 1, "ends": 2},
        "breaches.notified": {"told": "people", "at": 4},
        "keys.create": {"person": ids["person"]},
        "admin_keys.create": {"person": ids["person"]},
        "directories.create": {"tenant": ids["tenant"]},
        "auditors.create": {"name": "new"},
        "limits.put": {"tokens_per_minute": 5},
        "deployments.put": {"model": MODEL},
        "proposals.draft": {"action": "operator.revoke", "arguments": {"name": "bina", "reason": "x"}},
        "proposals.create": {**drafted, **signature},
        "proposals.approve": signature,
        "glass.draft": {"action": "policy.change", "arguments": {"digest": "0" * 64}, "cause": "outage", "words": "x"},
        "glass.break": {**drafted, **signature, "cause": "outage", "words": "x", "nonce": "0" * 32},
        "glass.review": {**signature, "verdict": "justified"},
    }.get(operation.id)


def path_of(operation: Operation, id_: str) -> str:
    """Its address with that id in it, wherever one belongs."""
    path = operation.path.removeprefix(f"{ROOT}/")
    return "/".join(id_ if part.startswith("{") else part for part in path.split("/"))


async def ask(town: Town, who: str, operation: Operation, id_: str = ABSENT, body: Any = None) -> Any:
    return await town.ask(who, operation.method, path_of(operation, id_), body, if_match="*")


def test_whoever_has_no_role_for_it_is_refused_and_stands_in_the_log(tmp_path: Path) -> None:
    async def use(town: Town) -> None:
        before, id_ = everything(town), town.ids["user-of-first-agency"]
        for operation in OPERATIONS:
            town.clock.pass_seconds(1)
            for who in OUTSIDERS if "tenant-admin" in operation.roles else (*OUTSIDERS, OURS):
                known = len(town.log)
                answer = await ask(town, who, operation, id_, body_for(town, operation))
                assert answer.status_code == 403, (who, answer.text)
                assert answer.json()["error"]["code"] == "permission_denied"
                (entry,) = town.log[known:]
                said = (entry["type"], entry["action"], entry["code"])
                assert said == ("access.refused/v1", operation.id, "permission_denied")
                words = {*town.ids.values(), *(name for name in town.ids if "-of-" in name)}
                assert not any(word in json.dumps(entry) for word in words), "pseudonyms alone"
        assert everything(town) == before

    within(tmp_path, use)


def test_whoever_is_not_known_is_told_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    async def use(town: Town) -> None:
        for path in (f"admin-keys/{town.ids['admin-key-of-chong']}", f"people/{town.ids[THEIRS]}"):
            assert (await town.ask("first-operator", "DELETE", path)).status_code == 200
        town.secrets["wrong"] = town.secrets["first-operator"][:-1]
        before, known = everything(town), len(town.log)
        for operation in OPERATIONS:
            for who in ("", "wrong", "chong", THEIRS):
                answer = await ask(town, who, operation, town.ids["user-of-first-agency"], {"not": "sensible"})
                assert answer.status_code == 401, (who, operation.id, answer.text)
                assert answer.headers["www-authenticate"].startswith("Bearer")
        assert (everything(town), len(town.log)) == (before, known)

    within(tmp_path, use)


def test_another_tenants_ids_are_answered_as_those_that_do_not_exist(tmp_path: Path) -> None:
    async def use(town: Town) -> None:
        before, office = everything(town), town.administering._office
        actor = town.administering._credentials.actor(town.secrets[THEIRS])
        tables = ("tenants", "people", "keys", "admin_keys", "sessions", "identities")
        foreign = set(town.ids.values()) - {row["id"] for table in tables for row in office.visible(actor, table)}
        assert len(foreign) > 12
        for operation in (one for one in OPERATIONS if "{" in one.path):
            body = body_for(town, operation)
            absent = await ask(town, THEIRS, operation, ABSENT, body)
            assert absent.status_code == (404 if "tenant-admin" in operation.roles else 403), operation.id
            for id_ in sorted(foreign):
                town.clock.pass_seconds(1)
                known = len(town.log)
                answer = await ask(town, THEIRS, operation, id_, body)
                same = (answer.status_code, answer.content, sorted(answer.headers.items()))
                assert same == (absent.status_code, absent.content, sorted(absent.headers.items())), (operation.id, id_)
                assert len(town.log) == known + 1, "each leaves an entry"
        assert everything(town) == before

    within(tmp_path, use)


def test_ids_of_another_tenant_in_bodies_and_queries_do_not_exist_either(tmp_path: Path) -> None:
    async def use(town: Town) -> None:
        before = everything(town)
        for house in ("first-agency", "operators"):
            answer = await town.ask(THEIRS, "POST", "people", {"tenant": town.ids[house], "name": "x"})
            assert answer.status_code == 404
            assert (await town.ask(THEIRS, "GET", f"people?tenant={town.ids[house]}")).status_code == 404
        for person in ("user-of-first-agency", OURS, "first-operator", "bina"):
            for path in ("sessions", "identities"):
                assert (await town.ask(THEIRS, "GET", f"{path}?person={town.ids[person]}")).status_code == 404
            for path in ("keys", "admin-keys"):
                assert (await town.ask(THEIRS, "POST", path, {"person": town.ids[person]})).status_code == 404
                assert (await town.ask(THEIRS, "GET", f"{path}?person={town.ids[person]}")).status_code == 404
            answer = await town.ask(THEIRS, "GET", f"people?after={town.ids[person]}")
            assert answer.status_code == 400, "a cursor is looked for in one's own list"
        assert everything(town) == before

    within(tmp_path, use)


def test_lists_of_a_tenants_administrator_hold_their_own_tenant_alone(tmp_path: Path) -> None:
    async def use(town: Town) -> None:
        for path in ("tenants", "people", "keys", "admin-keys", "sessions", "identities"):
            answer = await town.ask(THEIRS, "GET", f"{path}?limit=100")
            assert answer.json()["data"], path
            for name, id_ in town.ids.items():
                if "other-agency" not in name:
                    assert id_ not in answer.text, (path, name)

    within(tmp_path, use)


@pytest.mark.parametrize("more", [{"roles": ["tenant-admin"]}, {"citizenship": "MY"}, {"assurance": "high"}])
def test_a_tenants_administrator_vouches_for_nobody(tmp_path: Path, more: dict[str, Any]) -> None:
    async def use(town: Town) -> None:
        body = {"tenant": town.ids["first-agency"], "name": "new"}
        assert (await town.ask(OURS, "POST", "people", {**body, **more})).status_code == 403
        made = (await town.ask(OURS, "POST", "people", body)).json()
        assert (made["citizenship"], made["assurance"], made["roles"]) == ("", "low", ["user"])
        assert (await town.ask(OURS, "PATCH", f"people/{made['id']}", more, if_match="*")).status_code == 403
        ended = await town.ask(OURS, "DELETE", f"people/{town.ids[OURS]}")
        assert ended.status_code == 403, "nor do they send another administrator away"
        other = await town.ask(OURS, "POST", "admin-keys", {"person": made["id"]})
        assert other.status_code == 403

    within(tmp_path, use)


def test_one_operator_alone_changes_nothing_that_others_must_agree_to(tmp_path: Path) -> None:
    """Every act there is, done by one of three operators under a charter that asks for two others."""

    async def use(town: Town) -> None:
        operators = [row for row in town.rows.rows("people") if row["roles"] == ["operator"]]
        keys, known = town.rows.rows("operator_keys"), len(town.log)
        aims = ("first-operator", "bina", "chong", OURS, "admin-key-of-chong", "operators")
        for operation in OPERATIONS:
            if operation.changes:
                for id_ in (town.ids[name] for name in aims):
                    named = {"tenant": town.ids["operators"], "person": id_}
                    for body in (body_for(town, operation), body_for(town, operation, **named)):
                        answer = await ask(town, "bina", operation, id_, body)
                        assert answer.status_code < 500, answer.text
                        if body is None:
                            break
        assert [row for row in town.rows.rows("people") if "operator" in row["roles"]] == operators
        assert town.rows.rows("operator_keys") == keys
        holders = {row["person"] for row in town.rows.rows("admin_keys") if row["name"] == "admin key"}
        theirs = {row["id"] for row in operators} - {town.ids["bina"]}
        assert not holders & theirs, "no credential in another operator's name"
        assert not town.rows.rows("proposals")
        assert {entry["action"] for entry in town.entries("operator.action/v1")} <= ALONE
        assert not town.entries("operator.action/v2")
        acts = [entry for entry in town.log[known:] if entry["type"] == "operator.action/v1"]
        acting = {entry["operator"] for entry in acts}
        assert acting == {town.administering._credentials.of(town.rows.find("people", "bina"), 2**60).pseudonym}

    within(tmp_path, use)


def test_a_signature_is_good_for_its_own_bytes_and_its_own_operator(tmp_path: Path) -> None:
    async def use(town: Town) -> None:
        vkey = Signer("devi", bytes([9] * 32)).vkey
        arguments = {"name": "devi", "citizenship": "MY", "assurance": "high", "days": 9, "vkey": vkey}
        draft = {"action": "operator.add", "arguments": arguments}
        drafted = (await town.ask("first-operator", "POST", "proposals/draft", draft)).json()
        other = (await town.ask("first-operator", "POST", "proposals/draft", {**draft, "days": 8})).json()
        signed = town.signed("proposal", drafted, "ali")
        for name, value in other.items():
            if value != drafted[name]:
                answer = await town.ask("first-operator", "POST", "proposals", {**drafted, **signed, name: value})
                assert answer.status_code == 403, name
        answer = await town.ask("bina", "POST", "proposals", {**drafted, **signed})
        assert answer.status_code == 403, "brought by another"
        assert (await town.ask("first-operator", "POST", "proposals", {**drafted, **signed})).status_code == 201
        again = await town.ask("first-operator", "POST", "proposals", {**drafted, **signed})
        assert again.status_code == 409
        path = f"proposals/{drafted['proposal']}/approvals"
        replayed = await town.ask("bina", "POST", path, town.signed("proposal", drafted, "bina"))
        assert replayed.status_code == 403, "a proposal's signature is no approval"
        for_another = await town.ask("bina", "POST", path, town.signed("approval", other, "bina"))
        assert for_another.status_code == 403
        assert len(town.entries("approval/v1")) == 0

    within(tmp_path, use)


FORBIDDEN = ("id", "digest", "revoked", "epoch_key", "version", "operator", "expires_at", "object", "__proto__")


def test_fields_that_are_not_for_clients_to_set_are_refused(tmp_path: Path) -> None:
    async def use(town: Town) -> None:
        before, id_ = everything(town), town.ids["user-of-first-agency"]
        for operation in OPERATIONS:
            for field in FORBIDDEN:
                body = {**(body_for(town, operation) or {}), field: "x"}
                answer = await ask(town, "first-operator", operation, id_, body)
                assert answer.status_code == 400, (operation.id, field, answer.text)
                assert operation.body is None or field in answer.text
            answer = await town.ask("first-operator", operation.method, f"{path_of(operation, id_)}?person_id={id_}")
            assert answer.status_code == 400, (operation.id, answer.text)
        assert everything(town) == before

    within(tmp_path, use)


def test_secrets_of_files_and_engines_stay_at_the_machine(tmp_path: Path) -> None:
    async def use(town: Town) -> None:
        wish = {"model": MODEL, "options": {"api_key_file": "/etc/shadow"}}
        answer = await town.ask("first-operator", "PUT", "deployments/chat", wish)
        assert answer.status_code == 403
        assert not town.rows.rows("deployments")

    within(tmp_path, use)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"citizenship": "SG"}, "citizens of MY"),
        ({"citizenship": ""}, "citizens of MY"),
        ({"assurance": "low"}, "vouched at substantial"),
        ({"roles": ["user"]}, "neither an operator nor an administrator"),
    ],
)
def test_a_right_that_has_ended_ends_the_credential(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    async def use(town: Town) -> None:
        assert (await town.ask(THEIRS, "GET", "people")).status_code == 200
        changed = await town.ask("bina", "PATCH", f"people/{town.ids[THEIRS]}", change, if_match="*")
        assert changed.status_code == 200
        answer = await town.ask(THEIRS, "GET", "people")
        assert (answer.status_code, words in answer.text) == (403, True), answer.text

    within(tmp_path, use)


def test_a_citizenship_that_has_expired_or_that_nobody_who_counts_says_manages_nothing(tmp_path: Path) -> None:
    async def use(town: Town) -> None:
        for person, values, words in (
            (THEIRS, {"until": town.clock.now_ms()}, "a date that has passed"),
            ("bina", {"until": town.clock.now_ms() - 1}, "a date that has passed"),
            (OURS, {"issuer": "https://id.example"}, "does not count"),
        ):
            town.rows.change("people", town.ids[person], **values)
            answer = await town.ask(person, "GET", "me")
            assert (answer.status_code, words in answer.text) == (403, True), (person, answer.text)

    within(tmp_path, use)


def test_an_operator_whose_key_the_others_have_revoked_manages_nothing_more(tmp_path: Path) -> None:
    async def use(town: Town) -> None:
        town.rows.revoke("operator_keys", "operatorkey_chong", town.clock.now_ms())
        answer = await town.ask("chong", "GET", "status")
        assert answer.status_code == 403
        assert "no key that the other operators have agreed to" in answer.text

    within(tmp_path, use)


def test_a_name_that_looks_like_an_id_is_no_id(tmp_path: Path) -> None:
    async def use(town: Town) -> None:
        victim = town.ids["user-of-first-agency"]
        for name in (victim, town.ids[OURS], town.ids["first-operator"]):
            made = await town.ask(THEIRS, "POST", "people", {"tenant": town.ids["other-agency"], "name": name})
            assert made.status_code == 201
        assert (await town.ask(OURS, "POST", "keys", {"person": victim})).json()["person"] == victim
        for who in (OURS, "first-operator"):
            assert (await town.ask(who, "GET", "me")).json()["person"] == town.ids[who]

    within(tmp_path, use)


def test_nobody_fills_the_log_with_refusals(tmp_path: Path) -> None:
    async def use(town: Town) -> None:
        for _ in range(30):
            assert (await town.ask(THEIRS, "GET", "status")).status_code == 403
        assert len(town.entries("access.refused/v1")) == 10

    within(tmp_path, use)
