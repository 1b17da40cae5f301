"""What may happen now: leases, the control plane's heartbeat, and why nothing may."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tests.support.worlds import MODEL, OTHER_SECRET, SECRET, WORKER, StillClock, key, lease, replica, snapshot, world

from daulat.core.decision import Decision, Question
from daulat.core.snapshot import STRICT_SECONDS, LeaseRow
from daulat.errors import ConfigError, Unavailable
from daulat.identity.directory import Directory
from daulat.pipeline.world import World
from daulat.policy import bundle
from daulat.policy.cache import CachedDecider
from daulat.policy.cedar import CedarDecider


def refused(clock: StillClock, **changes: object) -> Unavailable:
    with pytest.raises(Unavailable) as found:
        world(clock, **changes).routes(MODEL)
    return found.value


def test_a_lease_counts_to_the_millisecond_on_both_clocks() -> None:
    for by_wall, by_boot in ((True, False), (False, True)):
        clock = StillClock()
        made = world(clock)
        if by_wall:
            clock.now += 299_999
        if by_boot:
            clock.boot += 299.999
        assert len(made.routes(MODEL)) == 1
        if by_wall:
            clock.now += 1
        if by_boot:
            clock.boot += 0.001
        with pytest.raises(Unavailable, match="has expired") as found:
            made.routes(MODEL)
        assert found.value.code == "no_live_lease"


def test_replicas_whose_lease_lives_go_on_without_those_whose_lease_has_ended() -> None:
    clock = StillClock()
    leases = (lease(5, "node_1", seconds=10), lease(6, "node_2", seconds=20))
    made = world(clock, leases=leases, replicas=(replica(1), replica(2, node="node_2")))
    assert len(made.routes(MODEL)) == 2
    clock.pass_seconds(10)
    assert [route.replica.id for route in made.routes(MODEL)] == ["replica_2"]
    assert made.not_ready() == []


def test_a_renewed_lease_is_the_one_that_counts() -> None:
    made = world(StillClock(), leases=(lease(8, seconds=500), lease(5, seconds=10)))
    assert made.routes(MODEL)[0].lease.index == 8


class Counting:
    """`core.decision.Decider`: the shipped rules, and how often they were asked."""

    def __init__(self) -> None:
        shipped = bundle.load()
        self.rules, self.asked = CedarDecider(shipped.rules, shipped.schema), 0

    def decide(self, question: Question) -> Decision:
        self.asked += 1
        return self.rules.decide(question)


def test_a_renewed_lease_on_the_same_evidence_is_no_new_question_and_on_other_evidence_is() -> None:
    counting = Counting()
    cached = CachedDecider(counting)

    def granted(held: LeaseRow) -> bool:
        taken = snapshot(leases=(held,))
        made = World(taken, Directory(taken.roll), cached, StillClock(), 1)
        (route,) = made.routes(MODEL)
        principal = made.directory.authenticate(SECRET.encode())
        grant = made.grant(principal, "chat.completions", made.models[MODEL], route)
        assert f'"lease":{held.index}' in grant.under, "the record names the lease of now"
        return grant.allowed

    assert granted(lease(5))
    assert granted(lease(8))
    assert counting.asked == 1
    worse = json.loads(lease(9).entry)
    worse["evidence"]["canary"] = {"grade": "G1"}
    assert not granted(replace(lease(9), entry=json.dumps(worse)))
    elsewhere = {**json.loads(lease(9).entry), "jurisdiction": "SG"}
    assert not granted(replace(lease(10), entry=json.dumps(elsewhere)))
    assert counting.asked == 3


def test_what_is_said_alike_of_many_is_one_text() -> None:
    made = world(StillClock())
    (route,) = made.routes(MODEL)
    one, other = (made.directory.authenticate(secret.encode()) for secret in (SECRET, OTHER_SECRET))
    first, second = (made.grant(who, "chat.completions", made.models[MODEL], route) for who in (one, other))
    assert first.who != second.who
    assert first.under is second.under
    assert made.grant(one, "chat.completions", made.models[MODEL], route) is first
    said = json.loads(f"{{{first.who},{first.under}}}")
    assert list(said)[:6] == ["action", "tenant", "principal", "key", "attributes", "effect"]
    assert (said["tenant"], said["key"], said["worker"]) == (one.tenant, one.key, WORKER)


def test_no_replica_no_lease_and_no_model_are_different_reasons() -> None:
    clock = StillClock()
    assert refused(clock, replicas=()).code == "no_replica"
    assert "canary" in refused(clock, replicas=(), refusals=("the canary escaped",)).message
    assert refused(clock, leases=()).code == "no_replica"
    assert world(clock, models=()).not_ready() == ["no model is admitted"]
    assert world(clock, leases=(), refusals=("no evidence",)).not_ready()


@pytest.mark.parametrize("strict", [True, False])
def test_only_a_strict_charter_refuses_when_the_control_plane_is_silent(strict: bool) -> None:
    clock = StillClock()
    made = world(clock, snapshot(strict=strict))
    clock.pass_seconds(STRICT_SECONDS)
    assert made.routes(MODEL)
    clock.pass_seconds(0.1)
    if not strict:
        assert made.routes(MODEL)
        return
    with pytest.raises(Unavailable, match="silent") as found:
        made.routes(MODEL)
    assert found.value.code == "control_plane_silent"
    assert "silent" in made.not_ready()[0]
    made.heartbeat = clock.boottime()
    assert made.routes(MODEL), "its next heartbeat is enough"


def test_silence_is_measured_on_the_clock_that_nobody_sets() -> None:
    clock = StillClock()
    made = world(clock, snapshot(strict=True))
    clock.now += 1
    clock.boot += 11
    with pytest.raises(Unavailable):
        made.routes(MODEL)


def test_why_an_answer_must_be_cut() -> None:
    clock = StillClock()
    assert world(clock).alive("key_1", "replica_1") == ""
    assert "revoked" in world(clock, keys=(key(2),)).alive("key_1", "replica_1")
    assert "stopped" in world(clock).alive("key_1", "replica_2")
    assert "lease" in world(clock, leases=()).alive("key_1", "replica_1")


def test_a_charter_that_does_not_parse_makes_no_world() -> None:
    wrong = snapshot(charter=type(snapshot().charter)(1, "profile = 1"))
    with pytest.raises(ConfigError):
        World(wrong, Directory(wrong.roll), CachedDecider(None), StillClock(), 1)  # type: ignore[arg-type]
