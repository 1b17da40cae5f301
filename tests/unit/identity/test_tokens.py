"""ID tokens that hold, and every way in which one does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.support.oidc import CLIENT, ISSUER, NONCE, NOW, claims, confused, ec, jwks, raw, rsa, signed

from daulat.identity import tokens
from daulat.identity.tokens import KeyUnknown, TokenRefused


def verified(token: str, keys: Any = None, **changes: Any) -> dict[str, Any]:
    usual: dict[str, Any] = {"issuer": ISSUER, "client_id": CLIENT, "nonce": NONCE, "now": NOW, "skew": 60}
    return tokens.verify(token, jwks() if keys is None else keys, **{**usual, **changes})


@pytest.mark.parametrize("key", [rsa, ec], ids=["RS256", "ES256"])
def test_a_good_token_tells_its_claims(key: Callable[[], Any]) -> None:
    assert verified(signed(claims(), key())) == claims()


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("token_issuer", {"iss": "https://id.example/realms/other"}),
        ("token_issuer", {"iss": ISSUER + "/"}),
        ("token_audience", {"aud": "another"}),
        ("token_audience", {"aud": []}),
        ("token_audience", {"aud": [CLIENT, "another"]}),  # several, and none is said to be meant
        ("token_audience", {"aud": [CLIENT, "another"], "azp": "another"}),
        ("token_audience", {"azp": "another"}),
        ("token_expired", {"exp": NOW - 61}),
        ("token_expired", {"exp": NOW - 60}),
        ("token_time", {"iat": NOW + 61}),
        ("token_time", {"iat": NOW - 661}),  # kept by somebody
        ("token_time", {"exp": NOW + 10 * 86_400}),
        ("token_time", {"nbf": NOW + 61}),
        ("token_nonce", {"nonce": "m" * 43}),
        ("token_nonce", {"nonce": ""}),
        ("token_nonce", {"nonce": None}),
        ("token_claims", {"exp": float("nan")}),
        ("token_claims", {"exp": float("inf")}),
        ("token_claims", {"exp": "tomorrow"}),
        ("token_claims", {"exp": True}),
        ("token_claims", {"exp": None}),
        ("token_claims", {"iat": None}),
        ("token_claims", {"sub": ""}),
        ("token_claims", {"sub": 7}),
        ("token_claims", {"sub": "s" * 256}),
        ("token_claims", {"sub": None}),
        ("token_issuer", {"iss": None}),
        ("token_audience", {"aud": None}),
        ("token_audience", {"aud": {"client": CLIENT}}),
        ("token_hash", {"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"}),
    ],
)
def test_a_claim_that_is_wrong_is_refused_with_its_reason(code: str, changes: dict[str, Any]) -> None:
    with pytest.raises(TokenRefused) as refused:
        verified(signed(claims(**changes)), access_token="an-access-token")
    assert refused.value.code == code


@pytest.mark.parametrize("skew", [-59, 0, 59])
def test_clocks_may_differ_by_a_little_either_way(skew: int) -> None:
    assert verified(signed(claims(iat=NOW, exp=NOW + 1, nbf=NOW)), now=NOW + skew)["sub"] == "someone"


def test_a_token_without_a_signature_is_none() -> None:
    for algorithm in ("none", "None", "NONE", ""):
        for signature in ("", "AAAA"):
            with pytest.raises(TokenRefused) as refused:
                verified(raw({"alg": algorithm}, claims(), signature))
            assert refused.value.code == "token_algorithm"


def test_a_public_key_is_never_taken_for_a_secret() -> None:
    for token in confused(claims(), rsa()):
        with pytest.raises(TokenRefused) as refused:
            verified(token)
        assert refused.value.code == "token_algorithm"


@pytest.mark.parametrize("algorithm", ["HS256", "RS384", "RS512", "PS256", "ES384", "EdDSA", None, 7, ["RS256"]])
def test_only_two_algorithms_are_asked_for(algorithm: Any) -> None:
    with pytest.raises(TokenRefused) as refused:
        verified(raw({"alg": algorithm, "kid": "rsa-1"}, claims(), "AAAA"))
    assert refused.value.code == "token_algorithm"


def test_a_key_signs_with_its_own_algorithm_alone() -> None:
    with pytest.raises(TokenRefused) as refused:
        verified(raw({"alg": "RS256", "kid": "ec-1"}, claims(), signed(claims(), ec()).rpartition(".")[2]))
    assert refused.value.code == "token_key"


def test_a_key_that_the_provider_does_not_have_may_be_newer_than_what_we_know() -> None:
    with pytest.raises(KeyUnknown):
        verified(signed(claims(), rsa("rsa-2")))
    assert verified(signed(claims(), rsa("rsa-2")), jwks(rsa("rsa-2")))["sub"] == "someone"
    with pytest.raises(TokenRefused) as refused:  # under the known name, by another key
        verified(signed(claims(), rsa("rsa-2"), kid="rsa-1"))
    assert refused.value.code == "token_signature"


def test_a_token_need_not_name_the_one_key_there_is_and_must_name_one_of_several() -> None:
    token = signed(claims(), kid=None)
    assert verified(token, jwks(rsa()))["sub"] == "someone"
    with pytest.raises(TokenRefused) as refused:
        verified(token, jwks(rsa(), rsa("rsa-2")))
    assert refused.value.code == "token_key"


def test_keys_for_something_else_or_too_short_are_none() -> None:
    public = rsa().as_dict(private=False)
    for change in ({"use": "enc"}, {"alg": "RS512"}, {"kty": "oct", "k": "AAAA"}):
        with pytest.raises(KeyUnknown):
            verified(signed(claims()), {"keys": [{**public, **change}]})
    with pytest.raises(TokenRefused, match="1024 bits"):
        verified(signed(claims(), rsa("short", 1024)), jwks(rsa("short", 1024)))
    with pytest.raises(TokenRefused) as refused:
        verified(signed(claims()), {"keys": [{**public, "n": "!"}]})
    assert refused.value.code == "token_key"


@pytest.mark.parametrize("keys", [{}, {"keys": None}, {"keys": [7, None, {}]}, {"keys": {"kid": "rsa-1"}}])
def test_a_key_set_that_is_none_has_no_keys(keys: Any) -> None:
    with pytest.raises(KeyUnknown):
        verified(signed(claims()), keys)


@pytest.mark.parametrize("token", ["", "a", "a.b", "a.b.c", "a.b.c.d", "é.b.c", "." * 70_000, "e30.e30.", "W10.e30."])
def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(TokenRefused):
        verified(token)


def test_a_changed_token_is_not_signed() -> None:
    head, _body, signature = signed(claims()).split(".")
    other = raw({}, claims(sub="somebody-else")).split(".")[1]
    with pytest.raises(TokenRefused) as refused:
        verified(f"{head}.{other}.{signature}")
    assert refused.value.code == "token_signature"
