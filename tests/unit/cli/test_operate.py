"""`daulat operator` and `operate`: the key stays here, and nothing is signed that was not shown."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.verbs import Shell

from daulat.adapters import sealed_key
from daulat.cli import operate as module
from daulat.core.consent import Proposed, naming
from daulat.errors import NotFound
from daulat.policy.bundle import load
from daulat.settings import Home
from daulat.tlog.note import Verifier

PASSPHRASE = "a passphrase for tests alone"
ARGUMENTS = {"name": "bina", "vkey": "v", "citizenship": "MY", "assurance": "high", "days": 365}


def drafted(arguments: dict[str, Any], **changes: Any) -> dict[str, Any]:
    payload = json.dumps({"arguments": arguments, "nonce": "00"})
    fields = {"origin": "log/1", "proposal": "proposal_" + "1" * 32, "action": "operator.add", "prior": "0" * 64}
    return {**fields, "expires": 1_800_000_000_000, "payload": payload, **changes}


def shown(state: str, **changes: Any) -> dict[str, Any]:
    by = {"state": state, "proposed_by": "ali", "approved_by": ["bina"], "needed": 2}
    return {**drafted(ARGUMENTS), **by, **changes}


class Service:
    """The service: an answer by method; what it was asked is kept."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.answers: dict[str, Any] = {}

    def __call__(self, _home: Home, method: str, **params: Any) -> Any:
        self.asked.append((method, params))
        if method not in self.answers:
            raise NotFound(f"no answer to {method}")
        return self.answers[method]


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    made = Service()
    monkeypatch.setattr(module, "ask", made)
    monkeypatch.setattr(sealed_key, "_SCRYPT", {"n": 2, "r": 8, "p": 1})
    return made


@pytest.fixture
def signing(run: Shell, service: Service, tmp_path: Path) -> tuple[str, ...]:
    (tmp_path / "passphrase").write_text(f"{PASSPHRASE}\n")
    key = str(tmp_path / "key")
    said = run("operator", "key", key, "--passphrase-file", tmp_path / "passphrase", "--json")
    assert said.value == {"path": key, "vkey": sealed_key.vkey(Path(key))}
    return ("--key", key, "--passphrase-file", str(tmp_path / "passphrase"))


PROPOSE = ("operate", "add-operator", "bina", "--vkey", "v", "--citizenship", "MY")


def test_a_proposal_is_drafted_signed_here_and_sent(run: Shell, service: Service, signing: tuple[str, ...]) -> None:
    draft = drafted(ARGUMENTS)
    service.answers = {"consent.draft": draft, "consent.propose": shown("open", approved_by=[])}
    said = run(*PROPOSE, *signing, "--yes")
    assert said.code == 0, said
    assert "needs 2 more: daulat operate approve proposal_1" in said.out
    (_, asked), (_, sent) = service.asked
    assert asked == {"action": "operator.add", "arguments": ARGUMENTS, "days": 7}
    assert sent["drafted"] == draft
    digest = hashlib.sha256(draft["payload"].encode()).hexdigest()
    made = Proposed("log/1", draft["proposal"], "operator.add", "0" * 64, digest, draft["expires"])
    Verifier(sent["vkey"]).verify_bytes(made.statement("proposal"), base64.b64decode(sent["signature"]))
    assert PASSPHRASE not in str(service.asked)


def test_an_approval_is_signed_over_what_was_shown(run: Shell, service: Service, signing: tuple[str, ...]) -> None:
    service.answers = {"consent.show": shown("open"), "consent.approve": shown("done")}
    said = run("operate", "approve", "proposal_1", *signing, "--yes")
    assert "is done." in said.out
    method, sent = service.asked[1]
    assert (method, sent["proposal"]) == ("consent.approve", "proposal_" + "1" * 32)
    digest = hashlib.sha256(drafted(ARGUMENTS)["payload"].encode()).hexdigest()
    made = Proposed("log/1", sent["proposal"], "operator.add", "0" * 64, digest, 1_800_000_000_000)
    Verifier(sent["vkey"]).verify_bytes(made.statement("approval"), base64.b64decode(sent["signature"]))


@pytest.mark.parametrize(
    "draft",
    [
        drafted({**ARGUMENTS, "name": "somebody-else"}),
        drafted(ARGUMENTS, action="erasure.all"),
        drafted(ARGUMENTS, prior="0\nmore"),
    ],
)
def test_a_service_that_drafts_something_else_gets_no_signature(
    run: Shell, service: Service, signing: tuple[str, ...], draft: dict[str, Any]
) -> None:
    service.answers = {"consent.draft": draft, "consent.propose": shown("open")}
    said = run(*PROPOSE, *signing, "--yes")
    assert (said.code, "nothing is signed" in said.err) == (1, True)
    assert [method for method, _ in service.asked] == ["consent.draft"]


