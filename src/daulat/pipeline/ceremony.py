"""The key ceremony: drawn up, signed by everybody in the room, and written into the log once.

The ceremony's file goes from hand to hand before there is a service, or beside it:

    {"format": "daulat/key-ceremony/v1", "origin", "begun", "charter", "rules", "models", "nonce",
     "operators": [{"name", "vkey", "citizenship", "assurance", "expires", "signature"}]}

`charter` is the whole text that comes into force, `signature` null until that operator has signed; `core.ceremony` says
over which bytes. Names stay in this file and in the control database: the log has their salted digest.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from daulat.audit import ceremony as ceremonies
from daulat.core import charter as charters
from daulat.core.ceremony import Ceremony, Seat
from daulat.core.charter import Charter
from daulat.core.clock import Clock
from daulat.core.commitments import pseudonym
from daulat.core.consent import OPERATOR
from daulat.core.ids import new_id
from daulat.core.principal import VOUCHED
from daulat.errors import ConfigError, InvalidRequest, PermissionDenied, VerificationFailed
from daulat.pipeline.book import Book
from daulat.pipeline.consent import public
from daulat.pipeline.operate import OPERATORS, Desk, Rows, checked_name
from daulat.pipeline.operators import Certify, key_row
from daulat.tlog.note import Verifier

FORMAT: Final = "daulat/key-ceremony/v1"
LONGEST: Final = 262_144  # characters of a file
ENTRY: Final = "ceremony/v1"
_FIELDS: Final = {"format", "origin", "begun", "charter", "rules", "models", "nonce", "operators"}
_OPERATOR: Final = {"name": str, "vkey": str, "citizenship": str, "assurance": str, "expires": int}


@dataclass(frozen=True, slots=True)
class Drawn:
    """A ceremony's file. `names` and `signatures` stand in the order of the ceremony's seats."""

    ceremony: Ceremony
    charter: str  # its text
    nonce: str
    names: tuple[str, ...]
    signatures: tuple[str | None, ...]  # base64

    @property
    def period(self) -> str:
        """The name of the log's shard that it is for."""
        return self.ceremony.origin.rpartition("/")[2]

    def encode(self) -> str:
        """The file's text."""
        operators = [
            {
                "name": name,
                **{field: getattr(seat, field) for field in ("vkey", "citizenship", "assurance", "expires")},
                "signature": signature,
            }
            for name, seat, signature in zip(self.names, self.ceremony.seats, self.signatures, strict=True)
        ]
        held = self.ceremony
        value = {"format": FORMAT, "origin": held.origin, "begun": held.begun, "charter": self.charter}
        value |= {"rules": held.rules, "models": list(held.models), "nonce": self.nonce, "operators": operators}
        return json.dumps(value, ensure_ascii=False, indent=1) + "\n"

    def signed(self, vkey: str, signature: bytes) -> Drawn:
        """With one more signature.

        Raises:
            PermissionDenied: the key is none of the ceremony's, or has not signed these bytes.
        """
        key = public(vkey)
        at = next((at for at, seat in enumerate(self.ceremony.seats) if seat.key == key), None)
        if at is None:
            raise PermissionDenied("this key is none of those that the ceremony names: draw it up again with it")
        try:
            Verifier(self.ceremony.seats[at].vkey).verify_bytes(self.ceremony.statement(), signature)
        except VerificationFailed as error:
            raise PermissionDenied(f"the ceremony is not signed so: {error.message}") from None
        signatures = list(self.signatures)
        signatures[at] = base64.b64encode(signature).decode()
        return replace(self, signatures=tuple(signatures))

    def missing(self) -> list[str]:
        """The names of those who have not signed yet."""
        return [name for name, signature in zip(self.names, self.signatures, strict=True) if signature is None]

    def raw(self) -> list[bytes]:
        """The signatures that are there."""
        return [base64.b64decode(signature) for signature in self.signatures if signature is not None]


