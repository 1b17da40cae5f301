"""Operators against the rule of two: each attack is refused with a clear word, and leaves an entry of who tried."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.pipeline.test_consent import DAY, House

from daulat.core import entries
from daulat.errors import Conflict, DaulatError, PermissionDenied
from daulat.pipeline.consent import Signature
from daulat.pipeline.refused import Refusals
from daulat.tlog.note import Signer

Attack = Callable[["Besieged", dict[str, Any]], tuple[str, str, Signature]]
"""Given an open proposal of ali's: the attempt, the id that is named, and the signature that is sent."""


class Besieged(House):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.refusals = Refusals(self.rows, self.write, self.clock, 0)

    def attempt(self, kind: str, proposal: str, by: Signature) -> None:
        """As the control process takes it."""

        async def tried() -> None:
            async with self.refusals.noted(kind, proposal, by.vkey):
                await self.consent.approve(proposal, by)

        asyncio.run(tried())

    def last(self) -> dict[str, Any]:
        return entries.decode(self.log[-1])

    def pseudonym(self, who: str) -> str:
        (row,) = [row for row in self.rows.rows("operator_keys") if row["name"] == self.keys[who].vkey.split("+", 2)[2]]
        return str(row["vkey"].partition("+")[0])


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Besieged]:
    made = Besieged(tmp_path)
    yield made
    assert made.audited() == [], "what was refused is no lie"
    made.rows.close()


def alone(house: Besieged, draft: dict[str, Any]) -> tuple[str, str, Signature]:
    return "ali", draft["proposal"], house.signed("approval", draft, "ali")


def twice(house: Besieged, draft: dict[str, Any]) -> tuple[str, str, Signature]:
    house.approve(draft, "bina")
    return "bina", draft["proposal"], house.signed("approval", draft, "bina")


def other_bytes(house: Besieged, draft: dict[str, Any]) -> tuple[str, str, Signature]:
    other = house.draft("operator.add", **house.someone("esa"))
    return "bina", draft["proposal"], house.signed("approval", other, "bina")


def other_payload(house: Besieged, draft: dict[str, Any]) -> tuple[str, str, Signature]:
    return "bina", draft["proposal"], house.signed("approval", draft, "bina", payload="0" * 64)


def other_origin(house: Besieged, draft: dict[str, Any]) -> tuple[str, str, Signature]:
    return "bina", draft["proposal"], house.signed("approval", draft, "bina", origin="other.example/2026")


def other_kind(house: Besieged, draft: dict[str, Any]) -> tuple[str, str, Signature]:
    return "bina", draft["proposal"], house.signed("proposal", draft, "bina")


def too_late(house: Besieged, draft: dict[str, Any]) -> tuple[str, str, Signature]:
    signed = house.signed("approval", draft, "bina")
    house.clock.now += 8 * DAY
    return "bina", draft["proposal"], signed


def done_already(house: Besieged, draft: dict[str, Any]) -> tuple[str, str, Signature]:
    for who in ("bina", "chong"):
        house.approve(draft, who)
    return "bina", draft["proposal"], house.signed("approval", draft, "bina")


def revoked(house: Besieged, draft: dict[str, Any]) -> tuple[str, str, Signature]:
    """Signed while chong was an operator, sent when they are none any more."""
    for who in ("bina", "chong"):
        house.approve(draft, who)
    later = house.draft("operator.add", **house.someone("esa"))
    signed = house.signed("approval", later, "chong")
    leaving = house.draft("operator.revoke", name="chong", reason="left")
    house.propose(leaving)
    for who in ("bina", "devi"):
        house.approve(leaving, who)
    return "chong", house.propose(house.draft("operator.add", **house.someone("esa")))["proposal"], signed


def moved(house: Besieged, draft: dict[str, Any]) -> tuple[str, str, Signature]:
    second = house.draft("operator.add", **house.someone("esa"))
    house.propose(second, "chong")
    for who in ("bina", "chong"):
        house.approve(draft, who)
    return "bina", second["proposal"], house.signed("approval", second, "bina")


def expired_eligibility(house: Besieged, draft: dict[str, Any]) -> tuple[str, str, Signature]:
    (bina,) = [row for row in house.rows.rows("people") if row["name"] == "bina"]
    house.rows.change("people", bina["id"], expires=house.clock.now)
    return "bina", draft["proposal"], house.signed("approval", draft, "bina")


@pytest.mark.parametrize(
    ("attack", "kind", "reason", "words"),
    [
        (alone, PermissionDenied, "own_proposal", "others have to agree"),
        (twice, Conflict, "twice", "approved it already"),
        (other_bytes, PermissionDenied, "not_signed", "over these bytes"),
        (other_payload, PermissionDenied, "not_signed", "over these bytes"),
        (other_origin, PermissionDenied, "not_signed", "over these bytes"),
        (other_kind, PermissionDenied, "not_signed", "over these bytes"),
        (too_late, Conflict, "over", "is over: propose it again"),
        (done_already, Conflict, "done", "carried out already"),
        (revoked, PermissionDenied, "revoked", "not that of an operator"),
        (moved, Conflict, "moved", "has changed since"),
        (expired_eligibility, PermissionDenied, "not_eligible", "eligibility has expired"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_each_is_refused_and_leaves_an_entry(
    house: Besieged, attack: Attack, kind: type[DaulatError], reason: str, words: str
) -> None:
    draft = house.draft()
    house.propose(draft)
    who, proposal, signature = attack(house, draft)
    managing, size = house.operators(), len(house.log)
    with pytest.raises(kind, match=words) as refused:
        house.attempt("approval", proposal, signature)
    assert refused.value.code == reason
    assert len(house.log) == size + 1
    said = house.last()
    assert said["type"] == "consent.refused/v1"
    assert (said["attempt"], said["proposal"], said["reason"]) == ("approval", proposal, reason)
    assert said["operator"] == house.pseudonym(who)
    assert house.operators() == managing
    assert who.encode() not in house.log[-1]


def test_a_stranger_leaves_nothing_and_nobody_fills_the_log(house: Besieged) -> None:
    draft = house.draft()
    house.propose(draft)
    size = len(house.log)
    stranger = Signer("stranger", bytes([99] * 32))
    for vkey in (stranger.vkey, "nonsense"):
        with pytest.raises(PermissionDenied):
            house.attempt("approval", draft["proposal"], Signature(vkey, "AAAA"))
    assert len(house.log) == size
    for _ in range(25):
        with pytest.raises(PermissionDenied):
            house.attempt("approval", draft["proposal"], house.signed("approval", draft, "ali"))
    assert len(house.log) == size + 10
    house.clock.now += 60_000
    with pytest.raises(PermissionDenied):
        house.attempt("approval", draft["proposal"], house.signed("approval", draft, "ali"))
    assert len(house.log) == size + 11
