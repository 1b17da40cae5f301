"""Keeping what went over the wire, beneath `httpx` or `httpx2` (which the `openai` package uses).

Both libraries have the same transports. Nothing is imported from either: what is wrapped says which library it is of.
Receipts are fetched over the very transport that the answer came over, with its certificates, proxies and sockets.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Self

from daulat.audit import receipt as receipts
from daulat.audit.receipt import Given, Verdict
from daulat.errors import InvalidRequest, NotFound, Unauthenticated, Unavailable, VerificationFailed
from daulat.tlog.note import Verifier

_OK: Final = 200
_REFUSED: Final = {401: "the API key is not accepted", 403: "whoever holds the API key may not read it now"}
_PATIENCE: Final = 30.0  # seconds for a receipt, which follows about one after the answer where the machine is not busy
_AGAIN: Final = 0.3
_TIMEOUT: Final = dict.fromkeys(("connect", "read", "write", "pool"), 10.0)
_STREAM_ENDS: Final = b"data: [DONE]\n\n"  # clients do not read on behind it


@dataclass(slots=True)
class Kept:
    """One exchange. `response` grows while a stream is read; `whole` says that its end was seen."""

    transport: Transport | AsyncTransport = field(repr=False)  # what it went over
    request_type: Any = field(repr=False)  # that library's class of requests
    request: bytes
    promise: str
    receipt_url: str
    authorization: str = field(repr=False)
    response: bytearray = field(default_factory=bytearray)
    whole: bool = False


class Keeper:
    """Remembers the last exchanges by request id. One may serve many clients; not safe between threads."""

    def __init__(self, vkey: str, *, keep: int = 256, keep_bytes: int = 64 * 1024 * 1024) -> None:
        """`vkey` is the log's public key, got from the operator by another way than this connection."""
        self._verifier = Verifier(vkey)
        self._keep, self._keep_bytes = keep, keep_bytes
        self.exchanges: OrderedDict[str, Kept] = OrderedDict()

    def transport(self, inner: Any) -> Transport:
        """Wrap a transport of `httpx` or `httpx2`."""
        return Transport(inner, self)

    def async_transport(self, inner: Any) -> AsyncTransport:
        """Wrap an asynchronous one."""
        return AsyncTransport(inner, self)

    def promises(self) -> list[str]:
        """The promises of the kept exchanges, as `daulat audit --promises` reads them, one a line."""
        return [kept.promise for kept in self.exchanges.values() if kept.promise]

    def verify(self, request_id: str, patience: float = _PATIENCE) -> Verdict:
        """Fetch the receipt and check it, with the exact bytes and the promise. Waits for a receipt to appear.

        Raises:
            NotFound: the exchange was not kept, or there is no receipt in time.
            Unauthenticated: the API key is not accepted any more, or its holder may not read it.
            VerificationFailed: something does not hold; says what.
        """
        kept = self._kept(request_id)
        if not isinstance(kept.transport, Transport):
            raise InvalidRequest("this answer came over an asynchronous transport: await verify_async(...)")
        end = time.monotonic() + patience
        while True:
            request = _receipt_request(kept)
            try:
                response = kept.transport.inner.handle_request(request)
                body = response.read()
            except _library(request).HTTPError as error:
                raise _unreachable(kept, error) from None
            if not _again(kept, response.status_code, time.monotonic() > end):
                return self._check(kept, body)
            time.sleep(_AGAIN)

    async def verify_async(self, request_id: str, patience: float = _PATIENCE) -> Verdict:
        """The same for an answer that came over an asynchronous transport, under asyncio."""
        kept = self._kept(request_id)
        if not isinstance(kept.transport, AsyncTransport):
            raise InvalidRequest("this answer came over a synchronous transport: verify(...)")
        end = time.monotonic() + patience
        while True:
            request = _receipt_request(kept)
            try:
                response = await kept.transport.inner.handle_async_request(request)
                body = await response.aread()
            except _library(request).HTTPError as error:
                raise _unreachable(kept, error) from None
            if not _again(kept, response.status_code, time.monotonic() > end):
                return self._check(kept, body)
            await asyncio.sleep(_AGAIN)

    def _kept(self, request_id: str) -> Kept:
        kept = self.exchanges.get(request_id)
        if kept is None:
            raise NotFound(f"no exchange {request_id!r} is kept; the last {self._keep} are")
        if not kept.whole:
            raise VerificationFailed("the answer was not read to its end, so its bytes cannot be checked")
        if not kept.promise:
            raise VerificationFailed("the answer came without a promise")
        return kept

    def _check(self, kept: Kept, receipt: bytes) -> Verdict:
        given = Given(kept.request, bytes(kept.response), kept.promise, now=round(time.time() * 1000))
        return receipts.verify(receipt, self._verifier, given)

    def note(self, via: Transport | AsyncTransport, request: Any, body: bytes, response: Any) -> Kept | None:
        """Begin to keep an exchange that has a receipt."""
        address, request_id = response.headers.get("daulat-receipt"), response.headers.get("x-request-id")
        if not address or not request_id:
            return None
        kept = Kept(
            via,
            type(request),
            body,
            response.headers.get("daulat-promise", ""),
            str(request.url.join(address)),
            request.headers.get("authorization", ""),
        )
        self.exchanges[request_id] = kept
        held = sum(len(item.request) + len(item.response) for item in self.exchanges.values())
        while len(self.exchanges) > self._keep or (held > self._keep_bytes and len(self.exchanges) > 1):
            _, gone = self.exchanges.popitem(last=False)
            held -= len(gone.request) + len(gone.response)
        return kept


