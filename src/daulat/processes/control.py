"""The control plane of one host: what should be, made so; what may be, published."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import fcntl
import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import psutil

from daulat.adapters import log_files, rpc
from daulat.adapters.control_db import ControlDatabase
from daulat.adapters.journal_files import WATERMARK_BYTES
from daulat.adapters.log_files import Blobs
from daulat.adapters.snapshot_file import SnapshotFile
from daulat.catalog import charters
from daulat.core import charter as charters_core
from daulat.core.clock import SystemClock
from daulat.core.ids import new_id
from daulat.core.snapshot import HEARTBEAT_SECONDS, POLL_SECONDS, CharterRef, ModelRow, PolicyRef, Snapshot
from daulat.errors import ConfigError, Conflict, Unavailable
from daulat.pipeline import establish, publish
from daulat.pipeline.book import Book
from daulat.pipeline.enrol import Ground, Node
from daulat.pipeline.operate import Desk
from daulat.policy.bundle import Bundle, load
from daulat.policy.cedar import CedarDecider
from daulat.processes.children import Child
from daulat.registry.model import ModelFacts
from daulat.settings import Home, Settings

READY_SECONDS: Final = 30.0
ENGINE_TRIES: Final = 3  # before the first start is given up
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """What this start is to run."""

    home: Home
    settings: Settings
    facts: ModelFacts
    model_file: Path

    @property
    def threads(self) -> int:
        return self.settings.threads or max(1, len(os.sched_getaffinity(0)) - 1)

    @property
    def workers(self) -> int:
        return self.settings.workers or max(1, len(os.sched_getaffinity(0)) - self.threads)

    @property
    def url(self) -> str:
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        return self.settings.url or f"http://{host}:{self.settings.port}"


@dataclass(slots=True)
class Fleet:
    """The children, in the order in which they are ended."""

    fronts: list[Child] = field(default_factory=list)  # workers and pages
    supervisor: Child | None = None
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
        self._db = ControlDatabase(self._home.control_db)
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
        text = self._home.charter.read_text()
        self._charter = charters_core.parse(text, location=str(self._home.charter))
        self._bundle = load(self._home.policies)
        self._decider = CedarDecider(self._bundle.rules, self._bundle.schema)
        if self.plan.settings.canary_seconds * 3 > self._charter.lease_seconds:
            raise ConfigError("a lease must outlast three canaries: lower canary_seconds or raise lease_seconds")
        await self._start_sequencer()
        await self._establish(text, self._bundle)
        await self._serve()
        self._publish()
        self._heart = asyncio.create_task(self._beat())
        self._start_supervisor()
        await self._start_fronts()

    async def wait_engine(self, progress: Callable[[float], None]) -> None:
        """Until the engine answers under a lease.

        Raises:
            Unavailable: no lease is granted, the engine cannot start, or the service ended.
        """
        said = 0
        while self.node.replica is None:
            progress(self.node.progress)
            why = self.node.refusals[0] if self.node.refusals else ""
            if self.ended.is_set():
                raise Unavailable(self.failure or "the service was stopped before it was ready")
            if why.startswith("no lease is granted"):
                raise Unavailable(f"{why}. `daulat doctor` says what this machine lacks")
            if self.node.stops >= ENGINE_TRIES:
                raise Unavailable(
                    f"the engine does not start, in {self.node.stops} tries: {self.node.last_stop}. See `daulat doctor`"
                )
            if self.node.stops > said:
                said = self.node.stops
                self._say(f"The engine did not start ({self.node.last_stop}). Trying again ...")
            await asyncio.sleep(0.05)
        await asyncio.sleep(2 * POLL_SECONDS)  # until every worker has seen the snapshot that names it
        progress(1.0)

    async def stop(self) -> None:
        """End all children in order: nothing is lost, nothing is left running."""
        fleet = self._fleet
        await asyncio.gather(*(child.stop(8.0) for child in fleet.fronts))
        if fleet.supervisor is not None:
            await fleet.supervisor.stop(7.0)
        if hasattr(self, "_heart"):
            self._heart.cancel()
        if hasattr(self, "_server"):
            self._server.close()
        await self._sequencer.close()
        if fleet.sequencer is not None:
            await fleet.sequencer.stop(10.0)
        self._db.close()
        self._home.clear_run()

    @property
    def vkey(self) -> str:
        return self._home.vkey.read_text().strip()

    # Starting.

    async def _start_sequencer(self) -> None:
        period = self.plan.settings.log_period or log_files.current_period(self._home.log) or time.strftime("%Y")
        self._origin = self._charter.origin(period)
        arguments = ["--home", str(self._home.path), "--name", self._charter.name, "--period", period]
        child = Child("daulat.processes.sequencer", arguments, self._log_file, gives_up=3, on_giving_up=self._give_up)
        self._fleet.sequencer = child
        child.start()
        await self._ready(child)

    async def _establish(self, text: str, bundle: Bundle) -> None:
        self._book = Book(self._origin, self._append, self._db, self._clock)
        book, facts = self._book, self.plan.facts
        self._charter_index = await establish.charter(book, self._charter, text)
        self._text = text
        log = await self._sequencer.call("status")
        await establish.log_key(book, self._charter_index, log["vkey"], log["rotation"])
        blobs = Blobs(self._home.log / "blob")
        self._policy_index = await establish.policy(book, self._charter_index, bundle, blobs.put)
        self._desk = Desk(self._db, book.write, self._clock, self._charter_index)
        self.secrets = await self._desk.begin()
        operator, citizenship = self._desk.operator()
        index = await establish.model(
            book,
            self._decider,
            self._charter,
            facts.admission(),
            charter_index=self._charter_index,
            policy_index=self._policy_index,
            operator=operator,
            citizenship=citizenship,
        )
        held = book.held("model.admitted/v1", facts.name)
        entry = held["entry"] if held is not None else ""
        self._model = ModelRow(facts.name, index, entry, int(time.time()), facts.embeds, facts.context_length)
        node = self._db.meta("node") or new_id("node")
        self._db.set_meta("node", node)
        ground = Ground(self._charter, self._charter_index, self._policy_index, self._decider)
        self.node = Node(book, self._clock, ground, node, (facts.name, index))
        self.node.inventory(_inventory())
        await self.node.recover()

    async def _append(self, entries: list[str]) -> list[int]:
        answer = await self._sequencer.call("append", entries=entries)
        return [int(index) for index in answer["indices"]]

    async def _serve(self) -> None:
        desk = self._desk
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
        }
        self._server = await rpc.serve(self._home.control_socket, handlers)

    def _start_supervisor(self) -> None:
        plan, settings = self.plan, self.plan.settings
        memory = settings.engine_memory_mib or psutil.virtual_memory().total * 3 // 4 // 2**20
        arguments = {
            "--home": self._home.path,
            "--replica": os.urandom(8).hex(),
            "--model-digest": plan.facts.digest,
            "--model-file": plan.model_file,
            "--model-name": plan.facts.name,
            "--slots": settings.slots,
            "--context": settings.context,
            "--threads": plan.threads,
            "--memory-mib": memory,
            "--canary-seconds": settings.canary_seconds,
        }
        self._fleet.supervisor = Child("daulat.processes.supervisor", _flat(arguments), self._log_file)
        self._fleet.supervisor.start()

    async def _start_fronts(self) -> None:
        settings, home = self.plan.settings, str(self._home.path)
        pages = Child("daulat.processes.pages", ["--home", home], self._log_file)
        workers = [
            Child(
                "daulat.processes.worker",
                _flat(
                    {
                        "--home": home,
                        "--slot": slot,
                        "--workers": self.plan.workers,
                        "--host": settings.host,
                        "--port": settings.port,
                    }
                ),
                self._log_file,
            )
            for slot in range(self.plan.workers)
        ]
        self._fleet.fronts = [*workers, pages]
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
                    self._publish()  # a revocation holds even if its entry could not be written
            await asyncio.sleep(2 * POLL_SECONDS)
            return result

        return act

    async def _register(self, slot: int, vkey: str) -> dict[str, Any]:
        async with self._changing:
            index = await establish.key(self._book, self._charter_index, "worker", vkey)
        _log.info("worker %d has key entry %d", slot, index)
        return {"index": index, "origin": self._origin, "margin_ms": self._charter.margin_seconds * 1000}

    async def _report(self, replica: str, event: str, data: dict[str, Any]) -> None:
        if event != "loading":
            _log.info("replica %s: %s", replica, event)
        async with self._changing:
            if await self.node.report(replica, event, data):
                self._publish()

    async def _list(self, table: str) -> list[dict[str, Any]]:
        if table not in {"keys", "people", "tenants", "auditors"}:
            raise ConfigError(f"no table {table!r}")
        return self._desk.list(table)

    async def _status(self) -> dict[str, Any]:
        lease = self.node.lease
        log = await self._sequencer.call("status")
        children = [self._fleet.sequencer, self._fleet.supervisor, *self._fleet.fronts]
        return {
            "url": self.plan.url,
            "origin": self._origin,
            "profile": self._charter.profile,
            "snapshot": self._number,
            "model": {"name": self._model.name, "digest": self.plan.facts.digest, "entry": self._model.index},
            "lease": None
            if lease is None
            else {
                "entry": lease.index,
                "node": lease.node,
                "seconds_left": round((lease.expires - self._clock.now_ms()) / 1000),
            },
            "replica": None if self.node.replica is None else msgspec.to_builtins(self.node.replica),
            "not_serving_because": [*self.node.refusals, *_no_room(self._home)],
            "log": {key: log[key] for key in ("origin", "size", "vkey", "seconds_since_tick")},
            "processes": [
                {"name": child.name, "pid": child.pid, "starts": child.starts, "ready": child.ready.is_set()}
                for child in children
                if child is not None
            ],
        }

    def _publish(self) -> None:
        """Write the next snapshot, whole or not at all."""
        self._number = max(self._number, int(self._db.meta("snapshot") or 0)) + 1
        self._db.set_meta("snapshot", str(self._number))
        now, node = self._clock.now_ms(), self.node
        tenants, people = self._db.rows("tenants"), self._db.rows("people")
        epoch_keys = {row["id"]: base64.b64decode(row["epoch_key"]) for row in tenants}
        snapshot = Snapshot(
            number=self._number,
            origin=self._origin,
            charter=CharterRef(self._charter_index, self._text),
            policy=PolicyRef(self._policy_index, self._bundle.version, self._bundle.rules, self._bundle.schema),
            tenants=publish.tenant_rows(tenants, epoch_keys),
            people=publish.person_rows(people, epoch_keys),
            keys=publish.key_rows(self._db.rows("keys"), {row["id"]: row for row in people}, epoch_keys, now),
            auditors=publish.auditor_rows(self._db.rows("auditors"), now),
            models=(self._model,),
            leases=() if node.lease is None else (node.lease,),
            replicas=() if node.replica is None else (node.replica,),
            refusals=node.refusals,
        )
        self._snapshot.write(snapshot)

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


def _inventory() -> dict[str, Any]:
    return {
        "cpu": platform.machine(),
        "cores": os.cpu_count() or 0,
        "memory_mib": psutil.virtual_memory().total // 2**20,
        "kernel": platform.release(),
    }


def _flat(arguments: dict[str, Any]) -> list[str]:
    return [str(part) for pair in arguments.items() for part in pair]
