"""The sign-in process' pages, with a played provider and the control process' real half: what a browser meets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from tests.support import oidc
from tests.support.people import Office
from tests.unit.adapters.test_oidc import Played

from daulat.adapters.identity_key import identity_key
from daulat.adapters.oidc import Attempt
from daulat.errors import ConfigError
from daulat.processes.signin import SignInPages

URL = "https://ai.example"
PAGE = {"accept": "text/html,*/*"}
OWN = {"origin": URL}


class Site:
    """The service with one provider, and a browser."""

    def __init__(self, path: Path, url: str = URL) -> None:
        self.office, self.played = Office(path), Played()
        where = self.office.where
        self.pages = SignInPages(url, where, {"test": self.played.issuer}, self.office, oidc.KEY, self.office.clock)  # type: ignore[arg-type]
        self.url = url
        self.browser = self.client()

    def client(self, **headers: str) -> Any:
        transport = httpx.ASGITransport(self.pages.application())
        usual = {"user-agent": "a browser", "daulat-client": "192.0.2.7"}
        return httpx.AsyncClient(transport=transport, base_url=self.url, headers={**usual, **headers})

    def ask(self, method: str, path: str, client: Any = None, **given: Any) -> httpx.Response:
        return asyncio.run((client or self.browser).request(method, path, **given))

    def begin(self, path: str = "/signin/test") -> dict[str, str]:
        """To the provider; what it got."""
        response = self.ask("GET", path)
        assert response.status_code == 303, response.text
        query = {name: values[0] for name, values in parse_qs(urlsplit(response.headers["location"]).query).items()}
        sealed = next(value for name, value in self.browser.cookies.items() if name.endswith("daulat-signin"))
        self.played.attempt = Attempt(**json.loads(self.pages._seal.decrypt(sealed.encode())))
        assert (query["state"], query["nonce"]) == (self.played.attempt.state, self.played.attempt.nonce)
        return query

    def come_back(self, **changes: str) -> httpx.Response:
        answer = {"code": "c", "state": self.played.attempt.state, "iss": oidc.ISSUER, **changes}
        return self.ask("GET", "/signin/test/callback", params=answer)

    def signed_in(self, name: str = "aminah") -> None:
        self.begin(f"/signin/test?invite={self.office.invited(name)}")
        response = self.come_back()
        assert (response.status_code, response.headers["location"]) == (303, "/me"), response.text


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path / "control.db")
    yield made
    made.office.rows.close()


def code(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    return str(response.json()["error"]["code"])


def test_a_person_signs_in_makes_a_key_uses_the_page_and_leaves(site: Site) -> None:
    chosen = site.ask("GET", "/signin?invite=in-x", headers=PAGE)
    assert '<a href="/signin/test?invite=in-x">Test ID</a>' in chosen.text
    assert site.ask("GET", "/signin").json() == {"providers": [{"name": "test", "title": "Test ID"}]}
    site.signed_in()
    shown = site.ask("GET", "/me").json()
    assert (shown["person"]["citizenship"], shown["eligible"], shown["keys"]) == ("MY", True, [])
    made = site.ask("POST", "/me/keys", headers=OWN, json={"label": "laptop", "networks": ["10.0.0.0/8"]})
    assert made.status_code == 201
    assert made.json()["api_key"].startswith("sk-")
    form = {"label": "<script>", "days": "5", "requests_per_minute": "9", "models": "a, b", "networks": ""}
    page = site.ask("POST", "/me/keys", headers={**OWN, **PAGE}, data=form)
    assert "&lt;script&gt;" in page.text
    assert "<script>" not in page.text
    assert "sk-" in page.text
    listed = site.ask("GET", "/me/keys").json()["data"]
    assert [(key["label"], key["models"], key["requests_per_minute"]) for key in listed] == [
        ("laptop", [], 0),
        ("<script>", ["a", "b"], 9),
    ]
    assert site.ask("DELETE", f"/me/keys/{listed[0]['id']}", headers=OWN).json()["revoked"] is True
    gone = site.ask("POST", f"/me/keys/{listed[1]['id']}/revoke", headers={**OWN, **PAGE})
    assert gone.headers["location"] == "/me"
    assert "None." in site.ask("GET", "/me", headers=PAGE).text
    left = site.ask("POST", "/signin/out", headers=OWN)
    assert left.headers["location"].startswith(f"{oidc.ISSUER}/logout?client_id=daulat")
    assert "over" in site.ask("GET", "/signin/ended", headers=PAGE).text
    assert code(site.ask("GET", "/me"), 401) == "no_session"
    assert [event for event, _ in site.office.events()] == ["signed-in", "signed-out"]


def test_cookies_are_for_this_host_over_tls_and_for_no_script(site: Site, tmp_path: Path) -> None:
    begun = site.ask("GET", "/signin/test")
    site.begin(f"/signin/test?invite={site.office.invited()}")
    done = site.come_back()
    session = next(line for line in done.headers.get_list("set-cookie") if "daulat-session" in line)
    for line in (begun.headers["set-cookie"], session):
        assert line.startswith("__Host-daulat-")
        flags = {part.strip().lower() for part in line.split(";")[1:]}
        assert {"httponly", "secure", "samesite=lax", "path=/"} <= flags
        assert not any(flag.startswith("domain") for flag in flags)
    plain = Site(tmp_path / "plain.db", "http://127.0.0.1:8470")
    line = plain.ask("GET", "/signin/test").headers["set-cookie"]
    assert line.startswith("daulat-signin=")
    assert "secure" not in line.lower()
    plain.office.rows.close()


def test_pages_keep_to_themselves(site: Site) -> None:
    site.signed_in()
    for response in (site.ask("GET", "/me", headers=PAGE), site.ask("GET", "/me"), site.ask("GET", "/nothing")):
        policy = response.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; style-src 'sha256-")
        assert "frame-ancestors 'none'" in policy
        assert "form-action 'self' https://id.example;" in policy
        assert response.headers["cache-control"] == "no-store"
        assert "script" not in policy


@pytest.mark.parametrize(
    ("told", "changes"),
    [
        ("state_mismatch", {"state": "another"}),
        ("provider_refused", {"error": "access_denied", "code": ""}),
        ("issuer_mismatch", {"iss": "https://evil.example"}),
    ],
)
def test_an_answer_to_something_else_signs_nobody_in_and_is_logged(
    site: Site, told: str, changes: dict[str, str]
) -> None:
    site.begin(f"/signin/test?invite={site.office.invited()}")
    assert code(site.come_back(**changes), 401) == told
    assert site.office.events() == [("refused", told)]
    assert code(site.ask("GET", "/me"), 401) == "no_session"


def test_a_sign_in_is_one_browsers_and_good_once(site: Site) -> None:
    site.begin(f"/signin/test?invite={site.office.invited()}")
    answer = {"code": "c", "state": site.played.attempt.state, "iss": oidc.ISSUER}
    other = site.client()
    assert code(site.ask("GET", "/signin/test/callback", other, params=answer), 401) == "state_missing"
    sealed = dict(site.browser.cookies)
    assert site.come_back().status_code == 303
    replay = site.client()
    replay.cookies.update(sealed)
    assert code(site.ask("GET", "/signin/test/callback", replay, params=answer), 401) == "state_mismatch"
    forged = site.client()
    forged.cookies.set("__Host-daulat-signin", "x" * 200)
    assert code(site.ask("GET", "/signin/test/callback", forged, params=answer), 401) == "state_missing"


def test_a_token_of_another_sign_in_is_refused_and_logged(site: Site) -> None:
    old = site.played.tokens()
    site.begin(f"/signin/test?invite={site.office.invited()}")
    site.played.answers["token"] = lambda: httpx.Response(200, json=old)
    assert code(site.come_back(), 401) == "token_nonce"
    site.begin()
    both = {"roles": ["root", "inspector"]}
    site.played.answers["token"] = lambda: httpx.Response(200, json=site.played.tokens(realm_access=both))
    assert code(site.come_back(), 403) == "roles_exclude_each_other"
    assert [told for _, told in site.office.events()] == ["token_nonce", "roles_exclude_each_other"]


def test_whoever_is_not_invited_reads_why(site: Site) -> None:
    site.begin()
    answer = {"code": "c", "state": site.played.attempt.state, "iss": oidc.ISSUER}
    page = site.ask("GET", "/signin/test/callback", params=answer, headers=PAGE)
    assert page.status_code == 403
    assert "Ask an operator for an invitation" in page.text
    site.begin()
    assert code(site.come_back(), 403) == "not_invited"


@pytest.mark.parametrize(
    "change", [{"user-agent": "another"}, {"daulat-client": "198.51.100.1"}, {"daulat-client": ""}]
)
def test_a_stolen_session_is_refused_and_over_and_in_the_log(site: Site, change: dict[str, str]) -> None:
    site.signed_in()
    thief = site.client(**change)
    thief.cookies.update(site.browser.cookies)
    assert code(site.ask("POST", "/me/keys", thief, headers=OWN, json={}), 401) == "session_elsewhere"
    assert code(site.ask("GET", "/me"), 401) == "no_session"
    assert site.office.events()[-1] == ("refused", "session_elsewhere")


def test_a_session_moves_within_its_network(site: Site) -> None:
    site.signed_in()
    moved = site.client(**{"daulat-client": "192.0.2.200"})
    moved.cookies.update(site.browser.cookies)
    assert site.ask("GET", "/me", moved).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "https://ai.example.evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"origin": "https://evil.example", "sec-fetch-site": "same-origin"},
    ],
)
def test_another_sites_page_changes_nothing(site: Site, headers: dict[str, str]) -> None:
    site.signed_in()
    for method, path in (("POST", "/me/keys"), ("DELETE", "/me/keys/key_1"), ("POST", "/signin/out")):
        assert code(site.ask(method, path, headers=headers), 403) == "cross_site"
    assert site.ask("GET", "/me").json()["keys"] == []
    assert site.ask("POST", "/me/keys", headers={"sec-fetch-site": "same-origin"}, json={}).status_code == 201


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"[]", "A key has"),
        (b"{", "neither JSON"),
        (b"[" * 10_000, "neither JSON"),
        (b'{"person": "person_1"}', "A key has"),
        (b'{"days": "5"}', "days is of another type"),
        (b'{"days": true}', "days is of another type"),
        (b'{"models": [7]}', "models is of another type"),
        (b'{"networks": ["10.0.0.1/8"]}', "written as 192.0.2.0/24"),
        (b'{"days": 0}', "from 1 to 36500"),
        (b'{"requests_per_minute": -1}', "negative"),
        (b'{"label": "%b"}' % (b"x" * 20_000), "larger than"),
    ],
)
def test_a_key_that_cannot_be_is_refused_in_words(site: Site, body: bytes, words: str) -> None:
    site.signed_in()
    response = site.ask("POST", "/me/keys", headers={**OWN, "content-type": "application/json"}, content=body)
    assert response.status_code in {400, 413}
    assert words in response.json()["error"]["message"]


def test_what_is_no_page_is_said(site: Site) -> None:
    assert code(site.ask("GET", "/signin/other"), 404) == "unknown_provider"
    assert code(site.ask("GET", "/me/nothing"), 404) == "unknown_url"
    assert code(site.ask("PUT", "/me"), 405) == "method_not_allowed"


def test_the_key_of_the_hashes_is_made_once_for_this_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    made = identity_key(path)
    assert (len(made), path.stat().st_mode & 0o777) == (32, 0o600)
    assert identity_key(path) == made
    path.write_bytes(b"short")
    with pytest.raises(ConfigError, match="5 bytes, expected 32"):
        identity_key(path)
