"""Deployments with the real engine: several replicas and models, rollouts under load, and replicas in trouble."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from tests.support.askers import Answer, Askers
from tests.support.corrupt import Corrupt
from tests.support.gguf_files import KEYS, make
from tests.support.service import LONG_SECONDS, Service, daulat, two_slots

from daulat.adapters import sandbox
from daulat.settings import Home

pytestmark = [
    pytest.mark.slow,
    pytest.mark.alone,
    pytest.mark.skipif(sandbox.check().grade != "G2", reason="bubblewrap cannot make namespaces on this machine"),
]
MODEL = "smollm2-135m-instruct"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with two_slots(tmp_path_factory.mktemp("deployments")) as made:
        deploy(made, MODEL, "--replicas", "2")
        yield made


def deploy(service: Service, *arguments: str, code: int = 0) -> dict[str, Any]:
    return dict(daulat("deploy", *arguments, home=service.home, code=code, seconds=800))  # under load, too


def replicas(service: Service, deployment: str = MODEL) -> list[dict[str, Any]]:
    return [row for row in daulat("replicas", home=service.home) if row["deployment"] == deployment]


def settled(service: Service, count: int = 2) -> list[dict[str, Any]]:
    """Until so many replicas, and no others, are ready."""

    def ready() -> list[dict[str, Any]]:
        rows = replicas(service)
        return rows if [row["phase"] for row in rows] == ["ready"] * count else []

    return list(service.wait(ready))


def name_of(service: Service, deployment: str = MODEL) -> str:
    (row,) = [row for row in daulat("deployments", home=service.home) if row["name"] == deployment]
    return str(row["status"]["conditions"][1]["reason"])


def engine_of(service: Service, replica: str) -> psutil.Process:
    """The engine's own process, inside its sandbox."""
    run = str(Home(service.home).engine(replica))
    (found,) = [
        psutil.Process(pid) for pid in service.engines() if run in " ".join(psutil.Process(pid).parent().cmdline())
    ]
    return found


def load(service: Service, replica: str) -> int:
    """Questions that it answers or is to answer."""
    told = httpx.get(f"{service.facts['url']}/metrics", trust_env=False).text
    found = re.search(rf'^daulat_replica_requests_in_flight{{replica="{replica}"}} (\d+)', told, re.MULTILINE)
    return int(found[1]) if found else 0


def audited(service: Service, tmp_path: Path) -> None:
    """The log tells one story, from beginning to end."""
    (tmp_path / "token").write_text(service.facts["auditor_token"])
    asked = ("--vkey", service.facts["log_vkey"], "--token-file", str(tmp_path / "token"))
    daulat("audit", service.facts["log_url"], *asked)
    assert daulat("log", "fsck", home=service.home)["sound"]


def lost(answers: list[Answer]) -> list[Answer]:
    """Answers that were owed: all but those that had begun when their engine died, and said so."""
    return [
        answer
        for answer in answers
        if not (answer.status == 200 and answer.whole and answer.text)
        and not (answer.stream and answer.status == 200 and answer.text and answer.error)
    ]


def attempted(service: Service, *outcomes: str) -> None:
    """Until the log has a request whose attempts ended so, one after the other."""

    def found() -> bool:
        completions = [entry["completion"] for entry in service.entries("inference/v1")]
        return list(outcomes) in [[each["outcome"] for each in one["attempts"]] for one in completions]

    service.wait(found)


def test_both_replicas_answer(service: Service) -> None:
    before = {row["entry"] for row in settled(service)}
    with Askers(service, MODEL) as asking:
        asking.more(12)
    assert lost(asking.answers) == []
    service.wait(lambda: before <= {entry["admission"]["replica"] for entry in service.entries("inference/v1")})
    assert daulat("status", home=service.home)["not_serving_because"] == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hung"])
def test_a_replica_that_dies_or_hangs_loses_no_request_that_had_not_begun(
    service: Service, tmp_path: Path, number: signal.Signals
) -> None:
    victim = settled(service)[0]
    stops = len(service.entries("replica.stopped/v1"))
    engine = engine_of(service, victim["id"])
    engine.suspend()  # before anybody asks: what it is given has surely not begun when it ends
    with Askers(service, MODEL) as asking:
        service.wait(lambda: load(service, victim["id"]) > 0)
        engine.send_signal(number)
        service.wait(lambda: len(service.entries("replica.stopped/v1")) > stops)
        asking.more(12)
    assert lost(asking.answers) == []
    assert not any(answer.status == 200 and not answer.text for answer in asking.answers)
    stopped = service.entries("replica.stopped/v1")[-1]
    assert stopped["replica"] == victim["id"]
    assert ("SIGKILL" if number == signal.SIGKILL else "hung") in stopped["reason"]
    again = settled(service)
    assert victim["id"] in {row["id"] for row in again}, "the same replica came back"
    attempted(service, "dead", "ok")  # what had not begun was answered by the other
    audited(service, tmp_path)


def test_a_supervisor_that_is_killed_takes_its_engine_along_and_both_come_back(service: Service) -> None:
    victim = settled(service)[0]
    with Askers(service, MODEL) as asking:
        asking.more(4)
        os.kill(victim["pid"], signal.SIGKILL)
        service.wait(lambda: (row := _row(service, victim["id"]))["ends"] > victim["ends"] and row["phase"] == "ready")
        asking.more(6)
    assert lost(asking.answers) == []


