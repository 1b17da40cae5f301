"""The whole service with the real engine and the real model, used through the `openai` package."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel
from tests.support.service import Service, contents, daulat, slowness

from daulat.settings import Home

pytestmark = [pytest.mark.slow, pytest.mark.alone]
_NUMBER = 20  # bytes at the beginning of a snapshot that hold its number
MODEL = "smollm2-135m-instruct"
QUESTION: list[Any] = [{"role": "user", "content": "What is the capital of Malaysia?"}]
WEATHER: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather of a city",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("real") / "home") as running:
        yield running


@pytest.fixture
def client(service: Service) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{service.facts['url']}/v1", api_key=service.facts["api_key"], max_retries=0) as made:
        yield made


def headers(service: Service) -> dict[str, str]:
    return {"authorization": f"Bearer {service.facts['api_key']}"}


def test_the_line_for_scripts_says_everything(service: Service) -> None:
    assert set(service.facts) == {"url", "api_key", "auditor_token", "log_url", "log_vkey", "home"}
    assert service.facts["api_key"].startswith("sk-")
    stored = b"".join(data for _, data in contents(service.home))
    for secret in ("api_key", "auditor_token"):
        assert service.facts[secret].encode() not in stored, "a secret is stored in clear"
    assert (service.home / "log.vkey").read_text().strip() == service.facts["log_vkey"]
    assert all("#" in line for line in (service.home / "charter.toml").read_text().splitlines() if line)


def test_an_answer_a_stream_and_its_usage(client: OpenAI) -> None:
    assert [item.id for item in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    whole = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0, max_tokens=30)
    assert "Kuala Lumpur" in str(whole.choices[0].message.content)
    assert whole.usage is not None
    assert whole.usage.completion_tokens > 0
    plain = list(client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=5, stream=True))
    assert all(chunk.usage is None and chunk.choices for chunk in plain), "usage is hidden from who did not ask"
    asked = list(
        client.chat.completions.create(
            model=MODEL, messages=QUESTION, max_tokens=5, stream=True, stream_options={"include_usage": True}
        )
    )
    assert asked[-1].usage is not None
    assert asked[-1].usage.completion_tokens == 5
    text = client.completions.create(model=MODEL, prompt="Malaysia is", max_tokens=5)
    assert text.choices[0].text


def test_tools_and_structured_output(client: OpenAI) -> None:
    named: Any = {"type": "function", "function": {"name": "get_weather"}}
    ask: list[Any] = [{"role": "user", "content": "Weather in Ipoh?"}]
    for choice in ("required", named):
        answer = client.chat.completions.create(
            model=MODEL, messages=ask, tools=WEATHER, tool_choice=choice, temperature=0, max_tokens=80
        )
        (call,) = answer.choices[0].message.tool_calls or ()
        assert call.type == "function"
        assert isinstance(json.loads(call.function.arguments)["city"], str)
        assert answer.choices[0].finish_reason == "tool_calls"
    chunks = client.chat.completions.create(
        model=MODEL, messages=ask, tools=WEATHER, tool_choice="required", temperature=0, max_tokens=80, stream=True
    )
    calls = [call for chunk in chunks for choice in chunk.choices for call in choice.delta.tool_calls or ()]
    assert calls[0].function is not None
    assert calls[0].function.name == "get_weather"

    class City(BaseModel):
        name: str
        country: str

    parsed = client.chat.completions.parse(
        model=MODEL, messages=QUESTION, response_format=City, temperature=0, max_tokens=60
    )
    assert isinstance(parsed.choices[0].message.parsed, City)


def test_a_required_call_is_made_whatever_the_model_would_rather_say(client: OpenAI) -> None:
    place = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}, "required": ["city"]}
    tools: list[Any] = [
        {
            "type": "function",
            "function": {
                "name": name,
                "parameters": {
                    "type": "object",
                    "properties": {"place": {"$ref": "#/$defs/place"}},
                    "required": ["place"],
                    "$defs": {"place": place},
                },
            },
        }
        for name in ("weather", "traffic")
    ]
    joke: list[Any] = [{"role": "user", "content": "Tell me a joke."}]
    choices: list[Any] = ["required", {"type": "function", "function": {"name": "traffic"}}]
    for choice in choices:
        answer = client.chat.completions.create(
            model=MODEL, messages=joke, tools=tools, tool_choice=choice, temperature=0, max_tokens=120
        )
        (call,) = answer.choices[0].message.tool_calls or ()
        assert call.type == "function"
        assert isinstance(json.loads(call.function.arguments)["place"]["city"], str)
        assert choice == "required" or call.function.name == "traffic"


def test_errors_come_as_the_packages_own_exceptions(service: Service, client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="nope"):
        client.chat.completions.create(model="nope", messages=QUESTION)
    with pytest.raises(openai.BadRequestError, match="embed"):
        client.embeddings.create(model=MODEL, input="x")
    stranger = OpenAI(base_url=f"{service.facts['url']}/v1", api_key="sk-unknown", max_retries=0)
    with stranger, pytest.raises(openai.AuthenticationError):
        stranger.chat.completions.create(model=MODEL, messages=QUESTION)


def test_many_at_once_with_one_system_prompt(service: Service) -> None:
    system = "You are a helpful assistant of the ministry of health. " * 60

    async def go() -> list[str]:
        async with AsyncOpenAI(base_url=f"{service.facts['url']}/v1", api_key=service.facts["api_key"]) as made:

            async def one(number: int) -> str:
                messages: list[Any] = [{"role": "system", "content": system}, {"role": "user", "content": f"{number}?"}]
                stream = await made.chat.completions.create(model=MODEL, messages=messages, max_tokens=4, stream=True)
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

            return await asyncio.gather(*(one(number) for number in range(8)))

    assert len(asyncio.run(go())) == 8


def test_a_client_that_leaves_stops_the_engine(service: Service) -> None:
    body = {"model": MODEL, "messages": QUESTION, "stream": True, "max_tokens": 2000, "ignore_eos": True}
    url = f"{service.facts['url']}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, headers=headers(service), timeout=120) as got:
        request = got.headers["x-request-id"]
        next(got.iter_lines())

    def entry() -> Any:
        found = daulat("log", "show", "--type", "inference/v1", "--last", "100", home=service.home)
        return next((item for item in found if item["admission"]["request_id"] == request), None)

    assert service.wait(entry)["completion"]["outcome"] == "aborted"


def test_a_revoked_key_is_cut_within_a_second(service: Service) -> None:
    assert min(_cut(service, f"short-{number}") for number in range(3)) < 1.5 * slowness()  # other load adds to it


def _cut(service: Service, label: str) -> float:
    """Seconds from a key's revocation to the end of its stream."""
    made = daulat("key", "create", "--person", "first-person", "--label", label, home=service.home)
    mine = {"authorization": f"Bearer {made['api_key']}"}
    body = {"model": MODEL, "messages": QUESTION, "stream": True, "max_tokens": 4000, "ignore_eos": True}
    url = f"{service.facts['url']}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, headers=mine, timeout=120) as got:
        lines = got.iter_lines()
        next(lines)
        daulat("key", "revoke", label, home=service.home)
        revoked = time.monotonic()
        rest = "\n".join(lines)
        seconds = time.monotonic() - revoked
    assert "revoked" in rest
    assert "[DONE]" not in rest
    assert httpx.post(url, json=body, headers=mine, timeout=120).status_code == 401
    return seconds


