"""Tokens, claims and settings of any shape: refused in our own words, or read, and never anything else."""

from __future__ import annotations

import contextlib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import oidc
from tests.support.oidc import CLIENT, ISSUER, KEY, NONCE, NOW, jwks, signed

from daulat.errors import ConfigError, PermissionDenied
from daulat.identity import claims, providers, tokens
from daulat.identity.tokens import TokenRefused

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from([*oidc.claims(), "azp", "nbf", "at_hash", "auth_time", "amr", "citizenship_expires", "agency"])
PROVIDER = oidc.provider()


def verified(token: str, keys: Any) -> dict[str, Any]:
    return tokens.verify(token, keys, issuer=ISSUER, client_id=CLIENT, nonce=NONCE, access_token="a", now=NOW, skew=60)


@settings(derandomize=True, max_examples=400, deadline=None)
@given(st.dictionaries(NAMES, JSON, max_size=4))
def test_claims_of_any_type_are_refused_or_read(changes: dict[str, Any]) -> None:
    said = {**oidc.claims(), **changes}
    with contextlib.suppress(TokenRefused, PermissionDenied):
        found = verified(signed(said), jwks())
        assert (found["iss"], found["nonce"], found["iat"] <= NOW + 60 < found["exp"] + 120) == (ISSUER, NONCE, True)
        seen = claims.read(PROVIDER, found, KEY, NOW * 1000)
        assert seen.citizenship in {"", "MY", "SG"}
        assert 0 < seen.until <= NOW * 1000 + 30 * 86_400_000 if seen.citizenship else seen.until == 0
        assert not {"operator", "auditor"} <= set(seen.roles or ())
        assert all(len(hash_) == 43 for hash_ in seen.hashes)


@settings(derandomize=True, max_examples=400, deadline=None)
@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda data: data.decode("latin-1")), JSON)
def test_a_token_of_any_bytes_is_refused(token: str, keys: Any) -> None:
    for given_keys in (jwks(), keys if isinstance(keys, dict) else {"keys": keys}):
        try:
            verified(token, given_keys)
        except TokenRefused:
            continue
        raise AssertionError(token)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(JSON, JSON)
def test_headers_and_key_sets_of_any_shape_are_refused(header: Any, keys: Any) -> None:
    head = header if isinstance(header, dict) else {"alg": header, "kid": header}
    for alg in ({}, {"alg": "RS256"}, {"alg": "ES256"}):
        listed = (
            keys
            if isinstance(keys, list)
            else [keys, {"kty": "RSA", "n": keys}, {"kty": "EC", "crv": "P-256", "x": keys}]
        )
        try:
            verified(oidc.raw({**head, **alg}, oidc.claims(), "AAAA"), {"keys": listed})
        except TokenRefused:
            continue
        raise AssertionError(header)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.sampled_from(oidc.settings().splitlines()), st.text(max_size=40))
def test_settings_of_any_text_are_refused_or_read(line: str, instead: str) -> None:
    with contextlib.suppress(ConfigError):
        providers.parse(oidc.settings().replace(line, instead))
    with contextlib.suppress(ConfigError):
        providers.parse(instead)
