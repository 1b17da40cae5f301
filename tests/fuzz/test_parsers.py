"""No bytes, however made, get more out of a parser than its own error, and none takes long."""

from __future__ import annotations

import base64
import io
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import consents, gguf_files, logs, model_folders
from tests.support.logs import ORIGIN, REQUEST, RESPONSE, SIGNER, VERIFIER

from daulat.audit import promises, state
from daulat.audit import receipt as receipts
from daulat.audit.ceremony import unsigned
from daulat.audit.receipt import Given
from daulat.core import charter, entries, manifest
from daulat.core.manifest import ModelFile
from daulat.core.promise import parse_header
from daulat.errors import DaulatError
from daulat.pipeline import ceremony
from daulat.registry import cards, documents, gguf, layout, safetensors, templates
from daulat.registry.templates import Template
from daulat.tlog import checkpoint, note, proof, tiles
from daulat.tlog.note import Verifier

LOG = logs.write()
RECEIPT = LOG.receipt("answer")
SECONDS = 3.0  # of CPU, for the worst a megabyte can do on a slow core


@dataclass(frozen=True)
class Parser:
    """A parser and something that it accepts."""

    name: str
    parse: Callable[[bytes], object]
    good: bytes


def text(parse: Callable[[str], object]) -> Callable[[bytes], object]:
    """For parsers of text: bytes as somebody else's decoder may hand them on, half surrogates included."""
    return lambda data: parse(data.decode(errors="surrogateescape"))


def remembered(data: bytes) -> object:
    return state.remembered(state.parse(data), VERIFIER)


def promised(header: str) -> None:
    promise = parse_header(header)
    promises.check_signature(promise, Verifier(logs.WORKER.vkey))


def verified(data: bytes) -> object:
    return receipts.verify(data, VERIFIER, Given(REQUEST, RESPONSE))


def checked(template: str) -> None:
    templates.check(Template("default", "", template))


def drawn(file: str) -> None:
    """Read, and every signature looked at."""
    held = ceremony.parse(file)
    list(unsigned(held.ceremony, held.raw()))


DRAWN = ceremony.draw(
    ORIGIN, 1, consents.PRODUCTION["text"], "1" * 64, (), list(zip(("a", "b", "c"), consents.SEATS, strict=True))
)
ONE = ModelFile("model-00001-of-00002.safetensors", "b" * 64, 2)
PARSERS = [
    Parser("note", lambda data: note.open_note(data, [VERIFIER]), LOG.signed),
    Parser("checkpoint", lambda data: checkpoint.open_checkpoint(data, VERIFIER), LOG.signed),
    Parser("checkpoint text", checkpoint.parse, LOG.signed.partition(b"\n\n")[0] + b"\n"),
    Parser("vkey", text(Verifier), SIGNER.vkey.encode()),
    Parser("tile path", text(tiles.parse_path), b"tile/0/x001/x234/067.p/5"),
    Parser("tile", lambda data: tiles.decode_tile(data, 20), LOG.files["tile/0/000.p/20"]),
    Parser("bundle", lambda data: tiles.decode_bundle(data, 20), LOG.files["tile/entries/000.p/20"]),
    Parser("proof", proof.parse, RECEIPT["tlog_proof"].encode()),
    Parser("entry", entries.decode, LOG.entries[9]),
    Parser("admission", entries.admission_bytes, LOG.entries[9]),
    Parser("references", lambda data: list(entries.references(entries.decode(data))), LOG.entries[9]),
    Parser("charter", text(charter.parse), logs.charter_text().encode()),
    Parser("key ceremony", text(drawn), DRAWN.encode().encode()),
    Parser("promise", text(promised), LOG.promise("denied", of="answer").header().encode()),
    Parser("state", remembered, state.encode({SIGNER.name: LOG.signed.decode()})),
    Parser("receipt", verified, json.dumps(RECEIPT, ensure_ascii=False).encode()),
    Parser("receipt format", receipts.parse, json.dumps(RECEIPT).encode()),
    Parser("manifest", manifest.parse, manifest.text([ModelFile("a.json", "a" * 64, 1), ONE]).encode()),
    Parser("gguf", lambda data: gguf.read(io.BytesIO(data), len(data)), gguf_files.make(gguf_files.KEYS)),
    Parser(
        "safetensors", lambda data: safetensors.read(io.BytesIO(data), len(data)), model_folders.contents()[ONE.path]
    ),
    Parser("config.json", lambda data: documents.table(data, "config.json"), model_folders.contents()["config.json"]),
    Parser("model card", text(lambda card: cards.licence({"README.md": card})), model_folders.CARD.encode()),
    Parser("chat template", text(checked), b"{% for message in messages %}{{ message.content | trim }}{% endfor %}"),
    Parser(
        "file names", text(lambda names: layout.choose(names.split())), "\n".join(model_folders.contents()).encode()
    ),
]
IDS = [parser.name for parser in PARSERS]


