"""Receipts, the log and metrics over HTTP: everything that is not the request path, behind the workers."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from daulat.adapters import log_files, request_index
from daulat.adapters.log_files import Blobs, LogFolder
from daulat.adapters.snapshot_file import SnapshotFile
from daulat.core import commitments, entries
from daulat.core.clock import SystemClock
from daulat.core.ids import REQUEST_ID
from daulat.core.principal import Principal
from daulat.errors import DaulatError, NotFound, Unauthenticated, Unavailable, VerificationFailed
from daulat.gateway import errors as wire_errors
from daulat.gateway import metrics, peers
from daulat.gateway.forward import CLIENT
from daulat.identity.directory import Directory, expired
from daulat.ledger import receipts
from daulat.processes import edge, listening
from daulat.processes.watch import Watch
from daulat.settings import Home
from daulat.tlog import checkpoint as checkpoints
from daulat.tlog import note, tiles

_FOREVER: Final = {"cache-control": "public, max-age=31536000, immutable"}
_NEVER: Final = {"cache-control": "no-store"}
_PENDING: Final = "No receipt for this request id yet. One follows about a second after the answer."
_BINARY: Final = "application/octet-stream"


class Pages:
    """The handlers. They read files; what they may show is decided by the current snapshot."""

    def __init__(self, home: Home, watch: Watch) -> None:
        self._home = home
        self._watch = watch
        self._clock = SystemClock()
        self._snapshot = SnapshotFile(home.snapshot)
        self._directory: Directory | None = None

    def routes(self) -> list[Route]:
        table: list[tuple[str, Callable[[Request], Awaitable[Response]]]] = [
            ("/v1/receipts/{request_id}", self.receipt),
            ("/log/vkey", self.vkey),
            ("/log/blob/{digest}", self.blob),
            ("/log/checkpoint", self.checkpoint),
            ("/log/tile/{path:path}", self.tile),
            ("/log/{period}/checkpoint", self.checkpoint),
            ("/log/{period}/vkey", self.vkey),
            ("/log/{period}/tile/{path:path}", self.tile),
            ("/metrics", self.metrics),
        ]
        return [Route(path, handler, methods=["GET"]) for path, handler in table]

    async def receipt(self, request: Request) -> Response:
        """The receipt of one answer, for the person who got it. For anybody else it does not exist."""
        principal = self._principal(request)
        wanted = request.path_params["request_id"]
        if not REQUEST_ID.match(wanted):
            raise NotFound("A request id is 'req_' and 32 hex digits.", code="receipt_unknown")
        body = await asyncio.to_thread(self._receipt, principal, wanted)
        return Response(body, media_type="application/json", headers=_NEVER)

    async def checkpoint(self, request: Request) -> Response:
        published = self._folder(request).published()
        if not published:
            raise NotFound("The log has no checkpoint yet.")
        return Response(published, media_type="text/plain; charset=utf-8", headers={"cache-control": "no-cache"})

    async def tile(self, request: Request) -> Response:
        """Hash tiles for everybody; entry bundles for auditors."""
        path = f"tile/{request.path_params['path']}"
        try:
            parsed = tiles.parse_path(path)
        except VerificationFailed as error:
            raise NotFound(error.message) from None
        if parsed.level is None:
            self._auditor(request)
        data = await asyncio.to_thread(self._folder(request).read, path)
        return Response(data, media_type=_BINARY, headers=_FOREVER if parsed.level is not None else _NEVER)

    async def blob(self, request: Request) -> Response:
        data = await asyncio.to_thread(Blobs(self._home.log / "blob").get, request.path_params["digest"])
        return Response(data, media_type=_BINARY, headers=_FOREVER)

    async def vkey(self, request: Request) -> Response:
        return PlainTextResponse(self._folder(request).vkey())

    async def metrics(self, _request: Request) -> Response:
        samples = metrics.merged(sorted(self._home.run.glob("metrics-*")))
        published = LogFolder(self._home.log / log_files.current_period(self._home.log)).published()
        if published:
            samples["daulat_log_entries"] = {"": int(published.split(b"\n", 2)[1])}
        text = metrics.render(samples) + self._watch.text
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    def _receipt(self, principal: Principal, wanted: str) -> bytes:
        # Read in this order: what the index knows is under the checkpoint that is read after it.
        found = request_index.find(self._home.index_db, wanted)
        if found is None:
            raise NotFound(_PENDING, code="receipt_pending")
        origin, index = found
        folder = LogFolder(self._home.log / origin.rpartition("/")[2])
        signed = folder.published()
        verifier = note.Verifier(folder.vkey())
        checkpoint = checkpoints.open_checkpoint(signed, verifier)
        gathered = receipts.gather(folder, checkpoint.size, index)
        admission = entries.decode(gathered[index])["admission"]
        if (admission["tenant"], admission["principal"]) != (principal.tenant, principal.person):
            raise NotFound(_PENDING, code="receipt_pending")
        salts = {
            "request": commitments.salt(principal.epoch_key, wanted, "request"),
            "response": commitments.salt(principal.epoch_key, wanted, "response"),
        }
        built = receipts.build(folder, checkpoint, signed, verifier.vkey, index, gathered, salts)
        return json.dumps(built, ensure_ascii=False).encode()

    def _folder(self, request: Request) -> LogFolder:
        period = request.path_params.get("period") or log_files.current_period(self._home.log)
        if "/" in period or period.startswith(".") or not (self._home.log / period / "checkpoint").exists():
            raise NotFound(f"There is no log of the period {period[:40]!r}.")
        return LogFolder(self._home.log / period)

    def _principal(self, request: Request) -> Principal:
        principal = self._known().authenticate(_secret(request))
        if principal.expires <= self._clock.now_ms():
            raise expired(principal)
        if principal.networks:
            peers.check(principal, peers.client(request.headers.get(CLIENT.decode(), ""), {}, ()))
        return principal

    def _auditor(self, request: Request) -> None:
        if self._known().auditor(_secret(request)).expires <= self._clock.now_ms():
            raise Unauthenticated("This auditor's token has expired.", code="expired_token")

    def _known(self) -> Directory:
        """Everybody the newest snapshot knows."""
        try:
            snapshot = self._snapshot.poll()
        except FileNotFoundError:
            raise Unavailable("The control plane has not published yet.") from None
        if snapshot is not None:
            self._directory = Directory(snapshot.roll)
        if self._directory is None:
            raise Unavailable("The control plane has not published yet.")
        return self._directory


def _secret(request: Request) -> bytes:
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secret:
        raise Unauthenticated("Give a credential: 'Authorization: Bearer ...'.", code="missing_api_key")
    return secret.strip().encode()


async def _failed(_request: Request, error: Exception) -> Response:
    if not isinstance(error, DaulatError):
        raise error
    headers = {name.decode(): value.decode() for name, value in wire_errors.headers_for(error)}
    if error.code == "receipt_pending":
        headers["retry-after"] = "1"
    return Response(
        wire_errors.envelope(error), wire_errors.status_of(error), headers | _NEVER, media_type="application/json"
    )


async def _missing(_request: Request, _error: Exception) -> Response:
    return await _failed(_request, NotFound("There is no such page.", code="unknown_url"))


def application(home: Home, watch: Watch | None = None) -> Starlette:
    """The ASGI application over one home. `watch`: the accelerators, whoever runs it."""
    handlers: dict[Any, Any] = {DaulatError: _failed, 404: _missing}
    return Starlette(routes=Pages(home, watch or Watch()).routes(), exception_handlers=handlers)


async def run(home: Home) -> None:
    stop = edge.stop_event(asyncio.get_running_loop())
    watch = Watch()
    watch.start()
    await listening.serve(application(home, watch), home.pages_socket, stop)


def main() -> None:
    parser = argparse.ArgumentParser(prog="daulat-pages")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--parent", type=int)
    arguments = parser.parse_args()
    edge.begin("pages", parent=arguments.parent)
    asyncio.run(run(Home(arguments.home)))


if __name__ == "__main__":
    main()
