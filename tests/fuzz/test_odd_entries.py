"""Whatever value stands in whatever field: an audit ends with a report, a receipt's check with a verdict or a no."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from tests.support import consents, logs
from tests.support.logs import REQUEST, RESPONSE, VERIFIER, Published, terms

from daulat.audit import receipt as receipts
from daulat.audit.log import audit
from daulat.audit.receipt import Given
from daulat.errors import DaulatError
from daulat.policy.cedar import CedarDecider

ODD: list[Any] = [
    None, True, False, 0, 1, -1, 3, 8, 2**31, 2**63, 2**64, 10**300, -(10**300), 0.5, 1e308, "", "x", "MY", "allow",
    "é", "\u0000", "\u202e", "a" * 5000, [], [None], [1], ["x"], [[]], [{}], {}, {"": None}, {"grade": 3},
    {"grade": "G9"}, [{"replica": 8}], [{"replica": 8, "lease": 7, "outcome": 1}], {"effect": "allow"},
    {"prompt_tokens": -1}, {"origin": "../..", "index": 0}, {"origin": 5},
]  # fmt: skip


def paths(value: Any, prefix: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*prefix, key)
        yield from paths(item, (*prefix, key))


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copied = value.copy()
    copied[path[0]] = replaced(value[path[0]], path[1:], new)
    return copied


def written(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


STORY = logs.write()
PLACES = [(index, path) for index, entry in enumerate(STORY.entries) for path in paths(json.loads(entry))]


def odd(index: int, path: tuple[Any, ...], value: Any) -> Published:
    entry = written(replaced(json.loads(STORY.entries[index]), path, value))
    return logs.publish([*STORY.entries[:index], entry, *STORY.entries[index + 1 :]], STORY.names)


def judged(log: Published) -> None:
    """Neither check may fail otherwise than it says."""
    report = audit(log, VERIFIER, terms(promises=(STORY.promise(of="answer"),)))
    assert report.size == len(STORY.entries)
    for finding in report.findings.kept:
        assert len(str(finding)) < 2000, "a finding is a line, not what the log says"
    with suppress(DaulatError):  # the service itself may refuse to make such a receipt
        receipt = written(log.receipt("answer-2"))
        given = Given(REQUEST, RESPONSE, now=logs.T0, decider=CedarDecider)
        receipts.verify(receipt, VERIFIER, given)


def test_there_is_something_to_replace() -> None:
    assert len(PLACES) > 400


@pytest.mark.parametrize("block", range(8))
def test_a_sample_of_places_and_values(block: int) -> None:
    draw = random.Random(block)  # noqa: S311  a fuzz that can be repeated
    for index, path in PLACES[block::8]:
        judged(odd(index, path, draw.choice(ODD)))


@pytest.mark.slow
@pytest.mark.parametrize("block", range(8))
def test_a_larger_sample(block: int) -> None:
    draw = random.Random(100 + block)  # noqa: S311
    for index, path in PLACES[block::8]:
        for value in draw.sample(ODD, 6):
            judged(odd(index, path, value))


MANAGED = logs.write(None, consents.reviewed())
SIGNED = ("ceremony", "key-one", "glass", "acted", "review-two", "refused", "closed", "model-consent-done")


def test_what_operators_sign_holds_as_it_stands() -> None:
    report = audit(MANAGED, VERIFIER, terms())
    assert report.holds, [str(finding) for finding in report.findings.kept]


def test_odd_values_in_what_operators_sign() -> None:
    draw = random.Random(7)  # noqa: S311  a fuzz that can be repeated
    for index in sorted(MANAGED.names[name] for name in SIGNED):
        value = json.loads(MANAGED.entries[index])
        for path in paths(value):
            entry = written(replaced(value, path, draw.choice(ODD)))
            log = logs.publish([*MANAGED.entries[:index], entry, *MANAGED.entries[index + 1 :]], MANAGED.names)
            report = audit(log, VERIFIER, terms())
            assert report.size == len(MANAGED.entries)
            assert all(len(str(finding)) < 2000 for finding in report.findings.kept)
            assert report.opening is None
            with suppress(DaulatError):
                receipts.verify(written(log.receipt("answer")), VERIFIER, Given())