class Transport:
    """A synchronous transport that keeps what passes."""

    def __init__(self, inner: Any, keeper: Keeper) -> None:
        self.inner, self._keeper = inner, keeper

    def handle_request(self, request: Any) -> Any:
        body = request.read()
        response = self.inner.handle_request(request)
        kept = self._keeper.note(self, request, body, response)
        if kept is not None:
            response.stream = _kept_stream(response.stream, kept, _library(response).SyncByteStream)
        return response

    def close(self) -> None:
        self.inner.close()

    def __enter__(self) -> Self:
        self.inner.__enter__()
        return self

    def __exit__(self, *reason: object) -> None:
        self.inner.__exit__(*reason)


class AsyncTransport:
    """An asynchronous transport that keeps what passes."""

    def __init__(self, inner: Any, keeper: Keeper) -> None:
        self.inner, self._keeper = inner, keeper

    async def handle_async_request(self, request: Any) -> Any:
        body = await request.aread()
        response = await self.inner.handle_async_request(request)
        kept = self._keeper.note(self, request, body, response)
        if kept is not None:
            response.stream = _kept_async_stream(response.stream, kept, _library(response).AsyncByteStream)
        return response

    async def aclose(self) -> None:
        await self.inner.aclose()

    async def __aenter__(self) -> Self:
        await self.inner.__aenter__()
        return self

    async def __aexit__(self, *reason: object) -> None:
        await self.inner.__aexit__(*reason)


def _library(message: Any) -> Any:
    """`httpx` or `httpx2`, whichever this request or response is of."""
    return sys.modules[type(message).__module__.partition(".")[0]]


def _kept_stream(inner: Any, kept: Kept, base: Any) -> Any:
    class Stream(base):  # type: ignore[misc]  # the library looks for its own class
        def __iter__(self) -> Iterator[bytes]:
            for part in inner:
                kept.response += part
                yield part
            kept.whole = True

        def close(self) -> None:
            kept.whole = kept.whole or kept.response.endswith(_STREAM_ENDS)
            inner.close()

    return Stream()


def _kept_async_stream(inner: Any, kept: Kept, base: Any) -> Any:
    class Stream(base):  # type: ignore[misc]
        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for part in inner:
                kept.response += part
                yield part
            kept.whole = True

        async def aclose(self) -> None:
            kept.whole = kept.whole or kept.response.endswith(_STREAM_ENDS)
            await inner.aclose()

    return Stream()


def _receipt_request(kept: Kept) -> Any:
    headers = {"authorization": kept.authorization}
    return kept.request_type("GET", kept.receipt_url, headers=headers, extensions={"timeout": _TIMEOUT})


def _again(kept: Kept, status: int, late: bool) -> bool:  # noqa: FBT001
    """Whether to ask for the receipt once more.

    Raises:
        Unauthenticated: there is no use in asking; NotFound: it is too late for that.
    """
    if status == _OK:
        return False
    if status in _REFUSED:
        raise Unauthenticated(f"{kept.receipt_url}: {_REFUSED[status]} ({status})")
    if late:
        raise NotFound(f"there is no receipt at {kept.receipt_url} (status {status})")
    return True


def _unreachable(kept: Kept, error: Exception) -> Unavailable:
    return Unavailable(f"{kept.receipt_url} cannot be had: {error or type(error).__name__}")
