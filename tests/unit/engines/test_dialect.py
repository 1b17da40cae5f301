"""Requests to llama.cpp wait their turn, share long system prompts through saved slots, and never lose a slot."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from daulat.engines.dialect import EngineRequest, Prepared
from daulat.engines.llamacpp.dialect import CHAT_PATH, LlamaCpp
from daulat.engines.llamacpp.slots import Partition
from daulat.errors import EngineDead, InvalidRequest, Overloaded
from daulat.pipeline.body import peek

SYSTEM = "Be kind to everybody who asks. " * 100
OK = b'{"usage":{"prompt_tokens":900,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":5}}}'


class Engine:
    """What a dialect asks on the side, written down. `gate`: warm-ups wait for it."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.warmed: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.dead = False

    async def fetch(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        await asyncio.sleep(0)
        if self.dead:
            raise EngineDead("gone")
        if path == CHAT_PATH:
            self.calls.append("warm")
            self.warmed.append(json.loads(body)["id_slot"])
            await self.gate.wait()
            return self.answers.get("warm", (200, OK))
        slot, _, action = path.removeprefix("/slots/").partition("?action=")
        self.calls.append(f"{action} {slot} {json.loads(body)['filename']}")
        return self.answers.get(action, (200, b"{}"))


def request(text: str = "Hello", *, system: str = "", action: str = "chat.completions", **fields: Any) -> EngineRequest:
    said = [{"role": "system", "content": system}] * bool(system) + [{"role": "user", "content": text}]
    whole = {"model": "m", **({"messages": said} if action == "chat.completions" else {}), **fields}
    body = json.dumps(whole).encode()
    return EngineRequest(action, CHAT_PATH, body, stream=False, fields=peek(body, action, 64).members)


def slot_of(prepared: Prepared) -> int:
    return int(json.loads(prepared.body)["id_slot"])


async def settle() -> None:
    """Until nothing that could run is left to run."""
    for _ in range(50):
        await asyncio.sleep(0)


def run(test: Callable[[Engine, Callable[..., LlamaCpp]], Coroutine[Any, Any, None]]) -> None:
    async def go() -> None:
        engine = Engine()

        def made(slots: int = 4, **options: Any) -> LlamaCpp:
            return LlamaCpp(engine.fetch, options.pop("places", None) or Partition(slots), slots, **options)

        async with asyncio.timeout(20):
            await test(engine, made)

    asyncio.run(go())


async def each(awaitables: list[Awaitable[Prepared]]) -> list[Prepared]:
    return list(await asyncio.gather(*awaitables))


# Slots.


def test_each_request_gets_a_slot_of_its_own_and_the_rest_of_its_body_as_it_came() -> None:
    async def test(engine: Engine, made: Callable[..., LlamaCpp]) -> None:
        asked = [request(f"{number}") for number in range(4)]
        dialect = made()
        prepared = await each([dialect.prepare(one) for one in asked])
        assert sorted(map(slot_of, prepared)) == [0, 1, 2, 3]
        for one, sent in zip(asked, prepared, strict=True):
            assert sent.body.startswith(one.body[:-1])
        assert engine.calls == []

    run(test)


def test_embeddings_go_as_they_came_but_no_more_at_once_than_there_are_slots() -> None:
    async def test(_: Engine, made: Callable[..., LlamaCpp]) -> None:
        dialect = made(2)
        asked = request(action="embeddings", input=["a", "b"])
        first, second = await each([dialect.prepare(asked), dialect.prepare(asked)])
        assert first.body is second.body is asked.body
        third = asyncio.create_task(dialect.prepare(asked))
        await settle()
        assert not third.done(), "each holds a thread of the engine's: health must find one free"
        first.release()
        (await third).release()

    run(test)


def test_who_comes_while_all_are_busy_waits_first_come_first_served() -> None:
    async def test(_: Engine, made: Callable[..., LlamaCpp]) -> None:
        dialect = made(1)
        holder = await dialect.prepare(request())
        order: list[str] = []

        async def wait(name: str) -> None:
            prepared = await dialect.prepare(request(name))
            order.append(name)
            prepared.release()

        tasks = [asyncio.create_task(wait(name)) for name in "abc"]
        await settle()
        assert order == []
        holder.release()
        holder.release()  # once more gives nothing away
        await asyncio.gather(*tasks)
        assert order == ["a", "b", "c"]

    run(test)


def test_who_leaves_while_waiting_is_passed_over_and_loses_no_slot() -> None:
    async def test(_: Engine, made: Callable[..., LlamaCpp]) -> None:
        dialect = made(1)
        for cancel_after_turn in (False, True):
            holder = await dialect.prepare(request())
            leaver = asyncio.create_task(dialect.prepare(request("leaver")))
            stayer = asyncio.create_task(dialect.prepare(request("stayer")))
            await settle()
            if cancel_after_turn:
                holder.release()  # its turn has come, and it has not run yet
                leaver.cancel()
            else:
                leaver.cancel()
                await settle()
                holder.release()
            (await stayer).release()
            assert leaver.cancelled()

    run(test)


def test_too_many_waiting_and_waiting_too_long_are_overload_with_a_time_to_come_back() -> None:
    async def test(_: Engine, made: Callable[..., LlamaCpp]) -> None:
        dialect = made(1, most_waiting=1, wait_seconds=0.05)
        holder = await dialect.prepare(request())
        waiting = asyncio.create_task(dialect.prepare(request()))
        await settle()
        with pytest.raises(Overloaded, match="Too many") as refused:
            await dialect.prepare(request())
        assert refused.value.retry_after > 0
        with pytest.raises(Overloaded, match="too long"):
            await waiting
        holder.release()
        (await dialect.prepare(request())).release()

    run(test)


class Elsewhere(Partition):
    """Slots that other workers may take and give back unseen."""

    poll_seconds = 0.005

    def __init__(self) -> None:
        super().__init__(1)
        self.theirs = True

    def take(self, slot: int) -> int | None:
        return None if self.theirs else super().take(slot)


def test_where_others_may_give_a_slot_back_it_is_looked_for_again_and_again() -> None:
    async def test(_: Engine, made: Callable[..., LlamaCpp]) -> None:
        places = Elsewhere()
        dialect = made(1, places=places)
        first = asyncio.create_task(dialect.prepare(request("first")))
        second = asyncio.create_task(dialect.prepare(request("second")))
        await settle()
        places.theirs = False
        prepared = await first
        assert not second.done()
        prepared.release()
        (await second).release()

    run(test)


def test_a_choice_that_no_tool_fulfils_takes_no_slot() -> None:
    async def test(_: Engine, made: Callable[..., LlamaCpp]) -> None:
        dialect = made(1)
        with pytest.raises(InvalidRequest):
            await dialect.prepare(request(tools=[{"type": "x"}], tool_choice="required"))
        (await dialect.prepare(request())).release()

    run(test)


# Shared prefixes.


def test_eight_at_once_read_one_system_prompt_once() -> None:
    async def test(engine: Engine, made: Callable[..., LlamaCpp]) -> None:
        dialect = made(8)
        prepared = await each([dialect.prepare(request(f"{number}", system=SYSTEM)) for number in range(8)])
        assert engine.calls.count("warm") == 1
        assert sum(call.startswith("save") for call in engine.calls) == 1
        restored = {int(call.split()[1]) for call in engine.calls if call.startswith("restore")}
        assert restored == set(range(8)) - set(engine.warmed)
        assert engine.calls[0] == "warm"
        assert sorted(one.overhead for one in prepared) == [0] * 7 + [895], "who led answers for the tokens"
        assert sorted(map(slot_of, prepared)) == list(range(8))

    run(test)


def test_a_lone_request_reads_ahead_but_saves_nothing_and_the_next_saves() -> None:
    async def test(engine: Engine, made: Callable[..., LlamaCpp]) -> None:
        dialect = made()
        first = await dialect.prepare(request("1", system=SYSTEM))
        assert engine.calls == ["warm"]
        assert first.overhead == 895
        first.release()
        second = await dialect.prepare(request("2", system=SYSTEM))
        assert slot_of(second) == slot_of(first)
        assert engine.calls == ["warm", f"save {slot_of(first)} prefix-0-3"], "it is asked for again: worth keeping"
        assert second.overhead == 0
        third = await dialect.prepare(request("3", system=SYSTEM))
        assert engine.calls[-1] == f"restore {slot_of(third)} prefix-0-3"

    run(test)


def test_eight_at_once_after_one_that_had_the_prompt_read_nothing_at_all() -> None:
    async def test(engine: Engine, made: Callable[..., LlamaCpp]) -> None:
        dialect = made(8)
        (await dialect.prepare(request("first", system=SYSTEM))).release()
        engine.calls.clear()
        prepared = await each([dialect.prepare(request(f"{number}", system=SYSTEM)) for number in range(8)])
        assert sorted(call.split()[0] for call in engine.calls) == ["restore"] * 7 + ["save"]
        assert [one.overhead for one in prepared] == [0] * 8

    run(test)


def test_another_prefix_meanwhile_is_led_by_another() -> None:
    async def test(engine: Engine, made: Callable[..., LlamaCpp]) -> None:
        dialect = made(4)
        prepared = await each(
            [dialect.prepare(request("x", system=system)) for system in (SYSTEM, SYSTEM + "!", SYSTEM, SYSTEM + "!")]
        )
        assert engine.calls.count("warm") == 2
        assert sum(call.startswith("save") for call in engine.calls) == 2
        assert sum(call.startswith("restore") for call in engine.calls) == 2
        assert sorted(map(slot_of, prepared)) == [0, 1, 2, 3]

    run(test)


def test_followers_wait_only_for_their_leader() -> None:
    async def test(engine: Engine, made: Callable[..., LlamaCpp]) -> None:
        dialect = made(4)
        engine.gate.clear()
        leader = asyncio.create_task(dialect.prepare(request("1", system=SYSTEM)))
        await settle()
        follower = asyncio.create_task(dialect.prepare(request("2", system=SYSTEM)))
        stranger = await dialect.prepare(request("short"))
        await settle()
        assert not leader.done()
        assert not follower.done()
        stranger.release()
        engine.gate.set()
        assert {(await leader).overhead, (await follower).overhead} == {895, 0}

    run(test)


def test_a_leader_that_leaves_keeps_its_slot_until_the_prefix_is_read_and_others_find_it() -> None:
    async def test(engine: Engine, made: Callable[..., LlamaCpp]) -> None:
        dialect = made(1)
        engine.gate.clear()
        leader = asyncio.create_task(dialect.prepare(request("1", system=SYSTEM)))
        await settle()
        follower = asyncio.create_task(dialect.prepare(request("2", system=SYSTEM)))
        await settle()
        leader.cancel()
        await settle()
        assert not follower.done()
        engine.gate.set()
        prepared = await follower
        assert engine.calls.count("warm") == 1
        assert slot_of(prepared) == 0

    run(test)


def test_a_file_that_cannot_be_restored_is_read_anew() -> None:
    async def test(engine: Engine, made: Callable[..., LlamaCpp]) -> None:
        dialect = made(2)
        for one in await each([dialect.prepare(request(f"{number}", system=SYSTEM)) for number in range(2)]):
            one.release()
        for one in await each([dialect.prepare(request(f"{number}" * 100)) for number in range(2)]):
            one.release()  # both slots hold something else now
        engine.calls.clear()
        engine.answers["restore"] = (400, b"{}")
        again = await dialect.prepare(request("again", system=SYSTEM))
        assert [call.split()[0] for call in engine.calls] == ["restore", "warm", "save"]
        assert again.overhead == 895

    run(test)


@pytest.mark.parametrize("failing", ["warm", "save", "restore"])
@pytest.mark.parametrize("status", [400, 500])
def test_an_engine_that_refuses_what_is_asked_on_the_side_still_gets_the_requests(failing: str, status: int) -> None:
    async def test(engine: Engine, made: Callable[..., LlamaCpp]) -> None:
        dialect = made(4)
        engine.answers[failing] = (status, b'{"error":{}}')
        for _ in range(3):
            prepared = await each([dialect.prepare(request(f"{number}", system=SYSTEM)) for number in range(4)])
            assert sorted(map(slot_of, prepared)) == [0, 1, 2, 3]
            for one in prepared:
                one.release()

    run(test)


def test_a_dead_engine_leaves_the_failure_to_the_request_itself() -> None:
    async def test(engine: Engine, made: Callable[..., LlamaCpp]) -> None:
        engine.dead = True
        dialect = made(2)
        for _ in range(3):
            prepared = await dialect.prepare(request("1", system=SYSTEM))
            assert prepared.overhead == 0
            prepared.release()

    run(test)


@pytest.mark.parametrize("answer", [b"", b"7", b'{"usage":7}', b'{"usage":{"prompt_tokens":"x"}}', b'{"usage":{}}'])
def test_a_warm_up_without_a_readable_usage_costs_nothing_that_is_known(answer: bytes) -> None:
    async def test(engine: Engine, made: Callable[..., LlamaCpp]) -> None:
        engine.answers["warm"] = (200, answer)
        assert (await made().prepare(request("1", system=SYSTEM))).overhead == 0

    run(test)


def test_more_prefixes_than_files_at_once_lose_no_request() -> None:
    async def test(engine: Engine, made: Callable[..., LlamaCpp]) -> None:
        dialect = made(8, files=1)
        asked = [request("x", system=SYSTEM + str(number % 4)) for number in range(8)]
        prepared = await each([dialect.prepare(one) for one in asked])
        assert sorted(map(slot_of, prepared)) == list(range(8))

    run(test)


def test_a_part_that_does_not_lead_stays_cold_rather_than_read_ahead() -> None:
    async def test(engine: Engine, made: Callable[..., LlamaCpp]) -> None:
        dialect = made(4)
        parts = dialect.parts(request("1", system=SYSTEM, n=3))
        assert parts is not None
        engine.answers["save"] = (500, b"")
        prepared = await each([dialect.prepare(part) for part in parts.requests])
        assert engine.calls.count("warm") == 1
        assert [one.overhead for one in prepared] == [895, 0, 0]

    run(test)


def test_a_forced_call_shares_the_prompt_that_it_became() -> None:
    tool = {"type": "function", "function": {"name": "weather", "description": "x" * 2000}}

    async def test(engine: Engine, made: Callable[..., LlamaCpp]) -> None:
        dialect = made(2)
        asked = [request(text, tools=[tool], tool_choice="required") for text in ("a", "b")]
        prepared = await each([dialect.prepare(one) for one in asked])
        assert engine.calls.count("warm") == 1
        assert all(one.rewriter is not None for one in prepared)
        assert all(b"response_format" in one.body for one in prepared)

    run(test)


def test_many_requests_of_many_kinds_that_come_and_leave_never_lose_a_slot() -> None:
    async def test(engine: Engine, made: Callable[..., LlamaCpp]) -> None:
        dialect = made(3, files=2)
        held: list[Prepared] = []

        async def one(number: int) -> None:
            prepared = await dialect.prepare(
                request(f"{number}", system=SYSTEM + str(number % 5) if number % 3 else "")
            )
            busy = [slot_of(other) for other in held]
            assert slot_of(prepared) not in busy, "two requests in one slot"
            held.append(prepared)
            for _ in range(number % 7):
                await asyncio.sleep(0)
            held.remove(prepared)
            prepared.release()

        tasks = [asyncio.create_task(one(number)) for number in range(120)]
        for number, task in enumerate(tasks):
            if number % 4 == 0:
                for _ in range(number % 5):
                    await asyncio.sleep(0)
                task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(found) for found in done} <= {type(None), asyncio.CancelledError}
        await settle()
        prepared = await each([dialect.prepare(request(f"last {number}")) for number in range(3)])
        assert sorted(map(slot_of, prepared)) == [0, 1, 2]

    run(test)
