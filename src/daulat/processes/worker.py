"""A gateway worker: one event loop, its own journal, share-nothing."""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import functools
import gc
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import uvloop

from daulat.adapters import key_file, rpc
from daulat.adapters.journal_files import WorkerSegments
from daulat.adapters.snapshot_file import SnapshotFile
from daulat.catalog.models import models
from daulat.core.clock import SystemClock
from daulat.core.snapshot import POLL_SECONDS, ModelRow, ReplicaRow, Roll, Snapshot
from daulat.engines.chat.dialect import spoken
from daulat.engines.dialect import Dialect
from daulat.engines.external import named
from daulat.engines.llamacpp.dialect import LlamaCpp
from daulat.engines.llamacpp.slots import Partition
from daulat.engines.port import Fetch
from daulat.engines.vllm.dialect import OneByOne
from daulat.gateway.app import App, render
from daulat.gateway.engines import Pool
from daulat.gateway.forward import Forwarder
from daulat.gateway.handover import Handover
from daulat.gateway.http import Connection
from daulat.gateway.metrics import Metrics
from daulat.gateway.peers import Network
from daulat.gateway.server import Server
from daulat.identity.directory import Directory
from daulat.ledger.journal import Journal
from daulat.pipeline.service import Service
from daulat.pipeline.world import World
from daulat.policy.cache import CachedDecider
from daulat.policy.cedar import CedarDecider
from daulat.processes import edge
from daulat.processes.borrowing import Borrower
from daulat.settings import Home, networks
from daulat.tlog.note import Signer

DRAIN_SECONDS: Final = 5.0
FLUSH_SECONDS: Final = 1.0
SWITCH_SECONDS: Final = 0.001
_log = logging.getLogger(__name__)


class Worlds:
    """Follows the snapshot file: a new number is a new world, a new time a heartbeat."""

    def __init__(self, path: Path, worker: int, share: tuple[int, int] = (0, 1)) -> None:
        """`worker`: its key's index; `share`: its slot, of how many. Raises FileNotFoundError: nothing is published."""
        self._file, self._worker, self._share, self._clock = SnapshotFile(path), worker, share, SystemClock()
        self._policy = ""
        self._directory, self._roll = Directory(Roll()), -1
        self._touched = 0
        first = self._file.poll()
        if first is None:
            raise AssertionError("a file that was never read cannot be known")
        self.world = self._build(first)

    def poll(self) -> bool:
        """Whether there is a new world."""
        try:
            snapshot = self._file.poll()
        except FileNotFoundError:
            return False
        if snapshot is not None:
            self.world = self._build(snapshot)
        elif self._file.touched != self._touched:
            self.world.heartbeat = self._clock.boottime()
        self._touched = self._file.touched
        return snapshot is not None

    def _build(self, snapshot: Snapshot) -> World:
        if self._policy != snapshot.policy.version:
            self._decider = CachedDecider(CedarDecider(snapshot.policy.rules, snapshot.policy.schema))
            self._policy = snapshot.policy.version
        if self._roll != snapshot.roll.number:
            self._directory, self._roll = Directory(snapshot.roll), snapshot.roll.number
        return World(snapshot, self._directory, self._decider, self._clock, self._worker, self._share)


