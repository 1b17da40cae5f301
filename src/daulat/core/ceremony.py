"""The key ceremony, from which an installation's first operators come: what each of them signs, in one room.

Everybody signs the same bytes with their own key, which shows that each has the key that is named for them, and that
all agreed to all of it:

    "daulat/ceremony/v1\\n" origin "\\n" begun "\\n" charter "\\n" rules "\\n" roster "\\n"
    number of models "\\n"     model "\\n" ...
    number of operators "\\n"  key " " citizenship " " assurance " " expires "\\n" ...

with `charter` (its text), `rules` (their version), `roster` (the names, which do not stand in the log) and each `model`
SHA-256 in lower-case hex, `key` a vkey's third part (all of it: base64 has a "+" of its own), and times decimal Unix
milliseconds. That as many keys are as many people is what those in the room vouch for each other: no signature can show
it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from daulat.core.charter import ASSURANCE, Charter
from daulat.core.consent import key_of

LONGEST_MS: Final = 31 * 86_400_000  # from its beginning to its entry
MOST_OPERATORS: Final = 64
MOST_MODELS: Final = 128
_DIGEST: Final = re.compile(r"[0-9a-f]{64}\Z")
_LINE: Final = re.compile(r"[!-~]+\Z")  # printable ASCII without a space: no value holds another's place


@dataclass(frozen=True, slots=True)
class Seat:
    """One operator: the key, and what the others vouch for."""

    vkey: str
    citizenship: str
    assurance: str
    expires: int  # Unix milliseconds

    @property
    def key(self) -> str:
        """The public key, whatever name the vkey gives it."""
        return key_of(self.vkey)


@dataclass(frozen=True, slots=True)
class Ceremony:
    """What those in the room agree to."""

    origin: str
    begun: int  # Unix milliseconds
    charter: str  # hex SHA-256
    rules: str
    models: tuple[str, ...]
    roster: str
    seats: tuple[Seat, ...]

    def statement(self) -> bytes:
        """The bytes that everybody signs."""
        lines = ["daulat/ceremony/v1", self.origin, str(self.begun), self.charter, self.rules, self.roster]
        lines += [str(len(self.models)), *self.models, str(len(self.seats))]
        lines += [f"{seat.key} {seat.citizenship} {seat.assurance} {seat.expires}" for seat in self.seats]
        return "".join(f"{line}\n" for line in lines).encode()

    def wrong(self, charter: Charter) -> Iterator[str]:
        """Why this cannot put an installation under `charter` into production, in words."""
        if not _LINE.match(self.origin):
            yield f"a ceremony for the origin {self.origin[:80]!r}"
        if not all(map(_DIGEST.match, (self.charter, self.rules, self.roster, *self.models))):
            yield "a ceremony names charter, rules, roster and models by 64 hex digits each"
        if len(self.seats) > MOST_OPERATORS or len(self.models) > MOST_MODELS:
            yield f"a ceremony has at most {MOST_OPERATORS} operators and {MOST_MODELS} models"
        if charter.profile != "production":
            yield f"a key ceremony is for profile production, the charter's is {charter.profile!r}"
        if charter.approvals < 1 or len(self.seats) <= charter.approvals:
            yield (
                f"{len(self.seats)} operators, and the charter asks for the approval of {charter.approvals} others: "
                f"at least {charter.approvals + 1} are needed"
            )
        if not charter.floor:
            yield "the charter of a key ceremony sets a floor: the approvals that no later one may go below"
        if len({seat.key for seat in self.seats}) != len(self.seats):
            yield "two operators with one key"
        for seat in self.seats:
            yield from self._unfit(seat, charter)

    def _unfit(self, seat: Seat, charter: Charter) -> Iterator[str]:
        whose = f"the operator of key {seat.key[:12]}"
        if seat.citizenship not in charter.operators:
            yield f"{whose} is of {seat.citizenship[:8]!r}, the charter asks for {', '.join(charter.operators)}"
        if seat.assurance not in ASSURANCE or ASSURANCE.index(seat.assurance) < ASSURANCE.index(charter.assurance):
            yield f"{whose} is vouched for at {seat.assurance[:16]!r}, the charter asks for {charter.assurance}"
        if seat.expires <= self.begun:
            yield f"{whose} is eligible no longer than before the ceremony"
