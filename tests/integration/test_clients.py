"""Other people's clients against the real service, as their own documentation uses them, nothing adapted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.service import Service

pytestmark = pytest.mark.slow
MODEL = "smollm2-135m-instruct"
QUESTION = "What is the capital of Malaysia?"
PROGRAMS = Path(__file__).parent / "clients"
BIN = Path(sys.prefix) / "clients" / "bin"  # `make test-slow` makes it from requirements/clients.lock


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("clients") / "home") as made:
        yield made


def run(*command: str | Path, stdin: bytes = b"", **environment: str) -> str:
    """What a program prints; it must end well."""
    cleared = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    done = subprocess.run(
        [str(part) for part in command],
        input=stdin,
        capture_output=True,
        check=False,
        timeout=600,
        env={**cleared, **environment},
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return done.stdout.decode()


def client(name: str) -> Path:
    if not (BIN / name).exists():
        pytest.skip("the clients' environment is made by `make test-slow`")
    return BIN / name


# LangChain.


@pytest.fixture(scope="module")
def langchain(service: Service) -> dict[str, Any]:
    arguments = [f"{service.facts['url']}/v1", service.facts["api_key"], MODEL]
    said = run(client("python"), PROGRAMS / "langchain_chat.py", *arguments, LANGSMITH_TRACING="false")
    return dict(json.loads(said))


def test_langchain_invokes_streams_and_batches(langchain: dict[str, Any]) -> None:
    assert "Kuala Lumpur" in langchain["invoke"]
    assert langchain["usage"]["output_tokens"] > 0
    assert len([piece for piece in langchain["stream"] if piece]) > 3, "in pieces"
    assert "Kuala Lumpur" in "".join(langchain["stream"])
    assert langchain["stream_usage"]["output_tokens"] > 0
    assert len(langchain["async"]) == 2
    assert langchain["completion"]


def test_langchain_calls_tools_and_parses(langchain: dict[str, Any]) -> None:
    for calls in (langchain["calls"], langchain["streamed_calls"]):
        assert [call["name"] for call in calls] == ["get_weather"]
        assert isinstance(calls[0]["args"]["city"], str)
        assert calls[0]["id"]
    assert langchain["after_tool"]
    assert set(langchain["structured"]) == {"name", "country"}


# OpenAI's Responses, and the `anthropic` package.


@pytest.fixture(scope="module")
def wires(service: Service) -> dict[str, Any]:
    arguments = [service.facts["url"], service.facts["api_key"], MODEL]
    return dict(json.loads(run(client("python"), PROGRAMS / "responses_and_messages.py", *arguments)))


def test_openais_responses_answer_stream_count_and_refuse(wires: dict[str, Any], service: Service) -> None:
    found = wires["responses"]
    assert "Kuala Lumpur" in found["text"]
    assert found["usage"]["output_tokens"] > 0
    assert found["kinds"][0] == "response.created"
    assert found["kinds"][-1] == "response.completed"
    assert found["kinds"].count("response.output_text.delta") >= 3
    assert found["stream_usage"]["input_tokens"] == found["counted"] == found["usage"]["input_tokens"]
    assert found["refused"] == "model_not_found"
    with service.client() as client:  # not by curl's retrying: it prints what it is told meanwhile, too
        service.wait(lambda: client.get(f"{service.facts['url']}{found['receipt']}").is_success)
    receipt = json.loads(curl(service, found["receipt"]))
    assert "responses" in json.dumps(receipt)


def test_anthropics_package_answers_streams_counts_and_understands_errors(wires: dict[str, Any]) -> None:
    found = wires["messages"]
    assert "Kuala Lumpur" in found["text"]
    assert len([piece for piece in found["pieces"] if piece]) > 3, "in pieces"
    assert found["final"] > 0
    assert found["stop"] in {"end_turn", "max_tokens"}
    usage = found["usage"]
    assert found["counted"] == usage["input_tokens"] + (usage["cache_read_input_tokens"] or 0)
    assert {name: error[:2] for name, error in found["errors"].items()} == {
        "unknown": [404, "not_found_error"],
        "stranger": [401, "authentication_error"],
        "too long": [400, "invalid_request_error"],
    }
    assert "context" in found["errors"]["too long"][2]


def test_tokens_are_counted_as_the_engine_counts_them(service: Service, wires: dict[str, Any]) -> None:
    messages = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": QUESTION}]}).encode()
    assert json.loads(curl(service, "/tokenize", body=messages))["count"] == wires["responses"]["counted"]
    text = json.loads(curl(service, "/tokenize", body=json.dumps({"model": MODEL, "prompt": QUESTION}).encode()))
    assert text["count"] == len(text["tokens"]) == 7


# The `llm` command.


@pytest.fixture(scope="module")
def llm(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`llm` with its own configuration file, as an operator would write it."""
    folder = tmp_path_factory.mktemp("llm")
    (folder / "extra-openai-models.yaml").write_text(
        f"- model_id: daulat\n  model_name: {MODEL}\n  api_base: {service.facts['url']}/v1\n"
        "  api_key_name: daulat\n  supports_tools: true\n  supports_schema: true\n"
    )
    (folder / "keys.json").write_text(json.dumps({"daulat": service.facts["api_key"]}))

    def call(*arguments: str) -> str:
        return run(client("llm"), *arguments, LLM_USER_PATH=str(folder))

    return call


