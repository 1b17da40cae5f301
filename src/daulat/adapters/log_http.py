"""A log over HTTP, as `audit.log.LogSource`: files are asked for ahead of time, so that waiting costs little."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Self

import httpx

from daulat.errors import DaulatError, NotFound, Unauthenticated, Unavailable

_AT_ONCE: Final = 8
_AHEAD: Final = 16  # bounds memory, with the size of a file
_SECONDS: Final = 30.0
_MOST_BYTES: Final = 17 * 1024 * 1024  # a full bundle has at most 16.8 MB


class LogHttp:
    """One shard: `<url>/<period>/...`. Use it as a context manager; not safe for concurrent use."""

    def __init__(self, url: str, period: str, token: str) -> None:
        """`url` is the log's (`https://host/log`); `token` an auditor's.

        Raises:
            Unauthenticated: no token has such characters, and no header can carry them.
        """
        if not (token.isascii() and token.isprintable()):
            raise Unauthenticated("an auditor's token is printable ASCII")
        self._root, self._period = url.rstrip("/"), period
        limits = httpx.Limits(max_connections=_AT_ONCE, max_keepalive_connections=_AT_ONCE)
        headers = {"authorization": f"Bearer {token}", "user-agent": "daulat-audit"}
        # Proxies of the environment are left alone where the log is on this machine: httpx would send loopback there.
        self._client = httpx.Client(headers=headers, timeout=_SECONDS, limits=limits, trust_env="://127." not in url)
        self._threads = ThreadPoolExecutor(min(_AT_ONCE, 2 * (os.cpu_count() or 1)), "log")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_reason: object) -> None:
        self._threads.shutdown(cancel_futures=True)
        self._client.close()

    def checkpoint(self) -> bytes:
        return self._get(f"{self._root}/{self._period}/checkpoint")

    def blob(self, digest: str) -> bytes:
        return self._get(f"{self._root}/blob/{digest}")

    def stream(self, paths: Iterable[str]) -> Iterator[bytes]:
        """See `LogSource.stream`; some files are asked for ahead."""
        waiting: deque[Future[bytes]] = deque()
        for path in paths:
            waiting.append(self._threads.submit(self._get, f"{self._root}/{self._period}/{path}"))
            if len(waiting) >= _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _get(self, url: str) -> bytes:
        try:
            with self._client.stream("GET", url) as answer:
                parts, size = [], 0
                for part in answer.iter_bytes():
                    size += len(part)
                    if size > _MOST_BYTES:
                        raise Unavailable(f"{url} is larger than any file of a log")
                    parts.append(part)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unavailable(f"{url} cannot be had: {error or type(error).__name__}") from None
        if answer.status_code != httpx.codes.OK:
            raise _refused(url, answer.status_code)
        return b"".join(parts)


def _refused(url: str, status: int) -> DaulatError:
    if status in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
        return Unauthenticated(f"{url}: the auditor's token is not accepted ({status})")
    if status == httpx.codes.NOT_FOUND:
        return NotFound(f"{url} does not exist")
    return Unavailable(f"{url} answers with status {status}")
