"""Where a request comes from, as far as that can be known: for keys that may be used from certain networks only.

The address is the connection's. Where that is a proxy which the operator has named as their own, it is the last one in
`X-Forwarded-For` that is not: each proxy appends whom it heard, so what stands further left is the client's to invent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from daulat.core.principal import Principal
from daulat.errors import PermissionDenied

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Where = Callable[[str, Mapping[bytes, bytes]], Address | None]
"""Of a connection's peer and a request's headers, the client's address."""


def client(peer: str, headers: Mapping[bytes, bytes], proxies: Sequence[Network]) -> Address | None:
    """The client's address, or None where there is none to be had; what is malformed counts as none."""
    found = _address(peer)
    for word in reversed(headers.get(b"x-forwarded-for", b"").split(b",")):
        if found is None or not within(found, proxies) or not word.strip():
            break
        found = _address(word.decode("latin-1").strip())
    return found


def within(address: Address, networks: Sequence[Network]) -> bool:
    """Whether one of the networks has the address; one of the other version never has."""
    return any(address in network for network in networks)


def check(principal: Principal, address: Address | None) -> None:
    """Raises PermissionDenied: this key is for other networks."""
    if address is None or not within(address, principal.networks):
        allowed = ", ".join(map(str, principal.networks))
        raise PermissionDenied(
            f"This key may be used from {allowed} only, and this request comes from {address or 'nowhere known'}.",
            code="network_not_allowed",
        )


def _address(text: str) -> Address | None:
    try:
        found = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return found if found.version == 4 else found.ipv4_mapped or found  # noqa: PLR2004
