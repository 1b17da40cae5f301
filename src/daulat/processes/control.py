"""The control plane of one host: what is begun in which order, watched, and ended in the reverse order."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any, Final

import psutil

from daulat.adapters import log_files, rpc
from daulat.adapters.models import ModelStore
from daulat.core.clock import SystemClock
from daulat.core.ids import new_id
from daulat.errors import Unavailable
from daulat.pipeline.book import Book
from daulat.pipeline.deploy import Deployments
from daulat.pipeline.enrol import Node
from daulat.placement.place import Budget
from daulat.processes import establishing, inventory, starting
from daulat.processes.answering import Answering
from daulat.processes.children import Child
from daulat.processes.establishing import Established, Terms
from daulat.processes.plan import Plan
from daulat.processes.publishing import Publishing
from daulat.processes.replicas import Replicas, Ways
from daulat.processes.roster import Roster
from daulat.processes.services import Services

READY_SECONDS: Final = 30.0
FRONT_SECONDS: Final = 12.0  # for a worker to end what it answers: twice what it gives itself
SEQUENCER_SECONDS: Final = 10.0
ENGINE_TRIES: Final = 3  # before the first start is given up
_log = logging.getLogger(__name__)


class Control:
    """Owns the control database and the children. One per home, held by a lock."""

    # From `start` on:
    node: Node
    deployments: Deployments
    replicas: Replicas
    publishing: Publishing
    answering: Answering
    _terms: Terms
    _by: Established
    _services: Services
    _log_process: Child
    _fronts: list[Child]  # workers, pages and vault

    def __init__(self, plan: Plan, say: Callable[[str], None]) -> None:
        self.plan, self._say = plan, say
        self.ended = asyncio.Event()
        self.failure = ""
        self.secrets: dict[str, str] | None = None
        self._home = plan.home
        self._log_file = plan.home.path / "daulat.log"
        self._clock = SystemClock()
        self._db = starting.control_database(plan.home, plan.settings)
        self._sequencer = rpc.Client(plan.home.sequencer_socket)
        self._ending = AsyncExitStack()  # what was begun last is ended first
        self._ending.callback(plan.home.clear_run)
        self._databases = self._ending.enter_context(ExitStack())
        self._databases.callback(self._db.close)

    async def start(self) -> None:
        """Everything up to listening workers; the engine goes on loading.

        Raises:
            ConfigError, PermissionDenied: charter, rules or model are not in order; says what is not.
            Unavailable: a process does not start.
        """
        self._home.clear_run()  # a killed run leaves its own behind
        self._terms = Terms.read(self.plan, self._db)
        for words in self._terms.in_force.waiting:
            _log.warning("%s", words)
            self._say(words)
        await self._establish(await self._start_sequencer())
        self._services = await Services.begin(self._by, self.plan, self._databases)
        await self._prepare()
        await self._serve()
        self.publishing.publish()
        self._watch()
        self._start_replicas()
        await self._start_fronts()

    async def wait_engine(self, progress: Callable[[float], None]) -> None:
        """Until the engine answers under a lease.

        Raises:
            Unavailable: no lease is granted, the engine cannot start, or the service ended.
        """
        said = 0
        while not self.replicas.roster.ready(self.plan.name) and self._awaited():
            share, ends, last = self.replicas.roster.startup(self.plan.name)
            progress(share)
            why = self.node.refusals[0] if self.node.refusals else ""
            if self.ended.is_set():
                raise Unavailable(self.failure or "the service was stopped before it was ready")
            if why.startswith("no lease is granted"):
                raise Unavailable(f"{why}. `daulat doctor` says what this machine lacks")
            if ends >= ENGINE_TRIES:
                raise Unavailable(f"the engine does not start, in {ends} tries: {last}. See `daulat doctor`")
            if ends > said:
                said = ends
                self._say(f"The engine did not start ({last}). Trying again ...")
            await asyncio.sleep(0.05)
        await self.publishing.in_force()  # the snapshot that names it
        progress(1.0)

    def _awaited(self) -> bool:
        """Whether it is still wished for: an operator may have stopped it meanwhile."""
        return any(wish.name == self.plan.name and wish.spec.replicas for wish in self.deployments.all())

    async def stop(self) -> None:
        """End all that was begun, in order: nothing is lost, nothing is left running."""
        await self._ending.aclose()

    @property
    def vkey(self) -> str:
        return self._home.vkey.read_text().strip()

    @property
    def profile(self) -> str:
        return self._terms.charter.profile

    # Starting, in this order.

    async def _start_sequencer(self) -> Book:
        """The log's process, and the pen that writes with it."""
        charter, ceremony = self._terms.charter, self._terms.in_force.ceremony
        period = self.plan.settings.log_period or log_files.current_period(self._home.log)
        period = period or (ceremony.period if ceremony else time.strftime("%Y"))
        child = self.plan.sequencer(charter.name, period, self._log_file, self._give_up)
        self._log_process = child
        self._ending.push_async_callback(child.stop, SEQUENCER_SECONDS)
        self._ending.push_async_callback(self._sequencer.close)
        child.start()
        await self._ready(child)
        return Book(charter.origin(period), self._append, self._db, self._clock)

    async def _establish(self, book: Book) -> None:
        log = await self._sequencer.call("status")
        self._by = await establishing.established(self.plan, self._terms, self._db, book, self._clock, log)
        self.secrets = self._by.secrets

    async def _prepare(self) -> None:
        """This node, what is wished for on it, and the model that is to serve first."""
        plan, by = self.plan, self._by
        name = self._db.meta("node") or new_id("node")
        self._db.set_meta("node", name)
        self.node = Node(by.book, self._clock, by.ground, name)
        self.node.inventory(inventory.facts(await asyncio.to_thread(inventory.look)))
        await self.node.recover()
        self.deployments = Deployments(self._db, by.desk.act, self._clock)
        budget = Budget(plan.threads, psutil.virtual_memory().total * 3 // 4 // 2**20)
        roster = Roster(self._home, budget, self.node, self.deployments)
        self._fronts = plan.fronts(self._log_file, by.charter[1].country)
        workers = self._fronts[: plan.workers]
        self.publishing = Publishing(by, self._services.metering, self.node, roster, workers)
        ways = Ways(by.admit, self.publishing.publish, plan.supervisor, self._give_up, self.publishing.changing)
        self.replicas = Replicas(self._home, roster, self.node, self.deployments, ModelStore(self._home.models), ways)
        row = await by.admit(plan.facts, plan.name)
        wish = await starting.ensure(self.deployments, self._db, plan.name, plan.facts, plan.settings)
        self.replicas.prepared(wish, plan.facts, plan.model_file, row)

    async def _serve(self) -> None:
        self.answering = Answering(
            self._by,
            self._services,
            self.node,
            self.deployments,
            self.replicas,
            self.publishing,
            self._sequencer,
            lambda: [self._log_process, *self.replicas.roster.children(), *self._fronts],
            self.plan.url,
        )
        server = await rpc.serve(self._home.control_socket, self.answering.handlers())
        self._ending.callback(server.close)

    def _watch(self) -> None:
        beating, services = (
            self.publishing.beat(),
            self._services.watches(self.publishing.changes, self.publishing.roll),
        )
        heart = asyncio.gather(beating, self._watch_devices(), *services)
        heart.add_done_callback(self._stopped_watching)
        self._ending.callback(heart.cancel)

    def _start_replicas(self) -> None:
        self._ending.push_async_callback(self.replicas.stop)
        self.replicas.start()

    async def _start_fronts(self) -> None:
        self._ending.push_async_callback(self._stop_fronts)
        for child in self._fronts:
            child.start()
        for child in self._fronts:
            await self._ready(child)

    async def _stop_fronts(self) -> None:
        await asyncio.gather(*(child.stop(FRONT_SECONDS) for child in self._fronts))

    async def _append(self, entries: list[str]) -> list[int]:
        answer = await self._sequencer.call("append", entries=entries)
        return [int(index) for index in answer["indices"]]

    # Watching.

    async def _ready(self, child: Child) -> None:
        """Wait for a child, or for the moment when it has given up."""
        waiting = asyncio.create_task(child.wait_ready(READY_SECONDS))
        over = asyncio.create_task(self.ended.wait())
        await asyncio.wait({waiting, over}, return_when=asyncio.FIRST_COMPLETED)
        over.cancel()
        if not waiting.done():
            waiting.cancel()
            raise Unavailable(self.failure or "the service is stopping")
        await waiting

    def _give_up(self, reason: str) -> None:
        last = _last_error(self._log_file)
        self.failure = f"{reason}{'. It said: ' if last else ''}{last}"
        self.ended.set()

    async def _watch_devices(self) -> None:
        """Read the accelerators' health again and again: leases say what is true, nothing runs on a broken chip."""
        while True:
            await asyncio.sleep(self.plan.settings.device_seconds)
            try:
                found = await asyncio.to_thread(inventory.look)
                self.node.inventory(inventory.facts(found))
                seen = found.accelerators
            except OSError as error:
                _log.warning("the accelerators could not be looked at: %s", error)
                seen = ()
            with contextlib.suppress(Unavailable):  # of the control database; the next look is soon
                self.replicas.seen(seen)

    def _stopped_watching(self, done: asyncio.Future[Any]) -> None:
        error = None if done.cancelled() else done.exception()
        if error is not None and not isinstance(error, asyncio.CancelledError):  # `gather` ends so when cancelled
            self._give_up(f"the control process failed: {type(error).__name__}: {error}")


def _last_error(log: Path) -> str:
    """What the last process that ended with an error said of it."""
    for line in reversed(log.read_text(errors="replace").splitlines()[-50:]):
        with contextlib.suppress(ValueError, TypeError, KeyError):
            said = json.loads(line)
            if said["level"] == "error":
                return str(said["message"])
    return ""
