"""The life of a request whose answer comes whole: what is recorded, what is held back, and until when."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tests.support.request_path import JSON, Path, answered, chat
from tests.support.worlds import (
    EMBEDDER,
    EPOCH_KEY,
    FOREIGN_SECRET,
    PERSON_KEY,
    SECRET,
    WORKER,
    key,
    lease,
    person,
    replica,
    snapshot,
    world,
)

from daulat.core import entries
from daulat.core.commitments import opens, personal, salt
from daulat.core.snapshot import Limits
from daulat.errors import EngineDead, EngineTimeout, InvalidRequest, Overloaded


def test_an_answer_waits_until_its_completion_is_durable() -> None:
    path = Path()
    body = chat(seed=1)
    _, client = path.ask(body)
    assert path.call.request.body is body, "the engine gets the bytes that came"
    path.call.answer(answered())
    assert (client.status, client.body) == (0, b"")
    path.journal.commit(1)
    assert client.promise == f"promise-{client.request_id}"
    assert client.status == 0, "the admission alone releases nothing of a whole answer"
    path.journal.commit()
    assert (client.status, client.body, client.whole) == (200, answered(), True)
    assert path.at_rest()


def test_what_was_asked_is_in_memory_until_it_is_answered_and_no_longer() -> None:
    """Not until that is durable: of many at once, most wait for that."""
    path = Path()
    body = chat()
    inference, client = path.ask(body)
    assert inference._body is body, "another replica may be asked"
    path.call.answer(answered())
    assert not client.status
    assert (inference._body, inference._peek) == (b"", None)
    path.journal.commit()
    assert client.status == 200


def test_a_clock_that_is_set_back_meanwhile_makes_no_lie_of_an_answer() -> None:
    path = Path()
    path.ask(chat())
    path.clock.pass_seconds(-60)
    path.call.answer(answered())
    path.journal.commit()
    assert path.journal.one("completion")["time"] == path.journal.one("admission")["time"]


def test_the_records_say_who_asked_what_under_which_rules_and_what_came_of_it() -> None:
    path = Path()
    body = chat()
    _, client = path.ask(body)
    path.call.answer(answered(tokens=(11, 4)))
    path.journal.commit()
    admission, completion = path.journal.one("admission"), path.journal.one("completion")
    assert tuple(admission) == entries.ADMISSION_FIELDS
    assert tuple(completion) == entries.COMPLETION_FIELDS
    shown = {name: admission[name] for name in ("action", "tenant", "principal", "key", "effect", "requested_model")}
    assert shown == {
        "action": "chat.completions",
        "tenant": "house",
        "principal": "who1",
        "key": "which1",
        "effect": "allow",
        "requested_model": "small",
    }
    known = {"citizenship": "MY", "assurance": "substantial", "roles": ["user"]}
    assert admission["attributes"] == {**known, "issuer": "operator", "until": 0}
    assert "use.permit" in admission["policies"]
    indices = [admission[name] for name in ("policy", "model", "replica", "lease", "worker", "sequence")]
    assert indices == [2, 3, 11, 5, WORKER, 1]
    assert completion["outcome"] == "ok"
    assert completion["status"] == 200
    assert completion["error"] is None
    assert completion["attempts"] == [{"replica": 11, "lease": 5, "outcome": "ok"}]
    assert completion["usage"] == {"prompt_tokens": 11, "cached_tokens": 0, "completion_tokens": 4}
    for kind, record, sent in (("request", admission, body), ("response", completion, client.body)):
        assert opens(record[kind], salt(PERSON_KEY, client.request_id, kind), kind, sent)


def test_names_in_any_script_make_entries_that_anybody_can_read() -> None:
    attributes = replace(person(1).attributes, roles=("ketua-\u9867\u5ba2", "user"))
    path = Path(people=(replace(person(1), attributes=attributes),))
    _, client = path.ask(chat())
    path.call.answer(answered())
    _, other = path.ask(chat(model='\u6a21\u578b \u00e9\u2028\x7f\0"\\/'))
    path.journal.commit()
    path.journal.commit()
    assert (client.status, other.status) == (200, 404)
    assert path.journal.values("admission")[0]["attributes"]["roles"] == ["ketua-\u9867\u5ba2", "user"]
    assert path.at_rest()


def test_no_more_replicas_are_tried_than_fit_an_entry() -> None:
    path = Path(replicas=tuple(replica(number) for number in range(1, 1500)))
    _, client = path.ask(chat())
    for _ in range(2000):
        if path.call.aborted or not path.service.active:
            break
        path.call.fail(EngineDead("gone"))
    path.journal.commit()
    assert client.status == 502
    assert len(path.engines.calls) == 8
    assert path.at_rest()


@pytest.mark.parametrize("body", [chat(), chat(stream=True)])
@pytest.mark.parametrize(
    ("refusal", "error"),
    [
        (b'{"error":{"message":"full","type":"x","code":400}}', ("full", "x", None, None)),  # llama.cpp
        (b'{"error":{"message":"full","type":"x","param":"n","code":400}}', ("full", "x", "n", None)),  # vLLM
        (b'{"error":{"message":"full","code":"c","more":1}}', ("full", "invalid_request_error", None, "c")),
        (
            b'{"error":{"message":"full","type":null,"param":[],"code":{}}}',
            ("full", "invalid_request_error", None, None),
        ),
        ('{"error":{"message":"penuh \u2014"}}'.encode(), ("penuh \u2014", "invalid_request_error", None, None)),
    ],
)
def test_an_engines_refusal_has_all_four_fields_of_openais_envelope(
    body: bytes, refusal: bytes, error: tuple[str | None, ...]
) -> None:
    path = Path()
    _, client = path.ask(body)
    path.call.answer(refusal, 400)
    path.journal.commit()
    assert client.status == 400
    assert client.error == dict(zip(("message", "type", "param", "code"), error, strict=True))


def test_an_engines_refusal_in_openais_envelope_passes_as_it_is() -> None:
    path = Path()
    _, client = path.ask(chat())
    refusal = b'{"error": {"message":"full","type":"invalid_request_error","param":null,"code":"x","more":1}, "id": 7}'
    path.call.answer(refusal, 400)
    path.journal.commit()
    assert (client.status, client.body) == (400, refusal)
    completion = path.journal.one("completion")
    assert (completion["outcome"], completion["error"]) == ("failed", "engine_refused")
    assert completion["attempts"][0]["outcome"] == "failed"


@pytest.mark.parametrize("body", [b"Not found", b"", b'{"detail":"no"}', b'{"error":"no"}', b"\xff\xfe", b"[" * 5000])
def test_any_other_refusal_of_an_engine_is_put_into_the_envelope(body: bytes) -> None:
    path = Path()
    _, client = path.ask(chat())
    path.call.answer(body, 404, b"text/plain")
    path.journal.commit()
    assert client.status == 404
    assert client.error["code"] == "engine_refused"
    assert "404" in client.error["message"]


@pytest.mark.parametrize("status", [204, 301, 302, 500, 503, 599])
def test_what_is_neither_an_answer_nor_a_refusal_is_the_engines_failure(status: int) -> None:
    path = Path()
    _, client = path.ask(chat())
    path.call.answer(answered(), status)
    path.journal.commit()
    assert client.status == 502
    assert client.error["code"] == "engine_request_failed"
    assert path.journal.one("completion")["outcome"] == "failed"
    assert path.at_rest()


@pytest.mark.parametrize(
    "body",
    [b"", b"ok", b"[]", b'"x"', b'{"choices":[', b'{"x":"\xff"}', b"\xff", b"data: {}\n\n", b"[" * 5000],
)
def test_an_answer_that_is_no_json_object_is_never_passed_off_as_one(body: bytes) -> None:
    path = Path()
    _, client = path.ask(chat())
    path.call.answer(body)
    path.journal.commit()
    assert client.status == 502
    assert client.error["type"] == "engine_error"


@pytest.mark.parametrize(
    "usage",
    [
        "null",
        "{}",
        '"many"',
        '{"prompt_tokens":"5"}',
        '{"prompt_tokens":null}',
        '{"prompt_tokens":-5}',
        '{"prompt_tokens":1e3}',
        '{"prompt_tokens":99999999999999999999}',
    ],
)
def test_an_answer_whose_usage_cannot_be_read_still_arrives(usage: str) -> None:
    path = Path()
    body = f'{{"choices":[{{"message":{{"content":"hello"}},"finish_reason":"stop"}}],"usage":{usage}}}'.encode()
    _, client = path.ask(chat())
    path.call.answer(body)
    path.journal.commit()
    assert client.body == body
    assert path.journal.one("completion")["usage"]["prompt_tokens"] == 0


def test_cached_prompt_tokens_are_counted() -> None:
    path = Path()
    path.ask(chat())
    usage = {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 8}}
    path.call.answer(json.dumps({**json.loads(answered()), "usage": usage}).encode())
    counted = path.journal.one("completion")["usage"]
    assert counted == {"prompt_tokens": 9, "cached_tokens": 8, "completion_tokens": 2}


def test_tokens_spent_beside_a_request_are_its_overhead() -> None:
    path = Path()
    path.ask(chat())
    path.call.overhead = 900
    path.call.answer(answered())
    assert path.journal.one("completion")["overhead"] == 900


def test_an_answer_that_does_not_fit_is_broken_off() -> None:
    path = Path()
    _, client = path.ask(chat())
    path.call.begin(200, JSON)
    for _ in range(65):
        path.call.say(bytes(1024 * 1024))
    assert path.call.aborted
    path.journal.commit()
    assert client.status == 502
    assert "too large" in client.error["message"]
    assert path.at_rest()


def test_embeddings_go_to_models_that_embed() -> None:
    path = Path()
    _, client = path.ask(b'{"model":"embedder","input":"x","stream":true}', "embeddings")
    assert path.call.replica.model == EMBEDDER
    path.call.answer(b'{"data":[{"embedding":[0.5]}],"usage":{"prompt_tokens":3,"total_tokens":3}}')
    path.journal.commit()
    assert client.status == 200
    assert path.journal.one("admission")["stream"] is False, "embeddings are never streamed"
    _, refused = path.ask(b'{"model":"small","input":"x"}', "embeddings")
    path.journal.commit()
    assert (refused.status, refused.error["param"]) == (400, "model")


# Refusals: one entry, both records in one commit, and only then the answer.


def test_who_is_not_eligible_learns_which_rule_refused() -> None:
    path = Path()
    _, client = path.ask(chat(), secret=FOREIGN_SECRET)
    assert client.status == 0, "a denial is held until it is durable, too"
    assert not path.engines.calls
    path.journal.commit()
    assert client.status == 403
    assert client.promise
    assert "citizenship" in client.error["message"]
    admission, completion = path.journal.one("admission"), path.journal.one("completion")
    assert admission["effect"] == "deny"
    assert admission["policies"]
    assert all(name in client.error["message"] for name in admission["policies"])
    assert (completion["outcome"], completion["status"], completion["attempts"]) == ("denied", 403, [])
    assert opens(
        completion["response"],
        salt(personal(EPOCH_KEY, "person_3"), client.request_id, "response"),
        "response",
        client.body,
    )
    assert path.at_rest()


@pytest.mark.parametrize(
    ("body", "status", "code", "outcome"),
    [
        (b'{"model":"nope","messages":[]}', 404, "model_not_found", "denied"),
        (b'{"model":"nope' + b"x" * 500 + b'","messages":[]}', 404, "model_not_found", "denied"),
        (b"{", 400, "invalid_request", "failed"),
        (b'{"model":"small"}', 400, "invalid_request", "failed"),
        (b'{"model":"small","messages":[],"stream":1}', 400, "invalid_request", "failed"),
        (b'{"model":"small","messages":[],"stream":true,"stream_options":[]}', 400, "invalid_request", "failed"),
    ],
)
def test_every_refusal_is_an_entry(body: bytes, status: int, code: str, outcome: str) -> None:
    path = Path()
    _, client = path.ask(body)
    path.journal.commit()
    assert (client.status, client.error["code"]) == (status, code)
    admission, completion = path.journal.one("admission"), path.journal.one("completion")
    assert tuple(admission) == entries.ADMISSION_FIELDS
    assert (admission["effect"], completion["outcome"], completion["error"]) == ("deny", outcome, code)
    assert len(admission["requested_model"]) <= 128
    assert admission["policies"][0].startswith("gateway.")
    assert path.meter.finished_ == [("chat.completions", status, outcome, path.meter.finished_[0][3])]
    assert path.at_rest()


def test_a_key_for_certain_models_sees_no_others() -> None:
    path = Path(keys=(key(1, models=(EMBEDDER,)),))
    _, client = path.ask(chat())
    path.journal.commit()
    assert (client.status, client.error["code"]) == (404, "model_not_found")
    assert not path.engines.calls


def test_one_keys_denials_beyond_ten_a_second_become_counts() -> None:
    path = Path()
    for _ in range(13):
        _, client = path.ask(chat(model="nope"))
        path.journal.commit()
        assert client.status == 404
    assert len(path.journal.values("admission")) == 10
    assert path.journal.over_budget == {"who1": 3}
    assert client.promise == "", "nothing is promised for what has no entry"
    assert len(path.meter.finished_) == 13
    path.clock.pass_seconds(1)
    path.ask(chat(model="nope"))
    assert len(path.journal.values("admission")) == 11


def test_a_full_disk_refuses_and_its_refusals_take_no_more_of_it() -> None:
    path = Path()
    path.ask(chat())
    running = path.call
    path.journal.shortage = "the disk is nearly full"
    _, client = path.ask(chat())
    assert client.status == 503
    assert client.error["code"] == "storage_full"
    assert len(path.journal.records) == 1
    assert path.journal.over_budget == {"who1": 1}
    running.answer(answered())
    path.journal.commit()
    assert path.journal.one("completion")["outcome"] == "ok", "what was running may finish"


def test_more_requests_than_a_worker_may_hold_are_told_to_wait() -> None:
    path = Path(limits=Limits(streams=2))
    path.ask(chat())
    path.ask(chat())
    _, client = path.ask(chat())
    path.journal.commit()
    assert (client.status, client.error["type"]) == (429, "rate_limit_error")
    assert dict(client.headers)[b"retry-after"] == b"1"
    path.call.answer(answered())
    assert len(path.service.active) == 1
    path.ask(chat())
    assert len(path.engines.calls) == 3


# What may happen to a replica.


def test_another_replica_takes_over_and_its_attempt_is_recorded_first() -> None:
    path = Path(replicas=(replica(1), replica(2)))
    _, client = path.ask(chat())
    path.journal.commit()
    path.call.fail(EngineDead("gone"))
    assert [call.replica.id for call in path.engines.calls] == ["replica_1", "replica_2"]
    assert path.journal.one("attempt") == {"replica": 12, "lease": 5}
    path.call.answer(answered())
    path.journal.commit()
    assert client.status == 200
    attempts = path.journal.one("completion")["attempts"]
    assert attempts == [
        {"replica": 11, "lease": 5, "outcome": "dead"},
        {"replica": 12, "lease": 5, "outcome": "ok"},
    ]
    assert path.at_rest()


def test_a_failing_replica_is_not_asked_twice() -> None:
    path = Path(replicas=(replica(1), replica(2)))
    _, client = path.ask(chat())
    path.call.answer(b"{}", 500)
    path.call.answer(b"{}", 500)
    path.journal.commit()
    assert len(path.engines.calls) == 2
    assert (client.status, client.error["type"]) == (502, "engine_error")
    assert [attempt["outcome"] for attempt in path.journal.one("completion")["attempts"]] == ["failed", "failed"]


def test_a_request_that_one_engine_cannot_read_is_not_put_to_the_next() -> None:
    path = Path(replicas=(replica(1), replica(2)))
    _, client = path.ask(chat())
    path.call.fail(InvalidRequest("tool_choice names no tool", param="tool_choice"))
    path.journal.commit()
    assert len(path.engines.calls) == 1
    assert (client.status, client.error["param"]) == (400, "tool_choice")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (EngineDead("gone"), 502),
        (EngineTimeout("slow"), 504),
        (Overloaded("busy", retry_after=4.2), 429),
    ],
)
def test_an_engines_failure_has_its_status(error: EngineDead | EngineTimeout | Overloaded, status: int) -> None:
    path = Path()
    _, client = path.ask(chat())
    path.call.fail(error)
    path.journal.commit()
    assert (client.status, client.error["code"]) == (status, error.code)
    if status == 429:
        assert dict(client.headers)[b"retry-after"] == b"5"
    assert path.at_rest()


def test_the_less_loaded_replica_is_asked() -> None:
    path = Path(replicas=(replica(1), replica(2, slots=8)))
    for _ in range(12):
        path.ask(chat())
    asked = [call.replica.id for call in path.engines.calls]
    assert (asked.count("replica_1"), asked.count("replica_2")) == (4, 8)
    for call in path.engines.calls:
        call.answer(answered())
    assert path.at_rest()


def test_an_expired_lease_fails_closed_and_says_so() -> None:
    path = Path()
    path.clock.pass_seconds(299.999)
    path.ask(chat())
    assert path.engines.calls
    path.clock.pass_seconds(0.001)
    _, client = path.ask(chat())
    path.journal.commit()
    assert (client.status, client.error["code"]) == (503, "no_live_lease")
    assert "lease of node node_1 has expired" in client.error["message"]
    assert b"retry-after" in dict(client.headers)
    assert len(path.engines.calls) == 1


def test_setting_the_clock_back_does_not_lengthen_a_lease() -> None:
    path = Path()
    path.clock.pass_seconds(301)
    path.clock.now -= 3_600_000
    _, client = path.ask(chat())
    path.journal.commit()
    assert client.status == 503


def test_a_replica_under_a_lease_of_another_country_is_refused_by_policy() -> None:
    path = Path(leases=(lease(jurisdiction="SG"),))
    _, client = path.ask(chat())
    path.journal.commit()
    assert client.status == 403
    assert not path.engines.calls


def test_a_retry_asks_policy_about_the_other_replicas_lease() -> None:
    leases = (lease(5, "node_1"), lease(6, "node_2", jurisdiction="SG"))
    path = Path(leases=leases, replicas=(replica(1), replica(2, node="node_2")))
    _, client = path.ask(chat())
    path.call.fail(EngineDead("gone"))
    path.journal.commit()
    assert len(path.engines.calls) == 1, "no answer from abroad, not even in need"
    assert client.status == 502


# Ends that nobody asked for.


def test_a_client_that_leaves_stops_the_engine_and_the_entry_says_so() -> None:
    path = Path()
    inference, client = path.ask(chat())
    path.journal.commit()
    inference.client_gone()
    assert path.call.aborted
    path.journal.commit()
    completion = path.journal.one("completion")
    assert (completion["outcome"], completion["status"], completion["response"]) == ("aborted", 0, None)
    assert completion["attempts"][0]["outcome"] == "aborted"
    assert client.status == 0
    assert path.at_rest()
    inference.client_gone()
    path.service.sweep(1e12)
    assert path.at_rest(), "an end comes once"


def test_an_answer_in_one_piece_may_take_as_long_as_any_answer() -> None:
    path = Path(limits=Limits(engine_seconds=20.0, request_seconds=600.0))
    inference, _ = path.ask(chat())
    path.service.sweep(inference._begun + 599)
    assert not path.call.aborted, "its first byte comes with its last"
    path.service.sweep(inference._begun + 600.1)
    assert path.call.aborted


def test_an_engine_that_does_not_begin_a_stream_is_given_up() -> None:
    path = Path(limits=Limits(engine_seconds=20.0, request_seconds=600.0))
    inference, client = path.ask(chat(stream=True))
    path.service.sweep(inference._begun + 20)
    assert not path.call.aborted
    path.service.sweep(inference._begun + 20.1)
    assert path.call.aborted
    path.journal.commit()
    assert (client.status, client.error["type"]) == (504, "timeout_error")
    assert path.journal.one("completion")["attempts"][0]["outcome"] == "timeout"
    assert path.at_rest()


def test_an_answer_that_takes_too_long_is_ended() -> None:
    path = Path(limits=Limits(engine_seconds=20.0, request_seconds=60.0))
    inference, client = path.ask(chat())
    path.call.begin(200, JSON)
    path.service.sweep(inference._begun + 60.1)
    path.journal.commit()
    assert client.status == 504
    assert path.call.aborted


def test_a_service_that_stops_says_so_to_those_who_wait() -> None:
    path = Path()
    inference, client = path.ask(chat())
    inference.cut("the service is stopping")
    path.journal.commit()
    assert (client.status, client.error["code"]) == (503, "interrupted")
    assert "stopping" in client.error["message"]
    assert path.journal.one("completion")["outcome"] == "failed"
    assert path.at_rest()


def test_every_request_has_an_id_of_its_own_which_no_client_chooses() -> None:
    path = Path()
    ids = {path.ask(chat(request_id="req_mine"))[0].request_id for _ in range(200)}
    assert len(ids) == 200
    assert "req_mine" not in ids


def test_a_decision_is_remembered_for_the_one_who_asked() -> None:
    path = Path()
    world = path.service.world
    asked = ("chat.completions", world.models["small"], world.routes("small")[0])
    first = world.grant(path.principal(SECRET), *asked)
    assert first is world.grant(path.principal(SECRET), *asked)
    assert first.decision.allowed
    assert not world.grant(path.principal(FOREIGN_SECRET), *asked).decision.allowed


def test_calls_that_were_answered_are_not_retried_by_late_words() -> None:
    path = Path(replicas=(replica(1), replica(2)))
    path.ask(chat())
    first = path.call
    first.answer(answered())
    first.say(b"more")
    first.sink.engine_failed(EngineDead("late"))
    assert len(path.engines.calls) == 1
    assert path.at_rest()


def test_limits_come_from_the_newest_snapshot() -> None:
    path = Path()
    path.service.renew(world(path.clock, replace(snapshot(), limits=Limits(streams=0))))
    _, client = path.ask(chat())
    path.journal.commit()
    assert client.status == 429
