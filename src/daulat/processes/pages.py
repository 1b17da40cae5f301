"""Receipts, the log, metrics and the admin API over HTTP: all that is not the request path, behind the workers."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from daulat.adapters import log_files, request_index
from daulat.adapters.log_files import Blobs, LogFolder
from daulat.core import commitments, entries
from daulat.core.clock import SystemClock
from daulat.core.ids import REQUEST_ID
from daulat.core.principal import Principal
from daulat.errors import (
    NotFound,
    PermissionDenied,
    SealBroken,
    Unauthenticated,
    Unavailable,
    VerificationFailed,
)
from daulat.gateway import metrics
from daulat.ledger import receipts
from daulat.processes import behind, edge
from daulat.processes.admin_pages import AdminPages
from daulat.processes.callers import NEVER, Callers, Teller, answering, secret
from daulat.processes.scim_pages import ScimPages
from daulat.processes.watch import Watch
from daulat.settings import Home
from daulat.tlog import checkpoint as checkpoints
from daulat.tlog import note, tiles

_FOREVER: Final = {"cache-control": "public, max-age=31536000, immutable"}
_PENDING: Final = "No receipt for this request id yet. One follows about a second after the answer."
_BINARY: Final = "application/octet-stream"
_log = logging.getLogger(__name__)


class Pages:
    """The handlers. They read files; what they may show is decided by the current snapshot."""

    def __init__(self, home: Home, watch: Watch) -> None:
        self._home = home
        self._watch = watch
        self._callers = Callers(home.snapshot, SystemClock())
        self._tell = Teller(home.control_socket)

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
        """The receipt of one answer, for the person who got it, while the charter serves them. For anybody else it does
        not exist."""
        principal = self._callers.principal(request)
        unserved = self._callers.unserved(principal)
        wanted = request.path_params["request_id"]
        if not REQUEST_ID.match(wanted):
            raise NotFound("A request id is 'req_' and 32 hex digits.", code="receipt_unknown")
        try:
            body = await asyncio.to_thread(self._receipt, principal, wanted, unserved)
        except _NotTheirs:
            self._tell(secret(request), "receipt", "not_found")
            raise
        except PermissionDenied as error:
            self._tell(secret(request), "receipt", error.code)
            raise
        return Response(body, media_type="application/json", headers=NEVER)

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
        return Response(data, media_type=_BINARY, headers=_FOREVER if parsed.level is not None else NEVER)

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

    def _receipt(self, principal: Principal, wanted: str, unserved: str) -> bytes:
        # Read in this order: what the index knows is under the checkpoint that is read after it.
        try:
            found = request_index.find(self._home.index_db, wanted)
        except SealBroken as error:
            raise _damaged(error.message) from None
        if found is None:
            raise NotFound(_PENDING, code="receipt_pending")
        origin, index = found
        period = origin.rpartition("/")[2]
        if index < 0 or period.startswith(".") or not (self._home.log / period / "checkpoint").exists():
            raise _damaged(f"it names entry {index} of {origin[:80]!r}")
        folder = LogFolder(self._home.log / period)
        signed = folder.published()
        verifier = note.Verifier(folder.vkey())
        checkpoint = checkpoints.open_checkpoint(signed, verifier)
        gathered = receipts.gather(folder, checkpoint.size, index)
        admission = entries.decode(gathered[index]).get("admission", {})
        if admission.get("request_id") != wanted:  # the index is a projection: the log says what is so
            raise _damaged(f"entry {index} of {origin[:80]!r} is not that of {wanted}")
        if (admission["tenant"], admission["principal"]) != (principal.tenant, principal.person):
            raise _NotTheirs(_PENDING, code="receipt_pending")
        if unserved and admission["effect"] != "deny":  # who is refused may show others that it is so
            raise PermissionDenied(f"You get no receipts of answers now: {unserved}.", code="not_eligible")
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

    def _auditor(self, request: Request) -> None:
        known = secret(request)
        try:
            self._callers.auditor(request)
        except Unauthenticated as error:
            self._tell(known, "log.entries", error.code)
            raise


class _NotTheirs(NotFound):
    """What exists and is another's: in words, as what does not exist."""


def _damaged(what: str) -> Unavailable:
    _log.error("the index of receipts does not agree with the log: %s. `daulat log reindex` makes it anew", what)
    words = "The index of receipts is damaged; the log is not. The operator makes it anew: `daulat log reindex`."
    return Unavailable(words, code="index_damaged")


def application(home: Home, watch: Watch | None = None, url: str = "http://localhost") -> Starlette:
    """The ASGI application over one home. `watch`: the accelerators, whoever runs it; `url`: where clients ask."""
    pages, control = Pages(home, watch or Watch()), home.control_socket
    return answering([*pages.routes(), *AdminPages(control).routes(), *ScimPages(control, url).routes()])


async def run(home: Home, url: str) -> None:
    stop = edge.stop_event(asyncio.get_running_loop())
    watch = Watch()
    server, serving = await behind.serve(application(home, watch, url), home.pages_socket)
    edge.ready()
    watch.start()
    await stop.wait()
    server.should_exit = True
    await serving


def main() -> None:
    parser = argparse.ArgumentParser(prog="daulat-pages")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--parent", type=int)
    arguments = parser.parse_args()
    edge.begin("pages", parent=arguments.parent)
    asyncio.run(run(Home(arguments.home), arguments.url))


if __name__ == "__main__":
    main()
