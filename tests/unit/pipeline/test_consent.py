"""Nobody manages alone: proposed, approved by others, done once; and the audit finds nothing to say of that log."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Coroutine, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from tests.support import logs
from tests.support.logs import ORIGIN, SIGNER, VERIFIER, terms

from daulat.adapters.control_db import ControlDatabase
from daulat.audit.log import audit
from daulat.core import charter as charters
from daulat.core import entries
from daulat.core.ceremony import Seat
from daulat.core.consent import Kind, Proposed
from daulat.errors import Conflict, InvalidRequest, NotFound, PermissionDenied, SealBroken
from daulat.pipeline import establish
from daulat.pipeline.book import Book
from daulat.pipeline.ceremony import Drawn, Holding, draw
from daulat.pipeline.consent import Consent, Signature
from daulat.pipeline.operate import Desk
from daulat.pipeline.operators import Adding, Renewing, Revoking, certified
from daulat.tlog.note import Signer

DAY = 86_400_000
T = TypeVar("T")


def run(use_case: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(use_case)


class Clock:
    def __init__(self) -> None:
        self.now = logs.T0

    def now_ms(self) -> int:
        return self.now

    def boottime(self) -> float:
        return 0.0


class House:
    """An installation with three operators, whose charter asks for the approval of `approvals` others."""

    def __init__(self, folder: Path, approvals: int = 2) -> None:
        self.clock, self.rows = Clock(), ControlDatabase(folder / "control.db")
        self.log: list[bytes] = []
        self.broken = False
        self.book = Book(ORIGIN, self._append, self.rows, self.clock)
        said = logs.charter(approvals=approvals, profile="production") if approvals else logs.charter()
        self.charter = charters.parse(said["text"])
        opening = {"origin": ORIGIN, "previous": None, **said, "restates": None}
        run(self.book.write("charter/v1", opening, name=""))
        run(self.certify("log", SIGNER.vkey))
        self.desk = Desk(self.rows, self.write, self.clock, 0, approvals)
        run(self.desk.add_tenant("operators"))
        adding = Adding(self.rows, self.certify_operator, self.clock, self.charter, ORIGIN)
        self.acts = {
            "operator.add": adding,
            "operator.renew": Renewing(self.rows, self.certify_operator, self.clock, self.charter, ORIGIN),
            "operator.revoke": Revoking(self.rows, self.write, self.clock, self.charter),
        }
        self.consent = Consent(self.rows, self.write, self.clock, (0, self.charter), ORIGIN, self.acts)
        self.keys = {
            name: Signer(name, bytes([number] * 32))
            for number, name in enumerate(("ali", "bina", "chong", "devi", "esa"))
        }
        if approvals:
            run(self.holding.hold(self.drawn(said["text"]), 0, self.charter))
        else:
            for name in ("ali", "bina", "chong"):
                run(adding.prepare(self.someone(name)).carry_out())

    @property
    def holding(self) -> Holding:
        return Holding(self.book, self.rows, self.desk, self.certify_operator, self.clock)

    def drawn(self, text: str, *names: str, models: tuple[str, ...] = ()) -> Drawn:
        """A key ceremony that ali, bina and chong, or others, have signed."""
        names = names or ("ali", "bina", "chong")
        seats = [(name, Seat(self.keys[name].vkey, "MY", "high", self.clock.now + 100 * DAY)) for name in names]
        made = draw(ORIGIN, self.clock.now, text, "1" * 64, models, seats)
        for name in names:
            made = made.signed(self.keys[name].vkey, self.keys[name].sign_bytes(made.ceremony.statement()))
        return made

    def someone(self, who: str, /, **changes: Any) -> dict[str, Any]:
        made = {"name": who, "citizenship": "MY", "assurance": "high", "days": 100, "vkey": self.keys[who].vkey}
        return {**made, **changes}

    async def write(self, type_: str, fields: Mapping[str, Any]) -> int:
        return await self.book.write(type_, fields)

    async def _append(self, new: list[str]) -> list[int]:
        if self.broken:
            raise SealBroken("the log could not be written")
        self.log += [entry.encode() for entry in new]
        return [len(self.log) - 1]

    async def certify(self, purpose: str, vkey: str, until: int | None = None) -> int:
        return await establish.key(self.book, 0, purpose, vkey, not_after=until)

    async def certify_operator(self, vkey: str, until: int) -> int:
        return await self.certify("operator", vkey, until)

    def signed(self, kind: Kind, shown: Mapping[str, Any], who: str, **changes: Any) -> Signature:
        """As an operator's own machine does it: over the payload that it was shown."""
        digest = hashlib.sha256(shown["payload"].encode()).hexdigest()
        names = ("origin", "proposal", "action", "prior")
        made = Proposed(*(shown[name] for name in names), digest, shown["expires"])
        data = replace(made, **changes).statement(kind)
        return Signature(self.keys[who].vkey, base64.b64encode(self.keys[who].sign_bytes(data)).decode())

    def draft(self, action: str = "operator.add", **arguments: Any) -> dict[str, Any]:
        return self.consent.draft(action, arguments or self.someone("devi"))

    def propose(self, draft: Mapping[str, Any], who: str = "ali") -> dict[str, Any]:
        return run(self.consent.propose(draft, self.signed("proposal", draft, who)))

    def approve(self, draft: Mapping[str, Any], who: str) -> dict[str, Any]:
        return run(self.consent.approve(draft["proposal"], self.signed("approval", draft, who)))

    def operators(self) -> set[str]:
        people = {row["id"]: row["name"] for row in self.rows.rows("people")}
        return {people[row["person"]] for row in self.rows.rows("operator_keys") if row["revoked"] is None}

    def audited(self) -> list[str]:
        report = audit(logs.publish(self.log, {}), VERIFIER, replace(terms(), now=self.clock.now + DAY))
        return [str(finding) for finding in report.findings.kept if finding.lie]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    assert made.audited() == []
    made.rows.close()


