"""Which replica takes a request. Pure, and called for every request."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from daulat.core.snapshot import ReplicaRow


def choose(replicas: Sequence[ReplicaRow], load: Mapping[str, int], tried: Collection[str] = ()) -> ReplicaRow | None:
    """The least loaded replica that has not been tried; the first of equals. None: there is none.

    Args:
        replicas: eligible ones only: of the model, on a node with a live lease.
        load: requests in flight by replica id, as this worker knows them.
    """
    if len(replicas) == 1 and not tried:
        return replicas[0]
    rest = [replica for replica in replicas if replica.id not in tried]
    return min(rest, key=lambda replica: load.get(replica.id, 0) / max(1, replica.slots), default=None)
