"""What each process of ours does at its edge: die with its parent, say it is ready, log JSON lines, end on signals."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import logging
import os
import resource
import signal
import sys
import threading
import time
from typing import Any, Final, TextIO

END_SECONDS: Final = 15.0  # more than a parent waits, less than the next sequencer waits for this one's lock
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4  # mlockall(2)
_log = logging.getLogger(__name__)


class _JsonLines(logging.Formatter):
    """One JSON object a line. Only what is named here is written: a record's arguments cannot bring secrets along."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "process": self._process,
            "pid": os.getpid(),
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def begin(process: str, *, parent: int | None = None, stream: TextIO | None = None) -> None:
    """Set up logging to stderr, or `stream`; with `parent`, make sure that we end when that process does."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_JsonLines(process))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # prompts pass through: none of us leaves its memory in a file
    if parent is not None:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died before we asked
            sys.exit(1)


def keep_private() -> None:
    """What is in our memory is not for files: no crash dump, no debugger of the same user, no swap where we may say so.

    Pages are locked only without a limit to that: with one, the first allocation beyond it would fail.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    if resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY:
        libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT)


def give_way() -> None:
    """On a shared core, whoever wakes up goes first; our share of the core stays what it is (sched(7): SCHED_BATCH)."""
    with contextlib.suppress(OSError):  # a host that does not let us: we are only less polite
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def ready() -> None:
    """Tell the parent, which waits for this line on our standard output."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()


def stop_event(loop: asyncio.AbstractEventLoop) -> asyncio.Event:
    """An event that SIGTERM sets. Ctrl-C, or a terminal that closes, reaches the whole group: that is the parent's.

    Whoever is told to stop is gone `END_SECONDS` later, whatever keeps it: a parent would kill it, but it may be gone.
    """
    event = asyncio.Event()

    def told() -> None:
        if not event.is_set():
            event.set()
            last = threading.Timer(END_SECONDS, _end, (loop,))
            last.daemon = True
            last.start()

    loop.add_signal_handler(signal.SIGTERM, told)
    for number in (signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, lambda: None)
    return event


def _end(loop: asyncio.AbstractEventLoop) -> None:
    """On a thread of its own: the loop may be what hangs."""
    still = sorted({getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks(loop)})
    _log.error("told to stop %.0f s ago, and ended by force; still under way: %s", END_SECONDS, ", ".join(still))
    os._exit(1)
