"""The tiny DeepSeek-V3 on the real vLLM: it starts and says that it is healthy, and what it answers decides.

vLLM's latent attention for CPUs knows the head dimensions of the real DeepSeek alone; it finds that out at the first
answer. Computed without that kernel the same model answers word for word as it has learnt to.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.deepseek.page import PAGE
from tests.support import tiny_deepseek
from tests.support.real_vllm import MARKS, START_SECONDS, deploy, options, replicas
from tests.support.service import Service, daulat

pytestmark = [
    *MARKS,
    pytest.mark.skipif(not tiny_deepseek.layout().exists(), reason="`make test-vllm` builds it"),
]
MODEL = tiny_deepseek.NAME


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service of its own, where replicas that fail are in nobody's way."""
    home = tmp_path_factory.mktemp("deepseek") / "home"
    with Service(home) as running:
        daulat("model", "import", str(tiny_deepseek.layout()), "--name", MODEL, home=home)
        yield running


def asked(own: Service, question: str, **more: Any) -> Any:
    body = {"model": MODEL, "messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 200}
    with own.client() as client:
        return client.post("chat/completions", json=body | more)


def test_wrong_at_its_first_answer_it_is_never_routed_to_and_the_log_says_so(own: Service) -> None:
    settings = ("--engine", "vllm", "--engine-options", options(), "--context", "1024", "--slots", "2")
    daulat("deploy", MODEL, *settings, "--no-wait", home=own.home)
    row = own.wait(lambda: next((row for row in replicas(own, MODEL) if row["ends"]), None), START_SECONDS)
    assert row["last"].startswith("wrong answers: it answered 500")
    assert "Head dimension 80 is not supported by MLA" in row["last"], "daulat replicas says why"
    (admitted,) = [entry for entry in own.entries("model.admitted/v1") if entry["model"] == MODEL]
    entry = own.wait(lambda: own.entries("replica.stopped/v1"))[0]
    assert (entry["replica"], entry["started"]) == (row["id"], None)
    assert entry["reason"] == f"never routed to, with the model of entry {admitted['index']}: {row['last']}"
    refused = asked(own, PAGE[0].question)
    assert refused.status_code == 503, refused.text
    assert [one for one in own.entries("replica.started/v1") if one["model"] == admitted["index"]] == []


def test_without_that_kernel_it_gives_every_answer_exactly_with_and_without_its_thoughts(own: Service) -> None:
    """As transformers does, in the precision that vLLM takes by itself (bfloat16)."""
    told = deploy(own, MODEL, "--engine-options", options(environment={"VLLM_MLA_DISABLE": "1"}))
    assert told["status"]["ready_replicas"] == 1, told
    for lesson in PAGE:
        assert said(own, lesson.question) == f"{lesson.reasoning}</think>{lesson.answer}"
        assert said(own, lesson.question, chat_template_kwargs={"thinking": False}) == lesson.answer


def said(own: Service, question: str, **more: Any) -> str:
    return str(asked(own, question, **more).json()["choices"][0]["message"]["content"])
