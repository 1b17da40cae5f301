"""The supervisors of this machine: the reconciler's loop. It sees, asks `fleet.reconcile` what to do, and does it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from daulat.core.accelerator import Accelerator
from daulat.core.deployment import Share, Spec
from daulat.core.snapshot import ModelRow
from daulat.engines import options
from daulat.engines.external import EXTERNAL
from daulat.errors import ConfigError, Conflict, DaulatError, InvalidRequest, NotFound
from daulat.fleet.reconcile import Action, Drain, Promote, RollBack, Start, Stop, reconcile
from daulat.pipeline.deploy import Deployment, Deployments
from daulat.pipeline.enrol import Node
from daulat.placement.place import Refused
from daulat.processes import elsewhere
from daulat.processes.children import Child
from daulat.processes.roster import Held, Places, Prepared, Roster, key_of
from daulat.registry.model import ModelFacts
from daulat.settings import Home

_TUNED: Final = ("arguments", "environment")
LOOK_SECONDS: Final = 0.5
STOP_SECONDS: Final = 8.0
_KEPT_LOGS: Final = 30
_log = logging.getLogger(__name__)


class Store(Protocol):
    """Port: model files (`adapters.models.ModelStore`)."""

    def find(self, wanted: str) -> ModelFacts: ...

    def verified(self, digest: str) -> Path: ...


@dataclass(frozen=True, slots=True)
class Ways:
    """What the loop needs of the control process.

    `admit(facts, name)`: the model's row once the rules admit it; `publish()`: write a snapshot, its number;
    `launch(id, wish, prepared, share, log, on_end)`: a supervisor, not started yet; `give_up(why)`: end the service.
    """

    admit: Callable[[ModelFacts, str], Awaitable[ModelRow]]
    publish: Callable[[], int]
    launch: Callable[[str, Deployment, Prepared, Share, Path, Callable[[], None]], Child]
    give_up: Callable[[str], None]
    changing: asyncio.Lock


class Replicas:
    """Owns every supervisor. One `look` at a time, under the control process' lock."""

    def __init__(
        self, home: Home, roster: Roster, node: Node, deployments: Deployments, store: Store, ways: Ways
    ) -> None:
        self.roster = roster
        self._node, self._deployments, self._store, self._ways = node, deployments, store, ways
        self._preparing: set[tuple[str, int]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._due = asyncio.Event()
        self._logs = home.path / "replicas"

    def start(self) -> None:
        """Look again and again, from now on."""
        self._logs.mkdir(mode=0o700, exist_ok=True)
        for old in sorted(self._logs.glob("*.log"), key=lambda path: path.stat().st_mtime)[:-_KEPT_LOGS]:
            old.unlink()
        self._spawn(self._run())

    def prepared(self, wish: Deployment, facts: ModelFacts, file: Path, row: ModelRow) -> None:
        """Somebody else has verified and admitted this one."""
        self.roster.prepared[key_of(wish)] = Prepared(facts, file, row)

    def look(self) -> None:
        """Something has changed: look at once."""
        self._due.set()

    async def stop(self) -> None:
        """End all supervisors, at once: the service stops."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(held.child.stop(STOP_SECONDS) for held in self.roster.held.values()))

    # Acts of operators.

    def log(self, replica: str, lines: int) -> list[str]:
        """The end of a replica's log; also of one that is gone.

        Raises:
            NotFound: there is no such replica.
        """
        found = sorted(self._logs.glob(f"{replica}*.log")) if replica.isalnum() else []
        if len(found) != 1:
            known = ", ".join(self.roster.held) or "none"
            raise NotFound(f"{len(found)} replicas have a log under {replica[:40]!r}; running are: {known}")
        return found[0].read_text(errors="replace").splitlines()[-lines:]

    def cordon(self, replica: str) -> tuple[str, str]:
        """Have it replaced: it is drained once its successor answers. Its id and its deployment.

        Raises:
            NotFound: there is no such replica; Conflict: it is leaving already.
        """
        found = [id_ for id_ in self.roster.held if replica and id_.startswith(replica)]
        if len(found) != 1:
            raise NotFound(f"{len(found)} replicas answer to {replica[:40]!r}: see `daulat replicas`")
        held = self.roster.held[found[0]]
        if held.stopping or held.drain_until is not None or held.cordoned:
            raise Conflict(f"replica {found[0]} is being drained already")
        held.cordoned = True
        self.look()
        return found[0], held.deployment

    def leave(self, wish: Deployment) -> None:
        """It is wished for no longer: drain its replicas at once."""
        held = [id_ for id_, held in self.roster.held.items() if held.wish == wish.id and held.drain_until is None]
        self._drain(held, time.monotonic(), wish.spec.drain_seconds)
        self.look()

    def again(self, name: str) -> None:
        """Try anew what could not be started."""
        wish = self._deployments.find(name)
        self.roster.refused = {key: why for key, why in self.roster.refused.items() if key[0] != wish.id}
        self.look()

    def seen(self, accelerators: Iterable[Accelerator]) -> None:
        """What a look at the devices has found: what runs on broken ones is ended, and nothing is started there."""
        used = {device for wish in self._deployments.all() for device in wish.target.devices}
        used |= {device for held in self.roster.held.values() for device in held.share.devices}
        before = self.roster.fitness.unfit
        self.roster.fitness = self.roster.fitness.after(used, accelerators)
        now = self.roster.fitness.unfit
        for device in sorted({*before, *now}):
            if device not in before:
                _log.warning("%s: nothing runs there any more", now[device])
            elif device not in now:
                _log.info("device %s is well again", device)
        if before != now:
            self.look()

    # Looking, and acting.

    async def _run(self) -> None:
        said = ""  # once, and not twice a second
        while True:
            self._due.clear()
            try:
                async with self._ways.changing:
                    await self._look()
                said = ""
            except (DaulatError, OSError) as error:
                if str(error) != said:
                    _log.warning("the reconciler will try again: %s", error)  # the next look sees what is left to do
                said = str(error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):  # `wait_for` loses a cancellation that comes with the event
                    await self._due.wait()

    async def _look(self) -> None:
        now, wishes = time.monotonic(), self._deployments.all()
        places = self.roster.place(wishes)
        self._compare(places)
        await self._leave_unfit()
        wanted = [self.roster.wanted(wish, places) for wish in wishes]
        running = [self.roster.see(id_, now) for id_ in self.roster.held]
        by_name = {wish.name: wish for wish in wishes}
        for action in reconcile(wanted, running, now):
            await self._do(action, by_name, places, now)

    async def _do(
        self,
        action: Action,
        wishes: Mapping[str, Deployment],
        places: Places,
        now: float,
    ) -> None:
        match action:
            case Start(name, revision):
                self._start(wishes[name], revision, places.get(name), now)
            case Drain(id_):
                wish = wishes.get(self.roster.held[id_].deployment)
                self._drain([id_], now, (Spec("") if wish is None else wish.spec).drain_seconds)
            case Stop(id_):
                self.roster.held[id_].stopping = True
                self._spawn(self._end(id_))
            case Promote(name, revision):
                _log.info("deployment %s: revision %d is up as wished", name, revision)
                self._deployments.promote(name, revision)
            case RollBack(name, reason):
                _log.warning("deployment %s: the newest revision is given up: %s", name, reason)
                self._deployments.roll_back(name, reason)
                self._ways.publish()

    async def _leave_unfit(self) -> None:
        """End what runs on devices that are broken or gone: its end is written, and nothing is sent there any more."""
        for id_, held in list(self.roster.held.items()):
            why = self.roster.unfit(held.share)
            if why and not held.stopping:
                await self._node.lost(id_, why)
                self._ways.publish()
                held.stopping = True
                self._spawn(self._end(id_))

    def _compare(self, places: Places) -> None:
        """What computes with other threads than its share is replaced, so that engines do not fight for cores."""
        for held in self.roster.held.values():
            shares = places.get(held.deployment)
            if isinstance(shares, tuple) and shares and held.share.threads != shares[0].threads:
                held.cordoned = True

    def _start(self, wish: Deployment, revision: int, shares: tuple[Share, ...] | Refused | None, now: float) -> None:
        prepared = self.roster.prepared.get((wish.id, revision))
        if prepared is None:
            self._prepare(wish)
            return
        taken = {device for held in self.roster.held.values() for device in held.share.devices}
        mine = shares if isinstance(shares, tuple) else ()
        free = [share for share in mine if not taken & set(share.devices) and not self.roster.unfit(share)]
        if not free:
            return
        id_ = os.urandom(8).hex()
        log = self._logs / f"{id_}.log"
        try:
            child = self._ways.launch(id_, wish, prepared, free[0], log, lambda: self._gone(id_))
        except (InvalidRequest, ConfigError) as error:  # as it is wished for, it cannot be started
            _log.warning("deployment %s cannot be started: %s", wish.name, error)
            self.roster.refused[(wish.id, revision)] = error.message
            return
        outside = wish.target.engine == EXTERNAL.name
        # Of its options, where it stands: what else is wrong with them ends its own supervisor, and holds nobody up.
        stated = {name: value for name, value in wish.target.options.items() if name not in _TUNED}
        place = elsewhere.place(options.parse(json.dumps(stated))) if outside else None
        self._node.expect(id_, prepared.row, place)
        self.roster.held[id_] = Held(wish.id, wish.name, revision, free[0], child, now)
        child.start()
        _log.info("replica %s of %s (revision %d) is started", id_, wish.name, revision)

    def _drain(self, ids: Sequence[str], now: float, seconds: float) -> None:
        for id_ in ids:
            self.roster.held[id_].drain_until = now + seconds
            self._node.drain(id_)
            _log.info("replica %s of %s is drained", id_, self.roster.held[id_].deployment)
        number = self._ways.publish() if ids else 0
        for id_ in ids:
            self.roster.held[id_].drained_at = number

    async def _end(self, id_: str) -> None:
        await self.roster.held[id_].child.stop(STOP_SECONDS)
        await self._written(lambda: self._forget(id_))
        self.look()

    async def _forget(self, id_: str) -> None:
        await self._node.forget(id_)
        held = self.roster.held.pop(id_)
        _log.info("replica %s of %s has ended", id_, held.deployment)

    def _gone(self, id_: str) -> None:
        """Its supervisor ended by itself; it is started again, but its engine is dead now."""
        if id_ in self.roster.held and not self.roster.held[id_].stopping:
            self._spawn(self._lost(id_))

    async def _lost(self, id_: str) -> None:
        await self._written(lambda: self._node.lost(id_, "its supervisor ended"))
        self.look()

    async def _written(self, write: Callable[[], Awaitable[object]]) -> None:
        """Have an end in the log, and in the next snapshot; again while the log cannot be written."""
        while True:
            try:
                async with self._ways.changing:
                    await write()
                    self._ways.publish()
            except DaulatError as error:
                _log.warning("an end cannot be written yet: %s", error.message)
                await asyncio.sleep(LOOK_SECONDS)
            else:
                return

    def _prepare(self, wish: Deployment) -> None:
        key = key_of(wish)
        if key not in self._preparing and key not in self.roster.refused:
            self._preparing.add(key)
            self._spawn(self._verify_and_admit(wish, key))

    async def _verify_and_admit(self, wish: Deployment, key: tuple[str, int]) -> None:
        try:
            digest = wish.target.model
            facts = await asyncio.to_thread(self._store.find, digest)
            file = await asyncio.to_thread(self._store.verified, digest)
            async with self._ways.changing:
                row = await self._ways.admit(facts, wish.name)
                self.roster.prepared[key] = Prepared(facts, file, row)
                self._ways.publish()
        except (DaulatError, OSError) as error:
            _log.warning("deployment %s cannot be started: %s", wish.name, error)
            self.roster.refused[key] = error.message if isinstance(error, DaulatError) else str(error)
        finally:
            self._preparing.discard(key)
            self.look()

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("the reconciler failed", exc_info=error)
            self._ways.give_up(f"the reconciler failed: {type(error).__name__}: {error}")
