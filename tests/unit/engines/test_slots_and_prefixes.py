"""Which slot a request gets, what a slot is remembered to hold, and which prefixes are worth sharing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daulat.engines.llamacpp.prefix import LEAST, Saves, Shared, prompt_of, shared
from daulat.engines.llamacpp.slots import REMEMBERED, Partition, Slots, common_length, with_members, with_slot

A, B = b"a" * 500, b"b" * 500


def slots(count: int = 3) -> Slots:
    return Slots(Partition(count), count)


def used(which: Slots, prompt: bytes, common: int = 0) -> int:
    """Take a slot, run the prompt there, give it back."""
    slot = which.take(prompt, common)
    assert slot is not None
    which.remember(slot, prompt)
    which.give(slot)
    return slot


def test_a_conversation_goes_back_to_the_slot_that_has_read_it() -> None:
    which = slots()
    first, second = used(which, A), used(which, B)
    assert first != second
    assert used(which, B + b" and then") == second
    assert used(which, A + b" and then") == first


def test_otherwise_the_least_recently_used_slot_is_taken() -> None:
    which = slots()
    assert [used(which, bytes([byte]) * 500) for byte in range(5)] == [0, 1, 2, 0, 1]


def test_a_busy_slot_is_passed_over_and_none_is_none() -> None:
    which = slots(2)
    held = which.take(A, 0)
    assert held is not None
    which.remember(held, A)
    other = which.take(A, 0)
    assert other not in {held, None}
    assert which.take(A, 0) is None
    which.give(held)
    assert which.take(A, 0) == held


def test_a_prefix_that_can_be_had_anywhere_does_not_bind_to_a_slot() -> None:
    which = slots()
    used(which, A + b"1" * 100)
    assert used(which, A + b"2" * 100, common=len(A)) == 1
    assert used(which, A + b"1" * 100 + b"more", common=len(A)) == 0, "but a conversation beyond it does"


def test_a_few_words_in_common_are_not_worth_waking_a_slot_for() -> None:
    which = slots()
    wire = b'[{"role": "user", "content": "'
    assert [used(which, wire + bytes([byte]) * 100) for byte in b"xyz"] == [0, 1, 2]


def test_what_another_worker_has_run_there_meanwhile_is_not_believed() -> None:
    places = Partition(1)
    ours, theirs = Slots(places, 1), Slots(places, 1)
    used(ours, A)
    used(theirs, B)
    slot = ours.take(A, 0)
    assert slot == 0
    assert not ours.holds(0, A)


def test_only_the_beginning_of_a_long_prompt_is_remembered() -> None:
    which = slots(1)
    used(which, b"x" * (REMEMBERED + 9))
    assert which.holds(0, b"x" * REMEMBERED)
    assert not which.holds(0, b"x" * (REMEMBERED + 1))


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_workers_share_out_the_slots_without_overlap(workers: int) -> None:
    partitions = [Partition(4, worker, workers) for worker in range(workers)]
    owned = [{slot for slot in range(4) if partition.take(slot) is not None} for partition in partitions]
    assert set.union(*owned) == {0, 1, 2, 3}
    assert sum(map(len, owned)) == 4
    assert all(owned)


def test_more_workers_than_slots_still_have_one_each() -> None:
    for worker in range(5):
        partition = Partition(2, worker, 5)
        taken = [slot for slot in range(2) if partition.take(slot) is not None]
        assert len(taken) == 1


@settings(derandomize=True, deadline=None)
@given(st.binary(max_size=40), st.binary(max_size=40), st.binary(max_size=40))
def test_the_common_length_is_what_counting_says(head: bytes, one: bytes, other: bytes) -> None:
    left, right = head + one, head + other
    counted = 0
    while counted < min(len(left), len(right)) and left[counted] == right[counted]:
        counted += 1
    assert common_length(left, right) == counted


@pytest.mark.parametrize("body", [b"{}", b"{ }", b'{"a":1}', b'{"a":1}\n ', b'{"id_slot":9,"a":{}}', b'{"a":"}"} '])
def test_our_slot_wins_over_whatever_a_client_says(body: bytes) -> None:
    assert json.loads(with_slot(body, 3)) == {**json.loads(body), "id_slot": 3}
    assert json.loads(with_members(body, b'"n":1,"seed":2')) == {**json.loads(body), "n": 1, "seed": 2}


# Prefixes.

SYSTEM = {"role": "system", "content": "Be kind. " * 200}
USER = {"role": "user", "content": "Hello"}
TOOLS = json.dumps([{"type": "function", "function": {"name": "a", "description": "x" * LEAST}}]).encode()


def raw(*messages: Any, indent: int | None = None) -> bytes:
    return json.dumps(list(messages), indent=indent).encode()


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("role", ["system", "developer"])
@pytest.mark.parametrize("tools", [None, TOOLS])
def test_a_long_system_message_is_a_prefix(indent: int | None, role: str, tools: bytes | None) -> None:
    first = {**SYSTEM, "role": role}
    messages = raw(first, USER, indent=indent)
    found = shared(tools, messages)
    assert found is not None
    assert prompt_of(tools, messages, None).startswith(found.key), "how slots remember it"
    body = json.loads(found.warm_up)
    assert body["messages"][0] == first
    assert body["messages"][1]["role"] == "user"
    assert (body["max_tokens"], body["stream"]) == (1, False)
    assert body.get("tools") == (json.loads(tools) if tools else None)


def test_tools_alone_can_make_a_short_system_message_worth_sharing() -> None:
    short = raw({"role": "system", "content": "Be kind."}, USER)
    assert shared(None, short) is None
    assert shared(TOOLS, short) is not None


def test_requests_of_one_prefix_have_one_key_and_others_another() -> None:
    keys = [shared(None, raw(SYSTEM, {"role": "user", "content": text})) for text in ("a", "b")] + [
        shared(None, raw({**SYSTEM, "content": SYSTEM["content"] + "!"}, USER))
    ]
    one, two, three = (found.key for found in keys if isinstance(found, Shared))
    assert one == two != three


@pytest.mark.parametrize(
    "messages",
    [
        None,
        raw(SYSTEM)[:-1][: LEAST - 1],
        raw({"role": "user", "content": "x" * 3000}),
        raw({"role": "system", "content": "short"}, {"role": "user", "content": "x" * 3000}),
        b'"' + b"x" * 3000 + b'"',
        b"[" + b"x" * 3000 + b"]",
        b"[" * 100_000,
        b"[7, " + b" " * 3000 + b"8]",
        b"\xff" * 3000,
    ],
)
def test_nothing_else_is_a_prefix(messages: bytes | None) -> None:
    assert shared(None, messages) is None


def test_files_are_few_and_the_least_recently_used_prefix_gives_up_its_own() -> None:
    saves = Saves(worker=1, files=2)
    first, second = str(saves.reserve()), str(saves.reserve())
    assert {first, second} == {"prefix-1-0", "prefix-1-1"}
    saves.keep(b"a", first)
    saves.keep(b"b", second)
    assert saves.name(b"a") == first  # used again: b is now the older
    assert saves.reserve() == second
    assert saves.name(b"b") is None, "its file is about to be overwritten"
    saves.cancel(second)
    assert saves.reserve() == second, "nothing was written: the name is free"


def test_a_file_that_cannot_be_used_frees_its_name() -> None:
    saves = Saves(worker=0, files=1)
    saves.keep(b"a", str(saves.reserve()))
    saves.forget(b"a")
    saves.forget(b"a")
    assert saves.name(b"a") is None
    assert saves.reserve() == "prefix-0-0"


def test_a_prefix_that_was_saved_twice_holds_one_name() -> None:
    saves = Saves(worker=0, files=2)
    for _ in range(5):
        name = saves.reserve()
        assert name is not None
        saves.keep(b"a", name)
    assert {saves.reserve(), saves.reserve()} == {"prefix-0-0", "prefix-0-1"}


def test_every_name_may_be_reserved_at_once_and_no_further() -> None:
    saves = Saves(worker=0, files=1)
    assert saves.reserve() == "prefix-0-0"
    assert saves.reserve() is None


def test_a_prefix_is_seen_once_it_was_asked_for_and_forgotten_after_many_others() -> None:
    saves = Saves(worker=0, files=1)
    assert [saves.seen(b"a"), saves.seen(b"a")] == [False, True]
    for number in range(256):
        saves.seen(b"%d" % number)
    assert not saves.seen(b"a")
