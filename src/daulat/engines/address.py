"""Where an engine listens: `unix:/path`, `tcp:host:port` or `tls:host:port`; pure. As URLs: `http://` and `https://`.

`tls:host:port#<sha256>` names the one certificate (of its DER) that must be shown.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import ssl
from dataclasses import dataclass
from typing import Final

from daulat.errors import ConfigError

_ADDRESS: Final = re.compile(
    r"unix:(?P<path>/[^\0]+)"
    r"|tcp:(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):(?P<port>[0-9]{1,5})"
    r"|tls:(?P<tls_host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):(?P<tls_port>[0-9]{1,5})(?:#(?P<pin>[0-9a-f]{64}))?"
)
_URL: Final = re.compile(
    r"(?P<scheme>https?)://(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>/[^#?]*)?(?:#(?:sha256:)?(?P<pin>[0-9A-Fa-f:]{64,95}))?"
)
_HIGHEST_PORT: Final = 65_535
_PIN: Final = 64  # hex digits of a SHA-256
_PORTS: Final = {"http": "80", "https": "443"}


@dataclass(frozen=True, slots=True)
class Address:
    """`path` of a Unix socket, else `host` and `port`. `pin`: hex SHA-256 of the certificate; "": the CAs decide."""

    path: str = ""
    host: str = ""
    port: int = 0
    tls: bool = False
    pin: str = ""

    @property
    def local(self) -> bool:
        """Whether it is on this machine."""
        try:
            return bool(self.path) or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def authority(self) -> str:
        """What HTTP's `Host` says."""
        return "engine" if self.path else f"[{self.host}]" if ":" in self.host else self.host

    def context(self) -> ssl.SSLContext | None:
        """For a TLS connection. A pinned certificate is compared by `check`, and nothing else about it matters."""
        if not self.tls:
            return None
        context = ssl.create_default_context()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.pin:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def check(self, certificate: bytes | None) -> bool:
        """Whether the peer's certificate (DER) is the pinned one, where one is pinned."""
        return not self.pin or hmac.compare_digest(hashlib.sha256(certificate or b"").hexdigest(), self.pin)


def plain(url: str) -> str:
    """The address of a URL; what is none is left as it is.

    Raises:
        ConfigError: the server's API is not where OpenAI's is, under `/v1`, or the certificate's hash is none.
    """
    found = _URL.fullmatch(url)
    if found is None:
        return url
    if (found["path"] or "/").rstrip("/") not in {"", "/v1"}:
        raise ConfigError(f"{url[:200]!r}: Daulat asks under /v1 at the root of a server, not under {found['path']!r}")
    pin = (found["pin"] or "").replace(":", "").lower()
    if found["pin"] and (len(pin) != _PIN or found["scheme"] == "http"):
        raise ConfigError(f"{url[:200]!r}: after # stands the SHA-256 of an https server's certificate (DER), in hex")
    kind = "tls" if found["scheme"] == "https" else "tcp"
    return f"{kind}:{found['host']}:{found['port'] or _PORTS[found['scheme']]}{'#' if pin else ''}{pin}"


def parse(text: str) -> Address:
    """Raises:
    ConfigError: it is no address; says what one looks like.
    """
    found = _ADDRESS.fullmatch(text)
    port = int((found["port"] or found["tls_port"] or 0) if found else 0)
    if found is None or port > _HIGHEST_PORT or (not found["path"] and port == 0):
        raise ConfigError(f"{text[:200]!r} is no address; expected unix:/path, tcp:host:port or tls:host:port")
    host = (found["host"] or found["tls_host"] or "").strip("[]")
    return Address(found["path"] or "", host, port, found["tls_host"] is not None, found["pin"] or "")
