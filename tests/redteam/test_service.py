"""Attacks on a whole running service: other tenants' answers, the wrong credential, a projection that was changed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from tests.redteam.table import VAULT
from tests.support.besieged import CHAT, Besieged, besieged

from daulat.adapters.log_files import current_period
from daulat.pipeline.actions import NEEDS, PATHS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Besieged]:
    with besieged(tmp_path_factory.mktemp("redteam")) as running:
        yield running


def test_nobody_gets_another_ones_receipt_or_salts_and_cannot_tell_that_it_exists(service: Besieged) -> None:
    absent = service.ask("theirs", "GET", f"/v1/receipts/req_{'0' * 32}")
    known = len([entry for entry in service.entries("access.refused/v1") if entry["action"] == "receipt"])
    others = ("theirs", "colleague", "boss")
    for who in others:
        answer = service.ask(who, "GET", f"/v1/receipts/{service.asked['ours']}")
        assert (answer.status_code, answer.content) == (404, absent.content), who
    refused = service.refusals("receipt", known + len(others))
    assert {entry["code"] for entry in refused} == {"not_found"}
    assert len({entry["principal"] for entry in refused}) == len(others)
    for who in ("auditor", "admin-first-operator", "admin-boss", "revoked", ""):
        answer = service.ask(who, "GET", f"/v1/receipts/{service.asked['ours']}")
        assert answer.status_code == 401, who
        assert "salt" not in answer.text


@pytest.mark.parametrize("action", PATHS)
@pytest.mark.parametrize("who", ["auditor", "admin-first-operator", "admin-boss", "revoked", ""])
def test_what_manages_or_audits_asks_no_model(service: Besieged, who: str, action: str) -> None:
    answer = service.ask(who, "POST", PATHS[action], {"model": "stub", NEEDS[action]: "x"})
    assert answer.status_code == 401, answer.text


@pytest.mark.parametrize("who", ["resident", "boss"])
def test_who_may_not_use_is_refused_and_stands_in_the_log(service: Besieged, who: str) -> None:
    answer = service.ask(who, "POST", PATHS["chat.completions"], CHAT)
    assert (answer.status_code, answer.json()["error"]["type"]) == (403, "permission_error")
    id_ = answer.headers["x-request-id"]
    entry = service.wait(lambda: [e for e in service.entries("inference/v1") if e["admission"]["request_id"] == id_])[0]
    assert (entry["admission"]["effect"], entry["completion"]["outcome"]) == ("deny", "denied")


def test_a_model_that_a_key_is_not_for_does_not_exist_for_it(service: Besieged) -> None:
    assert service.ask("narrow", "GET", "/v1/models").json()["data"] == []
    there = service.ask("narrow", "GET", "/v1/models/stub")
    absent = service.ask("narrow", "GET", "/v1/models/stuc")
    assert there.status_code == absent.status_code == 404
    assert there.text.replace("stub", "stuc") == absent.text
    refused = service.ask("narrow", "POST", PATHS["chat.completions"], CHAT)
    assert refused.status_code in {403, 404}
    for who in ("auditor", "admin-boss", ""):
        for path in ("/v1/models", "/v1/models/stub"):
            assert service.ask(who, "GET", path).status_code == 401


def test_entries_of_the_log_are_for_auditors(service: Besieged) -> None:
    period = current_period(service.running.home.log)
    known = len([entry for entry in service.entries("access.refused/v1") if entry["action"] == "log.entries"])
    paths = [f"/log{shard}/tile/entries/000.p/1" for shard in ("", f"/{period}")]
    for path in paths:
        assert service.ask("auditor", "GET", path).status_code == 200
        for who in ("ours", "boss", "admin-first-operator", "admin-boss", "revoked", ""):
            answer = service.ask(who, "GET", path)
            assert answer.status_code == 401, (who, path)
    entries = service.refusals("log.entries", known + 8)
    assert len(entries) == known + 8, "of the four who are known, twice"


def test_use_is_told_to_an_administrator_of_their_own_tenant_alone(service: Besieged) -> None:
    everybody = service.ask("admin-first-operator", "GET", "/admin/v1/usage?by=tenant,key").json()["data"]
    assert {row["tenant_name"] for row in everybody} == {"first-agency", "other-agency"}
    theirs = [row for row in everybody if row["tenant_name"] == "other-agency"]
    for by in ("tenant,key", "key", "key,tenant"):
        told = service.ask("admin-boss", "GET", f"/admin/v1/usage?by={by}").json()["data"]
        assert sorted(row["key"] for row in told) == sorted(row["key"] for row in theirs)
        assert sum(row["prompt_tokens"] for row in told) == sum(row["prompt_tokens"] for row in theirs) > 0
    for who, status in (("admin-boss", 403), ("boss", 403), ("auditor", 403), ("", 401)):
        assert service.ask(who, "GET", "/admin/v1/usage/focus").status_code == status


def test_the_auditor_manages_nothing(service: Besieged) -> None:
    for method, path in (("GET", "people"), ("GET", "status"), ("POST", "tenants")):
        assert service.ask("auditor", method, f"/admin/v1/{path}").status_code == 403


KEPT = [row.split() for row in VAULT if "{id}" in row]


@pytest.fixture(scope="module")
def kept(service: Besieged) -> dict[str, str]:
    """By the beginning of their addresses: ids of what one user has had kept."""
    service.wait(lambda: service.upload("ours", b"rahsia").status_code == 200)

    def asked() -> httpx.Response | None:
        """What the vault says, once it is seen to be open."""
        answer = service.ask("ours", "POST", PATHS["chat.completions"], {**CHAT, "store": True})
        return None if answer.status_code == 503 else answer

    stored = service.wait(asked)
    assert stored.status_code == 200, stored.text
    lists = {path: service.wait(lambda path=path: service.ask("ours", "GET", path).json()["data"]) for path in LISTS}
    return {path: data[0]["id"] for path, data in lists.items()}


LISTS = ("/v1/files", "/v1/chat/completions")


@pytest.mark.parametrize("who", ["theirs", "colleague", "boss"])
def test_what_is_kept_for_one_does_not_exist_for_another(service: Besieged, kept: dict[str, str], who: str) -> None:
    for begin in LISTS:
        assert service.ask(who, "GET", begin).json()["data"] == [], "not even in a list"
        assert service.ask(who, "GET", f"{begin}?after={kept[begin]}").json().get("data", []) == []
    for method, path in KEPT:
        begin = next(begin for begin in LISTS if path.startswith(begin))
        id_, absent = kept[begin], kept[begin][:-4] + "0000"
        body = {"metadata": {"theirs": "yes"}} if method == "POST" else None
        answer = service.ask(who, method, path.replace("{id}", id_), body)
        other = service.ask(who, method, path.replace("{id}", absent), body)
        refused = {404} if who != "boss" else {403, 404}  # who manages has nothing kept, by the rules
        assert answer.status_code == other.status_code, (method, path)
        assert answer.status_code in refused, (method, path, answer.text)
        assert answer.text.replace(id_, absent) == other.text, (method, path)
    assert service.ask("ours", "GET", f"/v1/files/{kept['/v1/files']}/content").content == b"rahsia"


@pytest.mark.parametrize("who", ["auditor", "admin-first-operator", "admin-boss", "revoked", ""])
def test_what_manages_or_audits_keeps_and_reads_nothing(service: Besieged, kept: dict[str, str], who: str) -> None:
    for row in VAULT:
        method, path = row.split()
        id_ = kept[next(begin for begin in LISTS if path.startswith(begin))]
        answer = service.ask(who, method, path.replace("{id}", id_), {} if method == "POST" else None)
        assert answer.status_code == 401, (row, answer.text)


@pytest.fixture
def index(service: Besieged) -> Iterator[Callable[[str, Any], None]]:
    """Change the index on disk behind everybody's back; it is put right afterwards."""
    path = service.running.home.index_db
    id_ = service.asked["ours"]
    with sqlite3.connect(path) as database:
        (kept,) = database.execute("SELECT origin, position FROM request WHERE id = ?", (id_,)).fetchall()

    def change(column: str, value: Any) -> None:
        with sqlite3.connect(path) as database:
            database.execute(f"UPDATE request SET {column} = ? WHERE id = ?", (value, id_))  # noqa: S608

    yield change
    with sqlite3.connect(path) as database:
        database.execute("UPDATE request SET origin = ?, position = ? WHERE id = ?", (*kept, id_))


def test_an_index_that_was_changed_is_not_believed(service: Besieged, index: Callable[[str, Any], None]) -> None:
    id_ = service.asked["ours"]
    theirs = service.ask("theirs", "GET", f"/v1/receipts/{service.asked['theirs']}").json()
    position = theirs["entries"][0]["index"]
    tampered = [("position", value) for value in (position, 0, -1, 10**15)]
    tampered += [("origin", value) for value in ("x/..", "x/.", "x/nowhere", "../../etc")]
    for column, value in tampered:
        index(column, value)
        for who in ("ours", "theirs"):
            answer = service.ask(who, "GET", f"/v1/receipts/{id_}")
            said = (answer.status_code, answer.json()["error"]["code"])
            assert said in {(404, "receipt_pending"), (503, "index_damaged")}, (column, value)
            assert said[0] == 503 or value == 10**15, "what is beyond the log may be to come"


def test_afterwards_everything_is_as_before(service: Besieged) -> None:
    for who, id_ in service.asked.items():
        assert service.ask(who, "GET", f"/v1/receipts/{id_}").status_code == 200
    assert service.ask("", "GET", "/readyz").status_code == 200
