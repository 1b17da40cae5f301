"""Several replicas of one model: which one answers, which one takes over, and what a rollout changes meanwhile."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from tests.support.request_path import DONE, Path, answered, chat, chunk
from tests.support.worlds import replica, snapshot, world

from daulat.core.snapshot import Snapshot
from daulat.errors import EngineDead, Unavailable
from daulat.pipeline import service as services
from daulat.pipeline.inference import Inference

TWO = (replica(1), replica(2))
STREAM = chat(stream=True)


def attempts(path: Path) -> list[tuple[int, str]]:
    return [(each["replica"], each["outcome"]) for each in path.journal.values("completion")[-1]["attempts"]]


def renew(path: Path, **changes: Any) -> None:
    path.service.renew(world(path.clock, **changes))


def rollout(*, draining: bool = False) -> Snapshot:
    """Replica 1 serves the model that was admitted first (3), replica 2 the one that is to take its place (30)."""
    made = snapshot()
    old = next(row for row in made.models if row.name == "small")
    entry = json.dumps({**json.loads(old.entry), "digest": "1" * 64})
    new = replace(old, index=30, entry=entry)
    first = replace(replica(1), admitted=old.index, draining=draining)
    return replace(made, models=(*made.models, new), replicas=(first, replace(replica(2), admitted=30)))


def test_a_request_that_had_not_begun_when_its_replica_was_stopped_is_answered_by_another() -> None:
    path = Path(replicas=TWO)
    _, client = path.ask(STREAM)
    path.journal.commit()
    first = path.call
    renew(path, replicas=TWO[1:])
    assert first.aborted
    path.journal.commit()
    path.call.begin()
    path.call.say(chunk() + DONE)
    path.journal.commit()
    assert (client.status, client.body) == (200, chunk() + DONE)
    assert attempts(path) == [(11, "dead"), (12, "ok")]
    assert path.at_rest()


def test_one_that_had_begun_ends_with_words() -> None:
    path = Path(replicas=TWO)
    _, client = path.ask(STREAM)
    path.journal.commit()
    path.call.begin()
    path.call.say(chunk())
    renew(path, replicas=TWO[1:])
    path.journal.commit()
    assert b"the replica was stopped" in client.body
    assert b"[DONE]" not in client.body
    assert attempts(path) == [(11, "dead")]
    assert path.at_rest()


def test_without_another_replica_it_fails_with_the_reason() -> None:
    path = Path()
    _, client = path.ask(chat())
    renew(path, replicas=())
    path.journal.commit()
    assert client.status == 503
    assert "the replica was stopped" in client.error["message"]
    assert path.at_rest()


def test_a_draining_replica_ends_what_it_has_and_gets_nothing_new() -> None:
    path = Path(replicas=TWO)
    _, before = path.ask(chat())
    running = path.call
    renew(path, replicas=(replace(TWO[0], draining=True), TWO[1]))
    for _ in range(3):
        path.ask(chat())
        assert path.call.replica.id == "replica_2"
        path.call.answer(answered())
    running.answer(answered())
    path.journal.commit()
    assert before.status == 200
    assert path.at_rest()


def test_when_all_replicas_drain_new_requests_are_refused_with_503() -> None:
    path = Path(replicas=(replace(replica(1), draining=True),))
    _, client = path.ask(chat())
    path.journal.commit()
    assert (client.status, client.error["code"]) == (503, "no_replica")


def test_a_replica_that_broke_off_is_left_alone_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(replicas=TWO)
    path.ask(chat())
    path.call.fail(EngineDead("gone"))
    path.call.answer(answered())
    path.ask(chat())
    assert path.call.replica.id == "replica_2", "although the first is idle"
    path.call.answer(answered())
    monkeypatch.setattr(services.time, "monotonic", lambda: 1e12)
    path.ask(chat())
    assert path.call.replica.id == "replica_1"


def test_long_prompts_that_begin_alike_are_answered_by_one_replica() -> None:
    path = Path(replicas=TWO)
    asked = set()
    for number in range(8):
        system = {"role": "system", "content": "clerk " * 500}
        path.ask(chat(messages=[system, {"role": "user", "content": str(number)}]))
        asked.add(path.call.replica.id)
        path.call.answer(answered())
    assert len(asked) == 1


def _admitted(path: Path) -> list[tuple[int, int]]:
    return [(value["model"], value["replica"]) for value in path.journal.values("admission")]


def test_during_a_rollout_each_answer_names_the_model_that_its_own_replica_serves() -> None:
    path = Path()
    path.service.renew(world(path.clock, rollout()))
    for _ in range(2):
        path.ask(chat())
    path.journal.commit()
    assert _admitted(path) == [(3, 11), (30, 12)]


def test_a_decision_about_one_model_is_not_carried_over_to_another_by_a_retry() -> None:
    path = Path()
    path.service.renew(world(path.clock, rollout()))
    _, client = path.ask(chat())
    assert path.call.replica.id == "replica_1"
    path.call.fail(EngineDead("gone"))
    path.journal.commit()
    assert client.status == 502
    assert len(path.engines.calls) == 1
    assert path.at_rest()


def test_after_the_old_replica_began_to_drain_only_the_new_model_answers() -> None:
    made = world(Path().clock, rollout(draining=True))
    (route,) = made.routes("small")
    assert (route.replica.id, route.model.index) == ("replica_2", 30)
    with pytest.raises(Unavailable):
        made.routes("embedder")


def test_replicas_that_are_gone_are_forgotten() -> None:
    path = Path(replicas=TWO)
    path.ask(chat())
    path.call.answer(answered())
    renew(path, replicas=TWO[1:])
    assert path.service.load == {}
    assert isinstance(path.service.active, set)
    assert not any(isinstance(running, Inference) for running in path.service.active)
