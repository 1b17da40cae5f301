"""`openai`'s Responses and the `anthropic` package as their documentation uses them; run with the clients' own Python.
Prints one JSON line."""

from __future__ import annotations

import json
import sys
from typing import Any

import anthropic
import openai

URL, KEY, MODEL = sys.argv[1:4]
QUESTION = "What is the capital of Malaysia?"
MESSAGES: list[Any] = [{"role": "user", "content": QUESTION}]
CLAUDE = {"model": MODEL, "max_tokens": 30, "messages": MESSAGES}


def responses(client: openai.OpenAI) -> dict[str, Any]:
    whole = client.responses.create(model=MODEL, input=QUESTION, temperature=0, max_output_tokens=30)
    kinds: list[str] = []
    with client.responses.create(model=MODEL, input=QUESTION, max_output_tokens=5, stream=True) as stream:
        last = None
        for last in stream:
            kinds.append(last.type)
        receipt = stream.response.headers["daulat-receipt"]
    counted = client.responses.input_tokens.count(model=MODEL, input=QUESTION)
    try:
        client.responses.create(model="no-such-model", input=QUESTION)
    except openai.NotFoundError as error:
        refused = error.code
    return {
        "text": whole.output_text,
        "usage": whole.usage.model_dump(),
        "kinds": kinds,
        "stream_usage": last.response.usage.model_dump(),
        "counted": counted.input_tokens,
        "refused": refused,
        "receipt": receipt,
    }


def messages(client: anthropic.Anthropic) -> dict[str, Any]:
    whole = client.messages.create(**CLAUDE, extra_body={"temperature": 0})
    with client.messages.stream(**CLAUDE) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    counted = client.messages.count_tokens(model=MODEL, messages=MESSAGES)
    errors = {}
    for name, asked in {
        "unknown": lambda: client.messages.create(**{**CLAUDE, "model": "no-such-model"}),
        "stranger": lambda: anthropic.Anthropic(base_url=URL, api_key="sk-nobody").messages.create(**CLAUDE),
        "too long": lambda: client.messages.create(
            **{**CLAUDE, "messages": [{"role": "user", "content": "a " * 20_000}]}
        ),
    }.items():
        try:
            asked()
        except anthropic.APIStatusError as error:
            errors[name] = [error.status_code, error.body["error"]["type"], error.body["error"]["message"]]
    return {
        "text": whole.content[0].text,
        "usage": whole.usage.model_dump(),
        "pieces": pieces,
        "final": final.usage.output_tokens,
        "stop": final.stop_reason,
        "counted": counted.input_tokens,
        "errors": errors,
    }


with (
    openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0) as ours,
    anthropic.Anthropic(base_url=URL, api_key=KEY, max_retries=0) as theirs,
):
    print(json.dumps({"responses": responses(ours), "messages": messages(theirs)}))  # noqa: T201  the caller reads it