def test_llm_answers_streams_and_logs_usage(llm: Any) -> None:
    assert "daulat" in llm("models", "list")
    ask = ("-m", "daulat", "-o", "temperature", "0", "-o", "max_tokens", "30")
    streamed, whole = llm(*ask, QUESTION), llm(*ask, "--no-stream", QUESTION)
    assert "Kuala Lumpur" in streamed
    assert streamed == whole
    (last,) = json.loads(llm("logs", "list", "-n", "1", "--json"))
    assert last["output_tokens"] > 0


def test_llm_asks_for_a_schema_and_keeps_a_conversation(llm: Any) -> None:
    found = json.loads(
        llm("-m", "daulat", "-o", "temperature", "0", "-o", "max_tokens", "60", "--schema", "name, country", QUESTION)
    )
    assert set(found) == {"name", "country"}
    assert llm("-c", "-o", "max_tokens", "5", "And of Japan?")


def test_llm_runs_a_tool(llm: Any) -> None:
    said = llm("-m", "daulat", "-o", "max_tokens", "80", "-T", "llm_version", "--td", "What is your version?")
    assert said.strip()


# curl.


def curl(service: Service, path: str, *arguments: str, body: bytes | None = None) -> str:
    command = ["curl", "--silent", "--show-error", "--fail-with-body", f"{service.facts['url']}{path}"]
    command += ["-H", f"Authorization: Bearer {service.facts['api_key']}"]
    if body is not None:
        command += ["-H", "Content-Type: application/json", "--data-binary", "@-"]
    return run(*command, *arguments, stdin=body or b"")


def asked(**fields: Any) -> bytes:
    return json.dumps({"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], **fields}).encode()


def test_curl_asks_and_streams(service: Service) -> None:
    whole = json.loads(curl(service, "/v1/chat/completions", body=asked(temperature=0, max_tokens=30)))
    assert "Kuala Lumpur" in whole["choices"][0]["message"]["content"]
    streamed = curl(service, "/v1/chat/completions", "--no-buffer", body=asked(max_tokens=5, stream=True))
    lines = [line for line in streamed.splitlines() if line]
    assert lines[-1] == "data: [DONE]"
    assert all(line.startswith("data: ") for line in lines)


@pytest.mark.parametrize(
    "options",
    [
        ("--http1.0",),
        ("-H", "Expect: 100-continue"),
        ("-H", "Transfer-Encoding: chunked"),
        ("-H", "Connection: close"),
        ("--compressed",),
        ("--http2",),  # an upgrade that is not taken
    ],
)
def test_curl_in_its_other_moods(service: Service, options: tuple[str, ...]) -> None:
    got = json.loads(curl(service, "/v1/chat/completions", *options, body=asked(max_tokens=3)))
    assert got["choices"][0]["finish_reason"] == "length"


def test_curl_reads_headers_models_and_errors(service: Service) -> None:
    said = curl(service, "/v1/models", "--include")
    assert said.startswith("HTTP/1.1 200 OK\r\n")
    assert json.loads(said.partition("\r\n\r\n")[2])["data"][0]["id"] == MODEL
    head = curl(service, "/v1/models", "--head")
    assert head.startswith("HTTP/1.1 200 OK\r\n")
    refused = subprocess.run(
        ["curl", "--silent", "--write-out", "%{http_code}", f"{service.facts['url']}/v1/models"],
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert refused.stdout.endswith(b"401")
