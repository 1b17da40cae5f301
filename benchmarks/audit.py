"""How fast `daulat audit` reads a log: entries for each second of its own user CPU time, downloads included.

    python -m benchmarks.audit [--entries 500000] [--rounds 3]

Writes a lawful log (a thousand callers, two workers, a lease renewed each 150 s, answers, streams, denials, failures,
counters that agree), serves it over loopback, and audits it as an auditor would, in a process of its own. The base
install is measured (Cedar hidden: decisions are not run again) and the full one beside it. A smaller log shows how
memory grows. Writes results/audit.json.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any, Final

from tests.support import logs
from tests.support.log_server import listening
from tests.support.logs import FAILED, REFUSED, SIGNER, T0, Ref, Step

from benchmarks import host
from benchmarks.environments import RESULTS, WORK
from daulat.core import entries
from daulat.ledger.edge import RightEdge
from daulat.tlog import checkpoint as checkpoints
from daulat.tlog.checkpoint import Checkpoint

CALLERS: Final = 1000
A_SECOND: Final = 200  # requests
RENEWED_MS: Final = 150_000
TARGET: Final = 50_000  # entries a second
_BATCH: Final = 64 * 256
_BASE_INSTALL: Final = "import sys; sys.modules['cedarpy'] = None; from daulat.cli import main; main()"
_FULL_INSTALL: Final = "from daulat.cli import main; main()"


class Story:
    """The entries, one after the other, with references and counters that hold."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._names: dict[str, int] = {}
        self._next = 0
        self._sums = [0, 0]  # prompt and completion tokens that the engine will have counted
        self._templates: dict[str, tuple[bytes, int, int]] = {}

    def __iter__(self) -> Iterator[bytes]:
        second = logs.key(35, "worker", logs.STRANGER.vkey)
        for step in [*logs.story()[:4], Step("worker-2", "key/v1", second), *logs.story()[4:9]]:
            yield self._control(step)
        self._renew("lease")
        renewed, done = 0, 0
        while self._next < self._count:
            at = 1000 + done * 1000 // A_SECOND
            if at - renewed > RENEWED_MS:
                renewed = at
                probe = logs.probe(at, started=Ref("started"), counters=logs.counters(*self._sums))
                yield self._control(Step("canary", "canary/v1", probe))
                new = logs.lease(at, canary=Ref("canary"), replaces=Ref("lease"))
                yield self._control(Step("lease", "node.lease/v1", new))
                self._renew("lease")
            yield self._request(done, at)
            done += 1
        stopped = logs.stopped(2000 + done * 1000 // A_SECOND, counters=logs.counters(*self._sums))
        yield self._control(Step("stopped", "replica.stopped/v1", stopped))

    def _control(self, step: Step) -> bytes:
        entry = logs.encode(step, self._names)
        self._names[step.name] = self._next
        self._next += 1
        return entry

    def _renew(self, lease: str) -> None:
        """Every kind of request under the newest lease, as text with holes."""
        under = {
            "admission.lease": Ref(lease),
            "completion.attempts": [{"replica": Ref("started"), "lease": Ref(lease), "outcome": "ok"}],
        }
        lost = {**FAILED, **under, "completion.attempts": [
            {"replica": Ref("started"), "lease": Ref(lease), "outcome": "failed"}]}  # fmt: skip
        kinds: dict[str, dict[str, Any]] = {
            "answer": under,
            "stream": {**under, "admission.stream": True},
            "admin": {**under, "admission.attributes.roles": ["tenant-admin", "user"]},
            "refused": {**REFUSED, "admission.lease": Ref(lease)},
            "failed": lost,
        }
        for name, changes in kinds.items():
            for worker in ("worker", "worker-2"):
                self._templates[name + worker] = self._template({**changes, "admission.worker": Ref(worker)})

    def _template(self, changes: dict[str, Any]) -> tuple[bytes, int, int]:
        fields = logs.inference(0, 0, 0, **changes)
        usage = fields["completion"]["usage"]
        entry = logs.encode(Step("", entries.INFERENCE, fields), self._names)
        for value, hole in (
            (logs.request_id(0).encode(), b"req_%(id)032x"),
            (b'"time":%d' % T0, b'"time":%(at)d'),
            (b"p" * 22, b"p%(who)021d"),
            (b"k" * 22, b"k%(who)021d"),
            (b'"sequence":0', b'"sequence":%(sequence)d'),
        ):
            entry = entry.replace(value, hole)
        return entry, usage["prompt_tokens"] - usage["cached_tokens"], usage["completion_tokens"]

    def _request(self, number: int, at: int) -> bytes:
        part = number * 7919 % 100
        kind = "failed" if part == 0 else "refused" if part == 1 else ("answer", "stream", "admin")[part % 3]
        worker = "worker" if number % 2 else "worker-2"
        entry, prompt, completion = self._templates[kind + worker]
        self._sums[0] += prompt
        self._sums[1] += completion
        self._next += 1
        who = number * 31 % CALLERS
        return entry % {b"id": number, b"at": T0 + at, b"who": who, b"sequence": number // 2 + 1}


def publish(folder: Path, count: int) -> None:
    """The log as files, bundle by bundle."""
    shutil.rmtree(folder, ignore_errors=True)
    edge, waiting = RightEdge(0, logs.Published({}, b"", [], {})), list[bytes]()
    root = folder / "log" / "2026"

    def write() -> None:
        for path, data in edge.extend(waiting):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(data)
        waiting.clear()

    for entry in Story(count):
        waiting.append(entry)
        if len(waiting) == _BATCH:
            write()
    write()
    head = Checkpoint(SIGNER.name, edge.size, edge.root())
    (root / "checkpoint").write_bytes(checkpoints.sign(head, [SIGNER]))
    (folder / "vkey").write_text(SIGNER.vkey)
    (folder / "token").write_text("of-no-meaning-here")


class _Files(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The log's address."""
    with listening(partial(_Files, directory=str(folder))) as url:
        yield f"{url}/log"


def measure(folder: Path, *, full: bool) -> dict[str, Any]:
    """One audit in a process of its own: user CPU seconds, the wall clock's, and the most memory it had."""
    with served(folder) as url, (folder / "report.json").open("wb") as output:
        code = _FULL_INSTALL if full else _BASE_INSTALL
        command = [sys.executable, "-c", code, "audit", url, "--json", "--vkey", str(folder / "vkey")]
        began = time.monotonic()
        process = subprocess.Popen([*command, "--token-file", str(folder / "token")], stdout=output)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - began
    report = json.loads((folder / "report.json").read_text())
    (log,) = report["logs"]
    if process.returncode or not report["holds"] or log["findings"]:
        raise RuntimeError(f"the log does not hold: {log['findings'][:3]}")
    return {
        "entries": log["size"],
        "decisions": log["decisions_rerun"],
        "user_seconds": usage.ru_utime,
        "system_seconds": usage.ru_stime,
        "wall_seconds": seconds,
        "peak_mib": usage.ru_maxrss / 1024,
    }


def run(count: int, rounds: int) -> dict[str, Any]:
    """Everything, and the medians."""
    small, large = WORK / "audit-small", WORK / "audit-large"
    for folder, size in ((small, count // 4), (large, count)):
        print(f"Writing a log of {size:,} entries ...", file=sys.stderr, flush=True)
        publish(folder, size)
    rows: dict[str, list[dict[str, Any]]] = {"base": [], "full": [], "small": []}
    for _ in range(rounds):
        rows["base"].append(measure(large, full=False))
        rows["full"].append(measure(large, full=True))
        rows["small"].append(measure(small, full=False))
    rate = {
        name: statistics.median(row["entries"] / row["user_seconds"] for row in rows[name]) for name in ("base", "full")
    }
    for folder in (small, large):
        shutil.rmtree(folder)
    return {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "machine": host.describe(WORK),
        "callers": CALLERS,
        "entries_a_user_second": rate,
        "bytes_an_entry": 1024**2
        * statistics.median(
            (big["peak_mib"] - little["peak_mib"]) / (big["entries"] - little["entries"])
            for big, little in zip(rows["base"], rows["small"], strict=True)
        ),
        "target": TARGET,
        "met": rate["base"] >= TARGET,
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder that they are written to")
    given = parser.parse_args()
    result = run(given.entries, given.rounds)
    given.results.mkdir(exist_ok=True)
    (given.results / "audit.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({name: value for name, value in result.items() if name != "rows"}, indent=1))


if __name__ == "__main__":
    main()
