"""Use cases of people who prove who they are: signing in, sessions, and the keys that they make for themselves.

What is known of somebody comes from a verified token (`identity.claims.Seen`) or from an operator's vouching, never
from a client. People are found again by keyed hashes; one hash is one person. Whoever is found nowhere needs an
invitation, or a provider that the operator lets place people in a tenant. Everything leaves an `identity/v1` entry;
refusals are written at most once a minute for each reason and person, with their number, so that nobody can fill the
log.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from daulat.core.charter import ASSURANCE, Charter
from daulat.core.clock import Clock
from daulat.core.commitments import pseudonym
from daulat.core.identity import ENDED, EXPIRED, REFUSED, SIGNED_IN, SIGNED_OUT
from daulat.core.ids import new_id
from daulat.core.principal import Attributes
from daulat.errors import Conflict, DaulatError, InvalidRequest, NotFound, PermissionDenied, Unauthenticated
from daulat.identity import secrets
from daulat.identity.claims import DAY_MS, Seen, merged
from daulat.identity.providers import Provider
from daulat.pipeline import placing
from daulat.pipeline.administer import disarm
from daulat.pipeline.operate import OPERATORS, Desk, Log

_MINUTE_MS: Final = 60_000
_SAME_MS: Final = 3_600_000  # an end that moves by less is no change that anybody need hear of
_MOST_INVITED_DAYS: Final = 30
_CARD: Final = "An identity card does not say it: permanent residents have one too."
_SHOWN: Final = ("id", "label", "models", "requests_per_minute", "networks", "created", "expires", "revoked")


class Rows(Protocol):
    """Port: the control database."""

    def add(self, table: str, row: dict[str, Any]) -> None: ...

    def rows(self, table: str) -> list[dict[str, Any]]: ...

    def find(self, table: str, wanted: str) -> dict[str, Any]: ...

    def change(self, table: str, id_: str, **values: Any) -> None: ...

    def remove(self, table: str, id_: str) -> None: ...

    def revoke(self, table: str, id_: str, now_ms: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Holder:
    """Whoever has a session: their rows, their pseudonyms, and the session's."""

    person: Mapping[str, Any]
    house: Mapping[str, Any]
    session: Mapping[str, Any]

    def pseudonym(self) -> str:
        return _pseudonym(self.house, "principal", self.person["id"])


