"""A real, certified provider: tokens that it signs, tokens made from them that it did not, and a person from its login
to an answer of the real service."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support import oidc
from tests.support.oidc import RealProvider, confused, rsa
from tests.support.service import Service, contents, daulat

from daulat.adapters.oidc import Attempt, Issuer
from daulat.catalog import charters
from daulat.core.clock import SystemClock
from daulat.errors import Unauthenticated, Unavailable

pytestmark = pytest.mark.slow
BACK = "https://ai.example/signin/test/callback"


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealProvider]:
    with oidc.real(tmp_path_factory.mktemp("provider"), BACK) as made:
        yield made


class Between(httpx.AsyncHTTPTransport):
    """What is between us and the provider, and may have another token in the answer."""

    def __init__(self, change: Callable[[str], str]) -> None:
        super().__init__()
        self._change = change

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        if request.url.path != "/token":
            return response
        found = json.loads(await response.aread())
        if "id_token" in found:
            found["id_token"] = self._change(found["id_token"])
        return httpx.Response(response.status_code, json=found)


def sign_in(
    provider: RealProvider,
    who: str = "aminah",
    *,
    change: Callable[[str], str] = str,
    clock: Any = None,
    **changes: str,
) -> dict[str, Any]:
    """The claims with which a person comes back."""

    async def main() -> dict[str, Any]:
        configured = oidc.provider(issuer=provider.issuer)
        issuer = Issuer(configured, provider.client_secret, clock or SystemClock(), Between(change))
        try:
            attempt = Attempt("test")
            answer = await asyncio.to_thread(provider.sign_in, await issuer.address(attempt, BACK), who)
            return await issuer.claims(attempt, {**answer, **changes}, BACK)
        finally:
            await issuer.close()

    return asyncio.run(main())


def refused(code: str, /, *arguments: Any, **given: Any) -> None:
    with pytest.raises(Unauthenticated) as said:
        sign_in(*arguments, **given)
    assert said.value.code == code


def resigned(provider: RealProvider, key: Any = None, **changes: Any) -> Callable[[str], str]:
    """The provider's token with other claims, under its own key as only it could sign."""

    def change(token: str) -> str:
        return oidc.signed({**_claims(token), **changes}, key or provider.key)

    return change


def _claims(token: str) -> dict[str, Any]:
    body = token.split(".")[1]
    return dict(json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))))


def test_a_real_providers_token_holds_and_says_what_it_knows(provider: RealProvider) -> None:
    found = sign_in(provider)
    assert (found["sub"], found["acr"], found["nric"]) == ("aminah", "level:2", oidc.NUMBER)
    assert found["iss"] == provider.issuer


def test_tokens_that_it_did_not_mean_for_this_are_refused(provider: RealProvider) -> None:
    earlier: list[str] = []
    sign_in(provider, change=lambda token: earlier.append(token) or token)  # type: ignore[func-returns-value]
    refused("token_nonce", provider, change=lambda _: earlier[0])  # replayed
    refused("token_audience", provider, change=resigned(provider, aud="another"))
    refused("token_issuer", provider, change=resigned(provider, iss="https://evil.example"))
    refused("token_expired", provider, change=resigned(provider, exp=1_700_000_000))
    refused("token_signature", provider, change=_stranger(provider))


def _stranger(provider: RealProvider) -> Callable[[str], str]:
    """Somebody else's key under the provider's key's name."""
    return lambda token: oidc.signed(_claims(token), rsa("stranger"), kid=provider.key.kid)


def test_tokens_that_nobody_or_everybody_signed_are_refused(provider: RealProvider) -> None:
    refused("token_algorithm", provider, change=lambda token: oidc.raw({"alg": "none"}, _claims(token)))
    for way in range(3):
        refused(
            "token_algorithm", provider, change=lambda token, way=way: list(confused(_claims(token), provider.key))[way]
        )
    refused("token_algorithm", provider, change=lambda token: _relabelled(token, "RS512"))


def _relabelled(token: str, algorithm: str) -> str:
    head = oidc.raw({"alg": algorithm, "kid": "rsa-1"}, {}).split(".")[0]
    return ".".join([head, *token.split(".")[1:]])


def test_answers_of_another_sign_in_are_refused(provider: RealProvider) -> None:
    refused("state_mismatch", provider, state="another")
    refused("issuer_mismatch", provider, iss="https://evil.example")
    refused("code_refused", provider, code="guessed")
    refused("provider_refused", provider, "nobody-of-that-name")


