"""`daulat bench`: streams are counted as clients see them, and what goes wrong is counted too."""

from __future__ import annotations

import json

import pytest
from tests.support.verbs import Shell, site

MODELS = json.dumps({"data": [{"id": "tiny"}]}).encode()
CHUNK = {"choices": [{"delta": {"content": "Kuala"}}]}
LAST = {"choices": [], "usage": {"completion_tokens": 7}}
STREAM = "".join(f"data: {line}\n\n" for line in (json.dumps(CHUNK), json.dumps(LAST), "[DONE]")).encode()
CHAT = "/v1/chat/completions"


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch, run: Shell) -> None:
    monkeypatch.setenv("DAULAT_API_KEY", "sk-bench")


def test_answers_tokens_and_times(run: Shell) -> None:
    with site({"/v1/models": MODELS, CHAT: STREAM}) as served:
        said = run("bench", served.url, "--requests", 6, "--concurrency", 2, "--json")
        assert {authorization for _, authorization in served.asked} == {"Bearer sk-bench"}
    value = said.value
    assert said.code == 0
    assert (value["model"], value["answers"], value["errors"]) == ("tiny", 6, {})
    assert value["tokens_per_second"] == pytest.approx(6 * 7 / value["seconds"], rel=0.2)
    assert set(value["first_token_ms"]) == {"p50", "p90", "p99"}
    assert value["first_token_ms"]["p50"] <= value["answer_ms"]["p99"]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((503, b"{}"), "status 503"),
        (STREAM.removesuffix(b"data: [DONE]\n\n"), "cut short"),
        (b'data: {"error": {"code": "engine_dead"}}\n\n', "engine_dead"),
    ],
)
def test_what_goes_wrong_is_counted_and_exits_with_1(run: Shell, answer: bytes, error: str) -> None:
    with site({"/v1/models": MODELS, CHAT: answer}) as served:
        said = run("bench", served.url, "--requests", 3, "--model", "tiny", "--json")
    assert (said.code, said.value["answers"], said.value["errors"]) == (1, 0, {error: 3})


def test_people_get_a_table_and_a_bar(run: Shell) -> None:
    with site({"/v1/models": MODELS, CHAT: STREAM}) as served:
        said = run("bench", served.url, "--requests", 2)
    assert "answers                2" in said.out
    assert "answers 100%" in said.err


def test_a_service_that_cannot_be_asked(run: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    with site({"/v1/models": (401, b"{}")}) as served:
        refused = run("bench", served.url, "--json")
    assert refused.value["error"]["code"] == "invalid_api_key"
    assert run("bench", served.url, "--json").value["error"]["code"] == "unavailable"
    with site({"/v1/models": b'{"data": []}'}) as served:
        assert "may use no model" in run("bench", served.url).err
    monkeypatch.delenv("DAULAT_API_KEY")
    assert "--key-file" in run("bench").err