class Identities:
    """People of one installation, under one charter."""

    def __init__(self, rows: Rows, log: Log, clock: Clock, charter: tuple[int, Charter], desk: Desk) -> None:
        self._rows, self._log, self._clock, self._desk = rows, log, clock, desk
        self._index, self._charter = charter
        self._refusals: dict[tuple[str, ...], tuple[int, int]] = {}  # -> when an entry was written, how many since

    # Signing in.

    def changes(self, provider: Provider, seen: Seen, invitation: str) -> bool:
        """Whether this sign-in would make anything else of anybody than what workers know."""
        try:
            person = self._known(seen.hashes)
            if person is None or invitation or not person["proven"]:
                return True
            stands = self._stands(provider, seen, person)
            if stands is None:
                return bool(person["expires"] > self._clock.now_ms())
            known = self._attributes(provider, seen, stands)
            return stands["expires"] != person["expires"] or not self._same(known, attributes(person))
        except PermissionDenied:  # `sign_in` will say so
            return False

    async def sign_in(
        self, provider: Provider, seen: Seen, *, binding: str, invitation: str, minutes: int
    ) -> dict[str, Any]:
        """Begin a session for the person behind a verified token; its secret is in this result and never again.

        Args:
            binding: of the client, a hash; the session is good there and nowhere else.
            invitation: a secret from `invite`, or empty.

        Raises:
            PermissionDenied: nobody knows them and nobody invited them, or their time is over, or their roles exclude
                each other.
        """
        try:
            await self._leave(provider, seen)
            person = self._person(provider, seen, invitation)
            known = self._attributes(provider, seen, person)
        except DaulatError as error:
            await self.refuse(provider.issuer, error.code)
            raise
        now, secret = self._clock.now_ms(), secrets.new_session()
        house = self._rows.find("tenants", person["tenant"])
        await self._note(house, person["id"], SIGNED_IN, provider.issuer, known.as_dict())
        self._keep(person, known)
        if not person["proven"]:
            self._rows.change("people", person["id"], proven=now)
        self._accept(invitation, person["id"])
        self._recognize(seen.hashes, person["id"])
        self._forget(now)
        session = {
            "id": new_id("session"),
            "name": secrets.digest(secret),
            "person": person["id"],
            "issuer": provider.issuer,
            "binding": binding,
            "created": now,
            "expires": min(now + minutes * _MINUTE_MS, person["expires"]),
            "revoked": None,
        }
        self._rows.add("sessions", session)
        return {"session": secret, "expires": session["expires"], **self._told(person, house)}

    def _person(self, provider: Provider, seen: Seen, invitation: str) -> dict[str, Any]:
        """The row of whoever it is, as it is to be from now on; `version` 0: not in the table yet."""
        known, invited = self._known(seen.hashes), self._invited(invitation)
        person: dict[str, Any] | None
        if known is None:
            person = invited or self._taken_in(provider, seen)
        elif invited is None or known["id"] == invited["id"]:
            person = self._stands(provider, seen, known)
        elif known["expires"] <= self._clock.now_ms() and placing.decides(provider, known):
            person = invited  # by somebody who wants them elsewhere than where their provider had placed them
        else:
            raise PermissionDenied(
                "You are known here already: this invitation is for somebody else.", code="known_already"
            )
        if person is None:
            raise placing.gone(provider, seen)
        if person["expires"] <= self._clock.now_ms():
            raise PermissionDenied(
                "Your time here has ended: an operator can give you more (`daulat person correct PERSON --days N`).",
                code="person_expired",
            )
        return person

    def _stands(self, provider: Provider, seen: Seen, person: Mapping[str, Any]) -> dict[str, Any] | None:
        """Somebody's row as this sign-in leaves it; None: the provider has placed them there, and does so no more."""
        if not placing.decides(provider, person):
            return dict(person)
        house = self._one("tenants", seen.tenant) if seen.tenant else None
        if house is None or house["id"] != person["tenant"]:
            return None
        return placing.kept(provider, person, self._clock.now_ms())

    async def _leave(self, provider: Provider, seen: Seen) -> None:
        """Whoever the provider places there no more leaves: their time is over, and with it all that they have."""
        person, now = self._known(seen.hashes), self._clock.now_ms()
        if person is None or person["expires"] <= now or self._stands(provider, seen, person) is not None:
            return
        disarm(self._rows, person["id"], now)
        self._rows.change("people", person["id"], expires=now, placed_until=now, version=person["version"] + 1)
        house = self._rows.find("tenants", person["tenant"])
        await self._note(house, person["id"], ENDED, provider.issuer, {"code": placing.gone(provider, seen).code})

    def _known(self, hashes: Sequence[str]) -> dict[str, Any] | None:
        found = {row["person"] for row in map(self._by_hash, hashes) if row is not None}
        if len(found) > 1:
            raise PermissionDenied(
                "The provider's name for you and your identity number belong to two people here: an operator has to "
                "sort that out.",
                code="identity_conflict",
            )
        return self._rows.find("people", found.pop()) if found else None

    def _by_hash(self, hash_: str) -> dict[str, Any] | None:
        return self._one("identities", hash_)

    def _one(self, table: str, name: str) -> dict[str, Any] | None:
        try:
            return self._rows.find(table, name)
        except NotFound:
            return None

    def _invited(self, invitation: str) -> dict[str, Any] | None:
        if not invitation:
            return None
        found = self._one("invitations", secrets.digest(invitation))
        if found is None or found["revoked"] is not None or found["expires"] <= self._clock.now_ms():
            raise PermissionDenied("This invitation is unknown, was used, or is too old.", code="invitation_invalid")
        return self._rows.find("people", found["person"])

    def _accept(self, invitation: str, person: str) -> None:
        """An invitation is good once, and with it every other one of that person."""
        for row in self._rows.rows("invitations") if invitation else ():
            if row["person"] == person and row["revoked"] is None:
                self._rows.revoke("invitations", row["id"], self._clock.now_ms())

    def _recognize(self, hashes: Sequence[str], person: str) -> None:
        """From now on these are theirs, and with them whatever else had found the same human as somebody else."""
        others = {row["person"] for row in map(self._by_hash, hashes) if row is not None} - {person}
        for row in self._rows.rows("identities") if others else ():
            if row["person"] in others:
                self._rows.change("identities", row["id"], person=person)
        for hash_ in hashes:
            if self._by_hash(hash_) is None:
                self._rows.add("identities", {"id": new_id("identity"), "name": hash_, "person": person})

    def _taken_in(self, provider: Provider, seen: Seen) -> dict[str, Any]:
        if provider.provision != "mapped" or not seen.tenant:
            raise PermissionDenied(
                f"Nobody has invited you: {provider.title} says who you are, and not that you may use this service. "
                "Ask an operator for an invitation.",
                code="not_invited",
            )
        house = self._rows.find("tenants", seen.tenant)
        if house["name"] == OPERATORS:
            raise PermissionDenied("Operators come by consent of the others, not by a token.", code="roles_refused")
        return placing.taken_in(provider, house["id"], self._clock.now_ms())

    def _attributes(self, provider: Provider, seen: Seen, person: Mapping[str, Any]) -> Attributes:
        """Raises PermissionDenied: the token gives roles that this person cannot have."""
        given, operates = set(seen.roles or ()), "operator" in person["roles"]
        if operates and "auditor" in given:
            raise PermissionDenied(
                "You operate this service, and whoever operates does not audit.", code="roles_exclude_each_other"
            )
        if "operator" in given and not operates:
            raise PermissionDenied("Operators come by consent of the others, not by a token.", code="roles_refused")
        known = attributes(person)
        return known if operates else merged(provider, seen, known, self._clock.now_ms())

    def _keep(self, person: Mapping[str, Any], now_known: Attributes) -> None:
        """Have the table say so; where what their keys rested on is gone, or was for a while, these go."""
        if person["version"] == 0:  # taken in just now
            self._rows.add("people", {**person, "version": 1})
        row, now = self._rows.find("people", person["id"]), self._clock.now_ms()
        before = attributes(row)
        if person["version"] and person["expires"] == row["expires"] and self._same(now_known, before):
            return
        self._rows.change(
            "people",
            person["id"],
            **{name: person[name] for name in ("expires", "placed_until")},
            citizenship=now_known.citizenship,
            assurance=now_known.assurance,
            roles=list(now_known.roles),
            issuer=now_known.issuer,
            until=now_known.until,
            version=person["version"] + 1,
        )
        if row["expires"] <= now:  # they begin anew
            disarm(self._rows, person["id"], now)
        if not now_known.citizenship or now_known.citizenship != before.citizenship or 0 < before.until <= now:
            for key in self._keys(person["id"]):
                if key["expires"] > now:
                    self._rows.revoke("keys", key["id"], now)

    def _same(self, now_known: Attributes, before: Attributes) -> bool:
        """But for an end that moves a little further. One that has passed is the same as no other."""
        rest = [(known.citizenship, known.assurance, known.roles, known.issuer) for known in (now_known, before)]
        later, over = now_known.until - before.until, 0 < before.until <= self._clock.now_ms()
        return rest[0] == rest[1] and 0 <= later < _SAME_MS and not over

    async def refuse(self, issuer: str, code: str, holder: Holder | None = None) -> None:
        """Have the log tell of a refusal."""
        known = (holder.house["id"], holder.person["id"]) if holder is not None else ("", "")
        now, key = self._clock.now_ms(), (*known, issuer, code)
        last, since = self._refusals.get(key, (-_MINUTE_MS, 0))
        if now - last < _MINUTE_MS:
            self._refusals[key] = (last, since + 1)
            return
        self._refusals[key] = (now, 0)
        house, person = (holder.house, holder.person["id"]) if holder is not None else (None, "")
        await self._note(house, person, REFUSED, issuer, {"code": code, "count": since + 1})

    # Sessions.

    async def holder(self, session: str, binding: str) -> Holder:
        """Whose session this is.

        Raises:
            Unauthenticated: nobody's, or no longer, or not of this client: then it is over for everybody.
        """
        row = self._one("sessions", secrets.digest(session))
        now = self._clock.now_ms()
        if row is None or row["revoked"] is not None or row["expires"] <= now:
            raise Unauthenticated("Your session is over: sign in again.", code="no_session")
        person = self._rows.find("people", row["person"])
        found = Holder(person, self._rows.find("tenants", person["tenant"]), row)
        if row["binding"] != binding:
            self._rows.revoke("sessions", row["id"], now)
            await self.refuse(row["issuer"], "session_elsewhere", found)
            raise Unauthenticated(
                "This session began at another client, so it is over: sign in again.", code="session_elsewhere"
            )
        if person["expires"] <= now:
            self._rows.revoke("sessions", row["id"], now)
            raise Unauthenticated("Your time here has ended: ask an operator.", code="person_expired")
        return found

    async def sign_out(self, session: str, binding: str) -> dict[str, Any]:
        """End a session; what it was for, so that the provider can be told."""
        found = await self.holder(session, binding)
        self._rows.revoke("sessions", found.session["id"], self._clock.now_ms())
        await self._note(found.house, found.person["id"], SIGNED_OUT, found.session["issuer"], {})
        return {"issuer": found.session["issuer"]}

    def sessions(self) -> list[dict[str, Any]]:
        """Those that are good, without what their clients hold."""
        now = self._clock.now_ms()
        names = {row["id"]: row["name"] for row in self._rows.rows("people")}
        return [
            {
                "id": row["id"],
                "person": names[row["person"]],
                **{key: row[key] for key in ("issuer", "created", "expires")},
            }
            for row in self._rows.rows("sessions")
            if row["revoked"] is None and row["expires"] > now
        ]

    async def revoke_session(self, wanted: str) -> dict[str, Any]:
        """By its id, or all of a person's by their name or id. Raises NotFound."""
        names = {row["id"]: row["name"] for row in self._rows.rows("people")}
        found = [
            row
            for row in self._rows.rows("sessions")
            if row["revoked"] is None and wanted in {row["id"], row["person"], names[row["person"]]}
        ]
        if not found:
            raise NotFound(f"no session {wanted!r}; `daulat session list` shows those that are good")
        for row in found:
            self._rows.revoke("sessions", row["id"], self._clock.now_ms())
            person = self._rows.find("people", row["person"])
            house = self._rows.find("tenants", person["tenant"])
            await self._desk.act("session.revoke", _pseudonym(house, "principal", person["id"]), {})
        return {"revoked": len(found)}

    def _forget(self, now: int) -> None:
        for row in self._rows.rows("sessions"):
            if row["expires"] <= now - DAY_MS:
                self._rows.remove("sessions", row["id"])

    # What people do for themselves.

    async def me(self, session: str, binding: str) -> dict[str, Any]:
        """What is known of whoever has this session, and their keys."""
        found = await self.holder(session, binding)
        why = self._ineligible(found)
        return {
            **self._told(found.person, found.house),
            "session": {key: found.session[key] for key in ("issuer", "created", "expires")},
            "eligible": not why,
            "why_not": why,
            "keys": [
                {**{key: row[key] for key in _SHOWN}, "networks": row["networks"] or [], "own": bool(row["own"])}
                for row in self._keys(found.person["id"])
            ],
        }

    async def create_key(self, session: str, binding: str, **wanted: Any) -> dict[str, Any]:
        """A key for oneself, no wider than oneself, which opens one's vault; `wanted` as `Desk.create_key` takes it.

        Raises:
            PermissionDenied: not eligible under the charter; InvalidRequest.
        """
        found = await self.holder(session, binding)
        why = self._ineligible(found)
        if why:
            await self.refuse(found.session["issuer"], "not_eligible", found)
            raise PermissionDenied(why, code="not_eligible")
        desk = self._desk.of(found.pseudonym())
        made = await desk.create_key(person=found.person["id"], **wanted)
        self._rows.change("keys", made["id"], own=1)  # only here: an admin key of theirs may be in others' hands
        return made

    async def revoke_key(self, session: str, binding: str, key: str) -> dict[str, Any]:
        """Raises NotFound: it is not one's own, and the log says that somebody tried."""
        found = await self.holder(session, binding)
        if all(row["id"] != key for row in self._keys(found.person["id"])):
            await self.refuse(found.session["issuer"], "not_found", found)
            raise NotFound("You have no such key.")
        return await self._desk.of(found.pseudonym()).revoke_key(key)

    def _keys(self, person: str) -> list[dict[str, Any]]:
        return [row for row in self._rows.rows("keys") if row["person"] == person and row["revoked"] is None]

    def _ineligible(self, holder: Holder) -> str:
        """Why the charter lets this person have no key, in words; the rules decide again at every request."""
        known, charter = attributes(holder.person), self._charter
        users = f"This service is for citizens of {', '.join(charter.users)}"
        level = ASSURANCE.index(known.assurance) < ASSURANCE.index(charter.assurance)
        rules = (
            ("user" not in known.roles, "You do not have the role 'user'."),
            (
                not known.citizenship,
                f"{users}, and nobody has said of which country you are one. {_CARD}",
            ),
            (
                known.citizenship not in charter.users,
                f"{users}, and you are said to be one of {known.citizenship}.",
            ),
            (
                0 < known.until <= self._clock.now_ms(),
                "What was known of your citizenship has expired: sign in again.",
            ),
            (
                charter.issuers is not None and known.issuer not in charter.issuers,
                f"The charter does not count what {known.issuer} says of citizenships.",
            ),
            (
                level,
                f"Your citizenship is known at level {known.assurance}, and the charter asks for {charter.assurance}.",
            ),
        )
        return next((words for holds, words in rules if holds), "")

    def _told(self, person: Mapping[str, Any], house: Mapping[str, Any]) -> dict[str, Any]:
        known = attributes(self._rows.find("people", person["id"]))
        return {
            "person": {"id": person["id"], "tenant": house["name"], "expires": person["expires"], **known.as_dict()}
        }

    # What operators do.

    async def invite(self, person: str, *, days: int) -> dict[str, Any]:
        """Let somebody who was added sign in for the first time; the secret is in this result and never again.

        Raises:
            NotFound, InvalidRequest; Conflict: they have signed in already.
        """
        found = self._rows.find("people", person)
        if not 0 < days <= _MOST_INVITED_DAYS:
            raise InvalidRequest(f"days is a number from 1 to {_MOST_INVITED_DAYS}")
        if any(row["person"] == found["id"] for row in self._rows.rows("identities")):
            words = f"{found['name']} has signed in before, and needs no invitation"
            if found["expires"] <= self._clock.now_ms():
                words += f", but time: `daulat person correct {found['name']} --days N`"
            raise Conflict(words)
        house, secret = self._rows.find("tenants", found["tenant"]), secrets.new_invitation()
        expires = self._clock.now_ms() + days * DAY_MS
        await self._desk.act("person.invite", _pseudonym(house, "principal", found["id"]), {"expires": expires})
        row = {"id": new_id("invitation"), "name": secrets.digest(secret), "person": found["id"]}
        self._rows.add("invitations", {**row, "expires": expires, "revoked": None})
        return {"name": found["name"], "expires": expires, "invitation": secret}

    async def lapse(self) -> None:
        """Have the log tell whose citizenship has ended since it was last looked at; their keys ended with it."""
        now = self._clock.now_ms()
        for person in self._rows.rows("people"):
            if 0 < person["until"] <= now and person["lapsed"] != person["until"]:
                house = self._rows.find("tenants", person["tenant"])
                await self._note(house, person["id"], EXPIRED, person["issuer"], {"until": person["until"]})
                self._rows.change("people", person["id"], lapsed=person["until"])

    async def _note(
        self, house: Mapping[str, Any] | None, person: str, event: str, issuer: str, detail: Mapping[str, Any]
    ) -> None:
        fields = {
            "charter": self._index,
            "tenant": None if house is None else _pseudonym(house, "tenant", house["id"]),
            "person": None if house is None else _pseudonym(house, "principal", person),
            "event": event,
            "issuer": issuer,
            "detail": dict(detail),
        }
        await self._log("identity/v1", fields)


def attributes(person: Mapping[str, Any]) -> Attributes:
    """What a person's row says of them."""
    return Attributes(
        person["citizenship"], person["assurance"], tuple(person["roles"]), person["issuer"], person["until"]
    )


def _pseudonym(house: Mapping[str, Any], kind: str, id_: str) -> str:
    return pseudonym(base64.b64decode(house["epoch_key"]), kind, id_)
