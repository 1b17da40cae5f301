"""Addresses and credentials that verbs are given: what cannot be one is said, and never shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.support import logs
from tests.support.verbs import Run, site, write_file

from daulat.adapters.log_http import LogHttp
from daulat.errors import Unauthenticated

URLS = (
    "http://[::1",
    "http://a..b",
    "http://a:99999",
    "ftp://a",
    "//a",
    "127.0.0.1:8470",
    "http://",
    "",
    "http://a\x01b",
)
KEYS = (b"\xff\xfe\x00\x01", "sk-\u00e9".encode(), b"sk-a\x01b", b"sk-a b", b"sk-a\nsk-b", b"", b"\n", b"k" * 5000)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv("DAULAT_API_KEY", "sk-good")
    return Run(monkeypatch, capsys)


def verbs(url: str, folder: Path) -> list[list[object]]:
    """Every verb that asks a service over HTTP."""
    token = write_file(folder, "token", "at-good")
    return [
        ["receipt", logs.request_id(1), "--url", url],
        ["bench", url],
        ["audit", url, "--vkey", logs.SIGNER.vkey, "--token-file", token],
    ]


@pytest.mark.parametrize("url", URLS)
def test_what_is_no_address_is_wrong_input(run: Run, tmp_path: Path, url: str) -> None:
    for words in verbs(url, tmp_path):
        said = run(*words, "--json")
        assert (said.code, said.value["error"]["code"]) == (1, "invalid_request")
        assert "expected http://HOST:PORT" in said.value["error"]["message"]


@pytest.mark.parametrize("data", KEYS)
def test_a_file_that_holds_no_credential_is_said_and_not_shown(run: Run, tmp_path: Path, data: bytes) -> None:
    held = write_file(tmp_path, "held", data)
    with site({}) as served:
        receipt, bench, audit = verbs(served.url, tmp_path)
        for words in ([*receipt, "--key-file", held], [*bench, "--key-file", held], [*audit[:-1], held]):
            said = run(*words, "--json")
            assert (said.code, said.value["error"]["code"]) == (1, "config_error")
            assert "expected one line of printable ASCII" in said.value["error"]["message"]
            assert str(held) in said.value["error"]["message"]
            assert "sk-" not in said.err
        assert not served.asked


@pytest.mark.parametrize("key", ["sk-\u00e9", "sk-\udcff", "sk-a\x01b"])
def test_so_is_what_the_environment_holds(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key: str) -> None:
    monkeypatch.setenv("DAULAT_API_KEY", key)
    for words in verbs("http://127.0.0.1:9", tmp_path)[:2]:
        said = run(*words, "--json")
        assert "$DAULAT_API_KEY" in said.value["error"]["message"]
        assert "sk-" not in said.err


def test_a_folder_is_no_key_file(run: Run, tmp_path: Path) -> None:
    for words in verbs("http://127.0.0.1:9", tmp_path)[:2]:
        assert run(*words, "--key-file", tmp_path, "--json").value["error"]["code"] == "machine_error"


def test_a_token_that_no_header_can_carry_is_refused_before_it_is_sent() -> None:
    for token in ("at-\u00e9", "at-\x01"):
        with pytest.raises(Unauthenticated, match="printable ASCII"):
            LogHttp("http://127.0.0.1:9/log", "2026", token)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"data": 7}', b'{"data": [{}]}', b"[" * 100_000, b"\xff"])
def test_bench_of_something_else_says_so(run: Run, body: bytes) -> None:
    with site({"/v1/models": body}) as served:
        error = run("bench", served.url, "--json").value["error"]
    assert "is no such service" in error["message"]


@pytest.mark.parametrize("event", [b"<", b"7", b'{"error":7}', b'{"choices":[{}]}', b'{"choices":7}'])
def test_bench_counts_streams_that_it_cannot_read(run: Run, event: bytes) -> None:
    with site({"/v1/chat/completions": b"data: " + event + b"\n\ndata: [DONE]\n\n"}) as served:
        said = run("bench", served.url, "--requests", 1, "--model", "tiny", "--json")
    assert (said.code, said.value["errors"]) == (1, {"unreadable": 1})


@pytest.mark.parametrize(("status", "code"), [(403, "permission_denied"), (503, "unavailable"), (404, "not_found")])
def test_bench_says_why_it_is_refused(run: Run, status: int, code: str) -> None:
    body = json.dumps({"error": {"message": "not now"}}).encode()
    with site({"/v1/models": (status, body)}) as served:
        error = run("bench", served.url, "--json").value["error"]
    assert error == {"code": code, "message": "not now"}


def test_files_of_cases_and_charters_that_are_no_text_are_said_to_be_none(run: Run, tmp_path: Path) -> None:
    binary = write_file(tmp_path, "binary.toml", b"\xff\xfe")
    said = run("policy", "test", binary, "--home", tmp_path / "home", "--json")
    assert (said.code, "is not a text file" in said.value["error"]["message"]) == (1, True)
