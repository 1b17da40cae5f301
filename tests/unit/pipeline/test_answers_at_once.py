"""An answer that comes at once is taken as one in pieces is, whatever it is."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.request_path import DONE, JSON, STREAM, Path, answered, chat, chunk, usage_chunk
from tests.support.worlds import replica

from daulat.pipeline import inference


def came_of(body: bytes, content_type: bytes, data: bytes, *, at_once: bool, durable: bool) -> tuple[Any, ...]:
    """What one of two engines answers, and what becomes of it; the other one answers well."""
    path = Path(replicas=(replica(1), replica(2)))
    _, client = path.ask(body)
    if durable:
        path.journal.commit()
    first = path.call
    if at_once:
        first.sink.engine_whole(content_type, data)
    else:
        first.answer(data, content_type=content_type)
    path.journal.commit()
    if path.call is not first:
        other = (chunk("other") + DONE, STREAM) if b"stream" in body else (answered("other"), JSON)
        path.call.answer(other[0], content_type=other[1])
        path.journal.commit()
    assert path.at_rest()
    completion = path.journal.one("completion")
    ends = [(each["replica"], each["outcome"]) for each in completion["attempts"]]
    kept = [each[2] for each in path.vault.kept]
    return client.status, client.body, completion["outcome"], completion["usage"], ends, first.aborted, kept


ONE, SEVERAL = chat(), chat(stream=True)
STREAMED = chunk() + usage_chunk() + DONE


@pytest.mark.parametrize("durable", [False, True], ids=["", "durable"])
@pytest.mark.parametrize(
    ("body", "content_type", "data", "ends"),
    [
        (ONE, JSON, answered(), ["ok"]),
        (ONE, JSON, answered(""), ["empty", "ok"]),
        (ONE, JSON, b"[]", ["failed", "ok"]),
        (ONE, JSON, b"", ["failed", "ok"]),
        (ONE, STREAM, STREAMED, ["failed", "ok"]),
        (ONE, JSON, answered("x" * 1000), ["dead", "ok"]),
        (chat(store=True), JSON, answered(), ["ok"]),
        (SEVERAL, STREAM, STREAMED, ["ok"]),
        (SEVERAL, STREAM, chunk() + b"data: no JSON\n\n" + DONE, ["ok"]),
        (SEVERAL, STREAM, chunk(""), ["dead", "ok"]),
        (SEVERAL, STREAM, chunk("") + DONE, ["empty", "ok"]),
        (SEVERAL, STREAM, chunk(), ["dead"]),
        (SEVERAL, STREAM, b"x" * 2000, ["dead", "ok"]),
        (SEVERAL, STREAM, b"", ["dead", "ok"]),
        (SEVERAL, JSON, answered(), ["ok"]),
        (SEVERAL, JSON, answered("x" * 1000), ["dead", "ok"]),
    ],
)
def test_it_is_taken_as_one_in_pieces(
    monkeypatch: pytest.MonkeyPatch, body: bytes, content_type: bytes, data: bytes, ends: list[str], durable: bool
) -> None:
    monkeypatch.setattr(inference, "_MAX_ANSWER", 500)
    in_pieces = came_of(body, content_type, data, at_once=False, durable=durable)
    assert came_of(body, content_type, data, at_once=True, durable=durable) == in_pieces
    assert [end for _, end in in_pieces[4]] == ends
