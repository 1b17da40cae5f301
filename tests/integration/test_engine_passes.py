"""The real engine's own abilities reach the client, and its counters and the log agree to the token."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.models import REASONING, variant
from tests.support.service import Service, daulat

pytestmark = [pytest.mark.slow, pytest.mark.alone]
MODEL = "smol-reasoner"
ASK = [{"role": "user", "content": "What is the capital of Malaysia?"}]
GRAMMAR = 'root ::= "<think>" [a-z ]{5,20} "</think>" [A-Za-z ]{3,20}'


@pytest.fixture(scope="module")
def service(starter: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A model file of the user's own, under its own name."""
    folder = tmp_path_factory.mktemp("passes")
    own = variant(starter, folder / "own.gguf", "Smol Reasoner", template=REASONING)
    running = Service(folder / "home", environment={"DAULAT_CANARY_SECONDS": "2"})
    running.start("--model", str(own))
    with running.closing():
        yield running


@pytest.fixture
def client(service: Service) -> Iterator[httpx.Client]:
    with service.client() as made:
        yield made


def ask(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    got = client.post("chat/completions", json={"model": MODEL, "messages": ASK, "max_tokens": 12, **fields})
    assert got.status_code == 200, got.text
    return dict(got.json())


def events(client: httpx.Client, path: str = "chat/completions", **fields: Any) -> list[dict[str, Any]]:
    body = {"model": MODEL, "messages": ASK, "max_tokens": 12, "stream": True, **fields}
    if path == "completions":
        del body["messages"]
    with client.stream("POST", path, json=body) as got:
        assert got.status_code == 200, got.read()
        lines = [line.removeprefix("data: ") for line in got.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_a_model_file_of_the_users_own_is_served_under_its_own_name(client: httpx.Client, service: Service) -> None:
    assert [item["id"] for item in client.get("models").json()["data"]] == [MODEL]
    (admitted,) = service.entries("model.admitted/v1")
    assert admitted["model"] == MODEL
    assert admitted["digest"] == service.status()["deployments"][0]["spec"]["model"]


def test_reasoning_is_told_apart_in_answers_and_streams(client: httpx.Client) -> None:
    message = ask(client, grammar=GRAMMAR, max_tokens=40, temperature=0)["choices"][0]["message"]
    assert len(message["reasoning_content"]) >= 5
    assert "think" not in message["content"] + message["reasoning_content"]
    deltas = [event["choices"][0]["delta"] for event in events(client, grammar=GRAMMAR, max_tokens=40, temperature=0)]
    assert any(delta.get("reasoning_content") for delta in deltas)
    assert any(delta.get("content") for delta in deltas)
    assert not any("think" in (delta.get("content") or "") for delta in deltas)


def test_logprobs_stop_and_seed_are_the_engines_own(client: httpx.Client) -> None:
    found = ask(client, logprobs=True, top_logprobs=3, temperature=0)["choices"][0]["logprobs"]["content"]
    assert all(token["logprob"] <= 0 and len(token["top_logprobs"]) == 3 for token in found)
    words = ask(client, temperature=0, max_tokens=40)["choices"][0]["message"]["content"].split()
    stopped = ask(client, temperature=0, max_tokens=40, stop=[words[2]])["choices"][0]
    assert words[2] not in stopped["message"]["content"]
    assert stopped["finish_reason"] == "stop"
    one, same, other = (
        ask(client, seed=seed, temperature=1.5)["choices"][0]["message"]["content"] for seed in (7, 7, 8)
    )
    assert one == same != other


def test_an_answer_fits_the_schema_that_was_asked_for(client: httpx.Client) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "people": {"type": "integer"}},
        "required": ["city", "people"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "city", "strict": True, "schema": schema}}
    found = json.loads(
        ask(client, response_format=wanted, max_tokens=80, temperature=0)["choices"][0]["message"]["content"]
    )
    assert set(found) == {"city", "people"}
    assert isinstance(found["people"], int)


@pytest.mark.parametrize("count", [2, 6])  # 6: more than there are slots
def test_n_answers_are_all_there_and_all_counted(client: httpx.Client, count: int) -> None:
    one = ask(client, seed=3, temperature=1.5, max_tokens=8)
    found = ask(client, n=count, seed=3, temperature=1.5, max_tokens=8)
    assert [choice["index"] for choice in found["choices"]] == list(range(count))
    contents = [choice["message"]["content"] for choice in found["choices"]]
    assert contents[0] == one["choices"][0]["message"]["content"]
    assert len(set(contents)) > 1, "the same seed is not the same answer n times"
    assert found["usage"]["prompt_tokens"] == one["usage"]["prompt_tokens"]
    assert count < found["usage"]["completion_tokens"] <= count * 8


def test_n_streams_are_one_stream_with_one_usage(client: httpx.Client) -> None:
    *chunks, last = events(client, n=3, ignore_eos=True, max_tokens=5, stream_options={"include_usage": True})
    assert {choice["index"] for chunk in chunks for choice in chunk["choices"]} == {0, 1, 2}
    assert all(chunk["choices"] and not chunk.get("usage") for chunk in chunks)
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 15)