def test_an_act_is_acknowledged_and_a_list_given_when_every_worker_works_by_it(service: Service) -> None:
    workers = [child["pid"] for child in service.status()["processes"] if child["name"] == "worker"]
    snapshot = Home(service.home).snapshot
    before = snapshot.read_bytes()[:_NUMBER]
    environment = {**os.environ, "DAULAT_HOME": str(service.home)}

    def begin(*verb: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "daulat", *verb, "--json"]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)

    try:
        for worker in workers:
            os.kill(worker, signal.SIGSTOP)
        creating = begin("key", "create", "--person", "first-person")
        service.wait(lambda: snapshot.read_bytes()[:_NUMBER] != before)
        listing = begin("replicas")
        with pytest.raises(subprocess.TimeoutExpired):  # published, and no worker has seen it; first: it waits 10 s
            creating.wait(1)
        with pytest.raises(subprocess.TimeoutExpired):
            listing.wait(2)
    finally:
        for worker in workers:
            os.kill(worker, signal.SIGCONT)
    assert json.loads(listing.communicate(timeout=120)[0])[0]["phase"] == "ready"
    said, _ = creating.communicate(timeout=120)
    key = {"authorization": f"Bearer {json.loads(said)['api_key']}"}
    assert httpx.get(f"{service.facts['url']}/v1/models", headers=key, timeout=120).status_code == 200


def test_someone_whom_the_rules_refuse_is_told_which_rule(service: Service) -> None:
    daulat(
        "person",
        "add",
        "visitor",
        "--tenant",
        "first-agency",
        "--citizenship",
        "SG",
        "--assurance",
        "high",
        home=service.home,
    )
    made = daulat("key", "create", "--person", "visitor", home=service.home)
    body = {"model": MODEL, "messages": QUESTION}
    got = httpx.post(
        f"{service.facts['url']}/v1/chat/completions",
        json=body,
        headers={"authorization": f"Bearer {made['api_key']}"},
        timeout=120,
    )
    assert got.status_code == 403
    assert "use.citizenship" in got.json()["error"]["message"]
    wanted = got.headers["x-request-id"]
    explained = service.wait(lambda: _explained(service, wanted))
    assert (explained["effect"], explained["policies"]) == ("deny", ["use.citizenship"])


