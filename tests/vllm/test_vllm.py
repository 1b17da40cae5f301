"""The real vLLM on a CPU: deployed, in its sandbox without a network, asked through the gateway, counted and audited.

The model is the starter model, converted to safetensors and kept in `.cache/` between runs. The service is shared with
`test_vllm_in_trouble.py`, which comes after this and stops it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI, OpenAI
from tests.support.real_vllm import MARKS, MODEL, replicas
from tests.support.service import Service, daulat

pytestmark = MARKS
QUESTION: list[Any] = [{"role": "user", "content": "What is the capital of Malaysia?"}]
LONG: list[Any] = [{"role": "user", "content": "Malaysia has thirteen states. " * 60 + "How many states has Malaysia?"}]


def replica(service: Service) -> dict[str, Any]:
    """The one of vLLM."""
    (found,) = replicas(service)
    return found


def started(service: Service) -> dict[str, Any]:
    return next(entry for entry in reversed(service.entries("replica.started/v1")) if entry["engine"]["name"] == "vllm")


def canaries(service: Service, index: int) -> list[dict[str, Any]]:
    return [entry for entry in service.entries("canary/v1") if entry["started"] == index]


def logged(service: Service, index: int) -> dict[str, int]:
    """What the log's entries say that this replica was used for, as its own counters would count it."""
    completions = [
        entry["completion"]
        for entry in service.entries("inference/v1")
        if any(attempt["replica"] == index for attempt in entry["completion"]["attempts"])
    ]
    usages = [completion["usage"] for completion in completions]
    cached = sum(usage["cached_tokens"] for usage in usages)
    overhead = sum(completion["overhead"] for completion in completions)
    return {
        "prompt_tokens": sum(usage["prompt_tokens"] for usage in usages) - cached + overhead,
        "completion_tokens": sum(usage["completion_tokens"] for usage in usages),
    }


def counted(service: Service, index: int) -> dict[str, int]:
    """What the engine had counted at its last canary, without what its own answer checks have spent."""
    found = canaries(service, index)[-1]["counters"]
    return {name: found[name] - found[f"checked_{name}"] for name in ("prompt_tokens", "completion_tokens")}


def test_the_log_says_what_runs_and_that_it_is_contained(service: Service) -> None:
    entry = started(service)
    assert entry["engine"]["version"].startswith("0.32")
    assert entry["engine"]["parameters"]["context"] == 2048
    assert entry["device"]["kind"] == "cpu"
    sandbox = entry["sandbox"]
    assert (sandbox["grade"], sandbox["network"], sandbox["seccomp"]) == ("G2", "none", True)
    assert sandbox["socket_families"] == ["unix", "inet", "netlink"]
    rounds = service.wait(lambda: canaries(service, entry["index"]))
    assert {found["outcome"] for found in rounds} == {"contained"}
    refused = {target for probe in rounds[0]["probes"] for target in probe["target"].split(", ")}
    assert {"tcp 127.0.0.1", "udp 127.0.0.1", "AF_INET6", "AF_VSOCK", "AF_NETLINK sock_diag"} <= refused
    assert "AF_INET" not in refused, "what the engine needs is allowed, and said to be"


