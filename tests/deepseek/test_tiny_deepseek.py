"""A real DeepSeek on this machine: signed, imported, admitted, sandboxed, asked through the gateway, receipts checked.

`make test-deepseek` builds the model first. It has learnt a page of twenty questions, no more; what shows here is the
architecture, DeepSeek's tokenizer and template, and that llama.cpp computes what transformers computes.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openai import OpenAI
from tests.deepseek.page import PAGE, Lesson
from tests.support import tiny_deepseek
from tests.support.publisher import Publisher
from tests.support.service import LONG_SECONDS, Service, daulat

from daulat import registry
from daulat.adapters import sandbox
from daulat.client import Keeper

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not tiny_deepseek.gguf().exists(), reason="`make test-deepseek` builds it"),
    pytest.mark.skipif(sandbox.check().grade != "G2", reason="bubblewrap cannot make namespaces on this machine"),
]
MODEL = tiny_deepseek.NAME
KNOWN = "deepseek-v3.1"


@pytest.fixture(scope="module")
def publisher(tmp_path_factory: pytest.TempPathFactory) -> Publisher:
    return Publisher(tmp_path_factory.mktemp("publisher"))


def signed(path: Path, by: Publisher, signature: Path) -> list[str]:
    return ["model", "import", str(path), "--signature", str(signature), "--key", str(by.public)]


@pytest.fixture(scope="module")
def service(publisher: Publisher, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    home = tmp_path_factory.mktemp("deepseek") / "home"
    model = tiny_deepseek.gguf()
    signature = publisher.sign(model, publisher.folder / "model.sig")
    assert offline(*signed(model, publisher, signature), home=home).returncode == 0
    made = Service(home)
    with made.closing():
        made.start("--model", MODEL)
        yield made


@pytest.fixture(scope="module")
def keeper(service: Service) -> Keeper:
    return Keeper(service.facts["log_vkey"])


@pytest.fixture(scope="module")
def api(service: Service, keeper: Keeper) -> Iterator[OpenAI]:
    transport = keeper.transport(httpx2.HTTPTransport())
    client = httpx2.Client(transport=transport, trust_env=False, timeout=120)
    with OpenAI(base_url=f"{service.facts['url']}/v1", api_key=service.facts["api_key"], http_client=client) as made:
        yield made


def offline(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Run a verb where there is no network."""
    alone = ["bwrap", "--dev-bind", "/", "/", "--unshare-net", *(sys.executable, "-m", "daulat"), *arguments]
    environment = {**os.environ, "DAULAT_HOME": str(home)}
    return subprocess.run(alone, env=environment, capture_output=True, text=True, check=False, timeout=300)