def refused_or_read(parser: Parser, data: bytes) -> None:
    words = ""
    try:
        parser.parse(data)
    except DaulatError as error:
        words = error.message
    assert len(words) < 2000, "an error is a line, not what it was given"


@pytest.mark.parametrize("parser", PARSERS, ids=IDS)
def test_what_is_good_is_read(parser: Parser) -> None:
    parser.parse(parser.good)


@pytest.mark.parametrize("parser", PARSERS, ids=IDS)
@given(data=st.binary(max_size=200))
@settings(max_examples=60, deadline=None)
def test_any_bytes(parser: Parser, data: bytes) -> None:
    refused_or_read(parser, data)


PIECES = [b"", b"\n", b"\n\n", b" ", b"\0", b"\xff", "—".encode(), b"+", b"=", b"0", b"-1", b"9" * 5000, b'"',
          b"\\", b"{", b"[", b"}", b"]", b"\\ud800", b"null", b"true", b"1e999", b"NaN", b":", b",", b"()", b".p/",
          b"\xed\xa0\x80",           "é".encode(), "\u0661".encode(), b"\r\n", b"A" * 1000, b'"a":1,']  # fmt: skip


@pytest.mark.parametrize("parser", PARSERS, ids=IDS)
def test_good_bytes_cut_spliced_and_doubled(parser: Parser) -> None:
    draw = random.Random(parser.name)  # noqa: S311  a fuzz that can be repeated
    good = parser.good
    for _ in range(300):
        data = good
        for _ in range(draw.choice([1, 1, 2, 4])):
            start = draw.randrange(len(data) + 1)
            end = min(len(data), start + draw.choice([0, 0, 1, 2, 10, 500]))
            piece = draw.choice([*PIECES, data[start : start + 40], good[draw.randrange(len(good)) :][:100]])
            data = data[:start] + piece + data[end:]
        refused_or_read(parser, data)


MEGABYTE = 1_000_000
HUGE = {
    "brackets": b"[" * MEGABYTE,
    "braces": b'{"a":' * (MEGABYTE // 5),
    "digits": b"9" * MEGABYTE,
    "backslashes": b"\\" * MEGABYTE,
    "quotes": b'"' * MEGABYTE,
    "newlines": b"\n" * MEGABYTE,
    "signature lines": b"text\n\n" + "— a AAAA\n".encode() * (MEGABYTE // 11),
    "hashes": b"c2sp.org/tlog-proof@v1\nindex 0\n" + (base64.b64encode(bytes(32)) + b"\n") * (MEGABYTE // 45) + b"\n\n",
    "members": b"a=1, " * (MEGABYTE // 5),
    "nodes": b"path=(" + b":AAAA: " * (MEGABYTE // 7) + b")",
    "path": b"tile/0/" + b"x001/" * (MEGABYTE // 5) + b"000",
    "plus": b"+" * MEGABYTE,
    "escapes": b'"' + b"\\u000" * (MEGABYTE // 5) + b'"',
    "entries": b'{"format":"daulat/receipt/v1","entries":[' + b"0," * (MEGABYTE // 2) + b"0]}",
    "tables": b"[" + b"a." * (MEGABYTE // 2) + b"a]\n",
}  # fmt: skip


@pytest.mark.parametrize("huge", HUGE)
@pytest.mark.parametrize("parser", PARSERS, ids=IDS)
def test_a_megabyte_of_anything_takes_no_time(parser: Parser, huge: str) -> None:
    began = time.process_time()
    refused_or_read(parser, HUGE[huge])
    refused_or_read(parser, parser.good[:-1] + HUGE[huge])
    assert time.process_time() - began < SECONDS


def test_a_receipt_has_bounds() -> None:
    for wrong in (b" " * (receipts.MAX_BYTES + 1), json.dumps({**RECEIPT, "entries": []}).encode()):
        with pytest.raises(DaulatError):
            receipts.parse(wrong)
