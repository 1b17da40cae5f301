"""The key ceremony: drawn up, signed by everybody, written into the log once; whoever changes a letter has none."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support import logs
from tests.support.logs import ORIGIN, T0
from tests.unit.pipeline.test_consent import DAY, House

from daulat.core import charter as charters
from daulat.core import entries
from daulat.core.ceremony import Seat
from daulat.errors import ConfigError, InvalidRequest, PermissionDenied, SealBroken
from daulat.pipeline import establish
from daulat.pipeline.ceremony import Drawn, draw, parse, restate
from daulat.pipeline.consent import public
from daulat.tlog.note import Signer

PRODUCTION = logs.charter(approvals=2, profile="production")


def hold(house: House, drawn: Drawn) -> None:
    """As the next start does: first the charter, then the ceremony."""
    house.charter = charters.parse(drawn.charter)
    index = asyncio.run(establish.charter(house.book, house.charter, drawn.charter))
    asyncio.run(house.holding.hold(drawn, index, house.charter))


@pytest.fixture
def evaluation(tmp_path: Path) -> House:
    """Ali, bina and chong have managed it, each alone."""
    return House(tmp_path, approvals=0)


def types(house: House) -> list[str]:
    return [entries.decode(entry)["type"] for entry in house.log]


def test_an_evaluation_goes_into_production_with_those_who_took_part(evaluation: House) -> None:
    before = len(evaluation.log)
    hold(evaluation, evaluation.drawn(PRODUCTION["text"], "ali", "devi", "esa"))
    assert evaluation.operators() == {"ali", "devi", "esa"}, "bina and chong took no part"
    assert types(evaluation)[before:] == ["charter/v1", "ceremony/v1", "key/v1", "key/v1"], "ali's key is there already"
    assert evaluation.audited() == []
    assert not any(name in entry for entry in evaluation.log for name in (b"devi", b"esa")), "names stay here"
    gone = [row["name"] for row in evaluation.rows.rows("people") if row["expires"] <= evaluation.clock.now]
    assert gone == ["bina", "chong"]


def test_it_is_held_once_however_often_the_service_starts(evaluation: House) -> None:
    drawn = evaluation.drawn(PRODUCTION["text"])
    for _ in range(3):
        hold(evaluation, drawn)
    assert types(evaluation).count("ceremony/v1") == 1
    assert len(evaluation.rows.rows("operator_keys")) == 3
    assert evaluation.audited() == []


@pytest.mark.parametrize("at", range(4))
def test_it_goes_on_where_it_was_cut_off(evaluation: House, at: int) -> None:
    drawn, size, whole = evaluation.drawn(PRODUCTION["text"], "ali", "devi", "esa"), len(evaluation.log), House._append

    async def failing(house: House, new: list[str]) -> list[int]:
        if len(house.log) >= size + at:
            raise SealBroken("the log could not be written")
        return await whole(house, new)

    evaluation.book._append = lambda new: failing(evaluation, new)  # type: ignore[method-assign]
    with pytest.raises(SealBroken):
        hold(evaluation, drawn)
    evaluation.book._append = evaluation._append  # type: ignore[method-assign]
    hold(evaluation, drawn)
    assert evaluation.operators() == {"ali", "devi", "esa"}
    assert types(evaluation).count("ceremony/v1") == 1
    assert evaluation.audited() == []


def test_whoever_was_revoked_since_stays_so_with_the_next_start(tmp_path: Path) -> None:
    house = House(tmp_path)
    draft = house.draft()
    house.propose(draft)
    house.approve(draft, "bina")
    house.approve(draft, "chong")
    leaving = house.draft("operator.revoke", name="chong", reason="left")
    house.propose(leaving)
    house.approve(leaving, "bina")
    house.approve(leaving, "devi")
    asyncio.run(house.holding.hold(None, 0, house.charter))
    assert house.operators() == {"ali", "bina", "devi"}
    assert house.audited() == []


def test_a_new_shard_states_it_again_as_it_was_signed(tmp_path: Path) -> None:
    house = House(tmp_path)
    held = house.book.held("ceremony/v1")
    assert held is not None
    house.book.origin = "ai.example/2027"
    asyncio.run(restate(house.book, 0))
    said = entries.decode(house.log[-1])
    assert said["restates"] == {"origin": ORIGIN, "index": held["position"]}
    same = ("origin", "begun", "sha256", "operators", "signatures", "roster")
    assert {name: said[name] for name in same} == {name: held["value"][name] for name in same}
    size = len(house.log)
    asyncio.run(restate(house.book, 0))
    assert len(house.log) == size


def test_a_file_goes_from_hand_to_hand_and_says_who_is_missing(evaluation: House) -> None:
    whole = evaluation.drawn(PRODUCTION["text"])
    drawn = replace(whole, signatures=(None,) * 3)
    assert drawn.missing() == ["ali", "bina", "chong"]
    for name in ("bina", "ali"):
        key = evaluation.keys[name]
        drawn = parse(drawn.signed(key.vkey, key.sign_bytes(drawn.ceremony.statement())).encode())
    assert drawn.missing() == ["chong"]
    with pytest.raises(PermissionDenied, match="none of those that the ceremony names"):
        drawn.signed(evaluation.keys["esa"].vkey, bytes(64))
    with pytest.raises(PermissionDenied, match="is not signed so"):
        drawn.signed(evaluation.keys["chong"].vkey, bytes(64))
    assert parse(whole.encode()) == whole


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda value: value["operators"][0].update(name="somebody"), "is not signed|an operator has not signed"),
        (lambda value: value["operators"][0].update(citizenship="MY "), "has not signed|is of"),
        (lambda value: value["operators"].pop(), "at least 3 are needed"),
        (lambda value: value.update(charter=value["charter"].replace("approvals = 2", "approvals = 1")), "not signed"),
        (lambda value: value.update(begun=value["begun"] + 1), "not signed"),
        (lambda value: value.update(rules="2" * 64), "not signed"),
    ],
)
def test_whoever_changes_a_letter_has_a_ceremony_that_nobody_signed(evaluation: House, change: Any, words: str) -> None:
    value = json.loads(evaluation.drawn(PRODUCTION["text"]).encode())
    change(value)
    drawn = parse(json.dumps(value))
    evaluation.charter = charters.parse(drawn.charter)
    with pytest.raises(ConfigError, match=words):
        asyncio.run(evaluation.holding.hold(drawn, 0, evaluation.charter))
    assert "ceremony/v1" not in types(evaluation)


def test_a_ceremony_too_old_or_from_tomorrow_is_not_held(evaluation: House) -> None:
    drawn = evaluation.drawn(PRODUCTION["text"])
    for moved in (32 * DAY, -DAY):
        evaluation.clock.now = T0 + moved
        with pytest.raises(ConfigError, match="within 31 days"):
            hold(evaluation, drawn)


def seats(house: House, count: int = 3, **changes: Any) -> list[tuple[str, Seat]]:
    made = {"citizenship": "MY", "assurance": "high", "expires": T0 + DAY, **changes}
    return [(name, Seat(house.keys[name].vkey, **made)) for name in ("ali", "bina", "chong")[:count]]


@pytest.mark.parametrize(
    ("text", "changes", "words"),
    [
        (logs.charter_text(), {}, "for profile production"),
        (PRODUCTION["text"].replace("floor = 1\n", ""), {}, "sets a floor"),
        (PRODUCTION["text"], {"count": 2}, "at least 3 are needed"),
        (PRODUCTION["text"], {"citizenship": "SG"}, "the charter asks for MY"),
        (PRODUCTION["text"], {"assurance": "low"}, "asks for substantial"),
        (PRODUCTION["text"], {"expires": T0}, "eligible no longer"),
    ],
)
def test_what_cannot_begin_production_is_not_drawn_up(
    evaluation: House, text: str, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words):
        draw(ORIGIN, T0, text, "1" * 64, (), seats(evaluation, **changes))
    twice = [*seats(evaluation), seats(evaluation)[0]]
    with pytest.raises(InvalidRequest, match="two operators with one key; two operators of one name"):
        draw(ORIGIN, T0, PRODUCTION["text"], "1" * 64, (), twice)
    (_, seat), *others = seats(evaluation)
    with pytest.raises(InvalidRequest, match="holds an identity number"):
        draw(ORIGIN, T0, PRODUCTION["text"], "1" * 64, (), [("900101-14-5678", seat), *others])


def test_keys_that_end_alike_are_two() -> None:
    """Base64 has a "+" of its own, so that what follows the last one may be nothing."""
    keys = [Signer(name, number.to_bytes(32, "big")) for name, number in (("ali", 31), ("bina", 46), ("chong", 59))]
    assert all(key.vkey.endswith("+") for key in keys)
    made = [(key.name, Seat(key.vkey, "MY", "high", T0 + DAY)) for key in keys]
    drawn = draw(ORIGIN, T0, PRODUCTION["text"], "1" * 64, (), made)
    assert len({seat.key for seat in drawn.ceremony.seats}) == 3
    assert [public(key.vkey) for key in keys] == [seat.key for _, seat in made]
    assert all(public(key.vkey).encode() in drawn.ceremony.statement() for key in keys), "whole, in what is signed"


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": "daulat/key-ceremony/v1"}', "x" * 300_000, "[" * 10_000])
def test_what_is_no_ceremony_is_said_to_be_none(text: str) -> None:
    with pytest.raises(ConfigError, match=r"daulat/key-ceremony/v1|characters"):
        parse(text)
