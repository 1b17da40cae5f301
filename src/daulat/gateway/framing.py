"""What RFC 9112 asks of a request's head and llhttp, strict as it is here, lets pass. Pure.

Where two readers could disagree on what a request is, or where it ends, nothing of it is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from daulat.errors import DaulatError, InvalidRequest

_METHODS: Final = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH"})
_SCHEMES: Final = (b"http://", b"https://")
_MAX_TARGET: Final = 2048
MAX_DIGITS: Final = 15  # no body is a petabyte
SINGLE: Final = frozenset(
    {
        b"host",
        b"authorization",
        b"x-api-key",
        b"content-length",
        b"content-type",
        b"content-encoding",
        b"expect",
        b"idempotency-key",
        b"if-match",
        b"transfer-encoding",
    }
)
_OF_BROWSERS: Final = (b"accept", b"cookie", b"origin", b"sec-fetch-site", b"user-agent")
KEPT: Final = SINGLE | {b"accept-encoding", b"if-none-match", b"range", b"x-forwarded-for", *_OF_BROWSERS}
"""The headers that are looked at; of those in `SINGLE` there must not be two."""
CHUNKED: Final = -1
HOSTS: Final[set[bytes | None]] = set()
"""Values of Host that were found good: clients name few, again and again."""
_MOST_HOSTS: Final = 1024
_HOST: Final = re.compile(  # RFC 3986 section 3.2.2, and RFC 6874's zones
    rb"(?:\[[0-9A-Fa-f:.]+(?:%[\w.~%-]+)?\]|\[[vV][0-9A-Fa-f]+\.[\w.~!$&'()*+,;=:-]+\]"
    rb"|(?:[\w.~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(?::[0-9]*)?\Z"
)


def wire_error(code: str, message: str) -> DaulatError:
    """A refusal of the wire itself; `gateway.errors` knows the status of its code."""
    return InvalidRequest(message, code=code)


def malformed(error: Exception) -> DaulatError:
    """What is wrong where the parser gave up: what a callback of ours has raised, or what it says itself."""
    inner = error.__context__
    return inner if isinstance(inner, DaulatError) else InvalidRequest(f"Malformed HTTP: {error}.")


def too_large(limit: int) -> DaulatError:
    return wire_error("body_too_large", f"The body is larger than {limit} bytes.")


def check_line(head: bytes, method: bytes, target: bytes, version: str) -> None:
    """The request line (RFC 9112 section 3).

    Raises:
        InvalidRequest: it is not three words with one space between them, or one of them is not for us.
    """
    if version not in {"1.1", "1.0"}:
        raise wire_error("version_not_supported", f"HTTP/{version} is not spoken here.")
    if head.count(b" ", 0, head.find(b"\r")) != 2:  # noqa: PLR2004
        raise InvalidRequest("Malformed HTTP: the request line has more than two spaces.")
    if len(target) > _MAX_TARGET:
        raise wire_error("target_too_long", f"The request target is longer than {_MAX_TARGET} bytes.")
    if method not in _METHODS:
        raise wire_error("not_implemented", "That method is not implemented here.")


def origin_form(method: bytes, target: bytes) -> bytes:
    """A target as path and query: the absolute-form must be taken as well (section 3.2.2).

    Raises:
        InvalidRequest: it is neither, nor the `*` of OPTIONS.
    """
    if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS"):
        return target
    for scheme in _SCHEMES:
        if target[: len(scheme)].lower() == scheme:
            authority, slash, path = target[len(scheme) :].partition(b"/")
            if authority and not {*authority} & {*b"?#@"}:
                return slash + path or b"/"
    raise InvalidRequest("The request target must begin with '/'.")


def check_host(headers: Mapping[bytes, bytes], version: str) -> None:
    """The Host header (section 3.2), unless its value is in `HOSTS`, where a good one comes.

    Raises:
        InvalidRequest: it is no host, or not there and has to be.
    """
    host = headers.get(b"host")
    if host is None:
        if version == "1.1":
            raise InvalidRequest("HTTP/1.1 needs a Host header.")
        return
    if not _HOST.match(host):
        raise InvalidRequest("The Host header names no host: expected HOST or HOST:PORT.")
    if len(HOSTS) >= _MOST_HOSTS:  # somebody makes them up
        HOSTS.clear()
    HOSTS.add(host)


def expects_continue(headers: Mapping[bytes, bytes], version: str) -> bool:
    """Whether the client waits for `100 Continue` (RFC 9110 section 10.1.1).

    Raises:
        InvalidRequest: it expects something else.
    """
    expect = headers.get(b"expect")
    if expect is None:
        return False
    if expect.lower() != b"100-continue":
        raise wire_error("expectation_failed", "The only expectation known here is 100-continue.")
    return version == "1.1"


def body_length(headers: Mapping[bytes, bytes], version: str) -> int:
    """How long the body is, or CHUNKED (RFC 9112 sections 6.1 to 6.3).

    Raises:
        InvalidRequest: there are two answers to that, or none.
    """
    coding, length = headers.get(b"transfer-encoding"), headers.get(b"content-length")
    if coding is not None:
        if length is not None or version == "1.0":
            raise InvalidRequest("Transfer-Encoding belongs into HTTP/1.1, without Content-Length.")
        if coding.lower() != b"chunked":
            raise wire_error("not_implemented", "The only Transfer-Encoding known here is 'chunked'.")
        return CHUNKED
    if length is None:
        return 0
    if not length.isdigit() or len(length) > MAX_DIGITS:
        raise InvalidRequest("Content-Length is not a number.")
    return int(length)
