"""Several operators at a running service: one alone, two against one, and what the audit says of it all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.service import Service, contents, daulat

from daulat.adapters import sandbox
from daulat.settings import Home

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sandbox.check().grade != "G2", reason="bubblewrap cannot make namespaces on this machine"),
]
PASSPHRASE = "a passphrase for tests alone"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    made = Service(tmp_path_factory.mktemp("consent") / "home", environment={"DAULAT_CONTEXT": "512"})
    made.start("--slots", "1")
    with made.closing():
        yield made


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("keys")
    (folder / "passphrase").write_text(f"{PASSPHRASE}\n")
    for name in ("ali", "zulaikha", "xiaolong", "devika"):
        daulat("operator", "key", str(folder / name), "--name", name, "--passphrase-file", str(folder / "passphrase"))
    return {name: folder / name for name in ("ali", "zulaikha", "xiaolong", "devika")}


def sign(service: Service, keys: dict[str, Path], who: str, *verb: str, code: int = 0) -> Any:
    secret = ("--key", str(keys[who]), "--passphrase-file", str(keys[who].with_name("passphrase")), "--yes")
    return daulat("operate", *verb, *secret, home=service.home, code=code)


def add(service: Service, keys: dict[str, Path], name: str, by: str, *arguments: str, code: int = 0) -> Any:
    vkey = daulat("operator", "vkey", str(keys[name]))["vkey"]
    return sign(service, keys, by, "add-operator", name, "--vkey", vkey, "--citizenship", "MY", *arguments, code=code)


def operators(service: Service) -> list[str]:
    return [row["name"] for row in daulat("operator", "list", home=service.home) if row["revoked"] is None]


def test_the_first_operator_registers_a_key_once_and_adds_others_while_alone(
    service: Service, keys: dict[str, Path]
) -> None:
    assert "not that of an operator" in add(service, keys, "zulaikha", "ali", code=1)
    assert daulat("operator", "first", str(keys["ali"]), home=service.home)["name"] == "first-operator"
    assert "have keys here" in daulat("operator", "first", str(keys["zulaikha"]), home=service.home, code=1)
    assert add(service, keys, "zulaikha", "ali")["state"] == "done"
    assert add(service, keys, "xiaolong", "zulaikha")["state"] == "done"
    assert "a citizen of MY" in add(service, keys, "devika", "ali", "--citizenship", "SG", code=1)
    assert operators(service) == ["first-operator", "zulaikha", "xiaolong"]


def test_with_approvals_two_others_have_to_sign(service: Service, keys: dict[str, Path], tmp_path: Path) -> None:
    assert service.stop() == 0
    charter = Home(service.home).charter
    charter.write_text(charter.read_text().replace("approvals = 0", "approvals = 2"))
    service.start("--slots", "1")
    proposal = add(service, keys, "devika", "ali")["proposal"]
    assert "others have to agree" in sign(service, keys, "ali", "approve", proposal, code=1)
    assert "not that of an operator" in sign(service, keys, "devika", "approve", proposal, code=1)
    assert sign(service, keys, "zulaikha", "approve", proposal)["state"] == "open"
    assert operators(service) == ["first-operator", "zulaikha", "xiaolong"]
    shown = daulat("operate", "show", proposal, home=service.home)
    assert (shown["approved_by"], shown["needed"]) == (["zulaikha"], 2)
    assert sign(service, keys, "xiaolong", "approve", proposal)["state"] == "done"
    assert operators(service) == ["first-operator", "zulaikha", "xiaolong", "devika"]
    assert "carried out already" in sign(service, keys, "xiaolong", "approve", proposal, code=1)
    states = [row["state"] for row in daulat("operate", "list", home=service.home)]
    assert states == ["done", "done", "done"]


def audited(service: Service, tmp_path: Path, *, code: int = 0) -> Any:
    (tmp_path / "token").write_text(service.facts["auditor_token"])
    asked = ("--vkey", service.facts["log_vkey"], "--token-file", str(tmp_path / "token"))
    return daulat("audit", service.facts["log_url"], *asked, code=code)


def again(service: Service) -> str:
    """Start anew; what waits for consent then."""
    assert service.stop() == 0
    service.start("--slots", "1")
    return " ".join(service.status()["waiting"])


def agree(
    service: Service, keys: dict[str, Path], *verb: str, others: tuple[str, ...] = ("zulaikha", "xiaolong")
) -> None:
    proposal = sign(service, keys, "ali", *verb)["proposal"]
    states = [sign(service, keys, who, "approve", proposal)["state"] for who in others]
    assert states[-1] == "done"


def test_the_audit_holds_and_names_stay_out_of_the_log(service: Service, tmp_path: Path) -> None:
    report = audited(service, tmp_path)
    assert report["holds"], report
    text = "".join(content.decode(errors="replace") for _, content in contents(service.home / "log"))
    assert not any(name in text for name in ("zulaikha", "xiaolong", "devika", PASSPHRASE))


def test_a_charter_that_one_operator_changed_stays_out_of_force_until_others_agree(
    service: Service, keys: dict[str, Path], tmp_path: Path
) -> None:
    charter, size = Home(service.home).charter, len(service.entries("charter/v1"))
    agreed = charter.read_text()
    charter.write_text(agreed.replace('assurance = "substantial"', 'assurance = "low"'))
    assert "nobody has agreed to it" in again(service)
    assert len(service.entries("charter/v1")) == size, "the charter in force stays"
    proposal = sign(service, keys, "ali", "change-charter")["proposal"]
    charter.write_text(agreed)
    assert "nothing is signed" in sign(service, keys, "zulaikha", "approve", proposal, code=1)
    charter.write_text(agreed.replace("approvals = 2", "approvals = 1"))
    agree(service, keys, "change-charter")
    assert again(service) == ""
    assert service.entries("charter/v1")[-1]["approvals"] == 1
    charter.write_text(agreed)
    assert "nobody has agreed" in again(service), "agreed to once, it is not agreed to for good"
    charter.write_text(agreed.replace("approvals = 2", "approvals = 1"))
    assert audited(service, tmp_path)["holds"]


def test_rules_and_models_come_into_force_by_consent(service: Service, keys: dict[str, Path], tmp_path: Path) -> None:
    rules = Home(service.home).policies
    rules.mkdir(exist_ok=True)
    (rules / "ours.cedar").write_text('@id("ours.nobody")\nforbid(principal, action, resource) when { false };\n')
    assert "nobody has agreed to them" in again(service)
    agree(service, keys, "change-rules", others=("zulaikha",))
    assert again(service) == ""
    assert "ours.cedar" in str(service.entries("policy/v1")[-1]["files"])
    (found,) = service.home.glob("models/*/model.gguf")
    daulat("model", "import", str(found), "--name", "other", "--optimise", home=service.home)
    (name,) = [row["name"] for row in daulat("model", "list", home=service.home) if row["name"].startswith("other-")]
    refused = daulat("deploy", name, "--slots", "1", home=service.home, code=1)
    assert "admit-model" in str(refused)
    daulat("stop", name, home=service.home)
    agree(service, keys, "admit-model", name, others=("xiaolong",))
    assert daulat("deploy", name, "--slots", "1", home=service.home)["status"]["conditions"][1]["reason"] == "Complete"
    assert audited(service, tmp_path)["holds"]


def test_nothing_is_left_running(service: Service) -> None:
    assert service.stop() == 0
    assert service.left_running() == []
