"""LangChain's ChatOpenAI as its documentation uses it; run with the clients' own Python. Prints one JSON line."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel

URL, KEY, MODEL = sys.argv[1:4]
QUESTION = "What is the capital of Malaysia?"


class City(BaseModel):
    """A city."""

    name: str
    country: str


@tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"rain in {city}"


def chat(**options: Any) -> ChatOpenAI:
    wanted = {"temperature": 0, "max_completion_tokens": 60, "max_retries": 0, **options}
    return ChatOpenAI(model=MODEL, base_url=URL, api_key=KEY, **wanted)


def main() -> None:
    found: dict[str, Any] = {}
    answer = chat().invoke([SystemMessage("You are helpful."), HumanMessage(QUESTION)])
    found["invoke"] = answer.content
    found["usage"] = answer.usage_metadata

    chunks = list(chat(stream_usage=True).stream(QUESTION))
    found["stream"] = [str(chunk.content) for chunk in chunks]
    found["stream_usage"] = chunks[-1].usage_metadata or next(c.usage_metadata for c in chunks if c.usage_metadata)

    async def later() -> list[str]:
        answers = await chat().abatch([QUESTION, "What is the capital of Malaysia? Answer in one word."])
        return [str(one.content) for one in answers]

    found["async"] = asyncio.run(later())

    bound = chat(max_completion_tokens=120).bind_tools([get_weather], tool_choice="any")
    called = bound.invoke("Weather in Ipoh?")
    found["calls"] = called.tool_calls
    results = [ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"]) for call in called.tool_calls]
    found["after_tool"] = chat().invoke([HumanMessage("Weather in Ipoh?"), called, *results]).content
    streamed = None
    for chunk in bound.stream("Weather in Ipoh?"):
        streamed = chunk if streamed is None else streamed + chunk
    found["streamed_calls"] = streamed.tool_calls if streamed is not None else []

    city = chat().with_structured_output(City, method="json_schema").invoke(QUESTION)
    found["structured"] = city.model_dump()
    found["completion"] = OpenAI(model=MODEL, base_url=URL, api_key=KEY, max_tokens=5).invoke("Malaysia is")
    sys.stdout.write(json.dumps(found, default=str) + "\n")


if __name__ == "__main__":
    main()
