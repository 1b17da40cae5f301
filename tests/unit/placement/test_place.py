"""Cores, memory and devices are shared out evenly, and what does not fit is refused with words."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from daulat.placement.place import Budget, Claim, Refused, memory_needed, place

EIGHT = Budget(threads=7, memory_mib=10_000)


def test_the_only_replica_gets_everything() -> None:
    (share,) = place(EIGHT, [Claim("a", 1, 1000)])["a"]
    assert (share.threads, share.memory_mib, share.devices) == (7, 10_000, ())


def test_engines_do_not_fight_for_cores() -> None:
    found = place(EIGHT, [Claim("a", 2, 1000), Claim("b", 1, 4000)])
    assert [share.threads for share in (*found["a"], *found["b"])] == [2, 2, 2]
    assert found["b"][0].memory_mib > 4000


def test_what_came_first_keeps_its_place_and_the_rest_is_told_why_not() -> None:
    found = place(EIGHT, [Claim("a", 1, 8000), Claim("b", 1, 4000), Claim("c", 1, 1500)])
    refused = found["b"]
    assert isinstance(refused, Refused)
    assert "need 4000 MiB of memory, 2000 of 10000 are left" in refused.reason
    assert [share.threads for name in "ac" for share in found[name]] == [3, 3]


def test_devices_belong_to_one_deployment_and_are_shared_out_evenly() -> None:
    four = tuple(f"npu:{number}" for number in range(4))
    found = place(EIGHT, [Claim("a", 2, 100, four), Claim("b", 1, 100, ("npu:3",)), Claim("c", 1, 100)])
    assert [share.devices for share in found["a"]] == [four[:2], four[2:]]
    assert found["b"] == Refused("npu:3 belongs to deployment 'a': stop that, or choose others")
    assert found["c"][0].threads == 7, "what computes on devices takes no compute threads"
    odd = place(EIGHT, [Claim("a", 3, 100, four)])["a"]
    assert odd == Refused("4 devices cannot be shared out among 3 replicas evenly")


def test_memory_is_estimated_from_below_by_the_files_size() -> None:
    assert memory_needed(98_362_432) == 241
    assert memory_needed(10 * 2**30) == 12_416


CLAIMS = st.lists(st.builds(Claim, st.uuids().map(str), st.integers(0, 5), st.integers(1, 5000)), max_size=8)


@given(st.builds(Budget, st.integers(1, 256), st.integers(0, 20_000)), CLAIMS)
def test_no_more_is_given_than_there_is(budget: Budget, claims: list[Claim]) -> None:
    found = place(budget, claims)
    assert set(found) == {claim.deployment for claim in claims}
    given_ = [share for shares in found.values() if not isinstance(shares, Refused) for share in shares]
    assert sum(share.memory_mib for share in given_) <= budget.memory_mib
    assert all(share.threads >= 1 for share in given_)
    assert sum(share.threads for share in given_) <= max(budget.threads, len(given_))
    for claim in claims:
        shares = found[claim.deployment]
        if isinstance(shares, Refused):
            assert claim.replicas * claim.memory_mib > 0
        else:
            assert [share.memory_mib >= claim.memory_mib for share in shares] == [True] * claim.replicas
