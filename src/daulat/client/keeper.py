"""Keeping what went over the wire, beneath `httpx` or `httpx2` (which the `openai` package uses).

Both libraries have the same transports. Nothing is imported from either for the wrapping: what is wrapped says which
library it is of.
"""

from __future__ import annotations

import sys
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Self

import httpx

from daulat.audit import receipt as receipts
from daulat.audit.receipt import Given, Verdict
from daulat.errors import NotFound, Unavailable, VerificationFailed
from daulat.tlog.note import Verifier

_OK: Final = 200
_PATIENCE: Final = 10.0
_AGAIN: Final = 0.3


@dataclass(slots=True)
class Kept:
    """One exchange. `response` grows while a stream is read; `whole` says that its end was seen."""

    request: bytes
    promise: str
    receipt_url: str
    authorization: str
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
            VerificationFailed: something does not hold; says what.
        """
        kept = self.exchanges.get(request_id)
        if kept is None:
            raise NotFound(f"no exchange {request_id!r} is kept; the last {self._keep} are")
        if not kept.whole:
            raise VerificationFailed("the answer was not read to its end, so its bytes cannot be checked")
        if not kept.promise:
            raise VerificationFailed("the answer came without a promise")
        given = Given(request=kept.request, response=bytes(kept.response), promise=kept.promise)
        return receipts.verify(_fetch(kept, patience), self._verifier, given)

    def note(self, request: Any, body: bytes, response: Any) -> Kept | None:
        """Begin to keep an exchange that has a receipt."""
        address, request_id = response.headers.get("daulat-receipt"), response.headers.get("x-request-id")
        if not address or not request_id:
            return None
        kept = Kept(
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
        self._inner, self._keeper = inner, keeper

    def handle_request(self, request: Any) -> Any:
        body = request.read()
        response = self._inner.handle_request(request)
        kept = self._keeper.note(request, body, response)
        if kept is not None:
            response.stream = _kept_stream(response.stream, kept, _library(response).SyncByteStream)
        return response

    def close(self) -> None:
        self._inner.close()

    def __enter__(self) -> Self:
        self._inner.__enter__()
        return self

    def __exit__(self, *reason: object) -> None:
        self._inner.__exit__(*reason)


class AsyncTransport:
    """An asynchronous transport that keeps what passes."""

    def __init__(self, inner: Any, keeper: Keeper) -> None:
        self._inner, self._keeper = inner, keeper

    async def handle_async_request(self, request: Any) -> Any:
        body = await request.aread()
        response = await self._inner.handle_async_request(request)
        kept = self._keeper.note(request, body, response)
        if kept is not None:
            response.stream = _kept_async_stream(response.stream, kept, _library(response).AsyncByteStream)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *reason: object) -> None:
        await self._inner.__aexit__(*reason)


def _library(response: Any) -> Any:
    return sys.modules[type(response).__module__.partition(".")[0]]


def _kept_stream(inner: Any, kept: Kept, base: Any) -> Any:
    class Stream(base):  # type: ignore[misc]  # the library looks for its own class
        def __iter__(self) -> Iterator[bytes]:
            for part in inner:
                kept.response += part
                yield part
            kept.whole = True

        def close(self) -> None:
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
            await inner.aclose()

    return Stream()


def _fetch(kept: Kept, patience: float) -> bytes:
    end = time.monotonic() + patience
    while True:
        try:
            answer = httpx.get(kept.receipt_url, headers={"authorization": kept.authorization}, timeout=_PATIENCE)
        except httpx.HTTPError as error:
            raise Unavailable(f"{kept.receipt_url} cannot be had: {error or type(error).__name__}") from None
        if answer.status_code == _OK:
            return answer.content
        if time.monotonic() > end:
            raise NotFound(f"there is no receipt at {kept.receipt_url} (status {answer.status_code})")
        time.sleep(_AGAIN)
