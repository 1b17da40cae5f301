"""Which replica takes a request. Pure, and called for every request of a model that has several."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final
from zlib import crc32

from daulat.core.snapshot import ReplicaRow

_SLACK: Final = 0.5  # of a replica's slots: so much more loaded than the least loaded one may the warm one be


def choose(
    replicas: Sequence[ReplicaRow],
    load: Mapping[str, int],
    tried: Collection[str] = (),
    *,
    avoid: Collection[str] = (),
    prefix: int = 0,
) -> ReplicaRow | None:
    """The least loaded replica that has not been tried, or the one that has the prompt's beginning warm.

    Prompts that begin alike go to the same replica while it is not much more loaded than the least loaded one:
    rendezvous hashing with bounded loads. Every worker comes to the same replica without asking anybody, and a replica
    that goes or comes moves only the prompts that were, or will be, its own.

    Args:
        replicas: eligible ones only: of the model, on a node with a live lease.
        load: requests in flight by replica id, as this worker knows them.
        tried: these are not asked again. None is returned when no other is left.
        avoid: these are asked when there are no others.
        prefix: the same number for prompts that begin alike; 0: nothing worth keeping warm.
    """
    if len(replicas) == 1 and not tried:
        return replicas[0]
    rest = [replica for replica in replicas if replica.id not in tried]
    rest = [replica for replica in rest if replica.id not in avoid] or rest
    if not rest:
        return None
    loads = [load.get(replica.id, 0) / max(1, replica.slots) for replica in rest]
    least = min(loads)
    if prefix:
        near = [replica for replica, loaded in zip(rest, loads, strict=True) if loaded <= least + _SLACK]
        # The hash of a tuple of whole numbers is the same in every process, as that of texts is not.
        return max(near, key=lambda replica: hash((prefix, crc32(replica.id.encode()))))
    return rest[loads.index(least)]