class Worker:
    """Owns everything of one worker process."""

    def __init__(
        self,
        home: Home,
        slot: int,
        workers: int,
        origin: str,
        index: int,
        signer: Signer,
        control: rpc.Client,
        proxies: Sequence[Network] = (),
    ) -> None:
        loop = asyncio.get_running_loop()
        clock = SystemClock()
        self.failed = False
        self.stop = edge.stop_event(loop)
        self._home, self._slot = home, slot
        self._worlds = Worlds(home.snapshot, index, (slot, workers))
        world = self._worlds.world
        self.metrics = Metrics()
        self.journal = Journal(
            WorkerSegments(home.journal, index, origin),
            worker=index,
            origin=origin,
            sign=signer.sign_bytes,
            promise_ms=round(world.snapshot.limits.request_seconds * 1000) + world.margin_ms,
            clock=clock,
            loop=loop,
            on_fatal=self._fatal,
        )
        models()  # read now: the first request would wait for it

        def llama_cpp(replica: ReplicaRow, fetch: Fetch) -> Dialect | None:
            places = Partition(replica.slots, slot, workers)
            engines = LlamaCpp(fetch, places, replica.slots, worker=slot)
            return spoken(self._model(replica), engines)

        def openai(replica: ReplicaRow, _fetch: Fetch) -> Dialect | None:
            return named(replica.served, spoken(self._model(replica), None))

        def vllm(replica: ReplicaRow, _fetch: Fetch) -> Dialect | None:
            return named(replica.served, OneByOne(spoken(self._model(replica), None, renames=True)))

        self.borrower = Borrower(control, index, clock)
        self.pool = Pool({"llama.cpp": llama_cpp, "vllm": vllm, "openai": openai}, key=key_file.read)
        self.vault = Handover(functools.partial(rpc.once, home.vault_socket), home.vault_beat)
        self.service = Service(
            world=world,
            ledger=self.journal,
            engines=self.pool,
            meter=self.metrics,
            render=render,
            clock=clock,
            borrow=self.borrower.kick,
            vault=self.vault,
        )
        app = self._app(proxies)
        self.server = Server(app.handle, lambda: self.service.limits, app.refuse, app.allow)
        self._confirm()

    def _app(self, proxies: Sequence[Network]) -> App:
        home = self._home
        pages = Forwarder(os.fspath(home.pages_socket))
        kept = Forwarder(os.fspath(home.vault_pages_socket), "Files and stored completions")
        signin = None
        if home.signin.exists():
            signin = Forwarder(os.fspath(home.signin_socket), "Signing in and your own keys", browsers=True)
        return App(self.service, self.journal, pages, self.metrics, kept, signin=signin, proxies=proxies)

    def _model(self, replica: ReplicaRow) -> ModelRow | None:
        world = self.service.world
        admitted = (row for row in world.snapshot.models if row.index == replica.admitted)
        return next(admitted, world.models.get(replica.model))

    def _fatal(self, error: BaseException) -> None:
        """Durability is lost: nothing can be acknowledged any more, so nothing must be taken on."""
        _log.error("the journal failed: %s: %s", type(error).__name__, error)
        self.failed = True
        self.stop.set()

    def unlent(self, done: asyncio.Future[None]) -> None:
        """The task that borrows has ended: by a defect, unless the worker ends."""
        if not done.cancelled():
            _log.error("nothing can be borrowed any more: %s", done.exception())
            self.stop.set()

    def poll(self) -> None:
        if self._worlds.poll():
            world = self._worlds.world
            self.service.renew(world)
            rows = world.snapshot.replicas
            self.pool.retain({row.id for row in rows}, {row.address for row in rows})
            self._confirm()
            _log.info("snapshot %d", world.snapshot.number)

    def _confirm(self) -> None:
        with contextlib.suppress(OSError):  # a full disk: whoever waits for it goes on after a while
            SnapshotFile(self._home.snapshot).confirm(self._slot, self.service.world.snapshot.number)

    def sweep(self) -> None:
        now = time.monotonic()
        self.service.sweep(now)
        self.server.sweep(now)

    def tick(self) -> None:
        self.server.tick()
        self.journal.tick()
        self.vault.tick()
        gauges = self.metrics.gauges
        gauges["daulat_requests_in_flight"] = len(self.service.active)
        gauges["daulat_connections"] = len(self.server.connections)
        gauges["daulat_journal_commits_total"] = self.journal.commits
        self.metrics.loads = self.service.load
        turns = self.service.turns
        gauges["daulat_requests_waiting"] = turns.waiting
        gauges["daulat_quota_exchanges_total"] = self.borrower.exchanges
        self.metrics.limits = turns.quotas.refusals
        gauges["daulat_snapshot_number"] = self.service.world.snapshot.number
        with contextlib.suppress(OSError):
            self.metrics.write(self._home.run / f"metrics-{self._slot}")

    async def drain(self) -> None:
        """Let running answers end, for a while; then cut them honestly, and commit everything."""
        self.server.drain()
        end = time.monotonic() + (0 if self.failed else DRAIN_SECONDS)
        while self.service.active and time.monotonic() < end:  # noqa: ASYNC110  once in a process' life
            await asyncio.sleep(0.05)
        for inference in list(self.service.active):
            inference.cut("the service is stopping")
        if not self.failed:
            self.journal.close()
            end = time.monotonic() + FLUSH_SECONDS
            while self.server.connections and time.monotonic() < end:  # noqa: ASYNC110  what was acknowledged goes out
                await asyncio.sleep(0.01)
        self.pool.close()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket that other workers may share (`SO_REUSEPORT`)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((host, port))
    listener.listen(1024)
    listener.setblocking(False)
    return listener


def every(seconds: float, function: Callable[[], None]) -> None:
    """Call again and again on the running loop. What it raises ends the process: it would hide a defect otherwise."""
    loop = asyncio.get_running_loop()

    def again() -> None:
        function()
        loop.call_later(seconds, again)

    loop.call_later(seconds, again)


async def run(arguments: argparse.Namespace) -> int:
    home = Home(arguments.home)
    signer = Signer.generate(f"worker-{base64.b16encode(os.urandom(6)).decode().lower()}")
    control = rpc.Client(home.control_socket)
    registered: dict[str, Any] = await control.call("worker.register", slot=arguments.slot, vkey=signer.vkey)
    place = (registered["origin"], registered["index"])
    proxies = networks(arguments.trusted_proxies)
    worker = Worker(home, arguments.slot, arguments.workers, *place, signer, control, proxies)
    loop = asyncio.get_running_loop()

    def broken(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        _log.error("unexpected: %s", context.get("message"), exc_info=context.get("exception"))

    loop.set_exception_handler(broken)
    server = await loop.create_server(lambda: Connection(worker.server), sock=listen(arguments.host, arguments.port))
    borrowing = loop.create_task(worker.borrower.run(worker.service.turns))
    borrowing.add_done_callback(worker.unlent)
    every(POLL_SECONDS, worker.poll)
    every(0.25, worker.sweep)
    every(1.0, worker.tick)
    # What lives now lives on: the collector need not look at it again. Requests leave few cycles behind.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    # The committing thread asks for the interpreter a few times a commit; with the default of 5 ms each of these could
    # hold up every answer of a group.
    sys.setswitchinterval(SWITCH_SECONDS)
    edge.ready()
    await worker.stop.wait()
    server.close()
    await worker.drain()
    borrowing.cancel()
    await control.close()
    return 1 if worker.failed else 0


def main() -> None:
    parser = argparse.ArgumentParser(prog="daulat-worker")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--slot", type=int, required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--trusted-proxies", default="")
    parser.add_argument("--parent", type=int)
    arguments = parser.parse_args()
    edge.begin(f"worker-{arguments.slot}", parent=arguments.parent)
    raise SystemExit(uvloop.run(run(arguments)))


if __name__ == "__main__":
    main()
