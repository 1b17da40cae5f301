"""Bars: redrawn on a terminal, a line each tenth elsewhere, nothing for scripts; each ends once."""

from __future__ import annotations

import errno
import io
import sys

import pytest

from daulat.cli.progress import Progress


def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Standard error, as if somebody sat before it."""
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_on_a_terminal_a_bar_fills_one_line_and_ends_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = terminal(monkeypatch)
    progress = Progress(quiet=False)
    for done in (0, 1, 50, 50, 100, 100):
        progress.bar("loading", done, 100)
    progress.say("then")
    drawn = shown.getvalue()
    assert drawn.count("\n") == 2
    assert drawn.count("100%") == 1
    assert drawn.split("\r")[3].strip() == f"loading                [{'#' * 15}{'.' * 15}]  50%"
    assert drawn.endswith("100%\nthen\n")


def test_words_after_an_unfinished_bar_begin_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = terminal(monkeypatch)
    progress = Progress(quiet=False)
    progress.bar("loading", 1, 4)
    progress.say("stopping")
    assert shown.getvalue().endswith("25%\nstopping\n")


def test_another_bar_begins_a_line_and_the_same_one_may_run_again(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(quiet=False)
    for what in ("a", "b", "b"):
        for done in range(101):
            progress.bar(what, done, 100)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"  {what} {tenth * 10}%" for what in ("a", "b", "b") for tenth in range(11)]


def test_quiet_says_nothing_and_nothing_to_do_is_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    quiet = Progress(quiet=True)
    quiet.say("x")
    quiet.bar("x", 1, 2)
    Progress(quiet=False).bar("nothing", 0, 0)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_that_is_gone_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(_: str) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(terminal(monkeypatch), "write", gone)
    progress = Progress(quiet=False)
    progress.bar("loading", 1, 2)
    progress.say("stopping")
    progress.end()
