"""What is wished for comes to run, whatever breaks meanwhile: the reconciler against a machine that does as it is told.

The machine here executes actions and then does what a test, or hypothesis, wants of it: engines come up, end, hang.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daulat.fleet.reconcile import (
    PROGRESS_SECONDS,
    STEADY_SECONDS,
    SURGE,
    TRIES,
    Drain,
    Promote,
    RollBack,
    Running,
    Start,
    Stop,
    Wanted,
    conditions,
    reconcile,
)


@dataclass
class Machine:
    """Deployments and replicas. Revisions in `bad`, by deployment, never become ready."""

    wanted: dict[str, Wanted] = field(default_factory=dict)
    replicas: dict[str, Running] = field(default_factory=dict)
    bad: set[tuple[str, int]] = field(default_factory=set)
    now: float = 100.0
    busy: bool = False  # draining replicas have answers running
    ids: Any = field(default_factory=itertools.count)

    def deploy(self, name: str = "m", replicas: int = 1, *, recreate: bool = False) -> None:
        """Another revision."""
        held = self.wanted.get(name)
        number = 1 if held is None else held.revision + 1
        self.wanted[name] = Wanted(name, replicas, number, held.good if held else None, recreate=recreate)

    def scale(self, replicas: int, name: str = "m") -> None:
        self.wanted[name] = replace(self.wanted[name], replicas=replicas)

    def change(self, id_: str, **changes: Any) -> None:
        self.replicas[id_] = replace(self.replicas[id_], **changes)

    def act(self) -> list[Any]:
        """One look of the reconciler, executed; what holds at every step is asserted here."""
        before = {name: self.ready(name) for name in self.wanted}
        actions = reconcile(self.wanted.values(), list(self.replicas.values()), self.now)
        for action in actions:
            match action:
                case Start(name, revision):
                    id_ = f"r{next(self.ids)}"
                    self.replicas[id_] = Running(id_, name, revision, "starting", self.now)
                case Drain(id_):
                    assert self.replicas[id_].phase == "ready"
                    self.change(id_, phase="draining", drain_until=self.now + 30.0)
                case Stop(id_):
                    assert self.replicas[id_].phase != "ready", "what answers is drained first"
                    del self.replicas[id_]
                case Promote(name, revision):
                    self.wanted[name] = replace(self.wanted[name], good=revision, failed=False)
                case RollBack(name, reason):
                    assert reason
                    self.wanted[name] = replace(self.wanted[name], failed=True)
        for name, want in self.wanted.items():
            held = [replica for replica in self.replicas.values() if replica.deployment == name]
            started = any(isinstance(action, Start) and action.deployment == name for action in actions)
            most = want.replicas + (0 if want.recreate else SURGE)
            assert not started or len(held) <= most, (
                "never more than the surge, and none where there is no room for two"
            )
            least = 0 if want.recreate else min(before[name], want.replicas)
            assert self.ready(name) >= least, "never fewer than wished for by its own doing"
        return actions

    def ready(self, name: str = "m") -> int:
        return sum(each.phase == "ready" for each in self.replicas.values() if each.deployment == name)

    def live(self) -> None:
        """Time passes, and engines do what engines do."""
        self.now += STEADY_SECONDS
        for id_, replica in list(self.replicas.items()):
            if replica.phase in {"starting", "broken"}:
                if (replica.deployment, replica.revision) in self.bad:
                    self.change(id_, phase="broken", ends=replica.ends + 1, last="crashed: exit code 1")
                else:
                    self.change(id_, phase="ready", ready_since=self.now)
            elif replica.phase == "draining":
                self.change(id_, idle=not self.busy)

    def settle(self, rounds: int = 200) -> None:
        """Until there is nothing to do."""
        for _ in range(rounds):
            self.act()
            self.live()
            if not self.act() and all(self.settled(want) for want in self.wanted.values()):
                return
        raise AssertionError(f"it does not settle: {self.wanted}, {self.replicas}")

    def settled(self, want: Wanted) -> bool:
        held = [each for each in self.replicas.values() if each.deployment == want.name]
        right = all(each.revision == want.target and each.phase == "ready" and not each.cordoned for each in held)
        return right and len(held) == want.replicas and (not held or want.good == want.target)


def settled(replicas: int = 1) -> Machine:
    machine = Machine()
    machine.deploy(replicas=replicas)
    machine.settle()
    return machine


def test_a_deployment_gets_its_replicas_and_is_good_once_they_answer() -> None:
    machine = settled(3)
    assert machine.ready() == 3
    assert machine.wanted["m"].good == 1
    assert machine.act() == [], "the same sight, and nothing to do"


def test_a_rollout_replaces_replica_by_replica_and_drains_only_what_has_a_successor() -> None:
    machine = settled(2)
    machine.deploy(replicas=2)
    assert [type(action) for action in machine.act()] == [Start]
    assert machine.act() == [], "one beyond the wish, and no more"
    (new,) = [each.id for each in machine.replicas.values() if each.revision == 2]
    machine.change(new, phase="ready", ready_since=machine.now)
    assert machine.act() == [], "it has only just become ready"
    machine.now += STEADY_SECONDS
    assert [type(action) for action in machine.act()] == [Drain]
    machine.settle()
    assert {each.revision for each in machine.replicas.values()} == {2}
    assert machine.wanted["m"].good == 2


def test_where_there_is_no_room_for_two_the_old_replicas_end_before_the_new_ones_start() -> None:
    machine = settled(2)
    machine.busy = True
    machine.deploy(replicas=2, recreate=True)
    assert [type(action) for action in machine.act()] == [Drain, Drain]
    machine.live()
    assert machine.act() == [], "what drains still holds its devices"
    said = conditions(machine.wanted["m"], list(machine.replicas.values()))[1]
    assert (said.reason, "the old ones end first" in said.message) == ("Rollout", True)
    machine.busy = False
    machine.live()
    assert [type(action) for action in machine.act()] == [Stop, Stop]
    assert [type(action) for action in machine.act()] == [Start, Start]
    machine.settle()
    assert machine.wanted["m"].good == 2


def test_nothing_is_drained_for_a_model_that_is_not_verified_and_admitted_yet() -> None:
    machine = settled()
    machine.deploy(recreate=True)
    machine.wanted["m"] = replace(machine.wanted["m"], prepared=False)
    look = reconcile(machine.wanted.values(), list(machine.replicas.values()), machine.now)
    assert look == [Start("m", 2)], "which makes it so"
    machine.wanted["m"] = replace(machine.wanted["m"], blocked="model x is refused by models.licence")
    look = reconcile(machine.wanted.values(), list(machine.replicas.values()), machine.now)
    assert look == [RollBack("m", "model x is refused by models.licence")]


def test_a_recreated_deployment_that_does_not_come_up_goes_back_to_what_was() -> None:
    machine = settled(2)
    machine.bad = {("m", 2)}
    machine.deploy(replicas=2, recreate=True)
    machine.settle()
    assert {each.revision for each in machine.replicas.values()} == {1}
    assert machine.ready() == 2
    assert machine.wanted["m"].failed


def test_a_cordoned_replica_that_no_other_has_room_beside_is_drained_first() -> None:
    machine = settled(2)
    machine.deploy(replicas=2, recreate=True)
    machine.settle()
    old, other = machine.replicas
    machine.change(old, cordoned=True)
    assert machine.act() == [Drain(old)]
    assert machine.replicas[other].phase == "ready"
    machine.settle()
    assert machine.ready() == 2


def test_what_drains_is_stopped_when_it_is_idle_or_its_time_is_over() -> None:
    machine = settled()
    machine.busy = True
    machine.deploy()
    for _ in range(4):
        machine.act()
        machine.live()
    assert [each.phase for each in machine.replicas.values()] == ["draining", "ready"]
    machine.now += 31
    assert [type(action) for action in machine.act()] == [Stop]


def test_a_revision_that_never_answers_is_given_up_and_the_old_one_goes_on() -> None:
    machine = settled(2)
    machine.bad = {("m", 2)}
    old = set(machine.replicas)
    machine.deploy(replicas=2)
    machine.settle()
    assert set(machine.replicas) == old, "the old replicas were never touched"
    assert machine.wanted["m"].failed
    machine.deploy(replicas=2)
    machine.settle()
    assert {each.revision for each in machine.replicas.values()} == {3}


def test_a_revision_whose_engine_goes_up_and_down_is_given_up_too() -> None:
    machine = settled()
    machine.deploy()
    machine.act()
    (new,) = [each.id for each in machine.replicas.values() if each.revision == 2]
    machine.change(new, phase="ready", ready_since=machine.now, ends=TRIES, last="crashed: signal SIGSEGV")
    (action,) = machine.act()
    assert isinstance(action, RollBack)
    assert "signal SIGSEGV" in action.reason


def test_a_revision_that_takes_too_long_is_given_up() -> None:
    machine = settled()
    machine.deploy()
    machine.act()
    machine.now += PROGRESS_SECONDS + 1
    (action,) = machine.act()
    assert isinstance(action, RollBack)


def test_a_revision_that_cannot_be_started_is_given_up_with_the_reason() -> None:
    machine = settled()
    machine.deploy()
    machine.wanted["m"] = replace(machine.wanted["m"], blocked="model x is refused by models.licence")
    (action,) = reconcile(machine.wanted.values(), list(machine.replicas.values()), machine.now)
    assert action == RollBack("m", "model x is refused by models.licence")


def test_the_first_revision_is_tried_for_ever_because_there_is_nothing_to_go_back_to() -> None:
    machine = Machine(bad={("m", 1)})
    machine.deploy()
    for _ in range(20):
        assert not any(isinstance(action, RollBack) for action in machine.act())
        machine.live()
    assert len(machine.replicas) == 1


def test_a_cordoned_replica_is_replaced_before_it_is_drained() -> None:
    machine = settled()
    (old,) = machine.replicas
    machine.change(old, cordoned=True)
    assert [type(action) for action in machine.act()] == [Start]
    machine.settle()
    assert old not in machine.replicas
    assert machine.ready() == 1


def test_fewer_replicas_means_the_broken_and_the_young_go_first() -> None:
    machine = settled(3)
    broken, old, young = machine.replicas
    machine.change(broken, phase="broken")
    machine.change(young, since=machine.now)
    machine.scale(1)
    machine.settle()
    assert set(machine.replicas) == {old}


def test_what_is_not_wished_for_any_more_is_drained_and_stopped() -> None:
    machine = settled(2)
    del machine.wanted["m"]
    assert [type(action) for action in machine.act()] == [Drain, Drain]
    machine.live()
    machine.act()
    assert machine.replicas == {}


def test_conditions_say_what_is_so() -> None:
    machine = Machine()
    machine.deploy(replicas=2)

    def said() -> list[tuple[str, str]]:
        found = conditions(machine.wanted["m"], list(machine.replicas.values()), "its engine ended")
        return [(condition.status, condition.reason) for condition in found]

    assert said() == [("False", "MinimumReplicasUnavailable"), ("True", "Rollout")]
    machine.settle()
    assert said() == [("True", "MinimumReplicasAvailable"), ("True", "Complete")]
    machine.change(next(iter(machine.replicas)), phase="broken", last="crashed: signal SIGKILL")
    assert said() == [("False", "MinimumReplicasUnavailable"), ("True", "ReplicaFailure")]
    machine.settle()
    machine.bad = {("m", 2)}
    machine.deploy(replicas=2)
    machine.settle()
    assert said() == [("True", "MinimumReplicasAvailable"), ("False", "RolledBack")]
    machine.wanted["m"] = Wanted("m", 2, 1, blocked="no room")
    assert said()[1] == ("False", "Blocked")


Happening = Callable[[Machine], None]
NAMES = st.sampled_from("ab")


@st.composite
def deployed(draw: st.DrawFn) -> Happening:
    """A new revision; a bad one only beside one that was good, as there is no end to trying a first one."""
    name, replicas, bad, recreate = draw(NAMES), draw(st.integers(1, 3)), draw(st.booleans()), draw(st.booleans())

    def happen(machine: Machine) -> None:
        machine.deploy(name, replicas, recreate=recreate)
        if bad and machine.wanted[name].good is not None:
            machine.bad.add((name, machine.wanted[name].revision))

    return happen


@st.composite
def scaled(draw: st.DrawFn) -> Happening:
    """More or fewer replicas, or none at all, or no deployment any more."""
    name, replicas = draw(NAMES), draw(st.none() | st.integers(0, 3))

    def happen(machine: Machine) -> None:
        if replicas is None:
            machine.wanted.pop(name, None)
        elif name in machine.wanted:
            machine.scale(replicas, name)

    return happen


@st.composite
def struck(draw: st.DrawFn) -> Happening:
    """One replica's engine ends, or its supervisor is gone, or somebody wants it replaced."""
    kind, number = draw(st.sampled_from(["crash", "cordon", "gone"])), draw(st.integers(0, 9))

    def happen(machine: Machine) -> None:
        if not machine.replicas:
            return
        id_ = sorted(machine.replicas)[number % len(machine.replicas)]
        held = machine.replicas[id_]
        if kind == "cordon":
            machine.change(id_, cordoned=True)
        elif kind == "gone":
            del machine.replicas[id_]
        elif held.phase == "draining":
            machine.change(id_, idle=True)  # whose engine is dead answers nothing any more
        else:
            machine.change(id_, phase="broken", ready_since=None, ends=held.ends + 1, last="crashed")

    return happen


def _busy(machine: Machine) -> None:
    machine.busy = not machine.busy


EVENT = st.one_of(deployed(), scaled(), struck(), st.sampled_from([Machine.act, Machine.live, _busy]))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(EVENT, max_size=40))
def test_whatever_happens_it_never_does_harm_and_comes_to_rest_as_wished(events: list[Happening]) -> None:
    machine = Machine()
    for event in events:
        event(machine)
    machine.busy = False
    machine.settle()
    assert {each.deployment for each in machine.replicas.values()} <= set(machine.wanted)
    for name, want in machine.wanted.items():
        assert machine.ready(name) == want.replicas


@pytest.mark.parametrize("name", ["starting", "broken"])
def test_a_stale_replica_that_does_not_answer_makes_room_at_once(name: Any) -> None:
    machine = settled()
    (old,) = machine.replicas
    machine.change(old, phase=name)
    machine.deploy()
    assert Stop(old) in machine.act()
