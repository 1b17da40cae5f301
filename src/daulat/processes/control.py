"""The control plane of one host: what should be, made so; what may be, published."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

from daulat.adapters import log_files, rpc
from daulat.adapters.journal_files import WATERMARK_BYTES
from daulat.adapters.log_files import Blobs
from daulat.adapters.models import ModelStore
from daulat.adapters.notices import Notices
from daulat.adapters.snapshot_file import SnapshotFile
from daulat.catalog import charters
from daulat.core import charter as charters_core
from daulat.core.clock import SystemClock
from daulat.core.ids import new_id
from daulat.core.snapshot import HEARTBEAT_SECONDS, POLL_SECONDS, CharterRef, ModelRow, PolicyRef, Roll, Snapshot
from daulat.errors import ConfigError, Conflict, Unavailable
from daulat.pipeline import establish, publish
from daulat.pipeline.book import Book
from daulat.pipeline.deploy import Deployments
from daulat.pipeline.enrol import Ground, Node
from daulat.pipeline.operate import Desk
from daulat.placement.place import Budget
from daulat.policy.bundle import Bundle
from daulat.policy.cedar import CedarDecider
from daulat.processes import consenting, identifying, inventory, starting
from daulat.processes.administering import Administering
from daulat.processes.breaches import Breaches
from daulat.processes.children import Child
from daulat.processes.deploying import Deploying
from daulat.processes.metering import Metering
from daulat.processes.office import Served
from daulat.processes.plan import Plan
from daulat.processes.replicas import Replicas, Ways
from daulat.processes.storing import Storing
from daulat.registry.model import ModelFacts
from daulat.settings import Home

READY_SECONDS: Final = 30.0
IN_FORCE_SECONDS: Final = 10.0  # for a worker to look at the snapshot, which it does ten times a second
ENGINE_TRIES: Final = 3  # before the first start is given up
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Fleet:
    """The children, in the order in which they are ended."""

    fronts: list[Child] = field(default_factory=list)  # workers, pages and vault
    sequencer: Child | None = None


class Control:
    """Owns the control database and the children. One per home, held by a lock."""

    def __init__(self, plan: Plan, say: Callable[[str], None]) -> None:
        self.plan, self._say = plan, say
        self._home = plan.home
        self._clock = SystemClock()
        self._fleet = Fleet()
        self._changing = asyncio.Lock()
        self.ended = asyncio.Event()
        self.failure = ""
        self.secrets: dict[str, str] | None = None
        self._number = 0
        self._roll: Roll | None = None  # as published; None once somebody may have come or gone
        self._db = starting.control_database(self._home, plan.settings)
        self._sequencer = rpc.Client(self._home.sequencer_socket)
        self._snapshot = SnapshotFile(self._home.snapshot)
        self._log_file = self._home.path / "daulat.log"

    async def start(self) -> None:
        """Everything up to listening workers; the engine goes on loading.

        Raises:
            ConfigError, PermissionDenied: charter, rules or model are not in order; says what is not.
            Unavailable: a process does not start.
        """
        self._home.clear_run()  # a killed run leaves its own behind
        in_force = consenting.in_force(self._db, self._home)
        self._waiting, self._ceremony = in_force.waiting, in_force.ceremony
        for words in in_force.waiting:
            _log.warning("%s", words)
            self._say(words)
        self._charter = charters_core.parse(in_force.text, location=str(self._home.charter))
        self._bundle = in_force.bundle
        self._where = identifying.configured(self._home)
        self._decider = CedarDecider(self._bundle.rules, self._bundle.schema)
        if self.plan.settings.canary_seconds * 3 > self._charter.lease_seconds:
            raise ConfigError("a lease must outlast three canaries: lower canary_seconds or raise lease_seconds")
        await self._start_sequencer()
        await self._establish(in_force.text, self._bundle)
        await self._serve()
        self._publish()
        watches = (self._watch_devices(), self._metering.watch(), self._storing.watch(), self._consenting.watch())
        self._heart = asyncio.gather(self._beat(), *watches, self._identifying.watch(lambda: self._roll))
        self._heart.add_done_callback(self._stopped_watching)
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
        await self._in_force(self._number)  # the snapshot that names it
        progress(1.0)

    def _awaited(self) -> bool:
        """Whether it is still wished for: an operator may have stopped it meanwhile."""
        return any(wish.name == self.plan.name and wish.spec.replicas for wish in self.deployments.all())

    async def stop(self) -> None:
        """End all children in order: nothing is lost, nothing is left running."""
        fleet = self._fleet
        await asyncio.gather(*(child.stop(8.0) for child in fleet.fronts))
        if hasattr(self, "replicas"):
            await self.replicas.stop()
        if hasattr(self, "_heart"):
            self._heart.cancel()
        if hasattr(self, "_server"):
            self._server.close()
        await self._sequencer.close()
        if fleet.sequencer is not None:
            await fleet.sequencer.stop(10.0)
        if hasattr(self, "_metering"):
            self._metering.close()
        self._db.close()
        self._home.clear_run()

    @property
    def vkey(self) -> str:
        return self._home.vkey.read_text().strip()

    @property
    def profile(self) -> str:
        return self._charter.profile

    # Starting.

    async def _start_sequencer(self) -> None:
        period = self.plan.settings.log_period or log_files.current_period(self._home.log)
        period = period or (self._ceremony.period if self._ceremony else time.strftime("%Y"))
        self._origin = self._charter.origin(period)
        child = self.plan.sequencer(self._charter.name, period, self._log_file, self._give_up)
        self._fleet.sequencer = child
        child.start()
        await self._ready(child)

    async def _establish(self, text: str, bundle: Bundle) -> None:
        self._book = Book(self._origin, self._append, self._db, self._clock)
        book = self._book
        self._charter_index = await establish.charter(book, self._charter, text)
        self._text = text
        log = await self._sequencer.call("status")
        await establish.log_key(book, self._charter_index, log["vkey"], log["rotation"])
        self._desk = Desk(self._db, book.write, self._clock, self._charter_index, self._charter.approvals)
        charter = (self._charter_index, self._charter)
        tell = Notices(self._home.notices, self.plan.settings.notice_url, self.plan.settings.notice_command)
        self._consenting = consenting.Consenting(self._db, book, self._clock, charter, self._desk, self._home, tell)
        await self._consenting.begin(self._ceremony)
        blobs = Blobs(self._home.log / "blob")
        self._policy_index = await establish.policy(book, self._charter_index, bundle, blobs.put)
        self.secrets = await self._desk.begin()
        self._identifying = identifying.Identifying(self._db, book.write, self._clock, charter, self._desk, self._where)
        self._storing = Storing(self._db, book, self._clock, charter, self._desk, self._home)
        for action, act in self._storing.acts().items():
            self._consenting.offer(action, act)
        settings = (self._home, self._charter.name, self._origin, self._charter.country, self.plan.workers)
        self._metering = Metering(self._db, self._desk.act, self._clock, *settings)
        await self._metering.begin()
        self._breaches = Breaches(self._db, self._desk, self._clock)
        node = self._db.meta("node") or new_id("node")
        self._db.set_meta("node", node)
        ground = Ground(self._charter, self._charter_index, self._policy_index, self._decider)
        self.node = Node(book, self._clock, ground, node)
        self.node.inventory(inventory.facts(await asyncio.to_thread(inventory.look)))
        await self.node.recover()
        self.deployments = Deployments(self._db, self._desk.act, self._clock)
        self.replicas = self._replicas()
        row = await self._admit(self.plan.facts, self.plan.name)
        wish = await starting.ensure(self.deployments, self._db, self.plan.name, self.plan.facts, self.plan.settings)
        self.replicas.prepared(wish, self.plan.facts, self.plan.model_file, row)

    def _replicas(self) -> Replicas:
        budget = Budget(self.plan.threads, psutil.virtual_memory().total * 3 // 4 // 2**20)
        ways = Ways(self._admit, self._publish, self.plan.supervisor, self._give_up, self._changing)
        return Replicas(self._home, budget, self.node, self.deployments, ModelStore(self._home.models), ways)

    async def _admit(self, facts: ModelFacts, name: str) -> ModelRow:
        """A model's row, once the rules admit it; raises PermissionDenied, which says why not."""
        self._consenting.must_be_agreed(facts)
        operator, citizenship = self._desk.operator()
        blobs = Blobs(self._home.log / "blob")
        for paper in ModelStore(self._home.models).papers(facts.digest).values():
            blobs.put(paper)
        index = await establish.model(
            self._book,
            self._decider,
            self._charter,
            facts.admission(),
            charter_index=self._charter_index,
            policy_index=self._policy_index,
            operator=operator,
            citizenship=citizenship,
        )
        self._db.set_live("admitted", facts.digest, self._book.origin, index, "{}")
        held = self._book.held("model.admitted/v1", facts.name)
        entry = held["entry"] if held is not None else ""
        return ModelRow(name, index, entry, int(time.time()), facts.embeds, facts.context_length)

    async def _append(self, entries: list[str]) -> list[int]:
        answer = await self._sequencer.call("append", entries=entries)
        return [int(index) for index in answer["indices"]]

    async def _serve(self) -> None:
        desk = self._desk
        deploying = self._deploying(self.deployments)
        rows = self._listed(self.replicas.roster.deployment_rows), self._listed(self.replicas.roster.replica_rows)
        consent = self._consenting.handlers(lambda use_case: use_case)
        metering = self._metering.handlers(lambda use_case: use_case)
        by = Served(self._status, *rows, consent, metering, self._deploying)
        charter = (self._charter_index, self._charter)
        administering = Administering(self._db, self._book.write, self._clock, charter, desk, by)
        wish = self._changes(deploying.wish)

        async def deploy(model: str, name: str, changes: dict[str, Any]) -> Any:
            meant, spec = await deploying.resolve(model, name, changes)
            return await wish(name=meant, spec=spec)

        handlers: dict[str, rpc.Handler] = {
            "worker.register": self._register,
            "replica.report": self._report,
            "status": self._status,
            "key.create": self._changes(desk.create_key),
            "key.revoke": self._changes(desk.revoke_key),
            "person.add": self._changes(desk.add_person),
            "tenant.add": self._changes(desk.add_tenant),
            "auditor.create": self._changes(desk.create_auditor),
            "auditor.revoke": self._changes(desk.revoke_auditor),
            "list": self._list,
            "deploy": deploy,
            "deployment.stop": self._changes(deploying.stop),
            "replica.drain": self._changes(deploying.drain),
            "deployments": rows[0],
            "replicas": rows[1],
            "logs": deploying.logs,
            **self._consenting.handlers(self._changes),
            **self._identifying.handlers(self._changes),
            **administering.handlers(self._changes),
            **self._metering.handlers(self._changes),
            **self._storing.handlers(self._changes),
            **self._breaches.handlers(self._changes),
        }
        self._server = await rpc.serve(self._home.control_socket, handlers)

    def _deploying(self, by: Deployments) -> Deploying:
        return Deploying(by, self.replicas, ModelStore(self._home.models), self.node.admits)

    def _start_replicas(self) -> None:
        self.replicas.start()

    async def _start_fronts(self) -> None:
        self._fleet.fronts = self.plan.fronts(self._log_file)
        for child in self._fleet.fronts:
            child.start()
        for child in self._fleet.fronts:
            await self._ready(child)

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

    # Serving.

    def _changes(self, use_case: Callable[..., Any]) -> rpc.Handler:
        """An administrative act, one at a time, and in force in every worker before it is acknowledged."""

        async def act(**params: Any) -> Any:
            async with self._changing:
                try:
                    result = await use_case(**params)
                finally:
                    self._roll = None
                    number = self._publish()  # a revocation holds even if its entry could not be written
            await self._in_force(number)
            return result

        return act

    async def _in_force(self, number: int) -> None:
        """Until every worker works by that snapshot: one that is away reads it when it starts again.

        One that has not looked for as long as this waits at most is stuck, and answers nobody meanwhile.
        """
        end = time.monotonic() + IN_FORCE_SECONDS
        workers = self._fleet.fronts[: self.plan.workers]
        while time.monotonic() < end and any(  # noqa: ASYNC110  it looks at files
            child.ready.is_set() and self._snapshot.confirmed(slot) < number for slot, child in enumerate(workers)
        ):
            await asyncio.sleep(POLL_SECONDS / 4)

    def _listed(self, rows: Callable[[], list[dict[str, Any]]]) -> rpc.Handler:
        """A list of what serves, given out once every worker works by it: what it calls ready can be asked."""

        async def listed() -> list[dict[str, Any]]:
            found = rows()
            await self._in_force(self._number)
            return found

        return listed

    async def _register(self, slot: int, vkey: str) -> dict[str, Any]:
        async with self._changing:
            index = await establish.key(self._book, self._charter_index, "worker", vkey)
        self._metering.registered(slot, index)
        _log.info("worker %d has key entry %d", slot, index)
        return {"index": index, "origin": self._origin, "margin_ms": self._charter.margin_seconds * 1000}

    async def _report(self, replica: str, event: str, data: dict[str, Any]) -> None:
        if event != "loading":
            _log.info("replica %s: %s", replica, event)
        async with self._changing:
            if await self.node.report(replica, event, data):
                self._publish()
        if event in {"ready", "stopped"}:
            self.replicas.look()

    async def _list(self, table: str) -> list[dict[str, Any]]:
        if table not in {"keys", "people", "tenants", "auditors"}:
            raise ConfigError(f"no table {table!r}")
        return self._desk.list(table)

    async def _status(self) -> dict[str, Any]:
        lease = self.node.lease
        log = await self._sequencer.call("status")
        children = [self._fleet.sequencer, *self.replicas.roster.children(), *self._fleet.fronts]
        seconds_left = 0 if lease is None else round((lease.expires - self._clock.now_ms()) / 1000)
        return {
            "url": self.plan.url,
            "origin": self._origin,
            "profile": self._charter.profile,
            "ceremony": self._consenting.ceremony(),
            "snapshot": self._number,
            "lease": None
            if lease is None
            else {"entry": lease.index, "node": lease.node, "seconds_left": seconds_left},
            "deployments": self.replicas.roster.deployment_rows(),
            "replicas": self.replicas.roster.replica_rows(),
            "waiting": [*self._waiting, *self._metering.waiting],
            "reviews": self._consenting.reviews(),
            "breaches": self._breaches.open_ones(),
            "not_serving_because": [*self._refusals(), *_no_room(self._home)],
            "log": {key: log[key] for key in ("origin", "size", "vkey", "seconds_since_tick")},
            "processes": [
                {"name": child.name, "pid": child.pid, "starts": child.starts, "ready": child.ready.is_set()}
                for child in children
                if child is not None
            ],
        }

    def _refusals(self) -> list[str]:
        return [*self.node.refusals, *self.replicas.roster.reasons()]

    def _publish(self) -> int:
        """Write the next snapshot, whole or not at all; its number."""
        self._number = max(self._number, int(self._db.meta("snapshot") or 0)) + 1
        self._db.set_meta("snapshot", str(self._number))
        prices = self._metering.prices
        self._roll = self._roll or publish.roll(self._number, self._db.rows, self._clock.now_ms(), prices)
        self._metering.published(self._roll)
        snapshot = Snapshot(
            number=self._number,
            origin=self._origin,
            charter=CharterRef(self._charter_index, self._text),
            policy=PolicyRef(self._policy_index, self._bundle.version, self._bundle.rules, self._bundle.schema),
            roll=self._roll,
            models=tuple(self.replicas.roster.models()),
            leases=self.node.leases(),
            replicas=tuple(self.node.rows()),
            refusals=tuple(self._refusals()),
        )
        self._snapshot.write(snapshot)
        return self._number

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

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            self._snapshot.touch()


def lock(home: Home) -> int:
    """Hold the home for this process.

    Raises:
        Conflict: another `daulat up` holds it.
    """
    descriptor = os.open(home.path / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise Conflict(
            f"the service of {home.path} is running already: `daulat status`, or choose another --home"
        ) from None
    return descriptor


def write_starter_charter(home: Home) -> bool:
    """Write `charter.toml` on the first start; whether it was."""
    if home.charter.exists():
        return False
    home.charter.write_text(charters.starter())
    return True


def _no_room(home: Home) -> list[str]:
    """Why the workers admit nothing, where the disk is too full."""
    free = shutil.disk_usage(home.journal).free
    if free >= WATERMARK_BYTES:
        return []
    return [f"{free >> 20} MiB are free at {home.journal}, {WATERMARK_BYTES >> 20} are needed: make room"]


def _last_error(log: Path) -> str:
    """What the last process that ended with an error said of it."""
    for line in reversed(log.read_text(errors="replace").splitlines()[-50:]):
        with contextlib.suppress(ValueError, TypeError, KeyError):
            said = json.loads(line)
            if said["level"] == "error":
                return str(said["message"])
    return ""
