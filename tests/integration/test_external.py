"""A server that runs already, for real: llama.cpp behind TLS and a key, deployed by statement, with its own grade."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.askers import Askers
from tests.support.outside import Front, llama_cpp
from tests.support.service import Service, contents, daulat

from daulat.adapters import sandbox
from daulat.settings import Home

pytestmark = [
    pytest.mark.slow,
    pytest.mark.alone,
    pytest.mark.skipif(sandbox.check().grade != "G2", reason="bubblewrap cannot make namespaces on this machine"),
]
NAME, UPSTREAM, KEY = "agency", "Agency/Model-1", "up-1234567890abcdef%s"
QUESTION = {"messages": [{"role": "user", "content": "What is the capital of Malaysia?"}], "max_tokens": 24}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    made = Service(
        tmp_path_factory.mktemp("external") / "home",
        environment={"DAULAT_CANARY_SECONDS": "5", "DAULAT_CONTEXT": "512", "DAULAT_ANSWER_SECONDS": "5"},
    )
    made.start("--slots", "2")
    with made.closing():
        yield made


@pytest.fixture(scope="module")
def front(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    folder = tmp_path_factory.mktemp("outside")
    (found,) = service.home.glob("models/*/model.gguf")
    model = folder / "model.gguf"
    shutil.copyfile(found, model)
    with llama_cpp(folder, model, UPSTREAM) as socket, Front(socket, folder, KEY) as made:
        key_file(folder, KEY)
        yield made


def key_file(folder: Path, key: str) -> Path:
    path = folder / "key"
    path.touch(mode=0o600)
    path.write_text(f"{key}\n")
    return path


def deploy(service: Service, front: Front, *arguments: str, code: int = 0, **changed: str) -> Any:
    said = {
        "--address": front.url,
        "--licence": "Apache-2.0",
        "--origin": "SmolLM2, served by an agency",
        "--country": "MY",
        "--site": "Cyberjaya, hall 2",
        "--served-as": UPSTREAM,
        "--api-key-file": str(front.folder / "key"),
        "--metrics": "llama.cpp",
        **{f"--{name}": value for name, value in changed.items()},
    }
    flat = [part for pair in said.items() if pair[1] for part in pair]
    return daulat("deploy", NAME, *flat, *arguments, home=service.home, code=code)


def replicas(service: Service) -> list[dict[str, Any]]:
    return [row for row in daulat("replicas", home=service.home) if row["deployment"] == NAME]


def settled(service: Service) -> str:
    """The id of the one replica, once there is one and it is ready."""

    def ready() -> str:
        rows = replicas(service)
        return str(rows[0]["id"]) if [row["phase"] for row in rows] == ["ready"] else ""

    return str(service.wait(ready))


def test_the_starter_charter_lets_none_serve_and_says_what_would(service: Service, front: Front) -> None:
    said = deploy(service, front, code=1)
    assert "place.lease.external" in said
    assert "nodes.external" in said
    assert [row["name"] for row in daulat("deployments", home=service.home)] == ["smollm2-135m-instruct"]
    assert service.stop() == 0
    charter = Home(service.home).charter
    text = charter.read_text().replace('external = "none"', 'external = "G1"')
    charter.write_text(text.replace('["gguf", "safetensors"]', '["gguf", "safetensors", "external"]'))
    service.start("--slots", "2")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"country": "SG"}, "place.lease.jurisdiction"),
        ({"country": "Malaysia"}, "ISO 3166-1"),
        ({"licence": ""}, "must be stated: --licence"),
        ({"site": ""}, "must be stated: --site"),
        ({"address": "https://127.0.0.1:1/v2"}, "under /v1"),
        ({"address": "ftp://127.0.0.1"}, "no address"),
        ({"address": "http://10.1.2.3:80"}, "in clear"),
        ({"api-key-file": "/nowhere/key"}, "cannot be read"),
        ({"metrics": "tgi"}, "no engine is called"),
    ],
    ids=str,
)
def test_what_is_missing_or_wrong_is_said_at_once(
    service: Service, front: Front, changed: dict[str, str], words: str
) -> None:
    assert words in deploy(service, front, code=1, **changed)


def test_a_key_that_others_may_read_is_not_used(service: Service, front: Front, tmp_path: Path) -> None:
    loose = key_file(tmp_path, KEY)
    loose.chmod(0o644)
    said = deploy(service, front, code=1, **{"api-key-file": str(loose)})
    assert "chmod 600" in said
    assert KEY not in said


def test_a_model_of_files_is_no_external_one(service: Service) -> None:
    said = daulat("deploy", "smollm2-135m-instruct", "--engine", "external", home=service.home, code=1)
    assert "an external engine has its own model" in said


def test_it_answers_under_a_lease_of_its_own_grade_and_its_receipts_say_so(
    service: Service, front: Front, tmp_path: Path
) -> None:
    found = deploy(service, front)
    assert found["status"]["conditions"][1]["reason"] == "Complete"
    with Askers(service, NAME, count=2) as asking:
        asking.more(4)
    assert [answer for answer in asking.answers if answer.status != 200 or not answer.text or not answer.whole] == []
    assert all("host: 127.0.0.1\r\n" in head.lower() for head in front.heads)
    leases = service.entries("node.lease/v1")  # this machine's own may have been renewed meanwhile
    lease = [entry for entry in leases if entry["node"].startswith("outside_")][-1]
    assert lease["evidence"]["external"] == {"grade": "G1"}
    assert "sandbox" not in lease["evidence"]
    with service.client() as client:
        answer = client.post("chat/completions", json={"model": NAME, **QUESTION})
        local = client.post("chat/completions", json={"model": "smollm2-135m-instruct", **QUESTION})
        for number, got in enumerate((answer, local)):
            id_ = got.headers["x-request-id"]
            service.wait(lambda id_=id_: client.get(f"receipts/{id_}").status_code == 200)
            (tmp_path / f"{number}.json").write_bytes(client.get(f"receipts/{id_}").content)
    told, other = (verified(service, tmp_path / f"{number}.json") for number in range(2))
    assert "runs outside Daulat, G1: what and where it is" in told
    assert "a statement about a server outside Daulat" in told
    assert "runs outside Daulat" not in other
    assert "'sandbox' of node" in other


def verified(service: Service, receipt: Path) -> str:
    return str(daulat("verify", str(receipt), "--vkey", service.facts["log_vkey"]))


def drained(service: Service) -> dict[str, Any]:
    """How the one replica ended after an operator had it drained."""
    replica = settled(service)
    daulat("drain", replica, home=service.home)
    ends = service.wait(
        lambda: [entry for entry in service.entries("replica.stopped/v1") if entry["replica"] == replica]
    )
    return dict(ends[-1])


def test_the_audit_adds_its_tokens_up_and_lists_it_among_what_falls_short(service: Service, tmp_path: Path) -> None:
    end = service.wait(lambda: (found := drained(service))["exact"] and found)  # not where it cut off an answer check
    assert end["counters"]["completion_tokens"]
    (tmp_path / "token").write_text(service.facts["auditor_token"])
    settled(service)
    asked = ("--vkey", service.facts["log_vkey"], "--token-file", str(tmp_path / "token"))
    report = daulat("audit", service.facts["log_url"], *asked)
    assert "an engine outside Daulat may answer (G1)" in str(report)


def test_the_key_stands_nowhere_and_a_server_that_refuses_it_is_not_quoted(service: Service, front: Front) -> None:
    other = "other-0987654321fedcba"
    before = settled(service)
    key_file(front.folder, other)  # its next check would end it
    daulat("drain", before, home=service.home)
    service.wait(lambda: any("refuses its API key" in row["last"] for row in daulat("replicas", home=service.home)))
    with service.client() as client:
        answer = client.post("chat/completions", json={"model": NAME, **QUESTION})
        assert answer.status_code == 503, "one replica at a time: the old one has gone, the new one is refused"
        assert other not in answer.text
    key_file(front.folder, KEY)
    assert settled(service) != before, "a key that is mended is read again"
    for secret in (KEY, other):
        for path, held in contents(service.home):
            assert secret.encode() not in held, path
        assert not any(secret in line for line in service.left_running())
    assert "given" in str(service.entries("operator.action/v1"))


def test_another_certificate_than_the_pinned_one_is_not_spoken_to_and_the_old_statement_comes_back(
    service: Service, front: Front
) -> None:
    asked = len(front.heads)
    found = deploy(service, front, address=front.url.partition("#")[0] + "#" + "0" * 64, code=1)
    assert found["status"]["conditions"][1]["reason"] == "RolledBack"
    assert "another certificate" in found["status"]["conditions"][1]["message"]
    assert not any("0000" in head for head in front.heads[asked:])
    settled(service)
    with service.client() as client:
        answer = client.post("chat/completions", json={"model": NAME, **QUESTION})
        assert answer.status_code == 200, answer.text


def test_when_it_goes_away_clients_are_told_and_when_it_comes_back_it_serves_again(
    service: Service, front: Front
) -> None:
    settled(service)
    front.key, kept = "changed", front.key
    service.wait(lambda: any(row["phase"] == "broken" for row in replicas(service)))
    with service.client() as client:
        service.wait(lambda: client.post("chat/completions", json={"model": NAME, **QUESTION}).status_code == 503)
        assert KEY not in client.post("chat/completions", json={"model": NAME, **QUESTION}).text
        front.key = kept
        service.wait(lambda: client.post("chat/completions", json={"model": NAME, **QUESTION}).status_code == 200)


def test_nothing_is_left_running(service: Service) -> None:
    assert daulat("stop", NAME, home=service.home)["stopped"]
    assert service.stop() == 0
    service.wait(lambda: service.left_running() == [], 20)  # what had to be killed is gone a moment later
