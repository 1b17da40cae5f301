"""A log over HTTP: files in order, asked for ahead but not without bound, and every refusal in our own words."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.support import logs
from tests.support.log_server import TOKEN, serve

from daulat.adapters import log_http
from daulat.adapters.log_http import LogHttp
from daulat.errors import NotFound, Unauthenticated, Unavailable

ENTRIES = [b'{"n":%d}' % number for number in range(256 * 60)]


@pytest.fixture(scope="module")
def log() -> logs.Published:
    return logs.publish(ENTRIES)


@pytest.fixture(scope="module")
def url(log: logs.Published) -> Iterator[str]:
    with serve({"2026": log}) as address:
        yield address


def test_files_come_in_order_and_only_some_are_asked_for_ahead(url: str, log: logs.Published) -> None:
    asked: list[str] = []

    def paths() -> Iterator[str]:
        for number in range(60):
            asked.append(f"tile/0/{number:03d}")
            yield asked[-1]

    with LogHttp(url, "2026", TOKEN) as source:
        for number, data in enumerate(source.stream(paths())):
            assert data == log.files[f"tile/0/{number:03d}"]
            assert len(asked) <= number + log_http._AHEAD
    assert len(asked) == 60


def test_the_checkpoint_and_what_is_not_there(url: str, log: logs.Published) -> None:
    with LogHttp(url, "2026", TOKEN) as source:
        assert source.checkpoint() == log.signed
        with pytest.raises(NotFound, match="does not exist"):
            next(source.stream(["tile/9/000"]))
        with pytest.raises(NotFound):
            source.blob("0" * 64)
    with LogHttp(url, "2027", TOKEN) as source, pytest.raises(NotFound):
        source.checkpoint()


def test_entry_bundles_need_the_auditors_token(url: str) -> None:
    with LogHttp(url, "2026", "another") as source:
        assert source.checkpoint()
        with pytest.raises(Unauthenticated, match="token is not accepted"):
            next(source.stream(["tile/entries/000"]))


def test_a_file_larger_than_any_of_a_log_is_not_read_to_its_end(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_http, "_MOST_BYTES", 8191)
    with LogHttp(url, "2026", TOKEN) as source, pytest.raises(Unavailable, match="larger than any file"):
        next(source.stream(["tile/0/000"]))


def test_leaving_early_leaves_no_thread_at_work(url: str) -> None:
    with LogHttp(url, "2026", TOKEN) as source:
        files = source.stream(f"tile/0/{number:03d}" for number in range(60))
        next(files)
    assert source._threads._shutdown
