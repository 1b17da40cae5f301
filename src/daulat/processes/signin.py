"""Signing in and one's own keys over HTTP, behind the workers: the only process that talks to identity providers.

It holds the providers' secrets and reads their tokens; whom they are about, and what that person may, the control
process decides. Of an identity number only a keyed hash leaves this process. A sign-in under way is kept by the
browser, in a cookie sealed for ten minutes under a key that lives as long as this process.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from cryptography.fernet import Fernet, InvalidToken
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from daulat.adapters import key_file, rpc
from daulat.adapters.identity_key import identity_key
from daulat.adapters.oidc import Attempt, Issuer
from daulat.core.clock import Clock, SystemClock
from daulat.errors import ConfigError, DaulatError, InvalidRequest, NotFound, PermissionDenied, Unauthenticated
from daulat.gateway import errors as wire_errors
from daulat.gateway import peers, self_pages
from daulat.gateway.forward import CLIENT
from daulat.identity import claims, numbers
from daulat.identity.providers import SignIn
from daulat.processes import behind, edge, identifying
from daulat.settings import Home

_ATTEMPT_SECONDS: Final = 600
_MOST_BYTES: Final = 16_384
_MOST_USED: Final = 10_000
_FORM: Final = "application/x-www-form-urlencoded"
_KEY_FIELDS: Final[Mapping[str, type]] = {
    "label": str,
    "models": list,
    "requests_per_minute": int,
    "days": int,
    "networks": list,
}
_KEY_USUAL: Final[Mapping[str, Any]] = {
    "label": "key",
    "models": [],
    "requests_per_minute": 0,
    "days": 30,
    "networks": [],
}


class SignInPages:
    """The handlers.

    `url`: how clients reach the service; `key`: of the hashes by which people are found again; `country`: as the
    charter has it.
    """

    def __init__(
        self,
        url: str,
        where: SignIn,
        issuers: Mapping[str, Issuer],
        control: rpc.Client,
        key: bytes,
        clock: Clock,
        country: str = numbers.MALAYSIA,
    ) -> None:
        self._url, self._issuers, self._control, self._key, self._clock = url.rstrip("/"), issuers, control, key, clock
        self._country = country
        parts = urlsplit(self._url)
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._secure = parts.scheme == "https"
        # A cookie of this prefix is taken over TLS and for this very host alone (RFC 6265bis, section 4.1.3).
        prefix = "__Host-" if self._secure else ""
        self._cookie, self._under_way = f"{prefix}daulat-session", f"{prefix}daulat-signin"
        self._seal = Fernet(Fernet.generate_key())
        self._used: OrderedDict[str, None] = OrderedDict()  # states that have come back
        self._headers = self_pages.headers(provider.issuer for provider in where.provider.values())
        self._by_issuer = {provider.issuer: name for name, provider in where.provider.items()}

    def routes(self) -> list[Route]:
        table: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
            ("GET", "/signin", self.choose),
            ("POST", "/signin/out", self.leave),
            ("GET", "/signin/ended", self.ended),
            ("GET", "/signin/{provider}", self.begin),
            ("GET", "/signin/{provider}/callback", self.callback),
            ("GET", "/me", self.me),
            ("GET", "/me/keys", self.keys),
            ("POST", "/me/keys", self.create_key),
            ("DELETE", "/me/keys/{key}", self.revoke_key),
            ("POST", "/me/keys/{key}/revoke", self.revoke_key),
        ]
        return [Route(path, handler, methods=[method]) for method, path, handler in table]

    async def choose(self, request: Request) -> Response:
        invitation = request.query_params.get("invite", "")
        labels = [(name, issuer.provider.title) for name, issuer in self._issuers.items()]
        if not _wants_page(request):
            return self._json({"providers": [{"name": name, "title": title} for name, title in labels]})
        query = f"?{urlencode({'invite': invitation})}" if invitation else ""
        return self._page("Sign in", providers=labels, query=query)

    async def begin(self, request: Request) -> Response:
        """Off to the provider, with what must come back from it sealed in a cookie."""
        name = request.path_params["provider"]
        attempt = Attempt(name, invitation=request.query_params.get("invite", "")[:100])
        address = await self._issuer(name).address(attempt, self._callback(name))
        answer = RedirectResponse(address, 303, self._headers)
        self._set(answer, self._under_way, self._seal.encrypt(json.dumps(asdict(attempt)).encode()).decode())
        return answer

    async def callback(self, request: Request) -> Response:
        """Back from the provider: the code becomes a token, the token a person, the person a session."""
        name = request.path_params["provider"]
        issuer = self._issuer(name)
        try:
            attempt = self._attempt(request, name)
            answer = dict(request.query_params)
            found = await issuer.claims(attempt, answer, self._callback(name))
            seen = claims.read(issuer.provider, found, self._key, self._clock.now_ms(), self._country)
        except DaulatError as error:
            await self._control.call("signin.refused", provider=name, code=error.code)
            raise
        begun = await self._control.call(
            "signin.complete",
            provider=name,
            seen=asdict(seen),
            binding=self._binding(request),
            invitation=attempt.invitation,
        )
        response = RedirectResponse("/me", 303, self._headers)
        response.delete_cookie(self._under_way, path="/", secure=self._secure, httponly=True, samesite="lax")
        self._set(response, self._cookie, begun["session"], seconds=(begun["expires"] - self._clock.now_ms()) // 1000)
        return response

    async def leave(self, request: Request) -> Response:
        """The session ends here, and the browser goes to have it ended at the provider."""
        self._same_origin(request)
        ended = await self._call(request, "session.end")
        name = self._by_issuer.get(ended["issuer"], "")
        back = f"{self._url}/signin/ended"
        away = await self._issuers[name].farewell(back) if name else ""
        response = RedirectResponse(away or back, 303, self._headers)
        response.delete_cookie(self._cookie, path="/", secure=self._secure, httponly=True, samesite="lax")
        return response

    async def ended(self, _request: Request) -> Response:
        return self._page("Signed out", said="Your session here is over.")

    async def me(self, request: Request) -> Response:
        found = await self._call(request, "me")
        return self._page("You", me=found) if _wants_page(request) else self._json(found)

    async def keys(self, request: Request) -> Response:
        found = await self._call(request, "me")
        return self._json({"object": "list", "data": found["keys"]})

    async def create_key(self, request: Request) -> Response:
        self._same_origin(request)
        wanted = await _wanted(request)
        made = await self._call(request, "me.key.create", **wanted)
        if _wants_page(request):
            return self._page("You", me=await self._call(request, "me"), secret=made["api_key"])
        return self._json(made, 201)

    async def revoke_key(self, request: Request) -> Response:
        self._same_origin(request)
        revoked = await self._call(request, "me.key.revoke", key=request.path_params["key"])
        if _wants_page(request):
            return RedirectResponse("/me", 303, self._headers)
        return self._json(revoked)

    async def failed(self, request: Request, error: Exception) -> Response:
        if not isinstance(error, DaulatError):
            raise error
        status = wire_errors.status_of(error)
        if _wants_page(request):
            words = json.loads(wire_errors.envelope(error))["error"]["message"]
            return HTMLResponse(self_pages.page("Refused", refused=words), status, self._headers)
        return Response(wire_errors.envelope(error), status, self._headers, "application/json")

    async def missing(self, request: Request, _error: Exception) -> Response:
        return await self.failed(request, NotFound("There is no such page.", code="unknown_url"))

    async def wrong_method(self, request: Request, _error: Exception) -> Response:
        words = "That address has another method."
        return await self.failed(request, InvalidRequest(words, code="method_not_allowed"))

    def _issuer(self, name: str) -> Issuer:
        if name not in self._issuers:
            raise NotFound(f"Nobody signs in with {name[:40]!r} here.", code="unknown_provider")
        return self._issuers[name]

    def _callback(self, name: str) -> str:
        return f"{self._url}/signin/{name}/callback"

    def _attempt(self, request: Request, name: str) -> Attempt:
        """The sign-in that this browser has begun with that provider. Each is good once."""
        try:
            sealed = request.cookies.get(self._under_way, "").encode()
            attempt = Attempt(**json.loads(self._seal.decrypt(sealed, ttl=_ATTEMPT_SECONDS)))
        except (InvalidToken, ValueError, TypeError):
            raise Unauthenticated(
                "This browser has begun no sign-in here, or long ago: begin again.", code="state_missing"
            ) from None
        if attempt.provider != name or attempt.state in self._used:
            raise Unauthenticated("This answer belongs to another sign-in: begin again.", code="state_mismatch")
        self._used[attempt.state] = None
        if len(self._used) > _MOST_USED:
            self._used.popitem(last=False)
        return attempt

    async def _call(self, request: Request, method: str, **more: Any) -> Any:
        """Ask the control process for whoever has this session, at this client."""
        session = request.cookies.get(self._cookie, "")
        if not session:
            raise Unauthenticated("You are not signed in.", code="no_session")
        return await self._control.call(method, session=session, binding=self._binding(request), **more)

    def _binding(self, request: Request) -> str:
        """What a session is bound to: the browser's name of itself, and the network that it comes from."""
        address = peers.client(request.headers.get(CLIENT.decode(), ""), {}, ())
        network = ""
        if address is not None:
            network = str(ip_network(f"{address}/{24 if address.version == 4 else 48}", strict=False))  # noqa: PLR2004
        said = f"{request.headers.get('user-agent', '')}\0{network}"
        return hashlib.sha256(said.encode()).hexdigest()

    def _same_origin(self, request: Request) -> None:
        """No other site's page makes this browser change anything (Fetch, section 3.2: every POST has an Origin)."""
        origin = request.headers.get("origin")
        same = origin == self._origin if origin else request.headers.get("sec-fetch-site") == "same-origin"
        if not same:
            raise PermissionDenied(f"This must come from {self._origin}: send it as Origin.", code="cross_site")

    def _set(self, response: Response, name: str, value: str, *, seconds: int = _ATTEMPT_SECONDS) -> None:
        # Lax, not Strict: the provider's redirect back is another site's navigation.
        response.set_cookie(name, value, max_age=seconds, path="/", secure=self._secure, httponly=True, samesite="lax")

    def _page(self, title: str, **shown: Any) -> Response:
        return HTMLResponse(self_pages.page(title, **shown), headers=self._headers)

    def _json(self, value: Any, status: int = 200) -> Response:
        return Response(json.dumps(value, ensure_ascii=False), status, self._headers, "application/json")

    def application(self) -> Starlette:
        handlers: dict[Any, Any] = {DaulatError: self.failed, 404: self.missing, 405: self.wrong_method}
        return Starlette(routes=self.routes(), exception_handlers=handlers)


