"""Operators stay for longer by consent, with the key that they have; and only who may sign then is agreed with."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support import logs
from tests.unit.pipeline.test_consent import DAY, House, run

from daulat.core import entries
from daulat.core.charter import Charter
from daulat.errors import Conflict, InvalidRequest, NotFound, PermissionDenied, SealBroken
from daulat.pipeline.administer import Credentials
from daulat.pipeline.eligible import ending, no_operator, signing
from daulat.pipeline.operators import certified


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """Of ali, bina, chong and devi; the first three came by the ceremony, all for 100 days."""
    made = House(tmp_path)
    agreed(made, made.draft())
    assert made.operators() == {"ali", "bina", "chong", "devi"}
    yield made
    assert made.audited() == []
    made.rows.close()


def agreed(house: House, draft: dict[str, Any], by: str = "ali", others: tuple[str, str] = ("bina", "chong")) -> Any:
    house.propose(draft, by)
    house.approve(draft, others[0])
    done = house.approve(draft, others[1])
    assert done["state"] == "done"
    return done["result"]


def wish(name: str, **changes: Any) -> dict[str, Any]:
    return {"name": name, "citizenship": "MY", "assurance": "high", "days": 365, **changes}


def renewal(house: House, name: str, **changes: Any) -> dict[str, Any]:
    return house.draft("operator.renew", **wish(name, **changes))


def person(house: House, name: str) -> dict[str, Any]:
    (found,) = [row for row in house.rows.rows("people") if row["name"] == name]
    return found


def key(house: House, name: str) -> dict[str, Any]:
    (found,) = [row for row in house.rows.rows("operator_keys") if row["person"] == person(house, name)["id"]]
    return found


def test_an_operator_stays_with_the_key_and_the_pseudonym_that_they_have(house: House) -> None:
    before, was = key(house, "devi"), person(house, "devi")
    result = agreed(house, renewal(house, "devi", assurance="substantial"))
    assert result == {
        "id": was["id"],
        "name": "devi",
        "vkey": before["vkey"],
        "expires": house.clock.now + 365 * DAY,
    }
    now, certificate = person(house, "devi"), entries.decode(house.log[-1])
    assert (now["assurance"], now["expires"], now["until"], now["version"]) == (
        "substantial",
        result["expires"],
        result["expires"],
        2,
    )
    assert key(house, "devi") == {**before, "position": len(house.log) - 1}
    assert (certificate["type"], certificate["vkey"], certificate["not_after"]) == (
        "key/v1",
        before["vkey"],
        result["expires"],
    )
    action = entries.decode(house.log[-2])
    assert action["subject"] == before["vkey"].partition("+")[0]
    assert action["detail"]["expires"] == result["expires"]
    assert len(house.rows.rows("operator_keys")) == 4, "one human is one operator"


def test_an_installation_goes_on_for_years_because_operators_are_renewed_in_time(house: House) -> None:
    for _ in range(3):
        house.clock.now += 90 * DAY
        for name, others in (("ali", ("bina", "chong")), ("bina", ("ali", "chong")), ("chong", ("ali", "bina"))):
            agreed(house, renewal(house, name, days=100), name, others)
    agreed(house, house.draft("operator.add", **house.someone("esa")))
    assert len(signing(house.rows, house.charter, house.clock.now)) == 4, "devi was forgotten, and esa came"


def test_whoever_has_expired_is_renewed_by_those_who_have_not(house: House) -> None:
    house.clock.now += 50 * DAY
    for name, others in (("ali", ("bina", "chong")), ("bina", ("ali", "chong")), ("chong", ("ali", "bina"))):
        agreed(house, renewal(house, name), name, others)
    house.clock.now += 51 * DAY
    late = house.draft("operator.add", **house.someone("esa"))
    with pytest.raises(PermissionDenied, match="eligibility has expired"):
        house.propose(late, "devi")
    agreed(house, renewal(house, "devi"))
    agreed(house, late, "devi")
    assert "esa" in house.operators()


def test_nobody_vouches_for_themselves(house: House) -> None:
    draft = renewal(house, "bina")
    house.propose(draft)
    with pytest.raises(PermissionDenied, match="nobody vouches for themselves") as refused:
        house.approve(draft, "bina")
    assert refused.value.code == "own_renewal"
    house.approve(draft, "chong")
    assert house.approve(draft, "devi")["state"] == "done"


def test_three_of_whom_two_must_agree_renew_each_other_as_each_proposes_their_own(tmp_path: Path) -> None:
    house = House(tmp_path)
    agreed(house, renewal(house, "bina"), "bina", ("ali", "chong"))
    assert house.audited() == []
    house.rows.close()


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"name": "nobody"}, NotFound, "no operator 'nobody'"),
        ({"citizenship": "SG"}, InvalidRequest, "a citizen of MY"),
        ({"assurance": "low"}, InvalidRequest, "substantial at least"),
        ({"days": 0}, InvalidRequest, "1 to 3650"),
        ({"days": 3651}, InvalidRequest, "1 to 3650"),
        ({"days": "365"}, InvalidRequest, "operator.renew takes .*wrong or missing: days"),
        ({"vkey": "v"}, InvalidRequest, "wrong or missing: vkey"),
        ({"days": 100}, Conflict, "stays for longer already"),
    ],
    ids=str,
)
def test_what_is_no_renewal_cannot_be_proposed(
    house: House, changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        renewal(house, **{"name": "devi", **changes})


def test_who_was_revoked_is_not_renewed(house: House) -> None:
    agreed(house, house.draft("operator.revoke", name="devi", reason="left"))
    with pytest.raises(NotFound, match="no operator 'devi'"):
        renewal(house, "devi")


def test_a_renewal_is_for_the_operator_as_they_were(house: House) -> None:
    first, second = renewal(house, "devi"), renewal(house, "devi", days=300)
    other = house.draft("operator.add", **house.someone("esa"))
    for draft in (first, second, other):
        house.propose(draft)
    for name in ("bina", "chong"):
        house.approve(first, name)
    with pytest.raises(Conflict, match="stays for longer already"):
        house.approve(second, "bina")
    house.approve(other, "bina")
    assert house.approve(other, "chong")["state"] == "done", "nobody came or went"


def test_a_new_shard_has_the_new_end(house: House) -> None:
    end = agreed(house, renewal(house, "devi"))["expires"]
    seen: dict[str, int] = {}

    async def certify(vkey: str, until: int) -> int:
        seen[vkey] = until
        return 900

    run(certified(house.rows, certify, "log/next"))
    assert seen[key(house, "devi")["vkey"]] == end


def test_what_was_cut_off_is_agreed_to_anew(house: House) -> None:
    draft, whole = renewal(house, "devi"), house._append

    async def cut(new: list[str]) -> list[int]:
        if '"type":"key/v1"' in new[0]:
            raise SealBroken("the log could not be written")
        return await whole(new)

    house.propose(draft)
    house.approve(draft, "bina")
    house.book._append = cut  # type: ignore[method-assign]
    with pytest.raises(SealBroken):
        house.approve(draft, "chong")
    house.book._append = whole  # type: ignore[method-assign]
    assert person(house, "devi")["version"] == 1
    agreed(house, renewal(house, "devi"))


def test_who_was_renewed_and_then_revoked_signs_nothing_in_any_shard(house: House) -> None:
    agreed(house, renewal(house, "devi"))
    agreed(house, house.draft("operator.revoke", name="devi", reason="left"))
    with pytest.raises(PermissionDenied, match="not that of an operator"):
        house.propose(house.draft("operator.add", **house.someone("esa")), "devi")


def test_revoking_leaves_as_many_as_may_sign_and_the_expired_are_none_of_them(house: House) -> None:
    house.rows.change("people", person(house, "devi")["id"], expires=house.clock.now)
    with pytest.raises(Conflict, match="2 operators would be left, and nothing could be agreed to by fewer than 3"):
        house.draft("operator.revoke", name="chong", reason="left")
    agreed(house, house.draft("operator.revoke", name="devi", reason="has expired, and does not come back"))


# Whose approval counts.

WORSE: list[dict[str, Any]] = [
    {"expires": 0},
    {"until": 1},
    {"citizenship": "SG"},
    {"assurance": "low"},
    {"issuer": "https://id.example"},
    {"roles": ["user"]},
]


@pytest.mark.parametrize("change", WORSE, ids=str)
def test_an_approval_counts_only_while_its_signer_may_sign(house: House, change: dict[str, Any]) -> None:
    house.consent._charter = replace(house.charter, issuers=("operator",))
    draft, bina = house.draft("operator.add", **house.someone("esa")), person(house, "bina")
    house.propose(draft)
    house.approve(draft, "bina")
    house.rows.change("people", bina["id"], **change)
    shown = house.approve(draft, "chong")
    assert (shown["state"], shown["approved_by"], shown["left"]) == ("open", ["bina", "chong"], 1)
    assert "esa" not in house.operators()
    assert house.approve(draft, "devi")["state"] == "done"
    action = next(e for e in map(entries.decode, reversed(house.log)) if e["type"] == "operator.action/v2")
    assert len(action["approvals"]) == 2, "bina's is none of them"


def test_who_expires_between_approval_and_the_act_did_not_agree_and_the_audit_says_so_too(house: House) -> None:
    for name, others in (("ali", ("bina", "chong")), ("chong", ("ali", "bina")), ("devi", ("ali", "bina"))):
        agreed(house, renewal(house, name), name, others)
    house.clock.now += 98 * DAY
    draft = house.draft("operator.add", **house.someone("esa"))
    house.propose(draft)
    house.approve(draft, "bina")
    house.clock.now += 3 * DAY
    assert house.approve(draft, "chong")["left"] == 1
    assert house.approve(draft, "devi")["state"] == "done"
    assert house.audited() == []
    lied = entries.decode(house.log[-2])
    positions = [row["position"] for row in house.rows.rows("approvals") if row["proposal"] == draft["proposal"]]
    log = house.log
    house.log = [*log[:-2], entries.encode(lied.pop("type"), {**lied, "approvals": positions[:2]}), log[-1]]
    assert any("approval of 1 others, 2 are needed" in words for words in house.audited())
    house.log = log


TERMS: list[dict[str, Any]] = [
    {},
    {"assurance": "high"},
    {"operators": ("SG",)},
    {"issuers": ("https://id.example",)},
]


def test_the_admin_api_and_consent_say_the_same_of_everybody(house: House) -> None:
    agreed(house, renewal(house, "bina", assurance="substantial"), "bina", ("ali", "chong"))
    bina, now, seen = person(house, "bina"), house.clock.now, set()
    for change, terms in itertools.product([{"version": 1}, *WORSE], TERMS):
        charter: Charter = replace(house.charter, **{"issuers": ("operator",), **terms})
        house.rows.change("people", bina["id"], **{**bina, **change})
        changed = person(house, "bina")
        actor = Credentials(house.rows, house.clock, charter).of(changed, now + DAY)
        why = no_operator(house.rows, changed, charter, now)
        seen.add(why)
        assert (actor.role == "operator") == (why == "")
        assert (key(house, "bina")["id"] in signing(house.rows, charter, now)) == (why == "")
        if "roles" not in change:
            assert actor.why == why
    assert len(seen) == 10, seen


# Before it is too late.


def test_there_is_a_warning_while_enough_may_still_renew(house: House) -> None:
    now, charter = house.clock.now, house.charter
    assert ending(house.rows, charter, now) == ""
    warned = ending(house.rows, charter, now + 41 * DAY)
    assert warned.startswith("from ")
    assert "on fewer than 3 operators may sign" in warned
    assert "renew-operator" in warned
    assert "0 operators may sign, and 3 are needed" in ending(house.rows, charter, now + 100 * DAY)
    assert ending(house.rows, replace(charter, approvals=0), now + 100 * DAY) == "", "one alone has no others"
    for name, others in (("ali", ("bina", "chong")), ("bina", ("ali", "chong"))):
        agreed(house, renewal(house, name), name, others)
    assert ending(house.rows, charter, now + 41 * DAY) == warned, "two are not enough"
    agreed(house, renewal(house, "chong"), "chong", ("ali", "bina"))
    assert ending(house.rows, charter, now + 41 * DAY) == ""


def test_a_ceremony_whose_charter_counts_nobodys_word_is_not_drawn_up(house: House) -> None:
    text = logs.charter(approvals=2, profile="production", issuers='["https://id.example"]')["text"]
    with pytest.raises(InvalidRequest, match="issuers leave out 'operator'"):
        house.drawn(text)