def test_it_is_done_with_the_last_approval_that_is_needed_and_not_before(house: House) -> None:
    draft = house.draft()
    assert house.propose(draft)["state"] == "open"
    assert house.approve(draft, "bina")["state"] == "open"
    assert house.operators() == {"ali", "bina", "chong"}
    done = house.approve(draft, "chong")
    assert (done["state"], done["proposed_by"], done["approved_by"]) == ("done", "ali", ["bina", "chong"])
    assert done["result"]["name"] == "devi"
    assert house.operators() == {"ali", "bina", "chong", "devi"}
    types = [entries.decode(entry)["type"] for entry in house.log[-5:]]
    assert types == ["proposal/v1", "approval/v1", "approval/v1", "operator.action/v2", "key/v1"]
    assert not any(b"devi" in entry for entry in house.log), "names stay here"


def test_each_proposal_is_done_once(house: House) -> None:
    draft = house.draft()
    house.propose(draft)
    house.approve(draft, "bina")
    house.approve(draft, "chong")
    with pytest.raises(Conflict, match="carried out already"):
        house.approve(draft, "chong")
    with pytest.raises(Conflict, match="exists already"):
        house.propose(draft)


def test_nobody_approves_of_what_they_proposed_nor_twice(house: House) -> None:
    draft = house.draft()
    house.propose(draft)
    with pytest.raises(PermissionDenied, match="others have to agree"):
        house.approve(draft, "ali")
    house.approve(draft, "bina")
    with pytest.raises(Conflict, match="approved it already"):
        house.approve(draft, "bina")
    assert house.consent.show(draft["proposal"])["approved_by"] == ["bina"]


@pytest.mark.parametrize(
    "changes",
    [
        {"payload": "0" * 64},
        {"prior": "0" * 64},
        {"action": "operator.revoke"},
        {"origin": "other.example/2026"},
        {"proposal": "proposal_" + "0" * 32},
        {"expires": 1},
    ],
    ids=str,
)
def test_a_signature_over_other_bytes_is_none(house: House, changes: dict[str, Any]) -> None:
    draft = house.draft()
    size = len(house.log)
    with pytest.raises(PermissionDenied, match="not signed by this operator's key over these bytes"):
        run(house.consent.propose(draft, house.signed("proposal", draft, "ali", **changes)))
    assert len(house.log) == size
    house.propose(draft)
    with pytest.raises(PermissionDenied, match="not signed by this operator's key over these bytes"):
        run(house.consent.approve(draft["proposal"], house.signed("approval", draft, "bina", **changes)))


