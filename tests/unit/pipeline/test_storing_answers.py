"""`store: true`: refused before anything is generated where it cannot be, else kept before the answer ends."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tests.support.request_path import DONE, Path, answered, chat, chunk, usage_chunk

from daulat.errors import Unavailable

LOST = Unavailable("The answer could not be stored.", code="store_failed")


def test_nothing_is_handed_over_unasked() -> None:
    path = Path()
    for said in ({}, {"store": False}, {"store": None}, {"metadata": {"a": "b"}}):
        _, client = path.ask(chat(**said))
        path.call.answer(answered())
        path.journal.commit()
        assert client.status == 200
    assert path.vault.kept == []


def test_nothing_is_stored_with_a_key_that_another_made_for_whoever_signs_in() -> None:
    path = Path()
    others = replace(path.principal(), opens_vault=False)
    _, client = path.ask(chat(store=True), who=others)
    path.journal.commit()
    assert (client.status, client.error["code"]) == (403, "key_not_own")
    assert path.vault.kept == []
    assert path.journal.one("completion")["error"] == "key_not_own"
    _, client = path.ask(chat(), who=others)
    path.call.answer(answered())
    path.journal.commit()
    assert client.status == 200, "it answers all the same"


def test_a_whole_answer_waits_until_it_is_kept_and_then_until_its_entry_is_durable() -> None:
    path = Path()
    path.vault.holds = True
    body = chat(store=True, metadata={"case": "7"})
    _, client = path.ask(body)
    path.call.answer(answered())
    path.journal.commit()
    ((principal, request, answer, stream),) = path.vault.kept
    assert (request, answer, stream) == (body, answered(), False)
    assert principal == path.principal()
    assert client.status == 0
    assert not path.journal.values("completion")
    path.vault.answer()
    assert client.status == 0
    path.journal.commit()
    assert (client.status, client.body) == (200, answered())
    assert path.journal.one("completion")["outcome"] == "ok"
    assert path.at_rest()


def test_a_streams_last_frame_waits_and_all_that_was_sent_is_kept() -> None:
    path = Path()
    path.vault.holds = True
    _, client = path.ask(chat(stream=True, store=True))
    path.journal.commit()
    path.call.begin()
    path.call.say(b"".join([chunk("Hello"), chunk(" you"), usage_chunk(3, 2), DONE]))
    path.call.end()
    assert b"Hello" in client.body
    assert b"[DONE]" not in client.body
    ((_, _, answer, stream),) = path.vault.kept
    assert stream
    path.vault.answer()
    path.journal.commit()
    assert client.body.endswith(DONE)
    assert answer == client.body
    completion = path.journal.one("completion")
    assert (completion["outcome"], completion["usage"]["completion_tokens"]) == ("ok", 2)
    assert path.at_rest()


def test_a_whole_answer_that_could_not_be_kept_says_so_and_its_tokens_count() -> None:
    path = Path()
    path.vault.refusal = LOST
    _, client = path.ask(chat(store=True))
    path.call.answer(answered())
    path.journal.commit()
    assert (client.status, client.error["code"]) == (503, "store_failed")
    completion = path.journal.one("completion")
    assert (completion["outcome"], completion["error"]) == ("failed", "store_failed")
    assert completion["usage"]["completion_tokens"] == 3
    assert path.at_rest()


def test_a_stream_that_could_not_be_kept_says_so_and_its_tokens_count() -> None:
    path = Path()
    path.vault.refusal = LOST
    _, client = path.ask(chat(stream=True, store=True))
    path.journal.commit()
    path.call.begin()
    path.call.say(chunk("Hello") + usage_chunk(3, 2) + DONE)
    path.call.end()
    path.journal.commit()
    assert b"store_failed" in client.body
    assert b"[DONE]" not in client.body
    completion = path.journal.one("completion")
    assert (completion["outcome"], completion["usage"]["completion_tokens"]) == ("failed", 2)
    assert path.at_rest()


@pytest.mark.parametrize("stream", [False, True])
def test_a_closed_vault_refuses_before_anything_is_generated(stream: bool) -> None:
    path = Path()
    path.vault.shortage = "the vault is closed"
    _, client = path.ask(chat(store=True, stream=stream))
    path.journal.commit()
    assert (client.status, client.error["code"]) == (503, "vault_unavailable")
    assert "the vault is closed" in client.error["message"]
    assert not path.engines.calls
    _, client = path.ask(chat(stream=False))
    path.call.answer(answered())
    path.journal.commit()
    assert client.status == 200, "who asks for nothing to be kept is answered"


@pytest.mark.parametrize("wrong", [{"store": "yes"}, {"store": True, "metadata": {"a": 1}}])
def test_what_cannot_be_stored_is_refused_in_words(wrong: dict[str, object]) -> None:
    path = Path()
    _, client = path.ask(chat(**wrong))
    path.journal.commit()
    assert client.status == 400
    assert json.loads(client.body)["error"]["param"] in {"store", "metadata"}
    assert not path.engines.calls


def test_a_client_that_leaves_while_it_is_being_kept_is_over_once() -> None:
    path = Path()
    path.vault.holds = True
    inference, _ = path.ask(chat(stream=True, store=True))
    path.journal.commit()
    path.call.begin()
    path.call.say(chunk("Hello") + usage_chunk(3, 2) + DONE)
    inference.client_gone()
    path.vault.answer()
    path.journal.commit()
    assert path.journal.one("completion")["outcome"] == "aborted"
    assert path.at_rest()


def test_an_engines_error_is_not_stored() -> None:
    path = Path()
    _, client = path.ask(chat(store=True))
    path.call.answer(b'{"error":{"message":"no"}}', 400)
    path.journal.commit()
    assert client.status == 400
    assert path.vault.kept == []