def _row(service: Service, id_: str) -> dict[str, Any]:
    return next(row for row in replicas(service) if row["id"] == id_)


def test_a_replica_whose_answers_are_empty_reaches_no_client(service: Service, tmp_path: Path) -> None:
    victim = settled(service)[0]
    with (
        Corrupt(Home(service.home).engine(victim["id"]) / "e.sock") as corrupt,
        Askers(service, MODEL, count=8) as asking,
    ):
        service.wait(lambda: corrupt.asked >= 3, 2 * LONG_SECONDS)  # kept connections take 100 requests first
        asking.more(8)
    assert lost(asking.answers) == []
    attempted(service, "empty", "ok")
    settled(service)
    audited(service, tmp_path)


def test_a_rollout_under_load_fails_no_request(service: Service, tmp_path: Path) -> None:
    before = {row["id"] for row in settled(service)}
    with Askers(service, MODEL) as asking:
        asking.more(4)
        found = deploy(service, MODEL, "--context", "640")
        asking.more(8)
    assert found["status"]["conditions"][1]["reason"] == "Complete"
    bad = [answer for answer in asking.answers if answer.status != 200 or answer.error or not answer.whole]
    assert bad == []
    after = settled(service)
    assert before.isdisjoint(row["id"] for row in after)
    started = service.entries("replica.started/v1")[-2:]
    assert [entry["engine"]["parameters"]["context"] for entry in started] == [640, 640]
    audited(service, tmp_path)


def test_a_rollout_to_a_model_that_no_engine_can_load_goes_back_by_itself(service: Service, tmp_path: Path) -> None:
    before = {row["id"] for row in settled(service)}
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(make(KEYS))
    with Askers(service, MODEL, count=2) as asking:
        found = deploy(service, str(broken), "--name", MODEL, code=1)
        asking.more(4)
    assert found["status"]["conditions"][0]["status"] == "True"
    assert found["status"]["conditions"][1]["reason"] == "RolledBack"
    assert "its engine ended 3 times" in found["status"]["conditions"][1]["message"]
    assert lost(asking.answers) == []
    assert {row["id"] for row in settled(service)} == before, "the old replicas were never touched"


def test_a_model_that_the_charter_does_not_admit_is_not_rolled_out(service: Service, tmp_path: Path) -> None:
    before = {row["id"] for row in settled(service)}
    secret = tmp_path / "secret.gguf"
    secret.write_bytes(make({**KEYS, "general.name": "Secret", "general.license": "proprietary"}))
    found = deploy(service, str(secret), "--name", MODEL, code=1)
    assert "is refused by models." in found["status"]["conditions"][1]["message"]
    assert {row["id"] for row in settled(service)} == before
    daulat("deploy", MODEL, home=service.home, code=None)


def test_draining_and_stopping_are_in_the_log(service: Service) -> None:
    victim = settled(service)[0]
    with Askers(service, MODEL, count=2) as asking:
        asking.more(2)
        assert daulat("drain", victim["id"][:8], home=service.home)["draining"]
        service.wait(lambda: victim["id"] not in {row["id"] for row in replicas(service)})
        asking.more(2)
    assert lost(asking.answers) == []
    settled(service)
    told = [(entry["action"], entry["subject"]) for entry in service.entries("operator.action/v1")]
    assert ("replica.drain", victim["id"]) in told
    assert daulat("logs", victim["id"], home=service.home) is not None
    assert "see `daulat replicas`" in daulat("drain", "nonsense", home=service.home, code=1)


def test_two_models_at_once_and_both_come_back_after_a_stop(service: Service, tmp_path: Path) -> None:
    deploy(service, MODEL, "--replicas", "1")
    deploy(service, MODEL, "--name", "clerk", "--slots", "1")
    with service.client() as client:
        service.wait(lambda: sorted(row["id"] for row in client.get("models").json()["data"]) == ["clerk", MODEL])
    with Askers(service, "clerk", count=2) as clerk, Askers(service, MODEL, count=2) as first:
        clerk.more(3)
        first.more(3)
    assert lost(clerk.answers + first.answers) == []
    assert service.stop() == 0
    service.wait(lambda: service.left_running() == [], 20)  # what had to be killed is gone a moment later
    service.start("--slots", "2")
    service.wait(lambda: name_of(service, "clerk") == "Complete")
    with Askers(service, "clerk", count=1) as clerk:
        clerk.more(1)
    assert lost(clerk.answers) == []
    assert daulat("stop", "clerk", home=service.home)["stopped"]
    service.wait(lambda: not replicas(service, "clerk"))
    with service.client() as client:
        service.wait(lambda: [row["id"] for row in client.get("models").json()["data"]] == [MODEL])
        assert client.post("chat/completions", json={"model": "clerk", "messages": []}).status_code == 404
    audited(service, tmp_path)


def test_nothing_is_left_running(service: Service) -> None:
    assert service.stop() == 0
    service.wait(lambda: service.left_running() == [], 20)  # what had to be killed is gone a moment later