def draw(
    origin: str, begun: int, charter: str, rules: str, models: Sequence[str], operators: Sequence[tuple[str, Seat]]
) -> Drawn:
    """A ceremony that nobody has signed yet.

    Raises:
        InvalidRequest: it could put no installation into production under this charter; says all that is wrong.
    """
    names, nonce = tuple(name for name, _ in operators), os.urandom(16).hex()
    held = Ceremony(
        origin,
        begun,
        hashlib.sha256(charter.encode()).hexdigest(),
        rules,
        tuple(sorted(set(models))),
        _roster(names, nonce),
        tuple(seat for _, seat in operators),
    )
    read = charters.parse(charter)
    wrong = [*held.wrong(read), *_names(names)]
    if read.issuers is not None and VOUCHED not in read.issuers:
        wrong.append(f"the charter's issuers leave out {VOUCHED!r}: what those in the room vouch for would not count")
    if wrong:
        raise InvalidRequest("; ".join(wrong))
    return Drawn(held, charter, nonce, names, (None,) * len(names))


def parse(text: str, location: str = "ceremony.json") -> Drawn:
    """A ceremony's file. Who has signed is not checked here.

    Raises:
        ConfigError: it is none, or contradicts itself.
    """
    try:
        if len(text) > LONGEST:
            raise ConfigError(f"has more than {LONGEST} characters", location=location)
        value = json.loads(text)
        if not isinstance(value, dict) or set(value) != _FIELDS or value["format"] != FORMAT:
            raise ConfigError(f"is no file of the format {FORMAT!r}: `daulat init draft`", location=location)
        return _read(value)
    except (ValueError, TypeError, KeyError, RecursionError, VerificationFailed) as error:
        raise ConfigError(f"is no whole file of the format {FORMAT!r}: {error}", location=location) from None


def _read(value: Mapping[str, Any]) -> Drawn:
    seats, names, signatures = [], [], []
    for item in value["operators"]:
        if set(item) != {*_OPERATOR, "signature"} or any(type(item[name]) is not _OPERATOR[name] for name in _OPERATOR):
            raise ValueError(f"an operator has {', '.join(_OPERATOR)} and a signature, or null")
        if item["signature"] is not None and len(base64.b64decode(item["signature"], validate=True)) != 64:  # noqa: PLR2004
            raise ValueError("a signature is the base64 of 64 bytes, or null")
        seats.append(Seat(public_checked(item["vkey"]), item["citizenship"], item["assurance"], item["expires"]))
        names.append(item["name"])
        signatures.append(item["signature"])
    texts = (value["origin"], value["charter"], value["rules"], value["nonce"], *value["models"])
    if type(value["begun"]) is not int or not all(isinstance(text, str) for text in texts):
        raise ValueError("begun is a number, origin, charter, rules, nonce and models are texts")
    held = Ceremony(
        value["origin"],
        value["begun"],
        hashlib.sha256(value["charter"].encode()).hexdigest(),
        value["rules"],
        tuple(value["models"]),
        _roster(names, value["nonce"]),
        tuple(seats),
    )
    held.statement()  # which no half surrogates can stand in
    return Drawn(held, value["charter"], value["nonce"], tuple(names), tuple(signatures))


def public_checked(vkey: str) -> str:
    """The vkey, in its one form. Raises VerificationFailed: it is none."""
    return Verifier(vkey).vkey