def test_a_proposals_signature_is_no_approval_and_one_mans_key_is_not_anothers(house: House) -> None:
    draft = house.draft()
    house.propose(draft)
    mine = house.signed("approval", draft, "bina")
    for wrong in (
        house.signed("proposal", draft, "bina"),
        Signature(house.keys["chong"].vkey, mine.signature),
        Signature(mine.vkey, "*"),
        Signature("nonsense", mine.signature),
    ):
        with pytest.raises(PermissionDenied, match="not signed"):
            run(house.consent.approve(draft["proposal"], wrong))
    with pytest.raises(PermissionDenied, match="not that of an operator"):
        house.approve(draft, "devi")


def test_another_payload_under_the_same_signature_is_refused(house: House) -> None:
    draft = house.draft()
    other = {**draft, "payload": draft["payload"].replace("devi", "dora")}
    with pytest.raises(PermissionDenied, match="not signed"):
        run(house.consent.propose(other, house.signed("proposal", draft, "ali")))


def test_what_was_proposed_for_another_state_is_void(house: House) -> None:
    first, second = house.draft(), house.draft("operator.add", **house.someone("esa"))
    house.propose(first)
    house.propose(second, "bina")
    house.approve(first, "bina")
    house.approve(first, "chong")
    with pytest.raises(Conflict, match="has changed since"):
        house.approve(second, "ali")


def test_whoever_signed_and_was_revoked_since_does_not_count(house: House) -> None:
    added = house.draft()
    house.propose(added)
    house.approve(added, "bina")
    house.approve(added, "chong")
    other = house.draft("operator.add", **house.someone("esa"))
    house.propose(other)
    house.approve(other, "chong")
    leaving = house.draft("operator.revoke", name="chong", reason="left")
    house.propose(leaving)
    house.approve(leaving, "bina")
    house.approve(leaving, "devi")
    with pytest.raises(Conflict, match="has changed since"):
        house.approve(other, "bina")


def test_a_new_shard_has_the_operators_keys_and_none_of_those_that_were_revoked(house: House) -> None:
    rows = house.rows.rows("operator_keys")
    house.rows.revoke("operator_keys", rows[0]["id"], 1)
    seen: list[str] = []

    async def certify(vkey: str, until: int) -> int:
        assert until == house.clock.now + 100 * DAY
        seen.append(vkey)
        return 900 + len(seen)

    for _ in range(2):
        run(certified(house.rows, certify, "log/next"))
    assert seen == [row["vkey"] for row in rows[1:]]
    assert [(row["origin"], row["position"]) for row in house.rows.rows("operator_keys")] == [
        (ORIGIN, rows[0]["position"]),
        ("log/next", 901),
        ("log/next", 902),
    ]


def test_a_proposal_ends(house: House) -> None:
    draft = house.draft()
    house.propose(draft)
    house.clock.now += 8 * DAY
    with pytest.raises(Conflict, match="is over"):
        house.approve(draft, "bina")
    assert house.consent.show(draft["proposal"])["state"] == "over"
    with pytest.raises(InvalidRequest, match="not until yesterday"):
        house.propose({**draft, "proposal": "proposal_" + "1" * 32})
    for days in (0, 32):
        with pytest.raises(InvalidRequest, match="1 to 31 days"):
            house.consent.draft("operator.add", house.someone("devi"), days=days)


def test_an_operator_whose_eligibility_ended_signs_nothing(house: House) -> None:
    draft = house.draft()
    house.propose(draft)
    (bina,) = [row for row in house.rows.rows("people") if row["name"] == "bina"]
    for change, words in (
        ({"citizenship": "SG"}, "lets citizens of MY manage"),
        ({"roles": ["user"]}, "is no operator"),
        ({"expires": house.clock.now}, "has expired"),
        ({"until": house.clock.now}, "a date that has passed"),
        ({"assurance": "low"}, "vouched at substantial"),
    ):
        house.rows.change("people", bina["id"], **change)
        with pytest.raises(PermissionDenied, match=words):
            house.approve(draft, "bina")
        house.rows.change("people", bina["id"], **{name: bina[name] for name in change})
    house.approve(draft, "bina")


