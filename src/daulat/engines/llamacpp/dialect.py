"""Requests to llama.cpp: each waits for a slot of its own and finds its system prompt already read there.

llama.cpp does not share a prompt prefix between busy slots: eight requests with one long system prompt would each read
it. So the first request with a long system prompt (the leader) reads the prompt alone; if others wait for it, or it was
seen before, the slot is saved; whoever comes after restores the file into a slot of its own in milliseconds. A slot is
never saved while it generates: llama.cpp would put the save off until the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from daulat.engines.dialect import EngineRequest, Parts, Prepared
from daulat.engines.llamacpp import parts, tokens, tools
from daulat.engines.llamacpp.prefix import Saves, Shared, prompt_of, shared
from daulat.engines.llamacpp.refusals import explain
from daulat.engines.llamacpp.slots import Places, Slots, with_slot
from daulat.engines.port import Fetch
from daulat.errors import EngineError, Overloaded

CHAT_PATH: Final = "/v1/chat/completions"
_OK: Final = 200
_COUNTING: Final = frozenset({"responses.tokens", "messages.tokens"})  # the engine answers these without a slot


@dataclass(slots=True)
class _WarmUp:
    """A leader's reading of a prefix."""

    done: asyncio.Event = field(default_factory=asyncio.Event)
    followers: int = 0


