"""The only writer of the log: a crash anywhere leaves a valid log, nothing twice, nothing lost, nothing smaller."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable

import pytest
from tests.support.ledger import (
    Crash,
    HandClock,
    MemoryIndex,
    MemoryJournals,
    MemorySeal,
    MemoryStore,
    Steps,
    admission,
    answered,
    charter_entry,
    completion,
    key_entry,
    request_id,
)

from daulat.core import entries
from daulat.errors import SealBroken, VerificationFailed
from daulat.ledger import records
from daulat.ledger.reading import read_entries
from daulat.ledger.sequencer import Sequencer
from daulat.tlog.checkpoint import Checkpoint, open_checkpoint, sign
from daulat.tlog.merkle import leaf_hash, root, verify_consistency
from daulat.tlog.note import Signer, Verifier
from daulat.tlog.tiles import Hashes, consistency_proof

ORIGIN = "test/1"
SIGNER = Signer(ORIGIN, bytes(range(32)))
VERIFIER = Verifier(SIGNER.vkey)


class World:
    """What is durable: it outlives every sequencer."""

    def __init__(self) -> None:
        self.seal, self.store, self.index, self.journals = MemorySeal(), MemoryStore(), MemoryIndex(), MemoryJournals()

    def watch(self, steps: Steps) -> None:
        """Count, or crash at, every step of I/O from now on."""
        for port in (self.seal, self.store, self.index, self.journals):
            port.steps = steps

    def open(self) -> Sequencer:
        return Sequencer(
            origin=ORIGIN,
            signer=SIGNER,
            seal=self.seal,
            log=self.store,
            index=self.index,
            journals=self.journals,
            clock=HandClock(),
        )

    def entries(self) -> list[bytes]:
        """All entries, after holding checkpoint, tiles, bundles and index against each other."""
        head = open_checkpoint(self.store.published(), VERIFIER)
        found = read_entries(self.store, 0, head.size, head.size)
        assert head.root == root([leaf_hash(entry) for entry in found])
        assert Hashes(head.size, self.store).root() == head.root
        assert self.index.size == head.size
        for at, entry in enumerate(found):
            value = json.loads(entry)
            if value["type"] == entries.INFERENCE:
                assert self.index.position_of(value["admission"]["request_id"]) == at
            else:
                assert self.index.type_of(at) == value["type"]
        return found

    def grew(self) -> None:
        """Everything ever sealed or published is a prefix of what came after it."""
        assert set(self.store.history) <= set(self.seal.history)
        for history in (self.seal.history, self.store.history):
            heads = [open_checkpoint(signed, VERIFIER) for signed in history]
            for before, after in itertools.pairwise(heads):
                proof = consistency_proof(before.size, Hashes(after.size, self.store))
                verify_consistency(before.size, before.root, after.size, after.root, proof)


def requests(found: list[bytes]) -> Counter[str]:
    values = map(json.loads, found)
    return Counter(value["admission"]["request_id"] for value in values if value["type"] == entries.INFERENCE)


def test_a_new_log_begins_empty_and_published() -> None:
    world = World()
    assert world.open().size == 0
    assert open_checkpoint(world.store.published(), VERIFIER).size == 0


def test_control_entries_are_covered_by_a_published_checkpoint_when_acknowledged() -> None:
    world = World()
    sequencer = world.open()
    assert sequencer.append([charter_entry(), key_entry(0)]) == [0, 1]
    assert sequencer.append([key_entry(0, 1)]) == [2]
    assert world.entries() == [charter_entry(), key_entry(0), key_entry(0, 1)]
    assert sequencer.checkpoint == world.store.published()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ([key_entry(0)], "points at 0"),  # nothing is there yet
        ([charter_entry(), key_entry(5)], "points at 5"),
        ([charter_entry(), key_entry(0), key_entry(1)], "not charter/v1"),
        ([b"{}"], "type"),
        ([entries.join_inference(admission(1), completion(1))], "inference"),
    ],
)
def test_an_entry_that_is_malformed_or_refers_to_nothing_is_refused_with_all_beside_it(
    wrong: list[bytes], words: str
) -> None:
    world = World()
    sequencer = world.open()
    with pytest.raises(VerificationFailed, match=words):
        sequencer.append(wrong)
    assert world.entries() == []
    assert sequencer.append([charter_entry()]) == [0]


def test_a_tick_takes_in_what_the_journals_have_and_sweeps_what_is_taken() -> None:
    world = World()
    sequencer = world.open()
    world.journals.begin(4)
    world.journals.write(4, *answered(1, 1))
    world.journals.roll(4, 1)
    world.journals.write(4, *answered(2, 2), (records.ADMISSION, 3, admission(3)))
    assert sequencer.tick() == 2
    assert world.journals.segments(4) == [1]  # the living worker's last one stays
    world.journals.end(4)
    assert sequencer.tick() == 1
    assert sequencer.tick() == 0
    assert world.journals.workers() == []
    assert requests(world.entries()) == {request_id(number): 1 for number in (1, 2, 3)}


def scenario(world: World) -> tuple[list[Callable[[Sequencer], object]], set[str], list[bytes]]:
    """A small life with everything in it, past a full tile: the acts, every request in it, and the control entries."""
    journals = world.journals
    for worker in (4, 5):
        journals.begin(worker)
    for number in range(1, 251):
        journals.write(4, *answered(number, number))
    journals.roll(4, 1)
    journals.write(4, (records.ADMISSION, 251, admission(251)), *answered(252, 252))
    journals.write(5, (records.ADMISSION, 1, admission(501)), *answered(2, 502))

    def later(_: Sequencer) -> None:
        if journals.alive(5):
            journals.write(5, (records.ATTEMPT, 1, b'{"replica":8,"lease":6}'), *answered(3, 503))
            journals.end(5)

    def last(_: Sequencer) -> None:
        if journals.alive(4):
            for number in range(253, 540):
                journals.write(4, *answered(number, 1000 + number))
            journals.end(4)

    control = [charter_entry(number) for number in range(3)]
    acts: list[Callable[[Sequencer], object]] = [
        lambda sequencer: sequencer.append([control[0]]),
        lambda sequencer: sequencer.tick(),
        later,
        lambda sequencer: sequencer.append([control[1]]),
        lambda sequencer: sequencer.tick(),
        last,
        lambda sequencer: sequencer.tick(),
        lambda sequencer: sequencer.append([control[2]]),
        lambda sequencer: sequencer.tick(),
    ]
    numbers = [*range(1, 253), 501, 502, 503, *range(1253, 1540)]
    return acts, {request_id(number) for number in numbers}, control


def run(world: World, acts: list[Callable[[Sequencer], object]]) -> None:
    sequencer = world.open()
    for act in acts:
        act(sequencer)


def live(world: World, last: int | None) -> Steps:
    """The scenario, with a crash at one step of I/O and a start anew after it: the act that was cut off is repeated."""
    acts, _, _ = scenario(world)
    steps = Steps(last)
    world.watch(steps)
    sequencer: Sequencer | None = None
    while acts:
        try:
            sequencer = sequencer or world.open()
            acts[0](sequencer)
        except Crash:
            world.watch(Steps())
            sequencer = None
            continue
        acts.pop(0)
    return steps


def test_a_crash_at_any_step_leaves_a_valid_log_with_nothing_twice_and_nothing_lost() -> None:
    whole = live(World(), None).taken
    assert whole > 50  # every write of every port is among them
    for last in range(whole):
        world = World()
        live(world, last)
        found = world.entries()
        _, wanted, control = scenario(World())
        assert requests(found) == dict.fromkeys(wanted, 1), f"a crash at step {last}"
        # An append whose caller never heard of its end was repeated by it: that is the caller's choice.
        kept = [entry for entry in found if b'"inference/v1"' not in entry]
        assert set(kept) == set(control)
        assert len(kept) <= len(control) + 1
        assert world.journals.workers() == []
        world.grew()


def test_a_second_crash_while_recovering_from_the_first_loses_nothing_either() -> None:
    for first in range(0, live(World(), None).taken, 7):
        world = World()
        acts, wanted, _ = scenario(world)
        world.watch(Steps(first))
        with pytest.raises(Crash):
            run(world, acts)
        again = 0
        while True:  # one crash at each step of the recovery, one after the other, in the same world
            world.watch(Steps(again))
            try:
                world.open().tick()
            except Crash:
                again += 1
                continue
            break
        world.watch(Steps())
        run(world, acts)
        assert requests(world.entries()) == dict.fromkeys(wanted, 1)
        world.grew()


def test_a_second_sequencer_cannot_seal() -> None:
    world = World()
    one, other = world.open(), world.open()
    one.append([charter_entry()])
    published = world.store.published()
    with pytest.raises(SealBroken, match="another one is running"):
        other.append([charter_entry(1)])
    assert world.store.published() == published
    with pytest.raises(SealBroken, match="start anew"):
        other.tick()  # it is out for good
    assert one.append([key_entry(0)]) == [1]


def test_after_a_step_that_failed_half_way_nothing_more_is_sealed() -> None:
    world = World()
    sequencer = world.open()
    sequencer.append([charter_entry()])
    world.watch(Steps(1))  # the seal is advanced, and the tiles cannot be written
    with pytest.raises(Crash):
        sequencer.append([key_entry(0)])
    sealed = len(world.seal.history)
    world.watch(Steps())
    with pytest.raises(SealBroken, match="half-way"):
        sequencer.append([key_entry(0, 1)])
    assert len(world.seal.history) == sealed
    assert world.open().size == 2


def broken(world: World, words: str) -> None:
    with pytest.raises((SealBroken, VerificationFailed), match=words):
        world.open()


def grown() -> World:
    world = World()
    sequencer = world.open()
    sequencer.append([charter_entry(), *(key_entry(0, number) for number in range(299))])
    sequencer.append([key_entry(0, 300)])
    return world


def test_a_log_whose_second_place_is_gone_is_not_begun_anew() -> None:
    world = grown()
    world.seal.sealed = None
    broken(world, "restore it")


def test_a_log_that_was_set_back_is_not_continued() -> None:
    world = grown()
    world.store.files["checkpoint"] = world.store.history[0]
    broken(world, "neither the sealed one nor the one before it")


def test_a_second_place_that_was_set_back_is_not_continued() -> None:
    world = World()
    sequencer = world.open()
    sequencer.append([charter_entry()])
    old = world.seal.sealed
    for number in range(3):
        sequencer.append([key_entry(0, number)])
    world.seal.sealed = old
    broken(world, "neither the sealed one nor the one before it")


def test_a_checkpoint_of_another_key_is_not_continued() -> None:
    world = grown()
    stranger = Signer(ORIGIN, bytes(range(1, 33)))
    head = open_checkpoint(world.store.published(), VERIFIER)
    world.store.files["checkpoint"] = sign(Checkpoint(ORIGIN, head.size, head.root), [stranger])
    broken(world, "neither the sealed one nor the one before it")


@pytest.mark.parametrize("path", ["tile/0/001.p/44", "tile/1/000.p/1", "tile/entries/001.p/44"])
def test_damage_at_the_right_edge_is_noticed_before_anything_is_signed(path: str) -> None:
    for damage in ("flip", "remove"):
        world = grown()
        sealed = len(world.seal.history)
        data = world.store.files.pop(path)
        if damage == "flip":
            world.store.files[path] = bytes([data[0] ^ 1]) + data[1:]
        with pytest.raises((SealBroken, VerificationFailed)):
            world.open().append([key_entry(0, 400)])
        assert len(world.seal.history) == sealed


def test_staged_entries_that_were_changed_are_not_published() -> None:
    world = grown()
    sealed = world.seal.sealed
    assert sealed is not None
    world.seal.sealed = type(sealed)(
        sealed.size,
        sealed.checkpoint,
        sealed.base_size,
        sealed.base_checkpoint,
        (key_entry(0, 12345),),
        sealed.cursors,
        sealed.opened,
    )
    broken(world, "staged entries do not lead")


def test_an_index_that_was_dropped_is_made_anew() -> None:
    world = grown()
    world.index = MemoryIndex()
    world.open()
    assert len(world.entries()) == 301


def test_cursors_of_workers_that_were_swept_before_a_crash_do_not_stay_for_ever() -> None:
    world = World()
    sequencer = world.open()
    world.journals.begin(4)
    world.journals.write(4, *answered(1, 1))
    sequencer.tick()
    world.journals.end(4)
    sequencer.tick()  # swept: no journal is left, yet the sealed cursor is
    assert world.seal.sealed is not None
    assert set(world.seal.sealed.cursors) == {4}
    world.open().append([charter_entry()])
    assert world.seal.sealed.cursors == {}
