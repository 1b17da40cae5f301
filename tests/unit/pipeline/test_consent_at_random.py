"""Operators who try anything in any order: what was done, a deliberately naive reckoning allows as well."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tests.support import logs
from tests.support.logs import VERIFIER, terms
from tests.unit.pipeline.test_consent import DAY, House

from daulat.audit.log import audit
from daulat.core import entries
from daulat.errors import DaulatError

NAMES = ("ali", "bina", "chong", "devi", "esa")
who, which = st.sampled_from(NAMES), st.integers(0, 3)
MOVES = st.one_of(
    st.tuples(st.just("add"), who, who),
    st.tuples(st.just("renew"), who, who),
    st.tuples(st.just("revoke"), who, who),
    st.tuples(st.just("approve"), who, which),
    st.tuples(st.just("replay"), who, which),
    st.tuples(st.just("forge"), who, which),
    st.tuples(st.just("wait"), st.sampled_from((1, 2, 3, 4, 97)), st.just(0)),
)


def play(house: House, moves: list[tuple[str, Any, Any]]) -> None:
    """Every move is tried; whatever is refused is refused."""
    drafts: list[dict[str, Any]] = []
    for move, first, second in moves:
        with contextlib.suppress(DaulatError, IndexError):
            if move == "wait":
                house.clock.now += first * DAY
            elif move == "add":
                drafts.append(house.draft("operator.add", **house.someone(second)))
                house.propose(drafts[-1], first)
            elif move == "renew":
                wish = {name: value for name, value in house.someone(second, days=300).items() if name != "vkey"}
                drafts.append(house.draft("operator.renew", **wish))
                house.propose(drafts[-1], first)
            elif move == "revoke":
                drafts.append(house.draft("operator.revoke", name=second, reason="left"))
                house.propose(drafts[-1], first)
            elif move == "approve":
                house.approve(drafts[second], first)
            elif move == "replay":
                house.propose(drafts[second], first)
            else:  # an approval of one proposal, shown as that of another
                other = {**drafts[second], "proposal": drafts[second - 1]["proposal"]}
                house.approve(other, first)


def naive(log: list[bytes], needed: int) -> Iterator[str]:
    """What was done, and should not have been: by reading the log once, and believing its signatures."""
    read = [json.loads(entry) for entry in log]
    done: set[int] = set()
    for at, entry in enumerate(read):
        if entry["type"] != "operator.action/v2":
            continue
        proposal = read[entry["proposal"]]
        ends = {each["vkey"]: each["not_after"] for each in read[:at] if each["type"] == "key/v1"}
        keys = [read[read[index]["key"]] for index in entry["approvals"]]
        holders = {key["name"] for key in keys if entry["time"] <= ends[key["vkey"]]}
        if proposal["action"] == "operator.renew":
            holders -= {entry["subject"]}
        if len(holders - {read[proposal["key"]]["name"]}) < needed:
            yield "too few"
        if any(read[index]["proposal"] != entry["proposal"] for index in entry["approvals"]):
            yield "for something else"
        if entry["proposal"] in done or entry["time"] > proposal["expires"]:
            yield "twice, or too late"
        done.add(entry["proposal"])


@settings(
    derandomize=True,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=None,
)
@given(moves=st.lists(MOVES, min_size=4, max_size=24), approvals=st.integers(1, 2))
def test_nothing_is_done_that_a_naive_reckoning_would_not_allow(
    tmp_path_factory: pytest.TempPathFactory, moves: list[tuple[str, Any, Any]], approvals: int
) -> None:
    house = House(tmp_path_factory.mktemp("house"), approvals)
    play(house, moves)
    assert list(naive(house.log, approvals)) == []
    assert house.audited() == []
    house.rows.close()


@pytest.fixture(scope="module")
def agreed(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """A log in which somebody was added, somebody renewed and somebody revoked by consent."""
    house = House(tmp_path_factory.mktemp("agreed"))
    renewed = {"name": "ali", "citizenship": "MY", "assurance": "high", "days": 365}
    leaves = {"name": "chong", "reason": "left"}
    for act in (
        ("operator.add", house.someone("devi")),
        ("operator.renew", renewed),
        ("operator.revoke", leaves),
    ):
        draft = house.draft(act[0], **act[1])
        house.propose(draft)
        for name in ("bina", "devi" if "devi" in house.operators() else "chong"):
            house.approve(draft, name)
    house.rows.close()
    return house.log


SIGNED = {"proposal/v1": ("proposal", "action", "prior", "payload", "expires", "key", "signature"),
          "approval/v1": ("proposal", "key", "signature"),
          "operator.action/v2": ("proposal", "approvals", "time")}  # fmt: skip


@settings(derandomize=True, max_examples=300, deadline=None)
@given(data=st.data())
def test_any_change_of_what_was_signed_is_a_lie(agreed: list[bytes], data: st.DataObject) -> None:
    values = [json.loads(entry) for entry in agreed]
    at = data.draw(st.sampled_from([i for i, value in enumerate(values) if value["type"] in SIGNED]))
    field = data.draw(st.sampled_from(SIGNED[values[at]["type"]]))
    old = values[at][field]
    if field == "approvals":
        new: Any = data.draw(st.sampled_from([old[:1], [], [old[0], old[0]]]))
    elif field == "time":
        new = old + 40 * DAY
    elif isinstance(old, int):
        new = data.draw(st.integers(0, len(values) - 1) if field != "expires" else st.integers(0, 1 << 50))
    else:
        place = data.draw(st.integers(0, len(old) - 1))
        new = old[:place] + data.draw(st.sampled_from("0123456789abcdef=+/A\n")) + old[place + 1 :]
    assume(new != old)
    if field == "key":  # whoever was renewed has two certificates of one key, and both were good then
        assume(values[new].get("vkey") != values[old]["vkey"])
    values[at][field] = new
    changed = [*agreed[:at], entries.encode(values[at]["type"], {k: v for k, v in values[at].items() if k != "type"})]
    report = audit(logs.publish([*changed, *agreed[at + 1 :]], {}), VERIFIER, replace(terms(), now=logs.T0 + 400 * DAY))
    assert not report.holds, (at, field, new)


def test_what_was_agreed_to_holds_as_it_stands(agreed: list[bytes], tmp_path: Path) -> None:
    assert audit(logs.publish(agreed, {}), VERIFIER, terms()).holds
