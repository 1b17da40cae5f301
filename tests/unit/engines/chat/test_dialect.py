"""A model's dialect around its engine's, chosen by what the catalogue knows of the model."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import pytest

from daulat.core.snapshot import ModelRow
from daulat.engines.chat import history
from daulat.engines.chat.calls import Call, Calls
from daulat.engines.chat.dialect import spoken
from daulat.engines.dialect import Dialect, EngineRequest, Parts, Prepared, Rewriter
from daulat.errors import InvalidRequest
from daulat.pipeline.body import peek


def row(name: str, **entry: Any) -> ModelRow:
    return ModelRow(name, 1, json.dumps({"model": name, "origin": "", **entry}), 0, embeds=False, context_length=4096)


def request(**fields: Any) -> EngineRequest:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}).encode()
    members = peek(body, "chat.completions", 64).members
    return EngineRequest("chat.completions", "/v1/chat/completions", body, stream=False, fields=members)


@dataclass
class Engines:
    """An engine's own dialect."""

    rewriter: Rewriter | None = None
    released: int = 0

    def parts(self, _request: EngineRequest) -> Parts | None:
        return None

    async def prepare(self, asked: EngineRequest) -> Prepared:
        return Prepared(asked.body, self.release, self.rewriter, overhead=7)

    def release(self) -> None:
        self.released += 1


class Upper:
    """A rewriter that anybody can see the work of."""

    kept = b""

    def feed(self, data: bytes) -> bytes:
        return data.upper()

    def hold(self, data: bytes) -> bytes:
        self.kept += data
        return b""

    def finish(self) -> bytes:
        return self.kept.upper()


def prepared(dialect: Dialect | None, **fields: Any) -> Prepared:
    assert dialect is not None
    asked = request(**fields)
    assert dialect.parts(asked) is None
    return asyncio.run(dialect.prepare(asked))


def test_models_that_need_nothing_are_asked_as_their_engine_is() -> None:
    engines = Engines()
    assert spoken(row("smollm2-135m-instruct"), engines) is engines
    assert spoken(row("nobody-knows-it"), None) is None
    assert spoken(None, engines) is engines


def test_of_an_engine_with_another_name_for_reasoning_every_model_is_heard_alike() -> None:
    made = prepared(spoken(row("nobody-knows-it"), None, renames=True), thinking={"type": "enabled"})
    assert json.loads(made.body)["thinking"] == {"type": "enabled"}, "of which nothing is known goes as it came"
    assert made.rewriter is not None
    plain = b'data: {"choices":[{"index":0,"delta":{"content":"<think>\\n"}}]}\n\n'
    assert made.rewriter.feed(plain) == plain
    assert b'"reasoning_content"' in made.rewriter.feed(plain.replace(b'"content"', b'"reasoning"'))


@pytest.mark.parametrize(
    "made",
    [row("deepseek-v3.1"), row("ours", origin="deepseek-ai/DeepSeek-V3.1"), row("DeepSeek-V3.1")],
    ids=["by its id", "by its origin", "by its title"],
)
def test_a_known_model_is_switched_as_its_template_wants_it(made: ModelRow) -> None:
    body = json.loads(prepared(spoken(made, None), thinking={"type": "enabled"}).body)
    assert body["chat_template_kwargs"] == {"thinking": True}
    assert "thinking" not in body


def test_a_model_that_cannot_be_switched_says_so_by_its_name() -> None:
    with pytest.raises(InvalidRequest, match="'deepseek-r1' always thinks"):
        prepared(spoken(row("deepseek-r1"), None), thinking={"type": "disabled"})


def test_the_engines_own_dialect_is_kept_inside() -> None:
    engines = Engines(Upper())
    made = prepared(spoken(row("deepseek-r1"), engines), messages=[{"role": "assistant", "reasoning": "r"}])
    assert json.loads(made.body)["messages"] == [{"role": "assistant", "reasoning_content": "r"}]
    assert made.overhead == 7
    made.release()
    assert engines.released == 1
    assert made.rewriter is not None
    assert made.rewriter.feed(b'data: {"choices":[{"index":0,"delta":{"reasoning":"r"}}]}\n\n') == (
        b'DATA: {"CHOICES":[{"INDEX":0,"DELTA":{"REASONING_CONTENT":"R"}}]}\n\n'
    )
    assert made.rewriter.finish() == b""
    whole = prepared(spoken(row("deepseek-r1"), Engines(Upper()))).rewriter
    assert whole is not None
    whole.hold(b'{"choices":[{"message":{"reasoning":"r"}}]}')
    assert whole.finish() == b'{"CHOICES":[{"MESSAGE":{"REASONING_CONTENT":"R"}}]}'


TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
CALLED = [
    {"role": "user", "content": "hi"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": "x", "b": [1]}'}},
            {"id": "2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
        ],
    },
    {"role": "tool", "tool_call_id": "1", "content": "one"},
    {"role": "tool", "tool_call_id": "2", "content": [{"type": "text", "text": "two"}]},
]


@pytest.mark.parametrize("block", ["function_calls", "tool_calls"])
def test_a_history_that_is_spelled_out_reads_back_as_the_same_calls(block: str) -> None:
    made = json.loads(history.spelled(request(messages=CALLED, tools=TOOLS, seed=1), block).body)
    assert set(made) == {"model", "messages", "seed"}
    system, user, assistant, results = made["messages"]
    assert (system["role"], user, assistant["role"], results["role"]) == ("system", CALLED[0], "assistant", "user")
    assert f"<｜DSML｜{block}>" in system["content"]
    assert json.dumps(TOOLS[0]["function"], separators=(",", ":")) in system["content"]
    assert Calls().feed(assistant["content"]) == [Call("f", '{"a":"x","b":[1]}'), Call("g", "{}")]
    assert results["content"].index("one") < results["content"].index("two")


def test_tools_join_the_system_message_and_none_are_told_where_none_may_be_called() -> None:
    said = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"}]
    made = json.loads(history.spelled(request(messages=said, tools=TOOLS), "tool_calls").body)
    assert made["messages"][0]["content"].startswith("Be kind.\n\n## Tools")
    assert made["messages"][1:] == said[1:]
    none = json.loads(history.spelled(request(messages=said, tools=TOOLS, tool_choice="none"), "tool_calls").body)
    assert none["messages"] == said
    plain = request(messages=said)
    assert history.spelled(plain, "tool_calls") is plain


@pytest.mark.parametrize("messages", ["hi", [1], [{"content": "no role"}], [{"role": "user", "tool_calls": [{}]}]])
def test_a_history_that_cannot_be_read_is_for_the_engine_to_refuse(messages: Any) -> None:
    odd = request(messages=messages, tools=TOOLS)
    assert history.spelled(odd, "tool_calls") is odd


def test_only_a_file_without_a_template_has_its_tools_spelled_out() -> None:
    for name, templates, spelled in (
        ("deepseek-v3.2", [], True),
        ("deepseek-v3.2", ["x"], False),
        ("deepseek-v3.1", [], False),
    ):
        made = prepared(spoken(row(name, templates=templates), Engines()), tools=TOOLS)
        assert ("tools" not in json.loads(made.body)) is spelled
