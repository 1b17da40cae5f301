"""Breaking glass: one does what cannot wait, everybody is told, two others close the review; and the audit says so."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support import logs
from tests.support.logs import VERIFIER, terms
from tests.unit.pipeline.test_consent import DAY, House

from daulat.audit.log import Report, audit
from daulat.core import entries
from daulat.core.consent import Proposed, naming
from daulat.core.glass import Broken, reason
from daulat.errors import Conflict, InvalidRequest, NotFound, PermissionDenied
from daulat.pipeline.agreed import Agreed, Naming
from daulat.pipeline.consent import Signature
from daulat.pipeline.glass import Glass

HOUR = 3_600_000
DIGEST = "d" * 64


class Emergency(House):
    """A house with rules that could come into force, and people who are told."""

    def __init__(self, folder: Path, approvals: int = 2) -> None:
        super().__init__(folder, approvals)
        self.acts["policy.change"] = self.acts["model.admit"] = Naming(lambda _digest: None)
        self.told: list[Mapping[str, Any]] = []
        self.deaf: list[str] = []
        self.glass = Glass(self.rows, self.book, self.clock, 0, self.charter, self.consent, self.tell)

    async def tell(self, notice: Mapping[str, Any]) -> list[str]:
        self.told.append(notice)
        return self.deaf

    def draft_(self, action: str = "policy.change", cause: str = "security", **given: Any) -> dict[str, Any]:
        arguments = {"digest": DIGEST} if action != "operator.add" else self.someone("devi")
        return self.glass.draft(action, arguments, cause, given.get("words", "strangers"), given.get("hours", 1))

    def break_(self, draft: Mapping[str, Any], who: str = "ali", **changes: Any) -> dict[str, Any]:
        data = replace(broken(draft), **changes).statement()
        return asyncio.run(self.glass.break_(draft, self.sign(data, who)))

    def review(self, draft: Mapping[str, Any], who: str, verdict: str = "justified", of: str = "") -> dict[str, Any]:
        data = broken(draft).review(of or verdict)
        return asyncio.run(self.glass.review(draft["proposal"], verdict, self.sign(data, who)))

    def sign(self, data: bytes, who: str) -> Signature:
        return Signature(self.keys[who].vkey, base64.b64encode(self.keys[who].sign_bytes(data)).decode())

    def report(self, after: int = 0) -> Report:
        held = replace(terms(), now=self.clock.now + after)
        return audit(logs.publish(self.log, {}), VERIFIER, held)


def broken(draft: Mapping[str, Any]) -> Broken:
    names = ("origin", "proposal", "action", "prior", "payload", "expires")
    made = Proposed.of(*(draft[name] for name in names))
    return Broken(made, draft["cause"], reason(draft["words"], draft["nonce"]))


def lies(report: Report) -> str:
    return " ".join(str(finding) for finding in report.findings.kept if finding.lie)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Emergency]:
    made = Emergency(tmp_path)
    yield made
    made.rows.close()


def test_it_is_done_at_once_and_everybody_is_told_before(house: Emergency) -> None:
    draft = house.draft_()
    assert draft["payload"].encode() == naming(DIGEST), "the bytes that would have been proposed"
    done = house.break_(draft)
    assert (done["done"], done["state"], done["by"], done["reviews"]) == (True, "open", "ali", [])
    assert [(notice["action"], notice["by"], notice["words"]) for notice in house.told] == [
        ("policy.change", "ali", "strangers")
    ]
    assert [entries.decode(entry)["type"] for entry in house.log[-2:]] == ["break-glass/v1", "operator.action/v3"]
    assert b"strangers" not in house.log[-2], "words stay here"
    report = house.report()
    assert lies(report) == ""
    weak = " ".join(str(finding) for finding in report.findings.kept)
    assert "glass was broken for policy.change (security)" in weak
    assert "the review is open" in weak


def test_two_others_close_the_review_and_nobody_else(house: Emergency) -> None:
    draft = house.draft_()
    house.break_(draft)
    with pytest.raises(PermissionDenied, match="does not review it"):
        house.review(draft, "ali")
    assert house.review(draft, "bina")["state"] == "open"
    with pytest.raises(Conflict, match="has reviewed it already"):
        house.review(draft, "bina")
    with pytest.raises(PermissionDenied, match="not that of an operator"):
        house.review(draft, "devi")
    with pytest.raises(PermissionDenied, match="not signed"):
        house.review(draft, "chong", "justified", of="not-justified")
    with pytest.raises(InvalidRequest, match="a verdict is one of"):
        house.review(draft, "chong", "splendid")
    closed = house.review(draft, "chong", "not-justified")
    assert (closed["state"], [each["verdict"] for each in closed["reviews"]]) == (
        "closed",
        ["justified", "not-justified"],
    )
    with pytest.raises(Conflict, match="is closed"):
        house.review(draft, "chong")
    report = house.report(400 * DAY)
    assert lies(report) == ""
    assert "should not have been broken" in " ".join(str(finding) for finding in report.findings.kept)


def test_a_review_that_stays_open_is_a_lie_and_no_other_glass_is_broken(house: Emergency) -> None:
    draft = house.draft_()
    house.break_(draft)
    assert lies(house.report(HOUR + 7 * DAY)) == ""
    assert "still open, more than 7 days" in lies(house.report(HOUR + 7 * DAY + 1))
    house.clock.now += 9 * DAY
    assert house.glass.show(draft["proposal"])["state"] == "overdue"
    with pytest.raises(Conflict, match="is overdue"):
        house.break_(house.draft_("model.admit"))
    for who in ("bina", "chong"):
        house.review(draft, who)
    assert house.break_(house.draft_("model.admit"))["done"]


@pytest.mark.parametrize("action", ["operator.add"])
def test_who_decides_is_never_behind_glass(house: Emergency, action: str) -> None:
    with pytest.raises(InvalidRequest, match="never done by breaking glass"):
        house.draft_(action)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"hours": 0}, "1 to 24 hours"),
        ({"hours": 25}, "1 to 24 hours"),
        ({"words": "  "}, "say why"),
        ({"words": "x" * 2001}, "say why"),
        ({"cause": "boredom"}, "without a reason"),
    ],
)
def test_there_is_a_reason_and_an_end(house: Emergency, given: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        house.draft_(**given)


def test_nobody_signs_for_longer_than_a_day(house: Emergency) -> None:
    draft = {**house.draft_(), "expires": house.clock.now + 25 * HOUR}
    with pytest.raises(InvalidRequest, match="at most 24 hours"):
        house.break_(draft)


def test_what_was_not_signed_so_is_not_done(house: Emergency) -> None:
    draft, size = house.draft_(), len(house.log)
    for changes in ({"cause": "legal"}, {"reason": "0" * 64}, {"made": replace(broken(draft).made, payload="0" * 64)}):
        with pytest.raises(PermissionDenied, match="not signed"):
            house.break_(draft, **changes)
    with pytest.raises(PermissionDenied, match="not that of an operator"):
        house.break_(draft, "devi")
    proposal = house.signed("proposal", draft, "ali")
    with pytest.raises(PermissionDenied, match="not signed"):
        asyncio.run(house.glass.break_(draft, proposal))
    assert len(house.log) == size
    house.break_(draft)
    with pytest.raises(Conflict, match="was done already"):
        house.break_(draft)


def test_where_nobody_else_has_to_agree_there_is_no_glass(tmp_path: Path) -> None:
    house = Emergency(tmp_path, approvals=0)
    with pytest.raises(Conflict, match="nobody else has to agree"):
        house.break_(house.draft_())
    house.rows.close()


def test_what_it_was_broken_for_comes_into_force_until_its_end(house: Emergency) -> None:
    house.rows.set_live("policy/v1", "", house.book.origin, 0, '{"version": "old"}')
    assert not Agreed(house.rows, house.clock.now).policy(DIGEST)
    house.break_(house.draft_())
    assert Agreed(house.rows, house.clock.now + HOUR).policy(DIGEST)
    assert not Agreed(house.rows, house.clock.now + HOUR + 1).policy(DIGEST)
    assert not Agreed(house.rows).policy(DIGEST), "whoever does not know the time takes nothing for urgent"


def test_who_could_not_be_told_is_told_again(house: Emergency) -> None:
    house.deaf = ["url"]
    draft = house.draft_()
    assert house.break_(draft)["untold"] == ["url"]
    house.deaf = []
    asyncio.run(house.glass.tell_again())
    assert len(house.told) == 2
    assert house.glass.show(draft["proposal"])["untold"] == []
    asyncio.run(house.glass.tell_again())
    assert len(house.told) == 2


def test_an_open_review_goes_on_in_a_new_shard(house: Emergency) -> None:
    draft = house.draft_()
    house.break_(draft)
    house.review(draft, "bina")
    (row,) = house.rows.rows("glasses")
    house.book.origin = "ai.example/2027"
    asyncio.run(house.glass.begin())
    said = entries.decode(house.log[-1])
    assert said["restates"] == {"origin": logs.ORIGIN, "index": row["position"]}
    assert (said["origin"], said["signature"]) == (logs.ORIGIN, row["signature"])
    assert house.glass.show(draft["proposal"])["reviews"] == [], "what was said in the older shard is said anew"
    size = len(house.log)
    asyncio.run(house.glass.begin())
    assert len(house.log) == size
    with pytest.raises(NotFound):
        house.glass.show("proposal_" + "0" * 32)


def changed(house: Emergency, type_: str, **changes: Any) -> str:
    """What an audit says of the log with fields of the first entry of this type changed."""
    values = [entries.decode(entry) for entry in house.log]
    at = next(at for at, value in enumerate(values) if value["type"] == type_)
    fields = {**{name: value for name, value in values[at].items() if name != "type"}, **changes}
    data = [*house.log[:at], entries.encode(type_, fields), *house.log[at + 1 :]]
    held = replace(terms(), now=house.clock.now + DAY)
    return lies(audit(logs.publish(data, {}), VERIFIER, held))


@pytest.mark.parametrize(
    ("type_", "changes", "expected"),
    [
        ("break-glass/v1", {"cause": "boredom"}, "without a reason"),
        ("break-glass/v1", {"cause": ""}, "without a reason"),
        ("break-glass/v1", {"reason": ""}, "without a reason"),
        ("break-glass/v1", {"reason": "0" * 64}, "not signed"),
        ("break-glass/v1", {"payload": "0" * 64}, "not signed"),
        ("break-glass/v1", {"action": "operator.add"}, "never done by breaking glass"),
        ("break-glass/v1", {"action": "erasure.person"}, "never done by breaking glass"),
        ("break-glass/v1", {"expires": logs.T0 + 25 * HOUR}, "longer than 24 hours"),
        ("break-glass/v1", {"expires": logs.T0}, "for no time at all"),
        ("break-glass/v1", {"origin": "other.example/1"}, "for another log"),
        ("break-glass/v1", {"restates": {"origin": "ai.example/2025", "index": 1}}, "continues none"),
        ("operator.action/v3", {"time": logs.T0 + HOUR + 1}, "done after its end"),
        ("review/v1", {"verdict": "not-justified"}, "review that is not signed"),
        ("review/v1", {"verdict": "splendid"}, "says 'splendid'"),
        ("review.closed/v1", {"reviews": []}, "closed by 0 others"),
    ],
)
def test_anything_less_is_a_lie(house: Emergency, type_: str, changes: dict[str, Any], expected: str) -> None:
    draft = house.draft_()
    house.break_(draft)
    for who in ("bina", "chong"):
        house.review(draft, who)
    assert changed(house, "operator.action/v3") == ""
    assert expected in changed(house, type_, **changes)


def test_the_audit_counts_neither_the_breaker_nor_one_reviewer_twice(house: Emergency) -> None:
    draft = house.draft_()
    house.break_(draft)
    for who in ("bina", "chong"):
        house.review(draft, who)
    values = [entries.decode(entry) for entry in house.log]
    keys = {value["name"]: at for at, value in enumerate(values) if value["type"] == "key/v1"}
    breaker = values[-5]["vkey"].partition("+")[0]
    assert values[-5]["type"] == "break-glass/v1"
    mine = base64.b64encode(house.keys["ali"].sign_bytes(broken(draft).review("justified"))).decode()
    found = changed(house, "review/v1", key=keys[breaker], signature=mine)
    assert "was reviewed by whoever broke it" in found
    assert "closed by 1 others, 2 are needed" in found
    twice = changed(house, "review.closed/v1", reviews=[values[-1]["reviews"][0]] * 2)
    assert "closed by 1 others" in twice