class Apart(SystemClock):
    """So many seconds before or behind the provider's, however long a sign-in takes."""

    def __init__(self, seconds: int) -> None:
        self._seconds = seconds

    def now_ms(self) -> int:
        return super().now_ms() + self._seconds * 1000


def test_clocks_may_differ_by_a_minute_and_no_more(provider: RealProvider) -> None:
    for seconds, holds in ((-50, True), (50, True), (-90, False), (700, False)):
        clock = Apart(seconds)
        if holds:
            assert sign_in(provider, clock=clock)["sub"] == "aminah"
        else:
            refused("token_time" if seconds < 0 or seconds < 660 else "token_expired", provider, clock=clock)


def test_a_provider_that_rotates_its_keys_is_followed_at_once(provider: RealProvider) -> None:
    async def main() -> None:
        issuer = Issuer(oidc.provider(issuer=provider.issuer), provider.client_secret, SystemClock())

        async def once() -> dict[str, Any]:
            attempt = Attempt("test")
            answer = await asyncio.to_thread(provider.sign_in, await issuer.address(attempt, BACK), "aminah")
            return await issuer.claims(attempt, answer, BACK)

        assert (await once())["sub"] == "aminah"
        await asyncio.to_thread(provider.rotate, rsa("rotated"))
        assert (await once())["sub"] == "aminah"
        await issuer.close()

    asyncio.run(main())


def test_a_provider_that_is_away_is_said_to_be(provider: RealProvider) -> None:
    away = oidc.provider(issuer="http://127.0.0.1:9")

    async def main() -> None:
        issuer = Issuer(away, "", SystemClock())
        with pytest.raises(Unavailable, match="cannot be reached"):
            await issuer.address(Attempt("test"), BACK)
        await issuer.close()

    asyncio.run(main())


class Browser(httpx.Client):
    """Follows nothing by itself, and has a name."""

    def __init__(self, service: Service, name: str) -> None:
        super().__init__(
            base_url=service.facts["url"],
            headers={"user-agent": name, "origin": service.facts["url"]},
            timeout=60,
            follow_redirects=False,
        )

    def sign_in(self, provider: RealProvider, who: str, invitation: str = "") -> httpx.Response:
        begun = self.get("/signin/test", params={"invite": invitation} if invitation else {})
        assert begun.status_code == 303, begun.text
        return self.get("/signin/test/callback", params=provider.sign_in(begun.headers["location"], who))


def test_from_a_providers_login_to_an_answer_and_out_again(tmp_path: Path) -> None:
    service = Service(tmp_path / "home")
    redirect = f"http://127.0.0.1:{service.port}/signin/test/callback"
    with oidc.real(tmp_path / "provider", redirect) as provider:
        home = service.home
        (home / "keys").mkdir(parents=True, mode=0o700)
        home.chmod(0o700)
        (home / "keys" / "test.secret").write_text(provider.client_secret)
        (home / "keys" / "test.secret").chmod(0o600)
        secret = 'secret_file = "keys/test.secret"'
        (home / "signin.toml").write_text(oidc.settings(provider.issuer, provision="mapped", secret=secret))
        named = f'issuers = ["operator", "{provider.issuer}"] '
        text = charters.starter().replace('issuers = ["operator"] ', named)
        assert named in text
        (home / "charter.toml").write_text(text)
        with service:
            with contextlib.ExitStack() as opened:
                _visited(service, provider, lambda name: opened.enter_context(Browser(service, name)))
            events = [(entry["event"], entry["detail"].get("code")) for entry in service.entries("identity/v1")]
            (tmp_path / "token").write_text(service.facts["auditor_token"])
            (tmp_path / "token").chmod(0o600)
            whose = ("--vkey", str(home / "log.vkey"), "--token-file", str(tmp_path / "token"))
            report = daulat("audit", service.facts["log_url"], *whose)
            log = (home / "daulat.log").read_text()
    for told in ("not_invited", "not_eligible", "session_elsewhere"):
        assert ("refused", told) in events
    assert {("signed-in", None), ("signed-out", None)} <= set(events)
    assert report["holds"] is True
    for number in (oidc.NUMBER, oidc.NUMBER.replace("-", "")):
        assert number not in log
        assert all(number.encode() not in content for _, content in contents(home))


