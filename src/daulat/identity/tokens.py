"""ID tokens: who signed them, for whom, when, and for which sign-in (OpenID Connect Core 1.0, section 3.1.3.7).

A token is believed when, in this order: it is a JWS in compact form with an algorithm that we ask for (RS256 or ES256,
whatever its header says); exactly one key of the provider's set has its `kid` and is for that algorithm; the
signature is that key's; issuer and audience are the configured ones; it was issued just now and has not expired, give
or take the clocks' difference; and its nonce is the one of this very sign-in. Signatures are joserfc's work, claims
Authlib's.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import ClaimError, ExpiredTokenError, JoseError
from joserfc.jwk import ECKey, RSAKey

from daulat.errors import Unauthenticated

ALGORITHMS: Final = ("RS256", "ES256")
MOST_BYTES: Final = 65_536
FRESH_SECONDS: Final = 600  # a token is used at once: an old one is somebody's who kept it
_LONGEST_SECONDS: Final = 86_400 * 2
_LEAST_RSA_BITS: Final = 2048
_PARTS: Final = 3
_CODES: Final = {
    "iss": "token_issuer",
    "aud": "token_audience",
    "azp": "token_audience",
    "nonce": "token_nonce",
    "iat": "token_time",
    "nbf": "token_time",
    "exp": "token_expired",
    "at_hash": "token_hash",
}


class TokenRefused(Unauthenticated):
    """The token says nothing to us; `code` begins with `token_` and says why."""


class KeyUnknown(TokenRefused):
    """No key of the set has that `kid`: it may be newer than the set."""


def verify(
    token: str,
    keys: Mapping[str, Any],
    *,
    issuer: str,
    client_id: str,
    nonce: str,
    access_token: str = "",
    now: float,
    skew: int,
) -> dict[str, Any]:
    """The claims of a token that holds.

    Args:
        keys: the provider's JWK set, as it came (RFC 7517).
        nonce: what was sent with this sign-in's request.
        access_token: what came beside the token; held against `at_hash` where the token has one.
        now, skew: Unix seconds, and how many the provider's clock may be off.

    Raises:
        KeyUnknown: the set may be too old; TokenRefused: the token does not hold.
    """
    header = _header(token)
    algorithm = header.get("alg")
    if algorithm not in ALGORITHMS:
        raise _refused(
            "algorithm", f"is signed with {str(algorithm)[:20]!r}, and {' or '.join(ALGORITHMS)} is asked for"
        )
    key = _key(keys, header.get("kid"), algorithm)
    try:
        decoded = jwt.decode(token, key, algorithms=[algorithm])
    except (JoseError, ValueError, TypeError) as error:
        raise _refused("signature", f"is not signed by the provider's key ({type(error).__name__})") from None
    claims = decoded.claims
    if not isinstance(claims, dict):
        raise _refused("malformed", "holds no claims")
    _times(claims, now, skew)
    options: Any = {"iss": {"essential": True, "value": issuer}, "aud": {"essential": True, "value": client_id}}
    params = {"nonce": nonce, "client_id": client_id, "access_token": access_token}
    try:
        CodeIDToken(claims, decoded.header, options, params).validate(now=int(now), leeway=skew)
    except ExpiredTokenError:
        raise _refused("expired", "has expired") from None
    except ClaimError as error:
        words = f"has another {error.claim} than it should"
        raise TokenRefused(f"The token {words}.", code=_CODES.get(error.claim, "token_claims")) from None
    except (JoseError, ValueError, TypeError, KeyError, AttributeError):
        raise _refused("claims", "has claims of wrong types") from None
    if not nonce or not hmac.compare_digest(str(claims.get("nonce")).encode(), nonce.encode()):
        raise _refused("nonce", "is of another sign-in")
    if not isinstance(claims["sub"], str) or not 0 < len(claims["sub"]) <= 255:  # noqa: PLR2004  as Core says
        raise _refused("claims", "names no subject")
    return claims


def _times(claims: Mapping[str, Any], now: float, skew: int) -> None:
    """Numbers, in order, and of today: JSON has also NaN and times that never come."""
    for name in ("iat", "exp", "nbf"):
        value = claims.get(name)
        if name == "nbf" and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise _refused("claims", f"has no time in {name}")
    if claims["exp"] <= now - skew:
        raise _refused("expired", "has expired")
    if claims["iat"] > now + skew:
        raise _refused("time", "was issued in the future: the provider's clock and ours differ")
    if claims["iat"] < now - skew - FRESH_SECONDS or claims["exp"] > now + skew + _LONGEST_SECONDS:
        raise _refused("time", "was issued long ago, or for longer than a token is")


def _header(token: str) -> dict[str, Any]:
    """What a token says of itself, before anything is believed."""
    if not isinstance(token, str) or len(token) > MOST_BYTES or not token.isascii():
        raise _refused("malformed", "is too long, or not ASCII")
    parts = token.split(".")
    if len(parts) != _PARTS:
        raise _refused("malformed", "is not a signed token in compact form")
    try:
        header = json.loads(base64.urlsafe_b64decode(parts[0] + "=" * (-len(parts[0]) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        raise _refused("malformed", "has no header") from None
    if not isinstance(header, dict):
        raise _refused("malformed", "has no header")
    return header


def _key(keys: Mapping[str, Any], kid: object, algorithm: str) -> RSAKey | ECKey:
    """The one key that the header may mean. Its type is the algorithm's: no public key is ever taken for a secret."""
    fitting = list(_fitting(keys, algorithm))
    named = [key for key in fitting if key.get("kid") == kid] if kid is not None else fitting
    if len(named) != 1:
        said = (
            "names a key that the provider does not have" if not named else "does not say which key it is signed with"
        )
        raise (_refused("key", said) if named else KeyUnknown(f"The token {said}.", code="token_key"))
    public = {name: value for name, value in named[0].items() if name in {"kty", "n", "e", "crv", "x", "y", "kid"}}
    try:
        if algorithm == "ES256":
            return ECKey.import_key(public)
        bits = int.from_bytes(base64.urlsafe_b64decode(public["n"] + "==")).bit_length()
        if bits >= _LEAST_RSA_BITS:
            return RSAKey.import_key(public)
    except (JoseError, ValueError, TypeError, KeyError) as error:
        raise _refused("key", f"names a key that is none ({type(error).__name__})") from None
    raise _refused("key", f"is signed with a key of {bits} bits, and {_LEAST_RSA_BITS} is the least")


def _fitting(keys: Mapping[str, Any], algorithm: str) -> Iterator[Mapping[str, Any]]:
    listed = keys.get("keys")
    for key in listed if isinstance(listed, list) else []:
        if not isinstance(key, dict) or key.get("use", "sig") != "sig" or key.get("alg", algorithm) != algorithm:
            continue
        kind = (key.get("kty"), key.get("crv")) if algorithm == "ES256" else key.get("kty")
        if kind == (("EC", "P-256") if algorithm == "ES256" else "RSA"):
            yield key


def _refused(code: str, words: str) -> TokenRefused:
    return TokenRefused(f"The token {words}.", code=f"token_{code}")