def _wants_page(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")


async def _wanted(request: Request) -> dict[str, Any]:
    """A key as its holder wants it, of JSON or of the page's form.

    Raises:
        InvalidRequest: it is neither, or a field is unknown or of another type.
    """
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _MOST_BYTES:
            raise InvalidRequest(f"The body is larger than {_MOST_BYTES} bytes.", code="body_too_large")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        given = _form(body) if kind == _FORM else json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise InvalidRequest("The body is neither JSON nor a form.") from None
    if not isinstance(given, dict) or not set(given) <= set(_KEY_FIELDS):
        raise InvalidRequest(f"A key has {', '.join(_KEY_FIELDS)}, as a JSON object.")
    for name, value in given.items():
        wrong = type(value) is not _KEY_FIELDS[name]
        if wrong or (isinstance(value, list) and not all(isinstance(item, str) for item in value)):
            raise InvalidRequest(f"{name} is of another type than it should be.", param=name)
    return {**_KEY_USUAL, **given}


def _form(body: bytes) -> dict[str, Any]:
    given: dict[str, Any] = dict(parse_qsl(body.decode(), strict_parsing=True, max_num_fields=16))
    for name, kind in _KEY_FIELDS.items():
        if name in given and kind is int:
            given[name] = int(given[name])
        elif name in given and kind is list:
            given[name] = [item.strip() for item in given[name].split(",") if item.strip()]
    return given


async def run(home: Home, url: str, country: str) -> None:
    stop = edge.stop_event(asyncio.get_running_loop())
    where = identifying.configured(home)
    if where is None:
        raise ConfigError("is not there", location=str(home.signin))
    clock = SystemClock()
    issuers = {}
    for name, provider in where.provider.items():
        secret = key_file.read(home.path / provider.secret_file, "client secret") if provider.secret_file else ""
        issuers[name] = Issuer(provider, secret, clock)
    control = rpc.Client(home.control_socket)
    pages = SignInPages(url, where, issuers, control, identity_key(home.identity_key), clock, country)
    server, serving = await behind.serve(pages.application(), home.signin_socket)
    edge.ready()
    await stop.wait()
    server.should_exit = True
    await serving
    for issuer in issuers.values():
        await issuer.close()
    await control.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="daulat-signin")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--country", required=True)
    parser.add_argument("--parent", type=int)
    arguments = parser.parse_args()
    edge.begin("signin", parent=arguments.parent)
    asyncio.run(run(Home(arguments.home), arguments.url, arguments.country))


if __name__ == "__main__":
    main()
