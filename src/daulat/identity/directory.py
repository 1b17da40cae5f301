"""From a credential to who is asking. Built once a roll; asking it reads memory only."""

from __future__ import annotations

import base64
import hashlib
import hmac
from ipaddress import ip_network
from typing import Final

from daulat.core.commitments import EPOCH_KEY_BYTES, Salter, personal
from daulat.core.principal import Principal
from daulat.core.quota import Limit, Prices
from daulat.core.snapshot import AuditorRow, KeyRow, PersonRow, Roll, TenantRow
from daulat.errors import Unauthenticated

_EVERY: Final[frozenset[str]] = frozenset()  # one for all keys: each of their own would be memory to be found


class Directory:
    """Everyone on the roll. A key whose person or tenant is missing is refused.

    A principal is built when its key is first used: with ten thousand tenants, building all of them would hold up
    every answer of a worker for a quarter of a second.
    """

    def __init__(self, roll: Roll) -> None:
        self._tenants = {row.id: row for row in roll.tenants}
        self._people = {row.id: row for row in roll.people}
        self._keys = {row.digest: row for row in roll.keys}
        self._by_id = {row.id: row for row in roll.keys}
        self._used: dict[bytes, Principal] = {}
        self.mark = object()  # for whoever remembers what it said, and must not keep it in memory
        self._auditors = {bytes.fromhex(row.digest): row for row in roll.auditors}
        self._limits = {(row.scope, row.subject): row for row in roll.quotas}
        self.prices = Prices(roll.currency, roll.prices)

    def authenticate(self, secret: bytes) -> Principal:
        """Who holds this API key. The caller checks `expires` against its clock.

        Raises:
            Unauthenticated: nobody does.
        """
        # The look-up is by SHA-256 of the secret: its timing says nothing about a secret that is not known already.
        # The comparison is in constant time all the same.
        digest = hashlib.sha256(secret).digest()
        found = self._used.get(digest) or self._first_use(digest)
        if found is None or not hmac.compare_digest(found.digest, digest):
            raise Unauthenticated("Incorrect API key provided: it is unknown, or has been revoked.")
        return found

    def _first_use(self, digest: bytes) -> Principal | None:
        key = self._keys.get(digest.hex())
        if key is None:
            return None
        person = self._people.get(key.person)
        tenant = self._tenants.get(person.tenant) if person is not None else None
        if person is None or tenant is None:
            return None
        found = _principal(key, person, tenant)
        self._used[found.digest] = found
        return found

    def limit(self, scope: str, subject: str) -> Limit | None:
        """What limits a key or a tenant (by pseudonym) or a model, or weighs it."""
        return self._limits.get((scope, subject))

    def auditor(self, secret: bytes) -> AuditorRow:
        """Which auditor holds this token; the caller checks `expires`.

        Raises:
            Unauthenticated: none does.
        """
        digest = hashlib.sha256(secret).digest()
        found = self._auditors.get(digest)
        if found is None or not hmac.compare_digest(bytes.fromhex(found.digest), digest):
            raise Unauthenticated("This needs an auditor's token: it is unknown, or has been revoked.")
        return found

    def principal(self, key_id: str) -> Principal | None:
        """The principal of a key that is still on the roll, by the key's id."""
        key = self._by_id.get(key_id)
        if key is None:
            return None
        digest = bytes.fromhex(key.digest)
        return self._used.get(digest) or self._first_use(digest)


def expired(principal: Principal) -> Unauthenticated:
    """What whoever holds a key past its time is told."""
    if principal.lapses:
        return Unauthenticated(
            "The citizenship that this API key rests on is no longer known: it was good until a date that has passed. "
            "Sign in again, or have it vouched for again, and make a new key.",
            code="expired_citizenship",
        )
    return Unauthenticated("This API key, or its holder's eligibility, has expired.", code="expired_api_key")


def _principal(key: KeyRow, person: PersonRow, tenant: TenantRow) -> Principal:
    epoch_key = base64.b64decode(tenant.epoch_key, validate=True)
    if len(epoch_key) != EPOCH_KEY_BYTES:
        raise ValueError(f"the epoch key of tenant {tenant.id} has {len(epoch_key)} bytes")
    ends = min(key.expires, person.expires)
    until = person.attributes.until or ends
    own = personal(epoch_key, person.id)
    version = hashlib.sha256(repr((key, person, tenant.id, tenant.pseudonym)).encode()).digest()
    return Principal(
        digest=bytes.fromhex(key.digest),
        key_id=key.id,
        person_id=person.id,
        tenant_id=tenant.id,
        key=key.pseudonym,
        person=person.pseudonym,
        tenant=tenant.pseudonym,
        attributes=person.attributes,
        epoch_key=own,
        salter=Salter(own),
        expires=min(ends, until),
        models=frozenset(key.models) if key.models else _EVERY,
        version=int.from_bytes(version[:8], "big"),
        networks=tuple(map(ip_network, key.networks)),
        lapses=until < ends,
        opens_vault=key.opens_vault,
    )
