"""Who asks, for the processes behind the workers: by the snapshot that the workers have too."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from daulat.adapters import rpc
from daulat.adapters.snapshot_file import SnapshotFile
from daulat.core import charter as charters
from daulat.core.charter import Charter
from daulat.core.clock import Clock
from daulat.core.principal import Principal
from daulat.core.snapshot import Snapshot
from daulat.errors import DaulatError, InvalidRequest, NotFound, Unauthenticated, Unavailable
from daulat.gateway import errors as wire_errors
from daulat.gateway import peers
from daulat.gateway.bearer import bearer
from daulat.gateway.forward import CLIENT
from daulat.identity.directory import Directory, expired

NEVER = {"cache-control": "no-store"}


class Callers:
    """Everybody the newest snapshot knows."""

    def __init__(self, snapshot: Path, clock: Clock) -> None:
        self._file, self._clock = SnapshotFile(snapshot), clock
        self._snapshot: Snapshot | None = None
        self._directory: Directory | None = None
        self._charter: tuple[str, Charter] | None = None  # its text, and what that says

    def principal(self, request: Request) -> Principal:
        """Raises Unauthenticated: nobody who may ask; PermissionDenied: not there; Unavailable: not published yet."""
        principal = self._known().authenticate(secret(request).encode())
        if principal.expires <= self._clock.now_ms():
            raise expired(principal)
        if principal.networks:
            peers.check(principal, peers.client(request.headers.get(CLIENT.decode(), ""), {}, ()))
        return principal

    def unserved(self, principal: Principal) -> str:
        """Why the charter in force does not serve this person, or "". Raises Unavailable: nothing is published yet."""
        text = self.snapshot.charter.text
        if self._charter is None or self._charter[0] != text:
            self._charter = text, charters.parse(text)
        return self._charter[1].unserved(principal.attributes)

    def auditor(self, request: Request) -> None:
        """Raises Unauthenticated: it is no auditor who asks."""
        if self._known().auditor(secret(request).encode()).expires <= self._clock.now_ms():
            raise Unauthenticated("This auditor's token has expired.", code="expired_token")

    @property
    def snapshot(self) -> Snapshot:
        """Raises Unavailable: nothing is published yet."""
        self._known()
        if self._snapshot is None:
            raise Unavailable("The control plane has not published yet.")
        return self._snapshot

    def _known(self) -> Directory:
        try:
            snapshot = self._file.poll()
        except FileNotFoundError:
            raise Unavailable("The control plane has not published yet.") from None
        if snapshot is not None:
            self._snapshot, self._directory = snapshot, Directory(snapshot.roll)
        if self._directory is None:
            raise Unavailable("The control plane has not published yet.")
        return self._directory


def secret(request: Request) -> str:
    """What a request comes with. Raises Unauthenticated: nothing."""
    return bearer(request.headers.get("authorization", ""))


class Teller:
    """Has refusals written into the log, where it is somebody known. No answer waits for it: how long it takes must not
    say what there is."""

    def __init__(self, control: Path) -> None:
        self._control = control
        self._telling: set[asyncio.Task[None]] = set()

    def __call__(self, credential: str, action: str, code: str) -> None:
        told = asyncio.get_running_loop().create_task(self._told(credential, action, code))
        self._telling.add(told)
        told.add_done_callback(self._telling.discard)

    async def _told(self, credential: str, action: str, code: str) -> None:
        with contextlib.suppress(DaulatError):  # nobody known, or no control plane
            await rpc.once(self._control, "access.refused", credential=credential, action=action, code=code)


def answering(routes: Sequence[Route]) -> Starlette:
    """An application of these routes whose errors are said as the wire says them."""
    handlers: dict[Any, Any] = {DaulatError: failed, 404: missing, 405: other_method}
    made = Starlette(routes=routes, exception_handlers=handlers)
    made.router.redirect_slashes = False  # it would name our socket as the place to go to
    return made


async def failed(_request: Request, error: Exception) -> Response:
    """A handler's error, as the wire says it."""
    if not isinstance(error, DaulatError):
        raise error
    headers = {name.decode(): value.decode() for name, value in wire_errors.headers_for(error)}
    if error.code == "receipt_pending":
        headers["retry-after"] = "1"
    return Response(
        wire_errors.envelope(error), wire_errors.status_of(error), headers | NEVER, media_type="application/json"
    )


async def missing(request: Request, _error: Exception) -> Response:
    """No such page."""
    return await failed(request, NotFound("There is no such page.", code="unknown_url"))


async def other_method(request: Request, error: Exception) -> Response:
    """There is such a page, for other methods."""
    answer = await failed(request, InvalidRequest("This endpoint has other methods.", code="method_not_allowed"))
    answer.headers.update(getattr(error, "headers", None) or {})  # Allow
    return answer
