"""From a credential to who is asking. Built once a snapshot; asking it reads memory only."""

from __future__ import annotations

import base64
import hashlib
import hmac

from daulat.core.commitments import EPOCH_KEY_BYTES, Salter
from daulat.core.principal import Principal
from daulat.core.snapshot import AuditorRow, KeyRow, PersonRow, Snapshot, TenantRow
from daulat.errors import Unauthenticated


class Directory:
    """Everyone the snapshot knows. A key whose person or tenant is missing is left out, and so refused."""

    def __init__(self, snapshot: Snapshot) -> None:
        tenants = {row.id: row for row in snapshot.tenants}
        people = {row.id: row for row in snapshot.people}
        self._keys: dict[bytes, tuple[bytes, Principal]] = {}
        self._by_id: dict[str, Principal] = {}
        for row in snapshot.keys:
            person = people.get(row.person)
            tenant = tenants.get(person.tenant) if person is not None else None
            if person is not None and tenant is not None:
                principal = _principal(row, person, tenant)
                digest = bytes.fromhex(row.digest)
                self._keys[digest] = (digest, principal)
                self._by_id[row.id] = principal
        self._auditors = {bytes.fromhex(row.digest): row for row in snapshot.auditors}

    def authenticate(self, secret: bytes) -> Principal:
        """Who holds this API key. The caller checks `expires` against its clock.

        Raises:
            Unauthenticated: nobody does.
        """
        # The look-up is by SHA-256 of the secret: its timing says nothing about a secret that is not known already.
        # The comparison is in constant time all the same.
        digest = hashlib.sha256(secret).digest()
        found = self._keys.get(digest)
        if found is None or not hmac.compare_digest(found[0], digest):
            raise Unauthenticated("Incorrect API key provided: it is unknown, or has been revoked.")
        return found[1]

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
        """The principal of a key that is still valid in this snapshot, by the key's id."""
        return self._by_id.get(key_id)


def _principal(key: KeyRow, person: PersonRow, tenant: TenantRow) -> Principal:
    epoch_key = base64.b64decode(tenant.epoch_key, validate=True)
    if len(epoch_key) != EPOCH_KEY_BYTES:
        raise ValueError(f"the epoch key of tenant {tenant.id} has {len(epoch_key)} bytes")
    version = hashlib.sha256(repr((key, person, tenant.id, tenant.pseudonym)).encode()).digest()
    return Principal(
        key_id=key.id,
        person_id=person.id,
        tenant_id=tenant.id,
        key=key.pseudonym,
        person=person.pseudonym,
        tenant=tenant.pseudonym,
        attributes=person.attributes,
        epoch_key=epoch_key,
        salter=Salter(epoch_key),
        expires=min(key.expires, person.expires),
        models=frozenset(key.models),
        requests_per_minute=key.requests_per_minute,
        version=int.from_bytes(version[:8], "big"),
    )
