"""The request path in byte codes: what is counted there is counted again, and limits and many keys add little to it."""

from __future__ import annotations

from itertools import repeat

import pytest
from benchmarks.steps import CONNECTIONS, KINDS, Counted, Path, measured

KEYS, REQUESTS = 2 * CONNECTIONS, 4 * CONNECTIONS


@pytest.fixture(scope="module")
def found() -> dict[str, Counted]:
    return {kind: measured(kind, KEYS, REQUESTS) for kind in KINDS}


def test_it_is_the_same_once_more(found: dict[str, Counted]) -> None:
    for kind, counted in found.items():
        again = measured(kind, KEYS, REQUESTS)
        assert (again.codes, again.calls) == (counted.codes, counted.calls), kind


def test_a_request_is_seen_from_its_connection_to_its_journal(found: dict[str, Counted]) -> None:
    for counted in found.values():
        once = {name for name, number in counted.calls.items() if number == REQUESTS}
        assert {"Connection.data_received", "Inference.run", "Journal.admit", "Journal.complete"} <= once


def test_limits_and_another_key_each_time_cost_a_quarter_more_at_most(found: dict[str, Counted]) -> None:
    one, kept, turns = (counted.codes.total() for counted in found.values())
    assert one < kept < turns < 1.25 * one
    assert kept < 1.15 * one


def test_what_is_no_good_answer_is_not_counted_as_one() -> None:
    path = Path(1, limited=False)
    with path.running():
        path.connect()
        with pytest.raises(RuntimeError, match=f"0 good answers of {CONNECTIONS}"):
            path.run(CONNECTIONS, repeat(1), lambda run: run())  # nobody's key