class LlamaCpp:
    """One engine's dialect in one worker (`engines.dialect.Dialect`)."""

    def __init__(
        self,
        fetch: Fetch,
        places: Places,
        slots: int,
        *,
        worker: int = 0,
        files: int = 4,
        most_waiting: int = 256,
        wait_seconds: float = 60.0,
    ) -> None:
        self._fetch = fetch
        self._poll = places.poll_seconds
        self._slots = Slots(places, slots)
        self._saves = Saves(worker, files)
        self._warming: dict[bytes, _WarmUp] = {}
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._most_waiting, self._wait_seconds = most_waiting, wait_seconds
        self._tasks: set[asyncio.Task[Any]] = set()

    def parts(self, request: EngineRequest) -> Parts | None:
        """See `engines.dialect.Dialect`."""
        return parts.split(request)

    async def prepare(self, request: EngineRequest) -> Prepared:
        """Wait for a slot; see `engines.dialect.Dialect`.

        Raises:
            InvalidRequest: a tool choice that no tool fulfils.
            Overloaded: too many wait already, or this one has waited too long.
        """
        if request.action == "tokenize":
            return await tokens.prepare(request, self._fetch)
        if request.action in _COUNTING:
            return Prepared(request.body, tokens.nothing, explain=explain)
        if request.action == "embeddings":  # many inputs in one: the engine spreads them, but not without measure
            return Prepared(request.body, self._releaser(await self._take(b"", 0)), explain=explain)
        own_tools, messages = request.raw("tools"), request.raw("messages")
        body, rewriter = request.body, None
        if (changed := tools.change(request)) is not None:
            body, rewriter = changed.body, changed.rewriter
            if changed.messages is not None:
                own_tools, messages = None, changed.messages
            own_tools = changed.tools or own_tools
        prompt = prompt_of(own_tools, messages, request.raw("prompt") or request.raw("input"))
        prefix = shared(own_tools, messages)
        if prefix is None:
            slot, overhead = await self._take(prompt, 0), 0
        else:
            slot, overhead = await self._warm_slot(prompt, prefix, leads=request.leads)
        self._slots.remember(slot, prompt)
        return Prepared(with_slot(body, slot), self._releaser(slot), rewriter, overhead, explain=explain)

    def _releaser(self, slot: int) -> Callable[[], None]:
        held = True

        def release() -> None:
            nonlocal held
            if held:
                held = False
                self._give(slot)

        return release

    # Waiting for a slot, first come first served.

    async def _take(self, prompt: bytes, common: int) -> int:
        if not self._waiting and (slot := self._slots.take(prompt, common)) is not None:
            return slot
        if len(self._waiting) >= self._most_waiting:
            raise Overloaded("Too many requests wait for the engine.", retry_after=1.0, code="engine_busy")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._wait_seconds
        again = False
        while True:
            turn = loop.create_future()
            if again:
                self._waiting.appendleft(turn)
            else:
                self._waiting.append(turn)
            again = True
            try:
                await self._turn(turn, deadline)
            except BaseException:
                self._leave(turn)
                raise
            if (slot := self._slots.take(prompt, common)) is not None:
                return slot

    async def _turn(self, turn: asyncio.Future[None], deadline: float) -> None:
        """Until we are told, or, where other workers hold slots too and we are the first, for a moment."""
        clock = asyncio.get_running_loop().time
        while not turn.done():
            left = deadline - clock()
            if left <= 0:
                raise Overloaded("The engine was busy for too long.", retry_after=5.0, code="engine_busy")
            await asyncio.wait((turn,), timeout=min(left, self._poll or left))
            if self._poll and not turn.done() and self._waiting[0] is turn:
                self._waiting.popleft()
                return

    def _leave(self, turn: asyncio.Future[None]) -> None:
        if turn in self._waiting:
            self._waiting.remove(turn)
        elif turn.done():
            self._wake()  # our turn came as we left: the next one's

    def _give(self, slot: int) -> None:
        self._slots.give(slot)
        self._wake()

    def _wake(self) -> None:
        if self._waiting:
            self._waiting.popleft().set_result(None)

    # Shared prefixes.

    async def _warm_slot(self, prompt: bytes, prefix: Shared, *, leads: bool) -> tuple[int, int]:
        """A slot that has read the prefix, and the prompt tokens this request has to answer for."""
        while (warming := self._warming.get(prefix.key)) is not None:
            await self._follow(warming)
        known = self._saves.seen(prefix.key)
        common = len(prefix.key) if self._saves.name(prefix.key) is not None else 0
        slot = await self._take(prompt, common)
        work = asyncio.create_task(self._warm(slot, prefix, known=known, leads=leads))
        self._tasks.add(work)
        work.add_done_callback(self._tasks.discard)
        try:
            return slot, await asyncio.shield(work)
        except asyncio.CancelledError:
            work.add_done_callback(lambda _: self._give(slot))  # others may wait for what we began
            raise

    async def _follow(self, warming: _WarmUp) -> None:
        warming.followers += 1
        try:
            await warming.done.wait()
        finally:
            warming.followers -= 1

    async def _warm(self, slot: int, prefix: Shared, *, known: bool, leads: bool) -> int:
        """Bring the prefix into a taken slot: it is there, is restored, or is read. Never fails: then it stays cold."""
        key = prefix.key
        if self._slots.holds(slot, key):
            if known and self._saves.name(key) is None and key not in self._warming:
                with self._leading(key):
                    await self._save(slot, key)
            return 0
        if (warming := self._warming.get(key)) is not None:  # begun while we waited for the slot
            await self._follow(warming)
        if (name := self._saves.name(key)) is not None:
            if await self._slot_action(slot, "restore", name):
                self._slots.remember(slot, key)
                return 0
            self._saves.forget(key)
        if key in self._warming or not leads:
            return 0
        return await self._lead(slot, prefix, known=known)

    async def _lead(self, slot: int, prefix: Shared, *, known: bool) -> int:
        tokens = 0
        with self._leading(prefix.key) as warming, contextlib.suppress(EngineError):  # the request itself will meet it
            status, answer = await self._fetch("POST", CHAT_PATH, with_slot(prefix.warm_up, slot))
            if status == _OK:
                tokens = _uncached(answer)
                self._slots.remember(slot, prefix.key)
                if known or warming.followers:
                    await self._save(slot, prefix.key)
        return tokens

    @contextlib.contextmanager
    def _leading(self, key: bytes) -> Iterator[_WarmUp]:
        """Whoever wants the same prefix meanwhile waits for what this leads to."""
        warming = self._warming[key] = _WarmUp()
        try:
            yield warming
        finally:
            del self._warming[key]
            warming.done.set()

    async def _save(self, slot: int, key: bytes) -> None:
        name = self._saves.reserve()
        if name is None:
            return
        if await self._slot_action(slot, "save", name):
            self._saves.keep(key, name)
        else:
            self._saves.cancel(name)

    async def _slot_action(self, slot: int, action: str, name: str) -> bool:
        try:
            body = json.dumps({"filename": name}).encode()
            status, _ = await self._fetch("POST", f"/slots/{slot}?action={action}", body)
        except EngineError:
            return False
        return status == _OK


def _uncached(answer: bytes) -> int:
    """Prompt tokens that an answer says were computed."""
    try:
        usage = json.loads(answer)["usage"]
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        return max(0, int(usage["prompt_tokens"]) - int(cached))
    except (ValueError, KeyError, TypeError, AttributeError):
        return 0
