"""The one way in which a credential comes to what is not the request path (RFC 6750 section 2.1)."""

from __future__ import annotations

from daulat.errors import Unauthenticated


def bearer(header: str) -> str:
    """The secret of an Authorization header.

    Raises:
        Unauthenticated: there is none.
    """
    scheme, _, secret = header.partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise Unauthenticated("Give a credential: 'Authorization: Bearer ...'.", code="missing_api_key")
    return secret.strip()