def test_a_list_of_prompts_is_answered_in_order(client: httpx.Client) -> None:
    body = {"model": MODEL, "prompt": ["One, two, three,", "Kuala"], "max_tokens": 3, "temperature": 0, "echo": False}
    got = client.post("completions", json=body).json()
    assert [choice["index"] for choice in got["choices"]] == [0, 1]
    alone = client.post("completions", json={**body, "prompt": "Kuala"}).json()
    assert got["choices"][1]["text"] == alone["choices"][0]["text"]
    assert got["usage"]["completion_tokens"] == 6
    streamed = events(client, "completions", prompt=body["prompt"], max_tokens=3, temperature=0)
    texts = ["".join(c["text"] for e in streamed for c in e["choices"] if c["index"] == at) for at in (0, 1)]
    assert texts == [choice["text"] for choice in got["choices"]]


def test_what_the_engine_refuses_comes_with_its_own_words(client: httpx.Client) -> None:
    for fields in ({"n": "2"}, {"grammar": "root ::= ("}, {"messages": [{"role": "user", "content": "word " * 9000}]}):
        got = client.post("chat/completions", json={"model": MODEL, "messages": ASK, "max_tokens": 4, **fields})
        assert got.status_code == 400, (fields, got.text)
        assert got.json()["error"]["message"]
    assert client.post("chat/completions", json={"model": MODEL, "messages": ASK, "n": 129}).status_code == 400


def test_one_long_system_prompt_is_read_once_for_many(client: httpx.Client) -> None:
    system = {"role": "system", "content": "Every officer keeps the records in order. " * 60}

    def one(number: int) -> dict[str, Any]:
        return ask(client, messages=[system, {"role": "user", "content": f"{number}?"}], max_tokens=4)["usage"]

    with ThreadPoolExecutor(4) as pool:
        used = list(pool.map(one, range(4)))
    fresh = sum(usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"] for usage in used)
    assert fresh < used[0]["prompt_tokens"], "four requests together read less than one prompt: it was shared"


def test_the_engines_counters_and_the_log_agree_to_the_token(service: Service, tmp_path: Path) -> None:
    """Last: it adds up what the tests before it asked for."""

    def sums() -> dict[str, int]:
        done = [
            entry["completion"] for entry in service.entries("inference/v1") if entry["completion"]["status"] == 200
        ]
        prompt = sum(one["usage"]["prompt_tokens"] - one["usage"]["cached_tokens"] + one["overhead"] for one in done)
        return {"prompt_tokens": prompt, "completion_tokens": sum(one["usage"]["completion_tokens"] for one in done)}

    def settled() -> dict[str, int] | None:
        """The sums, if no entry of an earlier answer came in during two readings of the engine's counters."""
        logged, before = sums(), len(service.entries("canary/v1"))
        service.wait(lambda: len(service.entries("canary/v1")) > before + 1)
        return logged if sums() == logged else None

    logged = service.wait(settled)
    counters = service.entries("canary/v1")[-1]["counters"]
    counted = {kind: counters[kind] - counters[f"checked_{kind}"] for kind in logged}  # answer checks are no answers
    ahead = sum(entry["completion"]["overhead"] > 0 for entry in service.entries("inference/v1"))
    assert counted["prompt_tokens"] == logged["prompt_tokens"]
    assert logged["completion_tokens"] <= counted["completion_tokens"] <= logged["completion_tokens"] + ahead
    token = tmp_path / "token"
    token.write_text(service.facts["auditor_token"])
    found = daulat("audit", service.facts["log_url"], "--vkey", service.facts["log_vkey"], "--token-file", str(token))
    assert found["logs"][0]["findings"] == []


def test_one_of_several_prompts_that_is_refused_refuses_them_all(client: httpx.Client) -> None:
    """After the adding up: what was read for the other prompt is known to nobody."""
    got = client.post("completions", json={"model": MODEL, "prompt": ["short", "word " * 9000], "max_tokens": 4})
    assert got.status_code == 400
    assert "context" in got.json()["error"]["message"]


def test_a_model_that_embeds_embeds(starter: Path, tmp_path: Path) -> None:
    own = variant(starter, tmp_path / "embeds.gguf", "Smol Embedder", embeds=True)
    service = Service(tmp_path / "home", environment={"DAULAT_CANARY_SECONDS": "2"})
    service.start("--model", str(own))
    with service.closing(), service.client() as client:

        def embed(text: Any, **fields: Any) -> dict[str, Any]:
            got = client.post("embeddings", json={"model": "smol-embedder", "input": text, **fields})
            assert got.status_code == 200, got.text
            return dict(got.json())

        texts = ["The cat sleeps on the sofa.", "A cat is asleep on the couch.", "Interest rates rose by two percent."]
        found = embed(texts)
        one, near, far = (item["embedding"] for item in found["data"])
        assert math.dist(one, near) < math.dist(one, far)
        assert found["usage"]["prompt_tokens"] == found["usage"]["total_tokens"] > 10
        assert embed(texts[0])["data"][0]["embedding"] == pytest.approx(one, abs=0.02)
        assert isinstance(embed("x", encoding_format="base64")["data"][0]["embedding"], str)
        long = embed("word " * 1500)["usage"]["prompt_tokens"]
        over = client.post("embeddings", json={"model": "smol-embedder", "input": "word " * 20_000})
        assert over.status_code == 400, "not 502, as llama.cpp's 500 would have it"
        assert over.json()["error"]["code"] == "context_length_exceeded"
        assert long >= 1500, "a long input is read whole"

        def used() -> int:
            return sum(entry["completion"]["usage"]["prompt_tokens"] for entry in service.entries("inference/v1"))

        service.wait(lambda: service.entries("canary/v1")[-1]["counters"]["prompt_tokens"] == used() > long)