def test_an_operator_who_was_revoked_signs_nothing_and_enough_stay(house: House) -> None:
    added = house.draft()
    house.propose(added)
    house.approve(added, "bina")
    house.approve(added, "chong")
    draft = house.draft("operator.revoke", name="chong", reason="left")
    house.propose(draft)
    house.approve(draft, "bina")
    house.approve(draft, "devi")
    assert house.operators() == {"ali", "bina", "devi"}
    late = house.draft("operator.add", **house.someone("esa"))
    with pytest.raises(PermissionDenied, match="not that of an operator"):
        house.propose(late, "chong")
    with pytest.raises(Conflict, match="2 operators would be left"):
        house.draft("operator.revoke", name="devi", reason="left")


@pytest.mark.parametrize(
    ("action", "arguments", "words"),
    [
        ("operator.add", {"name": "devi"}, "wrong or missing"),
        ("operator.add", {"name": ""}, "wrong or missing"),
        ("operator.add", {"name": "devi 900101-14-5678"}, "holds an identity number"),
        ("operator.add", {"days": True}, "wrong or missing: days"),
        ("operator.add", {"citizenship": "SG"}, "a citizen of MY"),
        ("operator.add", {"assurance": "low"}, "substantial at least"),
        ("operator.add", {"assurance": "none"}, "substantial at least"),
        ("operator.add", {"days": 0}, "1 to 3650"),
        ("operator.add", {"vkey": "nonsense"}, "public key"),
        ("operator.add", {"more": 1}, "wrong or missing: more"),
        ("operator.revoke", {"name": "chong"}, "a name and a reason"),
        ("charter.forget", {}, "cannot be proposed"),
    ],
)
def test_what_cannot_be_done_cannot_be_proposed(
    house: House, action: str, arguments: dict[str, Any], words: str
) -> None:
    whole = (
        {**house.someone("devi"), **arguments}
        if action == "operator.add" and arguments != {"name": "devi"}
        else arguments
    )
    with pytest.raises(InvalidRequest, match=words):
        house.consent.draft(action, whole)


def test_names_and_keys_are_one_operators_each(house: House) -> None:
    with pytest.raises(Conflict, match="exists already"):
        house.draft("operator.add", **house.someone("devi", name="ali"))
    with pytest.raises(Conflict, match="every operator has their own"):
        house.draft("operator.add", **house.someone("devi", vkey=house.keys["ali"].vkey))
    with pytest.raises(NotFound, match="no operator"):
        house.draft("operator.revoke", name="nobody", reason="left")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"payload": "no JSON"}, "payload is JSON"),
        ({"payload": None}, "is a text"),
        ({"payload": "[]"}, "an object of arguments"),
        ({"payload": json.dumps({"arguments": [], "nonce": ""})}, "arguments are an object"),
        ({"action": "x.y"}, "'x.y' cannot be proposed"),
        ({"expires": "soon"}, "whole number"),
        ({"expires": 1 << 62}, "at most 31 days"),
        ({"action": "Operator\nadd"}, "a proposal's action"),
        ({"proposal": "x"}, "a proposal's id"),
        ({"prior": None}, "has an id, an action"),
    ],
    ids=str,
)
def test_what_is_no_draft_is_said_to_be_none(house: House, changes: dict[str, Any], words: str) -> None:
    draft = house.draft()
    with pytest.raises(InvalidRequest, match=words):
        run(house.consent.propose({**draft, **changes}, house.signed("proposal", draft, "ali")))


def test_a_log_that_cannot_be_written_leaves_no_proposal_and_does_nothing(house: House) -> None:
    draft = house.draft()
    house.broken = True
    with pytest.raises(SealBroken):
        house.propose(draft)
    assert house.consent.all() == []
    house.broken = False
    house.propose(draft)
    house.approve(draft, "bina")
    house.broken = True
    with pytest.raises(SealBroken):
        house.approve(draft, "chong")
    house.broken = False
    assert house.operators() == {"ali", "bina", "chong"}
    assert house.approve(draft, "chong")["state"] == "done"


def test_the_list_tells_what_is_open_without_payloads(house: House) -> None:
    house.propose(house.draft())
    (row,) = house.consent.all()
    assert (row["state"], row["action"], row["needed"]) == ("open", "operator.add", 2)
    assert "devi" not in str(row)


def test_where_nobody_else_has_to_agree_it_is_done_at_once(tmp_path: Path) -> None:
    house = House(tmp_path, approvals=0)
    assert house.propose(house.draft())["state"] == "done"
    assert "devi" in house.operators()
    assert house.audited() == []
    house.rows.close()
