"""What a person sees while something takes long; on stderr, so that stdout stays for results."""

from __future__ import annotations

import contextlib
import sys
from typing import Final

_WIDTH: Final = 30


class Progress:
    """Lines and bars. On a terminal a bar redraws itself; elsewhere it says each tenth. Quiet: nothing."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._terminal = sys.stderr.isatty()
        self._steps = 100 if self._terminal else 10
        self._what, self._shown = "", -1
        self._open = False  # whether the cursor stands behind an unfinished bar

    def say(self, text: str) -> None:
        """One line."""
        if not self._quiet:
            self.end()
            self._write(f"{text}\n")

    def bar(self, what: str, done: float, total: float) -> None:
        """How far `what` is; called as often as one likes."""
        if self._quiet or total <= 0:
            return
        share = min(1.0, done / total)
        step = int(share * self._steps)
        if what != self._what or (step == 0 and self._shown == self._steps):
            self.end()
            self._what, self._shown = what, -1
        if step <= self._shown:
            return
        self._shown = step
        if self._terminal:
            filled = int(share * _WIDTH)
            self._write(f"\r  {what:<22} [{'#' * filled}{'.' * (_WIDTH - filled)}] {share:4.0%}")
            self._open = True
        else:
            self._write(f"  {what} {share:.0%}\n")
        if step == self._steps:
            self.end()

    def end(self) -> None:
        """Leave a bar as it is: what follows begins a line."""
        if self._open:
            self._write("\n")
        self._open = False

    @staticmethod
    def _write(text: str) -> None:
        with contextlib.suppress(OSError):  # a terminal that is gone must not keep anything from being stopped
            sys.stderr.write(text)
            sys.stderr.flush()
