"""An OpenID provider over HTTP: discovery, keys, and a code's exchange for a token.

Its documents are kept for a while. A token with an unknown key makes the keys be fetched anew once, and not again for
half a minute: a provider may rotate its keys at any time, and nobody can make us ask it in a loop. Answers are bounded,
redirects are not followed, and every address must be as safe as the issuer's own.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import httpx
from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri, prepare_token_request
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.discovery import get_well_known_url

from daulat.core.clock import Clock
from daulat.errors import Unauthenticated, Unavailable
from daulat.identity import tokens
from daulat.identity.providers import LOOPBACK, Provider

_DISCOVERY_SECONDS: Final = 3600.0
_KEYS_SECONDS: Final = 3600.0
_REFETCH_SECONDS: Final = 30.0
_TIMEOUT: Final = 10.0
_MOST_BYTES: Final = 262_144
_FORM: Final = {"accept": "application/json", "content-type": "application/x-www-form-urlencoded"}


@dataclass(frozen=True, slots=True)
class Attempt:
    """One sign-in under way: what must come back, and what only we know."""

    provider: str
    state: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    nonce: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    verifier: str = field(default_factory=lambda: secrets.token_urlsafe(48), repr=False)  # RFC 7636, section 4.1
    invitation: str = field(default="", repr=False)


class Issuer:
    """One provider, as this process talks to it."""

    def __init__(
        self, provider: Provider, secret: str, clock: Clock, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        """`transport`: instead of the network, for tests."""
        self.provider, self._secret, self._clock = provider, secret, clock
        self._client = httpx.AsyncClient(timeout=_TIMEOUT, follow_redirects=False, transport=transport, trust_env=False)
        self._lock = asyncio.Lock()
        self._metadata: Mapping[str, Any] = {}
        self._keys: Mapping[str, Any] = {}
        self._read_metadata = self._read_keys = self._asked_again = float("-inf")  # boot-time seconds

    async def address(self, attempt: Attempt, redirect_uri: str) -> str:
        """Where the browser is sent: code flow with PKCE S256, state and nonce.

        Raises:
            Unavailable: the provider cannot be asked, or is not as it must be.
        """
        metadata = await self._discovered()
        levels = " ".join(self.provider.acr_values)
        return str(
            prepare_grant_uri(
                metadata["authorization_endpoint"],
                self.provider.client_id,
                "code",
                redirect_uri=redirect_uri,
                scope=" ".join(self.provider.scopes),
                state=attempt.state,
                nonce=attempt.nonce,
                code_challenge=create_s256_code_challenge(attempt.verifier),
                code_challenge_method="S256",
                **({"acr_values": levels} if levels else {}),
            )
        )

    async def claims(self, attempt: Attempt, answer: Mapping[str, str], redirect_uri: str) -> dict[str, Any]:
        """The verified claims behind what the provider sent back; `answer`: the callback's query.

        Raises:
            Unauthenticated: it is no answer to this attempt, or the token does not hold; Unavailable.
        """
        metadata = await self._discovered()
        if not secrets.compare_digest(answer.get("state", "").encode(), attempt.state.encode()):
            raise Unauthenticated("This answer belongs to another sign-in: begin again.", code="state_mismatch")
        # RFC 9207: an answer says whose it is, so that one provider's code is not taken to another.
        named = answer.get("iss", "")
        if (named or metadata.get("authorization_response_iss_parameter_supported") is True) and (
            named != self.provider.issuer
        ):
            raise Unauthenticated("This answer is another provider's.", code="issuer_mismatch")
        if "error" in answer or not answer.get("code"):
            said = answer.get("error", "")[:60]
            raise Unauthenticated(f"The provider did not sign you in ({said or 'no code'}).", code="provider_refused")
        found = await self._exchanged(metadata, answer["code"], attempt.verifier, redirect_uri)
        token, access = found.get("id_token"), found.get("access_token")
        if not isinstance(token, str) or not isinstance(access, str):
            raise Unauthenticated("The provider's answer has no ID token.", code="token_missing")
        return await self.verified(token, attempt.nonce, access)

    async def verified(self, token: str, nonce: str, access_token: str = "") -> dict[str, Any]:
        """A token's claims (`identity.tokens`), the keys fetched anew where its key is not known.

        Raises:
            TokenRefused, Unavailable.
        """
        for anew in (False, True):
            keys = await self._key_set(anew=anew)
            try:
                return tokens.verify(
                    token,
                    keys,
                    issuer=self.provider.issuer,
                    client_id=self.provider.client_id,
                    nonce=nonce,
                    access_token=access_token,
                    now=self._clock.now_ms() / 1000,
                    skew=self.provider.skew_seconds,
                )
            except tokens.KeyUnknown as error:
                unknown = error
        raise unknown

    async def farewell(self, back: str) -> str:
        """Where a browser ends its session at the provider too (RP-Initiated Logout 1.0); empty where there is none.

        No `id_token_hint` goes along: the token would have to be kept, and it may hold an identity number.
        """
        try:
            address = (await self._discovered()).get("end_session_endpoint")
        except Unavailable:
            return ""
        if not isinstance(address, str) or not self._safe(address):
            return ""
        query = urlencode({"client_id": self.provider.client_id, "post_logout_redirect_uri": back})
        return f"{address}{'&' if '?' in address else '?'}{query}"

    async def close(self) -> None:
        await self._client.aclose()

    async def _discovered(self) -> Mapping[str, Any]:
        async with self._lock:
            if self._clock.boottime() - self._read_metadata > _DISCOVERY_SECONDS:
                url = get_well_known_url(self.provider.issuer, external=True)
                found = await self._json("GET", url)
                wrong = self._wrong(found)
                if wrong:
                    raise Unavailable(f"{self.provider.title} cannot be used for signing in: {wrong}.")
                self._metadata, self._read_metadata = found, self._clock.boottime()
            return self._metadata

    def _wrong(self, metadata: Mapping[str, Any]) -> str:
        """Why a provider's own description is not taken, in words."""
        if metadata.get("issuer") != self.provider.issuer:
            return "it says that it is another issuer than the one configured"
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
            address = metadata.get(name)
            if not isinstance(address, str) or not self._safe(address):
                return f"its {name} is no https address"
        methods = metadata.get("code_challenge_methods_supported", ["S256"])
        if not isinstance(methods, list) or "S256" not in methods:
            return "it does not do PKCE with S256"
        return ""

    def _safe(self, address: str) -> bool:
        parts = urlsplit(address)
        plain = self.provider.issuer.startswith("http:")  # `identity.providers` allows that on loopback alone
        return parts.scheme == "https" or (plain and parts.scheme == "http" and parts.hostname in LOOPBACK)

    async def _key_set(self, *, anew: bool) -> Mapping[str, Any]:
        metadata = await self._discovered()
        async with self._lock:
            now = self._clock.boottime()
            if anew and now - self._asked_again > _REFETCH_SECONDS:
                self._asked_again, self._read_keys = now, float("-inf")
            if now - self._read_keys > _KEYS_SECONDS:
                self._keys, self._read_keys = await self._json("GET", metadata["jwks_uri"]), now
            return self._keys

    async def _exchanged(
        self, metadata: Mapping[str, Any], code: str, verifier: str, redirect_uri: str
    ) -> Mapping[str, Any]:
        """RFC 6749, section 4.1.3, with RFC 7636, section 4.5."""
        body = prepare_token_request("authorization_code", code=code, redirect_uri=redirect_uri, code_verifier=verifier)
        offered = metadata.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        method = "client_secret_basic" if "client_secret_basic" in offered else "client_secret_post"
        auth = ClientAuth(self.provider.client_id, self._secret, method if self._secret else "none")
        url, headers, body = auth.prepare("POST", metadata["token_endpoint"], dict(_FORM), body)
        return await self._json("POST", str(url), headers=headers, content=body)

    async def _json(self, method: str, url: str, **request: Any) -> Mapping[str, Any]:
        """Raises Unavailable: no answer, or none that can be read; Unauthenticated: the provider refuses a code."""
        try:
            async with self._client.stream(method, url, **request) as response:
                data = b""
                async for part in response.aiter_bytes():
                    data += part
                    if len(data) > _MOST_BYTES:
                        raise Unavailable(f"{self.provider.title} answers more than {_MOST_BYTES} bytes.")
        except httpx.HTTPError as error:
            raise Unavailable(f"{self.provider.title} cannot be reached ({type(error).__name__}).") from None
        if response.status_code in {400, 401} and method == "POST":
            raise Unauthenticated(
                f"{self.provider.title} does not take its code back: it was used before, or is too old, or the client "
                "secret is wrong.",
                code="code_refused",
            )
        try:
            found = json.loads(data) if response.is_success else None
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise Unavailable(f"{self.provider.title} answers with status {response.status_code} and no document.")
        return found
