"""Mutations of good wire bytes: seeded, so that a mutant has a name (its seed) and can be met again."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

TOKENS = (
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b"\r\n\r\n",
    b"\n\n",
    b"\x0b",
    b"\xff",
    b"\xe2\x80\xa8",
    b"0\r\n\r\n",
    b"chunked",
    b"Content-Length: 5\r\n",
    b"Content-Length: -1\r\n",
    b"Content-Length: 99999999999999999999\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding:\tchunked , identity\r\n",
    b"Transfer-Encoding : chunked\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive, upgrade\r\n",
    b"Upgrade: h2c\r\n",
    b"Expect: 100-continue\r\n",
    b"Host: other\r\n",
    b" folded\r\n",
    b"HTTP/1.0",
    b"HTTP/1.1",
    b"HTTP/2.0",
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    b"X: " + b"y" * 5000 + b"\r\n",
    b"A: b\r\n" * 300,
    b"ffffffffffffffff\r\n",
    b"-1\r\n",
    b"7fffffff\r\n",
    b'"model":"small",',
    b'"mod\\u0065l":"other",',
    b'"stream":true,',
    b'"stream":false,',
    b'"stream_options":{"include_usage":true},',
    b'"messages":[],',
    b"\\ud800",
    b"NaN",
    b"1e999999",
    b"9" * 400,
    b"[" * 70,
    b"{",
    b"}",
    b'"',
    b"data: [DONE]\n\n",
    b"data: ",
    b'"usage":{"prompt_tokens":-5},',
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
)


def _at(rng: random.Random, data: bytes) -> int:
    return rng.randrange(len(data) + 1)


def _span(rng: random.Random, data: bytes) -> tuple[int, int]:
    start = _at(rng, data)
    return start, min(len(data), start + rng.choice((1, 1, 1, 2, 3, 8, 40)))


def _flip(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]


def _insert(rng: random.Random, data: bytes) -> bytes:
    at = _at(rng, data)
    return data[:at] + rng.choice(TOKENS) + data[at:]


def _insert_at_line(rng: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\r\n")
    lines.insert(rng.randrange(len(lines)), rng.choice(TOKENS).removesuffix(b"\r\n"))
    return b"\r\n".join(lines)


def _insert_into_object(rng: random.Random, data: bytes) -> bytes:
    at = data.find(b"{", _at(rng, data)) + 1
    return data[:at] + rng.choice(TOKENS) + data[at:]


def _delete(rng: random.Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + data[end:]


def _repeat(rng: random.Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:end] + data[start:end] * rng.choice((1, 1, 2, 50)) + data[end:]


def _repeat_line(rng: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\r\n")
    at = rng.randrange(len(lines))
    lines.insert(rng.randrange(len(lines)), lines[at])
    return b"\r\n".join(lines)


def _truncate(rng: random.Random, data: bytes) -> bytes:
    return data[: _at(rng, data)]


def _number(rng: random.Random, data: bytes) -> bytes:
    digits = [at for at, byte in enumerate(data) if 0x30 <= byte <= 0x39]
    if not digits:
        return data
    at = rng.choice(digits)
    return data[:at] + rng.choice((b"0", b"9", b"-", b"+", b"0x", b"99999", b"", b" ")) + data[at + 1 :]


def _endings(rng: random.Random, data: bytes) -> bytes:
    return data.replace(b"\r\n", rng.choice((b"\n", b"\r", b"\r\r\n", b"\r\n ")), rng.choice((1, 2, 99)))


def _case(rng: random.Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + data[start:end].swapcase() + data[end:]


_WAYS: Sequence[Callable[[random.Random, bytes], bytes]] = (
    _flip,
    _insert,
    _insert_at_line,
    _insert_into_object,
    _delete,
    _repeat,
    _repeat_line,
    _truncate,
    _number,
    _endings,
    _case,
)


def mutant(rng: random.Random, corpus: Sequence[bytes]) -> bytes:
    """One of the corpus, or two spliced, changed a few times."""
    data = rng.choice(corpus)
    if rng.random() < 0.15:
        other = rng.choice(corpus)
        data = data[: _at(rng, data)] + other[_at(rng, other) :]
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5))):
        if data:
            data = rng.choice(_WAYS)(rng, data)
    return data


def pieces(rng: random.Random, data: bytes) -> list[bytes]:
    """The same bytes as a network might cut them."""
    if rng.random() < 0.4:
        return [data]
    cuts = sorted({rng.randrange(len(data) + 1) for _ in range(rng.randint(1, 6))})
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def slips(chance: random.Random, good: bytes, odd: Sequence[bytes]) -> tuple[bytes, ...]:
    """Short `good` bytes with one to three slips in them, of which `odd` are some, in one piece or in two."""
    data = bytearray(good)
    for _ in range(chance.choice((1, 1, 2, 3))):
        at = chance.randrange(len(data))
        match chance.randrange(4):
            case 0:
                data[at : at + 1] = chance.choice(odd)
            case 1:
                data[at:at] = chance.choice(odd)
            case 2:
                del data[at : at + chance.choice((1, 2, 20))]
            case _:
                data[at] = chance.randrange(256)
    cut = chance.randrange(len(data) + 1)
    return (bytes(data),) if chance.random() < 0.7 else (bytes(data[:cut]), bytes(data[cut:]))
