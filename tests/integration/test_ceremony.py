"""A real installation goes into production by a key ceremony, and cannot go back; one operator alone breaks glass."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.service import LONG_SECONDS, Service, contents, daulat

from daulat.adapters import rpc, sandbox
from daulat.errors import InvalidRequest
from daulat.settings import Home

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sandbox.check().grade != "G2", reason="bubblewrap cannot make namespaces on this machine"),
]
NAMES = ("aminah", "bina", "chong")
RULE = '@id("ours.nobody")\nforbid(principal, action, resource) when { false };\n'


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the keys of three operators, their public halves, and the passphrase of all."""
    folder = tmp_path_factory.mktemp("keys")
    (folder / "passphrase").write_text("a passphrase for tests alone\n")
    for name in NAMES:
        key = str(folder / name)
        made = daulat("operator", "key", key, "--name", name, "--passphrase-file", str(folder / "passphrase"))
        (folder / f"{name}.vkey").write_text(made["vkey"])
    return folder


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """It has served in evaluation."""
    made = Service(tmp_path_factory.mktemp("ceremony") / "home", environment={"DAULAT_CONTEXT": "512"})
    made.start("--slots", "1")
    with made.closing():
        yield made


def signed(keys: Path, who: str) -> tuple[str, ...]:
    return ("--key", str(keys / who), "--passphrase-file", str(keys / "passphrase"), "--yes")


def ceremony(home: Path, keys: Path, path: Path, *more: str) -> None:
    seats = [word for name in NAMES for word in ("--operator", name, "MY", str(keys / f"{name}.vkey"))]
    daulat("init", "draft", str(path), *seats, *more, home=home)
    for name in NAMES:
        daulat("init", "sign", str(path), *signed(keys, name))
    daulat("init", "finish", str(path), home=home)


def operate(service: Service, keys: Path, who: str, *verb: str, code: int = 0) -> Any:
    return daulat("operate", *verb, *signed(keys, who), home=service.home, code=code)


def again(service: Service) -> str:
    """Start anew; what waits for consent then."""
    assert service.stop() == 0
    service.start("--slots", "1")
    return " ".join(service.status()["waiting"])


def audited(service: Service, folder: Path, *, code: int = 0) -> Any:
    (folder / "token").write_text(service.facts["auditor_token"])
    asked = ("--vkey", service.facts["log_vkey"], "--token-file", str(folder / "token"))
    return daulat("audit", service.facts["log_url"], *asked, code=code)


def receipt(service: Service, folder: Path) -> Any:
    """Of one answer, verified."""
    (model,) = {row["name"] for row in service.status()["deployments"]}
    with service.client() as client:
        asked = client.post("completions", json={"model": model, "prompt": "a", "max_tokens": 1})
        asked.raise_for_status()
        path = f"receipts/{asked.headers['x-request-id']}"
        answer = service.wait(lambda: (found := client.get(path)).status_code == 200 and found)
    (folder / "receipt").write_bytes(answer.content)
    return daulat("verify", str(folder / "receipt"), "--vkey", service.facts["log_vkey"])


def test_an_evaluation_says_what_it_is(service: Service, tmp_path: Path) -> None:
    assert any('profile "evaluation"' in short for short in receipt(service, tmp_path)["short"])
    assert audited(service, tmp_path)["logs"][0]["ceremony"] is None


def test_production_begins_with_the_next_start(service: Service, keys: Path, tmp_path: Path) -> None:
    ceremony(service.home, keys, tmp_path / "ceremony.json")
    assert service.status()["profile"] == "evaluation", "not before"
    assert again(service) == ""
    status = service.status()
    assert (status["profile"], status["ceremony"]) == ("production", service.entries("ceremony/v1")[0]["index"])
    assert [row["name"] for row in daulat("operator", "list", home=service.home)] == list(NAMES)
    verdict = receipt(service, tmp_path)
    assert any("3 operators signed it" in said for said in verdict["proven"])
    report = audited(service, tmp_path)
    assert report["holds"], report
    assert "put into production by a key ceremony" in report["logs"][0]["ceremony"]
    for short in (*verdict["short"], *report["logs"][0]["short"]):
        assert "profile" not in short
        assert "approvals" not in short
    text = "".join(content.decode(errors="replace") for _, content in contents(service.home / "log"))
    assert not any(name in text for name in NAMES)


