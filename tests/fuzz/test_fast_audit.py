"""The fast way through a log and the slow one find the same: on lawful entries, on lies, on broken bytes."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from tests.support import logs
from tests.support.logs import FAILED, LIMITED, REFUSED, T0, UNDER_RENEWED, VERIFIER, Published, Ref, Step, terms

from daulat.audit import fast
from daulat.audit.log import Report, audit
from daulat.core import entries

OPENING = 12  # requests behind the story, for the fast way to learn from
KINDS: list[dict[str, Any]] = [
    UNDER_RENEWED,
    {**UNDER_RENEWED, "admission.stream": True},
    {**UNDER_RENEWED, "admission.action": "embeddings"},
    {**UNDER_RENEWED, "admission.attributes.roles": ["tenant-admin", "user"]},
    FAILED,
    REFUSED,
    LIMITED,
]
_TIMES = [T0 - 1, T0, T0 + 9000, T0 + 9100, T0 + 309_099, T0 + 309_100, T0 + 400_000, 0, 10**12, 10**13]
LIES: dict[str, list[Any]] = {
    "admission.request_id": ["mine", "req_" + "F" * 32, logs.request_id(9)],
    "admission.time": _TIMES,
    "completion.time": _TIMES,
    "admission.tenant": ["u" * 22, "u" * 21, "u" * 23, 'a"b', 7],
    "admission.principal": ["q" * 22, None, "é" * 22],
    "admission.key": ["", "l" * 22],
    "admission.action": ["train", "completions", ""],
    "admission.effect": ["allow", "deny", "maybe"],
    "admission.policies": [[], ["gateway.rate"], ["use.permit", "x"], "use.permit"],
    "admission.snapshot": [4, "x", None],
    "admission.policy": [0, 2, 99, None],
    "admission.model": [5, 6, None, -1],
    "admission.replica": [8, 9, None, True],
    "admission.lease": [7, 15, 99, None],
    "admission.worker": [1, 3, 0, None],
    "admission.sequence": [0, 1, 5, 10**6, 10**15, "7", -1, 2.5],
    "admission.requested_model": ["", 'a"', "é", "a\u007fb", None, "x" * 128],
    "admission.stream": [True, False, None, 1],
    "admission.request": ["A" * 43 + "=", "A" * 44, None, ""],
    "admission.attributes.citizenship": ["XX", "", None],
    "admission.attributes.assurance": ["low", "high", 3],
    "completion.outcome": ["ok", "denied", "failed", "aborted", "interrupted", "fine"],
    "completion.status": [0, 200, 299, 300, 403, 502, "200", -1],
    "completion.error": [None, "x", 'x"y', "é", 5],
    "completion.attempts": [
        [],
        [{"replica": Ref("started"), "lease": Ref("lease"), "outcome": "ok"}],
        [{"replica": Ref("started"), "lease": Ref("renewed"), "outcome": "failed"}] * 2,
        [{"replica": Ref("started"), "lease": Ref("renewed"), "outcome": "ok", "more": 1}],
        [{"replica": Ref("model"), "lease": Ref("renewed"), "outcome": "ok"}],
    ],
    "completion.usage.prompt_tokens": [0, 1, 10**6, 10**15, -1, None],
    "completion.usage.cached_tokens": [0, 10, 11, True],
    "completion.usage.completion_tokens": [0, 10**6, 1.0],
    "completion.overhead": [0, 50, -1, "0"],
    "completion.response": [None, "A" * 43 + "=", "A" * 44, ""],
}


def broken(entry: bytes, draw: random.Random) -> bytes:
    """One byte changed, taken out or put in."""
    at = draw.randrange(len(entry))
    change: Callable[[], bytes] = draw.choice(
        [
            lambda: entry[:at] + bytes([entry[at] ^ 1 << draw.randrange(8)]) + entry[at + 1 :],
            lambda: entry[:at] + entry[at + 1 :],
            lambda: entry[:at] + draw.choice([b" ", b"0", b'"', b",", b"}", b"\xff"]) + entry[at:],
            lambda: entry[:at],
        ]
    )
    return change()


def make(seed: int) -> Published:
    draw = random.Random(seed)  # noqa: S311  a fuzz that can be repeated
    steps = logs.story()[:16]
    for number in range(5, 5 + OPENING + 30):
        fields = logs.inference(number, 9500 + number * 20, **draw.choice(KINDS))
        if number >= 5 + OPENING:
            for path in draw.sample(list(LIES), draw.choice([0, 0, 1, 1, 2])):
                fields = logs.changed(fields, {path: draw.choice(LIES[path])})
        steps.append(Step(f"request-{number}", entries.INFERENCE, fields))
    extra = [
        Step("probe-3", "canary/v1", logs.probe(9800, started=Ref("started"), counters=logs.counters(200, 60))),
        Step("revoked", "node.revoked/v1", {"time": T0 + 5000, "node": "node-1", "lease": Ref("lease"), "reason": ""}),
        Step("policy-2", "policy/v1", logs.policy(4900, previous=Ref("policy"))),
        Step("stopped", "replica.stopped/v1", logs.stopped(5000)),
        Step("escape", "canary/v1", logs.probe(5000, started=Ref("started"), outcome="escaped")),
    ]
    for step in draw.sample(extra, draw.choice([0, 0, 1, 2])):
        steps.insert(draw.randrange(20, len(steps)), step)
    names = {step.name: index for index, step in enumerate(steps)}
    data = [logs.encode(step, names) for step in steps]
    for index in range(16 + OPENING, len(data)):
        if draw.random() < 0.1:
            data[index] = broken(data[index], draw)
    return logs.publish(data, names)


def both(log: Published, monkeypatch: pytest.MonkeyPatch, **given: Any) -> tuple[Report, Report]:
    quick = audit(log, VERIFIER, terms(**given))
    with monkeypatch.context() as patched:
        patched.setattr(fast, "split", lambda _entry: None)  # nothing is ever learnt
        return quick, audit(log, VERIFIER, terms(**given))


@pytest.mark.parametrize("block", range(10))
@pytest.mark.parametrize("rerun", [True, False])
def test_both_ways_find_the_same(block: int, rerun: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {} if rerun else {"decider": None}
    found = 0
    for seed in range(block * 15, block * 15 + 15):
        quick, slow = both(make(seed), monkeypatch, **given)
        assert quick.findings == slow.findings, f"seed {seed}"
        assert quick.types == slow.types, f"seed {seed}"
        found += quick.findings.lies
    assert found > 20, "the fuzz tells too few lies to show anything"


def test_the_fast_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the comparison would compare nothing."""
    taken: list[bytes] = []
    decode = entries.decode
    monkeypatch.setattr(entries, "decode", lambda entry: (taken.append(entry), decode(entry))[1])
    steps = logs.story()[:16]
    steps += [Step(f"r{n}", entries.INFERENCE, logs.inference(n, 9500 + n, **UNDER_RENEWED)) for n in range(5, 205)]
    report = audit(logs.write(steps=steps), VERIFIER, terms())
    assert report.holds
    assert len(taken) == 16, "all else is like an entry that was seen before"


