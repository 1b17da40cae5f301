"""The vault: it alone holds the keys of what is kept, and answers for files and stored completions behind the workers.

It is ready to say why not before it can keep anything: the root may be sealed, the place without a lease. Until both
are there, whatever is asked of it is refused, and the workers take no request that is to be stored.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from daulat.adapters import rpc
from daulat.adapters.vault_index import SqliteIndex
from daulat.adapters.vault_keys import SqliteKeys
from daulat.core import charter as charters
from daulat.core.clock import SystemClock
from daulat.core.decision import keep_question
from daulat.errors import DaulatError, PermissionDenied, Unavailable, VerificationFailed
from daulat.gateway import stored
from daulat.gateway.files import Files
from daulat.gateway.stored import Completions
from daulat.pipeline.stored import opened
from daulat.policy.cedar import CedarDecider
from daulat.processes import behind, edge, keeping
from daulat.processes.callers import Callers, Teller, answering, failed, secret
from daulat.processes.retaining import Sweeper
from daulat.processes.rights import Giving
from daulat.settings import Home
from daulat.vault.keyring import Keyring
from daulat.vault.objects import Objects, Whose
from daulat.vault.residency import LEASE_MS, Site

_SWEEP_SECONDS: Final = 60.0
_TRY_SECONDS: Final = 2.0  # between two tries to open it
_BEAT_SECONDS: Final = 1.0
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Lease:
    """Until when the place may be written to."""

    index: int
    expires: int
    expires_boottime: float


class Vault:
    """One home's. `reason`: why nothing can be kept or read, in words, or empty."""

    def __init__(self, home: Home, asked: keeping.Asked) -> None:
        self._home, self._asked = home, asked
        self._clock = SystemClock()
        self._control = rpc.Client(home.control_socket)
        self.callers = Callers(home.snapshot, self._clock)
        self._tell = Teller(home.control_socket)
        self.reason = "the vault is being opened"
        self._unswept = ""  # why what has expired is still there, in words
        self._objects: Objects | None = None
        self.sweeper = Sweeper(self.objects, rpc.Client(home.control_socket))
        self._giving = Giving(self.objects, rpc.Client(home.control_socket))
        self._keys: Keyring | None = None
        self._site: Site | None = None
        self._lease: Lease | None = None
        self._policy: tuple[str, CedarDecider] | None = None

    def application(self) -> Starlette:
        routes = [
            *Files(self.objects, self.reads, self.keeps, self.broke, self._asked.file_bytes).routes(),
            *Completions(self.objects, self.reads, self.keeps).routes(),
        ]
        made = answering(routes)
        made.add_exception_handler(VerificationFailed, self._damaged)
        made.add_exception_handler(PermissionDenied, self._denied)
        return made

    def broke(self, request: Request, error: VerificationFailed) -> None:
        """Something that somebody keeps here was changed or exchanged: the operator and the log are told."""
        _log.error("an object is not given out: %s", error.message)
        self._tell(secret(request), "vault.read", error.code)

    async def _damaged(self, request: Request, error: Exception) -> Response:
        if isinstance(error, VerificationFailed):
            self.broke(request, error)
        return await failed(request, error)

    async def _denied(self, request: Request, error: Exception) -> Response:
        if isinstance(error, PermissionDenied):
            action = "vault.keep" if request.method == "POST" else "vault.read"
            self._tell(secret(request), action, error.code)
        return await failed(request, error)

    def handlers(self) -> dict[str, rpc.Handler]:
        """For workers and the control process."""
        return {
            "keep": self.keep,
            "rotate": self.rotate,
            "destroy": self.destroy,
            "status": self.status,
            "retain": self.sweeper.wake,
            **self._giving.handlers(),
        }

    def objects(self) -> Objects:
        """Raises Unavailable: the vault is not open."""
        if self._objects is None:
            raise Unavailable(f"Nothing is kept here now: {self.reason}.", code="vault_unavailable")
        return self._objects

    def reads(self, request: Request) -> Whose:
        """Whose data is asked for: everybody sees and deletes their own, whatever rules say of using the service.

        Raises:
            PermissionDenied: with a key that another made for somebody who has signed in.
        """
        principal = opened(self.callers.principal(request))
        return Whose(principal.tenant_id, principal.person_id)

    def keeps(self, request: Request) -> Whose:
        """The same, of someone who asks to have something kept.

        Raises:
            PermissionDenied: the rules in force refuse it, or as `reads`.
        """
        principal, snapshot = opened(self.callers.principal(request)), self.callers.snapshot
        if self._policy is None or self._policy[0] != snapshot.policy.version:
            self._policy = snapshot.policy.version, CedarDecider(snapshot.policy.rules, snapshot.policy.schema)
        question = keep_question(
            charters.parse(snapshot.charter.text),
            tenant=principal.tenant,
            person=principal.person,
            attributes=principal.attributes.as_dict(),
        )
        decision = self._policy[1].decide(question)
        if not decision.allowed:
            rules = ", ".join(decision.policies)
            raise PermissionDenied(f"Refused by {rules}: {decision.reason}.", policies=decision.policies)
        return Whose(principal.tenant_id, principal.person_id)

    async def keep(self, tenant: str, person: str, request: str, answer: str, *, stream: bool) -> dict[str, Any]:
        """A completion, for a worker that has authenticated and authorized whose it is."""
        whose, objects = Whose(tenant, person), self.objects()
        id_ = await asyncio.to_thread(stored.keep, objects, whose, request.encode(), answer.encode(), stream=stream)
        return {"id": id_}

    async def rotate(self, tenant: str = "") -> dict[str, Any]:
        """The root's key, or a tenant's."""
        objects = self.objects()
        version = await asyncio.to_thread(objects.rotate, tenant)
        return {"root": version}

    async def destroy(self, owner: str, name: str, people: list[str]) -> dict[str, Any]:
        """Keys, and what stood under them."""
        if owner not in {"tenant", "person"}:
            raise PermissionDenied("keys belong to a tenant or a person")
        kind: Any = owner
        keys, objects = await asyncio.to_thread(self.objects().destroy, kind, name, tuple(people))
        return {"keys": keys, "objects": objects}

    async def status(self) -> dict[str, Any]:
        lease = None if self._lease is None else {"entry": self._lease.index, "expires": self._lease.expires}
        reason = self.reason or self._unswept
        return {"open": self._objects is not None, "reason": reason, "lease": lease}

    # Opening, and staying open.

    async def stay_open(self) -> None:
        """Open, lease the place, and keep both; for as long as the process lives."""
        while True:
            try:
                if self._objects is None:
                    read = charters.parse(self.callers.snapshot.charter.text)
                    await asyncio.to_thread(self._open, read.country)
                await self._renew()
                self.reason = ""
            except DaulatError as error:
                if error.message != self.reason:
                    _log.warning("nothing can be kept: %s", error.message)
                self.reason = error.message
            self._beat()
            await asyncio.sleep(_TRY_SECONDS if self.reason else _BEAT_SECONDS)

    async def expire(self) -> None:
        """Take away what has expired, for as long as the process lives; by itself, because a place may be slow."""
        while True:
            if self._objects is not None:
                try:
                    await asyncio.to_thread(self._objects.sweep)
                    self._unswept = ""
                except DaulatError as error:
                    words = f"what has expired cannot be taken away: {error.message}"
                    if words != self._unswept:
                        _log.warning("%s", words)
                    self._unswept = words
            await asyncio.sleep(_TRY_SECONDS if self._objects is None or self._unswept else _SWEEP_SECONDS)

    def _open(self, country: str) -> None:
        root = keeping.root(self._home, self._asked)
        place, self._site = keeping.place(self._home, self._asked, country)
        keys = Keyring(root, SqliteKeys(self._home.vault / "keys.db"), self._clock)
        keys.settle()  # a rotation that was cut off goes on
        index = SqliteIndex(self._home.vault / "index.db")
        self._objects = Objects(keys, index, place, self._clock, self._leased, self._asked.person_bytes)
        self._objects.tidy()

    async def _renew(self) -> None:
        """A lease for the place, while less than half of it is left."""
        now, boot = self._clock.now_ms(), self._clock.boottime()
        held, site = self._lease, self._site
        if site is None:
            raise Unavailable("the place is not known yet")
        if held is not None and held.expires - now > LEASE_MS // 2:
            return
        granted = await self._control.call(
            "vault.lease", kind=site.kind, place=site.place, jurisdiction=site.jurisdiction, evidence=site.evidence
        )
        self._lease = Lease(granted["index"], granted["expires"], boot + (granted["expires"] - now) / 1000)

    def _leased(self) -> None:
        held = self._lease
        if held is None or held.expires <= self._clock.now_ms() or held.expires_boottime <= self._clock.boottime():
            raise Unavailable(
                f"Nothing is written where no lease says that data may lie: {self.reason or 'it has run out'}.",
                code="storage_not_leased",
            )

    def _beat(self) -> None:
        """Be seen able to keep something, or not."""
        with contextlib.suppress(OSError):
            if self.reason:
                self._home.vault_beat.unlink(missing_ok=True)
            else:
                self._leased_or_not()

    def _leased_or_not(self) -> None:
        try:
            self._leased()
        except Unavailable:
            self._home.vault_beat.unlink(missing_ok=True)
        else:
            self._home.vault_beat.touch(mode=0o600)


async def run(home: Home, asked: keeping.Asked) -> None:
    loop = asyncio.get_running_loop()
    stop = edge.stop_event(loop)
    vault = Vault(home, asked)
    server, serving = await behind.serve(vault.application(), home.vault_pages_socket)
    calls = await rpc.serve(home.vault_socket, vault.handlers())
    working = asyncio.gather(vault.stay_open(), vault.expire(), vault.sweeper.watch())
    working.add_done_callback(lambda _: stop.set())  # what it raises is a defect: the control process starts us again
    edge.ready()
    await stop.wait()
    working.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await working
    calls.close()
    server.should_exit = True
    await serving


def main() -> None:
    parser = argparse.ArgumentParser(prog="daulat-vault")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--asked", required=True)
    parser.add_argument("--parent", type=int)
    arguments = parser.parse_args()
    edge.begin("vault", parent=arguments.parent)
    edge.keep_private()
    asyncio.run(run(Home(arguments.home), keeping.Asked.read(arguments.asked)))


if __name__ == "__main__":
    main()
