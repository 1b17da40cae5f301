"""What may come into force where several have to agree: by its digest, and charter and rules once an agreement."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from daulat.core.consent import naming
from daulat.errors import InvalidRequest, NotFound
from daulat.pipeline.agreed import Agreed, Naming

OLD, NEW, OTHER = "a" * 64, "b" * 64, "c" * 64


class Tables:
    """A control database of which only this is seen."""

    def __init__(self, approvals: int = 2) -> None:
        self.held = {
            ("charter/v1", ""): {"origin": "log/1", "position": 10, "value": {"approvals": approvals, "sha256": OLD}},
            ("policy/v1", ""): {"origin": "log/1", "position": 11, "value": {"version": OLD}},
        }
        self.proposals: list[dict[str, Any]] = []
        self.glasses: list[dict[str, Any]] = []

    def live(self, kind: str, name: str = "") -> dict[str, Any] | None:
        return self.held.get((kind, name))

    def rows(self, table: str) -> list[dict[str, Any]]:
        return self.proposals if table == "proposals" else self.glasses

    def propose(self, action: str, digest: str, position: int = 20, **changes: Any) -> None:
        row = {"action": action, "payload": naming(digest).decode(), "position": position, "origin": "log/1", "done": 1}
        self.proposals.append({**row, **changes})


CHANGES = [("charter.change", "charter"), ("policy.change", "policy")]


@pytest.mark.parametrize(("action", "method"), CHANGES)
def test_what_is_in_force_stays_and_anything_else_needs_an_agreement(action: str, method: str) -> None:
    tables = Tables()
    may = getattr(Agreed(tables), method)
    assert may(OLD)
    assert not may(NEW)
    tables.propose(action, NEW)
    assert may(NEW)
    assert not may(OTHER)


@pytest.mark.parametrize(("action", "method"), CHANGES)
@pytest.mark.parametrize(
    "changes",
    [
        {"done": None},
        {"position": 5},
        {"origin": "log/2"},
        {"payload": NEW},
        {"action": "model.admit"},
    ],
    ids=str,
)
def test_what_is_open_or_older_or_of_another_log_or_act_is_no_agreement(
    action: str, method: str, changes: dict[str, Any]
) -> None:
    tables = Tables()
    tables.propose(**{"action": action, "digest": NEW, **changes})
    assert not getattr(Agreed(tables), method)(NEW)


def test_an_agreement_to_a_charter_is_good_for_once() -> None:
    tables = Tables()
    tables.propose("charter.change", NEW, 20)
    charter = tables.held["charter/v1", ""]
    charter |= {"position": 30, "value": {"approvals": 2, "sha256": NEW}}  # it came into force
    assert not Agreed(tables).charter(OLD)
    tables.propose("charter.change", OLD, 40)
    charter |= {"position": 50, "value": {"approvals": 2, "sha256": OLD}}
    assert not Agreed(tables).charter(NEW), "it was agreed to, and was in force once"


def test_where_nobody_else_has_to_agree_anything_may() -> None:
    for tables in (Tables(approvals=0), Tables()):
        if tables.held["charter/v1", ""]["value"]["approvals"]:
            tables.held.clear()  # a first start
        agreed = Agreed(tables)
        assert (agreed.needed, agreed.charter(NEW), agreed.policy(NEW), agreed.model(NEW)) == (0, True, True, True)


def test_a_model_is_agreed_to_once_and_for_all() -> None:
    tables = Tables()
    agreed = Agreed(tables)
    assert not agreed.model(NEW)
    tables.propose("model.admit", NEW, 3, origin="log/0")
    assert agreed.model(NEW)
    tables.held["admitted", OTHER] = {"origin": "log/1", "position": 1, "value": {}}
    assert agreed.model(OTHER), "it was admitted before"


def test_the_payload_names_a_digest_and_nothing_else() -> None:
    seen: list[str] = []
    act = Naming(seen.append)
    assert act.read(act.payload({"digest": NEW})) == {"digest": NEW}
    assert act.prior({"digest": NEW}) == ""
    assert seen == [NEW]
    for payload in ("", NEW, f"{NEW}\n\n", f"{NEW}\nmore", f"{NEW.upper()}\n", json.dumps({"digest": NEW})):
        with pytest.raises(InvalidRequest, match="64 hex digits, and a newline"):
            act.read(payload)
    for arguments in ({}, {"digest": "short"}, {"digest": NEW, "more": 1}, {"digest": None}):
        with pytest.raises(InvalidRequest, match="takes a digest"):
            act.prior(arguments)
    prepared = act.prepare({"digest": NEW})
    assert (prepared.subject, asyncio.run(prepared.carry_out())) == (NEW, {"digest": NEW})  # type: ignore[arg-type]


def test_what_is_not_there_cannot_be_proposed() -> None:
    def missing(_digest: str) -> None:
        raise NotFound("no such model")

    with pytest.raises(NotFound):
        Naming(missing).prior({"digest": NEW})