def test_a_decision_is_run_again_for_each_caller_though_the_route_is_known() -> None:
    """Rules may name people: a permission that holds for one caller may be a lie for the next."""
    own = logs.policy_file(
        "own.cedar",
        f'@id("own.person") @reason("named") forbid (principal == Daulat::Person::"{"q" * 22}", action, resource);',
    )
    steps = [
        Step(f"request-{n}", entries.INFERENCE, logs.inference(n, 9500 + n, **UNDER_RENEWED)) for n in range(5, 15)
    ]
    other = {"admission.principal": "q" * 22}
    log = logs.write({"policy": {"files": [*logs.rules(), own]}, "request-12": other}, [*logs.story()[:16], *steps])
    report = audit(log, VERIFIER, terms())
    assert [(finding.kind, finding.index) for finding in report.findings.kept] == [
        ("decision", log.names["request-12"])
    ]


def test_promises_are_met_on_the_fast_way_too(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [
        Step(f"request-{n}", entries.INFERENCE, logs.inference(n, 9500 + n, **UNDER_RENEWED)) for n in range(5, 15)
    ]
    log = logs.write(steps=[*logs.story()[:16], *steps])
    rewritten = logs.write({"request-13": {"admission.snapshot": 4}}, [*logs.story()[:16], *steps])
    given = (log.promise("request-11", of="request-12"), rewritten.promise(of="request-13"))
    quick, slow = both(log, monkeypatch, promises=given)
    assert quick.findings == slow.findings
    assert [(finding.kind, finding.index) for finding in quick.findings.kept] == [
        ("promise.broken", log.names["request-13"])
    ]
    assert quick.promises_kept == slow.promises_kept == 1
