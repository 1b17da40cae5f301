"""A provider over HTTP, played: what it may send, how often it is asked, and what it is sent."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from tests.support import oidc
from tests.support.oidc import ISSUER, NOW, claims, jwks, rsa, signed
from tests.support.worlds import StillClock

from daulat.adapters.oidc import Attempt, Issuer
from daulat.errors import Unauthenticated, Unavailable

BACK = "https://ai.example/signin/test/callback"
METADATA = {
    "issuer": ISSUER,
    "authorization_endpoint": f"{ISSUER}/auth?realm=1",
    "token_endpoint": f"{ISSUER}/token",
    "jwks_uri": f"{ISSUER}/keys",
    "end_session_endpoint": f"{ISSUER}/logout",
    "code_challenge_methods_supported": ["plain", "S256"],
}


class Played:
    """A provider; `answers` by the end of the address."""

    def __init__(self, **metadata: Any) -> None:
        self.asked: Counter[str] = Counter()
        self.requests: list[httpx.Request] = []
        self.attempt = Attempt("test")
        said = {name: value for name, value in {**METADATA, **metadata}.items() if value is not None}
        self.answers: dict[str, Callable[[], httpx.Response]] = {
            "openid-configuration": lambda: httpx.Response(200, json=said),
            "keys": lambda: httpx.Response(200, json=jwks()),
            "token": lambda: httpx.Response(200, json=self.tokens()),
        }
        self.clock = StillClock(NOW * 1000)
        self.issuer = Issuer(oidc.provider(), "s3cret", self.clock, httpx.MockTransport(self._answer))

    def tokens(self, **changes: Any) -> dict[str, str]:
        said = claims(nonce=self.attempt.nonce, **changes)
        return {"id_token": signed(said), "access_token": "opaque", "token_type": "Bearer"}

    def _answer(self, request: httpx.Request) -> httpx.Response:
        name = request.url.path.rpartition("/")[2]
        self.asked[name] += 1
        self.requests.append(request)
        return self.answers[name]()

    def come_back(self, **changes: str) -> dict[str, Any]:
        answer = {"code": "c", "state": self.attempt.state, "iss": ISSUER, **changes}
        return asyncio.run(self.issuer.claims(self.attempt, {k: v for k, v in answer.items() if v}, BACK))


def test_the_browser_is_sent_with_state_nonce_and_a_challenge_and_the_code_comes_back_with_its_verifier() -> None:
    played = Played()
    address = urlsplit(asyncio.run(played.issuer.address(played.attempt, BACK)))
    query = {name: values[0] for name, values in parse_qs(address.query).items()}
    challenge = (
        base64.urlsafe_b64encode(hashlib.sha256(played.attempt.verifier.encode()).digest()).rstrip(b"=").decode()
    )
    assert query == {
        "realm": "1",
        "response_type": "code",
        "client_id": "daulat",
        "redirect_uri": BACK,
        "scope": "openid",
        "state": played.attempt.state,
        "nonce": played.attempt.nonce,
        "code_challenge": challenge,
        "code_challenge_method": "S256",
        "acr_values": "level:2",
    }
    assert played.come_back()["sub"] == "someone"
    sent = played.requests[-2] if played.requests[-1].url.path.endswith("keys") else played.requests[-1]
    form = {name: values[0] for name, values in parse_qs(sent.content.decode()).items()}
    assert form == {
        "grant_type": "authorization_code",
        "code": "c",
        "redirect_uri": BACK,
        "code_verifier": played.attempt.verifier,
    }
    assert base64.b64decode(sent.headers["authorization"].removeprefix("Basic ")) == b"daulat:s3cret"
    assert played.attempt.verifier not in repr(played.attempt)


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("state_mismatch", {"state": "another"}),
        ("state_mismatch", {"state": ""}),
        ("issuer_mismatch", {"iss": "https://evil.example"}),
        ("provider_refused", {"error": "access_denied"}),
        ("provider_refused", {"code": ""}),
    ],
)
def test_an_answer_that_is_not_to_this_attempt_is_never_exchanged(code: str, changes: dict[str, str]) -> None:
    played = Played()
    with pytest.raises(Unauthenticated) as refused:
        played.come_back(**changes)
    assert refused.value.code == code
    assert played.asked["token"] == 0


def test_a_provider_that_says_it_names_itself_must() -> None:
    played = Played(authorization_response_iss_parameter_supported=True)
    with pytest.raises(Unauthenticated) as refused:
        played.come_back(iss="")
    assert refused.value.code == "issuer_mismatch"
    assert Played().come_back(iss="")["sub"] == "someone"


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"issuer": "https://evil.example"}, "another issuer"),
        ({"issuer": ISSUER + "/"}, "another issuer"),
        ({"jwks_uri": "http://id.example/keys"}, "jwks_uri is no https"),
        ({"token_endpoint": "http://127.0.0.1/token"}, "token_endpoint is no https"),
        ({"authorization_endpoint": None}, "authorization_endpoint is no https"),
        ({"authorization_endpoint": 7}, "authorization_endpoint is no https"),
        ({"code_challenge_methods_supported": ["plain"]}, "PKCE"),
    ],
)
def test_a_provider_that_is_not_what_it_should_be_is_not_used(metadata: dict[str, Any], words: str) -> None:
    played = Played(**metadata)
    with pytest.raises(Unavailable, match=words):
        asyncio.run(played.issuer.address(played.attempt, BACK))
    assert set(played.asked) == {"openid-configuration"}


def test_what_is_known_of_it_is_asked_for_once_an_hour() -> None:
    played = Played()
    for _ in range(3):
        played.come_back()
    assert (played.asked["openid-configuration"], played.asked["keys"]) == (1, 1)
    played.clock.boot += 3601
    played.come_back()
    assert (played.asked["openid-configuration"], played.asked["keys"]) == (2, 2)


def test_rotated_keys_are_fetched_once_and_nobody_can_have_them_fetched_in_a_loop() -> None:
    played = Played()
    played.come_back()
    new = rsa("rsa-2")
    played.answers["keys"] = lambda: httpx.Response(200, json=jwks(new))
    played.answers["token"] = lambda: httpx.Response(
        200, json={**played.tokens(), "id_token": signed(claims(nonce=played.attempt.nonce), new)}
    )
    assert played.come_back()["sub"] == "someone"
    assert played.asked["keys"] == 2
    stranger = rsa("rsa-3")
    played.answers["token"] = lambda: httpx.Response(
        200, json={**played.tokens(), "id_token": signed(claims(nonce=played.attempt.nonce), stranger)}
    )
    for _ in range(20):
        with pytest.raises(Unauthenticated) as refused:
            played.come_back()
        assert refused.value.code == "token_key"
    assert played.asked["keys"] == 2
    played.clock.boot += 31
    for _ in range(20):
        with pytest.raises(Unauthenticated):
            played.come_back()
    assert played.asked["keys"] == 3


@pytest.mark.parametrize(
    ("answer", "kind", "code"),
    [
        (lambda: httpx.Response(400, json={"error": "invalid_grant"}), Unauthenticated, "code_refused"),
        (lambda: httpx.Response(500), Unavailable, "unavailable"),
        (lambda: httpx.Response(302, headers={"location": "https://evil.example"}), Unavailable, "unavailable"),
        (lambda: httpx.Response(200, content=b"[" * 100_000), Unavailable, "unavailable"),
        (lambda: httpx.Response(200, content=b"x" * 300_000), Unavailable, "unavailable"),
        (lambda: httpx.Response(200, json=["id_token"]), Unavailable, "unavailable"),
        (lambda: httpx.Response(200, json={"access_token": "a"}), Unauthenticated, "token_missing"),
        (lambda: httpx.Response(200, json={"access_token": "a", "id_token": 7}), Unauthenticated, "token_missing"),
    ],
)
def test_what_a_provider_answers_instead_of_a_token_is_said(answer: Any, kind: Any, code: str) -> None:
    played = Played()
    played.answers["token"] = answer
    with pytest.raises(kind) as refused:
        played.come_back()
    assert refused.value.code == code
    assert "s3cret" not in refused.value.message


def test_a_provider_that_cannot_be_reached_is_said_and_asked_again() -> None:
    played = Played()

    def broken() -> httpx.Response:
        raise httpx.ConnectError("refused")

    good = played.answers["openid-configuration"]
    played.answers["openid-configuration"] = broken
    with pytest.raises(Unavailable, match="cannot be reached"):
        played.come_back()
    played.answers["openid-configuration"] = good
    assert played.come_back()["sub"] == "someone"


def test_the_way_out_leads_to_the_provider_without_the_token() -> None:
    back = "https://ai.example/signin/ended"
    address = urlsplit(asyncio.run(Played().issuer.farewell(back)))
    assert parse_qs(address.query) == {"client_id": ["daulat"], "post_logout_redirect_uri": [back]}
    for other in (None, 7, "http://id.example/logout", "javascript:alert(1)"):
        assert asyncio.run(Played(end_session_endpoint=other).issuer.farewell(back)) == ""
