"""Who asks, for the processes behind the workers: by the snapshot that the workers have too."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from daulat.adapters.snapshot_file import SnapshotFile
from daulat.core.clock import Clock
from daulat.core.principal import Principal
from daulat.core.snapshot import Snapshot
from daulat.errors import DaulatError, NotFound, Unauthenticated, Unavailable
from daulat.gateway import errors as wire_errors
from daulat.gateway import peers
from daulat.gateway.forward import CLIENT
from daulat.identity.directory import Directory, expired

NEVER = {"cache-control": "no-store"}


class Callers:
    """Everybody the newest snapshot knows."""

    def __init__(self, snapshot: Path, clock: Clock) -> None:
        self._file, self._clock = SnapshotFile(snapshot), clock
        self._snapshot: Snapshot | None = None
        self._directory: Directory | None = None

    def principal(self, request: Request) -> Principal:
        """Raises Unauthenticated: nobody who may ask; PermissionDenied: not there; Unavailable: not published yet."""
        principal = self._known().authenticate(_secret(request))
        if principal.expires <= self._clock.now_ms():
            raise expired(principal)
        if principal.networks:
            peers.check(principal, peers.client(request.headers.get(CLIENT.decode(), ""), {}, ()))
        return principal

    def auditor(self, request: Request) -> None:
        """Raises Unauthenticated: it is no auditor who asks."""
        if self._known().auditor(_secret(request)).expires <= self._clock.now_ms():
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


def _secret(request: Request) -> bytes:
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secret:
        raise Unauthenticated("Give a credential: 'Authorization: Bearer ...'.", code="missing_api_key")
    return secret.strip().encode()


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
