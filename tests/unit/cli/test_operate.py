"""`daulat operator` and `operate`: the key stays here, and nothing is signed that was not shown."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support import logs
from tests.support.verbs import Shell

from daulat.adapters import sealed_key
from daulat.cli import operate as module
from daulat.cli import signing as shared
from daulat.core.consent import Proposed, naming
from daulat.core.glass import reason
from daulat.core.rotation import statement
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
    by = {"state": state, "proposed_by": "ali", "approved_by": ["bina"], "needed": 2, "left": 1}
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
    monkeypatch.setattr(shared, "ask", made)
    monkeypatch.setattr("daulat.adapters.passphrase.COSTS", {"n": 2, "r": 8, "p": 1})
    return made


@pytest.fixture
def key(run: Shell, service: Service, tmp_path: Path) -> tuple[str, ...]:
    (tmp_path / "passphrase").write_text(f"{PASSPHRASE}\n")
    path = str(tmp_path / "key")
    said = run("operator", "key", path, "--passphrase-file", tmp_path / "passphrase", "--json")
    assert said.value == {"path": path, "vkey": sealed_key.vkey(Path(path))}
    return ("--key", path, "--passphrase-file", str(tmp_path / "passphrase"))


PROPOSE = ("operate", "add-operator", "bina", "--vkey", "v", "--citizenship", "MY")


def test_a_proposal_is_drafted_signed_here_and_sent(run: Shell, service: Service, key: tuple[str, ...]) -> None:
    draft = drafted(ARGUMENTS)
    service.answers = {"consent.draft": draft, "consent.propose": shown("open", approved_by=[], left=2)}
    said = run(*PROPOSE, *key, "--yes")
    assert said.code == 0, said
    assert "needs 2 more: daulat operate approve proposal_1" in said.out
    (_, asked), (_, sent) = service.asked
    assert asked == {"action": "operator.add", "arguments": ARGUMENTS, "days": 7}
    assert sent["drafted"] == draft
    digest = hashlib.sha256(draft["payload"].encode()).hexdigest()
    made = Proposed("log/1", draft["proposal"], "operator.add", "0" * 64, digest, draft["expires"])
    Verifier(sent["vkey"]).verify_bytes(made.statement("proposal"), base64.b64decode(sent["signature"]))
    assert PASSPHRASE not in str(service.asked)


HELD = {"name": "bina", "citizenship": "MY", "assurance": "substantial", "expires": 1, "revoked": None, "vkey": "v"}


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ((), {"citizenship": "MY", "assurance": "substantial", "days": 365}),
        (("--days", "400", "--assurance", "high"), {"citizenship": "MY", "assurance": "high", "days": 400}),
        (("--citizenship", "SG"), {"citizenship": "SG", "assurance": "substantial", "days": 365}),
    ],
)
def test_a_renewal_says_all_that_the_others_vouch_for(
    run: Shell, service: Service, key: tuple[str, ...], given: tuple[str, ...], asked: dict[str, Any]
) -> None:
    arguments = {"name": "bina", **asked}
    draft = drafted(arguments, action="operator.renew")
    service.answers = {"operators": [HELD], "consent.draft": draft, "consent.propose": shown("open", left=2)}
    said = run("operate", "renew-operator", "bina", *given, *key, "--yes")
    assert said.code == 0, said
    assert service.asked[1] == ("consent.draft", {"action": "operator.renew", "arguments": arguments, "days": 7})


def test_who_has_no_key_here_is_not_renewed(run: Shell, service: Service, key: tuple[str, ...]) -> None:
    service.answers = {"operators": [{**HELD, "revoked": 1}]}
    assert "no operator 'bina' has a key here" in run("operate", "renew-operator", "bina", *key, "--yes").err
    assert [method for method, _ in service.asked] == ["operators"]


def test_an_approval_is_signed_over_what_was_shown(run: Shell, service: Service, key: tuple[str, ...]) -> None:
    service.answers = {"consent.show": shown("open"), "consent.approve": shown("done")}
    said = run("operate", "approve", "proposal_1", *key, "--yes")
    assert "is done." in said.out
    method, sent = service.asked[1]
    assert (method, sent["proposal"]) == ("consent.approve", "proposal_" + "1" * 32)
    digest = hashlib.sha256(drafted(ARGUMENTS)["payload"].encode()).hexdigest()
    made = Proposed("log/1", sent["proposal"], "operator.add", "0" * 64, digest, 1_800_000_000_000)
    Verifier(sent["vkey"]).verify_bytes(made.statement("approval"), base64.b64decode(sent["signature"]))


def test_a_proposal_about_whoever_was_erased_gets_no_signature(
    run: Shell, service: Service, key: tuple[str, ...]
) -> None:
    service.answers = {"consent.show": shown("void", payload="", action="person.erase")}
    said = run("operate", "approve", "proposal_1", *key, "--yes")
    assert (said.code, "is void: whom it was about has been erased" in said.err) == (1, True)
    assert [method for method, _ in service.asked] == ["consent.show"]


@pytest.mark.parametrize(
    "draft",
    [
        drafted({**ARGUMENTS, "name": "somebody-else"}),
        drafted(ARGUMENTS, action="erasure.all"),
        drafted(ARGUMENTS, prior="0\nmore"),
    ],
)
def test_a_service_that_drafts_something_else_gets_no_signature(
    run: Shell, service: Service, key: tuple[str, ...], draft: dict[str, Any]
) -> None:
    service.answers = {"consent.draft": draft, "consent.propose": shown("open")}
    said = run(*PROPOSE, *key, "--yes")
    assert (said.code, "nothing is signed" in said.err) == (1, True)
    assert [method for method, _ in service.asked] == ["consent.draft"]


def named(action: str, digest: str, **changes: Any) -> dict[str, Any]:
    return shown("open", action=action, payload=naming(digest).decode(), approved_by=[], **changes)


def test_charter_rules_and_models_are_proposed_by_their_digest(
    run: Shell, service: Service, key: tuple[str, ...]
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
        assert run("operate", verb, *key, "--yes").code == 0
        (_, asked), (_, sent) = service.asked
        assert asked == {"action": action, "arguments": {"digest": digest}, "days": 7}
        made = Proposed("log/1", drafted({})["proposal"], action, "0" * 64, "", 1_800_000_000_000)
        made = replace(made, payload=hashlib.sha256(naming(digest)).hexdigest())
        Verifier(sent["vkey"]).verify_bytes(made.statement("proposal"), base64.b64decode(sent["signature"]))
    assert "0 models answer to 'nothing'" in run("operate", "admit-model", "nothing", *key, "--yes").err


def test_a_backup_is_proposed_by_its_files_digest(
    run: Shell, service: Service, key: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "monday.backup").write_bytes(b"sealed")
    digest = hashlib.sha256(b"sealed").hexdigest()
    proposed = named("backup.restore", digest)
    service.answers = {"consent.draft": proposed, "consent.propose": shown("open", approved_by=[])}
    assert run("operate", "restore-backup", tmp_path / "monday.backup", *key, "--yes").code == 0
    assert service.asked[0][1] == {"action": "backup.restore", "arguments": {"digest": digest}, "days": 7}
    (tmp_path / "monday.backup").write_bytes(b"another")
    assert "nothing is signed" in run("operate", "restore-backup", tmp_path / "monday.backup", *key, "--yes").err
    assert "cannot be read" in run("operate", "restore-backup", tmp_path / "tuesday.backup", *key, "--yes").err


@pytest.mark.parametrize("action", ["charter.change", "policy.change"])
def test_what_does_not_stand_here_is_not_approved_of(
    run: Shell, service: Service, key: tuple[str, ...], action: str
) -> None:
    run.home.charter.write_text("a charter")
    service.answers = {"consent.show": named(action, "f" * 64), "consent.approve": shown("done")}
    said = run("operate", "approve", "proposal_1", *key, "--yes")
    assert (said.code, "than what was proposed: nothing is signed" in said.err) == (1, True)
    assert [method for method, _ in service.asked] == ["consent.show"]


def test_who_does_not_say_yes_signs_nothing_and_has_seen_what_it_is(
    run: Shell, service: Service, key: tuple[str, ...]
) -> None:
    service.answers = {"consent.show": shown("open")}
    said = run("operate", "approve", "proposal_1", *key)
    assert said.code == 1
    assert 'operator.add\n  "name": "bina"' in said.err
    assert [method for method, _ in service.asked] == ["consent.show"]


def test_what_is_shown_cannot_draw_on_the_terminal(run: Shell, service: Service, key: tuple[str, ...]) -> None:
    draft = drafted({**ARGUMENTS, "name": "bina\x1b[2J\u202e"})
    service.answers = {"consent.show": {**shown("open"), "payload": draft["payload"]}}
    said = run("operate", "approve", "proposal_1", *key)
    assert '"name": "bina\\u001b[2J\\u202e"' in said.err


def test_a_passphrase_that_is_wrong_or_missing_sends_nothing(
    run: Shell, service: Service, key: tuple[str, ...], tmp_path: Path
) -> None:
    service.answers = {"consent.show": shown("open")}
    (tmp_path / "wrong").write_text("another one altogether\n")
    for path, words in ((tmp_path / "wrong", "the passphrase is wrong"), (tmp_path / "nowhere", "cannot be read")):
        said = run("operate", "approve", "proposal_1", *key[:2], "--passphrase-file", path, "--yes")
        assert (said.code, words in said.err) == (1, True)
    assert {method for method, _ in service.asked} == {"consent.show"}


def test_proposals_and_operators_are_listed(run: Shell, service: Service) -> None:
    service.answers = {"consent.all": [], "operators": [], "consent.show": shown("over")}
    assert "No proposals." in run("operate", "list").out
    assert "daulat operator first FILE" in run("operator", "list").out
    assert "is over: nothing was done" in run("operate", "show", "proposal_1").out
    service.answers["consent.show"] = shown("void", payload="")
    assert "is void: whom it was about has been erased" in run("operate", "show", "proposal_1").out
    operator = {"name": "ali", "citizenship": "MY", "expires": 1_800_000_000_000, "revoked": None, "vkey": "v"}
    service.answers = {"consent.all": [shown("open")], "operators": [operator]}
    assert "operator.add  open   ali          bina         2" in run("operate", "list").out
    assert run("operator", "list", "--json").value == [operator]


def test_the_first_key_is_registered_by_its_public_half(run: Shell, service: Service, key: tuple[str, ...]) -> None:
    vkey = run("operator", "vkey", key[1]).out.strip()
    service.answers = {"operator.first": {"name": "first-operator", "vkey": vkey}}
    assert "first-operator signs with" in run("operator", "first", key[1]).out
    assert service.asked == [("operator.first", {"vkey": vkey})]


URGENT = ("--break-glass", "security", "--reason", "strangers", "--hours", "2")


def glass(**changes: Any) -> dict[str, Any]:
    more = {"cause": "security", "words": "strangers", "nonce": "0" * 32, "by": "ali", "state": "open", "due": 1 << 41}
    return {**drafted({}), "action": "policy.change", "payload": naming("e" * 64).decode(), **more, **changes}


def test_glass_is_broken_over_what_was_asked_and_shown(
    run: Shell, service: Service, key: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = glass(payload=naming(load(run.home.policies).version).decode())
    service.answers = {"glass.draft": draft, "glass.break": draft}
    said = run("operate", "change-rules", *URGENT, *key, "--yes")
    assert "daulat operate review proposal_1" in said.out, said
    (_, asked), (method, sent) = service.asked
    assert asked == {
        "action": "policy.change",
        "arguments": {"digest": load(run.home.policies).version},
        "cause": "security",
        "words": "strangers",
        "hours": 2,
    }
    assert method == "glass.break"
    broken = shared.broken_of(draft)
    assert broken.reason == reason("strangers", "0" * 32)
    Verifier(sent["vkey"]).verify_bytes(broken.statement(), base64.b64decode(sent["signature"]))


@pytest.mark.parametrize(
    "changes",
    [{"cause": "legal"}, {"words": "nothing of note"}, {"action": "model.admit"}, {"payload": "f" * 64 + "\n"}],
)
def test_other_glass_than_asked_for_is_not_broken(
    run: Shell, service: Service, key: tuple[str, ...], changes: dict[str, Any]
) -> None:
    draft = glass(**{"payload": naming(load(run.home.policies).version).decode(), **changes})
    service.answers = {"glass.draft": draft, "glass.break": draft}
    assert "nothing is signed" in run("operate", "change-rules", *URGENT, *key, "--yes").err
    assert [method for method, _ in service.asked] == ["glass.draft"]


def test_glass_is_broken_with_a_cause_and_a_reason(run: Shell, service: Service, key: tuple[str, ...]) -> None:
    assert "belong together" in run("operate", "change-rules", *URGENT[:2], *key, "--yes").err
    assert "belong together" in run("operate", "change-rules", *URGENT[2:4], *key, "--yes").err
    assert "is not one of" in run("operate", "change-rules", "--break-glass", "fun", *URGENT[2:], *key).err
    assert service.asked == []


def test_whoever_reviews_sees_who_did_what_and_why(run: Shell, service: Service, key: tuple[str, ...]) -> None:
    service.answers = {"glass.show": glass(), "glass.review": glass(state="closed"), "glass.all": []}
    asked = ("operate", "review", "proposal_1", "--verdict", "justified", *key)
    refused = run(*asked)
    assert refused.code == 1
    assert 'ali did this alone (security: "strangers")' in refused.err
    assert "is closed" in run(*asked, "--yes").out
    method, sent = service.asked[-1]
    assert (method, sent["verdict"]) == ("glass.review", "justified")
    signed = shared.broken_of(glass()).review("justified")
    Verifier(sent["vkey"]).verify_bytes(signed, base64.b64decode(sent["signature"]))
    assert "No glass was ever broken." in run("operate", "reviews").out


def test_a_key_in_a_token_needs_both_its_library_and_its_label(run: Shell, tmp_path: Path) -> None:
    assert "belong together" in run("operator", "key", tmp_path / "k", "--pkcs11", "/lib.so").err
    assert "belong together" in run("operator", "key", tmp_path / "k", "--token", "mine").err


def test_a_new_key_of_the_log_is_proposed_as_the_statement_that_both_keys_sign(
    run: Shell, service: Service, key: tuple[str, ...]
) -> None:
    run.home.vkey.write_text(f"{logs.SIGNER.vkey}\n")
    old, new = logs.SIGNER.renamed(f"{logs.NAME}/2027").vkey, logs.STRANGER.renamed(f"{logs.NAME}/2027").vkey
    payload = statement(old, new).decode()
    draft = drafted({}, action="logkey.rotate", payload=payload)
    done = shown("done", action="logkey.rotate", payload=payload)
    service.answers = {"consent.draft": draft, "consent.propose": shown("open"), "consent.show": draft}
    assert run("operate", "rotate-log-key", new, *key, "--yes").code == 0
    (_, asked), (_, sent) = service.asked
    assert asked["arguments"] == {"old": old, "new": new}
    digest = hashlib.sha256(payload.encode()).hexdigest()
    made = Proposed("log/1", draft["proposal"], "logkey.rotate", "0" * 64, digest, draft["expires"])
    Verifier(sent["vkey"]).verify_bytes(made.statement("proposal"), base64.b64decode(sent["signature"]))
    service.answers["consent.show"] = done
    assert new in run("operate", "show", "proposal_1").out
    for other in (statement(new, old).decode(), "not a statement"):
        service.answers["consent.draft"] = {**draft, "payload": other}
        said = run("operate", "rotate-log-key", new, *key, "--yes")
        assert (said.code, "nothing is signed" in said.err) == (1, True)
