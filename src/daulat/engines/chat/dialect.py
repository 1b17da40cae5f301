"""The dialect of a model, around that of its engine: `engines.dialect.Dialect` for models that need one."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Final

import msgspec

from daulat.catalog import models
from daulat.catalog.models import ModelSpec
from daulat.core.snapshot import ModelRow
from daulat.engines.chat import history, reasoning, thinking
from daulat.engines.chat.answer import Answer
from daulat.engines.dialect import Dialect, EngineRequest, Parts, Prepared, Rewriter

_CHAT: Final = "chat.completions"
_OPENING: Final = "<think>"
_DIGITS: Final = 5


def spoken(row: ModelRow | None, engines: Dialect | None, *, renames: bool = False) -> Dialect | None:
    """The dialect in which a replica of this model is asked; `engines`: its engine's own, None where it has none.

    A model that the catalogue does not know, or that neither thinks nor calls tools in a format of its own, is asked as
    its engine is; unless the engine has another name than ours for reasoning (`renames`), which any model may do.
    """
    spec = None if row is None else _spec(row)
    if row is None or spec is None or not (_thinks(spec) or _calls(spec)):
        return Spoken("", None, engines, None) if renames else engines
    untold = spec.template is not None and not spec.template.ships and not json.loads(row.entry).get("templates", True)
    block = history.BLOCKS.get(_calls(spec)) if untold and engines is not None else None
    return Spoken(row.name, spec, engines, block)


def _spec(row: ModelRow) -> ModelSpec | None:
    entry = json.loads(row.entry)
    return models.known(row.name, str(entry.get("model", "")), str(entry.get("origin") or ""))


def _thinks(spec: ModelSpec) -> bool:
    return spec.thinking is not None and spec.thinking.kind != "never"


def _calls(spec: ModelSpec) -> str:
    """The format of its calls, where it is one of DeepSeek's."""
    parsers = spec.parsers.get("vllm")
    return parsers.tools if parsers is not None and parsers.tools.startswith("deepseek") else ""


class Spoken:
    """One model's dialect on one replica (`engines.dialect.Dialect`)."""

    def __init__(self, name: str, spec: ModelSpec | None, engines: Dialect | None, block: str | None) -> None:
        """`spec`: None for a model of which nothing is known. `block`: the section in which tools are spelled out, None
        where the engine renders them."""
        self._name, self._engines, self._block = name, engines, block
        self._rules = None if spec is None else spec.thinking
        self._calls = spec is not None and bool(_calls(spec))
        self._thinks = self._rules is not None and self._rules.kind != "never" and self._rules.begin == _OPENING
        self._opened = self._rules is not None and self._rules.opened and self._thinks

    def parts(self, request: EngineRequest) -> Parts | None:
        """See `engines.dialect.Dialect`."""
        return None if self._engines is None else self._engines.parts(request)

    async def prepare(self, request: EngineRequest) -> Prepared:
        """See `engines.dialect.Dialect`.

        Raises:
            InvalidRequest: the model's thinking cannot be switched so.
        """
        asked = self._asked(request)
        prepared = Prepared(asked.body, _nothing) if self._engines is None else await self._engines.prepare(asked)
        if request.action != _CHAT:
            return prepared
        # llama.cpp tells the reasoning of such a text apart by itself; of the others one cannot be sure.
        opened = (
            self._opened and self._engines is None and self._rules is not None and thinking.thinks(asked, self._rules)
        )
        answer: Rewriter = Answer(
            tools=self._calls and request.raw("tools") is not None,
            thinks=self._thinks,
            opened=opened,
            choices=_choices(request.raw("n")),
        )
        if prepared.rewriter is not None:
            answer = Chained(answer, prepared.rewriter)
        return replace(prepared, rewriter=answer)

    def _asked(self, request: EngineRequest) -> EngineRequest:
        if self._rules is not None and request.action in thinking.ACTIONS:
            request = thinking.switched(request, self._rules, self._name)
        if request.action != _CHAT:
            return request
        messages = reasoning.renamed(request.raw("messages") or b"")
        if messages is not None:
            fields = {**request.fields, "messages": msgspec.Raw(messages)}
            request = msgspec.structs.replace(request, body=msgspec.json.encode(fields), fields=fields)
        return request if self._block is None else history.spelled(request, self._block)


class Chained:
    """One rewriter behind another."""

    def __init__(self, first: Rewriter, second: Rewriter) -> None:
        self._first, self._second = first, second
        self._whole = False

    def feed(self, data: bytes) -> bytes:
        return self._second.feed(self._first.feed(data))

    def hold(self, data: bytes) -> bytes:
        self._whole = True
        return self._first.hold(data)

    def finish(self) -> bytes:
        rest = self._first.finish()
        return (self._second.hold(rest) if self._whole else self._second.feed(rest)) + self._second.finish()


def _choices(raw: bytes | None) -> int:
    """How many answers a request asks for; 1 too for what the engine refuses."""
    return int(raw) if raw is not None and raw.isdigit() and len(raw) < _DIGITS else 1


def _nothing() -> None:
    """Nothing is held that were to be given back."""
