"""What verbs need that ask a service over HTTP: its address, a credential, and its own words where it refuses."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

import httpx

from daulat.errors import (
    ConfigError,
    DaulatError,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
    shortened,
)

_SECRET: Final = re.compile(r"[\x21-\x7e]+\Z")
_LONGEST: Final = 4096  # bytes
_LAST_PORT: Final = 65_535
_FORM: Final = "one line of printable ASCII, without spaces"


def address(given: str) -> str:
    """A service's address, without a slash at its end.

    Raises:
        InvalidRequest: it is none.
    """
    try:
        url = httpx.URL(given)
        url.raw_host.decode("ascii").encode("idna")  # as the resolver will
    except (httpx.InvalidURL, UnicodeError):
        url = httpx.URL("")
    port = 1 if url.port is None else url.port
    if url.scheme not in {"http", "https"} or not url.host or not 0 < port <= _LAST_PORT:
        raise InvalidRequest(f"{given!r} is no address of a service: expected http://HOST:PORT or https://HOST")
    return given.rstrip("/")


def secret_in(path: Path, what: str) -> str:
    """The credential in a file.

    Raises:
        ConfigError: it holds none. Its content is never in the words.
    """
    with path.open("rb") as stream:
        data = stream.read(_LONGEST + 1)
    found = data.decode("ascii", errors="replace").strip()
    if len(data) > _LONGEST or not _SECRET.match(found):
        raise ConfigError(f"holds no {what}: expected {_FORM}", location=str(path))
    return found


def api_key(path: Path | None) -> str:
    """The API key in a file, else in the environment.

    Raises:
        Unauthenticated: there is none; ConfigError: what there is cannot be one.
    """
    if path is not None:
        return secret_in(path, "API key")
    found = os.environ.get("DAULAT_API_KEY", "").strip()
    if not found:
        raise Unauthenticated("give an API key: --key-file FILE, or DAULAT_API_KEY")
    if not _SECRET.match(found):
        raise ConfigError(f"holds no API key: expected {_FORM}", location="$DAULAT_API_KEY")
    return found


def unreachable(url: str, error: Exception, more: str = "") -> Unavailable:
    """Nobody answers there; `more`: what to do about it."""
    return Unavailable(f"{url} cannot be had: {str(error) or type(error).__name__}{more}")


def refusal(url: str, answer: httpx.Response) -> DaulatError:
    """What an answer that is not 200 means, in the service's own words where it has some."""
    try:
        words = shortened(str(answer.json()["error"]["message"]))
    except (ValueError, LookupError, TypeError, RecursionError):
        words = f"{url} answers with status {answer.status_code}"
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        return Unauthenticated("the API key is not accepted")
    if answer.status_code == httpx.codes.FORBIDDEN:
        return PermissionDenied(words)
    if answer.status_code == httpx.codes.NOT_FOUND:
        return NotFound(words)
    return Unavailable(words)
