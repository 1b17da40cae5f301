"""A model's thinking, switched in whichever words the client knows, put into those that its template takes."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daulat.catalog.models import Thinking
from daulat.engines.chat.thinking import switched, thinks
from daulat.engines.dialect import EngineRequest
from daulat.errors import InvalidRequest
from daulat.pipeline.actions import NEEDS
from daulat.pipeline.body import peek

V31 = Thinking("switch", "test", argument="thinking")
V4 = Thinking("switch", "test", argument="thinking", default=True, efforts=("high", "max"))
QWEN3 = Thinking("switch", "test", argument="enable_thinking", default=True)
R1, V3 = Thinking("always", "test"), Thinking("never", "test")
OPEN = Thinking("always", "test", efforts=("low", "medium", "high"))


def request(action: str = "chat.completions", **fields: Any) -> EngineRequest:
    body = json.dumps({"model": "m", NEEDS[action]: [], **fields}).encode()
    return EngineRequest(action, "/", body, stream=False, fields=peek(body, action, 64).members)


def asked(rules: Thinking, action: str = "chat.completions", **fields: Any) -> dict[str, Any]:
    """What is left of a request beside its model and its messages."""
    made = switched(request(action, **fields), rules, "m")
    value = json.loads(made.body)
    assert value == {name: json.loads(bytes(raw)) for name, raw in made.fields.items()}
    return {name: member for name, member in value.items() if name not in {"model", NEEDS[action]}}


ON, OFF = {"type": "enabled"}, {"type": "disabled"}


@pytest.mark.parametrize("rules", [V31, V4, QWEN3], ids=["V3.1", "V4", "Qwen3"])
@pytest.mark.parametrize(
    ("fields", "thinks"),
    [
        ({"thinking": ON}, True),
        ({"thinking": OFF}, False),
        ({"chat_template_kwargs": {"thinking": True}}, True),
        ({"chat_template_kwargs": {"enable_thinking": False}}, False),
        ({"chat_template_kwargs": {"enable_thinking": True, "thinking": True}, "thinking": ON}, True),
        ({"reasoning_effort": "none"}, False),
        ({"reasoning_effort": "high"}, True),
        ({"thinking": OFF, "reasoning_effort": "high"}, False),
    ],
)
def test_every_way_to_ask_becomes_the_templates_own(rules: Thinking, fields: dict[str, Any], *, thinks: bool) -> None:
    found = asked(rules, **fields)
    assert found.pop("chat_template_kwargs") == {rules.argument: thinks}
    effort = {"reasoning_effort": "high"} if rules is V4 and thinks and "reasoning_effort" in fields else {}
    assert found == effort, "nothing is left that the engine could read otherwise"


@pytest.mark.parametrize("rules", [V31, V4, QWEN3, R1, V3])
def test_a_request_that_says_nothing_goes_as_it_came(rules: Thinking) -> None:
    plain = request(chat_template_kwargs={"other": 1}, temperature=0.5)
    assert switched(plain, rules, "m") is plain


def test_other_fields_and_template_arguments_stay_as_they_came() -> None:
    found = asked(V31, thinking=ON, chat_template_kwargs={"other": [1.50]}, temperature=1e-3, seed=2**63)
    assert found == {"temperature": 1e-3, "seed": 2**63, "chat_template_kwargs": {"other": [1.5], "thinking": True}}


@pytest.mark.parametrize(
    ("given_", "found"),
    [("minimal", "high"), ("low", "high"), ("medium", "high"), ("xhigh", "high"), ("max", "max"), ("ultra", "max")],
)
def test_efforts_become_those_the_model_has(given_: str, found: str) -> None:
    assert asked(V4, reasoning_effort=given_)["reasoning_effort"] == found


def test_efforts_of_other_models_keep_their_own_names() -> None:
    assert asked(OPEN, reasoning_effort="medium") == {"reasoning_effort": "medium"}
    assert asked(OPEN, reasoning_effort="max") == {"reasoning_effort": "high"}


def test_what_a_model_does_anyway_may_be_asked_for() -> None:
    assert asked(R1, thinking=ON, chat_template_kwargs={"enable_thinking": True}) == {}
    assert asked(V3, thinking=OFF, reasoning_effort="none") == {}


@pytest.mark.parametrize(
    ("rules", "fields", "words"),
    [
        (R1, {"thinking": OFF}, "always thinks"),
        (R1, {"reasoning_effort": "none"}, "always thinks"),
        (V3, {"thinking": ON}, "does not think"),
        (V3, {"chat_template_kwargs": {"thinking": True}}, "does not think"),
        (V31, {"thinking": ON, "chat_template_kwargs": {"thinking": False}}, "ask for one"),
        (V31, {"thinking": ON, "reasoning_effort": "none"}, "ask for one"),
        (V31, {"thinking": {"type": "maybe"}}, "enabled"),
        (V31, {"thinking": True}, "an object"),
        (V31, {"thinking": {}}, "enabled"),
        (V31, {"chat_template_kwargs": {"thinking": "yes"}}, "true or false"),
        (V31, {"chat_template_kwargs": []}, "an object"),
        (V31, {"reasoning_effort": "much"}, "effort"),
        (V31, {"reasoning_effort": 3}, "effort"),
    ],
)
def test_what_cannot_be_is_refused_in_words(rules: Thinking, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        asked(rules, **fields)


def test_messages_keep_their_budget_and_responses_their_reasoning() -> None:
    budget = {"type": "enabled", "budget_tokens": 100}
    on, off = {"chat_template_kwargs": {"thinking": True}}, {"chat_template_kwargs": {"thinking": False}}
    assert asked(V31, "messages", thinking=budget) == {"thinking": budget, **on}
    assert asked(V31, "messages", thinking=ON) == on, "vLLM wants a budget beside Anthropic's switch"
    assert asked(V31, "messages", thinking=OFF) == off
    told = asked(V31, "responses", reasoning={"effort": "none", "summary": "auto"})
    assert told == {"reasoning": {"summary": "auto"}, **off}
    assert asked(V4, "responses", reasoning={"effort": "none"}) == off


@pytest.mark.parametrize(("action", "name"), [("responses", "reasoning"), ("messages", "output_config")])
def test_an_effort_stays_in_the_object_that_its_wire_has_for_it(action: str, name: str) -> None:
    found = asked(V4, action, **{name: {"effort": "ultra", "other": 1}})
    assert found == {name: {"effort": "max", "other": 1}, "chat_template_kwargs": {"thinking": True}}
    assert asked(V31, action, **{name: {"effort": "low"}}) == {"chat_template_kwargs": {"thinking": True}}
    with pytest.raises(InvalidRequest, match="always thinks"):
        asked(R1, action, **{name: {"effort": "none"}})


def test_whether_it_thinks_is_what_was_asked_or_the_models_own_way() -> None:
    assert thinks(switched(request(thinking=ON), V31, "m"), V31)
    assert not thinks(switched(request(reasoning_effort="none"), V4, "m"), V4)
    assert [thinks(request(), rules) for rules in (V31, V4, R1, V3)] == [False, True, True, False]


NAMES = ["thinking", "reasoning_effort", "chat_template_kwargs", "reasoning", "output_config"]
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["enabled", "none", "high"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["type", "thinking", "effort"]), inner),
    max_leaves=4,
)


@settings(derandomize=True, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), values))
def test_whatever_is_asked_is_answered_or_refused(fields: dict[str, Any]) -> None:
    for rules in (V31, V4, QWEN3, R1, V3, OPEN):
        for action in ("chat.completions", "messages", "responses"):
            with contextlib.suppress(InvalidRequest):
                asked(rules, action, **fields)
