"""`daulat policy check|test|explain`: the rules before they decide, and what they decided."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support import logs
from tests.support.verbs import Shell, publish, write_file

from daulat.catalog import charters

CLOSED = '@id("own.closed")\n@reason("closed at night")\nforbid (principal is Daulat::Person, action, resource);\n'
CASE = '[[case]]\nname = "nobody"\naction = "completions"\nexpect = "deny"\nrules = ["own.closed"]\n'


def test_check_lists_every_rule_with_its_reason(run: Shell) -> None:
    said = run("policy", "check")
    assert said.code == 0
    assert "use.citizenship" in said.out
    assert "rules in 3 files hold" in said.out
    value = run("policy", "check", "--json").value
    assert set(value) == {"version", "files", "own", "rules"}
    assert all(value["rules"].values()), "every rule has a reason"


def test_own_rules_join_and_a_broken_one_is_named(run: Shell) -> None:
    path = write_file(run.home.policies, "night.cedar", CLOSED)
    value = run("policy", "check", "--json").value
    assert value["own"] == ["night.cedar"]
    assert value["rules"]["own.closed"] == "closed at night"
    path.write_text(CLOSED.replace("principal is Daulat::Person", "principal is Daulat::Stranger"))
    said = run("policy", "check")
    assert said.code == 1
    assert str(path) in said.err
    assert "Stranger" in said.err


def test_the_shipped_cases_hold_and_own_ones_are_asked_with_own_rules(run: Shell, tmp_path: Path) -> None:
    assert run("policy", "test").out.endswith(" cases, 0 wrong.\n")
    write_file(run.home.policies, "night.cedar", CLOSED)
    mine = write_file(tmp_path, "mine.toml", CASE)
    said = run("policy", "test", mine)
    assert said.code == 1, "the shipped case in which a Malaysian may ask is wrong now"
    assert "FAIL  a Malaysian asks, at home" in said.out
    assert "ok    nobody" in said.out
    wrong = {item["case"]: item["wrong"] for item in run("policy", "test", mine, "--json").value}
    assert wrong["nobody"] == ""
    assert "own.closed" in wrong["a Malaysian asks, at home"]


def test_cases_of_the_home_are_asked_too_and_a_malformed_one_is_named(run: Shell) -> None:
    path = write_file(run.home.policies, "cases.toml", CASE)
    said = run("policy", "test")
    assert said.code == 1
    assert "expected deny, the rules say allow by use.permit" in said.out
    path.write_text(CASE.replace('"completions"', '"fly"'))
    assert f"{path}, case 1: unknown action 'fly'" in run("policy", "test").err


@pytest.mark.parametrize(
    ("options", "effect", "rule"),
    [
        ([], "allow", "use.permit"),
        (["--citizenship", "SG"], "deny", "use.citizenship"),
        (["--citizenship", ""], "deny", "use.citizenship"),
        (["--assurance", "low"], "deny", "use.assurance"),
        (["--assurance", "nonsense"], "deny", "use.assurance"),
        (["--role", "tenant-admin"], "deny", "daulat.no_permit"),
        (["--jurisdiction", "SG"], "deny", "place.use.jurisdiction"),
        (["--action", "model.admit", "--licence", "proprietary"], "deny", "models.licence"),
        (["--action", "model.admit", "--citizenship", "SG"], "deny", "models.operator"),
        (["--action", "node.lease", "--jurisdiction", "SG"], "deny", "place.lease.jurisdiction"),
    ],
    ids=str,
)
def test_explain_says_what_would_happen_and_why(run: Shell, options: list[str], effect: str, rule: str) -> None:
    value = run("policy", "explain", *options, "--json").value
    assert (value["effect"], value["policies"]) == (effect, [rule])
    said = run("policy", "explain", *options)
    assert said.code == 0
    assert said.out.startswith(f"{effect}\n  by {rule}\n  because ")
    assert value["reason"] in said.out


def test_explain_asks_under_the_charter_of_the_home(run: Shell) -> None:
    run.home.charter.write_text(charters.starter().replace('users = ["MY"]', 'users = ["MY", "SG"]'))
    assert run("policy", "explain", "--citizenship", "SG", "--json").value["effect"] == "allow"


def test_explain_of_an_unknown_action_says_what_is_known(run: Shell) -> None:
    assert "known are chat.completions" in run("policy", "explain", "--action", "fly").err


def test_explain_decides_a_past_request_again_under_the_rules_of_its_time(run: Shell) -> None:
    publish(run.home)
    write_file(run.home.policies, "night.cedar", CLOSED)  # later rules do not change what was
    allowed = run("policy", "explain", logs.request_id(1), "--json").value
    assert (allowed["effect"], allowed["policies"]) == ("allow", ["use.permit"])
    denied = run("policy", "explain", logs.request_id(3))
    assert denied.out.startswith("deny\n  by use.citizenship\n  because the charter serves holders")
    limited = run("policy", "explain", logs.request_id(4))
    assert limited.out == "deny\n  by gateway.rate\n  because the gateway refused it: rate_limit_exceeded\n"


def test_explain_of_a_request_that_the_log_tells_otherwise_says_so(run: Shell) -> None:
    lie = {"answer": {"admission.attributes.citizenship": "SG"}}
    publish(run.home, logs.write(lie))
    said = run("policy", "explain", logs.request_id(1))
    assert said.code == 1
    assert said.out.startswith("deny\n  by use.citizenship")
    assert said.out.endswith("\nBut the log says: allow by use.permit\n")
    value = run("policy", "explain", logs.request_id(1), "--json").value
    assert (value["effect"], value["logged"]) == ("deny", {"effect": "allow", "policies": ["use.permit"]})


def test_explain_of_a_request_that_is_not_in_the_log(run: Shell) -> None:
    assert f"no entry for {logs.request_id(1)}" in run("policy", "explain", logs.request_id(1)).err
    publish(run.home)
    assert f"no entry for {logs.request_id(99)}" in run("policy", "explain", logs.request_id(99)).err


def test_explain_of_rules_too_long_for_an_entry_reads_and_checks_their_blob(run: Shell) -> None:
    files = [dict(item) for item in logs.rules()]
    text = files[0]["text"]
    steps = [
        logs.Step(step.name, step.type, logs.policy(20, files=[{**files[0], "text": None}, *files[1:]]))
        if step.name == "policy"
        else step
        for step in logs.story()
    ]
    publish(run.home, logs.write(steps=steps))
    blobs = run.home.log / "blob"
    blobs.mkdir()
    blob = write_file(blobs, files[0]["sha256"], text)
    assert run("policy", "explain", logs.request_id(1), "--json").value["effect"] == "allow"
    blob.write_text(text + " ")
    said = run("policy", "explain", logs.request_id(1))
    assert (said.code, "another SHA-256" in said.err) == (1, True)
