"""`pipeline.service.Ledger`: one suite over the journal, on disk and in memory, and over the one in tests' hands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.request_path import HandJournal
from tests.support.wire import Memory, run
from tests.support.worlds import WORKER, StillClock

from daulat.adapters.journal_files import WorkerSegments
from daulat.ledger.journal import Journal
from daulat.pipeline.service import Ledger
from daulat.tlog.note import Signer

ORIGIN = "test.daulat.example/2026"


class Bench:
    """A ledger, a way to let everything become durable, and to end it."""

    def __init__(self, ledger: Ledger, commit: Callable[[], None], close: Callable[[], None]) -> None:
        self.ledger, self.close = ledger, close
        self._commit = commit

    async def settle(self, heard: list[Any], count: int) -> None:
        """Until so many callbacks have come."""
        self._commit()
        async with asyncio.timeout(20):
            while len(heard) < count:  # noqa: ASYNC110  what is waited for has no event
                await asyncio.sleep(0.001)


def journal(segments: Any) -> Bench:
    fatal: list[BaseException] = []
    made = Journal(
        segments,
        worker=WORKER,
        origin=ORIGIN,
        sign=Signer.generate("worker").sign_bytes,
        promise_ms=1000,
        clock=StillClock(),
        loop=asyncio.get_running_loop(),
        on_fatal=fatal.append,
    )

    def close() -> None:
        made.close()
        assert not fatal

    return Bench(made, lambda: None, close)


def on_disk(folder: Path) -> Bench:
    return journal(WorkerSegments(folder, WORKER, ORIGIN, watermark=0))


def in_memory(_folder: Path) -> Bench:
    return journal(Memory())


def in_hand(_folder: Path) -> Bench:
    made = HandJournal()
    return Bench(made, lambda: [made.commit() for _ in range(10)] and None, lambda: None)


@pytest.fixture(params=[on_disk, in_memory, in_hand], ids=["disk", "memory", "hand"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Bench]:
    return lambda: request.param(tmp_path)


def test_numbers_ascend_without_gaps(make: Callable[[], Bench]) -> None:
    async def main() -> None:
        bench = make()
        assert [bench.ledger.next_sequence() for _ in range(5)] == [1, 2, 3, 4, 5]
        assert bench.ledger.shortage == ""
        bench.close()

    run(main)


def test_nothing_is_called_back_at_once_and_everything_once_and_in_order(make: Callable[[], Bench]) -> None:
    async def main() -> None:
        bench, heard = make(), list[Any]()
        ledger = bench.ledger
        first, second = ledger.next_sequence(), ledger.next_sequence()
        ledger.admit(first, "req_1", b'{"a":1}', lambda promise: heard.append(("admitted", bool(promise))))
        ledger.attempt(first, b'{"replica":1,"lease":1}', lambda: heard.append("attempted"))
        ledger.complete(first, b'{"c":1}', lambda: heard.append("completed"))
        ledger.admit_complete(second, "req_2", b"{}", b"{}", lambda promise: heard.append(("both", bool(promise))))
        assert heard == []
        await bench.settle(heard, 4)
        assert sorted(map(str, heard)) == sorted(
            map(str, [("admitted", True), "attempted", "completed", ("both", True)])
        )
        assert [item for item in heard if isinstance(item, str)] == ["attempted", "completed"]
        assert heard.index(("admitted", True)) < heard.index("attempted")
        await asyncio.sleep(0.01)
        assert len(heard) == 4
        bench.close()

    run(main)


def test_a_callback_may_write_more(make: Callable[[], Bench]) -> None:
    async def main() -> None:
        bench, heard = make(), list[str]()
        ledger, number = bench.ledger, bench.ledger.next_sequence()

        def admitted(promise: str) -> None:
            heard.append(promise)
            ledger.complete(number, b"{}", lambda: heard.append("completed"))

        ledger.admit(number, "req_1", b"{}", admitted)
        await bench.settle(heard, 2)
        assert heard[1] == "completed"
        bench.close()

    run(main)


def test_counting_a_refusal_needs_no_number(make: Callable[[], Bench]) -> None:
    async def main() -> None:
        bench = make()
        bench.ledger.refuse_principal("who")
        assert bench.ledger.next_sequence() == 1
        bench.close()

    run(main)