def _explained(service: Service, wanted: str) -> Any:
    found = daulat("policy", "explain", wanted, home=service.home, code=None)
    return found if isinstance(found, dict) else None


def test_receipts_verify_and_the_audit_finds_no_lie(service: Service, tmp_path: Path) -> None:
    body = json.dumps({"model": MODEL, "messages": QUESTION, "temperature": 0, "max_tokens": 20}).encode()
    got = httpx.post(
        f"{service.facts['url']}/v1/chat/completions",
        content=body,
        headers={**headers(service), "content-type": "application/json"},
        timeout=120,
    )
    address = f"{service.facts['url']}{got.headers['daulat-receipt']}"
    service.wait(lambda: httpx.get(address, headers=headers(service), timeout=120).status_code == 200)
    files = {
        "receipt.json": httpx.get(address, headers=headers(service), timeout=120).content,
        "request": body,
        "response": got.content,
        "token": service.facts["auditor_token"].encode(),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    given = ["--vkey", service.facts["log_vkey"], "--request", str(tmp_path / "request")]
    given += ["--response", str(tmp_path / "response")]
    verdict = daulat("verify", str(tmp_path / "receipt.json"), *given)
    assert any("unwitnessed" in words for words in verdict["short"])
    (tmp_path / "response").write_bytes(got.content + b" ")
    daulat("verify", str(tmp_path / "receipt.json"), *given, code=1)

    state = [
        "--vkey",
        service.facts["log_vkey"],
        "--token-file",
        str(tmp_path / "token"),
        "--state",
        str(tmp_path / "s"),
    ]
    first = daulat("audit", service.facts["log_url"], *state)
    second = daulat("audit", service.facts["log_url"], *state)  # consistent with the remembered checkpoint
    assert json.dumps(first)
    assert json.dumps(second)
    assert daulat("log", "fsck", home=service.home)["sound"]


def test_a_killed_engine_comes_back_and_running_answers_end_honestly(service: Service) -> None:
    (before,) = service.status()["replicas"]
    body = {"model": MODEL, "messages": QUESTION, "stream": True, "max_tokens": 4000, "ignore_eos": True}
    url = f"{service.facts['url']}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, headers=headers(service), timeout=120) as got:
        lines = got.iter_lines()
        next(lines)
        (engine,) = service.engines()
        os.kill(engine, signal.SIGKILL)
        rest = "\n".join(lines)
    assert '"error"' in rest
    assert "[DONE]" not in rest
    service.wait(lambda: service.status()["replicas"][0]["entry"] not in {None, before["entry"]})
    again = service.wait(lambda: _answers(service))
    assert again


def _answers(service: Service) -> bool:
    got = httpx.post(
        f"{service.facts['url']}/v1/chat/completions",
        json={"model": MODEL, "messages": QUESTION, "max_tokens": 2},
        headers=headers(service),
        timeout=120,
    )
    return got.status_code == 200


def test_ctrl_c_leaves_nothing_and_the_next_start_is_quick(service: Service) -> None:
    size = service.status()["log"]["size"]
    starts = [_started_again(service) for _ in range(3)]
    assert min(beside for _, beside in starts) < 10  # other load adds to it
    assert min(whole for whole, _ in starts) < service.first, "it made a home and took a model in, too"
    assert _answers(service)
    service.wait(lambda: service.status()["log"]["size"] > size)
    assert service.stop(signal.SIGTERM) == 0
    service.wait(lambda: service.left_running() == [], 20)
    service.start()


def _started_again(service: Service) -> tuple[float, float]:
    """Seconds of a start after a stop, and of what of it is not the engine's own, as on this machine alone.

    How soon the engine has loaded a model and answered its checks is the machine's affair.
    """
    assert service.stop() == 0
    service.wait(lambda: service.left_running() == [], 20)  # what had to be killed is gone a moment later
    busy = slowness()
    said = service.start()
    assert said["api_key"] is None
    assert said["auditor_token"] is None
    log = [json.loads(line) for line in (service.home / "daulat.log").read_text().splitlines()]
    began, ready = (
        datetime.fromisoformat([entry["time"] for entry in log if words in entry["message"]][-1])
        for words in (" is started", ": ready")
    )
    return service.seconds, (service.seconds - (ready - began).total_seconds()) / max(busy, slowness())