def ask(lesson: Lesson, **more: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": lesson.question}], "temperature": 0, **more}


def test_it_is_a_deepseek_v3_with_latent_attention_and_grouped_experts() -> None:
    facts = registry.facts(tiny_deepseek.gguf())
    assert facts.architecture == "deepseek2"
    assert [template.name for template in facts.templates] == ["default"]
    config = json.loads((tiny_deepseek.folder() / "hf" / "config.json").read_text())
    assert config["architectures"] == ["DeepseekV3ForCausalLM"]
    assert config["vocab_size"] == 129_280
    sizes = {"q_lora_rank", "kv_lora_rank", "n_routed_experts", "n_shared_experts", "n_group", "topk_group"}
    assert all(config[name] > 0 for name in sizes)
    assert config["n_group"] > config["topk_group"]


@pytest.mark.parametrize("lesson", PAGE, ids=lambda lesson: lesson.question)
def test_every_question_gets_its_answer_its_reasoning_apart_and_a_receipt_that_verifies(
    api: OpenAI, keeper: Keeper, lesson: Lesson
) -> None:
    answer = api.chat.completions.create(**ask(lesson))
    message = answer.choices[0].message
    assert message.content == lesson.answer
    assert message.model_extra is not None
    assert message.model_extra["reasoning_content"] == lesson.reasoning
    assert answer.choices[0].finish_reason == "stop"
    assert answer._request_id is not None
    verdict = keeper.verify(answer._request_id, LONG_SECONDS)
    assert (verdict.effect, verdict.outcome) == ("allow", "ok")
    assert sum("byte for byte" in words for words in verdict.proven) == 2


def test_a_stream_gives_the_reasoning_first_and_then_the_answer(api: OpenAI) -> None:
    kinds, reasoning, content = [], "", ""
    for chunk in api.chat.completions.create(**ask(PAGE[1], stream=True)):
        if not chunk.choices:
            continue
        delta = chunk.choices[0].delta
        if thought := (delta.model_extra or {}).get("reasoning_content"):
            reasoning += thought
            kinds.append("reasoning")
        if delta.content:
            content += delta.content
            kinds.append("content")
    assert (reasoning, content) == (PAGE[1].reasoning, PAGE[1].answer)
    assert kinds == sorted(kinds, reverse=True)


def test_without_thinking_the_answer_comes_at_once(api: OpenAI) -> None:
    for lesson in PAGE:
        switched = {"chat_template_kwargs": {"thinking": False}}
        answer = api.chat.completions.create(**ask(lesson), extra_body=switched)
        message = answer.choices[0].message
        assert message.content == lesson.answer
        assert not (message.model_extra or {}).get("reasoning_content")


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The same file under a name that the catalogue knows, whose rules for thinking then hold."""
    home = tmp_path_factory.mktemp("known") / "home"
    daulat("model", "import", str(tiny_deepseek.gguf()), "--name", KNOWN, home=home)
    made = Service(home)
    with made.closing():
        made.start("--model", KNOWN)
        yield made


ON, OFF = {"type": "enabled"}, {"type": "disabled"}
MESSAGES = [{"role": "user", "content": PAGE[0].question}]
WIRES: dict[str, tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]] = {
    "chat/completions": (
        {"messages": MESSAGES},
        [{"thinking": ON}, {"reasoning_effort": "low"}, {"chat_template_kwargs": {"enable_thinking": True}}],
        [{"thinking": OFF}, {"reasoning_effort": "none"}, {"chat_template_kwargs": {"enable_thinking": False}}],
    ),
    "responses": (
        {"input": PAGE[0].question},
        [{"reasoning": {"effort": "high"}}],
        [{"reasoning": {"effort": "none"}}],
    ),
    "messages": (
        {"messages": MESSAGES, "max_tokens": 100},
        [{"thinking": ON}, {"thinking": {**ON, "budget_tokens": 1024}}, {"output_config": {"effort": "high"}}],
        [{"thinking": OFF}, {"output_config": {"effort": "none"}}],
    ),
}


@pytest.mark.parametrize("wire", WIRES)
def test_every_wire_switches_a_known_models_thinking(known: Service, wire: str) -> None:
    body, ons, offs = WIRES[wire]
    with known.client() as client:
        for fields, thinks in [(fields, True) for fields in ons] + [(fields, False) for fields in offs]:
            got = client.post(wire, json={"model": KNOWN, "temperature": 0, **body, **fields})
            assert got.status_code == 200, (fields, got.text)
            assert (PAGE[0].reasoning in got.text) is thinks, (fields, got.text)
            assert PAGE[0].answer in got.text
            assert "think>" not in got.text
        both = {**offs[0], "chat_template_kwargs": {"thinking": True}}
        assert client.post(wire, json={"model": KNOWN, **body, **both}).status_code == 400, "on and off at once"


def test_the_engine_gives_the_very_tokens_that_transformers_gives(service: Service) -> None:
    compare(service, MODEL)


def test_a_deepseek_v3_2_whose_indexer_leaves_nothing_out_gives_the_same_tokens(service: Service) -> None:
    assert registry.facts(tiny_deepseek.sparse()).architecture == "deepseek32"
    daulat("deploy", str(tiny_deepseek.sparse()), "--name", "sparse", home=service.home)
    compare(service, "sparse")
    daulat("stop", "sparse", home=service.home)


def compare(service: Service, model: str) -> None:
    """Token by token, with what transformers gives."""
    compared = json.loads((tiny_deepseek.folder() / "greedy.json").read_text())
    assert len(compared) > len(PAGE), "unseen questions, too"
    with service.client() as client:
        for case in compared:
            body = {"model": model, "prompt": case["prompt"], "max_tokens": 12, "temperature": 0, "logprobs": 1}
            answer = client.post("completions", json=body)
            assert answer.status_code == 200, answer.text
            (choice,) = answer.json()["choices"]
            assert [token["id"] for token in choice["logprobs"]["content"]] == case["tokens"]


def test_a_changed_signature_is_refused_and_so_is_another_key(publisher: Publisher, tmp_path: Path) -> None:
    model = tiny_deepseek.gguf()
    signature = publisher.sign(model, tmp_path / "model.sig")
    bundle = json.loads(signature.read_text())
    (made,) = bundle["dsseEnvelope"]["signatures"]
    made["sig"] = base64.b64encode(bytes(reversed(base64.b64decode(made["sig"])))).decode()
    changed = tmp_path / "changed.sig"
    changed.write_text(json.dumps(bundle))
    stranger = Publisher(tmp_path)
    for by, given in ((publisher, changed), (stranger, signature)):
        refused = offline(*signed(model, by, given), home=tmp_path / "home")
        assert refused.returncode == 1, refused.stdout
        assert "signature" in refused.stderr
    assert daulat("model", "list", home=tmp_path / "home") == []


def test_the_log_names_the_model_and_its_signer_and_the_audit_finds_no_lie(
    service: Service, publisher: Publisher, tmp_path: Path
) -> None:
    digest = registry.digest_of(tiny_deepseek.gguf())
    (admitted,) = [entry for entry in service.entries("model.admitted/v1") if entry["digest"] == digest]
    assert admitted["signed_by"] == f"key sha256:{publisher.fingerprint}"
    (tmp_path / "token").write_text(service.facts["auditor_token"])
    given = ["--vkey", service.facts["log_vkey"], "--token-file", str(tmp_path / "token")]
    daulat("audit", service.facts["log_url"], *given)  # exits with 1 on a lie