def _vault(service: Service, person: str, own: str, chat: dict[str, Any]) -> None:
    """A key that the operator makes for whoever has signed in answers, and opens nothing that they keep."""
    url, held = service.facts["url"], {"authorization": f"Bearer {own}"}
    made = daulat("key", "create", "--person", person, home=service.home)
    anothers = {"authorization": f"Bearer {made['api_key']}"}
    file = {"file": ("surat.txt", b"mine"), "purpose": (None, "user_data")}

    def kept() -> str | None:  # once the vault is open
        answer = httpx.post(f"{url}/v1/files", files=file, headers=held, timeout=120)
        assert answer.status_code in {200, 503}, answer.text
        return str(answer.json()["id"]) if answer.status_code == 200 else None

    for address in ("/v1/files", f"/v1/files/{service.wait(kept)}/content", "/v1/chat/completions"):
        no = httpx.get(f"{url}{address}", headers=anothers, timeout=120)
        assert (no.status_code, no.json()["error"]["code"]) == (403, "key_not_own")
    told = service.wait(lambda: service.entries("access.refused/v1"))
    assert (told[-1]["action"], told[-1]["code"]) == ("vault.read", "key_not_own")
    asked = f"{url}/v1/chat/completions"
    assert httpx.post(asked, json={**chat, "store": True}, headers=anothers, timeout=120).status_code == 403
    assert httpx.post(asked, json=chat, headers=anothers, timeout=120).status_code == 200
    assert httpx.get(f"{url}/v1/files", headers=held, timeout=120).status_code == 200


def _visited(service: Service, provider: RealProvider, browser: Callable[[str], Browser]) -> None:
    lim = browser("lim's browser")
    assert lim.sign_in(provider, "lim").headers["location"] == "/me"
    made = lim.post("/me/keys", json={"label": "laptop", "networks": ["127.0.0.0/8"]})
    assert made.status_code == 201, made.text
    key = made.json()
    chat = {"model": "smollm2-135m-instruct", "max_tokens": 4, "messages": [{"role": "user", "content": "Hello"}]}
    bearer = {"authorization": f"Bearer {key['api_key']}"}
    answer = httpx.post(f"{service.facts['url']}/v1/chat/completions", json=chat, headers=bearer, timeout=120)
    assert answer.status_code == 200, answer.text

    _vault(service, daulat("person", "list", home=service.home)[-1]["id"], key["api_key"], chat)

    aminah = browser("aminah's browser")
    assert aminah.sign_in(provider, "aminah").json()["error"]["code"] == "not_invited"
    daulat("person", "add", "aminah", "--tenant", "first-agency", home=service.home)
    invited = daulat("person", "invite", "aminah", home=service.home)
    assert aminah.sign_in(provider, "aminah", invited["invitation"]).headers["location"] == "/me"

    daulat("person", "add", "resident", "--tenant", "first-agency", home=service.home)
    resident = browser("resident's browser")
    assert (
        resident.sign_in(
            provider, "resident", daulat("person", "invite", "resident", home=service.home)["invitation"]
        ).headers["location"]
        == "/me"
    )
    none = resident.post("/me/keys", json={})
    assert (none.status_code, none.json()["error"]["code"]) == (403, "not_eligible")
    assert "permanent residents" in none.json()["error"]["message"]

    thief = browser("another browser")
    thief.cookies.update(aminah.cookies)
    assert thief.get("/me").json()["error"]["code"] == "session_elsewhere"
    assert aminah.get("/me").json()["error"]["code"] == "no_session"

    assert {row["person"] for row in daulat("session", "list", home=service.home)} >= {"resident"}
    daulat("session", "revoke", "resident", home=service.home)
    assert resident.get("/me").status_code == 401

    assert lim.delete(f"/me/keys/{key['id']}").json()["revoked"] is True
    gone = httpx.post(f"{service.facts['url']}/v1/chat/completions", json=chat, headers=bearer, timeout=120)
    assert gone.status_code == 401
    left = lim.post("/signin/out")
    assert left.headers["location"].startswith(f"{provider.issuer}/session/end?client_id=daulat")
    assert lim.get("/me").status_code == 401
    said = lim.get(left.headers["location"])
    assert said.status_code == 200
    token = re.search(r'name="xsrf" value="([^"]+)"', said.text)
    assert token is not None, said.text
    over = lim.post(f"{provider.issuer}/session/end/confirm", data={"xsrf": token[1], "logout": "yes"})
    assert over.headers["location"].startswith(f"{service.facts['url']}/signin/ended")
    assert lim.get(over.headers["location"], headers={"accept": "text/html"}).status_code == 200
