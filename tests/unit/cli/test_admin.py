"""`daulat key|person|tenant|auditor` against the real desk: outputs, JSON, refusals, and what the log is told."""

from __future__ import annotations

import hashlib
import json
import sqlite3

import pytest
from tests.support.verbs import FakeControl, Shell


def test_a_tenant_a_person_and_a_key_from_nothing(run: Shell, control: FakeControl) -> None:
    made = run("tenant", "add", "ministry")
    assert made.code == 0
    assert "daulat person add NAME --tenant ministry" in made.out
    told = run("person", "add", "aminah", "--tenant", "ministry", "--citizenship", "MY", "--assurance", "substantial")
    assert "daulat key create --person aminah" in told.out
    key = run(
        "key",
        "create",
        "--person",
        "aminah",
        "--label",
        "laptop",
        "--model",
        "a",
        "--model",
        "b",
        "--rpm",
        60,
        "--json",
    )
    assert set(key.value) == {"id", "label", "expires", "api_key"}
    secret = key.value["api_key"]
    assert secret.startswith("sk-")
    assert len(secret) >= 46, "256 bits in base64url"
    (listed,) = [row for row in run("key", "list", "--json").value if row["label"] == "laptop"]
    assert listed["person_name"] == "aminah"
    assert (listed["models"], listed["requests_per_minute"], listed["revoked"]) == (["a", "b"], 60, None)
    assert secret not in json.dumps(listed)
    assert "digest" not in listed


def test_only_a_hash_of_a_secret_is_stored(run: Shell, control: FakeControl) -> None:
    key = run("key", "create", "--person", "first-person", "--json").value["api_key"]
    token = run("auditor", "create", "national-audit", "--json").value["auditor_token"]
    with sqlite3.connect(run.home.control_db) as database:
        dump = "\n".join(database.iterdump())
    database.close()
    for secret in (key, token):
        assert secret not in dump
        assert hashlib.sha256(secret.encode()).hexdigest() in dump


def test_tables_for_people_name_people(run: Shell, control: FakeControl) -> None:
    keys = run("key", "list").out.splitlines()
    assert keys[0].split()[:3] == ["id", "label", "person"]
    assert keys[1].split()[1:3] == ["first-key", "first-person"]
    people = run("person", "list").out
    assert "first-agency" in people
    assert "operators" in people
    assert "first-auditor" in run("auditor", "list").out
    assert "first-agency" in run("tenant", "list").out


def test_revoking_is_shown_and_happens_once(run: Shell, control: FakeControl) -> None:
    run("key", "create", "--person", "first-person", "--label", "laptop")
    assert "is revoked" in run("key", "revoke", "laptop").out
    again = run("key", "revoke", "laptop", "--json")
    assert (again.code, again.value["error"]["code"]) == (1, "conflict")
    assert run("auditor", "revoke", "first-auditor", "--json").value["revoked"] is True
    assert all(row["revoked"] for row in run("auditor", "list", "--json").value)


def test_every_act_leaves_an_entry_without_names_or_secrets(run: Shell, control: FakeControl) -> None:
    run("tenant", "add", "ministry")
    run("person", "add", "aminah", "--tenant", "ministry")
    secret = run("key", "create", "--person", "aminah", "--json").value["api_key"]
    run("key", "revoke", "key")
    acts = [fields["action"] for _, fields in control.entries]
    assert acts[-4:] == ["tenant.add", "person.add", "key.create", "key.revoke"]
    text = json.dumps(control.entries)
    assert all(name not in text for name in ("aminah", "ministry", secret))


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["key", "create", "--person", "nobody"], "not_found", "no person 'nobody'"),
        (["key", "create", "--person", "first-operator"], "conflict", "add a person to another tenant"),
        (["key", "create", "--person", "first-person", "--days", "0"], "invalid_request", "1 to 36500"),
        (["key", "create", "--person", "first-person", "--rpm", "-1"], "invalid_request", "0 means unlimited"),
        (["key", "create", "--person", "first-person", "--label", ""], None, ""),
        (["key", "revoke", "nothing"], "not_found", "`list`"),
        (["person", "add", "x", "--tenant", "nowhere"], "not_found", "no tenant 'nowhere'"),
        (["person", "add", "x", "--tenant", "first-agency", "--assurance", "sure"], "invalid_request", "substantial"),
        (["person", "add", "x", "--tenant", "first-agency", "--citizenship", "Malaysia"], "invalid_request", "MY"),
        (["person", "add", "x", "--tenant", "first-agency", "--role", "operator"], "invalid_request", "may be user"),
        (["person", "add", "first-person", "--tenant", "first-agency"], "conflict", "exists already"),
        (["tenant", "add", "first-agency"], "conflict", "exists already"),
        (["tenant", "add", "a\nb"], "invalid_request", "printable"),
        (["auditor", "revoke", "nobody"], "not_found", "no auditor"),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_says_what_can(
    run: Shell, control: FakeControl, arguments: list[str], code: str | None, said: str
) -> None:
    done = run(*arguments, "--json")
    if code is None:
        assert done.code == 0
        return
    assert (done.code, done.value["error"]["code"]) == (1, code)
    assert said in done.value["error"]["message"]


@pytest.mark.parametrize(
    "arguments", [["key", "list"], ["tenant", "add", "x"], ["auditor", "create", "x"], ["person", "list"]]
)
def test_without_a_service_they_say_how_to_start_one(run: Shell, arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.code == 1
    assert f"no service answers in {run.home.path}" in done.err
    assert "daulat up" in done.err
