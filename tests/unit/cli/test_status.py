"""`daulat status`: what runs, for people and for scripts; exit 1 when nothing may be answered."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.verbs import FakeControl, Shell

SERVING: dict[str, Any] = {
    "url": "http://127.0.0.1:8470",
    "origin": "ai.example/2026",
    "profile": "evaluation",
    "ceremony": None,
    "reviews": [],
    "snapshot": 3,
    "deployments": [
        {
            "name": "tiny",
            "admitted": 9,
            "spec": {"replicas": 2},
            "status": {
                "ready_replicas": 1,
                "conditions": [
                    {"type": "Available", "status": "False", "reason": "x", "message": "1 of 2 replicas answer"},
                    {"type": "Progressing", "status": "False", "reason": "RolledBack", "message": "2 was given up"},
                ],
            },
        }
    ],
    "lease": {"entry": 12, "node": "node_1", "seconds_left": 240},
    "replicas": [
        {"id": "0123", "deployment": "tiny", "phase": "ready", "slots": 4, "last": ""},
        {"id": "4567", "deployment": "tiny", "phase": "broken", "slots": None, "last": "crashed: signal SIGKILL"},
    ],
    "waiting": [],
    "warnings": ["from 2027-01-01 on fewer than 3 operators may sign"],
    "breaches": [{"id": "breach_1", "commissioner_by": 1_750_000_000_000}],
    "not_serving_because": [],
    "log": {"origin": "ai.example/2026", "size": 20, "vkey": "v", "seconds_since_tick": 0.2},
    "processes": [
        {"name": "sequencer", "pid": 1, "starts": 1, "ready": True},
        {"name": "worker", "pid": 2, "starts": 3, "ready": False},
    ],
}


def test_a_serving_installation(run: Shell, control: FakeControl) -> None:
    control.status = SERVING
    said = run("status")
    assert said.code == 0
    for words in (
        "deployment   tiny: 1 of 2 replicas answer, admitted by entry 9; 2 was given up\n",
        "replica      0123 of tiny, ready, 4 slots\n",
        "replica      4567 of tiny, broken, stopped before: crashed: signal SIGKILL\n",
        "lease        entry 12, 240 s left",
        "20 entries",
        "warning      from 2027-01-01 on fewer than 3 operators may sign\n",
        "breach       breach_1 is open: the Commissioner was or is to be told by 2025-06-15 15:06Z\n",
        "worker (pid 2) starting, started 3 times",
    ):
        assert words in said.out
    assert run("status", "--json").value == SERVING


@pytest.mark.parametrize(
    "change",
    [
        {"lease": None, "not_serving_because": ["the lease was revoked (canary: escaped)"]},
        {"not_serving_because": ["the engine stopped (crashed) and is being started again"]},
        {"not_serving_because": ["12 MiB are free at /x, 256 are needed: make room"]},
    ],
    ids=str,
)
def test_an_installation_that_may_not_answer_says_why_and_exits_with_1(
    run: Shell, control: FakeControl, change: dict[str, Any]
) -> None:
    control.status = SERVING | change
    said = run("status")
    assert said.code == 1
    assert f"not serving  {change['not_serving_because'][0]}" in said.out
    scripted = run("status", "--json")
    assert (scripted.code, scripted.value) == (1, control.status)
