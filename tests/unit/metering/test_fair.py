"""Who is next where several want the same thing."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daulat.metering.fair import EVERY, FairQueue


def served(queue: FairQueue[str], turns: int) -> list[str]:
    return [queue.pop() for _ in range(turns)]


def test_nobody_waits_behind_anothers_thousand_requests() -> None:
    queue: FairQueue[str] = FairQueue()
    for _ in range(1000):
        queue.push("noisy", "noisy", cost=100)
    served(queue, 50)  # it has been served for a while
    queue.push("quiet", "quiet", cost=100)
    assert "quiet" in served(queue, 2)


def test_shares_are_by_weight_and_by_tokens() -> None:
    queue: FairQueue[str] = FairQueue()
    for _ in range(600):
        queue.push("one", "one", cost=100)
        queue.push("three", "three", cost=100, weight=3)
        queue.push("long", "long", cost=400)
    counted = Counter(served(queue, 500))
    assert counted["three"] / counted["one"] == pytest.approx(3, rel=0.15)
    assert counted["one"] / counted["long"] == pytest.approx(4, rel=0.4), "four short ones for a long one"


def test_who_rests_saves_nothing_up() -> None:
    queue: FairQueue[str] = FairQueue()
    for _ in range(100):
        queue.push("busy", "busy", cost=100)
    served(queue, 80)
    for _ in range(20):
        queue.push("rested", "rested", cost=100)
    counted = Counter(served(queue, 20))
    assert 8 <= counted["busy"] <= 12, counted


def test_what_was_used_counts_not_what_was_expected() -> None:
    queue: FairQueue[str] = FairQueue()
    for _ in range(50):
        queue.push("modest", "modest", cost=1000)
        queue.push("greedy", "greedy", cost=1000)
    counts: Counter[str] = Counter()
    for _ in range(40):
        flow = queue.pop()
        counts[flow] += 1
        queue.correct(flow, -900 if flow == "modest" else 0)
    assert counts["modest"] > 4 * counts["greedy"]


def test_the_higher_priority_goes_first_and_the_lower_is_not_starved() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("low", "low", cost=1, priority=-1)
    for _ in range(100):
        queue.push("high", "high", cost=1, priority=1)
    first = served(queue, EVERY)
    assert first == ["high"] * (EVERY - 1) + ["low"]


def test_one_flow_is_first_come_first_served() -> None:
    queue: FairQueue[int] = FairQueue()
    for number in range(20):
        queue.push("flow", number, cost=number)
    assert [queue.pop() for _ in range(20)] == list(range(20))


def test_who_leaves_is_not_called() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("a", "first", cost=1)
    queue.push("a", "second", cost=1)
    assert queue.remove("first")
    assert not queue.remove("first")
    assert (len(queue), list(queue), queue.pop(), len(queue)) == (1, ["second"], "second", 0)
    with pytest.raises(IndexError):
        queue.pop()


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 500), st.integers(-1, 1)) | st.none(), max_size=60))
def test_everyone_who_comes_is_called_once(steps: list[tuple[str, int, int] | None]) -> None:
    queue: FairQueue[int] = FairQueue()
    came, called = [], []
    for number, step in enumerate(steps):
        if step is not None:
            flow, cost, priority = step
            queue.push(flow, number, cost=cost, priority=priority)
            came.append(number)
        elif queue:
            called.append(queue.pop())
    while queue:
        called.append(queue.pop())
    assert sorted(called) == came


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 100), min_size=2, max_size=5), st.integers(1, 100))
def test_backlogged_flows_never_differ_by_more_than_their_largest_request(weights: list[int], cost: int) -> None:
    """The bound of the virtual token counter: between two flows that both wait, one request of each."""
    queue: FairQueue[int] = FairQueue()
    for _ in range(200):
        for flow, weight in enumerate(weights):
            queue.push(flow, flow, cost=cost, weight=weight)
    had: Counter[int] = Counter()
    for _ in range(150):
        flow = queue.pop()
        had[flow] += cost
        level = [had[other] / weight for other, weight in enumerate(weights)]
        assert max(level) - min(level) <= cost / min(weights) + 1e-6
