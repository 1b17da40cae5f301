"""Keys and who holds them."""

from __future__ import annotations

import base64
import hashlib

import pytest

from daulat.core.commitments import Kind, Salter, personal, pseudonym, salt
from daulat.core.principal import Attributes
from daulat.core.snapshot import AuditorRow, KeyRow, PersonRow, Roll, TenantRow
from daulat.errors import Unauthenticated
from daulat.identity import secrets
from daulat.identity.directory import Directory, expired

KINDS: tuple[Kind, ...] = ("request", "response")
EPOCH = bytes(range(32))
SECRET = "sk-" + "a" * 43
TOKEN = "at-" + "b" * 43
PERSON = PersonRow("person_1", "tenant_1", "who", Attributes("MY", "high", ("user",)), 5000, 1)
TENANT = TenantRow("tenant_1", base64.b64encode(EPOCH).decode(), "house")
KEY = KeyRow("key_1", hashlib.sha256(SECRET.encode()).hexdigest(), "person_1", "which", 4000)
AUDITOR = AuditorRow("auditor_1", hashlib.sha256(TOKEN.encode()).hexdigest(), 9000)


def directory(**changes: object) -> Directory:
    parts = {"tenants": (TENANT,), "people": (PERSON,), "keys": (KEY,), "auditors": (AUDITOR,)}
    return Directory(Roll(1, **{**parts, **changes}))  # type: ignore[arg-type]


def test_a_key_leads_to_its_person_and_expires_with_whichever_ends_first() -> None:
    found = directory().authenticate(SECRET.encode())
    assert (found.key, found.person, found.tenant, found.expires) == ("which", "who", "house", 4000)
    assert found.salter.salts("req") == tuple(salt(personal(EPOCH, "person_1"), "req", kind) for kind in KINDS)
    assert directory().principal("key_1") == found


@pytest.mark.parametrize("secret", ["", "sk-", SECRET[:-1], SECRET + "a", SECRET.upper(), TOKEN, "sk-\0", KEY.digest])
def test_anything_else_is_nobody(secret: str) -> None:
    with pytest.raises(Unauthenticated):
        directory().authenticate(secret.encode())


def test_a_key_whose_person_or_tenant_is_gone_is_refused() -> None:
    for changes in ({"people": ()}, {"tenants": ()}, {"keys": ()}):
        with pytest.raises(Unauthenticated):
            directory(**changes).authenticate(SECRET.encode())


def test_auditors_read_and_do_not_use() -> None:
    assert directory().auditor(TOKEN.encode()) == AUDITOR
    for wrong in (SECRET, "at-", ""):
        with pytest.raises(Unauthenticated):
            directory().auditor(wrong.encode())


def test_a_version_changes_with_everything_a_decision_may_see() -> None:
    base = directory().authenticate(SECRET.encode()).version
    others = [
        {"people": (PersonRow("person_1", "tenant_1", "who", Attributes("SG", "high", ("user",)), 5000, 1),)},
        {"people": (PersonRow("person_1", "tenant_1", "who", Attributes("MY", "low", ("user",)), 5000, 1),)},
        {"people": (PersonRow("person_1", "tenant_1", "who", Attributes("MY", "high", ()), 5000, 1),)},
        {"keys": (KeyRow("key_1", KEY.digest, "person_1", "which", 4000, ("m",)),)},
    ]
    versions = {directory(**changes).authenticate(SECRET.encode()).version for changes in others}
    assert len(versions) == len(others)
    assert base not in versions


def test_a_citizenship_that_ends_first_ends_its_holders_keys_and_a_key_keeps_its_networks() -> None:
    for until, expires, lapses in ((0, 4000, False), (3000, 3000, True), (4000, 4000, False), (6000, 4000, False)):
        attributes = Attributes("MY", "high", ("user",), "https://id.example", until)
        people = (PersonRow("person_1", "tenant_1", "who", attributes, 5000, 1),)
        keys = (KeyRow("key_1", KEY.digest, "person_1", "which", 4000, networks=("192.0.2.0/24", "2001:db8::/32")),)
        found = directory(people=people, keys=keys).authenticate(SECRET.encode())
        assert (found.expires, found.lapses) == (expires, lapses)
        assert expired(found).code == ("expired_citizenship" if lapses else "expired_api_key")
        assert [str(network) for network in found.networks] == ["192.0.2.0/24", "2001:db8::/32"]


def test_secrets_are_long_random_and_stored_as_hashes() -> None:
    made = {secrets.new_key() for _ in range(50)} | {secrets.new_token() for _ in range(50)}
    assert len(made) == 100
    for secret in made:
        assert secret[:3] in {"sk-", "at-"}
        assert len(base64.urlsafe_b64decode(secret[3:] + "=")) == 32
        assert secrets.digest(secret) == hashlib.sha256(secret.encode()).hexdigest()


def test_pseudonyms_of_two_tenants_cannot_be_linked() -> None:
    assert pseudonym(EPOCH, "principal", "person_1") != pseudonym(bytes(32), "principal", "person_1")
    assert pseudonym(EPOCH, "principal", "person_1") != pseudonym(EPOCH, "key", "person_1")
    assert len(set(Salter(EPOCH).salts("r"))) == len(KINDS)