@dataclass(frozen=True, slots=True)
class Holding:
    """Writes a finished ceremony into the log, and makes its operators those of this installation."""

    book: Book
    rows: Rows
    desk: Desk
    certify: Certify
    clock: Clock

    async def hold(self, drawn: Drawn | None, index: int, charter: Charter) -> None:
        """Under the charter at `index`, which it has brought. Goes on where it was cut off; None: only that.

        Raises:
            ConfigError: it does not put this installation into production; says why not.
        """
        if self.book.held(ENTRY) is None and drawn is not None:
            house = await self._house()
            people = [self._person(house["id"], *each) for each in zip(drawn.names, drawn.ceremony.seats, strict=True)]
            seats = tuple(self._named(house, *each) for each in zip(people, drawn.ceremony.seats, strict=True))
            held = replace(drawn.ceremony, seats=seats)
            if wrong := list(ceremonies.wrong(held, drawn.raw(), charter, self.clock.now_ms())):
                raise ConfigError("; ".join(wrong), location="the key ceremony")
            self._others_leave({seat.key for seat in seats}, set(people))
            await self.book.write(ENTRY, {"charter": index, **entry_fields(held, drawn.signatures)}, name="")
        await self._keys()

    async def _house(self) -> dict[str, Any]:
        if not any(row["name"] == OPERATORS for row in self.rows.rows("tenants")):
            await self.desk.add_tenant(OPERATORS)
        return self.rows.find("tenants", OPERATORS)

    def _person(self, house: str, name: str, seat: Seat) -> str:
        """The id of whoever has the key, else of the operator of that name, else of a new one."""
        held = next((row for row in self.rows.rows("operator_keys") if row["name"] == seat.key), None)
        named = (row for row in self.rows.rows("people") if (row["tenant"], row["name"]) == (house, name))
        found = held["person"] if held is not None else next((row["id"] for row in named), None)
        vouched = {"citizenship": seat.citizenship, "assurance": seat.assurance, "expires": seat.expires}
        vouched |= {"issuer": VOUCHED, "until": seat.expires}
        if found is not None:
            self.rows.change("people", found, roles=[OPERATOR], **vouched)
            return str(found)
        id_ = new_id("person")
        row = {"id": id_, "tenant": house, "name": name, "roles": [OPERATOR], "version": 1}
        self.rows.add("people", {**row, **vouched})
        return id_

    @staticmethod
    def _named(house: Mapping[str, Any], person: str, seat: Seat) -> Seat:
        """With the key under its holder's pseudonym."""
        holder = pseudonym(base64.b64decode(house["epoch_key"]), "principal", person)
        return replace(seat, vkey=Verifier(seat.vkey).renamed(holder).vkey)

    def _others_leave(self, keys: set[str], people: set[str]) -> None:
        """Whoever was an operator in the evaluation and does not take part is none any more: the entry says so."""
        now = self.clock.now_ms()
        for row in self.rows.rows("operator_keys"):
            if row["name"] not in keys and row["revoked"] is None:
                self.rows.revoke("operator_keys", row["id"], now)
        house = self.rows.find("tenants", OPERATORS)["id"]
        for row in self.rows.rows("people"):
            if row["tenant"] == house and row["id"] not in people:
                self.rows.change("people", row["id"], expires=min(row["expires"], now))

    async def _keys(self) -> None:
        """Certify what the entry names and nobody has here yet. A key that was revoked since has its row, and stays."""
        held = self.book.held(ENTRY)
        there = {row["name"] for row in self.rows.rows("operator_keys")}
        house = self.rows.find("tenants", OPERATORS)
        epoch = base64.b64decode(house["epoch_key"])
        people = {
            pseudonym(epoch, "principal", row["id"]): row["id"]
            for row in self.rows.rows("people")
            if row["tenant"] == house["id"]
        }
        for operator in [] if held is None else held["value"]["operators"]:
            vkey = operator["vkey"]
            if public(vkey) not in there:
                position = await self.certify(vkey, operator["expires"])
                row = key_row(people[Verifier(vkey).name], vkey, self.book.origin, position)
                self.rows.add("operator_keys", row)


def entry_fields(held: Ceremony, signatures: Sequence[str | None]) -> dict[str, Any]:
    """What `ceremony/v1` says of it, without time and charter."""
    operators = [
        {name: getattr(seat, name) for name in ("vkey", "citizenship", "assurance", "expires")} for seat in held.seats
    ]
    said = {"origin": held.origin, "begun": held.begun, "sha256": held.charter, "rules": held.rules}
    named = {"models": list(held.models), "roster": held.roster, "operators": operators}
    return {**said, **named, "signatures": list(signatures), "restates": None}


async def restate(book: Book, index: int) -> None:
    """Have an older shard's ceremony in this one."""
    before, known = book.restated(ENTRY), book.memory(ENTRY)
    if before is not None and known is not None:
        fields = {name: value for name, value in known.items() if name not in {"type", "time"}}
        await book.write(ENTRY, {**fields, "charter": index, "restates": before}, name="")


def _roster(names: Sequence[str], nonce: str) -> str:
    value = json.dumps({"names": list(names), "nonce": nonce}, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(value.encode()).hexdigest()


def _names(names: Sequence[str]) -> Iterator[str]:
    if len(set(names)) != len(names):
        yield "two operators of one name"
    for name in names:
        try:
            checked_name(name, "operator")
        except InvalidRequest as error:
            yield error.message