def named(action: str, digest: str, **changes: Any) -> dict[str, Any]:
    return shown("open", action=action, payload=naming(digest).decode(), approved_by=[], **changes)


def test_charter_rules_and_models_are_proposed_by_their_digest(
    run: Shell, service: Service, signing: tuple[str, ...]
) -> None:
    home = run.home
    home.charter.write_text("a charter")
    charter, rules = hashlib.sha256(b"a charter").hexdigest(), load(home.policies).version
    for verb, action, digest in (
        ("change-charter", "charter.change", charter),
        ("change-rules", "policy.change", rules),
    ):
        service.asked.clear()
        service.answers = {"consent.draft": named(action, digest), "consent.propose": named(action, digest)}
        assert run("operate", verb, *signing, "--yes").code == 0
        (_, asked), (_, sent) = service.asked
        assert asked == {"action": action, "arguments": {"digest": digest}, "days": 7}
        made = Proposed("log/1", drafted({})["proposal"], action, "0" * 64, "", 1_800_000_000_000)
        made = replace(made, payload=hashlib.sha256(naming(digest)).hexdigest())
        Verifier(sent["vkey"]).verify_bytes(made.statement("proposal"), base64.b64decode(sent["signature"]))
    assert "0 models answer to 'nothing'" in run("operate", "admit-model", "nothing", *signing, "--yes").err


@pytest.mark.parametrize("action", ["charter.change", "policy.change"])
def test_what_does_not_stand_here_is_not_approved_of(
    run: Shell, service: Service, signing: tuple[str, ...], action: str
) -> None:
    run.home.charter.write_text("a charter")
    service.answers = {"consent.show": named(action, "f" * 64), "consent.approve": shown("done")}
    said = run("operate", "approve", "proposal_1", *signing, "--yes")
    assert (said.code, "than what was proposed: nothing is signed" in said.err) == (1, True)
    assert [method for method, _ in service.asked] == ["consent.show"]


def test_who_does_not_say_yes_signs_nothing_and_has_seen_what_it_is(
    run: Shell, service: Service, signing: tuple[str, ...]
) -> None:
    service.answers = {"consent.show": shown("open")}
    said = run("operate", "approve", "proposal_1", *signing)
    assert said.code == 1
    assert 'operator.add\n  "name": "bina"' in said.err
    assert [method for method, _ in service.asked] == ["consent.show"]


def test_what_is_shown_cannot_draw_on_the_terminal(run: Shell, service: Service, signing: tuple[str, ...]) -> None:
    draft = drafted({**ARGUMENTS, "name": "bina\x1b[2J\u202e"})
    service.answers = {"consent.show": {**shown("open"), "payload": draft["payload"]}}
    said = run("operate", "approve", "proposal_1", *signing)
    assert '"name": "bina\\u001b[2J\\u202e"' in said.err


def test_a_passphrase_that_is_wrong_or_missing_sends_nothing(
    run: Shell, service: Service, signing: tuple[str, ...], tmp_path: Path
) -> None:
    service.answers = {"consent.show": shown("open")}
    (tmp_path / "wrong").write_text("another one altogether\n")
    for path, words in ((tmp_path / "wrong", "the passphrase is wrong"), (tmp_path / "nowhere", "cannot be read")):
        said = run("operate", "approve", "proposal_1", *signing[:2], "--passphrase-file", path, "--yes")
        assert (said.code, words in said.err) == (1, True)
    assert {method for method, _ in service.asked} == {"consent.show"}


def test_proposals_and_operators_are_listed(run: Shell, service: Service) -> None:
    service.answers = {"consent.all": [], "operators": [], "consent.show": shown("over")}
    assert "No proposals." in run("operate", "list").out
    assert "daulat operator first FILE" in run("operator", "list").out
    assert "is over: nothing was done" in run("operate", "show", "proposal_1").out
    operator = {"name": "ali", "citizenship": "MY", "expires": 1_800_000_000_000, "revoked": None, "vkey": "v"}
    service.answers = {"consent.all": [shown("open")], "operators": [operator]}
    assert "operator.add  open   ali          bina         2" in run("operate", "list").out
    assert run("operator", "list", "--json").value == [operator]


def test_the_first_key_is_registered_by_its_public_half(run: Shell, service: Service, signing: tuple[str, ...]) -> None:
    vkey = run("operator", "vkey", signing[1]).out.strip()
    service.answers = {"operator.first": {"name": "first-operator", "vkey": vkey}}
    assert "first-operator signs with" in run("operator", "first", signing[1]).out
    assert service.asked == [("operator.first", {"vkey": vkey})]
