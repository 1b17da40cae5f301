"""Tools and calls written out as text in DSML, for engines that have no template which could.

DeepSeek-V3.2 and V4 ship no chat template: vLLM and SGLang bring code of their own that renders `tools` and
`tool_calls`; a file for llama.cpp may carry none. The tags are the models' format (`calls`); the words that tell of
them are ours.
"""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec

from daulat.engines.dialect import EngineRequest
from daulat.engines.rewriting import written

BLOCKS: Final = {"deepseek_v32": "function_calls", "deepseek_v4": "tool_calls"}
"""The name of a section, by the catalogue's name of the format."""

_RESULTS: Final = {
    "function_calls": ("<function_results>\n{}\n</function_results>", "<result>{}</result>"),
    "tool_calls": ("{}", "<tool_result>{}</tool_result>"),
}
_TOLD: Final = """## Tools

Functions that you may call are listed below, each with the JSON schema of its parameters. To call some of them, end \
your reply with one block of this form, with an `invoke` for every call and a `parameter` for every argument. Write \
texts as they are, with string="true", and anything else as JSON, with string="false".

<｜DSML｜{block}>
<｜DSML｜invoke name="$FUNCTION">
<｜DSML｜parameter name="$PARAMETER" string="true|false">$VALUE</｜DSML｜parameter>
</｜DSML｜invoke>
</｜DSML｜{block}>

<functions>
{functions}
</functions>"""


def spelled(request: EngineRequest, block: str) -> EngineRequest:
    """The request with its tools, calls and results as text; as it came where it has none, or is not to be read."""
    try:
        messages: list[dict[str, Any]] = json.loads(request.raw("messages") or b"[]")
        tools = json.loads(request.raw("tools") or b"[]")
        functions = [tool["function"] for tool in tools]
        told = request.raw("tool_choice") != b'"none"' and bool(functions)
        made = _messages(messages, block)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return request  # the engine will say what is wrong with it
    if not functions and made == messages:
        return request
    if told:
        listed = "\n".join(written(function) for function in functions)
        made = _instructed(made, _TOLD.format(block=block, functions=listed))
    fields = {name: raw for name, raw in request.fields.items() if name not in {"tools", "tool_choice"}}
    fields["messages"] = msgspec.Raw(written(made).encode())
    return msgspec.structs.replace(request, body=msgspec.json.encode(fields), fields=fields)


def _messages(messages: list[dict[str, Any]], block: str) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    results: list[str] = []
    around, each = _RESULTS[block]
    for message in [*messages, {"role": "end"}]:
        if message["role"] == "tool":
            results.append(each.format(_text(message.get("content"))))
            continue
        if results:
            made.append({"role": "user", "content": around.format("\n".join(results))})
            results = []
        if message.get("tool_calls"):
            kept = {name: value for name, value in message.items() if name != "tool_calls"}
            kept["content"] = f"{_text(message.get('content'))}\n\n{_section(message['tool_calls'], block)}"
            made.append(kept)
        else:
            made.append(message)
    return made[:-1]


def _section(calls: list[dict[str, Any]], block: str) -> str:
    invoked = "\n".join(_invocation(call["function"]) for call in calls)
    return f"<｜DSML｜{block}>\n{invoked}\n</｜DSML｜{block}>"


def _invocation(function: dict[str, Any]) -> str:
    given = function.get("arguments") or "{}"
    arguments: dict[str, Any] = json.loads(given) if isinstance(given, str) else given
    parameters = [
        f'<｜DSML｜parameter name="{name}" string="{"true" if isinstance(value, str) else "false"}">'
        f"{value if isinstance(value, str) else written(value)}</｜DSML｜parameter>"
        for name, value in arguments.items()
    ]
    return "\n".join([f'<｜DSML｜invoke name="{function["name"]}">', *parameters, "</｜DSML｜invoke>"])


def _instructed(messages: list[dict[str, Any]], told: str) -> list[dict[str, Any]]:
    if messages and messages[0]["role"] in {"system", "developer"}:
        first = {**messages[0], "content": f"{_text(messages[0].get('content'))}\n\n{told}"}
        return [first, *messages[1:]]
    return [{"role": "system", "content": told}, *messages]


def _text(content: Any) -> str:
    """A message's content as one text."""
    if isinstance(content, list):
        return "\n\n".join(str(part["text"]) for part in content)
    return "" if content is None else str(content)
