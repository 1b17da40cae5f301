"""A node with several replicas: one lease for all of them, and what each report leaves in the log."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from tests.support.site import CHARTER, COUNTERS, Site

from daulat.core.charter import Charter
from daulat.errors import PermissionDenied
from daulat.fleet.lease import Place

OUTSIDE = Place("outside_1", "MY", "hall 2", "G1")
LENIENT = replace(CHARTER, external="G1")


def run(use: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(use())  # type: ignore[arg-type]


def test_two_replicas_stand_under_one_lease() -> None:
    async def use() -> None:
        site = Site()
        await site.up("a", "b")
        assert site.answering() == ["a", "b"]
        assert site.written() == ["canary", "node.lease", "replica.started", "canary", "replica.started"]
        started = [entry["lease"] for entry in site.log if entry["type"] == "replica.started/v1"]
        assert started == [101, 101]
        assert [row.admitted for row in site.node.rows()] == [7, 7]

    run(use)


def test_one_that_crashes_is_closed_and_the_other_goes_on() -> None:
    async def use() -> None:
        site = Site()
        await site.up("a", "b")
        await site.stopped("a")
        assert site.answering() == ["b"]
        assert site.log[-1]["started"] == 102
        assert (site.node.replicas["a"].ends, site.node.replicas["a"].last) == (1, "crashed")
        await site.probed("a")
        await site.ready("a")
        assert site.answering() == ["a", "b"]

    run(use)


def test_one_that_is_unfit_at_its_start_has_an_entry_that_says_so_of_which_model() -> None:
    async def use() -> None:
        site = Site()
        site.expect("a", model=9)
        await site.stopped("a", "wrong answers: gibberish", unfit=True)
        (entry,) = site.log
        assert (entry["type"], entry["replica"], entry["started"]) == ("replica.stopped/v1", "a", None)
        assert entry["reason"] == "never routed to, with the model of entry 9: wrong answers: gibberish"
        assert entry["counters"] == COUNTERS
        assert site.node.replicas["a"].last == "wrong answers: gibberish"
        await site.stopped("a", "the engine did not start")
        assert len(site.log) == 1, "one that never came up has answered nothing"
        await site.up("a")
        await site.stopped("a")
        assert site.log[-1]["started"] == 103

    run(use)


def test_an_escape_of_one_stops_the_whole_node_until_every_other_was_probed_anew() -> None:
    async def use() -> None:
        site = Site()
        await site.up("a", "b")
        assert await site.probed("b", "escaped", final=True)
        assert site.answering() == []
        assert "canary: escaped" in site.node.refusals[0]
        await site.stopped("b", "canary: escaped")
        assert site.answering() == [], "what a's canary said before is not believed any more"
        await site.probed("a")
        assert site.answering() == ["a"]
        assert site.written()[-2:] == ["canary", "node.lease"]
        assert site.node.refusals == ()

    run(use)


def test_a_restarted_escapee_waits_for_the_others_canaries_too() -> None:
    async def use() -> None:
        site = Site()
        await site.up("a", "b")
        await site.probed("b", "escaped", final=True)
        await site.stopped("b")
        await site.probed("b")
        await site.ready("b")
        assert site.answering() == [], "nobody has looked at a since"
        await site.probed("a")
        assert site.answering() == ["a", "b"], "and b, which had been ready, is started now"

    run(use)


def test_a_replica_in_a_weaker_sandbox_does_not_drag_the_nodes_lease_down() -> None:
    async def use() -> None:
        site = Site()
        await site.up("a")
        site.expect("weak")
        await site.probed("weak")
        await site.ready("weak", grade="G1")
        assert site.answering() == ["a"]
        assert "no lease is granted" in site.node.replicas["weak"].last
        assert site.written().count("node.lease") == 1

    run(use)


def test_a_draining_replica_is_published_as_one_and_stays_so() -> None:
    async def use() -> None:
        site = Site()
        await site.up("a")
        site.node.drain("a")
        assert [row.draining for row in site.node.rows()] == [True]
        await site.stopped("a")
        await site.probed("a")
        await site.ready("a")
        assert [row.draining for row in site.node.rows()] == [True]

    run(use)


def test_a_lost_supervisor_leaves_the_last_counters_that_a_canary_read() -> None:
    async def use() -> None:
        site = Site()
        await site.up("a")
        read = {**COUNTERS, "completion_tokens": 9}
        await site.node.report("a", "contained", {"nonce": "00", "probes": [], "counters": read, "final": False})
        await site.node.lost("a", "its supervisor ended")
        assert site.log[-1]["counters"] == read
        assert site.log[-1]["exact"] is False
        await site.node.forget("a")
        assert site.node.replicas == {}
        assert site.written().count("replica.stopped") == 1
        assert await site.ready("a") is False, "nobody expects its reports any more"

    run(use)


def test_what_a_killed_control_plane_left_open_is_closed() -> None:
    async def use() -> None:
        site = Site()
        await site.up("a", "b")
        later = Site(site.memory)
        await later.node.recover()
        assert [(entry["replica"], entry["reason"]) for entry in later.log] == [
            ("a", "the control plane ended"),
            ("b", "the control plane ended"),
        ]
        again = Site(site.memory)
        await again.node.recover()
        assert again.log == []

    run(use)


def test_the_lease_is_renewed_once_for_all() -> None:
    async def use() -> None:
        site = Site()
        await site.up("a", "b")
        assert not await site.probed("a")
        site.clock.pass_seconds(200)
        assert await site.probed("a")
        assert not await site.probed("b")
        assert site.written().count("node.lease") == 2

    run(use)


def test_an_engine_outside_stands_on_a_node_and_under_a_lease_of_its_own() -> None:
    async def use() -> None:
        site = Site(charter=LENIENT)
        await site.up("a")
        site.expect("far", place=OUTSIDE)
        await site.ready("far", grade="G1")
        assert site.answering() == ["a", "far"]
        mine, theirs = [entry for entry in site.log if entry["type"] == "node.lease/v1"]
        assert (mine["node"], mine["evidence"]["sandbox"]["grade"]) == ("node_1", "G2")
        assert (theirs["node"], theirs["canary"]) == ("outside_1", None)
        assert theirs["evidence"] == {
            "site": {"grade": "G1", "statement": "hall 2"},
            "external": {"grade": "G1"},
        }
        started = [entry for entry in site.log if entry["type"] == "replica.started/v1"]
        assert [(entry["node"], entry["lease"]) for entry in started] == [("node_1", 101), ("outside_1", 103)]
        assert [(row.node, row.index) for row in site.node.leases()] == [("node_1", 101), ("outside_1", 103)]
        assert [row.node for row in site.node.rows()] == ["node_1", "outside_1"]

    run(use)


def test_an_escape_here_does_not_end_what_runs_outside_nor_the_other_way_round() -> None:
    async def use() -> None:
        site = Site(charter=LENIENT)
        await site.up("a")
        site.expect("far", place=OUTSIDE)
        await site.ready("far", grade="G1")
        await site.probed("a", "escaped", final=True)
        assert [row.node for row in site.node.leases()] == ["outside_1"]
        await site.node.report("far", "alive", {"counters": COUNTERS})
        assert [row.node for row in site.node.leases()] == ["outside_1"], "its sign of life is not one of this node"

    run(use)


def test_the_lease_of_an_engine_outside_is_renewed_while_it_is_alive_and_goes_with_its_last_replica() -> None:
    async def use() -> None:
        site = Site(charter=LENIENT)
        site.expect("far", "farther", place=OUTSIDE)
        await site.ready("far", grade="G1")
        await site.ready("farther", grade="G1")
        assert site.written().count("node.lease") == 1
        site.clock.pass_seconds(200)
        assert await site.node.report("far", "alive", {"counters": COUNTERS})
        assert not await site.node.report("farther", "alive", {"counters": COUNTERS})
        assert site.written().count("node.lease") == 2
        await site.node.forget("far")
        assert len(site.node.leases()) == 1
        await site.node.forget("farther")
        assert site.node.leases() == ()

    run(use)


@pytest.mark.parametrize(
    ("charter", "place", "rule"),
    [
        (CHARTER, OUTSIDE, "place.lease.external"),
        (replace(CHARTER, external=None), OUTSIDE, "place.lease.external"),
        (replace(CHARTER, external="G3"), OUTSIDE, "place.lease.external"),
        (LENIENT, replace(OUTSIDE, jurisdiction="SG"), "place.lease.jurisdiction"),
    ],
)
def test_an_engine_outside_that_the_charter_does_not_let_serve_is_refused_before_and_after(
    charter: Charter, place: Place, rule: str
) -> None:
    async def use() -> None:
        site = Site(charter=charter)
        with pytest.raises(PermissionDenied, match=rule):
            site.node.admits(place)
        await site.up("a")
        site.expect("far", place=place)
        await site.ready("far", grade="G1")
        assert site.answering() == ["a"]
        assert rule in site.node.replicas["far"].last
        assert site.node.refusals == (), "this node serves as before"

    run(use)


def test_a_replica_that_comes_back_after_its_lease_has_expired_starts_under_a_new_one() -> None:
    async def use() -> None:
        site = Site()
        await site.up("a")
        await site.stopped("a")
        site.clock.pass_seconds(1000)
        await site.probed("a")
        await site.ready("a")
        lease, started = site.log[-2], site.log[-1]
        assert (lease["type"], started["type"]) == ("node.lease/v1", "replica.started/v1")
        assert lease["not_before"] <= started["time"] < lease["expires"]

    run(use)
