"""Tokens as a provider would sign them, or would not; and a real provider, oidc-provider on Node, on loopback."""

from __future__ import annotations

import base64
import contextlib
import functools
import hmac
import json
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from joserfc import jws
from joserfc.jwk import ECKey, RSAKey
from tests.support.service import free_port

from daulat.identity import providers
from daulat.identity.providers import Provider

MODULES = Path(sys.prefix) / "oidc" / "node_modules"  # `make test-slow` makes it from tests/oidc/package-lock.json
ISSUER = "https://id.example/realms/test"
CLIENT = "daulat"
NONCE = "n" * 43
NOW = 1_795_000_000
KEY = bytes(range(32))
NUMBER = "900101-14-5678"

SETTINGS = """
session_minutes = 30

[provider.test]
title = "Test ID"
issuer = "{issuer}"
client_id = "daulat"
{secret}
provision = "{provision}"
number_verified = true
acr_values = ["level:2"]
assurance = {{ "level:2" = "substantial", "level:3" = "high" }}
countries = {{ Malaysian = "MY", Singaporean = "SG" }}
roles = {{ staff = "user", head = "tenant-admin", inspector = "auditor", root = "operator" }}
tenants = {{ {tenants} }}

[provider.test.claims]
number = ["nric", "preferred_username"]
citizenship = ["nationality"]
until = ["citizenship_expires"]
roles = ["realm_access.roles"]
tenant = ["agency"]
"""


def settings(
    issuer: str = ISSUER, *, provision: str = "invited", secret: str = "", tenants: str = 'health = "first-agency"'
) -> str:
    return SETTINGS.format(issuer=issuer, provision=provision, secret=secret, tenants=tenants)


def provider(**given: Any) -> Provider:
    return providers.parse(settings(**given)).provider["test"]


@functools.cache
def rsa(kid: str = "rsa-1", bits: int = 2048) -> RSAKey:
    pem = generate_private_key(65537, bits).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of keys that are too short, which some are meant to be
        return RSAKey.import_key(pem, {"kid": kid, "use": "sig", "alg": "RS256"})


@functools.cache
def ec(kid: str = "ec-1") -> ECKey:
    return ECKey.generate_key("P-256", {"kid": kid, "use": "sig", "alg": "ES256"})


def jwks(*keys: RSAKey | ECKey) -> dict[str, Any]:
    return {"keys": [key.as_dict(private=False) for key in keys or (rsa(), ec())]}


def claims(**changes: Any) -> dict[str, Any]:
    """A good token's; None leaves one out."""
    usual = {
        "iss": ISSUER,
        "sub": "someone",
        "aud": CLIENT,
        "iat": NOW - 1,
        "exp": NOW + 300,
        "nonce": NONCE,
        "acr": "level:2",
        "nationality": "Malaysian",
        "nric": NUMBER,
        "realm_access": {"roles": ["staff", "something-else"]},
    }
    return {name: value for name, value in {**usual, **changes}.items() if value is not None}


def signed(said: Mapping[str, Any], key: Any = None, **header: Any) -> str:
    key = key or rsa()
    algorithm = header.pop("alg", "ES256" if isinstance(key, ECKey) else "RS256")
    head = {"alg": algorithm, "kid": key.kid, **header}
    head = {name: value for name, value in head.items() if value is not None}
    return jws.serialize_compact(head, json.dumps(dict(said)), key, algorithms=[algorithm])


def raw(header: Mapping[str, Any], said: Mapping[str, Any], signature: str = "") -> str:
    return ".".join([*(_b64(json.dumps(part).encode()) for part in (header, said)), signature])


def confused(said: Mapping[str, Any], key: RSAKey) -> Iterator[str]:
    """HS256 under what everybody knows of the provider's key: its PEM, its DER, its JWK."""
    public = RSAKey.import_key(key.as_dict(private=False))
    known = [
        public.as_pem(private=False),
        public.as_der(private=False),
        json.dumps(key.as_dict(private=False)).encode(),
    ]
    for secret in known:
        unsigned = raw({"alg": "HS256", "kid": key.kid}, said).rpartition(".")[0]
        yield f"{unsigned}.{_b64(hmac.digest(secret, unsigned.encode(), 'sha256'))}"


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


STAFF = {"realm_access": {"roles": ["staff"]}}
ACCOUNTS: dict[str, Any] = {
    "aminah": {"acr": "level:2", "claims": {"nric": NUMBER, "nationality": "Malaysian", **STAFF}},
    "resident": {"acr": "level:3", "claims": {"nric": "800202-71-0001", **STAFF}},
    "lim": {
        "acr": "level:2",
        "claims": {"nric": "770303-10-0003", "nationality": "Malaysian", "agency": "health", **STAFF},
    },
}


@dataclass
class RealProvider:
    """`with RealProvider(folder, redirect) as it:`; `rotate` starts it again with other keys and the same address."""

    folder: Path
    redirects: list[str]
    accounts: dict[str, Any] = field(default_factory=lambda: dict(ACCOUNTS))
    client_secret: str = "a-secret-of-the-tests-and-of-nothing-else"
    port: int = field(default_factory=free_port)
    key: RSAKey = field(default_factory=rsa)
    process: subprocess.Popen[str] | None = None

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        back = [f"{urlsplit(address).scheme}://{urlsplit(address).netloc}/signin/ended" for address in self.redirects]
        client = {
            "client_id": CLIENT,
            "client_secret": self.client_secret,
            "redirect_uris": self.redirects,
            "post_logout_redirect_uris": back,
            "response_types": ["code"],
            "grant_types": ["authorization_code"],
        }
        keys = {"keys": [self.key.as_dict(private=True)]}
        said = {"port": self.port, "jwks": keys, "clients": [client], "accounts": self.accounts}
        file = self.folder / "provider.json"
        file.write_text(json.dumps(said))
        script = Path(__file__).parents[1] / "oidc" / "provider.mjs"
        errors = (self.folder / "provider.log").open("a")
        with errors:
            self.process = subprocess.Popen(
                ["node", str(script), str(MODULES), str(file)], stdout=subprocess.PIPE, stderr=errors, text=True
            )
        assert self.process.stdout is not None
        while (line := self.process.stdout.readline()).strip() != "ready":
            assert line, (self.folder / "provider.log").read_text()

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.communicate(timeout=30)
            self.process = None

    def rotate(self, key: RSAKey) -> None:
        self.stop()
        self.key = key
        self.start()

    def __enter__(self) -> Self:
        if not MODULES.exists():
            pytest.skip("the provider is installed by `make test-slow`")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.start()
        return self

    def __exit__(self, *_rest: object) -> None:
        self.stop()

    def sign_in(self, address: str, who: str) -> dict[str, str]:
        """Play the browser at the provider; the query with which it is sent back."""
        with httpx.Client(follow_redirects=False, timeout=30) as browser:
            response = browser.get(f"{address}&login_hint={who}")
            for _ in range(8):
                to = response.headers["location"]
                if to.startswith(tuple(self.redirects)):
                    return {name: values[0] for name, values in parse_qs(urlsplit(to).query).items()}
                response = browser.get(to if "://" in to else f"{self.issuer}{to}")
        raise AssertionError(f"the provider went on and on: {response.headers}")


@contextlib.contextmanager
def real(folder: Path, *redirects: str) -> Iterator[RealProvider]:
    with RealProvider(folder, list(redirects)) as made:
        yield made
