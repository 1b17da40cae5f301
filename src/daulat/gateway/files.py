"""OpenAI's Files API over the vault: https://platform.openai.com/docs/api-reference/files."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from starlette.concurrency import iterate_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from daulat.core.ids import new_id
from daulat.errors import DaulatError, InvalidRequest, Unavailable, VerificationFailed
from daulat.gateway.framing import wire_error
from daulat.gateway.lists import asked, listed
from daulat.gateway.uploads import Upload
from daulat.vault.objects import Kept, Objects, Whose

PURPOSES: Final = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
_MONTH_SECONDS: Final = 30 * 86_400  # after which a batch's file goes, as OpenAI has it
_LEAST_SECONDS, _MOST_SECONDS = 3_600, 2_592_000
_USUAL_PAGE, _MOST_PAGE = 10_000, 10_000
_LONGEST_NAME: Final = 255
_FORM_BYTES: Final = 1 << 17  # of a form around its file: more than `uploads` lets its parts have
_AT_ONCE, _AT_ONCE_OF_ONE = 16, 4  # uploads: each has a thread, and up to two parts of a bucket's in memory
_TURN_SECONDS: Final = 20.0  # for an upload's turn
_ASK_SECONDS: Final = 1.0  # how often it is looked again whether they still may
_NEVER: Final = {"cache-control": "no-store"}
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f/\\]")


class Files:
    """The handlers. `reads` and `keeps` say whose a request is, or raise: the latter also where a rule refuses."""

    def __init__(
        self,
        objects: Callable[[], Objects],
        reads: Callable[[Request], Whose],
        keeps: Callable[[Request], Whose],
        broke: Callable[[Request, VerificationFailed], None],
        most_bytes: int,
    ) -> None:
        """`broke` is told of what does not open when a part of it has gone out already; `most_bytes`: of one file."""
        self._objects, self._reads, self._keeps, self._broke = objects, reads, keeps, broke
        self._most = most_bytes
        self._turns = _Turns()
        # Of their own: an upload holds its thread while its client is slow, and nobody else is to wait for that.
        self._threads = ThreadPoolExecutor(_AT_ONCE, "upload")

    def routes(self) -> list[Route]:
        return [
            Route("/v1/files", self.create, methods=["POST"]),
            Route("/v1/files", self.all, methods=["GET"]),
            Route("/v1/files/{id}", self.retrieve, methods=["GET"]),
            Route("/v1/files/{id}", self.delete, methods=["DELETE"]),
            Route("/v1/files/{id}/content", self.content, methods=["GET"]),
        ]

    async def create(self, request: Request) -> Response:
        """Sealed as it comes. Who is cut off in the middle, or may not any more, leaves nothing behind."""
        whose, objects = self._keeps(request), self._objects()
        upload = Upload(request.headers.get("content-type", ""), "file")
        if int(request.headers.get("content-length", "0")) > self._most + _FORM_BYTES:
            raise self._too_large()
        loop, body = asyncio.get_running_loop(), self._body(request)

        def put() -> Kept:
            return objects.put(
                whose,
                "file",
                f"file-{new_id('f')[2:]}",
                self._bounded(upload.pieces(body, loop)),
                lambda: {"filename": _filename(upload), "purpose": _purpose(upload)},
                expires=lambda: _expires(upload, objects),
            )

        async with self._turns.turn(whose.person):
            try:
                kept = await loop.run_in_executor(self._threads, put)
            except ClientDisconnect:
                return Response(status_code=400)  # nobody is left to read it
        return JSONResponse(shown(kept), headers=_NEVER)

    async def all(self, request: Request) -> Response:
        whose = self._reads(request)
        wish = asked(request.query_params, usual=_USUAL_PAGE, most=_MOST_PAGE, order="desc")
        purpose = request.query_params.get("purpose")
        found, more = await asyncio.to_thread(
            wish.of, self._objects(), whose, "file", lambda kept: purpose in {None, kept.about["purpose"]}
        )
        return JSONResponse(listed([shown(kept) for kept in found], more=more), headers=_NEVER)

    async def retrieve(self, request: Request) -> Response:
        whose = self._reads(request)
        kept = await asyncio.to_thread(self._objects().get, whose, "file", request.path_params["id"])
        return JSONResponse(shown(kept), headers=_NEVER)

    async def content(self, request: Request) -> Response:
        """Streamed: its length is said before, so one that does not open to its end arrives short, and not as whole."""
        whose, id_ = self._reads(request), request.path_params["id"]

        def begin() -> tuple[Kept, bytes, Iterator[bytes]]:
            objects = self._objects()
            kept = objects.get(whose, "file", id_)
            pieces = objects.content(whose, "file", id_)
            return kept, next(pieces), pieces

        kept, first, rest = await asyncio.to_thread(begin)
        headers = {
            **_NEVER,
            "content-length": str(kept.size),
            "content-disposition": "attachment",
            "x-content-type-options": "nosniff",
        }

        async def whole() -> AsyncIterator[bytes]:
            yield first
            try:
                async for piece in self._while_they_may(request, iterate_in_threadpool(rest), self._reads):
                    yield piece
            except VerificationFailed as error:
                self._broke(request, error)
                raise

        return StreamingResponse(whole(), media_type="application/octet-stream", headers=headers)

    async def delete(self, request: Request) -> Response:
        whose, id_ = self._reads(request), request.path_params["id"]
        await asyncio.to_thread(self._objects().delete, whose, "file", id_)
        return JSONResponse({"id": id_, "object": "file", "deleted": True}, headers=_NEVER)

    async def _body(self, request: Request) -> AsyncIterator[bytes]:
        size = 0
        async for piece in self._while_they_may(request, request.stream(), self._keeps):
            size += len(piece)
            if size > self._most + _FORM_BYTES:
                raise self._too_large()
            if piece:
                yield piece
        self._keeps(request)

    def _bounded(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        size = 0
        for piece in pieces:
            size += len(piece)
            if size > self._most:
                raise self._too_large()
            yield piece

    def _too_large(self) -> DaulatError:
        return wire_error("body_too_large", f"A file has at most {self._most} bytes here.")

    @staticmethod
    async def _while_they_may(
        request: Request, pieces: AsyncIterator[bytes], ask: Callable[[Request], Whose]
    ) -> AsyncIterator[bytes]:
        """The same, as long as `ask` does not raise: a key may be revoked while hundreds of megabytes pass."""
        asked_at = time.monotonic()
        async for piece in pieces:
            if (now := time.monotonic()) - asked_at > _ASK_SECONDS:
                asked_at = now
                ask(request)
            yield piece


class _Turns:
    """So many uploads at once, and fewer of one person: the others wait."""

    def __init__(self) -> None:
        self._running = Counter[str]()
        self._ended = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def turn(self, person: str) -> AsyncIterator[None]:
        """Raises Unavailable: none in time."""
        try:
            async with asyncio.timeout(_TURN_SECONDS), self._ended:
                await self._ended.wait_for(lambda: self._free(person))
                self._running[person] += 1
        except TimeoutError:
            raise Unavailable("Too many files are being uploaded at once; try again in a moment.") from None
        try:
            yield
        finally:
            self._running[person] -= 1
            self._running += Counter()  # drops those at nought
            async with self._ended:
                self._ended.notify_all()

    def _free(self, person: str) -> bool:
        return self._running.total() < _AT_ONCE and self._running[person] < _AT_ONCE_OF_ONE


def shown(kept: Kept) -> dict[str, Any]:
    """OpenAI's file object."""
    return {
        "id": kept.id,
        "object": "file",
        "bytes": kept.size,
        "created_at": kept.created // 1000,
        "expires_at": None if kept.expires is None else kept.expires // 1000,
        "filename": kept.about["filename"],
        "purpose": kept.about["purpose"],
        "status": "processed",
        "status_details": None,
    }


def _purpose(upload: Upload) -> str:
    purpose = upload.fields.get("purpose", "")
    if purpose not in PURPOSES:
        raise InvalidRequest(f"'purpose' is one of {', '.join(PURPOSES)}.", param="purpose")
    return purpose


def _filename(upload: Upload) -> str:
    name = _CONTROL.sub("_", upload.filename or "upload")
    if len(name) > _LONGEST_NAME:
        raise InvalidRequest(f"A file's name has at most {_LONGEST_NAME} characters.", param="file")
    return name


def _expires(upload: Upload, objects: Objects) -> int | None:
    fields: Mapping[str, str] = upload.fields
    anchor, text = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and text is None:
        return objects.after(_MONTH_SECONDS) if fields.get("purpose") == "batch" else None
    if anchor != "created_at" or text is None or not text.isdecimal() or not text.isascii():
        raise InvalidRequest("'expires_after' has an anchor 'created_at' and whole seconds.", param="expires_after")
    if not _LEAST_SECONDS <= int(text[:9]) <= _MOST_SECONDS:
        words = f"'expires_after' is from {_LEAST_SECONDS} to {_MOST_SECONDS} seconds."
        raise InvalidRequest(words, param="expires_after")
    return objects.after(int(text))
