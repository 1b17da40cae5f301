"""The life of a streamed answer: no byte before its admission is durable, no end before its completion is."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tests.support.request_path import DONE, JSON, Path, answered, chat, chunk, usage_chunk
from tests.support.worlds import PERSON_KEY, key, replica, snapshot, world

from daulat.core.commitments import opens, salt
from daulat.core.snapshot import Limits
from daulat.errors import EngineDead, EngineRequestFailed

ASKS = chat(stream=True)


def test_no_byte_leaves_before_the_admission_is_durable() -> None:
    path = Path()
    _, client = path.ask(ASKS)
    path.call.begin()
    path.call.say(chunk("one"))
    path.call.say(chunk("two"))
    assert client.status == 0
    path.journal.commit()
    assert client.status == 200
    assert dict(client.headers) == {b"content-type": b"text/event-stream", b"cache-control": b"no-cache"}
    assert client.body == chunk("one") + chunk("two")
    path.call.say(chunk("three"))
    assert client.writes[-1] == chunk("three"), "from then on bytes pass as they come"


def test_the_last_frame_waits_for_the_completion() -> None:
    path = Path()
    _, client = path.ask(ASKS)
    path.journal.commit()
    path.call.begin()
    path.call.say(chunk() + usage_chunk(7, 1) + DONE)
    path.call.end()
    assert client.body == chunk()
    assert not client.whole
    assert not path.service.active, "the engine is free"
    path.journal.commit()
    assert client.body == chunk() + DONE
    assert client.whole
    completion = path.journal.one("completion")
    assert (completion["outcome"], completion["status"]) == ("ok", 200)
    assert completion["usage"] == {"prompt_tokens": 7, "cached_tokens": 0, "completion_tokens": 1}
    assert opens(completion["response"], salt(PERSON_KEY, client.request_id, "response"), "response", client.body)
    assert path.at_rest()


def test_a_whole_stream_that_came_before_the_admission_was_durable_still_keeps_the_order() -> None:
    path = Path()
    _, client = path.ask(ASKS)
    path.call.begin()
    path.call.say(chunk() + DONE)
    path.call.end()
    assert not path.journal.values("completion")
    path.journal.commit(1)
    assert client.body == chunk()
    path.journal.commit()
    assert client.body == chunk() + DONE
    assert path.at_rest()


def test_usage_is_always_asked_for_and_hidden_from_who_did_not_ask() -> None:
    path = Path()
    body = chat(stream=True, temperature=0.25)
    _, client = path.ask(body)
    asked = path.call.request.body
    assert json.loads(asked) == {**json.loads(body), "stream_options": {"include_usage": True}}
    assert asked.endswith(body[1:]), "everything else as it came"
    path.journal.commit()
    path.call.begin()
    for part in (chunk(), usage_chunk(9, 2, cached=8), DONE):
        path.call.say(part)
    path.journal.commit()
    assert client.body == chunk() + DONE
    counted = path.journal.one("completion")["usage"]
    assert counted == {"prompt_tokens": 9, "cached_tokens": 8, "completion_tokens": 2}


def test_usage_is_shown_to_who_asked_and_that_body_is_not_touched() -> None:
    path = Path()
    body = chat(stream=True, stream_options={"include_usage": True})
    _, client = path.ask(body)
    assert path.call.request.body is body
    path.journal.commit()
    path.call.begin()
    path.call.say(chunk() + usage_chunk() + DONE)
    path.journal.commit()
    assert client.body == chunk() + usage_chunk() + DONE


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_passes_under_both_its_names(field: str) -> None:
    path = Path()
    _, client = path.ask(ASKS)
    path.journal.commit()
    path.call.begin()
    thought = chunk("", **{field: 'it says "usage": [DONE] and\ndata: [DONE]'})
    path.call.say(thought)
    assert client.body == thought
    path.call.say(DONE)
    path.journal.commit()
    assert client.whole
    whole = json.dumps({"choices": [{"message": {field: "hm"}}], "usage": {"prompt_tokens": 1}}).encode()
    _, other = path.ask(chat())
    path.call.answer(whole)
    path.journal.commit()
    assert other.body == whole


def test_an_answer_that_comes_whole_although_a_stream_was_asked_is_passed_whole() -> None:
    path = Path()
    _, client = path.ask(ASKS)
    path.call.answer(answered(), 200, JSON)
    path.journal.commit()
    assert (client.status, client.body) == (200, answered())


def test_an_error_instead_of_a_stream_has_its_status() -> None:
    path = Path()
    _, client = path.ask(ASKS)
    path.journal.commit()
    path.call.answer(b'{"error":{"message":"too long"}}', 400)
    path.journal.commit()
    assert client.status == 400


# Failures.


def test_before_the_first_byte_another_replica_takes_over_once_that_is_durable() -> None:
    path = Path(replicas=(replica(1), replica(2)))
    _, client = path.ask(ASKS)
    path.journal.commit()
    path.call.begin()
    path.call.fail(EngineDead("gone"))
    path.call.begin()
    path.call.say(chunk())
    assert client.status == 0, "the second attempt is not durable yet"
    path.journal.commit()
    assert client.body == chunk()
    path.call.say(DONE)
    path.journal.commit()
    attempts = path.journal.one("completion")["attempts"]
    assert [(attempt["replica"], attempt["outcome"]) for attempt in attempts] == [(11, "dead"), (12, "ok")]


def test_a_durable_admission_alone_does_not_release_a_later_attempt() -> None:
    path = Path(replicas=(replica(1), replica(2)))
    _, client = path.ask(ASKS)
    path.call.fail(EngineDead("gone"))  # before even the admission is durable
    path.call.begin()
    path.call.say(chunk())
    path.journal.commit(1)
    assert client.promise
    assert client.status == 0, "each attempt is durable before its first byte"
    path.journal.commit(1)
    assert client.body == chunk()


def test_what_a_failed_attempt_had_said_is_forgotten() -> None:
    path = Path(replicas=(replica(1), replica(2)))
    _, client = path.ask(ASKS)
    path.call.begin()
    path.call.say(chunk("first"))
    path.call.fail(EngineDead("gone"))
    path.call.begin()
    path.call.say(chunk("second"))
    path.journal.commit()
    assert client.body == chunk("second")


def test_after_the_first_byte_nobody_takes_over_and_the_client_is_told() -> None:
    path = Path(replicas=(replica(1), replica(2)))
    _, client = path.ask(ASKS)
    path.journal.commit()
    path.call.begin()
    path.call.say(chunk())
    path.call.fail(EngineDead("The engine is gone."))
    assert len(path.engines.calls) == 1
    assert client.body == chunk(), "the error is the final frame: held like one"
    path.journal.commit()
    assert client.whole
    event = client.body.removeprefix(chunk())
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    assert json.loads(event[6:])["error"]["code"] == "engine_dead"
    assert DONE not in client.body
    completion = path.journal.one("completion")
    assert (completion["outcome"], completion["status"], completion["error"]) == ("failed", 200, "engine_dead")
    assert completion["usage"]["completion_tokens"] == 1
    assert opens(completion["response"], salt(PERSON_KEY, client.request_id, "response"), "response", client.body)
    assert path.at_rest()


@pytest.mark.parametrize("durable", [True, False])
def test_a_stream_that_ends_without_its_end_is_an_error_not_a_silence(durable: bool) -> None:
    path = Path()
    _, client = path.ask(ASKS)
    if durable:
        path.journal.commit()
    path.call.begin()
    path.call.say(chunk())
    path.call.end()
    path.journal.commit()
    path.journal.commit()
    assert client.whole
    assert b'"engine_dead"' in client.body
    completion = path.journal.one("completion")
    assert completion["outcome"] == "failed"
    assert completion["attempts"] == [{"replica": 11, "lease": 5, "outcome": "dead"}]
    assert path.at_rest()


@pytest.mark.parametrize("durable", [True, False])
def test_a_stream_without_a_single_event_is_asked_of_another_replica(durable: bool) -> None:
    path = Path(replicas=(replica(1), replica(2)))
    _, client = path.ask(ASKS)
    if durable:
        path.journal.commit()
    path.call.begin()
    path.call.end()
    path.journal.commit()
    assert len(path.engines.calls) == 2
    path.call.begin()
    path.call.say(chunk() + DONE)
    path.call.end()
    path.journal.commit()
    path.journal.commit()
    assert client.body == chunk() + DONE
    assert path.at_rest()


def test_an_event_without_an_end_is_an_error() -> None:
    path = Path()
    _, client = path.ask(ASKS)
    path.journal.commit()
    path.call.begin()
    path.call.say(chunk())
    for _ in range(9):
        path.call.say(b"data: " + bytes(1024 * 1024))
    assert path.call.aborted
    path.journal.commit()
    assert b"too large" in client.body
    assert path.at_rest()


def test_malformed_words_after_the_last_frame_change_nothing() -> None:
    path = Path()
    _, client = path.ask(ASKS)
    path.journal.commit()
    path.call.begin()
    path.call.say(chunk() + DONE + chunk("more"))
    path.call.say(chunk("and more"))
    path.call.fail(EngineRequestFailed("broken", status=502))
    path.journal.commit()
    assert client.body == chunk() + DONE
    assert path.at_rest()


# Slowness.


def test_a_slow_client_stops_the_engine_and_a_quick_one_lets_it_go_on() -> None:
    path = Path()
    inference, _ = path.ask(ASKS)
    inference.pause()
    assert path.call.paused
    inference.resume()
    assert not path.call.paused


def test_a_client_slow_at_the_end_does_not_keep_the_engines_connection() -> None:
    path = Path()
    inference, _ = path.ask(ASKS)
    path.journal.commit()
    path.call.begin()
    path.call.say(chunk())
    inference.pause()
    path.call.say(DONE)
    assert not path.call.paused, "or the end of the engine's message would never be read"
    inference.pause()
    inference.resume()
    assert not path.call.paused


def test_an_engine_faster_than_the_disk_is_told_to_wait() -> None:
    path = Path()
    _, client = path.ask(ASKS)
    path.call.begin()
    big = chunk("x" * 600_000)
    path.call.say(big)
    assert not path.call.paused
    path.call.say(big)
    assert path.call.paused
    path.journal.commit()
    assert not path.call.paused
    assert client.body == big + big


# What cuts a running answer.


def test_a_revoked_key_cuts_its_streams_and_no_others() -> None:
    path = Path()
    _, client = path.ask(ASKS)
    cut = path.call
    _, other = path.ask(ASKS, secret="sk-" + "b" * 43)
    path.journal.commit()
    for call in path.engines.calls:
        call.begin()
        call.say(chunk())
    path.service.renew(world(path.clock, keys=(key(2, "sk-" + "b" * 43),)))
    assert cut.aborted
    assert not path.call.aborted
    path.journal.commit()
    event = json.loads(client.body.removeprefix(chunk() + b"data: "))
    assert (event["error"]["type"], event["error"]["code"]) == ("authentication_error", "revoked")
    assert "revoked" in event["error"]["message"]
    completion = path.journal.one("completion")
    assert (completion["outcome"], completion["error"]) == ("failed", "revoked")
    assert completion["attempts"][0]["outcome"] == "cut"
    assert not other.whole


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"people": ()}, "key was revoked"),
        ({"tenants": ()}, "key was revoked"),
        ({"replicas": ()}, "replica was stopped"),
        ({"leases": ()}, "lease was revoked"),
    ],
)
def test_whatever_made_an_answer_lawful_cuts_it_when_it_goes(change: dict[str, object], words: str) -> None:
    path = Path()
    _, client = path.ask(ASKS)
    path.journal.commit()
    path.call.begin()
    path.call.say(chunk())
    path.service.renew(world(path.clock, **change))
    path.journal.commit()
    assert client.whole
    assert words in client.body.decode()
    assert path.at_rest()


def test_a_revocation_before_the_first_byte_is_a_plain_refusal() -> None:
    path = Path()
    _, client = path.ask(ASKS)
    path.service.renew(world(path.clock, keys=()))
    path.journal.commit()
    assert (client.status, client.error["code"]) == (401, "revoked")
    assert path.at_rest()


def test_a_new_snapshot_that_still_covers_an_answer_leaves_it_alone() -> None:
    path = Path()
    _, client = path.ask(ASKS)
    path.journal.commit()
    path.call.begin()
    path.service.renew(world(path.clock, replace(snapshot(), number=2)))
    path.clock.pass_seconds(400)  # the lease has expired: that stops admission only
    path.service.renew(world(path.clock, replace(snapshot(), number=3)))
    path.call.say(chunk() + DONE)
    path.journal.commit()
    assert client.whole
    assert path.journal.one("completion")["outcome"] == "ok"


def test_a_client_that_leaves_mid_stream_is_charged_for_what_it_saw() -> None:
    path = Path()
    inference, client = path.ask(ASKS)
    path.journal.commit()
    path.call.begin()
    for word in ("one", "two", "three"):
        path.call.say(chunk(word))
    inference.client_gone()
    assert path.call.aborted
    path.journal.commit()
    completion = path.journal.one("completion")
    assert (completion["outcome"], completion["status"], completion["error"]) == ("aborted", 200, "client_left")
    assert completion["usage"]["completion_tokens"] == 3
    assert opens(completion["response"], salt(PERSON_KEY, client.request_id, "response"), "response", client.body)
    assert path.at_rest()


def test_a_client_that_leaves_before_the_admission_is_durable_has_an_entry_all_the_same() -> None:
    path = Path()
    inference, client = path.ask(ASKS)
    path.call.begin()
    path.call.say(chunk())
    inference.client_gone()
    path.journal.commit()
    assert client.status == 0
    assert path.journal.one("completion")["outcome"] == "aborted"
    assert path.at_rest()


def test_a_stream_that_takes_too_long_is_ended_with_words() -> None:
    path = Path(limits=Limits(request_seconds=60.0))
    inference, client = path.ask(ASKS)
    path.journal.commit()
    path.call.begin()
    path.call.say(chunk())
    path.service.sweep(inference._begun + 60.1)
    path.journal.commit()
    assert client.whole
    assert b'"engine_timeout"' in client.body
    assert path.journal.one("completion")["attempts"][0]["outcome"] == "timeout"


def test_a_service_that_stops_ends_its_streams_with_words() -> None:
    path = Path()
    inference, client = path.ask(ASKS)
    path.journal.commit()
    path.call.begin()
    path.call.say(chunk())
    inference.cut("the service is stopping")
    path.journal.commit()
    assert client.whole
    assert b"the service is stopping" in client.body
    assert path.at_rest()
