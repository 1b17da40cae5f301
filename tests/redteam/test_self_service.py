"""What somebody who is signed in tries on somebody else, at every address that wants a session, out of the router.

A new address is tried as soon as the table has its row (`test_table.py` holds the two together).
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.redteam.table import SESSION, SIGNIN, served
from tests.support import oidc
from tests.support.people import Office
from tests.unit.adapters.test_oidc import Played

from daulat.processes.signin import SignInPages

URL = "https://ai.example"
OWN = {"origin": URL}
COOKIE = "__Host-daulat-session"
HERE = {"user-agent": "a browser", "daulat-client": "192.0.2.7"}
ELSEWHERE = [
    {"user-agent": "another"},
    {"user-agent": ""},
    {"daulat-client": "198.51.100.1"},
    {"daulat-client": "2001:db8::7"},
    {"daulat-client": ""},
    {"daulat-client": "192.0.2.7, 198.51.100.1"},
]
FOREIGN = [
    {},
    {"origin": ""},
    {"origin": "null"},
    {"origin": "https://evil.example"},
    {"origin": "http://ai.example"},
    {"origin": "https://ai.example:8443"},
    {"origin": "https://ai.example.evil.example"},
    {"origin": "https://evil.example/https://ai.example"},
    {"referer": f"{URL}/me"},
    {"x-csrf-token": "0" * 64, "x-requested-with": "XMLHttpRequest"},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "none"},
    {"origin": "https://evil.example", "sec-fetch-site": "same-origin"},
]
SAFE = frozenset({"GET", "HEAD"})
TABLES = ("tenants", "people", "keys", "identities", "invitations", "sessions")
ROUTES = [tuple(route.split(" ", 1)) for route, row in SIGNIN.items() if row.may == SESSION]
CHANGING = [route for route in ROUTES if route[0] not in SAFE]


class Site:
    """Aminah and Bala of one agency, Chandra of another, each with a session and two keys, one of them revoked."""

    def __init__(self, path: Path) -> None:
        self.office = Office(path)
        where: Any = (URL, self.office.where, {"test": Played().issuer}, self.office, oidc.KEY, self.office.clock)
        self.pages = SignInPages(*where)
        asyncio.run(self.office.desk.add_tenant("other-agency"))
        self.sessions: dict[str, str] = {}
        self.keys: dict[str, list[str]] = {}
        for number, (name, house) in enumerate(
            (("aminah", "first-agency"), ("bala", "first-agency"), ("chandra", "other-agency"))
        ):
            vouched = {"citizenship": "", "assurance": "low", "roles": ["user"], "days": 300}
            asyncio.run(self.office.desk.add_person(name, house, **vouched))
            invitation = asyncio.run(self.office.identities.invite(name, days=7))["invitation"]
            self.sessions[name] = self.sign_in(name, number, invitation)
            made = [self.ask(name, "POST", "/me/keys", OWN, json={"label": f"{name}-{kind}"}) for kind in "ab"]
            assert [response.status_code for response in made] == [201, 201], made[0].text
            self.keys[name] = [response.json()["id"] for response in made]
            revoked = self.ask(name, "DELETE", f"/me/keys/{self.keys[name][1]}", OWN)
            assert revoked.status_code == 200, revoked.text
        self.office.entries.clear()

    def sign_in(self, name: str, number: int, invitation: str = "") -> str:
        claims = {"sub": name, "nric": f"90010110123{number}"}
        begun = self.office.sign_in(invitation=invitation, binding=self.binding(), **claims)
        return str(begun["session"])

    def binding(self) -> str:
        scope = {"type": "http", "headers": [(name.encode(), value.encode()) for name, value in HERE.items()]}
        return self.pages._binding(httpx_request(scope))

    def ask(
        self, session: str, method: str, path: str, headers: Mapping[str, str] | None = None, **given: Any
    ) -> httpx.Response:
        """With the session of somebody who is named, or with this cookie."""
        cookie = self.sessions.get(session, session)

        async def asked() -> httpx.Response:
            transport = httpx.ASGITransport(self.pages.application())
            sent = {**HERE, **({"cookie": f"{COOKIE}={cookie}"} if cookie else {}), **(headers or {})}
            async with httpx.AsyncClient(transport=transport, base_url=URL) as client:
                return await client.request(method, path, headers=sent, **given)

        return asyncio.run(asked())

    def everything(self, *but: str) -> str:
        return json.dumps({table: self.office.rows.rows(table) for table in TABLES if table not in but}, sort_keys=True)

    def foreign(self, name: str) -> set[str]:
        """Every id and name there is, but those of somebody's own good keys."""
        rows = [row for table in TABLES for row in self.office.rows.rows(table)]
        found = {str(row[column]) for row in rows for column in ("id", "name", "person") if row.get(column)}
        return found - {self.keys[name][0]}

    def told(self) -> list[Any]:
        """The refusals that the log has, without its own."""
        found = [code for event, code in self.office.events() if event == "refused"]
        self.office.entries.clear()
        return found


