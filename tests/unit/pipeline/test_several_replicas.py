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


# Engines on other machines.

AWAY = replica(1, address="tls:203.0.113.7:8443")
BOTH_AWAY = (AWAY, replica(2, address="tcp:gpu-2.example:8000"))


@pytest.mark.parametrize("body", [chat(), STREAM])
def test_nothing_goes_to_another_machine_before_its_admission_is_durable(body: bytes) -> None:
    path = Path(replicas=(AWAY,))
    _, client = path.ask(body)
    assert not path.engines.calls
    path.journal.commit()
    if body is STREAM:
        path.call.begin()
        path.call.say(chunk() + DONE)
        assert client.body == chunk()
    else:
        path.call.answer(answered())
    path.journal.commit()
    assert (client.status, client.whole) == (200, True)
    assert len(path.engines.calls) == 1
    assert attempts(path) == [(11, "ok")]
    assert path.at_rest()


@pytest.mark.parametrize("address", ["tcp:127.0.0.1:8000", "tcp:[::1]:8000", "tls:localhost:8443"])
def test_an_engine_on_this_machine_begins_at_once(address: str) -> None:
    path = Path(replicas=(replica(1, address=address),))
    path.ask(chat())
    assert len(path.engines.calls) == 1


def test_who_leaves_before_that_is_never_asked_for() -> None:
    path = Path(replicas=(AWAY,))
    inference, _ = path.ask(chat())
    inference.client_gone()
    path.journal.commit()
    assert not path.engines.calls
    assert path.journal.one("completion")["outcome"] == "aborted"
    assert attempts(path) == []
    assert path.at_rest()


@pytest.mark.parametrize("body", [chat(), STREAM])
@pytest.mark.parametrize("first", [AWAY, replica(1)])
def test_so_does_every_further_attempt(first: Any, body: bytes) -> None:
    path = Path(replicas=(first, BOTH_AWAY[1]))
    _, client = path.ask(body)
    if first is AWAY:
        path.journal.commit()
    path.call.fail(EngineDead("gone"))
    assert len(path.engines.calls) == 1
    path.journal.commit(1)
    assert len(path.engines.calls) == 1 + (first is AWAY), "one that waits for two records waits for both"
    path.journal.commit()
    assert path.call.replica.id == "replica_2"
    if body is STREAM:
        path.call.begin()
        path.call.say(chunk() + DONE)
    else:
        path.call.answer(answered())
    path.journal.commit()
    assert (client.status, len(path.engines.calls)) == (200, 2)
    assert attempts(path) == [(11, "dead"), (12, "ok")]
    assert path.at_rest()


def test_a_replica_that_goes_before_it_was_asked_is_not_asked() -> None:
    path = Path(replicas=BOTH_AWAY)
    _, client = path.ask(STREAM)
    renew(path, replicas=BOTH_AWAY[1:])
    assert not path.engines.calls
    path.journal.commit(1)
    assert not path.engines.calls
    path.journal.commit()
    (call,) = path.engines.calls
    assert call.replica.id == "replica_2"
    call.begin()
    call.say(chunk() + DONE)
    path.journal.commit()
    assert client.body == chunk() + DONE
    assert path.at_rest()


def test_what_is_left_of_an_empty_answer_is_not_taken_for_the_next_replicas() -> None:
    path = Path(replicas=TWO)
    _, client = path.ask(STREAM)
    path.call.begin()
    path.call.say(DONE)
    path.call.say(chunk("late"))
    path.journal.commit()
    assert path.call.replica.id == "replica_2"
    path.call.begin()
    path.call.say(chunk("right") + DONE)
    path.journal.commit()  # the attempt
    path.journal.commit()  # and what was answered
    assert client.body == chunk("right") + DONE
    assert attempts(path) == [(11, "empty"), (12, "ok")]
    assert path.at_rest()