def test_nobody_goes_back_or_adds_an_operator_alone(service: Service, keys: Path, tmp_path: Path) -> None:
    add = ("person", "add", "devi", "--tenant", "operators", "--citizenship", "MY", "--role", "operator")
    assert "daulat operate add-operator devi" in daulat(*add, home=service.home, code=1)
    assert "have the key added by them" in daulat("operator", "first", str(keys / "bina"), home=service.home, code=1)
    charter = Home(service.home).charter
    agreed = charter.read_text()
    for changed, words in (
        (agreed.replace('"production"', '"evaluation"'), "production has left for good"),
        (agreed.replace("approvals = 2", "approvals = 1").replace("floor = 2", "floor = 1"), "floor is 2 for good"),
    ):
        charter.write_text(changed)
        assert words in operate(service, keys, "aminah", "change-charter", code=1)
    charter.write_text(agreed)
    second = tmp_path / "second.json"
    seats = [word for name in NAMES for word in ("--operator", name, "MY", str(keys / f"{name}.vkey"))]
    daulat("init", "draft", str(second), *seats, home=service.home)
    for name in NAMES:
        daulat("init", "sign", str(second), *signed(keys, name))
    assert "another key ceremony" in daulat("init", "finish", str(second), home=service.home, code=1)


def test_operators_are_renewed_with_the_keys_that_they_have(service: Service, keys: Path, tmp_path: Path) -> None:
    before = daulat("operator", "list", home=service.home)
    proposal = operate(service, keys, "bina", "renew-operator", "bina", "--days", "400")["proposal"]
    assert operate(service, keys, "chong", "approve", proposal)["left"] == 1
    assert operate(service, keys, "aminah", "approve", proposal)["state"] == "done"
    after = daulat("operator", "list", home=service.home)
    assert [row["name"] for row in after if row["expires"] > before[0]["expires"]] == ["bina"]
    assert [row["vkey"] for row in after] == [row["vkey"] for row in before]
    proposal = operate(service, keys, "chong", "renew-operator", "aminah", "--days", "400")["proposal"]
    assert "vouches for themselves" in operate(service, keys, "aminah", "approve", proposal, code=1)
    assert service.status()["warnings"] == []
    report = audited(service, tmp_path)
    assert report["holds"], report


def test_one_breaks_glass_and_two_review_it(service: Service, keys: Path, tmp_path: Path) -> None:
    rules = Home(service.home).policies
    (rules / "ours.cedar").write_text(RULE)
    why = ("--break-glass", "security", "--reason", "strangers were let in")
    assert "never done" in revoking_behind_glass(service)
    done = operate(service, keys, "bina", "change-rules", *why)
    assert (done["done"], done["state"]) == (True, "open")
    notice = json.loads((service.home / "notices.jsonl").read_text())
    assert (notice["by"], notice["words"]) == ("bina", "strangers were let in")
    (open_,) = service.status()["reviews"]
    assert open_["proposal"] == done["proposal"]
    metrics = httpx.get(f"{service.facts['url']}/metrics", timeout=LONG_SECONDS, trust_env=False).text
    assert "daulat_break_glass_open 1" in metrics
    for name in ("valid", "valid_in_60_days", "needed"):
        assert f"daulat_operators_{name} 3\n" in metrics
    assert again(service) == "", "the rules are in force"
    assert "ours.cedar" in str(service.entries("policy/v1")[-1]["files"])
    report = audited(service, tmp_path)
    assert report["holds"], report
    assert any("the review is open" in finding["words"] for finding in report["logs"][0]["findings"])
    verdict = ("review", done["proposal"], "--verdict", "justified")
    assert "does not review it" in operate(service, keys, "bina", *verdict, code=1)
    assert operate(service, keys, "aminah", *verdict)["state"] == "open"
    assert operate(service, keys, "chong", *verdict)["state"] == "closed"
    assert service.status()["reviews"] == []
    assert "strangers" not in "".join(map(str, service.entries("break-glass/v1")))


def revoking_behind_glass(service: Service) -> str:
    """As somebody who does not use our command would ask for it."""
    asked = {"action": "operator.revoke", "arguments": {"name": "chong", "reason": "x"}}
    with pytest.raises(InvalidRequest) as refused:
        rpc.call(Home(service.home).control_socket, "glass.draft", **asked, cause="security", words="x", hours=1)
    return refused.value.message


def test_a_new_shard_goes_on_in_production(service: Service, tmp_path: Path) -> None:
    assert service.stop() == 0
    daulat("log", "roll", "next", home=service.home)
    service.start("--slots", "1")
    report = audited(service, tmp_path)
    assert report["holds"], report
    assert report["logs"][0]["origin"].endswith("/next")
    assert all("key ceremony" in log["ceremony"] for log in report["logs"])
    assert any("restated here" in said for said in receipt(service, tmp_path)["proven"])
    assert service.stop() == 0
    assert service.left_running() == []


def test_a_new_home_begins_in_production(keys: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    ceremony(home, keys, tmp_path / "ceremony.json", "--name", "ai.agency.example")
    with Service(home, environment={"DAULAT_CONTEXT": "512"}) as service:
        assert service.status()["profile"] == "production"
        report = audited(service, tmp_path)
        assert report["holds"], report
        assert not any("profile" in short for short in report["logs"][0]["short"])
        assert service.entries("operator.action/v1")[0]["action"] == "tenant.add"
        people = daulat("person", "list", home=home)
        assert [row["name"] for row in people] == [*NAMES, "first-person"]
        assert service.stop() == 0
