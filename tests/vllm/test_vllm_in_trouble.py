"""The real vLLM, killed and hung beside another, rolled out under load; then stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from tests.support.askers import Answer, Askers
from tests.support.real_vllm import MARKS, MODEL, START_SECONDS, deploy, process, replicas
from tests.support.service import Service, daulat

pytestmark = MARKS
FOUND_SECONDS = 50  # what docs/engines.md promises of a core that hangs
SLACK_SECONDS = 30  # for a machine that does other things, too
STREAMS = 2  # of the first askers: no more answers can have begun where their engine stands still
# Two silent canaries, or health probes, may find the killed one before the kernel has cleared up after it.
FINDS = ("crashed: signal SIGKILL", "canary: silent", "hung: no ")
QUESTION: list[Any] = [{"role": "user", "content": "What is the capital of Malaysia?"}]


def settled(service: Service, count: int = 2) -> list[dict[str, Any]]:
    """Until so many replicas, and no others, are ready."""

    def ready() -> list[dict[str, Any]]:
        rows = replicas(service)
        return rows if [row["phase"] for row in rows] == ["ready"] * count else []

    return list(service.wait(ready, START_SECONDS))


def lost(answers: list[Answer]) -> list[Answer]:
    """Answers that were owed: all but those that had begun when their engine died, and said so."""
    return [
        answer
        for answer in answers
        if not (answer.status == 200 and answer.whole and answer.text)
        and not (answer.stream and answer.status == 200 and answer.text and answer.error)
    ]


def accounted(service: Service, answers: list[Answer], before: int, tmp_path: Path) -> None:
    """Every request is in the log, and the audit finds no lie in it."""

    def logged() -> list[dict[str, Any]]:
        return service.entries("inference/v1")[before:]

    service.wait(lambda: len(logged()) >= len(answers))
    outcomes = [entry["completion"]["outcome"] for entry in logged()]
    assert outcomes.count("ok") == sum(answer.whole and not answer.error for answer in answers)
    (tmp_path / "token").write_text(service.facts["auditor_token"])
    asked = ("--vkey", service.facts["log_vkey"], "--token-file", str(tmp_path / "token"))
    daulat("audit", service.facts["log_url"], *asked)


def ended(service: Service, replica: str, after: float) -> dict[str, Any] | None:
    """The entry of its last end, once that is a later one."""
    found = [entry for entry in service.entries("replica.stopped/v1") if entry["replica"] == replica]
    return found[-1] if found and found[-1]["time"] / 1000 > after else None


@pytest.mark.parametrize(
    ("dies", "why"),
    [(True, FINDS), (False, ("hung: no token",))],
    ids=["killed", "hung behind a healthy front"],
)
def test_a_replica_that_dies_or_hangs_loses_no_request_that_had_not_begun(
    service: Service, tmp_path: Path, dies: bool, why: tuple[str, ...]
) -> None:
    deploy(service, MODEL, "--replicas", "2")
    victim = settled(service)[0]["id"]
    before = len(service.entries("inference/v1"))

    def busy() -> bool:
        return any(row["id"] == victim and row["requests"] > STREAMS for row in replicas(service))

    with Askers(service, MODEL, count=2 * STREAMS) as asking:
        asking.more(4)
        hurt = time.time()
        process(service, victim, "VLLM::EngineCore").send_signal(signal.SIGSTOP)  # what comes now does not begin
        with Askers(service, MODEL, count=6) as others:
            service.wait(busy)
            if dies:
                hurt = time.time()
                process(service, victim, "api_server").send_signal(signal.SIGKILL)
            stopped = service.wait(lambda: ended(service, victim, hurt))
            asking.more(8)
    answers = asking.answers + others.answers
    assert stopped["reason"].startswith(why)
    assert stopped["time"] / 1000 - hurt < FOUND_SECONDS + SLACK_SECONDS
    assert lost(answers) == []
    accounted(service, answers, before, tmp_path)
    attempts = [entry["completion"]["attempts"] for entry in service.entries("inference/v1")[before:]]
    assert ["dead", "ok"] in [[each["outcome"] for each in one] for one in attempts], "the other took over"
    assert victim in {row["id"] for row in settled(service)}, "the same replica came back"


def test_a_rollout_under_load_fails_no_request(service: Service, tmp_path: Path) -> None:
    deploy(service, MODEL, "--replicas", "1")  # a third vLLM would take minutes to start on two cores
    old = {row["id"] for row in settled(service, 1)}
    before = len(service.entries("inference/v1"))
    with Askers(service, MODEL, count=2, pause=3.0) as asking:
        asking.more(2)
        found = deploy(service, MODEL, "--context", "1536")
        asking.more(4)
    assert found["status"]["conditions"][1]["reason"] == "Complete"
    assert [answer for answer in asking.answers if answer.status != 200 or answer.error or not answer.whole] == []
    assert old.isdisjoint(row["id"] for row in settled(service, 1))
    assert service.entries("replica.started/v1")[-1]["engine"]["parameters"]["context"] == 1536
    accounted(service, asking.answers, before, tmp_path)


def test_a_stopped_deployment_lets_its_running_answer_end(service: Service, client: OpenAI) -> None:
    """Drained: the stream ends whole, and the engine's last counters are exact."""
    index = settled(service, 1)[0]["entry"]
    stream = client.chat.completions.create(
        model=MODEL, messages=QUESTION, max_tokens=150, stream=True, extra_body={"ignore_eos": True}
    )
    chunks = iter(stream)
    next(chunks)
    with subprocess.Popen(
        [sys.executable, "-m", "daulat", "stop", MODEL, "--json"],
        env={**os.environ, "DAULAT_HOME": str(service.home)},
        stdout=subprocess.DEVNULL,
    ) as stopping:
        rest = list(chunks)
        assert stopping.wait(180) == 0
    assert rest[-1].choices[0].finish_reason == "length"
    (entry,) = service.wait(lambda: [e for e in service.entries("replica.stopped/v1") if e["started"] == index])
    assert entry["exact"] is True
    assert entry["counters"]["completion_tokens"] >= 150
    service.wait(lambda: not [line for line in service.left_running() if "vllm" in line])