def httpx_request(scope: dict[str, Any]) -> Any:
    from starlette.requests import Request  # noqa: PLC0415

    return Request(scope)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path / "control.db")
    yield made
    made.office.rows.close()


def filled(path: str, id_: str) -> str:
    return re.sub(r"\{[^}]*\}", id_, path)


def error(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, str(response.json()["error"]["code"])


def test_the_routes_are_those_that_there_are(site: Site) -> None:
    wanting = {f"{method} {path}" for method, path in ROUTES}
    assert {route for route in served(site.pages.application()) if "/me" in route} <= wanting
    assert len(CHANGING) >= 4


def test_another_persons_ids_are_answered_as_those_that_do_not_exist(site: Site) -> None:
    """A colleague's and another tenant's keys, revoked ones, and the ids of everything else there is."""
    tried = 0
    for method, path in (route for route in ROUTES if "{" in route[1]):
        absent = site.ask("aminah", method, filled(path, "key_" + "0" * 32), OWN)
        assert error(absent) == (404, "not_found")
        for id_ in sorted(site.foreign("aminah")):
            site.office.clock.pass_seconds(61)
            site.sessions["aminah"] = site.sign_in("aminah", 0)
            site.told()
            before = site.everything()
            response = site.ask("aminah", method, filled(path, id_), OWN)
            assert (response.status_code, response.content) == (404, absent.content), (method, id_)
            assert site.told() == ["not_found"], "each leaves an entry"
            assert site.everything() == before
            tried += 1
    assert tried > 40


def test_nobody_names_somebody_else_in_a_query_a_body_or_a_header(site: Site) -> None:
    others = [*site.foreign("aminah")]
    victim = site.office.rows.find("people", "chandra")["id"]
    for method, path in ROUTES:
        if path == "/signin/out":
            continue  # tried below: it names nobody
        own = filled(path, "key_none")
        for given in ("person", "tenant", "user", "session", "as"):
            before = site.everything()
            headers = {**OWN, "x-forwarded-user": victim, "daulat-person": victim, "authorization": f"Bearer {victim}"}
            body = {} if method in SAFE else {"json": {given: victim}}
            response = site.ask("aminah", method, f"{own}?{given}={victim}", headers, **body)
            assert site.everything() == before
            if method in SAFE:
                assert response.status_code == 200
                assert not [
                    id_ for id_ in others if id_.startswith(("key_", "person_")) and id_ in shown_keys(response)
                ]
                assert "bala" not in response.text
                assert "chandra" not in response.text
            else:
                assert response.status_code in {400, 404}, (method, path, response.text)


def shown_keys(response: httpx.Response) -> set[str]:
    found = response.json()
    return {key["id"] for key in found.get("data", found.get("keys", []))}


def test_whoever_has_no_session_or_one_that_is_over_is_told_nothing(site: Site) -> None:
    over = site.sessions.pop("bala")
    gone = site.sign_in("bala", 1)
    asyncio.run(site.office.identities.revoke_session("bala"))
    ended = site.sign_in("bala", 1)
    assert site.ask(ended, "POST", "/signin/out", OWN).status_code == 303
    site.told()
    before, key = site.everything(), site.keys["bala"][0]
    aminah = site.office.rows.find("people", "aminah")["id"]
    rows = site.office.rows.rows("sessions")
    forged = ("", "x", over, gone, ended, over[:-1], f"{over}x", aminah, *(row["id"] for row in rows))
    hashes = [row["name"] for row in rows]
    for (method, path), cookie in itertools.product(ROUTES, (*forged, *hashes)):
        response = site.ask(cookie, method, filled(path, key), OWN)
        assert error(response) == (401, "no_session"), (method, path, cookie)
        assert "bala" not in response.text
    assert site.everything() == before
    site.office.clock.pass_seconds(365 * 86_400)
    for method, path in ROUTES:
        assert error(site.ask("aminah", method, filled(path, key), OWN)) == (401, "no_session"), "it has run out"


def test_a_stolen_cookie_is_good_nowhere_and_no_longer_for_its_owner(site: Site) -> None:
    key, before = site.keys["aminah"][0], site.everything("sessions", "people")
    for (method, path), change in itertools.product(ROUTES, ELSEWHERE):
        site.sessions["aminah"] = site.sign_in("aminah", 0)
        site.office.clock.pass_seconds(61)
        site.told()
        stolen = site.ask("aminah", method, filled(path, key), {**OWN, **change})
        assert error(stolen) == (401, "session_elsewhere"), (method, path, change)
        assert site.told() == ["session_elsewhere"]
        owners = site.ask("aminah", method, filled(path, key), OWN)
        assert error(owners) == (401, "no_session"), "its owner signs in again"
    assert site.everything("sessions", "people") == before
    assert site.ask("aminah", "GET", "/me", {"user-agent": "another"}).status_code == 401


def test_another_sites_page_changes_nothing(site: Site) -> None:
    before = site.everything()
    for (method, path), headers in itertools.product(CHANGING, FOREIGN):
        for key in (site.keys["aminah"][0], site.keys["chandra"][0]):
            for kind, body in (("application/x-www-form-urlencoded", b"label=x&days=1"), ("text/plain", b"{}")):
                sent = {**headers, "content-type": kind}
                response = site.ask("aminah", method, filled(path, key), sent, content=body)
                assert error(response) == (403, "cross_site"), (method, path, headers)
    assert site.everything() == before


def test_two_cookies_of_one_name_are_one_session_or_none(site: Site) -> None:
    """Whoever can set a cookie for a parent domain cannot put two people into one request."""
    both = f"{site.sessions['bala']}; {COOKIE}={site.sessions['aminah']}"
    response = site.ask(both, "GET", "/me")
    assert response.status_code in {200, 401}
    if response.status_code == 200:
        assert shown_keys(response) in ({site.keys["aminah"][0]}, {site.keys["bala"][0]})
    plain = site.ask("", "GET", "/me", {"cookie": f"daulat-session={site.sessions['aminah']}"})
    assert error(plain) == (401, "no_session"), "over TLS only the cookie that is bound to this host counts"


def test_a_method_that_is_not_there_is_no_way_around(site: Site) -> None:
    before, key = site.everything(), site.keys["aminah"][0]
    known = served(site.pages.application())
    for method, (_, path) in itertools.product(("PUT", "PATCH", "DELETE", "POST", "HEAD", "GET"), ROUTES):
        if f"{method} {path}" in known or (method == "HEAD" and f"GET {path}" in known):
            continue
        response = site.ask("aminah", method, filled(path, key), {**OWN, "x-http-method-override": "DELETE"})
        assert response.status_code in {404, 405}, (method, path)
    assert site.everything() == before