def test_answers_streams_and_several_choices(client: OpenAI) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0, max_tokens=30)
    assert "Kuala Lumpur" in str(whole.choices[0].message.content)
    chunks = list(
        client.chat.completions.create(
            model=MODEL,
            messages=QUESTION,
            temperature=0,
            max_tokens=30,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    said = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert said == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage or chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    several = client.chat.completions.create(model=MODEL, messages=QUESTION, n=3, max_tokens=8)
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    assert client.completions.create(model=MODEL, prompt=["Malaysia is", "Ipoh is"], max_tokens=5).choices[1].text


def test_a_prompt_that_was_read_before_is_found_in_the_cache(client: OpenAI) -> None:
    usages = [client.chat.completions.create(model=MODEL, messages=LONG, max_tokens=2).usage for _ in range(2)]
    details = [usage.prompt_tokens_details for usage in usages if usage is not None]
    assert [detail.cached_tokens > 0 for detail in details if detail is not None] == [False, True]


def test_more_streams_than_slots_all_end(service: Service) -> None:
    async def go() -> list[int]:
        async with AsyncOpenAI(
            base_url=f"{service.facts['url']}/v1", api_key=service.facts["api_key"], max_retries=0
        ) as client:

            async def one(number: int) -> int:
                asked: list[Any] = [{"role": "user", "content": f"Count from {number} on."}]
                stream = await client.chat.completions.create(model=MODEL, messages=asked, max_tokens=12, stream=True)
                return len([chunk async for chunk in stream])

            return list(await asyncio.gather(*(one(number) for number in range(8))))

    assert all(chunks > 1 for chunks in asyncio.run(go()))


def test_responses_messages_and_counting_are_vllms_own_with_usage_in_the_log(service: Service) -> None:
    asked = {"model": MODEL, "temperature": 0}
    messages, responses = {**asked, "messages": QUESTION, "max_tokens": 20}, {**asked, "input": QUESTION[0]["content"]}
    with service.client() as client:
        said = client.post("messages", json=messages).json()
        assert "Kuala Lumpur" in said["content"][0]["text"]
        answered = client.post("responses", json={**responses, "max_output_tokens": 20}).json()
        assert "Kuala Lumpur" in json.dumps(answered["output"])
        streams = [
            client.post("messages", json={**messages, "stream": True}).text,
            client.post("responses", json={**responses, "max_output_tokens": 20, "stream": True}).text,
        ]
        counted_ = client.post("messages/count_tokens", json={"model": MODEL, "messages": QUESTION}).json()
        tokenized = client.post("../tokenize", json={"model": MODEL, "messages": QUESTION}).json()
        refused = client.post("messages", json={"model": MODEL, "messages": QUESTION, "max_tokens": 100_000})
    assert [stream.rstrip().splitlines()[-2] for stream in streams] == [
        "event: message_stop",
        "event: response.completed",
    ]
    assert (refused.status_code, refused.json()["type"]) == (400, "error")

    def counted_by_action() -> dict[str, dict[str, int]]:
        done = [entry for entry in service.entries("inference/v1") if entry["completion"]["outcome"] == "ok"]
        return {entry["admission"]["action"]: entry["completion"]["usage"] for entry in done}

    service.wait(lambda: "tokenize" in counted_by_action())
    completions = counted_by_action()
    prompt = said["usage"]["input_tokens"] + (said["usage"].get("cache_read_input_tokens") or 0)
    assert prompt == counted_["input_tokens"] == tokenized["count"]
    for action in ("messages", "responses"):
        assert completions[action]["prompt_tokens"] == prompt
        assert completions[action]["completion_tokens"] > 0
    assert set(completions["tokenize"].values()) == {0}


def test_the_log_and_the_engines_own_counters_add_up(service: Service, client: OpenAI) -> None:
    """After everything above, to the token: several answers to one prompt, prompts from the cache, its own checks."""
    client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=4)
    index = started(service)["index"]
    wanted = service.wait(lambda: (found := logged(service, index))["completion_tokens"] and found)
    seen: list[dict[str, int]] = []

    def agree() -> bool:
        """At one moment: the next canary may come while the engine is asked for a sign of life."""
        seen[:] = [counted(service, index), logged(service, index)]
        return seen[0] == seen[1]

    with contextlib.suppress(AssertionError):  # the last one says by how much
        service.wait(agree)
    assert seen[0] == seen[1]
    assert wanted["prompt_tokens"] > 0


def test_receipts_verify_and_the_audit_finds_no_lie(service: Service, tmp_path: Path) -> None:
    body = json.dumps({"model": MODEL, "messages": QUESTION, "temperature": 0, "max_tokens": 20}).encode()
    with service.client() as client:
        got = client.post("chat/completions", content=body, headers={"content-type": "application/json"})
        path = got.headers["daulat-receipt"].removeprefix("/v1/")
        service.wait(lambda: client.get(path).status_code == 200)
        files = {"receipt": client.get(path).content, "request": body, "response": got.content}
    for name, data in {**files, "token": service.facts["auditor_token"].encode()}.items():
        (tmp_path / name).write_bytes(data)
    given = ["--request", str(tmp_path / "request"), "--response", str(tmp_path / "response")]
    daulat("verify", str(tmp_path / "receipt"), "--vkey", service.facts["log_vkey"], *given)
    told = ["--vkey", service.facts["log_vkey"], "--token-file", str(tmp_path / "token")]
    report = daulat("audit", service.facts["log_url"], *told)
    said = json.dumps(report)
    assert "behind the gateway's back" not in said
    assert "requests in flight" not in said, "no counter went beyond the log"


def test_a_client_that_leaves_ends_its_generation(service: Service, client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=QUESTION, max_tokens=1800, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    stream.close()
    service.wait(lambda: replica(service)["requests"] == 0)
    entry = service.wait(
        lambda: next((e for e in service.entries("inference/v1") if e["completion"]["outcome"] == "aborted"), None)
    )
    assert entry["completion"]["usage"]["completion_tokens"] < 1000
